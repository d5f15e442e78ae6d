"""MAGVIT: Masked Generative Video Transformer.  Yu et al., 2022, arXiv 2212.05199.

Read its tokenizer first, `course_lib.papers.magvit_tokenizer` (section 3.1).  Reading order here:
the configurations; the ten tasks (3.2, appendix B.1); the transformer on tokens; what it is shown
and what it must predict (3.2, COMMIT); decoding (Algorithm 1).  Clips are (b c t h w) in [-1, 1],
tokens are a grid (b t h w), read frame by frame and row by row.

Differs from the paper, following the official code:
- UCF-101 has one task and no task token: 1025 places.  With tasks there are 1026, as in the paper.
- That code gives all outpaintings one task token, and all inpaintings another; here every task has
  its own.
- Which tokens belong to the condition is decided by the task's rule on the grid of tokens: see
  `task_mask`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from einops import reduce
from torch import nn

from course_lib.lm.maskgit import Decoding, parallel_decode, remask
from course_lib.nn.transformer import Bert, BertHead, truncated_normal_
from course_lib.papers.magvit_tokenizer import Tokenizer
from course_lib.shapes import Bool, Float, Int, Tensor

# ---------------------------------------------------------------- configurations

TASKS = ("FP", "FI", "OPC", "OPV", "OPH", "OPD", "IPC", "IPD", "CG", "CFP")


@dataclass(frozen=True)
class BertConfig:
    """The transformer and its vocabulary: codes, classes and the class "none", special tokens.

    One task needs no task token and one special token, [MASK]; several tasks have 16 places for
    them.  Defaults: B on UCF-101.
    """

    grid: tuple[int, int, int] = (4, 16, 16)
    num_codes: int = 1024
    num_classes: int = 101
    multi_task: bool = False
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3072
    dropout: float = 0.1

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"heads: expected a divisor of width {self.width}, got {self.heads}")

    @property
    def vocabulary(self) -> int:
        """The number of all tokens.  The last one is [MASK]."""
        special = 16 if self.multi_task else 1
        return self.num_codes + self.num_classes + 1 + special

    @property
    def mask_token(self) -> int:
        return self.vocabulary - 1

    @property
    def prefix_length(self) -> int:
        """Tokens before the grid's: the task's, where there are several, and the class's."""
        return 2 if self.multi_task else 1

    def prefix_tokens(self, task: str, label: Int[Tensor, " b"]) -> Int[Tensor, "b m"]:
        """Return the task's token, where there are several tasks, and the class's.

        The class is `label` in CG and CFP, and "none" in the other tasks.
        """
        no_class = torch.full_like(label, self.num_classes)
        class_token = self.num_codes + (label if task in ("CG", "CFP") else no_class)
        task_token = torch.full_like(label, self.vocabulary - 3 - TASKS.index(task))
        prefix = [task_token, class_token] if self.multi_task else [class_token]
        return torch.stack(prefix, dim=1)


BERT_CONFIGS = {
    "BERT-B-UCF": BertConfig(),
    "BERT-L-UCF": BertConfig(width=1024, depth=24, heads=16, mlp=4096),
    "BERT-B-SSv2": BertConfig(num_classes=174, multi_task=True),  # all ten tasks
    "BERT-tiny": BertConfig(
        (4, 8, 8), num_classes=8, multi_task=True, width=128, depth=4, heads=4, mlp=512
    ),
}


# ---------------------------------------------------------------- 3.2 and appendix B.1, the tasks


