"""Notebook 06, the last stage: clips of 16 pixels to clips of 32, from tokens to tokens.

`videopoet-superresolution` sees the tokens of the small clip with some of them drawn anew;
`videopoet-superresolution-undisturbed` sees them as they are.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from course_lib import zoo
from course_lib.papers.magvit import masked_places
from course_lib.papers.videopoet_superresolution import (
    SuperResolution,
    masked_token_loss,
    resample,
    shrink,
    super_resolve,
    without,
)
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.training.recipes.cogvideox import captions
from course_lib.training.recipes.cogvideox_t5 import PAD, caption_tokens, embed_captions
from course_lib.training.recipes.cogvideox_vae import movies
from course_lib.training.recipes.judges import read_scenes
from course_lib.training.recipes.magvit import (
    clip_fidelity,
    decode_grids,
    mask_share,
    pixels_to_clip,
)
from course_lib.training.store import load_checkpoint

TOKENIZER = "magvit2-tokenizer"
LABELS = ("shape", "colour", "motion")
# The guidance scales, of text and of the small clip, that are measured.
SCALES = ((4.0, 1.0), (1.0, 1.0), (8.0, 2.0))
SHARES = (0.2, 0.4)  # of the small clip's tokens that are drawn anew when measuring

# ---------------------------------------------------------------- what it is trained on


@lru_cache(maxsize=4)
def token_pairs(tokenizer: str, split: str, n: int) -> dict[str, Tensor]:
    """Return n clips of one thing as tokens of a tokenizer's checkpoint, large and small.

    `codes` (n t h w) of 32 pixels and `low` (n t h2 w2) of 16; `text` (n 27 64), the captions'
    vectors, and `is_text` (n 27), which are words.
    """
    model, _ = load_checkpoint(tokenizer)
    codes, low = [], []
    with torch.no_grad():
        for pixels in movies(split, n)["pixels"].split(32):
            clip = pixels_to_clip(pixels)
            codes.append(model.encode(clip).indices.int())
            low.append(model.encode(shrink(clip)).indices.int())
    sentences = captions(split, n)
    return {
        "codes": torch.cat(codes),
        "low": torch.cat(low),
        "text": embed_captions(sentences),
        "is_text": caption_tokens(sentences) != PAD,
    }


# ---------------------------------------------------------------- training


class SuperResolutionTrainable(Trainable):
    """The masked tokens' loss, on conditions that are disturbed, and dropped now and then."""

    model: SuperResolution

    def __init__(self, model: SuperResolution, recipe: "SuperResolutionRecipe"):
        super().__init__()
        self.model = model
        self.recipe = recipe

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        codes = batch["codes"].long()
        gamma = mask_share(rng)
        masked = masked_places(rng.rand(*codes.flatten(1).shape), gamma).view_as(codes)
        low, is_text = self.conditions(batch, rng)
        return masked_token_loss(self.model, codes, masked, low, batch["text"], is_text)

    def conditions(self, batch: dict[str, Tensor], rng: RandomSource) -> tuple[Tensor, Tensor]:
        """Return the small clip's tokens and which words are seen, as the model is shown them."""
        b = len(batch["low"])
        share = self.recipe.most_resampled * rng.rand(b)
        low = disturb(batch["low"].long(), share, 2**self.model.config.bits, rng)
        drops_low, drops_text = (rng.rand(b) < self.recipe.dropped for _ in range(2))
        return without(self.model.config, low, batch["is_text"], drops_low, drops_text)


def disturb(low: Tensor, share: Tensor, num_codes: int, rng: RandomSource) -> Tensor:
    """Draw a share (b,) of the tokens (b t h w) of each clip anew."""
    others = rng.randint(0, num_codes, *low.shape)
    return resample(low, others, share, rng.rand(*low.shape))


