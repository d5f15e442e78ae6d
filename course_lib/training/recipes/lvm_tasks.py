"""Notebook 07: the little world as codes, the tasks it poses, and the sentences that pose them.

An example of a task shows a scene in several kinds of images, one after another: the image and its
depth, say.  `bank` has the codes of many scenes in every kind, of clips and of views around things;
`sentences` draws visual sentences from it, and `rows` packs a mixture of them for training.

Three tasks cannot be guessed from their query: in "turn" the examples say by how many quarters, in
"palette" what colour each class has, and in "colour" they share the query's floor and sky.  No
sentence for training poses the tasks of `UNSEEN`.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import zoo
from course_lib.data import in_batches
from course_lib.metrics import depth_error, edge_f1, image_iou, normal_angle
from course_lib.papers.lvm_sentences import annotated, pack, visual_sentence
from course_lib.papers.lvm_tokenizer import Decoder, Encoder
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.training.recipes.lvm_tokenizer import SIZE, TOKENIZER
from course_lib.training.store import load_checkpoint
from course_lib.world import LittleWorld, float_to_pixels, pixels_to_float
from course_lib.world.annotations import Annotated, annotate, draw_holes, turn
from course_lib.world.caption import stack_labels
from course_lib.world.geometry import FIRST_THING
from course_lib.world.map_colours import (
    CLASSES,
    PALETTE,
    POOL,
    classes_to_pixels,
    cut_holes,
    draw_palettes,
    pixels_to_classes,
    pixels_to_depth,
    pixels_to_edges,
    pixels_to_normal,
)
from course_lib.world.motion import full_turn
from course_lib.world.scene import BACKDROPS, COLOURS, FLOOR_COLOURS, Scene

IMAGES = 16  # in a sentence
FRAMES = 16  # of a clip of 2 seconds
QUERIES = 64  # questions of each task that are asked of a trained model
EXAMPLES = IMAGES // 2  # pairs in a sentence
GRID = 8  # codes along a side
MOTIONS = ("slide", "bounce", "orbit", "rise", "fall")  # whose thing is soon somewhere else

# ---------------------------------------------------------------- the tasks

QUARTERS = (1, 2, 3)
TASKS: dict[str, tuple[str, ...]] = {  # the kinds that an example shows, in their order
    "segmentation": ("image", "segmentation"),
    "depth": ("image", "depth"),
    "normal": ("image", "normal"),
    "edges": ("image", "edges"),
    "colour": ("grey", "image"),
    "inpainting": ("holes", "image"),
    "turn": ("image", "turned image"),
    "palette": ("image", "palette"),
}
COMBINED: dict[str, tuple[str, ...]] = {
    "depth to normal": ("depth", "normal"),
    "normal to depth": ("normal", "depth"),
    "segmentation to depth": ("segmentation", "depth"),
    "depth to segmentation": ("depth", "segmentation"),
    "segmentation to edges": ("segmentation", "edges"),
    "depth and segmentation": ("image", "depth", "segmentation"),
    "normal and edges": ("image", "normal", "edges"),
    "segmentation and normal": ("image", "segmentation", "normal"),
    "turned depth": ("image", "turned depth"),
    "turned normal": ("image", "turned normal"),
    "turn, then depth": ("image", "turned image", "turned depth"),
    "turn, then normal": ("image", "turned image", "turned normal"),
}
UNSEEN: dict[str, tuple[str, ...]] = {
    "normal to segmentation": ("normal", "segmentation"),
    "edges and depth": ("image", "edges", "depth"),
    "turned segmentation": ("image", "turned segmentation"),
    "turn, then segmentation": ("image", "turned image", "turned segmentation"),
}
ALL_TASKS = TASKS | COMBINED | UNSEEN

# Of every hundred tokens for training, in four groups; a diet is some of the groups.
SHARES: dict[str, dict[str, float]] = {
    "images": {"single": 3, "category": 3},
    "clips": {"clip": 9, "views": 4},
    "annotated": {
        "segmentation": 8,
        "depth": 7,
        "normal": 7,
        "edges": 6,
        "colour": 9,
        "inpainting": 9,
        "turn": 8,
        "palette": 9,
    },
    "combined": {
        **{name: 1.1 for name in COMBINED},
        "annotated clip, interleaved": 2.4,
        "annotated clip, frames first": 2.4,
    },
}
GROUPS = tuple(SHARES)

# ---------------------------------------------------------------- scenes, drawn in every kind


@dataclass(frozen=True)
class Stills:
    """Scenes at rest, what is true of them, and what was drawn at random for them."""

    images: Annotated
    holes: Tensor  # n h w
    category: Tensor  # n: shape and colour of the first thing, as one number
    place: Tensor  # n: the colours of floor and sky, as one number

    def __getitem__(self, chosen: Tensor) -> "Stills":
        """Return some of them, by their numbers."""
        return Stills(
            self.images[chosen], self.holes[chosen], self.category[chosen], self.place[chosen]
        )

    def draw(self, kind: str) -> Tensor:
        """Return the images (n h w 3) uint8 of a kind."""
        match kind.split():
            case ["holes"]:
                return cut_holes(self.images.rgb, self.holes)
            case ["turned", name]:
                return self.images.turned().draw(name)
            case ["turned", "image", quarters]:
                return turn(self.images.rgb, int(quarters))
            case _:
                return self.images.draw(kind)


def resting_scenes(split: str, n: int, start: int = 0, seed: int = 0) -> list[Scene]:
    """Return scenes of one to three things at rest, n of them from `start` on."""
    world = LittleWorld(split, SIZE, length=start + n, seed=seed, motion="rest", camera="still")
    return [world.scene(i) for i in range(start, start + n)]


def stills(split: str, n: int, start: int = 0) -> Stills:
    """Return n scenes at rest, from `start` on."""
    scenes = resting_scenes(split, n, start)
    known = stack_labels(scenes)
    generator = torch.Generator().manual_seed(start)
    return Stills(
        images=annotate(scenes, SIZE),
        holes=draw_holes(torch.rand(n, 3, generator=generator), SIZE),
        category=known["shape"] * len(COLOURS) + known["colour"],
        place=torch.tensor([place(scene) for scene in scenes]),
    )


known_stills = functools.lru_cache(maxsize=3)(stills)


def place(scene: Scene) -> int:
    """Return a number for the colours of a scene's floor and sky."""
    return FLOOR_COLOURS.index(scene.floor.colours) * len(BACKDROPS) + BACKDROPS.index(
        scene.backdrop
    )


