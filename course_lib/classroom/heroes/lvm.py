"""Chapter 07 opens with one model, and seven tasks that it is shown two examples of."""

import torch

from course_lib.classroom.clips import show_clip
from course_lib.classroom.figures import show_rows
from course_lib.papers.lvm import decode_images
from course_lib.papers.lvm_sentences import sequential_prompt
from course_lib.training import load_checkpoint
from course_lib.training.recipes.lvm import MODEL, answers
from course_lib.training.recipes.lvm_tasks import FEW, bank, moving, queries
from course_lib.training.recipes.lvm_tokenizer import TOKENIZER, decode

ASKED = {  # which query of each task
    "segmentation": 1,
    "depth": 2,
    "normal": 3,
    "colour": 4,
    "inpainting": 5,
    "turn": 6,
    "palette": 7,
}
EXAMPLES = 2
CLIP = 3
GIVEN = 8  # frames of the clip
HEADS = ("example 1", "", "example 2", "", "query", "answer", "truth")


def show() -> None:
    """Show what the model answers to prompts of two examples, and how it continues a clip."""
    model, made = load_checkpoint(MODEL)
    tokenizer, _ = load_checkpoint(TOKENIZER)
    rows = {}
    for task, number in ASKED.items():
        asked = queries(task, 8, FEW)[number : number + 1]
        shown = asked.codes[0, -1 - EXAMPLES : -1].flatten(0, 1)
        answer = answers(model, asked.codes, EXAMPLES)
        rows[task] = torch.cat([decode(tokenizer, shown), asked.asked, answer, asked.answer])
    show_rows(
        rows,
        HEADS,
        title="One model, shown two examples",
        alt="Seven rows, one for each task: two examples, a query, the answer and the truth.",
    )

    frames = moving("test", CLIP + 1).rgb[CLIP]
    codes = bank("test", FEW).clips["image"][CLIP : CLIP + 1].long()
    prompt = sequential_prompt(codes[:, :GIVEN], model.config.bos)
    drawn = decode_images(model, prompt, len(frames) - GIVEN, top_k=1)
    continued = torch.cat([frames[:GIVEN], decode(tokenizer, drawn[0])])
    show_clip(
        [frames.numpy(), continued.numpy()],
        labels=["a clip", f"drawn from frame {GIVEN} on"],
        frames=8,
        title="The same model, shown the first half of a clip",
        alt="A clip, and below it a clip whose second half the model has drawn.",
    )
    print(f"{made['steps']:,} steps in {made['seconds'] / 60:.0f} minutes on {made['device']}")
