"""The small trunk of LPIPS, which reads the little world and tells photographs apart.

Half of the images are the little world's, with its labels; the other half are patches of
scikit-image's photographs at several scales, of which it learns to say which photograph they are of
and which way they are turned, so that the trunk is not blind to natural texture.  Half of all
images have their colours mixed, so that it has to look at shapes as well.

`measure` asks what LPIPS is for (arXiv 1801.03924, Figure 1): of two distortions with exactly equal
mean squared error, which looks closer to the original?  L2 cannot say, by construction.  The right
answers are ours, by design, and no human's: that an image that was shifted or lit a little looks
closer than one that was blurred or covered with noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.data import LPIPS_TRUNK, TEST_PHOTOS, TRAIN_PHOTOS, images, photo_patches
from course_lib.losses.perceptual import LPIPS
from course_lib.metrics.fidelity import ssim
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.world import pixels_to_float

# How many values each label has: those of the little world, and those of photographs.
WORLD_LABELS = {"shape": 4, "colour": 8, "scale": 2, "material": 2, "count": 3, "floor": 4}
QUARTER_TURNS = 4
HEADS = WORLD_LABELS | {"photo": len(TRAIN_PHOTOS), "turn": QUARTER_TURNS}


class TrunkTrainable(Trainable):
    """The trunk with a linear head for each label after its last tap; the heads are not kept."""

    model: LPIPS

    def __init__(self, model: LPIPS):
        super().__init__()
        self.model = model
        model.stages.requires_grad_(True)
        width = len(model.weights[-1])
        self.heads = nn.ModuleDict(
            {name: nn.Linear(2 * width, values) for name, values in HEADS.items()}
        )

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        batch = augment(batch, rng)
        last = self.model.features(batch["pixels"])[-1]  # b c h w
        pooled = torch.cat([last.mean((2, 3)), last.amax((2, 3))], dim=1)  # b 2*c
        losses = [
            F.cross_entropy(head(pooled), batch[name], ignore_index=-1, reduction="sum")
            for name, head in self.heads.items()
        ]
        return reduce(torch.add, losses) / len(pooled)


def augment(batch: dict[str, Tensor], rng: RandomSource) -> dict[str, Tensor]:
    """Return the batch as floats (b c h w) in [-1, 1], changed at random.

    Photographs are turned by quarters (`turn` says how often); all images are flipped, shifted by
    up to 3 pixels, and changed in brightness and contrast; half of them have their colour channels
    mixed and lose the label colour.  A label of -1 does not count.
    """
    x = pixels_to_float(batch["pixels"])
    b = len(x)
    is_photo = batch["photo"] >= 0

    flip = rng.rand(b) < 0.5
    x = torch.where(flip.view(-1, 1, 1, 1), x.flip(-1), x)

    turn = rng.randint(0, QUARTER_TURNS, b).where(is_photo, torch.zeros_like(batch["photo"]))
    turned = [image.rot90(int(times), (1, 2)) for image, times in zip(x, turn, strict=True)]
    x = torch.stack(turned)

    size = x.shape[-1]
    padded = F.pad(x, (3, 3, 3, 3), mode="reflect")
    corners = rng.randint(0, 7, b, 2).tolist()
    shifted = [
        image[:, top : top + size, left : left + size]
        for image, (top, left) in zip(padded, corners, strict=True)
    ]
    x = torch.stack(shifted)

    mixed = rng.rand(b) < 0.5
    mixing = rng.rand(b, 3, 3)
    mixing = mixing / mixing.sum(2, keepdim=True)  # so that grey stays as it is
    mixing = torch.where(mixed.view(-1, 1, 1), mixing, torch.eye(3).to(x))
    x = torch.einsum("bdc,bchw->bdhw", mixing, x)

    gain = 0.6 + 0.6 * rng.rand(b, 1, 1, 1)
    offset = 0.4 * rng.rand(b, 1, 1, 1) - 0.2
    return batch | {
        "pixels": (gain * x + offset).clamp(-1, 1),
        "turn": turn.masked_fill(~is_photo, -1),
        "colour": batch["colour"].masked_fill(mixed, -1),
    }


# ----------------------------------------------------- whether it is the distance that LPIPS is for


def distortions(x: Tensor, rng: RandomSource) -> dict[str, Tensor]:
    """Return four versions of images (b c h w), all at the same mean squared error from them.

    `shift` is by one pixel, sideways or down; `light` is brighter or darker everywhere; `blur` is
    Gaussian; `noise` is white.  The mean squared error is the shift's.  x should leave room to the
    ends of [-1, 1].
    """
    b = len(x)
    sideways = (rng.rand(b) < 0.5).view(-1, 1, 1, 1)
    padded = F.pad(x, (1, 0, 1, 0), mode="replicate")
    shifted = torch.where(sideways, padded[..., 1:, :-1], padded[..., :-1, 1:])
    error = (shifted - x).square().mean((1, 2, 3), keepdim=True)  # b 1 1 1

    noise = rng.randn_like(x)
    noise = noise * (error / noise.square().mean((1, 2, 3), keepdim=True)).sqrt()
    light = torch.where(x.mean((1, 2, 3), keepdim=True) > 0, -1, 1) * error.sqrt()

    # Bisect the Gaussian's width until the error is nearly right, then scale what is left of it.
    low = torch.full((b,), 0.1).to(x)
    high = torch.full((b,), 8.0).to(x)
    for _ in range(12):
        width = (low + high) / 2
        too_much = (blurred(x, width) - x).square().mean((1, 2, 3)) > error.flatten()
        low = torch.where(too_much, low, width)
        high = torch.where(too_much, width, high)
    blur = blurred(x, (low + high) / 2) - x
    blur_error = blur.square().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
    blur = blur * (error / blur_error).sqrt()
    return {"shift": shifted, "light": x + light, "blur": x + blur, "noise": x + noise}


def blurred(x: Tensor, width: Tensor) -> Tensor:
    """Blur each of the images (b c h w) by a Gaussian of its own width (b,) in pixels."""
    size = x.shape[-1]
    place = torch.arange(-8, 9).to(x)
    kernel = (-0.5 * (place / width[:, None]) ** 2).softmax(1)  # b 17
    channels = kernel.repeat_interleave(x.shape[1], 0)[:, None]  # b*c 1 17
    flat = F.pad(x, (8, 8, 8, 8), mode="reflect").flatten(0, 1)[None]  # 1 b*c h w
    flat = F.conv2d(flat, channels[..., None], groups=flat.shape[1])
    flat = F.conv2d(flat, channels[..., None, :], groups=flat.shape[1])
    return flat.view(len(x), -1, size, size)


# Pairs of (nearer, farther): shifting or lighting an image keeps what is in it.
NEARER_FARTHER = (("shift", "blur"), ("shift", "noise"), ("light", "blur"), ("light", "noise"))


@torch.no_grad()
def right_choices(distance: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> dict[str, float]:
    """Return the share of images (b c h w) for which `distance` is right about two distortions.

    There is a share for each pair of NEARER_FARTHER, and their mean as `all`.
    """
    versions = distortions(x, RandomSource(0, x.device))
    distances = {name: distance(version.clamp(-1, 1), x) for name, version in versions.items()}
    shares = {}
    for nearer, farther in NEARER_FARTHER:
        right = distances[nearer] < distances[farther]
        shares[f"{nearer} before {farther}"] = float(right.float().mean())
    return {"all": sum(shares.values()) / len(shares), **shares}


@dataclass(frozen=True)
class TrunkRecipe(Recipe):
    """The small trunk, with as many images of the world as patches of photographs."""

    lr_schedule: LRSchedule = "linear"
    pictures: int = 12_000  # of the world; there are as many patches

    def build(self) -> TrunkTrainable:
        return TrunkTrainable(LPIPS("small"))

    def data(self) -> Tensors:
        n = self.pictures
        single = images("train", n // 2)
        multi = images("train", n - n // 2, count=(2, 3))
        world = {name: torch.cat([single[name], multi[name]]) for name in single}
        photos = photo_patches(TRAIN_PHOTOS, n)
        # Among several objects, nothing says which one these labels are of.
        is_multi = world["count"] > 0
        for name in ("shape", "colour", "scale", "material"):
            world[name] = world[name].masked_fill(is_multi, -1)
        unknown = torch.full((n,), -1)
        labels = {name: torch.cat([world[name], unknown]) for name in WORLD_LABELS}
        photo = torch.cat([unknown, photos["photo"]])
        return Tensors(pixels=torch.cat([world["pixels"], photos["pixels"]]), photo=photo, **labels)

    def measure(self, model: LPIPS) -> dict:
        """Measure right choices between distortions of equal squared error.

        They are the trunk's, those of five untrained trunks, and SSIM's.  L2's share is a half,
        whatever the images.
        """
        device = next(model.parameters()).device
        untrained = [LPIPS("small").to(device) for _ in range(5)]
        measured: dict = {}
        for kind, pixels in (
            ("world", images("test", 300, count=(1, 2, 3))["pixels"]),
            ("photographs", photo_patches(TEST_PHOTOS, 300, seed=1)["pixels"]),
        ):
            x = 0.6 * pixels_to_float(pixels).to(device)  # leaves room for noise and light
            shares = {
                "small trunk": right_choices(model, x),
                "SSIM": right_choices(lambda a, b: -ssim(a, b), x),
            }
            for i, other in enumerate(untrained):
                shares[f"untrained {i}"] = right_choices(other, x)
            untrained_shares = [shares[f"untrained {i}"]["all"] for i in range(5)]
            measured[f"{kind}: right choices"] = shares["small trunk"]["all"]
            measured[f"{kind}: right choices, untrained"] = fmean(untrained_shares)
            measured[f"{kind}: right choices, SSIM"] = shares["SSIM"]["all"]
            measured[kind] = shares
        return measured


# ---------------------------------------------------------------- the recipe

RECIPES: list[Recipe] = [
    TrunkRecipe(
        LPIPS_TRUNK,
        steps=6000,
        batch_size=64,
        learning_rate=2e-3,
        warmup=200,
        ema=0.99,
        weight_decay=0.01,
        checkpoint_dtype="float16",
    )
]
