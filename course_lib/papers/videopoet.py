"""VideoPoet: A Large Language Model for Zero-Shot Video Generation.

Kondratyuk et al., 2023, arXiv 2312.14125.  One next-token model of clips, images and sound: a
transformer reads what a task gives, all of it at once, and writes the rest token by token.

Reading order: the vocabulary and the sequences of every task (3.1, 4.1) are
`course_lib.papers.videopoet_sequences`; then, here, the configurations; the transformer (3.2),
whose block is `course_lib.lm.llama`; its loss (4.1); generation, under guidance by the text; clips
and sounds that go on for longer than the model was trained for (5.4).

What the paper leaves open, and what is done here:
- Layers and widths of its 300M, 1B and 8B.  They were not published: the presets of these names
  are ours, chosen so that all but the tables of tokens and the text's layer has about that many
  parameters.  Whether the paper counts the tables is not said either.
- The layers themselves: LLaMA's, with positions by rotation.  Nothing limits a sequence's length.
- How 2^18 visual tokens are embedded and predicted: like all others, by a table and a head, not in
  the two factors of MAGVIT-v2.
- The text's encoder is "T5 XL"; the width of its vectors is 2,048 in version 1.1, 1,024 in the
  first.  Their padding is read like the rest.
- Guidance of the language model.  The paper tells of it for its super-resolution.  Here training
  puts zeros in place of some texts (`course_lib.diffusion.guidance.drop_context`), so that the bias
  of the text's layer is what the model learns of no text, and generation goes from there.
- What follows is drawn among the tokens of the kind that is due.  No token ends a clip early.
- The tiny ones add an embedding of a token's place in its clip or sound (`places`), as LVM's do.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.diffusion.guidance import guide
from course_lib.lm.kv_cache import KVCache
from course_lib.lm.llama import Block, initialize
from course_lib.lm.sampling import draw_tokens, next_token_probabilities
from course_lib.nn.norm import RMSNorm
from course_lib.nn.rope import turns_of_places
from course_lib.papers.videopoet_sequences import (
    TaskSequence,
    Vocabulary,
    places_in_parts,
    predicted_tokens,
    prefix_mask,
    task_sequence,
    visual_codes,
    visual_tokens,
)
from course_lib.shapes import Float, Int, Tensor

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class VideoPoetConfig:
    """The transformer's shape, and the tokens that it reads.  Defaults: our choice for 8B."""

    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    text_width: int = 2048  # of the vectors that the text's encoder gives
    width: int = 4096
    mlp: int = 11008  # width of the MLP's hidden layer, about 8/3 of the width
    depth: int = 40
    heads: int = 32
    places: int = 0  # in the longest part of a sequence, if a token is to know its own; 0: not
    norm_eps: float = 1e-6

    def __post_init__(self):
        if self.width % self.heads or self.head_width % 2:
            raise ValueError(
                f"heads: expected a divisor of width {self.width}, for heads of an even width, for"
                f" pairs, got {self.heads}"
            )

    @property
    def head_width(self) -> int:
        """Numbers of a query."""
        return self.width // self.heads


VIDEOPOET_CONFIGS = {  # the paper's names, our layers and widths
    "300M": VideoPoetConfig(width=1024, mlp=2688, depth=24, heads=16),
    "1B": VideoPoetConfig(width=2048, mlp=5504, depth=20, heads=16),
    "8B": VideoPoetConfig(),
}
TINY = VideoPoetConfig(
    vocabulary=Vocabulary(specials=32, visual=2**10, levels=4, codes=64),
    text_width=64,
    width=192,
    mlp=512,
    depth=4,
    heads=3,
    places=512,
)
VIDEOPOET_CONFIGS |= {
    "tiny": TINY,
    "micro": replace(TINY, width=128, mlp=344, depth=3, heads=2),
}


# ---------------------------------------------------------------- 3.2 the transformer


