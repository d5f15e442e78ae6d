"""VideoPoet's vocabulary, tasks and sequences (Kondratyuk et al., 2023, arXiv 2312.14125).

Text, images, clips and sound become one sequence of one vocabulary, and every task is the same one:
given the beginning, predict the rest.  Read `course_lib.papers.videopoet` after this file.

Reading order: the vocabulary (3.2); codes to tokens and back (3.1); the tasks,
and their sequences (4.1); who sees whom, and what is predicted (3.2, 4.1); the tasks of a training
run (4.2).

What the paper leaves open, and what is done here:
- The numbers of the special tokens: in the order of the paper's list, then one for every <task>.
- Which tasks share a <task>.  It is to differ where the output does, and the paper says that the
  unconditional clip, T2V and I2V share theirs.  T2I is here the fourth, since it is to be the
  beginning of a T2V; every other task has its own.
- Where a prefix ends: before <bov_o> or <boa_o>, which is predicted like all that follows.
- Frame prediction, I2V and the continuation of clip and sound predict what follows what is given,
  and do not repeat it.
- The values of <source> and <res>: one token each, put in where the caller says.
- The text vocabulary, which brings the whole to about 300,000 tokens, is left out: text comes as
  vectors, and no task writes any.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from einops import rearrange

from course_lib.lm.sampling import draw_tokens
from course_lib.shapes import Bool, Int, Tensor

TEXT = -1  # stands where the text's vectors go, and is no token

# ---------------------------------------------------------------- 3.2 the vocabulary

SPECIALS = (  # <task> comes after them, once for every kind of output
    "<bos>",
    "<bot_i>",
    "<eot_i>",
    "<bov_i>",
    "<eov_i>",
    "<boa_i>",
    "<eoa_i>",
    "<source>",
    "<res>",
    "<bov_o>",
    "<eov_o>",
    "<boa_o>",
    "<eoa_o>",
    "<eos>",
)


class Task(NamedTuple):
    """What a task's sequence has: its <task>, what must be given, and what is predicted."""

    token: str
    given: tuple[str, ...]  # of text, visual and audio; text may be added to all but one
    predicted: tuple[str, ...]  # of visual and audio


TASKS = {
    "unconditional": Task("video", (), ("visual",)),
    "T2V": Task("video", ("text",), ("visual",)),
    "T2I": Task("video", ("text",), ("visual",)),
    "I2V": Task("video", ("visual",), ("visual",)),  # the first frame
    "FP": Task("FP", ("visual",), ("visual",)),  # the first frames
    "inpainting": Task("inpainting", ("visual",), ("visual",)),
    "outpainting": Task("outpainting", ("visual",), ("visual",)),
    "stylization": Task("stylization", ("text", "visual"), ("visual",)),  # depth and flow
    "A2V": Task("A2V", ("audio",), ("visual",)),
    "V2A": Task("V2A", ("visual",), ("audio",)),
    "AVCont": Task("AVCont", ("visual", "audio"), ("visual", "audio")),
}
TASK_TOKENS = tuple(dict.fromkeys(task.token for task in TASKS.values()))


def token_ranges(specials: int, visual: int, levels: int, codes: int) -> dict[str, tuple[int, int]]:
    """Section 3.2: return the first token of each kind, and the first one after them.

    The kinds are "special", "visual" and, for the codes of every level of the sound's quantizer,
    "audio 1", "audio 2" and so on, in this order.
    """
    sizes = {"special": specials, "visual": visual}
    sizes |= {f"audio {level}": codes for level in range(1, levels + 1)}
    ranges = {}
    first = 0
    for kind, size in sizes.items():
        ranges[kind] = (first, first + size)
        first += size
    return ranges


