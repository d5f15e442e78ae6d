"""Import torchvision where its PyPI wheel meets a CPU-only torch.

That torchvision is built for CUDA, and its compiled half does not load when torch has no CUDA.  The
Python half would be enough, but it registers shape rules for two operators, ``torchvision::nms``
and ``torchvision::qnms``, which then do not exist, and the import stops.  Declaring the two
operators first is enough.  lpips, transformers and diffusers all import torchvision, so call this
before any of them.
"""

import importlib
from types import ModuleType

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared = []  # a torch Library withdraws its operators when it is garbage collected


def import_torchvision() -> ModuleType:
    """Import torchvision, declaring its missing operators if the import needs that.

    Nothing is changed where torchvision imports without help.  Any other failure to import is
    raised as it is.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error) or _declared:
            raise
    from torch.library import Library

    library = Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + _SIGNATURE)
    _declared.append(library)
    return importlib.import_module("torchvision")
