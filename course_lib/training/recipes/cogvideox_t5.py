"""Notebook 09: the text encoder of the tiny text-to-video models, frozen for them as T5 is.

`cogvideox-t5` is a tiny T5 of the captions of the little world, trained with T5's own objective:
spans of words are hidden, a sentinel in the place of each, and a decoder says what was there
(Raffel et al., 2019, arXiv 1910.10683, section 3.1.4).  15 % of the words are hidden, in spans of
three on average where a text is long enough for several; of a caption that is one span of one to
four words.  Afterwards the encoder is all that is used: `embed_captions`.

Differs from T5: words are tokens, and padding is attended to while training, too, because the
text-to-video models attend to it (CogVideoX passes no mask to an encoder that was trained with
one).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from course_lib import zoo
from course_lib.nn.attention import causal_mask
from course_lib.nn.t5 import Block, Distances, RMSNorm, T5Config, T5Encoder
from course_lib.shapes import Float, Int
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.training.store import load_checkpoint, results
from course_lib.world import CAPTION_WORDS, VOCABULARY, LittleWorld, caption

TEXT_ENCODER = "cogvideox-t5"
LENGTH = 27  # tokens: the longest caption has 26 words, and the end is a token, too
PAD, END = 0, 1
WORDS = ("<pad>", "</s>", *CAPTION_WORDS)
NUMBERS = {word: number for number, word in enumerate(WORDS)}

# ---------------------------------------------------------------- captions as tokens


def caption_tokens(captions: Iterable[str], length: int = LENGTH) -> Int[Tensor, "b n"]:
    """Return the numbers of the words of captions, an end, and padding; "" is the end alone.

    <extra_id_0> is the first sentinel.  Raises ValueError, naming them, for words that no caption
    has, and for a caption that is too long.
    """
    rows = [_with_padding(_numbers(text), length, text) for text in captions]
    return torch.tensor(rows, dtype=torch.long).reshape(-1, length)


def _numbers(text: str) -> list[int]:
    sentinels = {f"<extra_id_{i}>": sentinel(i) for i in range(SENTINELS)}
    known = NUMBERS | sentinels
    words = re.findall(r"<extra_id_\d+>|\w+|[^\w\s]", text)
    unknown = [word for word in words if word not in known]
    if unknown:
        raise ValueError(
            f"expected words that captions of the little world have, got {', '.join(unknown)} in"
            f" {text!r}"
        )
    return [known[word] for word in words]


def _with_padding(numbers: list[int], length: int, text: str) -> list[int]:
    if len(numbers) >= length:
        raise ValueError(f"expected at most {length - 1} words, got {len(numbers)} in {text!r}")
    return [*numbers, END, *[PAD] * (length - 1 - len(numbers))]


CONFIG: T5Config = zoo.find("cogvideox/T5-tiny").config
SENTINELS = CONFIG.vocabulary - len(WORDS)


def sentinel(i: int) -> int:
    """Return the token of sentinel i; as in T5, the first one is the last token there is."""
    return CONFIG.vocabulary - 1 - i


def words_of(tokens: Int[Tensor, " n"]) -> str:
    """Return the words of tokens up to the end; a comma follows its word without a space."""
    words = []
    for token in tokens.tolist():
        if token == END:
            break
        name = f"<extra_id_{CONFIG.vocabulary - 1 - token}>"
        words.append(WORDS[token] if token < len(WORDS) else name)
    return " ".join(words).replace(" ,", ",")


# ---------------------------------------------------------------- the objective


def corrupt(
    text: list[int], uniform: list[float], hidden: float, span: float
) -> tuple[list[int], list[int]]:
    """Hide spans of a text: return what is left, with sentinels, and what the decoder is to say.

    Neither has its end yet.  hidden: the share of tokens; span: how many at a time, on average.
    uniform: at least as many numbers in [0, 1) as the text has tokens and one; they decide how
    the hidden tokens are shared among the spans, and between which of the others these lie.  Raises
    ValueError for too few numbers, for a text of less than two tokens, and for one with more spans
    than there are sentinels.
    """
    n = len(text)
    if n < 2 or len(uniform) <= n:
        raise ValueError(
            f"expected two tokens or more and a number more than tokens, got {n} tokens and"
            f" {len(uniform)} numbers"
        )
    m = min(max(round(hidden * n), 1), n - 1)
    spans = min(max(round(m / span), 1), n - m + 1)
    if spans >= SENTINELS:
        raise ValueError(f"expected fewer than {SENTINELS} spans, got {spans}")
    # Of the m - 1 places between hidden tokens, some end a span; of the n - m + 1 between, before
    # and after the others, each span has its own.
    ends = sorted(_lowest(uniform[: m - 1], spans - 1))
    lengths = [b - a for a, b in pairwise([-1, *ends, m - 1])]
    gaps = sorted(_lowest(uniform[m - 1 : n], spans))

    left: list[int] = []
    said: list[int] = []
    place = 0
    for i, (gap, length) in enumerate(zip(gaps, lengths, strict=True)):
        before = gap - (gaps[i - 1] if i else 0)
        left += [*text[place : place + before], sentinel(i)]
        place += before
        said += [sentinel(i), *text[place : place + length]]
        place += length
    return left + text[place:], [*said, sentinel(spans)]


def _lowest(numbers: list[float], count: int) -> list[int]:
    """Return the places of the `count` lowest numbers."""
    return sorted(range(len(numbers)), key=numbers.__getitem__)[:count]


def corrupt_all(
    tokens: Int[Tensor, "b n"], uniform: Float[Tensor, "b n"], hidden: float, span: float
) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b m"]]:
    """Hide spans of captions: return what is left and what is to be said, with ends and padding."""
    length = tokens.shape[1]
    pairs = []
    for row, numbers in zip(tokens.tolist(), uniform.tolist(), strict=True):
        parts = corrupt(row[: row.index(END)], numbers, hidden, span)
        pairs.append([_with_padding(part, length, "") for part in parts])
    left, said = torch.tensor(pairs, device=tokens.device).unbind(1)  # b n each
    return left, said[:, : int((said != PAD).sum(1).max())]


# ---------------------------------------------------------------- the model


class CaptionT5(nn.Module):
    """T5 in little: the encoder that the course keeps, and the decoder that it learns with."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.config = config
        self.encoder = T5Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, left: Int[Tensor, "b n"], said: Int[Tensor, "b m"]) -> Float[Tensor, "b m v"]:
        """Return the logits of all tokens to be said, from what is left and the tokens before."""
        start = said.new_full((len(said), 1), PAD)  # T5's decoder starts with the padding token
        return self.decoder(torch.cat([start, said[:, :-1]], dim=1), self.encoder(left))

    def loss(self, left: Int[Tensor, "b n"], said: Int[Tensor, "b m"]) -> Float[Tensor, " b"]:
        """Return the cross-entropy of every caption, in nats per token that is to be said."""
        logits = rearrange(self(left, said), "b m v -> b v m")
        nats = F.cross_entropy(logits, said, reduction="none", ignore_index=PAD)  # b m
        return nats.sum(1) / (said != PAD).sum(1)

    @torch.no_grad()
    def fill(self, left: Int[Tensor, "b n"], length: int = LENGTH) -> Int[Tensor, "b m"]:
        """Say what was hidden, always the likeliest token next."""
        context = self.encoder(left)
        said = left.new_full((len(left), 1), PAD)
        for _ in range(length):
            said = torch.cat([said, self.decoder(said, context)[:, -1:].argmax(-1)], dim=1)
        return said[:, 1:]