STILL_KINDS = (
    *("image", "depth", "normal", "segmentation", "edges", "grey", "holes"),
    *(f"turned image {quarters}" for quarters in QUARTERS),
    *("turned depth", "turned normal", "turned segmentation"),
)


def with_palettes(split: str, n: int, start: int = 0) -> tuple[Annotated, Tensor]:
    """Return 8 scenes at rest for each of n sentences, and each scene's palette (n*8 k 3).

    The 8 of a sentence have one palette.  They are other scenes than `stills` of any number has.
    """
    images = annotate(resting_scenes(split, n * EXAMPLES, start * EXAMPLES, seed=1), SIZE)
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(start + n, len(POOL), generator=generator)[start:]
    return images, draw_palettes(uniform, len(CLASSES)).repeat_interleave(EXAMPLES, 0)


def moving(split: str, n: int, start: int = 0) -> Annotated:
    """Return clips (n 16 h w) of one to three things, of which one moves, before a still camera."""
    world = LittleWorld(split, SIZE, FRAMES, length=start + n, camera="still", motion=MOTIONS)
    return annotate([world.scene(i) for i in range(start, start + n)], SIZE, FRAMES)


def around(split: str, n: int, start: int = 0) -> Tensor:
    """Return single things at rest (n 16 h w 3), each seen from 16 sides."""
    world = LittleWorld(
        split, SIZE, length=start + n, seed=2, count=1, motion="rest", camera="still"
    )
    scenes = [full_turn(world.scene(i), FRAMES) for i in range(start, start + n)]
    return annotate(scenes, SIZE, FRAMES).rgb


# ---------------------------------------------------------------- their codes


def encode(pixels: Tensor) -> Tensor:
    """Return the codes (... 8 8) int16 of images (... h w 3) uint8."""
    model, _ = load_checkpoint(TOKENIZER)
    codes = in_batches(lambda x: model.encode(x).indices, pixels.flatten(0, -4))
    return codes.to(torch.int16).unflatten(0, pixels.shape[:-3])


@dataclass(frozen=True)
class Bank:
    """The codes of one split, n of everything; a grid of codes is 8 8."""

    stills: dict[str, Tensor]  # n 8 8, by kind
    category: Tensor  # n
    place: Tensor  # n
    palettes: Tensor  # n 8 2 8 8: eight images in a sentence, each with its map
    clips: dict[str, Tensor]  # n 16 8 8: "image", and two kinds of maps
    views: Tensor  # n 16 8 8


SIZES = {  # of scenes at rest, sentences with a palette, clips, things seen from all around
    "train": (12_000, 2000, 2000, 800),
    "test": (1200, 128, 128, 64),
}
FEW = (160, 8, 16, 8)  # the first of each, enough to look at