class Transformer(nn.Module):
    """A decoder whose prefix is read both ways: from the tokens so far to the next one's logits."""

    def __init__(self, config: VideoPoetConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary.size, config.width)
        self.text = nn.Linear(config.text_width, config.width)
        if config.places:
            self.places = nn.Embedding(1 + config.places, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.mlp, config.heads, config.norm_eps)
            for _ in range(config.depth)
        )
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = nn.Linear(config.width, config.vocabulary.size, bias=False)
        initialize(self)
        nn.init.zeros_(self.text.bias)

    def forward(
        self, sequence: TaskSequence, text: Float[Tensor, "b m text"] | None = None
    ) -> Float[Tensor, "b n v"]:
        """Return the logits of the token after each.

        text: the encoder's vectors, one for each of the sequence's places of text.  Raises
        ValueError where there are others.
        """
        embedded = self.embed(sequence, text)  # b n d
        return self.head(self.features(embedded, sequence.prefix))

    def embed(
        self, sequence: TaskSequence, text: Float[Tensor, "b m text"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Return the vectors of a sequence's tokens, with those of the text in their places.

        The arguments and the ValueErrors are those of `forward`.
        """
        x = self.embed_tokens(sequence.tokens.clamp(min=0), self.token_places(sequence))  # b n d
        at = sequence.text.nonzero()[:, 0]  # m
        vectors = 0 if text is None else text.shape[1]
        if vectors != len(at):
            raise ValueError(f"text: expected {len(at)} vectors a sequence, got {vectors}")
        if text is None:
            return x
        return x.index_copy(1, at, self.text(text).to(x.dtype))

    def embed_tokens(
        self, tokens: Int[Tensor, "b n"], places: Int[Tensor, " n"] | None
    ) -> Float[Tensor, "b n d"]:
        """Return the vectors of tokens, and of their places if the model knows any."""
        x = self.tokens(tokens)  # b n d
        return x if places is None else x + self.places(places)

    def token_places(self, sequence: TaskSequence) -> Int[Tensor, " n"] | None:
        """Return each token's place in its part, if the model knows any.

        Raises ValueError for a part of more places than it knows.
        """
        if not self.config.places:
            return None
        places = places_in_parts(sequence, self.config.vocabulary)
        if places.max() > self.config.places:
            raise ValueError(
                f"expected parts of at most {self.config.places} tokens, got {int(places.max())}"
            )
        return places

    def features(
        self, x: Float[Tensor, "b n d"], prefix: int, cache: KVCache | None = None
    ) -> Float[Tensor, "b n d"]:
        """Return the vectors from which the head makes logits.

        x: the embedded tokens; a cache holds those of earlier calls.  Raises ValueError unless the
        first call has the whole prefix, whose tokens see each other.
        """
        past = 0 if cache is None else len(cache)
        end = past + x.shape[1]
        if prefix > (past or end):
            raise ValueError(
                f"expected the whole prefix of {prefix} tokens in the first call, got {past or end}"
            )

        mask = None  # a single token sees all
        if x.shape[1] > 1:
            mask = prefix_mask(prefix, end)[past:].to(x.device)  # n past+n
        turns = turns_of_places(past, x.shape[1], self.config.head_width).to(x.device)
        for layer, block in enumerate(self.blocks):
            x = block(x, turns, layer, cache, mask)  # b n d
        return self.norm(x)

    def next_logits(
        self,
        x: Float[Tensor, "b n d"],
        prefix: int,
        cache: KVCache | None,
        among: tuple[int, int],
    ) -> Float[Tensor, "b v"]:
        """Return the logits of the token after the last, of those from among[0] to among[1] - 1."""
        last = self.features(x, prefix, cache)[:, -1]  # b d
        return F.linear(last, self.head.weight[among[0] : among[1]])


# ---------------------------------------------------------------- 4.1 the loss


def output_losses(
    model: Transformer, sequence: TaskSequence, text: Float[Tensor, "b m text"] | None = None
) -> Float[Tensor, "b m2"]:
    """Return -ln p of every token after the prefix, in nats; their mean is what is minimized.

    The whole vocabulary competes.  The arguments and the ValueErrors are those of `Transformer`.
    """
    x = model.features(model.embed(sequence, text), sequence.prefix)  # b n d
    predicted = sequence.loss_mask[1:]  # n-1
    logits = model.head(x[:, :-1][:, predicted])  # b m2 v
    following = sequence.tokens[:, 1:][:, predicted]  # b m2
    losses = F.cross_entropy(logits.flatten(0, 1), following.flatten().long(), reduction="none")
    return losses.view_as(following)


# ---------------------------------------------------------------- 3.2 generation


@torch.no_grad()
def generate(
    model: Transformer,
    sequence: TaskSequence,
    text: Float[Tensor, "b m text"] | None = None,
    *,
    scale: int | float = 1.0,
    temperature: int | float = 1.0,
    top_k: int | None = None,
    top_p: int | float | None = None,
    generator: torch.Generator | None = None,
    cache: bool = True,
) -> TaskSequence:
    """Draw all that a sequence predicts, token by token, in evaluation mode.

    Of the tokens after the prefix only the kinds count: each is drawn among those that can stand in
    its place, and special ones are put where they are.  The same random numbers give the same
    tokens with a cache of keys and values and without; they come from the CPU.  scale: that of
    guidance by the text; 1 is none.  Raises ValueError for guidance without a text, for the texts
    that `Transformer` refuses and the settings that `next_token_probabilities` does.
    """
    if scale != 1 and text is None:
        raise ValueError(f"scale: expected 1 without a text, got {scale}")
    given = replace(sequence, tokens=sequence.tokens[:, : sequence.prefix])
    copies = 1 if scale == 1 else 2  # without the text and with it, as one batch
    if text is not None and copies == 2:
        given = replace(given, tokens=given.tokens.repeat(2, 1))
        text = torch.cat([torch.zeros_like(text), text])  # 2*b m text

    due = [model.config.vocabulary.among(token) for token in sequence.output[0].tolist()]
    output = torch.empty_like(sequence.output)  # b m
    uniforms = torch.rand(len(due), len(output), generator=generator).to(output.device)
    places = model.token_places(sequence)
    held = KVCache(model.config.depth, sequence.tokens.shape[1]) if cache else None

    x = model.embed(given, text)  # copies*b n d: what the model has not read, or all
    for step, among in enumerate(due):
        drawn = output.new_full(output.shape[:1], among[0])  # b
        if among[1] - among[0] > 1:
            logits = model.next_logits(x, sequence.prefix, held, among)  # copies*b v
            if copies == 2:
                logits = guided_logits(logits, scale)  # b v
            probabilities = next_token_probabilities(logits, temperature, top_k, top_p)
            drawn = drawn + draw_tokens(probabilities, uniforms[step])
            x = x[:, :0] if cache else x
        output[:, step] = drawn
        at = None if places is None else places[sequence.prefix + step, None]
        x = torch.cat([x, model.embed_tokens(drawn[:, None].repeat(copies, 1), at)], dim=1)
    return sequence.with_output(output)


def guided_logits(both: Float[Tensor, "b2 v"], scale: int | float) -> Float[Tensor, "b v"]:
    """Guide the next token by the text: go `scale` times from the logits without it to those with.

    both: the logits of a batch without its texts, then with them.  They are log-probabilities but
    for a constant, so that p ~ p_without (p_with / p_without)^scale.
    """
    without, conditional = both.chunk(2)
    return guide(conditional, without, scale)


# ---------------------------------------------------------------- 5.4 longer clips


def predict_frames(
    model: Transformer,
    codes: Int[Tensor, "b t h w"],
    count: int,
    text: Float[Tensor, "b m text"] | None = None,
    **options,
) -> Int[Tensor, "b count h w"]:
    """Draw the codes of what follows a clip, for `count` more times: the task FP.

    The options are those of `generate`, and so are the ValueErrors.
    """
    vocabulary = model.config.vocabulary
    blank = codes.new_zeros(len(codes), count, *codes.shape[2:])
    sequence = task_sequence(
        "FP",
        vocabulary,
        given={"visual": visual_tokens(codes, vocabulary)},
        predicted={"visual": visual_tokens(blank, vocabulary)},
        text=0 if text is None else text.shape[1],
    )
    drawn = predicted_tokens(generate(model, sequence, text, **options), vocabulary)
    h, w = codes.shape[2:]
    return visual_codes(drawn["visual"], vocabulary, (h, w))


def continue_clip(
    clip: Float[Tensor, "b c t h w"],
    chunks: int,
    overlap: int,
    encode: Callable[[Tensor], Tensor],
    predict: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
) -> Float[Tensor, "b c t2 h w"]:
    """Section 5.4: let a clip go on, `chunks` times, each given the end of what there is.

    overlap: frames of that end, a second's and the one it begins with: 9 at 8 frames a second.
    encode: frames (b c t h w) to codes (b t2 h2 w2); predict: codes to those that follow; decode:
    codes to frames.  The end is encoded anew, for its first frame has codes of its own, which tell
    nothing of the frames before it.  Raises ValueError for a clip that is shorter than the overlap.
    """
    if not 1 <= overlap <= clip.shape[2]:
        raise ValueError(f"overlap: expected 1 to the clip's {clip.shape[2]} frames, got {overlap}")
    for _ in range(chunks):
        shown = encode(clip[:, :, -overlap:])  # b t2 h2 w2
        codes = torch.cat([shown, predict(shown)], dim=1)  # b t3 h2 w2
        frames = decode(codes)[:, :, overlap:]  # b c t4 h w
        clip = torch.cat([clip, frames], dim=2)
    return clip
