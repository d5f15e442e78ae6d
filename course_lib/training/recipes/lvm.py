"""Notebook 07: LVM in miniature, prompted with images of the little world.

`lvm-tiny`, `lvm-micro` and `lvm-nano` (2.0, 0.7 and 0.2 million parameters) read the same 100
million tokens, each once.  The rest are shorter, of the middle size, with two seeds each, and
differ from `lvm-everything-*` in one choice: `lvm-images-*`, `lvm-clips-*` and `lvm-annotated-*`
read fewer sorts of sentences, `lvm-apart-*` keep the sentences of a row apart by a mask, and
`lvm-unplaced-*` do not know a token's place in its image.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from course_lib import zoo
from course_lib.metrics import pck
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
    QUERIES,
    SHARES,
    TASKS,
    UNSEEN,
    entries,
    first_shape,
    mean_answer,
    queries,
)
from course_lib.training.recipes.lvm_tokenizer import SIZE, TOKENIZER, decode, map_scores
from course_lib.training.store import load_checkpoint
from course_lib.world.annotations import annotate, centres, like_examples, majority, reach, turn
from course_lib.world.geometry import FIRST_THING
from course_lib.world.map_colours import pixels_to_classes

MODEL = "lvm-tiny"
MOST = 7  # examples in a prompt
SHOWN = (0, 1, 2, 4, MOST)

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


@dataclass(frozen=True)
class FewTasksRecipe(LVMRecipe):
    """An LVM on few tasks and scenes, whose codes are soon made: for a notebook.

    Its sentences are two examples long, and each is a row: so little is soon looked through.
    """

    tasks: tuple[str, ...] = ("segmentation", "depth")
    pictures: int = 1200
    images: int = 4  # of a sentence

    def data(self) -> Tensors:
        kinds = dict.fromkeys(kind for task in self.tasks for kind in ALL_TASKS[task])
        of = lvm_tasks.bank_of_stills("train", self.pictures, kinds)
        n = self.steps * self.batch_size
        length = self.images * self.config.image_tokens + 2
        shares = dict.fromkeys(self.tasks, 1.0)
        return Tensors(
            **lvm_tasks.mixed_rows(of, n, length, self.config.bos, shares, self.seed, self.images)
        )

    def measure(self, model: Transformer) -> dict:
        """Measure answers to prompts of these tasks."""
        return answer_scores(model, self.shown, self.tasks)


# ---------------------------------------------------------------- answers, and how right they are


def answers(model: Transformer, codes: Tensor, p: int, **options) -> Tensor:
    """Draw the answers (n h w 3) uint8 to the last of some examples, given p of those before it.

    codes: n examples q 8 8.  At every place the most probable code is taken, unless the options
    of `decode_images` say otherwise.
    """
    shown, (question, *rest) = codes[:, -1 - p : -1], codes[:, -1].unbind(1)
    bos = model.config.bos
    prompt = analogy_prompt(shown, question[:, None], bos)
    drawn = decode_images(model, prompt.long(), len(rest), **{"top_k": 1} | options)
    return decode(load_checkpoint(TOKENIZER)[0], drawn[:, -1])


def answer_scores(model: Transformer, shown: tuple[int, ...], tasks: Iterable[str]) -> dict:
    """Score a model's answers to `queries`, by the number of examples in the prompt."""
    scores: dict = {}
    for task in tasks:
        asked = queries(task)
        for p in (p for p in shown if p < asked.codes.shape[1]):
            maps = answers(model, asked.codes, p)
            scores |= entries(f"{task}, {p} examples", asked, maps)
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


# ---------------------------------------------------------------- four failures


def failure_scores(model: Transformer) -> dict:
    """Bring about the paper's four failures, and try a remedy for each."""
    return {**confusion(model), **entanglement(model), **wrong_instance(model), **codes_limit()}


def taken_for(maps: Tensor, **meant: Tensor) -> dict[str, float]:
    """Return the share of answers (n h w 3) uint8 that each of several images is nearest to."""
    errors = [(maps.float() - image.float()).square().mean((1, 2, 3)) for image in meant.values()]
    nearest = torch.stack(errors).argmin(0)
    return {name: float((nearest == i).float().mean()) for i, name in enumerate(meant)}