class Decoder(nn.Module):
    """T5's decoder: causal, and in every layer it attends to what the encoder says, too."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.distances = Distances(config)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        nn.init.normal_(self.head.weight, std=config.width**-0.5)

    def forward(
        self, said: Int[Tensor, "b m"], context: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b m v"]:
        m = said.shape[1]
        x = self.tokens(said)  # b m d
        is_ahead = ~causal_mask(m, m).to(x.device)  # m m
        bias = self.distances.bias(m).masked_fill(is_ahead, -torch.inf)  # heads m m
        for block in self.blocks:
            x = block(x, bias, context)  # b m d
        return self.head(self.norm(x))


class DecoderBlock(nn.Module):
    """The encoder's block, with attention to the encoder's tokens between its two parts."""

    def __init__(self, config: T5Config):
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.own = Block(config)
        self.norm = RMSNorm(config.width)
        self.query = nn.Linear(config.width, inner, bias=False)
        self.key_value = nn.Linear(config.width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, config.width, bias=False)
        nn.init.normal_(self.query.weight, std=(config.width * config.head_width) ** -0.5)
        nn.init.normal_(self.key_value.weight, std=config.width**-0.5)
        nn.init.normal_(self.out.weight, std=inner**-0.5)

    def forward(
        self,
        x: Float[Tensor, "b m d"],
        bias: Float[Tensor, "heads m m"],
        context: Float[Tensor, "b n d"],
    ) -> Float[Tensor, "b m d"]:
        x = x + self.own.attend(self.own.norm1(x), bias)  # b m d
        x = x + self.look_up(self.norm(x), context)  # b m d
        return x + self.own.mlp(self.own.norm2(x))

    def look_up(
        self, x: Float[Tensor, "b m d"], context: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b m d"]:
        """Attend to the encoder's tokens, wherever they stand: no distance counts here."""
        q = rearrange(self.query(x), "b m (heads d) -> b heads m d", heads=self.heads)
        k, v = rearrange(
            self.key_value(context), "b n (two heads d) -> two b heads n d", two=2, heads=self.heads
        )
        h = F.scaled_dot_product_attention(q, k, v, scale=1.0)  # b heads m d_h
        return self.out(rearrange(h, "b heads m d -> b m (heads d)"))


