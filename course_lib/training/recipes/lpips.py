"""The small trunk of LPIPS: what a network must see to read the little world, and to tell
photographs apart.

Half of the pictures are the little world's, with its labels; the other half are patches of
scikit-image's photographs at several scales, to be told which photograph they are of and which way
they are turned, so that the trunk is not blind to natural texture.  Half of all pictures have their
colours mixed, so that it has to look at shapes as well.

`measure` asks what LPIPS is for (arXiv 1801.03924, Figure 1): of two distortions with exactly equal
mean squared error, which looks closer to the original?  L2 cannot say, by construction.  The right
answers are ours, by design, and no human's: that a picture moved or lit a little looks closer than
one blurred or strewn with noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
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

# of the little world
LABELS = {"shape": 4, "colour": 8, "scale": 2, "material": 2, "count": 3, "floor": 4}
TURNS = 4
HEADS = LABELS | {"photo": len(TRAIN_PHOTOS), "turn": TURNS}


class TrunkTrainable(Trainable):
    """The trunk with a linear head per label on its last tap; the heads are not kept."""

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
        seen = torch.cat([last.mean((2, 3)), last.amax((2, 3))], dim=1)  # b 2*c
        losses = [
            F.cross_entropy(head(seen), batch[k], ignore_index=-1, reduction="sum")
            for k, head in self.heads.items()
        ]
        return sum(losses) / len(seen)


def augment(batch: dict[str, Tensor], rng: RandomSource) -> dict[str, Tensor]:
    """The batch as floats (b c h w) in [-1, 1], changed at random; a label of -1 does not count.

    Photographs turn by quarters (`turn` says how often), all pictures flip, move by up to 3 pixels,
    and change brightness and contrast; half of them have their colour channels mixed and lose the
    label colour.
    """
    x, b = pixels_to_float(batch["pixels"]), len(batch["pixels"])
    is_photo = batch["photo"] >= 0
    flip = rng.rand(b) < 0.5
    x = torch.where(flip.view(-1, 1, 1, 1), x.flip(-1), x)
    turn = rng.randint(0, TURNS, b).where(is_photo, torch.zeros_like(batch["photo"]))
    x = torch.stack(
        [picture.rot90(int(times), (1, 2)) for picture, times in zip(x, turn, strict=True)]
    )
    size, padded = x.shape[-1], F.pad(x, (3, 3, 3, 3), mode="reflect")
    moves = rng.randint(0, 7, b, 2).tolist()
    x = torch.stack(
        [p[:, i : i + size, j : j + size] for p, (i, j) in zip(padded, moves, strict=True)]
    )
    mixed = rng.rand(b) < 0.5
    mixing = rng.rand(b, 3, 3)
    mixing = mixing / mixing.sum(2, keepdim=True)  # grey stays as it is
    mixing = torch.where(mixed.view(-1, 1, 1), mixing, torch.eye(3).to(x))
    x = torch.einsum("bdc,bchw->bdhw", mixing, x)
    gain, offset = 0.6 + 0.6 * rng.rand(b, 1, 1, 1), 0.4 * rng.rand(b, 1, 1, 1) - 0.2
    return batch | {
        "pixels": (gain * x + offset).clamp(-1, 1),
        "turn": turn.masked_fill(~is_photo, -1),
        "colour": batch["colour"].masked_fill(mixed, -1),
    }


# ---------------------------------------------------------------- is it the distance that LPIPS is meant to be?


def distortions(x: Tensor, rng: RandomSource) -> dict[str, Tensor]:
    """Four versions of pictures (b c h w), each at the same mean squared error from its original.

    shift: by one pixel, sideways or down. light: everything brighter, or darker. blur: Gaussian.
    noise: white. The mean squared error is the shift's; x should leave room to the ends of [-1, 1].
    """
    b = len(x)
    sideways = (rng.rand(b) < 0.5).view(-1, 1, 1, 1)
    padded = F.pad(x, (1, 0, 1, 0), mode="replicate")
    shifted = torch.where(sideways, padded[..., 1:, :-1], padded[..., :-1, 1:])
    error = (shifted - x).square().mean((1, 2, 3), keepdim=True)  # b 1 1 1
    noise = rng.randn_like(x)
    noise = noise * (error / noise.square().mean((1, 2, 3), keepdim=True)).sqrt()
    light = torch.where(x.mean((1, 2, 3), keepdim=True) > 0, -1, 1) * error.sqrt()
    low, high = torch.full((b,), 0.1).to(x), torch.full((b,), 8.0).to(x)
    for _ in range(12):  # halve the interval of the Gaussian's width until the error is right
        width = (low + high) / 2
        too_much = (blurred(x, width) - x).square().mean((1, 2, 3)) > error.flatten()
        low, high = torch.where(too_much, low, width), torch.where(too_much, width, high)
    change = blurred(x, (low + high) / 2) - x
    # the rest
    change = (
        change * (error / change.square().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)).sqrt()
    )
    return {"shift": shifted, "light": x + light, "blur": x + change, "noise": x + noise}


def blurred(x: Tensor, width: Tensor) -> Tensor:
    """Pictures (b c h w), each blurred by a Gaussian of its own width (b,) in pixels."""
    size = x.shape[-1]
    place = torch.arange(-8, 9).to(x)
    kernel = (-0.5 * (place / width[:, None]) ** 2).softmax(1)  # b 17
    channels = kernel.repeat_interleave(x.shape[1], 0)[:, None]  # b*c 1 17
    flat = F.pad(x, (8, 8, 8, 8), mode="reflect").flatten(0, 1)[None]  # 1 b*c h w
    flat = F.conv2d(flat, channels[..., None], groups=flat.shape[1])
    flat = F.conv2d(flat, channels[..., None, :], groups=flat.shape[1])
    return flat.view(len(x), -1, size, size)


# (nearer, farther): what moves a picture, or lights it, keeps what is in it
ANSWERS = (("shift", "blur"), ("shift", "noise"), ("light", "blur"), ("light", "noise"))


@torch.no_grad()
def right_choices(distance: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> dict[str, float]:
    """The share of pictures (b c h w) for which `distance` is right about each pair of distortions,
    and the mean.
    """
    versions = distortions(x, RandomSource(0, x.device))
    far = {name: distance(version.clamp(-1, 1), x) for name, version in versions.items()}
    shares = {
        f"{near} before {other}": float((far[near] < far[other]).float().mean())
        for near, other in ANSWERS
    }
    return {"all": sum(shares.values()) / len(shares), **shares}


@dataclass(frozen=True)
class TrunkRecipe(Recipe):
    """The small trunk, with as many pictures of the world as patches of photographs."""

    lr_schedule: LRSchedule = "linear"
    pictures: int = 12_000  # of the world, and as many patches

    def build(self) -> TrunkTrainable:
        return TrunkTrainable(LPIPS("small"))

    def data(self) -> Tensors:
        n = self.pictures
        alone, several = images("train", n // 2), images("train", n - n // 2, count=(2, 3))
        world = {name: torch.cat([alone[name], several[name]]) for name in alone}
        photos = photo_patches(TRAIN_PHOTOS, n)
        # nothing says which one shape, colour, scale and material are of
        crowded = world["count"] > 0
        about_one = ("shape", "colour", "scale", "material")
        labels = {
            k: world[k].masked_fill(crowded, -1) if k in about_one else world[k] for k in LABELS
        }
        labels = {k: torch.cat([x, torch.full((n,), -1)]) for k, x in labels.items()}
        photo = torch.cat([torch.full((n,), -1), photos["photo"]])
        return Tensors(pixels=torch.cat([world["pixels"], photos["pixels"]]), photo=photo, **labels)

    def measure(self, model: LPIPS) -> dict:
        """Right choices between distortions of equal squared error: the trunk's, five untrained
        trunks' and SSIM's.

        L2's share is a half, whatever the pictures.
        """
        device = next(model.parameters()).device
        untrained = [LPIPS("small").to(device) for _ in range(5)]
        found: dict = {}
        for kind, pixels in (
            ("world", images("test", 300, count=(1, 2, 3))["pixels"]),
            ("photographs", photo_patches(TEST_PHOTOS, 300, seed=1)["pixels"]),
        ):
            x = 0.6 * pixels_to_float(pixels).to(device)  # room for noise and light
            shares = {
                "small trunk": right_choices(model, x),
                "SSIM": right_choices(lambda a, b: -ssim(a, b), x),
            }
            shares |= {
                f"untrained {i}": right_choices(other, x) for i, other in enumerate(untrained)
            }
            found[f"{kind}: right choices"] = shares["small trunk"]["all"]
            found[f"{kind}: right choices, untrained"] = fmean(
                shares[f"untrained {i}"]["all"] for i in range(5)
            )
            found[f"{kind}: right choices, SSIM"] = shares["SSIM"]["all"]
            found[kind] = shares
        return found


RECIPES = [
    TrunkRecipe(
        LPIPS_TRUNK, steps=6000, batch_size=64, learning_rate=2e-3, warmup=200, ema=0.99, weight_decay=0.01,
        checkpoint_dtype="float16",
    )
]  # fmt: skip