def task_mask(task: str, grid: Sequence[int]) -> Bool[Tensor, "t h w"]:
    """Mark the condition of a task, True, on a grid of frames, rows and columns.

    Frame prediction (FP, and CFP with a class) is given the first frame, interpolation (FI) the
    first and the last.  Outpainting is given the middle half of rows and columns (OPC), of columns
    (OPV), of rows (OPH), or a strip of half the columns that moves from left to right (OPD);
    inpainting all but the middle (IPC), or all but a box of half the rows and columns that moves
    likewise (IPD); CG nothing.  Raises ValueError for another task.

    The rule is the same for pixels and for tokens, in halves and quarters rounded down.  So a
    window that moves does so on the grid of tokens, too, each rounded for itself, as in the
    official code.  That gives Table 12's percentages; by the letter of Eq. 2
    (`cells_with_given_pixels`) a window that moves while a token's frames pass touches more tokens,
    and its inpainting counterpart leaves fewer as padding.
    """
    if task not in TASKS:
        raise ValueError(f"expected a task of {', '.join(TASKS)}, got {task!r}")

    t, h, w = grid
    frame = torch.arange(t)[:, None, None]
    row = torch.arange(h)[:, None]
    column = torch.arange(w)

    middle_rows = (row >= h // 4) & (row < h * 3 // 4)  # h 1
    middle_columns = (column >= w // 4) & (column < w * 3 // 4)  # w

    # The strip starts at the left edge in the first frame and reaches the right one in the last.
    left = torch.tensor([round(w // 2 * i / max(t - 1, 1)) for i in range(t)])[:, None, None]
    strip = (column >= left) & (column < left + w // 2)  # t 1 w

    masks = {
        "FP": frame == 0,
        "FI": (frame == 0) | (frame == t - 1),
        "OPC": middle_rows & middle_columns,
        "OPV": middle_columns,
        "OPH": middle_rows,
        "OPD": strip,
        "IPC": ~(middle_rows & middle_columns),
        "IPD": ~(middle_rows & strip),
        "CG": frame < 0,
        "CFP": frame == 0,
    }
    return masks[task].expand(t, h, w).clone()


def cells_with_given_pixels(
    pixels: Bool[Tensor, "t h w"], cell: Sequence[int]
) -> Bool[Tensor, "t2 h2 w2"]:
    """Mark the tokens whose cell of (frames, rows, columns) holds a pixel of the mask.

    Eq. 2 calls the other tokens padding.  Raises ValueError for a mask that is not made of whole
    cells.
    """
    if min(cell) < 1 or any(n % c for n, c in zip(pixels.shape, cell, strict=True)):
        raise ValueError(f"expected a mask of cells of {tuple(cell)}, got {tuple(pixels.shape)}")

    t, h, w = cell
    return reduce(pixels, "(t t1) (h h1) (w w1) -> t h w", "any", t1=t, h1=h, w1=w)


def condition_clip(task: str, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
    """Replace all but the condition by padding.

    FP is padded with its last given frame, FI with what is between its two frames, linearly, OPC,
    OPV and OPH with the nearest pixel of the condition, the others with black (-1, the paper's 0).
    """
    t, h, w = clip.shape[2:]

    if task in ("FP", "CFP"):
        return clip[:, :, :1].expand_as(clip)

    if task == "FI":
        share = torch.linspace(0, 1, t, device=clip.device, dtype=clip.dtype)[:, None, None]
        return torch.lerp(clip[:, :, :1], clip[:, :, -1:], share)

    if task in ("OPC", "OPV", "OPH"):
        row = torch.arange(h, device=clip.device)
        column = torch.arange(w, device=clip.device)
        if task in ("OPC", "OPH"):
            row = row.clamp(h // 4, h * 3 // 4 - 1)
        if task in ("OPC", "OPV"):
            column = column.clamp(w // 4, w * 3 // 4 - 1)
        return clip[:, :, :, row[:, None], column]

    given = task_mask(task, (t, h, w)).to(clip.device)
    return clip.where(given, -1)


# ---------------------------------------------------------------- 3.2 the transformer


class MaskedTransformer(nn.Module):
    """Tokens (b n), the prefix first, to logits of the whole vocabulary at every place."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.bert = Bert(
            length=config.prefix_length + math.prod(config.grid),
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            mlp=config.mlp,
            dropout=config.dropout,
        )
        self.head = BertHead(config.width)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))
        truncated_normal_(self.tokens.weight)

    def forward(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n v"]:
        x = self.bert(self.tokens(tokens))  # b n d
        return F.linear(self.head(x), self.tokens.weight, self.bias)  # b n v

    def code_logits(
        self, prefix: Int[Tensor, "b m"], shown: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b n k"]:
        """Return the logits of the codes only, at the places of the grid only."""
        tokens = torch.cat([prefix, shown], dim=1)  # b m+n
        x = self.bert(self.tokens(tokens))[:, prefix.shape[1] :]  # b n d
        codes = self.config.num_codes
        return F.linear(self.head(x), self.tokens.weight[:codes], self.bias[:codes])  # b n k


# ---------------------------------------------------------------- 3.2 COMMIT


def commit_tokens(
    codes: Int[Tensor, "b *grid"],
    condition: Int[Tensor, "b *grid"],
    given: Bool[Tensor, "*grid"],
    masked: Bool[Tensor, "b *grid"],
    mask_token: int,
) -> Int[Tensor, "b *grid"]:
    """Eq. 2: choose the tokens that the transformer is shown.

    Places that are not masked show the clip's own codes.  Masked places show the code of the padded
    condition clip if they hold some condition (`given`), and [MASK] if they hold only padding.
    """
    return torch.where(masked, torch.where(given, condition, mask_token), codes)


def masked_places(scores: Float[Tensor, "b n"], gamma: Float[Tensor, ""]) -> Bool[Tensor, "b n"]:
    """Mark the floor(gamma n) lowest scores of each row, at least one.

    With random scores these are the places that training masks.
    """
    n = scores.shape[1]
    count = (gamma * n).floor().long().clamp(1, n)
    return remask(scores, count.expand(len(scores)))


def token_losses(
    logits: Float[Tensor, "b n k"], codes: Int[Tensor, "b n"], smoothing: int | float = 1e-4
) -> Float[Tensor, "b n"]:
    """Return -ln p of every code, in nats, under label smoothing."""
    return F.cross_entropy(logits.mT, codes, reduction="none", label_smoothing=smoothing)


def commit_loss(
    losses: Float[Tensor, "b n"], given: Bool[Tensor, " n"], masked: Bool[Tensor, "b n"]
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Eq. 3: return the mean over all tokens, and what each kind of token adds to it.

    refine: masked tokens that show the condition; mask: those that show [MASK]; recons: those that
    show themselves.
    """
    kinds = {"refine": masked & given, "mask": masked & ~given, "recons": ~masked}
    parts = {kind: (losses * places).mean() for kind, places in kinds.items()}
    return losses.mean(), parts


def masked_loss(losses: Float[Tensor, "b n"], masked: Bool[Tensor, "b n"]) -> Float[Tensor, ""]:
    """Return MaskGIT's loss: the mean over each clip's masked tokens, and over clips (Table 5)."""
    counts = masked.sum(1).clamp(min=1)  # b
    return ((losses * masked).sum(1) / counts).mean()


# ---------------------------------------------------------------- 3.2 decoding


def decode(
    model: MaskedTransformer,
    prefix: Int[Tensor, "b m"],
    condition: Int[Tensor, "b *grid"],
    given: Bool[Tensor, "*grid"],
    steps: int = 12,
    **options,
) -> Decoding:
    """Algorithm 1: decode all tokens in `steps` steps, those of the condition, too.

    The options are those of `parallel_decode`.
    """
    canvas = torch.where(given, condition, model.config.mask_token).flatten(1)  # b n
    unknown = torch.ones_like(canvas, dtype=torch.bool)  # b n
    predict = partial(model.code_logits, prefix)
    return parallel_decode(predict, canvas, unknown, steps, **options)


@torch.no_grad()
def generate(
    tokenizer: Tokenizer,
    model: MaskedTransformer,
    task: str,
    clip: Float[Tensor, "b c t h w"],
    label: Int[Tensor, " b"],
    **options,
) -> Float[Tensor, "b c t h w"]:
    """Complete what a task leaves of a clip, with both models in evaluation mode.

    The options are those of `decode`.
    """
    condition = tokenizer.encode(condition_clip(task, clip)).indices  # b t h w
    given = task_mask(task, condition.shape[1:]).to(clip.device)  # t h w
    prefix = model.config.prefix_tokens(task, label)  # b m
    tokens = decode(model, prefix, condition, given, **options).tokens[-1]  # b n
    return tokenizer.decode_indices(tokens.view_as(condition))
