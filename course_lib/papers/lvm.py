"""LVM, Sequential Modeling Enables Scalable Learning for Large Vision Models.

Bai et al., 2023, arXiv 2312.00785.  A model that has never seen a word: it reads sentences of
images, each of them 256 codes, and predicts the next code.  Whatever can be drawn as an image is a
task that it can be shown two examples of.

Reading order: the sentences it is trained on and the prompts it is given (sections 3 and 4.3) are
`course_lib.papers.lvm_sentences`; then, here, the configurations; the transformer, LLaMA's (4.2),
whose block is `course_lib.lm.llama` and the rotation of its queries and keys `course_lib.nn.rope`;
its loss; drawing images (4.3); perplexity (5.1).

Differs from the paper and the official code:
- BOS and EOS are the first two of the 100 tokens that are no codes.  Their numbers were not
  published.
- A prompt may begin with BOS, as the sentences do, and then BOS stays in front when images leave
  the context.  The official code prompts without it.
- q, k and v are one layer, and so are the two halves of the MLP's first.  The official code
  computes attention and MLP in blocks, which changes no number.
- Documents can be kept apart by a mask.  Neither the paper nor the code does it.
- The tiny ones add an embedding of a token's place in its image (`image_places`); LLaMA has none.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import nn

from course_lib.lm.kv_cache import KVCache
from course_lib.lm.llama import Block, initialize
from course_lib.lm.sampling import generate, generate_from_uniform
from course_lib.nn.attention import causal_mask
from course_lib.nn.norm import RMSNorm
from course_lib.nn.rope import turns_of_places
from course_lib.shapes import Bool, Float, Int, PerSample, Tensor

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class LVMConfig:
    """The transformer's shape, and the images that it reads.  Defaults: the paper's largest, 3B."""

    width: int = 3200
    mlp: int = 8640  # width of the MLP's hidden layer, about 8/3 of the width
    depth: int = 26
    heads: int = 32
    image: tuple[int, int] = (16, 16)  # rows and columns of an image's codes
    num_codes: int = 8192
    specials: int = 100  # tokens that are no codes; their numbers follow those of the codes
    context: int = 4096  # tokens
    image_places: bool = False  # whether a token also knows its place in its image
    norm_eps: float = 1e-6

    def __post_init__(self):
        if self.width % self.heads or self.head_width % 2:
            raise ValueError(
                f"heads: expected a divisor of width {self.width}, for heads of an even width, for"
                f" pairs, got {self.heads}"
            )
        if self.specials < 2:
            raise ValueError(f"specials: expected at least 2, BOS and EOS, got {self.specials}")
        if self.context < self.image_tokens:
            raise ValueError(
                f"context: expected at least the {self.image_tokens} tokens of an image, got"
                f" {self.context}"
            )

    @property
    def head_width(self) -> int:
        """Numbers of a query."""
        return self.width // self.heads

    @property
    def vocabulary(self) -> int:
        """Tokens that there are: the codes, then the others."""
        return self.num_codes + self.specials

    @property
    def bos(self) -> int:
        """The token that begins a sentence."""
        return self.num_codes

    @property
    def eos(self) -> int:
        """The token that ends a sentence."""
        return self.num_codes + 1

    @property
    def image_tokens(self) -> int:
        """Tokens of an image."""
        return self.image[0] * self.image[1]

    @property
    def images(self) -> int:
        """Images that the context holds."""
        return self.context // self.image_tokens


LVM_CONFIGS = {  # the paper has 300M to 3B; the code also 100M and 7B, which was released
    "LVM-100M": LVMConfig(width=640, mlp=1664, depth=22, heads=10),
    "LVM-300M": LVMConfig(width=1024, mlp=2688, depth=22, heads=8),
    "LVM-600M": LVMConfig(width=1536, mlp=4096, depth=22, heads=16),
    "LVM-1B": LVMConfig(width=2048, mlp=5504, depth=22, heads=16),
    "LVM-3B": LVMConfig(),
    "LVM-7B": LVMConfig(width=4096, mlp=11008, depth=32, heads=32),
}
TINY = LVMConfig(
    width=192,
    mlp=512,
    depth=4,
    heads=3,
    image=(8, 8),
    num_codes=512,
    specials=2,
    context=1024,
    image_places=True,
)
LVM_CONFIGS |= {
    "LVM-tiny": TINY,
    "LVM-micro": replace(TINY, width=128, mlp=344, depth=3, heads=2),
    "LVM-nano": replace(TINY, width=64, mlp=176, depth=3, heads=1),
}


# ---------------------------------------------------------------- 4.2 the transformer


class Transformer(nn.Module):
    """LLaMA on the codes of images: from the tokens so far to the logits of the next one."""

    def __init__(self, config: LVMConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        if config.image_places:
            self.places = nn.Embedding(1 + config.image_tokens, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.mlp, config.heads, config.norm_eps)
            for _ in range(config.depth)
        )
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        initialize(self)

    def forward(
        self,
        tokens: Int[Tensor, "b n"],
        cache: KVCache | None = None,
        documents: Int[Tensor, "b n"] | None = None,
        places: Int[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n v"]:
        """Return the logits of the token after each; a cache holds the tokens of earlier calls.

        documents: the sentence of its row that each token is of; tokens then see their own only.
        Without, all see all that came before.  places: of each token in its image, if the row does
        not begin with BOS; see `places_after_bos`.  Raises ValueError for more tokens than the
        context holds, and for documents together with a cache.
        """
        return self.head(self.features(tokens, cache, documents, places))

    def next_logits(
        self, tokens: Int[Tensor, "b n"], cache: KVCache | None = None
    ) -> Float[Tensor, "b v"]:
        """Return the logits of the token after the last, and of no other."""
        return self.head(self.features(tokens, cache)[:, -1])

    def features(
        self,
        tokens: Int[Tensor, "b n"],
        cache: KVCache | None = None,
        documents: Int[Tensor, "b n"] | None = None,
        places: Int[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Return the vectors from which the head makes logits.

        The arguments and the ValueErrors are those of `forward`.
        """
        past = 0 if cache is None else len(cache)
        end = past + tokens.shape[1]
        if end > self.config.context:
            raise ValueError(f"expected at most {self.config.context} tokens, got {end}")
        if documents is not None and cache is not None:
            raise ValueError("documents: expected none beside a cache, got some")

        x = self.tokens(tokens)  # b n d
        if self.config.image_places:
            if places is None:
                places = places_after_bos(past, end, self.config.image_tokens).to(x.device)
            x = x + self.places(places)
        turns = turns_of_places(past, tokens.shape[1], self.config.head_width).to(x.device)
        mask = None if documents is None else document_mask(documents)  # b 1 n n
        for layer, block in enumerate(self.blocks):
            x = block(x, turns, layer, cache, mask)  # b n d
        return self.norm(x)