@dataclass(frozen=True)
class Vocabulary:
    """The tokens there are.  Defaults: the paper's, all but those of text."""

    specials: int = 256  # places for special tokens, those of tasks among them
    visual: int = 2**18  # codes of the tokenizer of images and clips
    levels: int = 4  # of the sound's residual quantizer
    codes: int = 1024  # of each level

    def __post_init__(self):
        named = len(SPECIALS) + len(TASK_TOKENS)
        if self.specials < named:
            raise ValueError(f"specials: expected at least {named}, got {self.specials}")
        if min(self.visual, self.codes) < 1 or self.levels < 0:
            raise ValueError(
                "expected at least one code of clips and one of each level of sound, got"
                f" visual={self.visual}, levels={self.levels}, codes={self.codes}"
            )

    @property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """The kinds of tokens and their numbers, as in `token_ranges`."""
        return token_ranges(self.specials, self.visual, self.levels, self.codes)

    @property
    def size(self) -> int:
        """Tokens that there are."""
        return self.specials + self.visual + self.levels * self.codes

    def special(self, name: str) -> int:
        """Return the token of a name in `SPECIALS`.  Raises ValueError for another."""
        if name not in SPECIALS:
            raise ValueError(f"expected one of {', '.join(SPECIALS)}, got {name!r}")
        return SPECIALS.index(name)

    def task(self, task: str) -> int:
        """Return the <task> of a task of `TASKS`.  Raises ValueError for another."""
        return len(SPECIALS) + TASK_TOKENS.index(find_task(task).token)

    def among(self, token: int) -> tuple[int, int]:
        """Return which tokens can stand in this one's place, the first and the first after them.

        Those of its kind; in a special token's place it is the only one.  Raises ValueError for a
        token that there is not.
        """
        if not 0 <= token < self.size:
            raise ValueError(f"expected a token from 0 to {self.size - 1}, got {token}")
        if token < self.specials:
            return token, token + 1
        return next(each for each in self.ranges.values() if token < each[1])

    def name(self, token: int) -> str:
        """Return a token as it is written: <bos>, <task FP>, visual 17, audio 2: 5, <text>."""
        if token == TEXT:
            return "<text>"
        named = [*SPECIALS, *(f"<task {name}>" for name in TASK_TOKENS)]
        if token < self.specials:
            return named[token] if token < len(named) else f"<special {token}>"
        first, _ = self.among(token)
        if first == self.specials:
            return f"visual {token - first}"
        return f"audio {1 + (first - self.specials - self.visual) // self.codes}: {token - first}"


# ---------------------------------------------------------------- 3.1 codes to tokens and back


def visual_tokens(codes: Int[Tensor, "b t h w"], vocabulary: Vocabulary) -> Int[Tensor, "b n"]:
    """Return the tokens of images' or clips' codes, frame by frame and row by row.

    Raises ValueError for codes that there are not.
    """
    check_codes(codes, vocabulary.visual)
    first, _ = vocabulary.ranges["visual"]
    return first + rearrange(codes, "b t h w -> b (t h w)")


def visual_codes(
    tokens: Int[Tensor, "b n"], vocabulary: Vocabulary, grid: tuple[int, int]
) -> Int[Tensor, "b t h w"]:
    """Return the codes of clips whose frames have a grid of (rows, columns): back again.

    Raises ValueError for tokens that are not of whole frames, or not visual.
    """
    h, w = grid
    if tokens.shape[1] % (h * w):
        raise ValueError(f"expected frames of {h} x {w} tokens, got {tokens.shape[1]} tokens")
    codes = tokens - vocabulary.ranges["visual"][0]
    check_codes(codes, vocabulary.visual)
    return rearrange(codes, "b (t h w) -> b t h w", h=h, w=w)


def audio_tokens(codes: Int[Tensor, "b t q"], vocabulary: Vocabulary) -> Int[Tensor, "b n"]:
    """Return the tokens of a sound's codes: the first level of the whole sound, then the second ...

    Every level has tokens of its own.  Raises ValueError for other levels than the vocabulary's,
    and for codes that there are not.
    """
    if codes.shape[2] != vocabulary.levels:
        raise ValueError(f"expected {vocabulary.levels} levels, got {codes.shape[2]}")
    check_codes(codes, vocabulary.codes)
    tokens = codes + first_of_levels(vocabulary).to(codes.device)  # b t q
    return rearrange(tokens, "b t q -> b (q t)")


