"""LPIPS: how different two pictures look, as the distance of what a trained network sees in them.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", arXiv 1801.03924, Eq. 1:

    d(x, y) = sum over taps l of  mean over positions of  sum over channels c of  w_lc (f_lc(x) -
    f_lc(y))^2

f_l are the activations of a trunk at tap l, made unit vectors along the channels.  The trunks:

    "alex", "vgg"   AlexNet and VGG16 with five taps each, as in the official code (`lpips`, version 0.1)
    "small"         four convolutions for pictures of about 32 pixels, trained by the recipe `lpips-trunk`

A new LPIPS is untrained; `course_lib.metrics.perceptual()` gives one with the official weights or
the course's.

Differs from the paper / the official code in
- the paper's Eq. 1 squares w with the difference; here, as in the code, w multiplies the squared
  difference;
- "small" has no human judgements to fit w to: its w are all one number, which makes the distance
  the mean over the taps.  Table 5 has this unweighted distance too (AlexNet agrees with 68.9 % of
  human choices, with fitted weights 69.8 %).
"""

import torch
from torch import nn

from course_lib.shapes import Float, PerSample, Tensor

# ImageNet's mean and deviation, for [-1, 1]
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
TOLERANCE = 1e-3  # how far outside [-1, 1] rounding may lead
EPS = 1e-10  # added to the norm, outside the root

Image = Float[Tensor, "b 3 h w"]


class LPIPS(nn.Module):
    """The distance, on a frozen trunk: `lpips(x, y)` -> (b,) measures, `lpips.loss(reconstruction,
    reference)` trains.

    Pictures are in [-1, 1].  The two mistakes of everyone's first day: bytes (0 to 255) are
    refused, but a picture in [0, 1] cannot be told from a bright one in [-1, 1], so nothing warns
    you; its distances come out too small.
    """

    def __init__(self, trunk: str = "small"):
        super().__init__()
        if trunk not in TRUNKS:
            raise ValueError(f"trunk: expected one of {', '.join(TRUNKS)}, got {trunk!r}")
        # a sentence for the reader
        self.trunk, self.origin = trunk, "LPIPS on a trunk that nothing has trained."
        self.stages = nn.ModuleList(TRUNKS[trunk]())
        widths = [
            [m.out_channels for m in stage if isinstance(m, nn.Conv2d)][-1] for stage in self.stages
        ]
        uniform = 1 / len(widths)
        self.weights = nn.ParameterList(torch.full((width,), uniform) for width in widths)
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).to(memory_format=torch.channels_last)  # a third faster on a CPU

    def forward(self, x: Image, y: Image) -> PerSample:
        """d(x, y) for each pair, symmetric.  ValueError for a picture outside [-1, 1]."""
        check_range(x, "x")
        check_range(y, "y")
        return self._distance(self.features(x), self.features(y))

    def loss(self, reconstruction: Image, reference: Image) -> PerSample:
        """d(x, y) for training: the reference must be in [-1, 1], a decoder's raw output may
        overshoot.

        As in the official code it is not clamped, so that what overshoots has a gradient that
        brings it back.  The reference's features have none.
        """
        check_range(reference, "reference")
        with torch.no_grad():
            wanted = self.features(reference)
        return self._distance(self.features(reconstruction), wanted)

    def features(self, image: Image) -> list[Float[Tensor, "b c h_l w_l"]]:
        """The activations of every tap, after the scaling layer; not yet unit vectors."""
        taps = [((image - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)]
        for stage in self.stages:
            taps.append(stage(taps[-1]))
        return taps[1:]

    def _distance(self, ours: list[Tensor], theirs: list[Tensor]) -> PerSample:
        taps = []
        for a, b, w in zip(ours, theirs, self.weights, strict=True):
            difference = (normalize_channels(a) - normalize_channels(b)).square()  # b c h w
            taps.append(torch.einsum("bchw,c->b", difference, w) / (a.shape[2] * a.shape[3]))
        return torch.stack(taps).sum(0)


def normalize_channels(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """x / (|x| + 1e-10), the norm taken over the channels.

    Where all channels are 0, as after a ReLU they may be, the root has no gradient; the clamp gives
    it 0, not nan.
    """
    return x / (x.square().sum(1, keepdim=True).clamp_min(1e-30).sqrt() + EPS)


def check_range(image: Tensor, name: str) -> None:
    """ValueError unless a picture's values are in [-1, 1], give or take rounding."""
    low, high = (float(value) for value in image.detach().aminmax())
    if not (low >= -1 - TOLERANCE and high <= 1 + TOLERANCE):  # so that nan is refused too
        advice = " Bytes become floats in [-1, 1] by x / 127.5 - 1." if high > 2 else ""
        raise ValueError(
            f"{name}: expected a picture in [-1, 1], got values from {low:.4g} to"
            f" {high:.4g}.{advice}"
        )


# ---------------------------------------------------------------- trunks: lists of stages, a tap after each


def conv_relu(
    c_in: int, c_out: int, kernel: int = 3, stride: int = 1, padding: int = 1
) -> list[nn.Module]:
    """A convolution and its ReLU (not in place: the tap before it is still needed)."""
    return [nn.Conv2d(c_in, c_out, kernel, stride, padding), nn.ReLU()]


def alex_trunk() -> list[nn.Sequential]:
    """AlexNet as torchvision has it, to its fifth ReLU."""
    pool = nn.MaxPool2d(3, 2)
    return [
        nn.Sequential(*conv_relu(3, 64, kernel=11, stride=4, padding=2)),
        nn.Sequential(pool, *conv_relu(64, 192, kernel=5, padding=2)),
        nn.Sequential(pool, *conv_relu(192, 384)),
        nn.Sequential(*conv_relu(384, 256)),
        nn.Sequential(*conv_relu(256, 256)),
    ]


def vgg_trunk() -> list[nn.Sequential]:
    """VGG16 to relu5_3; the taps are relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3."""
    pool = nn.MaxPool2d(2)
    return [
        nn.Sequential(*conv_relu(3, 64), *conv_relu(64, 64)),
        nn.Sequential(pool, *conv_relu(64, 128), *conv_relu(128, 128)),
        nn.Sequential(pool, *conv_relu(128, 256), *conv_relu(256, 256), *conv_relu(256, 256)),
        nn.Sequential(pool, *conv_relu(256, 512), *conv_relu(512, 512), *conv_relu(512, 512)),
        nn.Sequential(pool, *conv_relu(512, 512), *conv_relu(512, 512), *conv_relu(512, 512)),
    ]


def small_trunk() -> list[nn.Sequential]:
    """Four convolutions, 97,440 parameters: at 32 pixels a loss of 16 pictures and its gradient
    take some 10 ms.
    """
    pool = nn.MaxPool2d(2)
    return [
        nn.Sequential(*conv_relu(3, 16)),
        nn.Sequential(pool, *conv_relu(16, 32)),
        nn.Sequential(pool, *conv_relu(32, 64)),
        nn.Sequential(pool, *conv_relu(64, 128)),
    ]


TRUNKS = {"alex": alex_trunk, "vgg": vgg_trunk, "small": small_trunk}