def places_after_bos(start: int, end: int, image_tokens: int) -> Int[Tensor, " n"]:
    """Return the place in its image of the tokens from `start` to `end` of a row of images.

    The row begins with BOS, which is in no image: place 0.  Those of an image are 1 to its number
    of tokens.
    """
    place = torch.arange(start, end)
    return torch.where(place > 0, 1 + (place - 1) % image_tokens, 0)


def document_mask(documents: Int[Tensor, "b n"]) -> Bool[Tensor, "b 1 n n"]:
    """Return True where a token (row) may look at another (column): of its document, not later.

    Positions need not start anew in every document: a rotation tells how far apart two tokens are,
    and no more.
    """
    n = documents.shape[1]
    same = rearrange(documents, "b n -> b 1 n 1") == rearrange(documents, "b n -> b 1 1 n")
    return same & causal_mask(n, n).to(documents.device)


# ---------------------------------------------------------------- 4.2 the loss


def next_token_loss(
    logits: Float[Tensor, "b n v"], tokens: Int[Tensor, "b n+1"]
) -> Float[Tensor, "b n"]:
    """Return -ln p of every token but the first, in nats.

    logits: those that the model gives after each token but the last, which nothing follows.  The
    mean is what is minimized: over codes and special tokens, of images and maps alike.
    """
    following = tokens[:, 1:]  # b n
    flat = rearrange(logits, "b n v -> (b n) v")
    losses = F.cross_entropy(flat, following.flatten().long(), reduction="none")  # b*n
    return losses.view_as(following)


