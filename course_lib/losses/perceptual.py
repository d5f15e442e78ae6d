"""LPIPS: how different two images look, as the distance of what a trained network sees in them.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", arXiv 1801.03924, Eq. 1:

    d(x, y) = sum over taps l of  mean over positions of  sum over channels c of  w_lc (f_lc(x) -
    f_lc(y))^2

f_l are the activations of a trunk at tap l, normalized to unit vectors along the channels.  The
trunks:

    "alex", "vgg"   AlexNet and VGG16 with five taps each, as in the official code (`lpips`, version
                    0.1)
    "small"         four convolutions for images of about 32 pixels, trained by the recipe
                    `lpips-trunk`

A new LPIPS is untrained; `course_lib.metrics.perceptual()` gives one with the official weights or
the course's.

Differs from the paper and the official code:
- The paper's Eq. 1 squares w with the difference; here, following the code, w multiplies the
  squared difference.
- "small" has no human judgements to fit w to: its w are all one number, which makes the distance
  the mean over the taps.  Table 5 has this unweighted distance too (AlexNet agrees with 68.9 % of
  human choices, with fitted weights 69.8 %).
"""

import torch
from torch import nn

from course_lib.shapes import Float, PerSample, Tensor

SHIFT = (-0.030, -0.088, -0.188)  # ImageNet's mean, for values in [-1, 1]
SCALE = (0.458, 0.448, 0.450)  # its standard deviation
TOLERANCE = 1e-3  # how far outside [-1, 1] rounding may lead
EPS = 1e-10  # added to the norm, outside the root

Image = Float[Tensor, "b 3 h w"]


class LPIPS(nn.Module):
    """The distance on a frozen trunk: call it to measure, use `loss` to train.

    Images are in [-1, 1].  Of the two mistakes that everyone makes on the first day, bytes (0 to
    255) are refused, but an image in [0, 1] cannot be told from a bright one in [-1, 1], so nothing
    warns you; its distances come out too small.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: str = "small"):
        super().__init__()
        if trunk not in TRUNKS:
            raise ValueError(f"trunk: expected one of {', '.join(TRUNKS)}, got {trunk!r}")
        self.trunk = trunk
        self.origin = "LPIPS on a trunk that nothing has trained."  # a sentence for the reader

        stages = TRUNKS[trunk]()
        widths = [convolutions(stage)[-1].out_channels for stage in stages]
        self.stages = nn.ModuleList(stages)
        self.weights = nn.ParameterList(torch.full((width,), 1 / len(widths)) for width in widths)
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1), persistent=False)

        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # a third faster on a CPU

    def forward(self, x: Image, y: Image) -> PerSample:
        """Return d(x, y) for each pair, symmetric.  Raises ValueError outside [-1, 1]."""
        check_range(x, "x")
        check_range(y, "y")
        return self._distance(self.features(x), self.features(y))

    def loss(self, reconstruction: Image, reference: Image) -> PerSample:
        """Return d(x, y) for training: a decoder's raw output may overshoot [-1, 1].

        As in the official code it is not clamped, so that what overshoots has a gradient that
        brings it back.  The reference's features have no gradient.  Raises ValueError for a
        reference outside [-1, 1].
        """
        check_range(reference, "reference")
        with torch.no_grad():
            target = self.features(reference)
        return self._distance(self.features(reconstruction), target)

    def features(self, image: Image) -> list[Float[Tensor, "b c h_l w_l"]]:
        """Return the activations of every tap, after the scaling layer; not yet unit vectors."""
        x = (image - self.shift) / self.scale
        x = x.contiguous(memory_format=torch.channels_last)
        taps = []
        for stage in self.stages:
            x = stage(x)
            taps.append(x)
        return taps

    def _distance(self, ours: list[Tensor], theirs: list[Tensor]) -> PerSample:
        taps = []
        for a, b, w in zip(ours, theirs, self.weights, strict=True):
            difference = (normalize_channels(a) - normalize_channels(b)).square()  # b c h w
            taps.append(torch.einsum("bchw,c->b", difference, w) / (a.shape[2] * a.shape[3]))
        return torch.stack(taps).sum(0)


def normalize_channels(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return x / (|x| + 1e-10), the norm taken over the channels.

    Where all channels are 0, as they may be after a ReLU, the root has no gradient; the clamp gives
    it 0, not nan.
    """
    norm = x.square().sum(1, keepdim=True).clamp_min(1e-30).sqrt()
    return x / (norm + EPS)


def convolutions(layers: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions among these layers, in order."""
    return [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)]


def check_range(image: Tensor, name: str) -> None:
    """Raise ValueError unless an image's values are in [-1, 1], give or take rounding."""
    low, high = (float(value) for value in image.detach().aminmax())
    if not (low >= -1 - TOLERANCE and high <= 1 + TOLERANCE):  # written so that nan is refused too
        advice = " Bytes become floats in [-1, 1] by x / 127.5 - 1." if high > 2 else ""
        raise ValueError(
            f"{name}: expected an image in [-1, 1], got values from {low:.4g} to"
            f" {high:.4g}.{advice}"
        )


# ---------------------------------------------------------------- trunks, a tap after each stage


def conv_relu(
    c_in: int, c_out: int, kernel: int = 3, stride: int = 1, padding: int = 1
) -> list[nn.Module]:
    """Make a convolution and its ReLU (not in place: the tap before it is still needed)."""
    return [nn.Conv2d(c_in, c_out, kernel, stride, padding), nn.ReLU()]


def alex_trunk() -> list[nn.Sequential]:
    """Make AlexNet, as in torchvision, up to its fifth ReLU."""
    pool = nn.MaxPool2d(3, 2)
    return [
        nn.Sequential(*conv_relu(3, 64, kernel=11, stride=4, padding=2)),
        nn.Sequential(pool, *conv_relu(64, 192, kernel=5, padding=2)),
        nn.Sequential(pool, *conv_relu(192, 384)),
        nn.Sequential(*conv_relu(384, 256)),
        nn.Sequential(*conv_relu(256, 256)),
    ]


def vgg_trunk() -> list[nn.Sequential]:
    """Make VGG16 up to relu5_3; the taps are relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3."""
    pool = nn.MaxPool2d(2)
    return [
        nn.Sequential(*conv_relu(3, 64), *conv_relu(64, 64)),
        nn.Sequential(pool, *conv_relu(64, 128), *conv_relu(128, 128)),
        nn.Sequential(pool, *conv_relu(128, 256), *conv_relu(256, 256), *conv_relu(256, 256)),
        nn.Sequential(pool, *conv_relu(256, 512), *conv_relu(512, 512), *conv_relu(512, 512)),
        nn.Sequential(pool, *conv_relu(512, 512), *conv_relu(512, 512), *conv_relu(512, 512)),
    ]


def small_trunk() -> list[nn.Sequential]:
    """Make four convolutions with 97,440 parameters.

    At 32 pixels a loss of 16 images and its gradient take some 10 ms.
    """
    pool = nn.MaxPool2d(2)
    return [
        nn.Sequential(*conv_relu(3, 16)),
        nn.Sequential(pool, *conv_relu(16, 32)),
        nn.Sequential(pool, *conv_relu(32, 64)),
        nn.Sequential(pool, *conv_relu(64, 128)),
    ]


TRUNKS = {"alex": alex_trunk, "vgg": vgg_trunk, "small": small_trunk}
