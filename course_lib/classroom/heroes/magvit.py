"""Chapter 05 opens with a clip that one network completes for three of its tasks."""

import torch
from einops import rearrange

from course_lib.classroom.clips import show_clip
from course_lib.papers import magvit
from course_lib.training import load_checkpoint
from course_lib.training.recipes.magvit import pixels_to_clip, tokenized_clips
from course_lib.world import float_to_pixels

GIVEN = {"FP": "first frame given", "OPC": "middle given", "IPD": "a moving box missing"}


def show() -> None:
    """Show a test clip, what three tasks leave of it, and what the network makes of each."""
    tokenizer, tokenizer_made = load_checkpoint("magvit-3d")
    transformer, transformer_made = load_checkpoint("magvit-bert")
    test = tokenized_clips("magvit-3d", "test", 16)
    clip = pixels_to_clip(test["pixels"])[3:4]  # 1 c t h w
    label = test["label"][3:4]

    strips = {"the clip": clip[0]}
    for task, given in GIVEN.items():
        completed = magvit.generate(
            tokenizer,
            transformer,
            task,
            clip,
            label,
            steps=12,
            generator=torch.Generator().manual_seed(0),
        )
        kept = magvit.task_mask(task, clip.shape[2:])
        strips[given] = magvit.condition_clip(task, clip)[0]
        strips[f"completed ({task})"] = torch.where(kept, clip, completed)[0]

    pixels = [float_to_pixels(rearrange(strip, "c t h w -> t c h w")) for strip in strips.values()]
    show_clip(
        pixels,
        labels=list(strips),
        frames=8,
        title="One network, several tasks; what was given is put back at the end",
        alt="A clip; what three tasks leave of it; and each completed by the network.",
    )
    minutes = [made["seconds"] / 60 for made in (tokenizer_made, transformer_made)]
    print(
        f"tokenizer: {minutes[0]:.0f} minutes on {tokenizer_made['device']};"
        f" transformer: {minutes[1]:.0f} minutes"
    )