@functools.lru_cache(maxsize=3)
def bank(split: str, sizes: tuple[int, int, int, int] | None = None) -> Bank:
    """Draw and encode a split, or so many of each of its kinds; that of training takes minutes."""
    resting, palettes, clips, views = sizes or SIZES[split]
    known = in_parts(functools.partial(_still_codes, split), resting, 500)
    return Bank(
        stills={kind: known[kind] for kind in STILL_KINDS},
        category=known["category"],
        place=known["place"],
        palettes=in_parts(functools.partial(_palette_codes, split), palettes, 60)["pairs"],
        clips=in_parts(functools.partial(_clip_codes, split), clips, 30),
        views=in_parts(lambda n, start: {"views": encode(around(split, n, start))}, views, 30)[
            "views"
        ],
    )


def bank_of_stills(split: str, n: int, kinds: Iterable[str]) -> Bank:
    """Draw and encode n scenes at rest in a few kinds only; there is nothing else in the bank."""
    some = stills(split, n)
    none = torch.empty(0, IMAGES, GRID, GRID, dtype=torch.int16)
    return Bank(
        stills={kind: encode(some.draw(kind)) for kind in kinds},
        category=some.category,
        place=some.place,
        palettes=none,
        clips={},
        views=none,
    )


def in_parts(part: Callable[[int, int], dict[str, Tensor]], n: int, at_once: int) -> dict:
    """Return the tensors of part(count, start), joined: n of everything, `at_once` at a time."""
    parts = [part(min(at_once, n - start), start) for start in range(0, n, at_once)]
    return {name: torch.cat([each[name] for each in parts]) for name in parts[0]}


def _still_codes(split: str, n: int, start: int) -> dict[str, Tensor]:
    some = stills(split, n, start)
    codes = {kind: encode(some.draw(kind)) for kind in STILL_KINDS}
    return {**codes, "category": some.category, "place": some.place}


def _palette_codes(split: str, n: int, start: int) -> dict[str, Tensor]:
    images, palettes = with_palettes(split, n, start)
    maps = images.draw("segmentation", palettes)
    pairs = torch.stack([encode(images.rgb), encode(maps)], dim=1)  # n*8 2 8 8
    return {"pairs": pairs.unflatten(0, (-1, EXAMPLES))}


def _clip_codes(split: str, n: int, start: int) -> dict[str, Tensor]:
    clips = moving(split, n, start)
    return {kind: encode(clips.draw(kind)) for kind in ("image", "depth", "segmentation")}


# ---------------------------------------------------------------- sentences


def choose(of: Bank, task: str, n: int, p: int, generator: torch.Generator) -> Tensor:
    """Draw p different scenes for each of n sentences of a task, as numbers (n p) of the bank.

    Those of "palette" are numbered through all its sentences.
    """
    if task == "palette":
        sentence = draw(n, len(of.palettes), generator)[:, None]
        return sentence * EXAMPLES + torch.rand(n, EXAMPLES, generator=generator).argsort(1)[:, :p]
    return alike(of.place if task == "colour" else torch.zeros_like(of.place), n, p, generator)


def examples(of: Bank, task: str, scene: Tensor, quarters: Tensor) -> Tensor:
    """Return the codes of a task's examples of scenes (n p): n p q 8 8, of q images each.

    quarters: by how many each sentence's images are turned (n,); only "turn" has a choice.
    """
    if task == "palette":
        return of.palettes.flatten(0, 1)[scene]

    def codes(kind: str) -> Tensor:
        if kind != "turned image":
            return of.stills[kind][scene]
        turned = torch.stack([of.stills[f"{kind} {each}"] for each in QUARTERS])
        return turned[quarters[:, None] - 1, scene]

    return torch.stack([codes(kind) for kind in ALL_TASKS[task]], dim=2)


def draw_quarters(task: str, n: int, generator: torch.Generator) -> Tensor:
    """Draw by how many quarters each sentence of a task turns its images (n,)."""
    return 1 + draw(n, len(QUARTERS) if task == "turn" else 1, generator)


def draw(n: int, below: int, generator: torch.Generator) -> Tensor:
    """Draw n numbers from 0 to `below` - 1."""
    return torch.randint(below, (n,), generator=generator)