def audio_codes(tokens: Int[Tensor, "b n"], vocabulary: Vocabulary) -> Int[Tensor, "b t q"]:
    """Return the codes of a sound of all levels: back again.

    Raises ValueError for tokens that are not all levels of one sound.
    """
    if not vocabulary.levels or tokens.shape[1] % vocabulary.levels:
        raise ValueError(f"expected {vocabulary.levels} levels, got {tokens.shape[1]} tokens")
    by_time = rearrange(tokens, "b (q t) -> b t q", q=vocabulary.levels)
    codes = by_time - first_of_levels(vocabulary).to(tokens.device)
    check_codes(codes, vocabulary.codes)
    return codes


def first_of_levels(vocabulary: Vocabulary) -> Int[Tensor, " q"]:
    """Return the token of code 0 of every level."""
    first = vocabulary.specials + vocabulary.visual
    return first + vocabulary.codes * torch.arange(vocabulary.levels)


def check_codes(codes: Int[Tensor, "..."], size: int) -> None:
    """Raise ValueError unless codes are from 0 to size - 1."""
    if codes.numel() and not (codes.min() >= 0 and codes.max() < size):
        raise ValueError(
            f"expected codes from 0 to {size - 1}, got some from {codes.min()} to {codes.max()}"
        )


# ---------------------------------------------------------------- 4.1 sequences


@dataclass(frozen=True)
class TaskSequence:
    """A batch of sequences of one task and one length: a prefix, and what is to be predicted.

    A place of the text has TEXT in place of a token.
    """

    tokens: Int[Tensor, "b n"]
    prefix: int  # tokens that are given

    @property
    def text(self) -> Bool[Tensor, " n"]:
        """Where the text's vectors go."""
        return self.tokens[0] == TEXT

    @property
    def loss_mask(self) -> Bool[Tensor, " n"]:
        """Which tokens are predicted."""
        return loss_mask(self.prefix, self.tokens.shape[1]).to(self.tokens.device)

    @property
    def output(self) -> Int[Tensor, "b m"]:
        """The tokens that are predicted."""
        return self.tokens[:, self.prefix :]

    def with_output(self, output: Int[Tensor, "b m"]) -> "TaskSequence":
        """Return the same beginning with other tokens after it."""
        return replace(self, tokens=torch.cat([self.tokens[:, : self.prefix], output], dim=1))


def find_task(task: str) -> Task:
    """Return a task of `TASKS`.  Raises ValueError for another name."""
    if task not in list(TASKS):
        raise ValueError(f"expected a task of {', '.join(TASKS)}, got {task!r}")
    return TASKS[task]


def task_sequence(
    task: str,
    vocabulary: Vocabulary,
    given: Mapping[str, Int[Tensor, "_ _"]],
    predicted: Mapping[str, Int[Tensor, "_ _"]],
    text: int = 0,
    marks: Iterable[str] = (),
) -> TaskSequence:
    """Put together what is given and what is to be predicted, each between its special tokens.

    given, predicted: tokens (b n) by kind, "visual" and "audio".  text: places for the vectors of
    the text, at most 64 in the paper.  marks: the special tokens at the end of the prefix,
    "<source>" and "<res>"; the paper gives <res> only for clips that are not square.  What a task
    has not leaves no trace.  An image's sequence (T2I) stops after its last token, without <eov_o>
    and <eos>, as if a clip were to go on.  Raises ValueError for what is not the task's.
    """
    check_parts(task, given, predicted, text)
    b = len(next(iter(predicted.values())))
    device = next(iter(predicted.values())).device

    def same(token: int, count: int = 1) -> Tensor:
        return torch.full((b, count), token, device=device)

    def special(name: str) -> Tensor:
        return same(vocabulary.special(name))

    prefix = [special("<bos>"), same(vocabulary.task(task))]
    if text:
        prefix += [special("<bot_i>"), same(TEXT, text), special("<eot_i>")]
    for kind in ("visual", "audio"):
        if kind in given:
            prefix += [special(f"<bo{kind[0]}_i>"), given[kind], special(f"<eo{kind[0]}_i>")]
    prefix += [special(mark) for mark in marks]

    output = []
    for kind in ("visual", "audio"):
        if kind in predicted:
            output += [special(f"<bo{kind[0]}_o>"), predicted[kind], special(f"<eo{kind[0]}_o>")]
    output = output[:-1] if task == "T2I" else [*output, special("<eos>")]

    length = sum(part.shape[1] for part in prefix)
    return TaskSequence(torch.cat([*prefix, *output], dim=1), length)


