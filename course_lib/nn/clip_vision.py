"""CLIP's image tower: an image to one vector.  Radford et al., 2021, arXiv 2103.00020, section 2.4.

It is ViT (`papers/vit.py`) with a norm before the first layer, patches without a bias, and a
projection of the class token into the space where images are near their captions.  OpenCLIP's
ViT-H/14 (Cherti et al., 2022, arXiv 2212.07143) tells Stable Video Diffusion what its first frame
shows.  `prepare_image` is how that model shows an image to it: squeezed into a square, where CLIP
itself would keep the sides' ratio and crop the middle.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from course_lib.nn.clip_block import NORM_EPS, Block, Gelu, require_shape
from course_lib.shapes import Float, Tensor

# Of the 400 million images that CLIP was trained on, in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class CLIPVisionConfig:
    """The tower's shape.  Defaults: OpenCLIP's ViT-H/14."""

    image_size: int = 224  # pixels on a side
    patch_size: int = 14  # pixels on a side
    channels: int = 3
    width: int = 1280
    depth: int = 32
    heads: int = 16
    mlp: int = 5120  # width of the MLP's hidden layer
    projection: int = 1024  # width of what comes out
    gelu: Gelu = "exact"

    def __post_init__(self):
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size: expected a divisor of {self.image_size}, got {self.patch_size}"
            )
        require_shape(self.width, self.heads, self.gelu)

    @property
    def tokens(self) -> int:
        """Length of the sequence: the patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


CLIP_VISION_CONFIGS = {"CLIP-ViT-H": CLIPVisionConfig()}


class CLIPVision(nn.Module):
    """The image tower and its projection."""

    def __init__(self, config: CLIPVisionConfig):
        super().__init__()
        self.config = c = config
        self.patch_embed = nn.Conv2d(c.channels, c.width, c.patch_size, c.patch_size, bias=False)
        self.cls_token = nn.Parameter(torch.randn(c.width) * c.width**-0.5)
        self.positions = nn.Parameter(torch.randn(c.tokens, c.width) * c.width**-0.5)
        self.norm_in = nn.LayerNorm(c.width, NORM_EPS)
        self.blocks = nn.ModuleList(
            Block(c.width, c.heads, c.mlp, c.gelu, c.depth, causal=False) for _ in range(c.depth)
        )
        self.norm_out = nn.LayerNorm(c.width, NORM_EPS)
        self.projection = nn.Linear(c.width, c.projection, bias=False)
        nn.init.normal_(self.projection.weight, std=c.width**-0.5)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b projection"]:
        """Return each image's vector; its pixels are as `prepare_image` leaves them."""
        side = self.config.image_size
        if image.shape[2:] != (side, side):
            raise ValueError(
                f"expected images of ({side}, {side}) pixels, got {tuple(image.shape[2:])}"
            )
        patches = rearrange(self.patch_embed(image), "b d h w -> b (h w) d")
        token = repeat(self.cls_token, "d -> b 1 d", b=len(image))
        x = torch.cat([token, patches], dim=1) + self.positions  # b n d
        x = self.norm_in(x)
        for block in self.blocks:
            x = block(x)  # b n d
        return self.projection(self.norm_out(x[:, 0]))  # b projection


# ---------------------------------------------------------------- showing it an image


def prepare_image(
    image: Float[Tensor, "b c h w"], size: int = 224
) -> Float[Tensor, "b c size size"]:
    """Squeeze images in [-1, 1] into a square and normalize them, as Stable Video Diffusion does.

    They are blurred as far as they will shrink, resized bicubically, corners on corners, and given
    CLIP's mean and deviation.
    """
    squeezed = F.interpolate(
        blur_for(image, size), (size, size), mode="bicubic", align_corners=True
    )
    mean, std = (
        rearrange(torch.tensor(numbers).to(image), "c -> c 1 1") for numbers in (MEAN, STD)
    )
    return ((squeezed + 1) / 2 - mean) / std


def blur_for(image: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c h w"]:
    """Blur with a Gaussian against aliasing in a square of `size` pixels.

    A side that becomes f times smaller is blurred with deviation (f - 1) / 2, in a window of two
    deviations on either side, mirrored at the edge.  Raises ValueError for an image with a side of
    one pixel, which has nothing to mirror.
    """
    if min(image.shape[2:]) < 2:
        raise ValueError(
            f"expected an image of at least 2 pixels on a side, got {tuple(image.shape[2:])}"
        )
    for axis in (3, 2):
        deviation = max((image.shape[axis] / size - 1) / 2, 0.001)
        radius = int(max(4 * deviation, 3)) // 2
        places = torch.arange(-radius, radius + 1).to(image)  # window
        weights = torch.exp(-places.square() / (2 * deviation**2))  # window
        kernel = repeat(weights / weights.sum(), "k -> c 1 1 k", c=image.shape[1])
        if axis == 3:
            padded = F.pad(image, (radius, radius, 0, 0), mode="reflect")
        else:
            padded = F.pad(image, (0, 0, radius, radius), mode="reflect")
            kernel = rearrange(kernel, "c 1 1 k -> c 1 k 1")
        image = F.conv2d(padded, kernel, groups=image.shape[1])  # b c h w
    return image
