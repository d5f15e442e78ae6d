"""The axis alphabet of the course, and the tensor types that use it.

Signatures carry jaxtyping annotations such as ``Float[Tensor, "b c h w"]``.  They cost nothing in a
notebook; under pytest they are checked at every call.  The letters mean the same thing everywhere:

    b  batch          t  time (frames), or a diffusion step as an argument on its own
    h  height         w  width           c  channels
    n  tokens         d  width of a token k  codes in a codebook
"""

from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

Batch = Float[Tensor, "b ..."]  # samples of any shape: images, clips, points in the plane
PerSample = Float[Tensor, " b"]  # one number per sample
Steps = Int[Tensor, " b"]  # one diffusion step per sample
Table = Float[Tensor, " steps"]  # one number per diffusion step

__all__ = [
    "Batch",
    "Bool",
    "Float",
    "Int",
    "PerSample",
    "Shaped",
    "Steps",
    "Table",
    "Tensor",
    "UInt8",
]