def alike(labels: Tensor, n: int, p: int, generator: torch.Generator) -> Tensor:
    """Draw n times p different scenes (n p) that have their label in common.

    Labels that fewer than p scenes have are not drawn.
    """
    by_label = labels.argsort(stable=True)
    counts = labels.bincount()
    first = counts.cumsum(0) - counts
    weights = (counts * (counts >= p)).double()
    label = torch.multinomial(weights, n, replacement=True, generator=generator)[:, None]  # n 1
    # Numbers in order, of which none is twice once the k-th is k greater.
    uniform = torch.rand(n, p, generator=generator).sort(1).values
    chosen = (uniform * (counts[label] - p + 1)).long() + torch.arange(p)
    order = torch.rand(n, p, generator=generator).argsort(1)
    return by_label[first[label] + chosen.gather(1, order)]


def sentences(
    of: Bank, name: str, n: int, generator: torch.Generator, most: int = IMAGES
) -> Tensor:
    """Draw the images of n sentences of one sort, as codes n images 8 8.

    Those of a task have as many examples as `most` images hold.
    """
    if name in ALL_TASKS:
        scene = choose(of, name, n, most // len(ALL_TASKS[name]), generator)
        return examples(of, name, scene, draw_quarters(name, n, generator)).flatten(1, 2)
    match name:
        case "single":
            return of.stills["image"][draw(n, len(of.category), generator)][:, None]
        case "category":
            return of.stills["image"][alike(of.category, n, IMAGES, generator)]
        case "clip":
            return of.clips["image"][draw(n, len(of.clips["image"]), generator)]
        case "views":
            views = draw(n, len(of.views), generator)
            starts = draw(n, FRAMES, generator)
            return of.views[views[:, None], (starts[:, None] + torch.arange(FRAMES)) % FRAMES]
        case _:
            return annotated_clips(of, name, n, generator)


def annotated_clips(of: Bank, name: str, n: int, generator: torch.Generator) -> Tensor:
    """Draw clips of 8 frames with their maps, of one kind in each sentence: n 16 8 8."""
    is_interleaved = name.endswith("interleaved")
    drawn = []
    for clip in draw(n, len(of.clips["image"]), generator).tolist():
        kind = ("depth", "segmentation")[int(draw(1, 2, generator))]
        frames, maps = (of.clips[each][clip, ::2] for each in ("image", kind))
        drawn.append(annotated(frames, [maps], "interleaved" if is_interleaved else "images first"))
    return torch.stack(drawn)


def rows(of: Bank, n: int, length: int, bos: int, groups: tuple[str, ...], seed: int) -> dict:
    """Draw sentences of some groups in their mixture, packed into n rows of `length` tokens."""
    shares = {name: share for group in groups for name, share in SHARES[group].items()}
    return mixed_rows(of, n, length, bos, shares, seed)


def mixed_rows(
    of: Bank,
    n: int,
    length: int,
    bos: int,
    shares: Mapping[str, int | float],
    seed: int,
    most: int = IMAGES,
) -> dict[str, Tensor]:
    """Draw sentences in a mixture, and pack them into n rows of `length` tokens.

    shares: by sort of sentence, in any unit.  most: images of a task's sentence.  Returns the
    tokens (n length) and each token's place in its image: 0 for BOS and EOS, which are in none,
    then from 1 on.  The number of EOS follows that of BOS.
    """
    generator = torch.Generator().manual_seed(seed)
    written: list[Tensor] = []
    for name, share in shares.items():
        images = 1 if name == "single" else most
        wanted = n * length * share / sum(shares.values())  # tokens
        count = math.ceil(wanted / (images * GRID**2)) + 1
        drawn = sentences(of, name, count, generator, most)
        written += [visual_sentence(each, bos, bos + 1) for each in drawn]
    order = torch.randperm(len(written), generator=generator).tolist()
    written = [written[i] for i in order]
    places = [places_of(len(each)) for each in written]
    tokens, _ = pack(written, length)
    where, _ = pack(places, length)
    return {"tokens": tokens[:n], "places": where[:n]}


@functools.lru_cache
def places_of(tokens: int) -> Tensor:
    """Return the place in its image of every token of a sentence, (tokens,) int16."""
    in_images = torch.arange(tokens - 2) % GRID**2 + 1
    end = torch.zeros(1, dtype=torch.long)
    return torch.cat([end, in_images, end]).to(torch.int16)


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

    def __getitem__(self, chosen: Tensor | slice) -> "Queries":
        """Return some of them, by their numbers."""
        fields = {name: field for name, field in vars(self).items() if name != "task"}
        return Queries(self.task, **{name: field[chosen] for name, field in fields.items()})

    def several(self) -> "Queries":
        """Return the questions about two or three things of which no two have one shape."""
        shapes = [scene[scene >= FIRST_THING].unique() for scene in self.truth.classes]
        things = [scene[scene >= FIRST_THING].unique() for scene in self.truth.things]
        chosen = torch.tensor(
            [1 < len(a) == len(b) for a, b in zip(shapes, things, strict=True)]
        ).nonzero()[:, 0]
        return self[chosen]


@functools.lru_cache(maxsize=32)
def queries(task: str, n: int = QUERIES, sizes: tuple[int, int, int, int] | None = None) -> Queries:
    """Draw questions from the test split, each with as many examples as a sentence has.

    sizes: those of the part of the split to draw from, all of it by default.
    """
    of = bank("test", sizes)
    generator = torch.Generator().manual_seed(0)
    scene = choose(of, task, n, IMAGES // len(ALL_TASKS[task]), generator)
    quarters = draw_quarters(task, n, generator)
    last = scene[:, -1]
    if task == "palette":
        images, palettes = with_palettes("test", len(of.palettes))
        some = Stills(images[last], torch.zeros(n, SIZE, SIZE, dtype=torch.bool), last, last)
        colours = palettes[last]
    else:
        some = known_stills("test", len(of.category))[last]
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


# ---------------------------------------------------------------- how right an answer is


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


def first_shape(asked: Queries, classes: Tensor) -> Tensor:
    """Return the class (n,) of a shape that most of each question's first thing has in a map."""
    thing = asked.truth.things == FIRST_THING
    votes = F.one_hot(classes, len(CLASSES)) * thing[..., None]  # n h w k
    return votes.sum((1, 2))[:, FIRST_THING:].argmax(1) + FIRST_THING


def entries(name: str, asked: Queries, maps: Tensor) -> dict:
    """Return the mean score of answers, and each; of classes also how often the shape is read."""
    each = score(asked, maps)
    scores = {name: float(each.mean()), f"each of {name}": each.tolist()}
    if asked.kind == "segmentation":
        read = first_shape(asked, pixels_to_classes(maps, asked.palettes))
        right = (read == first_shape(asked, asked.truth.classes)).float()
        scores |= {f"shape of {name}": float(right.mean()), f"shapes of {name}": right.tolist()}
    return scores


def mean_answer(asked: Queries) -> Tensor:
    """Return the mean answer (n h w 3) uint8 of training scenes; of classes the most frequent."""
    some = known_stills("train", 500)
    images = some.images.turned() if ALL_TASKS[asked.task][-1].startswith("turned") else some.images
    if asked.kind == "segmentation":
        classes = images.classes.mode(0).values.expand(len(asked.answer), -1, -1)
        return classes_to_pixels(classes, asked.palettes)
    mean = images.draw(asked.kind).float().mean(0).round().to(torch.uint8)
    return mean.expand(len(asked.answer), -1, -1, -1)


# ---------------------------------------------------------------- specialists


class Specialist(nn.Module):
    """A network for one task: the tokenizer's encoder and decoder, without codes between them.

    What is local in the tokenizer, for the sake of its codes, looks at the whole image here.
    """

    def __init__(self) -> None:
        super().__init__()
        config = zoo.find("lvm/tokenizer-tiny-global").config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, image: Tensor) -> Tensor:
        return self.decoder(self.encoder(image))


class OneTask(Trainable):
    """The squared error of what a specialist makes of an image."""

    model: Specialist

    def __init__(self, model: Specialist):
        super().__init__()
        self.model = model

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        drawn = self.model(pixels_to_float(batch["asked"])).float()
        return (drawn - pixels_to_float(batch["answer"])).square().mean()


@dataclass(frozen=True)
class SpecialistRecipe(Recipe):
    """A specialist on images of one to three things at rest."""

    lr_schedule: LRSchedule = "plateau"
    task: str = "segmentation"
    pictures: int = 6000

    def build(self) -> OneTask:
        return OneTask(Specialist())

    def data(self) -> Tensors:
        some = stills("train", self.pictures)
        asked, answer = (some.draw(kind) for kind in TASKS[self.task])
        return Tensors(asked=asked, answer=answer)

    def measure(self, model: Specialist) -> dict:
        """Score its answers to the questions that the large models are asked."""
        asked = queries(self.task)
        device = next(model.parameters()).device
        maps = float_to_pixels(in_batches(model, asked.asked, device))
        return entries("answers", asked, maps)


# No network of one task can turn by a number of quarters, or use a palette, that it is not told.
RECIPES: list[Recipe] = [
    SpecialistRecipe(
        f"lvm-specialist-{task}",
        steps=1500,
        batch_size=16,
        learning_rate=2e-3,
        warmup=50,
        ema=0.99,
        precision="bfloat16",
        checkpoint_dtype="float16",
        task=task,
    )
    for task in ("segmentation", "depth", "normal", "edges", "colour", "inpainting")
]