@dataclass(frozen=True)
class SuperResolutionRecipe(Recipe):
    """The tiny masked transformer, on tokens of clips of one thing and their captions."""

    lr_schedule: LRSchedule = "linear"
    preset: str = "videopoet/superresolution-tiny"
    tokenizer: str = TOKENIZER
    clips: int = 4000
    weight_decay: float = 0.045
    dropped: float = 0.1  # how often each condition is
    most_resampled: float = 0.5  # the largest share of the small clip's tokens that is drawn anew
    samples: int = 64  # clips that are drawn and measured

    def build(self) -> SuperResolutionTrainable:
        tokenizer, _ = load_checkpoint(self.tokenizer)
        config = replace(zoo.find(self.preset).config, bits=tokenizer.config.bits)
        return SuperResolutionTrainable(SuperResolution(config), self)

    def data(self) -> Tensors:
        return Tensors(**token_pairs(self.tokenizer, "train", self.clips))

    def measure(self, model: SuperResolution) -> dict:
        """Measure enlarged test clips against the real ones, beside what needs no model.

        The small clip is enlarged as pixels ("bilinear", "bicubic": of the real one; "small
        tokens": of what the tokenizer makes of its tokens, which is all that is left of it);
        "large tokens" is what the tokenizer makes of the real clip, and so the ceiling.
        """
        tokenizer, _ = load_checkpoint(self.tokenizer)
        test = movies("test", self.samples)
        pairs = token_pairs(self.tokenizer, "test", self.samples)
        real = pixels_to_clip(test["pixels"])
        small = shrink(real)
        shown = {
            "bilinear": enlarge(small, "bilinear"),
            "bicubic": enlarge(small, "bicubic"),
            "small tokens": enlarge(decode_grids(tokenizer, pairs["low"].long(), 16), "bilinear"),
            "large tokens": decode_grids(tokenizer, pairs["codes"].long(), 16),
        }
        for text_scale, low_scale in SCALES:
            codes = self.draw(model, pairs, text_scale, low_scale)
            shown[f"guided {text_scale:g} {low_scale:g}"] = decode_grids(tokenizer, codes, 16)
        for share in SHARES:
            disturbed = self.draw(model, pairs, 1.0, 1.0, share)
            shown[f"disturbed {share:g}"] = decode_grids(tokenizer, disturbed, 16)

        measured: dict = {}
        for name, clip in shown.items():
            read = read_scenes(rearrange(clip, "b c t h w -> b t c h w"))
            hits = {label: read[label] == test[label] for label in LABELS}
            measured |= {f"{name} {key}": x for key, x in clip_fidelity(real, clip).items()}
            measured |= {f"{name} {label}": float(x.float().mean()) for label, x in hits.items()}
        return measured

    @torch.no_grad()
    def draw(
        self,
        model: SuperResolution,
        pairs: dict[str, Tensor],
        text_scale: float,
        low_scale: float,
        share: float = 0.0,
        steps: int = 24,
    ) -> Tensor:
        """Draw the large clips' tokens (n t h w), of small ones with a share of them drawn anew."""
        rng = RandomSource(0)
        low = pairs["low"].long()
        low = disturb(low, torch.full((len(low),), share), 2**model.config.bits, rng)
        device = next(model.parameters()).device
        drawn = []
        parts = (low.split(32), pairs["text"].split(32), pairs["is_text"].split(32))
        for part in zip(*parts, strict=True):
            small, text, is_text = (each.to(device) for each in part)
            codes = super_resolve(
                model,
                small,
                text,
                is_text,
                steps,
                text_scale,
                low_scale,
                generator=rng.generator,
            )
            drawn.append(codes.cpu())
        return torch.cat(drawn)


def enlarge(clip: Tensor, mode: str) -> Tensor:
    """Double rows and columns of clips (b c t h w) in [-1, 1]; mode: that of `F.interpolate`."""
    frames = rearrange(clip, "b c t h w -> (b t) c h w")
    large = F.interpolate(frames, scale_factor=2, mode=mode).clamp(-1, 1)
    return rearrange(large, "(b t) c h w -> b c t h w", b=len(clip))


SUPERRESOLUTION = SuperResolutionRecipe(
    "videopoet-superresolution",
    steps=1500,
    batch_size=16,
    learning_rate=1e-3,
    warmup=100,
    ema=0.99,
    precision="bfloat16",
    checkpoint_dtype="float16",
)

RECIPES: list[Recipe] = [
    SUPERRESOLUTION,
    replace(SUPERRESOLUTION, name="videopoet-superresolution-undisturbed", most_resampled=0.0),
]
