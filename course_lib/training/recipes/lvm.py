"""Notebook 07: LVM in miniature, prompted with images of the little world.

`lvm-tiny`, `lvm-micro` and `lvm-nano` (2.0, 0.7 and 0.2 million parameters) read the same 100
million tokens, each once.  The rest are shorter, of the middle size, with two seeds each, and
differ from `lvm-everything-*` in one choice: `lvm-images-*`, `lvm-clips-*` and `lvm-annotated-*`
read fewer sorts of sentences, `lvm-apart-*` keep the sentences of a row apart by a mask, and
`lvm-unplaced-*` do not know a token's place in its image.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib import zoo
from course_lib.metrics import depth_error, edge_f1, image_iou, normal_angle, pck
from course_lib.papers import lvm
from course_lib.papers.lvm import LVMConfig, Transformer, decode_images, perplexity_by_image
from course_lib.papers.lvm_sentences import analogy_prompt, document_ids, sequential_prompt
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.training.recipes import lvm_tasks
from course_lib.training.recipes.lvm_tasks import (
    ALL_TASKS,
    FRAMES,
    GROUPS,
    IMAGES,
    SHARES,
    TASKS,
    UNSEEN,
    Stills,
    choose,
    draw_quarters,
    examples,
)
from course_lib.training.recipes.lvm_tokenizer import SIZE, TOKENIZER, decode
from course_lib.training.store import load_checkpoint
from course_lib.world.annotations import Annotated, centres, like_examples, majority, reach, turn
from course_lib.world.geometry import FIRST_THING
from course_lib.world.map_colours import (
    CLASSES,
    PALETTE,
    classes_to_pixels,
    pixels_to_classes,
    pixels_to_depth,
    pixels_to_edges,
    pixels_to_normal,
)

MODEL = "lvm-tiny"
MOST = 7  # examples in a prompt
SHOWN = (0, 1, 2, 4, MOST)
QUERIES = 64  # of each task

# ---------------------------------------------------------------- training


class SentenceReader(Trainable):
    """The loss of the next token in rows of packed sentences."""

    model: Transformer

    def __init__(self, model: Transformer, apart: bool):
        super().__init__()
        self.model = model
        self.apart = apart  # whether tokens see their own sentence only

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        tokens = batch["tokens"].long()
        documents = document_ids(tokens, self.model.config.bos) if self.apart else None
        return lvm.sentence_losses(self.model, tokens, documents, batch["places"].long()).mean()


@dataclass(frozen=True)
class LVMRecipe(Recipe):
    """A tiny LVM on as many rows as it takes steps: each is read once."""

    lr_schedule: LRSchedule = "linear"
    preset: str = "lvm/LVM-tiny"
    groups: tuple[str, ...] = GROUPS  # of sentences
    apart: bool = False
    image_places: bool = True
    shown: tuple[int, ...] = (4,)  # numbers of examples of prompts whose answers are measured

    @property
    def config(self) -> LVMConfig:
        """The configuration of this recipe's network."""
        return replace(zoo.find(self.preset).config, image_places=self.image_places)

    def build(self) -> SentenceReader:
        return SentenceReader(Transformer(self.config), self.apart)

    def data(self) -> Tensors:
        rows = self.steps * self.batch_size
        train = lvm_tasks.bank("train")
        return Tensors(
            **lvm_tasks.rows(
                train, rows, self.config.context, self.config.bos, self.groups, self.seed
            )
        )

    def measure(self, model: Transformer) -> dict:
        """Measure perplexity by sort of sentence and place in it, and answers to prompts."""
        return {**sentence_perplexity(model), **answer_scores(model, self.shown, TASKS)}


# ---------------------------------------------------------------- what is asked, and what is true


@dataclass(frozen=True)
class Queries:
    """Questions of one task, n of them, and what is true of their answers."""

    task: str
    codes: Tensor  # n p q 8 8: examples, and the question with its answer as the last
    asked: Tensor  # n h w 3: the image that is asked about
    answer: Tensor  # n h w 3
    truth: Annotated  # n, turned as the answer is
    holes: Tensor  # n h w
    palettes: Tensor  # n k 3: the colours of the classes

    @property
    def kind(self) -> str:
        """What the answer shows: "image", "segmentation", ..."""
        name = ALL_TASKS[self.task][-1].removeprefix("turned ")
        return "segmentation" if name == "palette" else name


