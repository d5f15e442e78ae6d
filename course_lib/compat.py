"""One cure for one trap: torchvision's PyPI wheel beside a CPU-only torch.

That torchvision is built for CUDA, and its compiled half does not load when torch has no CUDA.  Its
Python half would do, but registers shape rules for two operators, ``torchvision::nms`` and
``torchvision::qnms``, which then do not exist, and the import stops.  Declaring the two operators
is enough.  lpips, transformers and diffusers all import torchvision, so call this before any of
them.
"""

import importlib
from types import ModuleType

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared = []  # a torch Library withdraws its operators when it is garbage collected


def import_torchvision() -> ModuleType:
    """torchvision, imported; its missing operators are declared first where its import needs that.

    Where torchvision imports by itself nothing is changed.  Any other failure to import is raised
    as it is.
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