def confusion(model: Transformer) -> dict:
    """Ask for a segmentation after examples of two tasks: how often is the answer a depth map?

    The remedy: the examples that are meant come last.
    """
    asked, other = queries("segmentation"), queries("depth")
    orders = {"segmentation, depth": "ssdd", "depth, segmentation": "ddss", "segmentation": "ssss"}
    found: dict = {}
    for name, order in orders.items():
        source = {"s": asked.codes, "d": other.codes}
        shown = [source[letter][:, i] for i, letter in enumerate(order)]
        maps = answers(model, torch.stack([*shown, asked.codes[:, -1]], dim=1), len(order))
        meant = {"segmentation": asked.answer, "depth": asked.truth.draw("depth")}
        shares = taken_for(maps, **meant)
        found |= {f"confusion, {name}: {key}": share for key, share in shares.items()}
    return found


def entanglement(model: Transformer) -> dict:
    """Ask for two tasks at once: how often is one of them left out?  The remedy: step by step."""
    found: dict = {}
    for name in ("turned segmentation", "turn, then segmentation"):
        asked = queries(name)
        maps = answers(model, asked.codes, 4)
        meant = {
            "both": asked.answer,
            "turned": turn(asked.asked),
            "segmented": turn(asked.answer, -1),
            "neither": asked.asked,
        }
        shares = taken_for(maps, **meant)
        found |= {f"entanglement, {name}: {key}": share for key, share in shares.items()}
    return found


def wrong_instance(model: Transformer, votes: int = 8) -> dict:
    """Read the shape of the first thing where there are several: whose is it?

    The remedy: of several answers, drawn at random, each pixel takes the most frequent class.
    """
    asked = queries("segmentation", 4 * QUERIES)
    several = asked.several()
    drawn = [answers(model, several.codes, 4)]
    for seed in range(votes):
        generator = torch.Generator().manual_seed(seed)
        drawn.append(answers(model, several.codes, 4, top_k=None, generator=generator))
    classes = torch.stack([pixels_to_classes(maps, several.palettes) for maps in drawn])
    found: dict = {"several things": len(several.codes)}
    for name, read in {"likeliest": classes[0], "voted": classes[1:].mode(0).values}.items():
        shape, own = first_shape(several, read), first_shape(several, several.truth.classes)
        present = (several.truth.classes.flatten(1)[:, :, None] == shape[:, None, None]).any(1)
        is_right = shape == own
        found[f"instance, {name}: its own"] = float(is_right.float().mean())
        others = present[:, 0] & ~is_right
        found[f"instance, {name}: another's"] = float(others.float().mean())
    return found


def codes_limit() -> dict:
    """Rebuild maps from 8 x 8 codes, and from 16 x 16 of the same scenes drawn twice as large."""
    tokenizer, _ = load_checkpoint(TOKENIZER)
    scenes = lvm_tasks.resting_scenes("test", QUERIES)
    found: dict = {}
    for size in (SIZE, 2 * SIZE):
        images = annotate(scenes, size)
        names = ("segmentation", "depth", "normal", "edges")
        rebuilt = {x: decode(tokenizer, lvm_tasks.encode(images.draw(x))) for x in names}
        scores = map_scores(images, rebuilt)
        grid = size // tokenizer.config.downsampling
        found |= {f"{grid} x {grid} codes: {key}": value for key, value in scores.items()}
    return found


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
            **failure_scores(model),
        }


TINY = MeasuredLVMRecipe(
    MODEL,
    steps=25_000,
    batch_size=4,
    learning_rate=3e-3,
    warmup=500,
    weight_decay=0.1,
    betas=(0.9, 0.95),
    ema=0.999,
    precision="bfloat16",
    checkpoint_dtype="float16",
)
SHORT = LVMRecipe(
    "lvm-everything-0",
    steps=2000,
    batch_size=4,
    learning_rate=4e-3,
    warmup=100,
    weight_decay=0.1,
    betas=(0.9, 0.95),
    ema=0.99,
    precision="bfloat16",
    preset="lvm/LVM-micro",
)
# What a notebook has the time for: two tasks, few scenes, the smallest network.
LIVE = FewTasksRecipe(
    "lvm-live",
    steps=1000,
    batch_size=8,
    learning_rate=1e-2,
    warmup=20,
    weight_decay=0.1,
    betas=(0.9, 0.95),
    ema=0.98,
    precision="bfloat16",
    preset="lvm/LVM-nano",
    shown=(0, 1),
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
    LIVE,
    *(
        replace(SHORT, name=f"lvm-{name}-{seed}", seed=seed, **choice)
        for name, choice in VARIANTS.items()
        for seed in (0, 1)
    ),
]