@functools.lru_cache(maxsize=32)
def queries(task: str, n: int = QUERIES) -> Queries:
    """Draw questions from the test split, each with as many examples as a sentence has."""
    of = lvm_tasks.bank("test")
    generator = torch.Generator().manual_seed(0)
    scene = choose(of, task, n, IMAGES // len(ALL_TASKS[task]), generator)
    quarters = draw_quarters(task, n, generator)
    last = scene[:, -1]
    if task == "palette":
        images, palettes = lvm_tasks.with_palettes("test", len(of.palettes))
        some = Stills(images[last], torch.zeros(n, SIZE, SIZE, dtype=torch.bool), last, last)
        colours = palettes[last]
    else:
        some = lvm_tasks.stills("test", len(of.category))[last]
        colours = PALETTE.expand(n, -1, -1)

    first, *_, kind = ALL_TASKS[task]
    truth = some.images.turned() if kind.startswith("turned") else some.images
    if kind == "palette":
        answer = truth.draw("segmentation", colours)
    elif kind == "turned image":
        turned = [turn(x, k) for x, k in zip(some.images.rgb, quarters.tolist(), strict=True)]
        answer = torch.stack(turned)
    else:
        answer = some.draw(kind)
    return Queries(
        task=task,
        codes=examples(of, task, scene, quarters),
        asked=some.draw(first),
        answer=answer,
        truth=truth,
        holes=some.holes,
        palettes=colours,
    )


# ---------------------------------------------------------------- answers, and how right they are


def answers(model: Transformer, codes: Tensor, p: int) -> Tensor:
    """Draw the answers (n h w 3) uint8 to the last of some examples, given p of those before it.

    codes: n examples q 8 8.  At every place the most probable code is taken.
    """
    shown, (question, *rest) = codes[:, -1 - p : -1], codes[:, -1].unbind(1)
    bos = model.config.bos
    prompt = analogy_prompt(shown, question[:, None], bos)
    drawn = decode_images(model, prompt.long(), len(rest), top_k=1)
    return decode(load_checkpoint(TOKENIZER)[0], drawn[:, -1])


def score(asked: Queries, maps: Tensor) -> Tensor:
    """Measure answers (n h w 3) uint8 by what they say: one number for each, (n,).

    Intersection over union of classes, relative error of depth, degrees of normals, F1 of edges;
    of images PSNR in decibels, within the hole if there is one.
    """
    match asked.kind:
        case "segmentation":
            read = pixels_to_classes(maps, asked.palettes)
            return image_iou(read, asked.truth.classes, len(CLASSES))
        case "depth":
            return depth_error(pixels_to_depth(maps), asked.truth.depth)
        case "normal":
            return normal_angle(pixels_to_normal(maps), asked.truth.normal)
        case "edges":
            return edge_f1(pixels_to_edges(maps), asked.truth.edges)
        case _:
            inside = asked.holes if asked.task == "inpainting" else torch.ones_like(asked.holes)
            return psnr_within(maps, asked.answer, inside)


def psnr_within(image: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """Return the PSNR (n,) of images (n h w 3) uint8 over the pixels in a mask (n h w)."""
    error = (image.float() / 255 - target.float() / 255).square().mean(-1) * inside
    return -10 * (error.sum((1, 2)) / inside.sum((1, 2))).log10()


def shape_is_read(asked: Queries, maps: Tensor) -> Tensor:
    """Tell of each map of classes whether most of its first thing has the class of its shape."""
    read = pixels_to_classes(maps, asked.palettes)
    thing = asked.truth.things == FIRST_THING
    votes = F.one_hot(read, len(CLASSES)) * thing[..., None]  # n h w k
    true = (asked.truth.classes * thing).amax((1, 2))
    return votes.sum((1, 2))[:, FIRST_THING:].argmax(1) + FIRST_THING == true


def answer_scores(model: Transformer, shown: tuple[int, ...], tasks: Iterable[str]) -> dict:
    """Score a model's answers to `queries`, by the number of examples in the prompt."""
    scores: dict = {}
    for task in tasks:
        asked = queries(task)
        for p in (p for p in shown if p < asked.codes.shape[1]):
            maps = answers(model, asked.codes, p)
            scores |= entries(f"{task}, {p} examples", asked, maps)
    return scores


def entries(name: str, asked: Queries, maps: Tensor) -> dict:
    """Return the mean score of answers, and each; of classes also how often the shape is read."""
    each = score(asked, maps)
    scores = {name: float(each.mean()), f"each of {name}": each.tolist()}
    if asked.kind == "segmentation":
        right = shape_is_read(asked, maps).float()
        scores |= {f"shape of {name}": float(right.mean()), f"shapes of {name}": right.tolist()}
    return scores


def control_scores(model: Transformer) -> dict:
    """Score what needs no model, or a model that is led astray.

    "query": the question itself as its answer; "mean": the mean answer of training scenes;
    "other": four examples of another task; "shuffled": the question of another query; "codes": the
    true answer's codes, the tokenizer's own limit.
    """
    tokenizer, _ = load_checkpoint(TOKENIZER)
    names = [*TASKS, *UNSEEN]
    scores: dict = {}
    for task in names:
        asked = queries(task)
        other = queries("depth" if asked.kind == "segmentation" else "segmentation")
        wrong = torch.cat([other.codes[:, -5:-1, :2], asked.codes[:, -1:, :2]], dim=1)
        shuffled = asked.codes.clone()
        shuffled[:, -1, 0] = asked.codes.roll(1, 0)[:, -1, 0]
        scores |= entries(f"{task}, query", asked, asked.asked)
        scores |= entries(f"{task}, mean", asked, mean_answer(asked))
        scores |= entries(f"{task}, codes", asked, decode(tokenizer, asked.codes[:, -1, -1]))
        if task in TASKS:
            scores |= entries(f"{task}, other", asked, answers(model, wrong, 4))
            scores |= entries(f"{task}, shuffled", asked, answers(model, shuffled, 4))
    return scores


def mean_answer(asked: Queries) -> Tensor:
    """Return the mean answer (n h w 3) uint8 of training scenes; of classes the most frequent."""
    some = lvm_tasks.stills("train", 500)
    images = some.images.turned() if ALL_TASKS[asked.task][-1].startswith("turned") else some.images
    if asked.kind == "segmentation":
        classes = images.classes.mode(0).values.expand(len(asked.answer), -1, -1)
        return classes_to_pixels(classes, asked.palettes)
    mean = images.draw(asked.kind).float().mean(0).round().to(torch.uint8)
    return mean.expand(len(asked.answer), -1, -1, -1)


# ---------------------------------------------------------------- perplexity


def sentence_perplexity(model: Transformer, n: int = 64) -> dict:
    """Measure perplexity on test sentences of every sort, by the place of an image in them.

    It is exp of an example's mean, averaged over examples.  Of tasks with pairs the number is
    that of the answer after five pairs, as in the paper; of others that of the last image.
    """
    of = lvm_tasks.bank("test")
    measured: dict = {}
    names = [name for group in SHARES.values() for name in group if name != "single"]
    for name in (*names, *UNSEEN):
        generator = torch.Generator().manual_seed(0)
        codes = lvm_tasks.sentences(of, name, n, generator).long()
        prompt = sequential_prompt(codes, model.config.bos)
        losses = torch.cat([lvm.sentence_losses(model, part) for part in prompt.split(8)])
        by_image = perplexity_by_image(losses, model.config.image_tokens).mean(0).tolist()
        pairs = len(ALL_TASKS.get(name, ())) == 2
        measured |= {f"perplexity of {name}": by_image[11 if pairs else -1]}
        measured |= {f"perplexities of {name}": by_image}
    return measured


# ---------------------------------------------------------------- clips


def clip_scores(model: Transformer, n: int = QUERIES, shown: int = FRAMES // 2) -> dict:
    """Continue test clips, and measure where the thing that moves is in each new frame.

    Its centre is read by the colours of the frames shown; where it is not found, it counts as
    where it was last.  "last": the last frame shown, again and again; "codes": the true frames'
    codes.  PCK at a tenth: of how many frames the centre is within a tenth of the thing's size.
    """
    clips = lvm_tasks.moving("test", n)
    codes = lvm_tasks.bank("test").clips["image"][:n].long()
    thing = clips.things == FIRST_THING  # n t h w
    true = centres(thing)
    size = reach(thing[:, shown - 1]).clamp(min=1)
    last = true[:, shown - 1 : shown].expand(-1, FRAMES - shown, -1)
    tokenizer, _ = load_checkpoint(TOKENIZER)

    prompt = sequential_prompt(codes[:, :shown], model.config.bos)
    drawn = decode_images(model, prompt, FRAMES - shown, top_k=1)
    found = {"last": last}
    for name, grids in (("drawn", drawn), ("codes", codes[:, shown:])):
        frames = decode(tokenizer, grids.flatten(0, 1)).unflatten(0, grids.shape[:2])
        found[name] = read_centres(frames, clips.rgb[:, :shown], thing[:, :shown], last)
    scores: dict = {}
    for name, places in found.items():
        visible = ~true[:, shown:].isnan().any(-1)
        distance = (places - true[:, shown:]).norm(dim=-1)
        each = (distance.nan_to_num() * visible).sum(1) / visible.sum(1).clamp(min=1)
        scores |= {f"clip, {name}": float(each.mean()), f"each of clip, {name}": each.tolist()}
        scores[f"pck of clip, {name}"] = float(pck(places, true[:, shown:], size).nanmean())
    return scores


def read_centres(frames: Tensor, shown: Tensor, thing: Tensor, last: Tensor) -> Tensor:
    """Return where a thing is in frames (n t h w 3), by its colours in the frames shown; else last.

    thing: the pixels of the thing in the frames shown (n s h w); last: n t 2.
    """
    read = [
        centres(majority(like_examples(frames[:, i], shown, thing))) for i in range(frames.shape[1])
    ]
    places = torch.stack(read, dim=1)  # n t 2
    return torch.where(places.isnan(), last, places)


# ---------------------------------------------------------------- the recipes


@dataclass(frozen=True)
class MeasuredLVMRecipe(LVMRecipe):
    """The same, with all the tables of the chapter."""

    shown: tuple[int, ...] = SHOWN

    def measure(self, model: Transformer) -> dict:
        """Measure what `LVMRecipe` does, unseen tasks, controls and clips."""
        return {
            **super().measure(model),
            **answer_scores(model, (4,), UNSEEN),
            **control_scores(model),
            **clip_scores(model),
        }


TINY = MeasuredLVMRecipe(
    MODEL,
    steps=12_500,
    batch_size=8,
    learning_rate=3e-3,
    warmup=300,
    weight_decay=0.1,
    betas=(0.9, 0.95),
    ema=0.999,
    precision="bfloat16",
    checkpoint_dtype="float16",
)
SHORT = LVMRecipe(
    "lvm-everything-0",
    steps=1500,
    batch_size=8,
    learning_rate=4e-3,
    warmup=100,
    weight_decay=0.1,
    betas=(0.9, 0.95),
    ema=0.99,
    precision="bfloat16",
    preset="lvm/LVM-micro",
)
VARIANTS: dict[str, dict] = {
    "everything": {},
    "images": {"groups": GROUPS[:1]},
    "clips": {"groups": GROUPS[:2]},
    "annotated": {"groups": GROUPS[:3]},
    "apart": {"apart": True},
    "unplaced": {"image_places": False},
}

RECIPES: list[Recipe] = [
    TINY,
    replace(TINY, name="lvm-micro", preset="lvm/LVM-micro"),
    replace(TINY, name="lvm-nano", preset="lvm/LVM-nano"),
    *(
        replace(SHORT, name=f"lvm-{name}-{seed}", seed=seed, **choice)
        for name, choice in VARIANTS.items()
        for seed in (0, 1)
    ),
]
