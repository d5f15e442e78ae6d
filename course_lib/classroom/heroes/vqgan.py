"""Chapter 04 opens with images that the transformer wrote code by code, each asked for in words."""

import torch

from course_lib.classroom.figures import show_images
from course_lib.data import COLOURS, IMAGE_JUDGE
from course_lib.papers.vqgan import sample_codes
from course_lib.training import load_checkpoint
from course_lib.training.recipes.vqgan import class_token
from course_lib.world import VOCABULARY


def show() -> None:
    """Sample eight images, and say what the judge reads and what both stages cost to train."""
    tokenizer, tokenizer_made = load_checkpoint("vqgan-gan")
    prior, prior_made = load_checkpoint("vqgan-prior")

    kinds = torch.tensor([0, 12, 18, 28, 3, 9, 21, 31])  # 8 shape + colour
    rng = torch.Generator().manual_seed(4)
    codes = sample_codes(prior, class_token(kinds), (8, 8), temperature=0.8, generator=rng)
    with torch.no_grad():
        images = tokenizer.decode_indices(codes).clamp(-1, 1)
    show_images(
        images,
        [_in_words(kind) for kind in kinds.tolist()],
        columns=4,
        cell=110,
        title="Asked for, and drawn code by code",
        alt="Eight images that this chapter's transformer drew, each with the words it was given.",
    )

    judge, _ = load_checkpoint(IMAGE_JUDGE)
    read = judge.read(images)
    as_asked = (read["shape"] == kinds // COLOURS) & (read["colour"] == kinds % COLOURS)
    print(f"chapter 02's judge reads {int(as_asked.sum())} of the 8 as they were asked for")

    minutes = [made["seconds"] / 60 for made in (tokenizer_made, prior_made)]
    print(
        f"tokenizer: {minutes[0]:.0f} minutes on {tokenizer_made['device']};"
        f" transformer: {minutes[1]:.0f} minutes"
    )


def _in_words(kind: int) -> str:
    return f"{VOCABULARY['colour'][kind % 8]} {VOCABULARY['shape'][kind // 8]}"