# ---------------------------------------------------------------- what the course uses


@lru_cache(maxsize=2)
def _encoder(device: str) -> T5Encoder:
    return load_checkpoint(TEXT_ENCODER, device)[0].encoder


@lru_cache(maxsize=4)
def _embedded(captions: tuple[str, ...], device: str) -> Float[Tensor, "b n d"]:
    return encode_all(_encoder(device), caption_tokens(captions).to(device))


@torch.no_grad()
def encode_all(encoder: T5Encoder, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    """Return the encoder's vectors of many captions, 1,000 at a time."""
    return torch.cat([encoder(part) for part in tokens.split(1000)])


def embed_captions(
    captions: Iterable[str], device: torch.device | str = "cpu"
) -> Float[Tensor, "b n d"]:
    """Return the frozen encoder's vectors of captions: 27 tokens, 64 wide; "" is no caption.

    They are computed once and kept: do not change them in place.  Raises ValueError for words that
    no caption has, and FileNotFoundError without the encoder's checkpoint.
    """
    captions = tuple(captions)
    if not captions:
        return torch.empty(0, LENGTH, CONFIG.width, device=device)
    return _embedded(captions, str(device))


def normalize_vectors(vectors: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """Take the mean of training captions from vectors, and divide by their deviation.

    Nearly half of a vector is what all have in common.  Without it a network that is trained for a
    minute sees colours at once.
    """
    details = results(TEXT_ENCODER)["details"]
    mean, deviation = (vectors.new_tensor(details[f"vectors' {x}"]) for x in ("mean", "deviation"))
    return (vectors - mean) / deviation


# ---------------------------------------------------------------- training


class SpanCorruption(Trainable):
    """T5's objective on captions; every step hides other spans."""

    model: CaptionT5

    def __init__(self, model: CaptionT5, hidden: float, span: float):
        super().__init__()
        self.model = model
        self.hidden = hidden
        self.span = span

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        tokens = batch["tokens"]
        left, said = corrupt_all(tokens, rng.rand(*tokens.shape), self.hidden, self.span)
        return self.model.loss(left, said).mean()


@dataclass(frozen=True)
class T5Recipe(Recipe):
    """A tiny T5 of the captions of clips: one to three objects, any motion, any camera."""

    lr_schedule: LRSchedule = "linear"
    preset: str = "cogvideox/T5-tiny"
    clips: int = 60_000  # whose captions are read
    hidden: float = 0.15  # share of words
    span: float = 3.0  # words at a time, on average

    def build(self) -> SpanCorruption:
        return SpanCorruption(CaptionT5(zoo.find(self.preset).config), self.hidden, self.span)

    def data(self) -> Tensors:
        return Tensors(tokens=caption_tokens(clip_captions("train", self.clips)))

    @torch.no_grad()
    def measure(self, model: CaptionT5) -> dict:
        """Measure guesses of hidden words of test captions, beside guesses that see less.

        And what a linear layer reads from the encoder about the first of several objects.
        """
        train = clip_captions("train", 10_000)
        test = clip_captions("test", 4000)
        uniform = RandomSource(0).rand(len(test), LENGTH)
        left, said = corrupt_all(caption_tokens(test), uniform, self.hidden, self.span)
        device = next(model.parameters()).device
        return {
            **guesses(model, left.to(device), said.to(device)),
            **simple_guesses(caption_tokens(train), left, said),
            **first_object(model.encoder, train, test),
            **in_common(model.encoder, train),
        }


def clip_captions(split: str, n: int) -> list[str]:
    """Return the captions of the first n clips of anything that the world has."""
    world = LittleWorld(split, frames=1, length=n)
    return [caption(world.scene(i)) for i in range(n)]


# ---------------------------------------------------------------- what is measured

KINDS = {name: [NUMBERS[word] for word in VOCABULARY[name]] for name in ("shape", "colour")}


def hidden_words(said: Int[Tensor, "b m"]) -> Tensor:
    """Return where words are said, rather than sentinels, ends and padding (b m)."""
    return (said != PAD) & (said != END) & (said < len(WORDS))


@torch.no_grad()
def guesses(model: CaptionT5, left: Int[Tensor, "b n"], said: Int[Tensor, "b m"]) -> dict:
    """Measure the model's guess of every hidden word, after the right ones before it in its span.

    And of whole spans, each word after the model's own; and of shapes and colours.
    """
    is_word = hidden_words(said)
    logits = model(left, said)
    is_right = logits.argmax(-1) == said
    filled = model.fill(left, said.shape[1])
    is_whole = ((filled == said) | (said == PAD)).all(1)
    nats = F.cross_entropy(logits[is_word], said[is_word])
    of_kind = {name: is_word & torch.isin(said, said.new_tensor(KINDS[name])) for name in KINDS}
    kinds = {
        f"{name} right": float(is_right[those].float().mean()) for name, those in of_kind.items()
    }
    return {
        "right": _share(is_right, is_word),
        "nats": float(nats),
        "whole spans right": float(is_whole.float().mean()),
        **kinds,
        "hidden words": int(is_word.sum()),
        "hidden a caption": float(is_word.sum(1).float().mean()),
    }


def _share(is_right: Tensor, those: Tensor) -> float:
    return float(is_right[those].float().mean())


def simple_guesses(
    train: Int[Tensor, "k n"], left: Int[Tensor, "b n"], said: Int[Tensor, "b m"]
) -> dict:
    """Measure what is right by chance, by the commonest word, and by the word before."""
    followers: dict[int, Counter] = defaultdict(Counter)
    for row in train.tolist():
        for one, other in pairwise([PAD, *row[: row.index(END)]]):
            followers[one][other] += 1
    counts = sum(followers.values(), Counter())
    commonest = counts.most_common(1)[0][0]

    hits: Counter = Counter()
    for visible, hidden in zip(left.tolist(), said.tolist(), strict=True):
        before = PAD
        for token in hidden[: hidden.index(END)]:
            if token >= len(WORDS):  # a sentinel: the word before it is visible
                place = visible.index(token) if token in visible else 0
                before = visible[place - 1] if place else PAD
                continue
            hits["words"] += 1
            hits["commonest"] += token == commonest
            hits["before"] += token == followers[before].most_common(1)[0][0]
            before = token
    return {
        "right by chance": 1 / len(CAPTION_WORDS),
        "right by the commonest": hits["commonest"] / hits["words"],
        "right by the word before": hits["before"] / hits["words"],
    }


def in_common(encoder: T5Encoder, captions: list[str]) -> dict:
    """Measure how long the mean vector is, beside the vectors; and mean and deviation by number."""
    device = next(encoder.parameters()).device
    vectors = encode_all(encoder, caption_tokens(captions).to(device)).flatten(0, 1)  # b*n d
    mean = vectors.mean(0)
    return {
        "length of the mean vector": float(mean.norm()),
        "mean length of vectors": float(vectors.norm(dim=1).mean()),
        "vectors' mean": mean.tolist(),
        "vectors' deviation": vectors.std(0).tolist(),
    }


@torch.no_grad()
def first_object(encoder: T5Encoder, train: list[str], test: list[str]) -> dict:
    """Measure how often a linear layer reads the colour and shape of the first of several objects.

    It sees the mean of a caption's vectors, which does not say where they stood: what the words
    have to do with each other must be in the vectors themselves.  Beside the encoder: its words
    before any layer, and a fresh encoder.
    """
    fresh = T5Encoder(encoder.config)
    measured = {}
    for name, those in KINDS.items():
        sides = []
        for captions in (train, test):
            tokens = caption_tokens(captions)
            is_kind = torch.isin(tokens, torch.tensor(those))
            tokens = tokens[is_kind.sum(1) > 1]
            first = torch.isin(tokens, torch.tensor(those)).int().argmax(1, keepdim=True)
            classes = tokens.gather(1, first)[:, 0] - those[0]
            sides.append((tokens, classes))
        views = {
            "": encoder,
            " from words alone": encoder.tokens,
            " from a fresh encoder": fresh,
        }
        for label, view in views.items():
            score = _linear_score(view.cpu(), *sides[0], *sides[1], len(those))
            measured[f"first {name} read{label}"] = score
    return measured


def _linear_score(
    view: nn.Module, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, classes: int
) -> float:
    """Fit a ridge regression on the means of vectors and return the share of right classes."""
    means = [F.pad(view(part).mean(1), (0, 1), value=1.0).double() for part in (x, x_test)]
    targets = F.one_hot(y, classes).double()
    ridge = 1e-3 * len(x) * torch.eye(means[0].shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(means[0].T @ means[0] + ridge, means[0].T @ targets)
    return float(((means[1] @ weights).argmax(1) == y_test).float().mean())


# ---------------------------------------------------------------- the recipes

CAPTIONS = T5Recipe(
    TEXT_ENCODER,
    steps=6000,
    batch_size=64,
    learning_rate=2e-3,
    warmup=200,
    ema=0.995,
    checkpoint_dtype="float16",
)

RECIPES: list[Recipe] = [CAPTIONS]