def check_parts(task: str, given: Mapping, predicted: Mapping, text: int) -> None:
    """Raise ValueError unless a task's sequence is made of these parts, all of one batch size."""
    expected = find_task(task)
    kinds = {kind for kind in expected.given if kind != "text"}
    if set(given) != kinds or set(predicted) != set(expected.predicted):
        raise ValueError(
            f"{task}: expected {sorted(kinds)} given and {sorted(expected.predicted)} predicted,"
            f" got {sorted(given)} and {sorted(predicted)}"
        )
    if text < 0 or ("text" in expected.given and not text) or (task == "unconditional" and text):
        wanted = "none" if task == "unconditional" else "at least one"
        raise ValueError(f"text: expected {wanted} of its places for {task}, got {text}")
    sizes = {len(part) for part in (*given.values(), *predicted.values())}
    if len(sizes) != 1:
        raise ValueError(f"expected parts of one batch size, got {sorted(sizes)}")


def predicted_tokens(
    sequence: TaskSequence, vocabulary: Vocabulary
) -> dict[str, Int[Tensor, "b _"]]:
    """Return the tokens of what is predicted by kind, "visual" and "audio", no special ones."""
    first = sequence.output[0]
    audio = vocabulary.specials + vocabulary.visual
    kinds = {"visual": (first >= vocabulary.specials) & (first < audio), "audio": first >= audio}
    return {kind: sequence.output[:, here] for kind, here in kinds.items() if here.any()}


def places_in_parts(sequence: TaskSequence, vocabulary: Vocabulary) -> Int[Tensor, " n"]:
    """Return how far each token is from the special token that begins its part.

    The places of a part count from 1; a special token's is 0.
    """
    row = sequence.tokens[0]
    count = torch.arange(len(row), device=row.device)
    special = (row >= 0) & (row < vocabulary.specials)
    begin = torch.where(special, count, 0).cummax(0).values
    return count - begin


# ---------------------------------------------------------------- 3.2 who sees whom


def prefix_mask(prefix: int, n: int) -> Bool[Tensor, "n n"]:
    """Return True where a token (row) may look at another (column).

    Those of the prefix see each other, both ways; each after it sees itself and all before it.
    """
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    return causal | (torch.arange(n) < prefix)


def loss_mask(prefix: int, n: int) -> Bool[Tensor, " n"]:
    """Section 4.1: return True where a token is predicted: after the prefix, special ones too."""
    return torch.arange(n) >= prefix


# ---------------------------------------------------------------- 4.2 the tasks of a training run


def draw_task(shares: Mapping[str, int | float], uniform: int | float) -> str:
    """Draw the task of a training step, all of whose batch is then of one length.

    shares: how often each task comes, in any unit; the paper does not publish its own.  Raises
    ValueError unless their sum is positive and 0 <= uniform < 1.
    """
    weights = torch.tensor([list(shares.values())], dtype=torch.float64)
    number = draw_tokens(weights, torch.tensor([uniform], dtype=torch.float64))
    return list(shares)[int(number)]


def image_share(step: int, steps: int) -> float:
    """Section 4.2: return the share of images in a training step: 0.9 in the first quarter.

    In the rest it is 0.1, and clips have the others.
    """
    return 0.9 if step < steps / 4 else 0.1