def sentence_losses(
    model: Transformer,
    tokens: Int[Tensor, "b n"],
    documents: Int[Tensor, "b n"] | None = None,
    places: Int[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b n-1"]:
    """Return `next_token_loss` of a batch of rows, for all their tokens but the first."""
    seen = [None if each is None else each[:, :-1] for each in (documents, places)]
    documents, places = seen
    logits = model(tokens[:, :-1], documents=documents, places=places)
    return next_token_loss(logits, tokens)


# ---------------------------------------------------------------- 4.3 drawing images


def decode_images(
    model: Transformer, prompt: Int[Tensor, "b n"], count: int = 1, **options
) -> Int[Tensor, "b count h w"]:
    """Draw the codes of `count` images after a prompt, one by one in reading order.

    Nothing but codes can be drawn, and exactly as many as the images have: no token that is none,
    and so no end before that.  The options are those of `lm.sampling.generate`, `temperature` and
    `top_p` among them.  Raises ValueError for an empty prompt, for what the context does not hold,
    and, of a model that knows the places of tokens, for a prompt that does not begin with BOS.
    """
    check_start(prompt, model.config)
    h, w = model.config.image
    codes = generate(model, prompt, count * h * w, among=model.config.num_codes, **options)
    return rearrange(codes, "b (count h w) -> b count h w", count=count, h=h, w=w)


def decode_image(
    model: Any,
    prompt: Int[Tensor, "b n"],
    uniform: Float[Tensor, "codes b"],
    temperature: int | float = 1.0,
    top_p: int | float | None = None,
) -> Int[Tensor, "b h w"]:
    """Draw the codes of the image after a prompt, in reading order, with the caller's numbers.

    model: one that `generate` takes, with a configuration of ours.  uniform: in [0, 1), as many for
    each prompt as an image has codes; the first of them draws the first code.  Raises the
    ValueErrors of `decode_images`.
    """
    check_start(prompt, model.config)
    h, w = model.config.image
    codes = generate_from_uniform(
        model,
        prompt,
        uniform,
        temperature=temperature,
        top_p=top_p,
        among=model.config.num_codes,
    )
    return rearrange(codes, "b (h w) -> b h w", h=h, w=w)


def check_start(prompt: Int[Tensor, "b n"], config: LVMConfig) -> None:
    """Raise ValueError if the model knows the places of tokens and a prompt lacks BOS in front."""
    if config.image_places and not (prompt[:, :1] == config.bos).all():
        raise ValueError(
            f"expected a prompt that begins with BOS ({config.bos}), got {prompt[:, :1]}"
        )


def continue_sentence(
    model: Transformer, prompt: Int[Tensor, "b n"], count: int, **options
) -> Int[Tensor, "b count h w"]:
    """Draw `count` images after a prompt of whole images, more than the context holds, too.

    Once the context is full, each image is drawn given the last 15 (one fewer than the context
    holds), and BOS in front of them if the prompt has it there.  The options are those of
    `decode_images`.  Raises ValueError for a prompt of other than whole images after BOS or
    nothing.
    """
    size = model.config.image_tokens
    start, images = split_prompt(prompt, model.config)
    drawn = []
    while count > 0:
        images = images[:, max(images.shape[1] - (model.config.images - 1) * size, 0) :]
        now = min(count, model.config.images - images.shape[1] // size)
        new = decode_images(model, torch.cat([start, images], dim=1), now, **options)
        images = torch.cat([images, new.flatten(1)], dim=1)  # b n
        drawn.append(new)
        count -= now
    if not drawn:
        return prompt.new_empty(len(prompt), 0, *model.config.image)
    return torch.cat(drawn, dim=1)


def split_prompt(
    prompt: Int[Tensor, "b n"], config: LVMConfig
) -> tuple[Int[Tensor, "b start"], Int[Tensor, "b images"]]:
    """Return BOS, if a prompt begins with it, and the codes of its images.

    Raises ValueError for a prompt of anything else.
    """
    begin = prompt.shape[1] % config.image_tokens
    start, images = prompt[:, :begin], prompt[:, begin:]
    if begin > 1 or not (start == config.bos).all() or not (images < config.num_codes).all():
        raise ValueError(
            f"expected BOS ({config.bos}) or nothing, then images of {config.image_tokens} codes"
            f" below {config.num_codes}, got {prompt.shape[1]} tokens: {prompt[0, :3].tolist()} ..."
        )
    return start, images


# ---------------------------------------------------------------- 5.1 perplexity


def perplexity_by_image(
    losses: Float[Tensor, "b n"], image_tokens: int
) -> Float[Tensor, "b images"]:
    """Return exp of the mean of -ln p over the tokens of each image.

    losses: -ln p of every code of one image after another, in nats.  Raises ValueError unless they
    are those of whole images.
    """
    if image_tokens < 1 or losses.shape[1] % image_tokens:
        raise ValueError(
            f"expected whole images of {image_tokens} tokens, got {losses.shape[1]} tokens"
        )
    return reduce(losses, "b (images n) -> b images", "mean", n=image_tokens).exp()


@torch.no_grad()
def perplexity(
    model: Transformer, prompt: Int[Tensor, "b m"], target: Int[Tensor, "b n"]
) -> PerSample:
    """Return each example's perplexity: exp of the mean of -ln p of its target after its prompt.

    All tokens of the vocabulary compete, as in the official code; a data set's perplexity is the
    mean over examples.  Raises ValueError for an empty prompt or target.
    """
    if not prompt.shape[1] or not target.shape[1]:
        raise ValueError(
            "expected a prompt and a target of at least one token, got"
            f" {prompt.shape[1]} and {target.shape[1]}"
        )
    last = prompt.shape[1] - 1
    tokens = torch.cat([prompt, target], dim=1)  # b m+n
    features = model.features(tokens[:, :-1])[:, last:]  # b n d
    losses = next_token_loss(model.head(features), tokens[:, last:])  # b n
    return perplexity_by_image(losses, target.shape[1])[:, 0]
