"""Notebook 09, second half: experts and their block, v, schedules, packing, guidance, sampling."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from course_lib.checking import Exercise, call_by_name, edit
from course_lib.diffusion import (
    ddim_steps,
    guide,
    scaled_linear_betas,
    shift_snr,
    trailing_steps,
    zero_terminal_snr,
)
from course_lib.nn import frame_pack as packing
from course_lib.nn.rope import rope_angles_3d, rotate
from course_lib.papers import cogvideox, cogvideox_diffusion
from course_lib.papers.cogvideox import COGVIDEOX_CONFIGS, expert_adaln
from course_lib.papers.cogvideox_diffusion import dynamic_guidance

TINY = COGVIDEOX_CONFIGS["tiny"]


def _released_schedule() -> Tensor:
    return (1 - scaled_linear_betas()).cumprod(0)


# ---------------------------------------------------------------- expert_adaln


def _modulation_cases(rng):
    """Give an expert per row and per token; zero experts; one row; the chapter's; float64."""
    cases = []
    for b, m, n, d, experts in [
        (2, 3, 5, 4, "row"),
        (3, 4, 2, 6, "token"),
        (1, 2, 7, 5, "row"),
        (2, 24, 80, 128, "row"),
    ]:
        text = torch.randn(b, m, d, generator=rng)
        video = 0.5 + 1.5 * torch.randn(b, n, d, generator=rng)
        rows = (1, 1) if experts == "row" else (m, n)
        text_expert, video_expert = (torch.randn(b, k, 3 * d, generator=rng) for k in rows)
        cases.append([text, video, text_expert, video_expert])
    names = ("text", "video", "text_expert", "video_expert")
    given = [dict(zip(names, case, strict=True)) for case in cases]
    nothing = {**given[0], **{name: 0 * given[0][name] for name in names[2:]}}
    return [*given, nothing, {name: value.double() for name, value in given[1].items()}]


NORMED = "The two come normalized already: only scale and shift them."


def _normed(x):
    return F.layer_norm(x, x.shape[-1:])


EXPERT_ADALN = Exercise(
    id="cogvideox.expert_adaln",
    reference=cogvideox.expert_adaln,
    cases=_modulation_cases,
    gradients=("text", "video", "text_expert", "video_expert"),
    equation="CogVideoX, Section 2.2",
    points=2,
    stars=1,
    minutes=7,
    misconceptions={
        "scale_alone": (
            edit(
                "text * (1 + text_scale)",
                "text * text_scale",
                "video * (1 + video_scale)",
                "video * video_scale",
            ),
            "A scale of 0 turns your tokens into 0. It says how much the factor differs from 1:"
            " multiply by 1 + scale.",
        ),
        "scale_first": (
            edit(
                "text_shift, text_scale, text_gate",
                "text_scale, text_shift, text_gate",
                "video_shift, video_scale, video_gate",
                "video_scale, video_shift, video_gate",
            ),
            "Scale and shift have changed places. An expert is shift, scale, gate, in this order.",
        ),
        "gate_first": (
            edit(
                "text_shift, text_scale, text_gate",
                "text_gate, text_shift, text_scale",
                "video_shift, video_scale, video_gate",
                "video_gate, video_shift, video_scale",
            ),
            "You took the first third for the gate. An expert is shift, scale, gate, in this"
            " order.",
        ),
        "scale_last": (
            edit(
                "text_shift, text_scale, text_gate",
                "text_shift, text_gate, text_scale",
                "video_shift, video_scale, video_gate",
                "video_shift, video_gate, video_scale",
            ),
            "Scale and gate have changed places. An expert is shift, scale, gate, in this order.",
        ),
        "interleaved": (
            lambda text, video, text_expert, video_expert: expert_adaln(
                text,
                video,
                rearrange(text_expert, "b n (d three) -> b n (three d)", three=3),
                rearrange(video_expert, "b n (d three) -> b n (three d)", three=3),
            ),
            "You dealt an expert's numbers out in turn. Its first third is all of the shift, then"
            " comes the scale, then the gate: `chunk(3, dim=-1)`.",
        ),
        "shifted_first": (
            edit(
                "text * (1 + text_scale) + text_shift",
                "(text + text_shift) * (1 + text_scale)",
                "video * (1 + video_scale) + video_shift",
                "(video + video_shift) * (1 + video_scale)",
            ),
            "You shifted first, so that the shift is scaled, too. Scale, then shift.",
        ),
        "no_shift": (
            edit(" + text_shift", "", " + video_shift", ""),
            "The shift is missing: add it after scaling.",
        ),
        "gated_already": (
            edit(
                "(1 + text_scale) + text_shift",
                "(1 + text_scale) * text_gate + text_shift * text_gate",
                "(1 + video_scale) + video_shift",
                "(1 + video_scale) * video_gate + video_shift * video_gate",
            ),
            "You multiplied by the gates already. They are for what the layer makes of these: pass"
            " them on.",
        ),
        "residual": (
            edit(
                "text = text * (1 + text_scale)",
                "text = text + text * (1 + text_scale)",
                "video = video * (1 + video_scale)",
                "video = video + video * (1 + video_scale)",
            ),
            "You added what came in. The sum is taken later, after the layer: here it is scaled"
            " and shifted only.",
        ),
        "experts_exchanged": (
            lambda text, video, text_expert, video_expert: (
                expert_adaln(text, video, video_expert, text_expert)
                if text_expert.shape[1] == video_expert.shape[1]
                else text + video_expert[..., : text.shape[-1]]
            ),
            "The experts have changed places: `text_expert` is for the text.",
        ),
        "video_expert_for_both": (
            edit("= text_expert.chunk", "= video_expert.chunk"),
            "The text is changed by the video's expert. That is one shared norm; here each of the"
            " two has its own.",
        ),
        "text_expert_for_both": (
            edit("= video_expert.chunk", "= text_expert.chunk"),
            "The video is changed by the text's expert. Each of the two has its own.",
        ),
        "text_left_alone": (
            edit("text * (1 + text_scale) + text_shift", "text"),
            "Your text comes back as it was. It has an expert, too.",
        ),
        "gates_exchanged": (
            edit("video, text_gate, video_gate\n", "video, video_gate, text_gate\n"),
            "The gates have changed places: the text's comes first.",
        ),
        "gates_from_one": (
            edit("video, text_gate, video_gate\n", "video, 1 + text_gate, 1 + video_gate\n"),
            "You added 1 to the gates. They come back as they are: a gate of 0 lets nothing"
            " through.",
        ),
        "normed_again": (
            lambda text, video, text_expert, video_expert: expert_adaln(
                _normed(text), _normed(video), text_expert, video_expert
            ),
            NORMED,
        ),
    },
)


# ---------------------------------------------------------------- expert_block


@dataclass(frozen=True)
class Linear:
    """A linear layer without the bookkeeping of one, which would take most of a check's time."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Norm:
    """A LayerNorm, likewise."""

    weight: Tensor
    bias: Tensor
    eps: float = 1e-6

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Experts:
    """The experts of text and of video."""

    text: Linear
    video: Linear

    def __call__(self, time: Tensor, view: object = None) -> tuple[Tensor, Tensor]:
        return self.text(time), self.video(time)


@dataclass(frozen=True)
class Attention:
    """The layers of an attention."""

    heads: int
    query: Linear
    key: Linear
    value: Linear
    norm_query: Norm
    norm_key: Norm
    out: Linear


@dataclass(frozen=True)
class Layers:
    """A block's layers as after some training, some of them still, which brings a part to light.

    passes    both gates are 0
    mlp       the gate of attention is 0
    values    queries and keys are 0: every token gets the mean of the values
    whole     nothing is still
    others    the gate of the MLP is 0
    """

    part: str
    norm1: Norm
    experts1: Experts
    attention: Attention
    norm2: Norm
    experts2: Experts
    first: Linear
    last: Linear

    def mlp(self, x: Tensor) -> Tensor:
        return self.last(F.gelu(self.first(x), approximate="tanh"))


def _layers(rng, heads, part, dtype=torch.float32):
    """Draw a block's layers, with heads of 16 numbers."""
    d = 16 * heads
    sizes = [(3 * d, 7)] * 4 + [(d, d)] * 4 + [(4 * d, d), (d, 4 * d)]
    counts = [count for n, m in sizes for count in (n * m, n)] + [d, d, d, d, 16, 16, 16, 16]
    numbers = torch.randn(sum(counts), generator=rng).to(dtype)
    drawn = iter(numbers.split(counts))
    linear = [Linear(1.2 * m**-0.5 * next(drawn).view(n, m), next(drawn)) for n, m in sizes]
    norms = [Norm(1 + 0.3 * next(drawn), next(drawn)) for _ in range(4)]
    still = {"passes": (0, 1, 2, 3), "mlp": (0, 1), "whole": ()}.get(part, (2, 3))
    for number in still:
        linear[number].weight[2 * d :] = 0
        linear[number].bias[2 * d :] = 0
    if part == "values":
        query, key = linear[4:6]
        for zero in (query.weight, query.bias, key.weight, key.bias, norms[2].bias):
            zero.zero_()
    return Layers(
        part,
        norms[0],
        Experts(*linear[0:2]),
        Attention(heads, *linear[4:7], norms[2], norms[3], linear[7]),
        norms[1],
        Experts(*linear[2:4]),
        *linear[8:10],
    )


def _block_cases(rng):
    """Try a part of a block in each case, then all of it; the last is the chapter's own block."""
    cases = []
    for part, b, m, n, heads, rows in [
        ("passes", 2, 3, 4, 2, 0),
        ("mlp", 2, 4, 3, 2, 0),
        ("values", 3, 2, 5, 2, 0),
        ("attention", 2, 4, 6, 1, 0),
        ("heads", 2, 5, 3, 3, 0),
        ("rotation", 3, 4, 5, 2, 1),
        ("rotation", 2, 3, 6, 2, 2),
        ("whole", 1, 6, 7, 3, 1),
    ]:
        angles = 3 * torch.rand(b, m + n, 8, generator=rng)
        cases.append(
            {
                "text": 2 * torch.randn(b, m, 16 * heads, generator=rng) + 0.5,
                "video": 3 * torch.randn(b, n, 16 * heads, generator=rng) - 0.3,
                "time": torch.randn(b, 1, 7, generator=rng),
                "angles": (None, angles[0], angles)[rows],
                "layers": _layers(rng, heads, part),
            }
        )
    wide = {name: value for name, value in cases[5].items() if name != "layers"}
    wide = {name: value.double() for name, value in wide.items()}
    layers = _layers(rng, 2, "float64", dtype=torch.float64)
    return [*cases, {**wide, "layers": layers}, _block_of_the_chapter(rng)]


@torch.no_grad()
def _block_of_the_chapter(rng):
    """Return a block of the tiny network, with weights as after some training."""
    with torch.device("meta"):  # no weights that are drawn for nothing
        block = cogvideox.Block(TINY)
    block.to_empty(device="cpu").requires_grad_(False)
    for name, weight in block.named_parameters():
        mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        weight.normal_(mean, 0.1, generator=rng)
    block.part = "the chapter's"
    m, grid = TINY.text_length, TINY.grid(*TINY.latent)
    angles = rope_angles_3d(cogvideox.coordinates(grid), TINY.head_width)
    return {
        "text": torch.randn(1, m, TINY.width, generator=rng),
        "video": torch.randn(1, len(angles), TINY.width, generator=rng),
        "time": torch.randn(1, 1, TINY.time_width, generator=rng),
        "angles": F.pad(angles, (0, 0, m, 0)),
        "layers": block,
    }


def _under_its_layers(answer, case):
    """Return text and video under the name of the part of the block that is tried."""
    seen = call_by_name(answer, case)
    if not isinstance(seen, (tuple, list)) or len(seen) != 2:
        raise TypeError(f"return two tensors, the text and the video; got {type(seen).__name__}")
    part = case["layers"].part
    return {f"{part}: text": seen[0], f"{part}: video": seen[1]}


def _attend(
    layers,
    text,
    video,
    angles,
    sequence=lambda text, video: torch.cat([text, video], dim=1),
    cut="b n (h d) -> b n h d",
    normalize=lambda a, q, k: (a.norm_query(q), a.norm_key(k)),
    turn=lambda q, k, v, angles, m: (rotate(q, angles), rotate(k, angles), v),
    sdpa=lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v),
    put_together="b h n d -> b n (h d)",
    out=lambda a, h: a.out(h),
    apart=lambda h, m: (h[:, :m], h[:, m:]),
):
    """Let text and video attend with another part."""
    a, m = layers.attention, text.shape[1]
    x = sequence(text, video)
    q, k, v = (rearrange(f(x), cut, h=a.heads) for f in (a.query, a.key, a.value))
    q, k = normalize(a, q, k)
    if angles is not None:
        q, k, v = turn(q, k, v, angles, m)
    q, k, v = (rearrange(y, "b n h d -> b h n d") for y in (q, k, v))
    h = out(a, rearrange(sdpa(q, k, v, m), put_together))
    return apart(h, m)


def _blockwise(
    norms=lambda layers: (layers.norm1, layers.norm1, layers.norm2, layers.norm2),
    experts=lambda layers, time: (layers.experts1(time), layers.experts2(time)),
    modulate=expert_adaln,
    add=lambda x, gate, y, normed: x + gate * y,
    second=lambda text, video, before: (text, video),
    mlp=lambda layers, text, video: (layers.mlp(text), layers.mlp(video)),
    **attention,
):
    """Build expert_block with another part."""

    def answer(text, video, time, angles, layers):
        before = text, video
        first, then = experts(layers, time)
        norm_a, norm_b, norm_c, norm_d = norms(layers)
        normed = norm_a(text), norm_b(video)
        *seen, text_gate, video_gate = modulate(*normed, *first)
        seen = _attend(layers, *seen, angles, **attention)
        text = add(text, text_gate, seen[0], normed[0])
        video = add(video, video_gate, seen[1], normed[1])

        known = second(text, video, before)
        normed = norm_c(known[0]), norm_d(known[1])
        *seen, text_gate, video_gate = modulate(*normed, *then)
        seen = mlp(layers, *seen)
        return (
            add(text, text_gate, seen[0], normed[0]),
            add(video, video_gate, seen[1], normed[1]),
        )

    return answer


def _apart_from_each_other(q, k, v, m):
    """Let text see text, and video see video."""
    attend = F.scaled_dot_product_attention
    text = attend(q[:, :, :m], k[:, :, :m], v[:, :, :m])
    return torch.cat([text, attend(q[:, :, m:], k[:, :, m:], v[:, :, m:])], dim=2)


def _text_blind(q, k, v, m):
    """Let text see only text."""
    attend = F.scaled_dot_product_attention
    return torch.cat(
        [attend(q[:, :, :m], k[:, :, :m], v[:, :, :m]), attend(q[:, :, m:], k, v)], dim=2
    )


def _across(q, k, v, m):
    """Let text see video, and video see text."""
    attend = F.scaled_dot_product_attention
    text = attend(q[:, :, :m], k[:, :, m:], v[:, :, m:])
    return torch.cat([text, attend(q[:, :, m:], k[:, :, :m], v[:, :, :m])], dim=2)


def _turn_video(q, k, v, angles, m):
    """Turn the video's tokens by the angles of the first ones, as if they had no row for text."""
    angles = torch.cat([0 * angles[..., :m, :], angles[..., : -m or None, :]], dim=-2)
    return rotate(q, angles), rotate(k, angles), v


def _turn_no_text(q, k, v, angles, m):
    """Leave the text's tokens as they are, whatever their angles."""
    angles = torch.cat([0 * angles[..., :m, :], angles[..., m:, :]], dim=-2)
    return rotate(q, angles), rotate(k, angles), v


def _norms_over_all_heads(a, q, k):
    """Normalize the heads of a token together."""

    def norm(x, layer):
        x = F.layer_norm(x, x.shape[-2:], eps=layer.eps)
        return x * layer.weight + layer.bias

    return norm(q, a.norm_query), norm(k, a.norm_key)


EXPERT_BLOCK = Exercise(
    id="cogvideox.expert_block",
    reference=cogvideox.expert_block,
    cases=_block_cases,
    probe=_under_its_layers,
    gradients=("text", "video", "time"),
    equation="CogVideoX, Section 2.2 and Figure 3",
    points=6,
    stars=4,
    minutes=30,
    misconceptions={
        "not_gated": (
            _blockwise(add=lambda x, gate, y, normed: x + y),
            "The gates: you added what attention and the MLP say in full. Multiply it by the gate"
            " first; a gate of 0 lets nothing through.",
        ),
        "sum_gated": (
            _blockwise(add=lambda x, gate, y, normed: gate * (x + y)),
            "The gates: you multiplied the sum. What came in passes by unchanged; only what the"
            " layer says is gated.",
        ),
        "no_residuals": (
            _blockwise(add=lambda x, gate, y, normed: gate * y),
            "The sums: what came in is lost. Add what the layer says, gated, to it.",
        ),
        "residual_after_norm": (
            _blockwise(add=lambda x, gate, y, normed: normed + gate * y),
            "The sums: you added to the normalized tokens. Add to text and video as they came in.",
        ),
        "experts_exchanged_over_the_layer": (
            _blockwise(experts=lambda layers, time: (layers.experts2(time), layers.experts1(time))),
            "The experts: `experts1` goes with attention, `experts2` with the MLP; yours are the"
            " other way round.",
        ),
        "one_pair_of_experts": (
            _blockwise(experts=lambda layers, time: (layers.experts1(time),) * 2),
            "The experts: you used `experts1` twice. The MLP has its own, `experts2`.",
        ),
        "experts_exchanged": (
            _blockwise(
                experts=lambda layers, time: (
                    layers.experts1(time)[::-1],
                    layers.experts2(time)[::-1],
                )
            ),
            "The experts: they come in the order text, video; you gave the text the video's.",
        ),
        "video_expert_for_both": (
            _blockwise(
                experts=lambda layers, time: (
                    layers.experts1(time)[1:] * 2,
                    layers.experts2(time)[1:] * 2,
                )
            ),
            "The experts: both text and video were changed by the video's. Each has its own.",
        ),
        "no_norms": (
            _blockwise(norms=lambda layers: (nn.Identity(),) * 4),
            "The norms are missing: text and video go through `norm1` before attention, through"
            " `norm2` before the MLP.",
        ),
        "one_norm": (
            _blockwise(norms=lambda layers: (layers.norm1,) * 4),
            "The norms: you used `norm1` before the MLP, too. It has `norm2`.",
        ),
        "norm1_for_text": (
            _blockwise(norms=lambda layers: (layers.norm1, layers.norm2) * 2),
            "The norms: you took `norm1` for the text and `norm2` for the video. Both go through"
            " `norm1` before attention, and through `norm2` before the MLP.",
        ),
        "mlp_of_the_input": (
            _blockwise(second=lambda text, video, before: before),
            "The MLP reads what came into the block. It reads the sum of step 3, where attention's"
            " part is in.",
        ),
        "text_without_mlp": (
            _blockwise(mlp=lambda layers, text, video: (0 * text, layers.mlp(video))),
            "The MLP: your text does not go through it. Text and video share it.",
        ),
        "apart": (
            _blockwise(sdpa=_apart_from_each_other),
            "Attention: text sees text only, and video sees video. They are one sequence: every"
            " token sees every token.",
        ),
        "text_blind": (
            _blockwise(sdpa=_text_blind),
            "Attention: your text does not see the video. In one sequence every token sees every"
            " token.",
        ),
        "across": (
            _blockwise(sdpa=_across),
            "Attention: text sees the video only, and video the text only: that is"
            " cross-attention. Here every token sees every token of the one sequence.",
        ),
        "causal": (
            _blockwise(
                sdpa=lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, is_causal=True)
            ),
            "Attention is causal in your block. Every token sees every token, later ones too.",
        ),
        "halves_exchanged": (
            _blockwise(apart=lambda h, m: (h[:, -m:], h[:, :-m])),
            "The text: you took the last m tokens of the sequence for it. It comes first.",
        ),
        "no_norms_of_heads": (
            _blockwise(normalize=lambda a, q, k: (q, k)),
            "Attention: `norm_query` and `norm_key` are missing. They keep the scores from growing"
            " with training.",
        ),
        "norms_of_heads_exchanged": (
            _blockwise(normalize=lambda a, q, k: (a.norm_key(q), a.norm_query(k))),
            "Attention: `norm_query` and `norm_key` have changed places.",
        ),
        "norms_over_all_heads": (
            _blockwise(normalize=_norms_over_all_heads),
            "Attention: you normalized all heads of a token together. Each head is normalized by"
            " itself, after it is cut off.",
        ),
        "heads_interleaved": (
            _blockwise(cut="b n (d h) -> b n h d"),
            "The heads: you dealt the numbers out in turn. The first d / heads numbers are the"
            ' first head: "(h d)".',
        ),
        "put_together_otherwise": (
            _blockwise(put_together="b h n d -> b n (d h)"),
            "The heads come together interleaved. Put one after the other as they were cut:"
            ' "(h d)".',
        ),
        "not_scaled": (
            _blockwise(sdpa=lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, scale=1.0)),
            "Attention: the scores are not divided by the root of a head's width.",
        ),
        "no_out": (
            _blockwise(out=lambda a, h: h),
            "Attention: `out` is missing, the linear layer after the heads are together again.",
        ),
        "not_rotated": (
            _blockwise(turn=lambda q, k, v, angles, m: (q, k, v)),
            "The rotation is missing: where there are angles, `rotate` turns queries and keys.",
        ),
        "queries_alone": (
            _blockwise(turn=lambda q, k, v, angles, m: (rotate(q, angles), k, v)),
            "The rotation: you turned the queries alone, so that scores depend on where a token is"
            " and not on how far apart two are. Turn the keys, too.",
        ),
        "values_too": (
            _blockwise(turn=lambda q, k, v, angles, m: tuple(rotate(x, angles) for x in (q, k, v))),
            "The rotation: you turned the values, too. Places are for the scores only: queries and"
            " keys.",
        ),
        "video_by_the_first_rows": (
            _blockwise(turn=_turn_video),
            "The rotation: your video has the first rows of `angles`. These are the text's: there"
            " is a row for every token of the sequence.",
        ),
        "text_not_rotated": (
            _blockwise(turn=_turn_no_text),
            "The rotation: you left the text out. `angles` has rows for it, and what they say"
            " holds (in the chapter they are 0).",
        ),
        "opposite_turns": (
            _blockwise(turn=lambda q, k, v, angles, m: (rotate(q, angles), rotate(k, -angles), v)),
            "The rotation: queries and keys turn in opposite ways, so that the scores depend on"
            " the sum of two places. Turn both the same way.",
        ),
    },
)


# ---------------------------------------------------------------- v_target


def _target_cases(rng):
    """Give the first and the last step, samples of any axes, one sample, the chapter's; float64."""
    table = TINY.alphas_cumprod
    short = torch.tensor([0.97, 0.8, 0.55, 0.3, 0.04, 0.0], dtype=torch.float64)
    cases = []
    for shape, t, alphas_cumprod in [
        ((4, 3, 2, 5), [1, 4, 0, 3], short),
        ((3, 2), [5, 2, 4], short),
        ((1, 2, 3, 4, 5), [2], short),
        ((2, 3, 1, 2), [5, 5], short),
        ((4, 5, 4, 8, 8), [999, 0, 403, 650], table),
        ((2, 7), [0, 998], table),
    ]:
        x_start = torch.randn(shape, generator=rng)
        noise = torch.randn(shape, generator=rng)
        cases.append(
            {
                "x_start": x_start,
                "t": torch.tensor(t),
                "noise": noise,
                "alphas_cumprod": alphas_cumprod,
            }
        )
    wide = {name: cases[0][name].double() for name in ("x_start", "noise")}
    return [*cases, {**cases[0], **wide}]


def _target(signal, sigma, of=lambda signal, sigma, x, noise: signal * noise - sigma * x):
    """Build v_target with other weights, functions of alpha_bar, or another sum of the two."""

    def answer(x_start, t, noise, alphas_cumprod):
        a = alphas_cumprod[t].reshape(-1, *[1] * (x_start.ndim - 1))
        return of(signal(a).to(x_start), sigma(a).to(x_start), x_start, noise)

    return answer


def _root(a):
    return a.sqrt()


def _root_of_rest(a):
    return (1 - a).sqrt()


V_TARGET = Exercise(
    id="cogvideox.v_target",
    reference=cogvideox_diffusion.v_target,
    cases=_target_cases,
    equation="CogVideoX, Section 3; Salimans and Ho, appendix D",
    points=1,
    stars=1,
    minutes=5,
    misconceptions={
        "plus": (
            edit("signal * noise - sigma * x_start", "signal * noise + sigma * x_start"),
            "You added the two. v is a difference: sqrt(alpha_bar) eps minus sqrt(1 - alpha_bar)"
            " x_0.",
        ),
        "noised": (
            edit("signal * noise - sigma * x_start", "signal * x_start + sigma * noise"),
            "That is x_t, what the network reads. v is the direction at right angles to it:"
            " sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0.",
        ),
        "negative": (
            edit("signal * noise - sigma * x_start", "sigma * x_start - signal * noise"),
            "Your v has the opposite sign. At the last step, where alpha_bar is 0, v is -x_0.",
        ),
        "weights_exchanged": (
            edit("signal * noise - sigma * x_start", "sigma * noise - signal * x_start"),
            "The weights have changed places: sqrt(alpha_bar) belongs to eps, sqrt(1 - alpha_bar)"
            " to x_0. Where all is noise, v tells about the clip.",
        ),
        "x_minus_noise": (
            edit("signal * noise - sigma * x_start", "signal * x_start - sigma * noise"),
            "The clip and the noise have changed places: v = sqrt(alpha_bar) eps - sqrt(1 -"
            " alpha_bar) x_0.",
        ),
        "no_roots": (
            edit(
                "alphas_cumprod.sqrt()",
                "alphas_cumprod",
                "(1 - alphas_cumprod).sqrt()",
                "(1 - alphas_cumprod)",
            ),
            "The roots are missing. alpha_bar and 1 - alpha_bar are variances; the two weights are"
            " their square roots.",
        ),
        "root_missing_at_x": (
            edit("(1 - alphas_cumprod).sqrt()", "(1 - alphas_cumprod)"),
            "The root of 1 - alpha_bar is missing, the weight of x_0.",
        ),
        "root_missing_at_noise": (
            edit("alphas_cumprod.sqrt(), t", "alphas_cumprod, t"),
            "The root of alpha_bar is missing, the weight of the noise.",
        ),
        "root_inside": (
            edit("(1 - alphas_cumprod).sqrt()", "(1 - alphas_cumprod.sqrt())"),
            "You took 1 - sqrt(alpha_bar). The weight of x_0 is sqrt(1 - alpha_bar): the squares"
            " of the two add up to 1.",
        ),
        "noise_alone": (
            edit("signal * noise - sigma * x_start", "noise"),
            "That is the noise, DDPM's target, which teaches nothing at the last step. The target"
            " here is v.",
        ),
        "clip_alone": (
            edit("signal * noise - sigma * x_start", "x_start"),
            "That is x_0. The target is v, which is -x_0 at the last step only.",
        ),
        "flow": (
            edit("signal * noise - sigma * x_start", "noise - x_start"),
            "You left the weights out: that is the velocity of rectified flow, where x_t lies on a"
            " straight line. Here x_t moves on a circle, and v = sqrt(alpha_bar) eps - sqrt(1 -"
            " alpha_bar) x_0.",
        ),
        "steps_from_one": (
            lambda x_start, t, noise, alphas_cumprod: cogvideox_diffusion.v_target(
                x_start, (t - 1).clamp(min=0), noise, alphas_cumprod
            ),
            "You took the entry before. Steps count from 0 here: `alphas_cumprod[t]`.",
        ),
        "one_step_for_all": (
            lambda x_start, t, noise, alphas_cumprod: cogvideox_diffusion.v_target(
                x_start, t[:1].expand_as(t), noise, alphas_cumprod
            ),
            "All samples have the first one's step. Each has its own: t is (b,).",
        ),
        "double": (
            lambda x_start, t, noise, alphas_cumprod: cogvideox_diffusion.v_target(
                x_start.double(), t, noise.double(), alphas_cumprod
            ),
            "The values are right, but float64, as the table is. The target has the dtype of"
            " `x_start`.",
        ),
    },
)


# ---------------------------------------------------------------- zero_terminal_snr


def _terminal_cases(rng):
    """Give tables of every kind: shifted down, up, not at all; from 1 on; two steps; 2B's, 5B's."""
    falling = torch.tensor([0.98, 0.9, 0.7, 0.45, 0.2, 0.06], dtype=torch.float64)
    falling = falling - 0.02 * torch.rand(6, generator=rng, dtype=torch.float64)
    whole = torch.tensor([1.0, 0.8, 0.35, 0.1], dtype=torch.float64)
    released = _released_schedule()
    return [
        {"alphas_cumprod": falling},
        {"alphas_cumprod": falling, "snr_shift": 3.0},
        {"alphas_cumprod": falling[:5], "snr_shift": 0.4},
        {"alphas_cumprod": whole, "snr_shift": 2.0},
        {"alphas_cumprod": falling[2:4], "snr_shift": 5.0},
        {"alphas_cumprod": released, "snr_shift": 3.0},
        {"alphas_cumprod": released, "snr_shift": 1.0},
    ]


def _terminal(shift=shift_snr, rescale=lambda table: zero_terminal_snr(table)):
    """Build zero_terminal_snr with another shift or another rescaling."""

    def answer(alphas_cumprod, snr_shift=1.0):
        return rescale(shift(alphas_cumprod, snr_shift))

    return answer


def _moved(x):
    """Move the last value of x to 0 and keep the first."""
    return (x - x[-1]) * x[0] / (x[0] - x[-1])


def _set_to_zero(alphas_cumprod):
    return torch.cat([alphas_cumprod[:-1], 0 * alphas_cumprod[-1:]])


ZERO_TERMINAL_SNR = Exercise(
    id="cogvideox.zero_terminal_snr",
    reference=zero_terminal_snr,
    cases=_terminal_cases,
    equation="Lin et al., Algorithm 1; CogVideoX, Section 3",
    points=2,
    stars=2,
    minutes=12,
    tolerance=1e-8,
    misconceptions={
        "shifted_after": (
            lambda alphas_cumprod, snr_shift=1.0: shift_snr(
                zero_terminal_snr(alphas_cumprod), snr_shift
            ),
            "You shifted last. Both ends are the same then, all between is not: shift first, then"
            " rescale.",
        ),
        "not_shifted": (
            _terminal(shift=lambda a, s: a),
            "The shift is missing: with `snr_shift` 1 your table is right.",
        ),
        "shifted_up": (
            _terminal(shift=lambda a, s: shift_snr(a, 1 / s)),
            "You multiplied the signal-to-noise ratio. `snr_shift` says how many times *smaller*"
            " it becomes: divide.",
        ),
        "alpha_bar_divided": (
            _terminal(shift=lambda a, s: a / s),
            "You divided alpha_bar. What is divided is the ratio, alpha_bar / (1 - alpha_bar); then"
            " turn the new ratio back: r / (1 + r).",
        ),
        "ratio_of_roots": (
            _terminal(shift=lambda a, s: shift_snr(a, s**2)),
            "You divided the ratio of the deviations, sqrt(alpha_bar / (1 - alpha_bar)). The"
            " signal-to-noise ratio is that of the variances.",
        ),
        "shift_of_the_root": (
            _terminal(shift=lambda a, s: shift_snr(a.sqrt(), s).square()),
            "You shifted sqrt(alpha_bar). The ratio is alpha_bar / (1 - alpha_bar), without roots.",
        ),
        "ratio_not_turned_back": (
            _terminal(shift=lambda a, s: a / (1 - a).clamp(min=1e-300) / s),
            "You went on with the ratio itself. Turn it back into an alpha_bar first: r / (1 + r).",
        ),
        "without_the_rescaling": (
            _terminal(rescale=lambda a: a),
            "That is the shift alone. At the last step something of the signal is left; step 2"
            " takes it away.",
        ),
        "no_root": (
            _terminal(rescale=_moved),
            "You moved and stretched alpha_bar itself. Algorithm 1 does it with its square root,"
            " and squares the result.",
        ),
        "not_squared": (
            _terminal(rescale=lambda a: _moved(a.sqrt())),
            "That is sqrt(alpha_bar). Square it in the end.",
        ),
        "not_stretched": (
            _terminal(rescale=lambda a: (a.sqrt() - a.sqrt()[-1]).square()),
            "You moved the root, and its first value moved with it. Stretch it, so that the first"
            " value is again what it was.",
        ),
        "stretched_to_one": (
            _terminal(rescale=lambda a: (_moved(a.sqrt()) / a.sqrt()[0]).square()),
            "Your table begins at 1. Its first value stays as it was after the shift.",
        ),
        "last_set_to_zero": (
            _terminal(rescale=_set_to_zero),
            "You set the last value to 0 and left the others. Then the last step is a leap; move"
            " and stretch the whole table.",
        ),
        "ratio_rescaled": (
            _terminal(rescale=lambda a: (lambda r: r / (1 + r))(_moved(a / (1 - a + 1e-300)))),
            "You moved and stretched the signal-to-noise ratio. Algorithm 1 does it with"
            " sqrt(alpha_bar).",
        ),
        "first_of_the_old_table": (
            lambda alphas_cumprod, snr_shift=1.0: (
                zero_terminal_snr(alphas_cumprod, snr_shift)
                * alphas_cumprod[0]
                / shift_snr(alphas_cumprod, snr_shift)[0]
            ),
            "You stretched to the first value of the table that came in. It is the one after the"
            " shift that stays.",
        ),
        "single_precision": (
            lambda alphas_cumprod, snr_shift=1.0: zero_terminal_snr(
                alphas_cumprod, snr_shift
            ).float(),
            "Your table is in float32. Tables of a schedule are kept in float64, as in chapter 01.",
        ),
    },
)


# ---------------------------------------------------------------- explicit_uniform

ALMOST_ONE = 1 - 2.0**-24  # the largest number below 1 in float32


def _step_cases(rng):
    """Give one rank, several, the last; both ends of intervals; lengths of every kind.

    No number but the first of an interval is near a border between two steps.
    """

    def inside(*shares):
        return torch.tensor(shares) + 0.02 * torch.rand(len(shares), generator=rng)

    return [
        {"uniform": inside(0.31, 0.72, 0.13), "timesteps": 9},
        {"uniform": inside(0.42, 0.11, 0.86, 0.53), "timesteps": 1000},
        {"uniform": inside(0.15, 0.64), "timesteps": 72, "rank": 0, "ranks": 3},
        {"uniform": inside(0.83, 0.26, 0.47), "timesteps": 1000, "rank": 1, "ranks": 2},
        {"uniform": inside(0.58, 0.09), "timesteps": 900, "rank": 2, "ranks": 3},
        {"uniform": torch.tensor([0.0, 0.0, 0.0, 0.0]), "timesteps": 1000},
        {"uniform": torch.tensor([0.0, 0.0]), "timesteps": 64, "rank": 1, "ranks": 4},
        {"uniform": inside(0.21, 0.52, 0.73, 0.36, 0.81), "timesteps": 3},  # 5 intervals, 3 steps
        {"uniform": inside(0.37), "timesteps": 1000},
        {"uniform": torch.tensor([0.4, 0.6, 0.2, ALMOST_ONE]), "timesteps": 1000},
        {"uniform": inside(0.61, 0.33, 0.77), "timesteps": 100, "rank": 0, "ranks": 1},
        {"uniform": 0.1 + 0.8 * torch.linspace(0, 1, 16), "timesteps": 1000},  # the chapter's
        {"uniform": inside(0.71, 0.24).double(), "timesteps": 50, "rank": 3, "ranks": 5},
    ]


def _steps(
    interval=lambda n, rank, ranks: rank * n + torch.arange(n),
    count=lambda n, ranks: n * ranks,
    within=lambda uniform: uniform.double(),
    whole=lambda steps, timesteps: steps.long(),
):
    """Build explicit_uniform with another part."""

    def answer(uniform, timesteps, rank=0, ranks=1):
        n = len(uniform)
        place = interval(n, rank, ranks) + within(uniform)
        return whole(place * timesteps / count(n, ranks), timesteps)

    return answer


def _whole_lengths(uniform, timesteps, rank=0, ranks=1):
    """Cut intervals of floor(T / N) steps each."""
    n = len(uniform)
    length = timesteps // (n * ranks)
    interval = rank * n + torch.arange(n)
    return (interval * length + uniform.double() * length).long()


def _whole_starts(uniform, timesteps, rank=0, ranks=1):
    """Round the beginning of an interval down before going into it."""
    n = len(uniform)
    start = (rank * n + torch.arange(n)) * timesteps // (n * ranks)
    return start + (uniform.double() * timesteps / (n * ranks)).long()


def _interval_of_a_rank(uniform, timesteps, rank=0, ranks=1):
    return ((rank + uniform.double()) * timesteps / ranks).long()


def _in_single_precision(uniform, timesteps, rank=0, ranks=1):
    n = len(uniform)
    place = rank * n + torch.arange(n) + uniform.float()
    return (place.double() * timesteps / (n * ranks)).long()


EXPLICIT_UNIFORM = Exercise(
    id="cogvideox.explicit_uniform",
    reference=cogvideox_diffusion.explicit_uniform,
    cases=_step_cases,
    equation="CogVideoX, Section 3.3",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "anywhere": (
            lambda uniform, timesteps, rank=0, ranks=1: (uniform.double() * timesteps).long(),
            "Each of your steps may be any of all: that is the ordinary draw. Every sample has an"
            " interval of its own.",
        ),
        "interval_of_a_rank": (
            _interval_of_a_rank,
            "All samples of a rank share one interval. Cut on: n * ranks intervals, one for each"
            " sample.",
        ),
        "rank_forgotten": (
            _steps(interval=lambda n, rank, ranks: torch.arange(n)),
            "Every rank has the intervals of rank 0. Those of rank r begin at number r * n.",
        ),
        "intervals_of_one_rank": (
            _steps(
                interval=lambda n, rank, ranks: torch.arange(n),
                count=lambda n, ranks: n,
            ),
            "You cut as if there were one rank. There are n * ranks intervals, and those of rank r"
            " begin at number r * n.",
        ),
        "dealt_out": (
            _steps(interval=lambda n, rank, ranks: rank + ranks * torch.arange(n)),
            "You dealt the intervals out in turn. A rank has n neighbouring ones: r * n, r * n + 1"
            " and so on.",
        ),
        "rank_added": (
            _steps(interval=lambda n, rank, ranks: rank + torch.arange(n)),
            "Ranks overlap: you moved by `rank` intervals. Those of rank r begin at r * n.",
        ),
        "not_drawn": (
            _steps(within=lambda uniform: 0 * uniform.double()),
            "Your steps are the beginnings of the intervals. `uniform` says where inside its"
            " interval each is; without it most steps are never trained.",
        ),
        "middles": (
            _steps(within=lambda uniform: 0 * uniform.double() + 0.5),
            "Your steps are the middles of the intervals. `uniform` says where inside its interval"
            " each is.",
        ),
        "backwards": (
            _steps(interval=lambda n, rank, ranks: rank * n + torch.arange(n - 1, -1, -1)),
            "Your intervals run backwards. The first sample has the earliest.",
        ),
        "from_one": (
            _steps(whole=lambda steps, timesteps: steps.long() + 1),
            "Your steps count from 1. They are 0 to timesteps - 1.",
        ),
        "rounded": (
            _steps(whole=lambda steps, timesteps: steps.round().long().clamp(max=timesteps - 1)),
            "You rounded to the nearest. Round down: else step 0 is drawn half as often as the"
            " others, and numbers near 1 lead into the next interval.",
        ),
        "rounded_up": (
            _steps(whole=lambda steps, timesteps: steps.ceil().long().clamp(max=timesteps - 1)),
            "You rounded up. Round down: 0.99 is still step 0.",
        ),
        "one_step_short": (
            lambda uniform, timesteps, rank=0, ranks=1: cogvideox_diffusion.explicit_uniform(
                uniform, timesteps - 1, rank, ranks
            ),
            "Your steps end one too early: you cut timesteps - 1 steps. There are `timesteps` of"
            " them, and rounding down keeps them below it.",
        ),
        "whole_lengths": (
            _whole_lengths,
            "You rounded the length of an interval, so that the last steps belong to none. Round"
            " only the step itself.",
        ),
        "whole_starts": (
            _whole_starts,
            "You rounded twice: where an interval begins, and how far into it. Add the two first,"
            " then round down.",
        ),
        "single_precision": (
            _in_single_precision,
            "Right, but for a number just below 1: in float32 3 + 0.99999994 is 4, and the step"
            " does not exist. Add in float64.",
        ),
        "floats": (
            _steps(whole=lambda steps, timesteps: steps.floor().float()),
            "Your steps are floats. They are to index a table: whole numbers, `.long()`.",
        ),
    },
)


# ---------------------------------------------------------------- frame_pack


def _pack_cases(rng):
    """Force every rule: order, ties, exact fit, earlier rows with room, refusals; the chapter's."""
    asked = [
        ([2, 5, 1, 2], 5),
        ([3], 4),
        ([1, 1, 1, 1, 1], 3),
        ([4, 3, 2, 2, 1], 6),  # the 2s: the first row has room for one, the second for the other
        ([1, 2, 3, 4, 5, 6], 7),
        ([2, 3, 2, 3, 2], 5),  # ties, rows exactly full
        ([6, 3, 5, 2, 1, 1], 8),  # the last ones fill the first row
        ([7, 5, 4, 1], 10),  # the first row with room is not the fullest that has
        ([5, 5, 1], 5),
        ([2, 6, 3], 5),  # too long: refused
        ([5, 1, 3, 2, 2, 3, 1, 5, 2, 1], 5),
        ([3, 1, 5, 2, 4, 2, 1, 3, 1, 5, 2], 6),
    ]
    return [{"durations": durations, "length": length} for durations, length in asked]


def _tables(answer, case):
    """Return the three tables as a plain tuple, whether or not the answer names them."""
    tables = call_by_name(answer, case)
    return tuple(tables) if isinstance(tables, tuple) else tables


def _by_length(durations):
    return sorted(range(len(durations)), key=lambda i: -durations[i])


def _first_fit(rows, fits):
    return next((row for row in rows if fits(row)), None)


def _fullest(rows, fits, used):
    return max((row for row in rows if fits(row)), key=used, default=None)


def _roomiest(rows, fits, used):
    return min((row for row in rows if fits(row)), key=used, default=None)


def _packed(
    order=_by_length,
    choose=lambda rows, fits, used: _first_fit(rows, fits),
    room=lambda used, duration, length: used + duration <= length,
    clips=lambda k, number: k,
    places=lambda start, n: torch.arange(n),
    empty=(-1, 0, -1),
    begin=lambda used, length: 0,
    refuse=True,
    numbers=lambda row: row,
):
    """Build frame_pack with another part."""

    def answer(durations, length):
        if refuse and max(durations) > length:
            raise ValueError("a clip is longer than a row")
        rows = []

        def used(row):
            return sum(durations[i] for i in row)

        for number in order(durations):
            row = choose(rows, lambda row, n=number: room(used(row), durations[n], length), used)
            if row is None:
                rows.append([number])
            else:
                row.append(number)

        clip = torch.full((len(rows), length), empty[0])
        place = torch.full((len(rows), length), empty[1])
        table = torch.full((len(rows), max(map(len, rows))), empty[2])
        for r, row in enumerate(rows):
            start = begin(used(row), length)
            for k, number in enumerate(row):
                end = start + durations[number]
                clip[r, start:end] = clips(k, number)
                place[r, start:end] = places(start, durations[number])[: len(place[r, start:end])]
                start = end
            table[r, : len(row)] = torch.tensor(numbers(row))
        return clip, place, table

    return answer


def _last_row(rows, fits, used):
    return rows[-1] if rows and fits(rows[-1]) else None


FRAME_PACK = Exercise(
    id="cogvideox.frame_pack",
    reference=packing.frame_pack,
    cases=_pack_cases,
    probe=_tables,
    equation="CogVideoX, Section 3.1; Patch n' Pack, Section 2",
    points=3,
    stars=3,
    minutes=20,
    misconceptions={
        "as_they_come": (
            _packed(order=lambda durations: range(len(durations))),
            "You took the clips as they come. The longest goes first: the short ones find room in"
            " what is left.",
        ),
        "shortest_first": (
            _packed(order=lambda durations: _by_length([-n for n in durations])),
            "You took the shortest clip first. It is the longest: the short ones find room in what"
            " is left.",
        ),
        "ties_backwards": (
            _packed(
                order=lambda durations: sorted(
                    range(len(durations)), key=lambda i: (durations[i], i), reverse=True
                )
            ),
            "Of equal clips you took the later one first (`reverse=True` of pairs, or a list that"
            " was turned). The earlier goes first.",
        ),
        "last_row_alone": (
            _packed(choose=_last_row),
            "You looked for room in the newest row only. Try the rows from the first on.",
        ),
        "fullest_row": (
            _packed(choose=_fullest),
            "You chose the fullest row that has room. The task takes the first one.",
        ),
        "roomiest_row": (
            _packed(choose=_roomiest),
            "You chose the row with most room. The task takes the first one that has enough.",
        ),
        "one_clip_a_row": (
            _packed(choose=lambda rows, fits, used: None),
            "Every clip has a row of its own: that is padding. Put several into one, as long as"
            " there is room.",
        ),
        "never_full": (
            _packed(room=lambda used, duration, length: used + duration < length),
            "No row of yours becomes exactly full by a second clip. used + duration may be equal"
            " to the length.",
        ),
        "clip_of_the_list": (
            _packed(clips=lambda k, number: number),
            "Your `clip` counts through the whole list. It counts the clips of a row, 0, 1, ...;"
            " which of the list they are stands in `numbers`.",
        ),
        "clip_from_one": (
            _packed(clips=lambda k, number: k + 1),
            "Your `clip` counts from 1. The first clip of a row is 0.",
        ),
        "clip_from_one_empty_zero": (
            _packed(clips=lambda k, number: k + 1, empty=(0, 0, -1)),
            "Your `clip` counts from 1, and is 0 where there is no frame. The first clip of a row"
            " is 0, and -1 says that there is no frame.",
        ),
        "empty_is_clip_zero": (
            _packed(empty=(0, 0, -1)),
            "Where there is no frame your `clip` is 0, as if the frame were of the first clip,"
            " which would then look at it. It is -1.",
        ),
        "empty_numbers_zero": (
            _packed(empty=(-1, 0, 0)),
            "Where a row has fewer clips your `numbers` is 0, which is a clip. It is -1.",
        ),
        "empty_place": (
            _packed(empty=(-1, -1, -1)),
            "Where there is no frame your `place` is -1. It is 0 there.",
        ),
        "places_go_on": (
            _packed(places=lambda start, n: torch.arange(start, start + n)),
            "Your `place` counts through the row. It begins anew with every clip: inside a row a"
            " clip has the times that it would have by itself.",
        ),
        "places_from_one": (
            _packed(places=lambda start, n: torch.arange(1, n + 1)),
            "Your `place` counts from 1. A clip's first frame is at time 0.",
        ),
        "at_the_end": (
            _packed(begin=lambda used, length: length - used),
            "Your clips stand at the end of the rows. They begin with the first frame of a row.",
        ),
        "numbers_sorted": (
            _packed(numbers=sorted),
            "You sorted the `numbers` of a row. They are in the order in which the clips stand.",
        ),
        "durations_for_numbers": (
            lambda durations, length: (
                lambda pack: (
                    pack.clip,
                    pack.place,
                    torch.where(
                        pack.numbers < 0, -1, torch.tensor(durations)[pack.numbers.clamp(min=0)]
                    ),
                )
            )(packing.frame_pack(durations, length)),
            "Your `numbers` are the durations. They say which of the list a clip is: its place"
            " there.",
        ),
        "not_refused": (
            lambda durations, length: packing.frame_pack(
                [min(n, length) for n in durations], length
            ),
            "A clip longer than a row is cut off without a word. Raise a ValueError.",
        ),
    },
)


# ---------------------------------------------------------------- dynamic_guidance


def _ramp_cases(rng):
    """Ask with the defaults, other scales and powers, no guidance, one step and the released 50."""
    asked = [
        (7, 4.0, 3.0),
        (5, 6.0, 1.0),
        (9, 2.5, 0.5),
        (4, 0.0, 5.0),
        (1, 3.0, 2.0),
        (6, 1.5, 5.0),
        (8, 6.0, 2.0),
    ]
    names = ("steps", "scale", "power")
    given = [dict(zip(names, values, strict=True)) for values in asked]
    return [*given, {"steps": 50}, {"steps": 10, "scale": 4.0}]


def _ramp(grow, first=0, gaps=0):
    """Build dynamic_guidance with another curve over the share of steps that is done."""

    def answer(steps, scale=6.0, power=5.0):
        i = torch.arange(steps, dtype=torch.float64) + first
        return grow(i / max(steps - gaps, 1), scale, power)

    return answer


def _cosine(share, scale, power):
    return 1 + scale * (1 - torch.cos(math.pi * share**power)) / 2


DYNAMIC_GUIDANCE = Exercise(
    id="cogvideox.dynamic_guidance",
    reference=cogvideox_diffusion.dynamic_guidance,
    cases=_ramp_cases,
    equation="CogVideoX, the released sampler, as it is meant",
    points=1,
    stars=1,
    minutes=5,
    tolerance=1e-8,
    misconceptions={
        "falling": (
            lambda steps, scale=6.0, power=5.0: dynamic_guidance(steps, scale, power).flip(0),
            "Your scales fall. Guidance grows: the first step, where all is noise, has 1.",
        ),
        "share_that_is_left": (
            _ramp(lambda share, scale, power: _cosine(1 - share, scale, power)),
            "You took the share of steps that is left, so that guidance begins at 1 + s. i / steps"
            " is the share that is done.",
        ),
        "without_one": (
            _ramp(lambda share, scale, power: _cosine(share, scale, power) - 1),
            "Your scales begin at 0, which asks for what the *empty* text says. No guidance is a"
            " scale of 1: add it.",
        ),
        "not_halved": (
            _ramp(lambda share, scale, power: 1 + scale * (1 - torch.cos(math.pi * share**power))),
            "1 - cos grows from 0 to 2. Halve it.",
        ),
        "plus_cosine": (
            _ramp(
                lambda share, scale, power: 1 + scale * (1 + torch.cos(math.pi * share**power)) / 2
            ),
            "You added the cosine, which is 1 at the beginning. It is 1 - cos.",
        ),
        "cosine_alone": (
            _ramp(lambda share, scale, power: 1 + scale * torch.cos(math.pi * share**power)),
            "You took the cosine itself, which falls from 1 to -1. (1 - cos) / 2 grows from 0 to"
            " 1.",
        ),
        "no_pi": (
            _ramp(lambda share, scale, power: 1 + scale * (1 - torch.cos(share**power)) / 2),
            "pi is missing: without it the cosine has hardly begun to fall at the last step.",
        ),
        "two_pi": (
            _ramp(
                lambda share, scale, power: (
                    1 + scale * (1 - torch.cos(2 * math.pi * share**power)) / 2
                )
            ),
            "Your cosine goes all the way round and comes back. Half a turn is pi.",
        ),
        "power_outside": (
            _ramp(
                lambda share, scale, power: (
                    1 + scale * ((1 - torch.cos(math.pi * share)) / 2) ** power
                )
            ),
            "You raised the whole curve to the power. The power is of i / steps, inside the"
            " cosine.",
        ),
        "power_of_pi_too": (
            _ramp(
                lambda share, scale, power: (
                    1 + scale * (1 - torch.cos((math.pi * share) ** power)) / 2
                )
            ),
            "You raised pi to the power, too, and the cosine goes round and round. Only i / steps"
            " is.",
        ),
        "no_power": (
            _ramp(lambda share, scale, power: _cosine(share, scale, 1)),
            "The power is missing: (i / steps)^p.",
        ),
        "times_power": (
            _ramp(lambda share, scale, power: _cosine(share * power, scale, 1)),
            "You multiplied by the power. Raise i / steps to it.",
        ),
        "one_less_step": (
            _ramp(_cosine, gaps=1),
            "You divided by steps - 1, so that the last step has 1 + s. It is i / steps, as"
            " released.",
        ),
        "from_one": (
            _ramp(_cosine, first=1),
            "Your steps count from 1. The first has i = 0, and scale 1.",
        ),
        "up_to_the_scale": (
            _ramp(
                lambda share, scale, power: (
                    1 + (scale - 1) * (1 - torch.cos(math.pi * share**power)) / 2
                )
            ),
            "Your scales grow towards s. They grow towards 1 + s: s is what is added to 1.",
        ),
        "linear": (
            _ramp(lambda share, scale, power: 1 + scale * share**power),
            "The cosine is missing: you grow by the power of i / steps alone.",
        ),
        "single_precision": (
            lambda steps, scale=6.0, power=5.0: dynamic_guidance(steps, scale, power).float(),
            "Your scales are in float32. The task says float64, as for other tables.",
        ),
    },
)


# ---------------------------------------------------------------- sampler


@dataclass(frozen=True)
class Network:
    """A stand-in for the transformer that brings one part of a sampler to light.

    steps       v is 0: what is left are the steps, and DDIM
    v           v depends on x, and on nothing else
    time        v depends on t, too
    text        v depends on the text, too
    whole       v depends on all of them, as the transformer's does
    """

    part: str

    def __call__(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Return v.  Raises ValueError for what does not belong together."""
        b = len(x)
        if x.ndim != 5:
            raise ValueError(f"x: expected latents (b t c h w), got {tuple(x.shape)}")
        if tuple(t.shape) != (b,):
            raise ValueError(f"t: expected a step for each sample, ({b},), got {tuple(t.shape)}")
        if t.is_floating_point():
            raise ValueError(f"t: expected whole numbers, got {t.dtype}")
        if text.ndim != 3 or len(text) != b:
            raise ValueError(f"text: expected one for each of {b} samples, got {tuple(text.shape)}")
        if self.part == "steps":
            return 0 * x
        v = 0.7 * torch.sin(1.5 * x) + 0.3 * x.flip(-1)
        if self.part in ("time", "whole"):
            v = v + torch.cos(t.to(x) / 160)[:, None, None, None, None] * (1 + 0.4 * x.roll(1, -2))
        if self.part in ("text", "whole"):
            place = torch.arange(1, text.shape[1] + 1).to(x)[:, None]
            word = torch.linspace(-1, 1.5, text.shape[2]).to(x)
            told = torch.tanh((text * word / place).sum((1, 2)))
            v = v + told[:, None, None, None, None] * (1 + 0.5 * x.roll(1, -1))
        return v


def _sampler_cases(rng):
    """Draw by networks that each bring a part to light, then by one that hears all.

    The last is as the chapter calls it: the tiny network's latents in 10 steps, and the default
    scale.
    """
    ends_in_noise = zero_terminal_snr(torch.linspace(0.99, 0.02, 12, dtype=torch.float64) ** 2)
    some_signal = torch.linspace(0.98, 0.15, 24, dtype=torch.float64)
    cases = []
    for part, b, count, table, scale in [
        ("steps", 2, 2, ends_in_noise, 6.0),
        ("steps", 1, 4, some_signal, 6.0),
        ("v", 2, 3, ends_in_noise, 6.0),
        ("v", 1, 6, some_signal, 6.0),
        ("time", 3, 4, some_signal, 6.0),
        ("time", 2, 5, TINY.alphas_cumprod, 2.0),
        ("text", 2, 4, ends_in_noise, 3.0),
        ("text", 3, 3, some_signal, 0.0),
        ("text", 1, 6, some_signal, 8.0),
    ]:
        cases.append(
            {
                "network": Network(part),
                "noise": torch.randn(b, 4, 3, 2, 5, generator=rng),
                "text": torch.randn(b, 6, 7, generator=rng),
                "null": torch.randn(1, 6, 7, generator=rng),
                "count": count,
                "alphas_cumprod": table,
                "scale": scale,
            }
        )
    whole = {
        "network": Network("whole"),
        "noise": torch.randn(2, 5, 4, 8, 8, generator=rng),
        "text": torch.randn(2, 24, 64, generator=rng),
        "null": torch.zeros(1, 24, 64),
        "count": 10,
        "alphas_cumprod": TINY.alphas_cumprod,
    }
    return [*cases, whole]


def _under_its_part(answer, case):
    """Return the latents under the name of the part that the network brings to light."""
    return {case["network"].part: call_by_name(answer, case)}


def _draw(
    steps=lambda timesteps, count: trailing_steps(timesteps, count).flip(0),
    alpha_bars=lambda table, steps: F.pad(table[steps], (0, 1), value=1.0),
    told=lambda step, i: step,
    scales=lambda count, scale, steps: dynamic_guidance(count, scale),
    combine=guide,
    texts=lambda text, null: (text, null),
    x_start_of=lambda x, v, a: a.sqrt() * x - (1 - a).sqrt() * v,
    eps_of=lambda x, v, a: (1 - a).sqrt() * x + a.sqrt() * v,
    together=lambda x_start, eps, a: a.sqrt() * x_start + (1 - a).sqrt() * eps,
):
    """Build the sampler with another part."""

    @torch.no_grad()
    def answer(network, noise, text, null, count, alphas_cumprod, scale=6.0):
        x = noise
        visited = steps(len(alphas_cumprod), count)
        bars = alpha_bars(alphas_cumprod, visited)
        strengths = scales(len(visited), scale, visited)
        known_text, unknown_text = texts(text, null.expand_as(text))
        for i, step in enumerate(visited.tolist()[: len(bars) - 1]):
            t = torch.full((len(x),), told(step, i))
            known = network(x, t, known_text)
            unknown = network(x, t, unknown_text)
            v = combine(known, unknown, strengths[i])
            a, a_next = bars[i : i + 2]
            x = together(x_start_of(x, v, a), eps_of(x, v, a), a_next)
        return x

    return answer


def _every_step_before(network, noise, text, null, count, alphas_cumprod, scale=6.0):
    """Go to the noise of step t - 1, though the next step that is visited is t - T / count."""
    x = noise
    visited = trailing_steps(len(alphas_cumprod), count).flip(0)
    for i, step in enumerate(visited.tolist()):
        t = torch.full((len(x),), step)
        v = guide(
            network(x, t, text),
            network(x, t, null.expand_as(text)),
            dynamic_guidance(count, scale)[i],
        )
        a = alphas_cumprod[step]
        a_next = alphas_cumprod[step - 1] if step else torch.ones_like(a)
        x_start = a.sqrt() * x - (1 - a).sqrt() * v
        eps = (1 - a).sqrt() * x + a.sqrt() * v
        x = a_next.sqrt() * x_start + (1 - a_next).sqrt() * eps
    return x


SAMPLER = Exercise(
    id="cogvideox.sampler",
    reference=cogvideox_diffusion.sample_ddim,
    cases=_sampler_cases,
    probe=_under_its_part,
    equation="CogVideoX, Section 3; DDIM, Eq. 12; Lin et al., Section 3.3",
    points=6,
    stars=4,
    minutes=25,
    misconceptions={
        "leading_steps": (
            _draw(steps=lambda timesteps, count: ddim_steps(timesteps, count).flip(0)),
            "The steps: yours end in 0 and begin below the last one, as in chapter 08. Begin at"
            " T - 1, where there is nothing but noise.",
        ),
        "both_ends": (
            _draw(
                steps=lambda timesteps, count: (
                    torch.linspace(timesteps - 1, 0, count, dtype=torch.float64).round().long()
                )
            ),
            "The steps: yours go from T - 1 to 0. They are T / count apart, and the last of them is"
            " T / count - 1.",
        ),
        "rising": (
            _draw(steps=trailing_steps),
            "The steps: yours rise. Sampling goes from the noisiest step down.",
        ),
        "last_step_left_out": (
            _draw(alpha_bars=lambda table, steps: table[steps]),
            "The steps: your loop ends at the last step that is visited. From there one more leads"
            " to alpha_bar = 1, where x becomes x_0.",
        ),
        "ends_at_the_first_entry": (
            _draw(alpha_bars=lambda table, steps: torch.cat([table[steps], table[:1]])),
            "The steps: your last one leads to `alphas_cumprod[0]`, where a little noise is left."
            " It leads to alpha_bar = 1.",
        ),
        "the_step_before": (
            _every_step_before,
            "DDIM: you took alpha_bar of the step before, t - 1. It is that of the next step that"
            " is *visited*, T / count lower.",
        ),
        "stays_at_its_noise": (
            _draw(alpha_bars=lambda table, steps: torch.cat([table[steps][:1], table[steps]])),
            "DDIM: each of your steps is one behind: the first leads to the noise where it"
            " began. It leads to the next step's.",
        ),
        "eps_read": (
            _draw(
                x_start_of=lambda x, v, a: (x - (1 - a).sqrt() * v) / a.sqrt().clamp(min=1e-4),
                eps_of=lambda x, v, a: v,
            ),
            "You took what the network says for the noise. It says v: x_0 = sqrt(alpha_bar) x -"
            " sqrt(1 - alpha_bar) v.",
        ),
        "x_start_read": (
            _draw(
                x_start_of=lambda x, v, a: v,
                eps_of=lambda x, v, a: (x - a.sqrt() * v) / (1 - a).sqrt(),
            ),
            "You took what the network says for x_0. It says v: x_0 = sqrt(alpha_bar) x - sqrt(1 -"
            " alpha_bar) v.",
        ),
        "v_negative": (
            _draw(
                x_start_of=lambda x, v, a: a.sqrt() * x + (1 - a).sqrt() * v,
                eps_of=lambda x, v, a: (1 - a).sqrt() * x - a.sqrt() * v,
            ),
            "DDIM: v has the wrong sign in both, x_0 and the noise.",
        ),
        "x_start_plus": (
            _draw(x_start_of=lambda x, v, a: a.sqrt() * x + (1 - a).sqrt() * v),
            "DDIM: the sign of v in x_0 is wrong: x_0 = sqrt(alpha_bar) x - sqrt(1 - alpha_bar) v.",
        ),
        "eps_minus": (
            _draw(eps_of=lambda x, v, a: (1 - a).sqrt() * x - a.sqrt() * v),
            "DDIM: the sign of v in the noise is wrong: eps = sqrt(1 - alpha_bar) x +"
            " sqrt(alpha_bar) v.",
        ),
        "no_roots": (
            _draw(together=lambda x_start, eps, a: a * x_start + (1 - a) * eps),
            "DDIM: the roots are missing where you put x_0 and the noise together again.",
        ),
        "x_start_returned": (
            _draw(together=lambda x_start, eps, a: x_start),
            "DDIM: x becomes x_0 in every step of yours. It becomes x_0 and the noise, put together"
            " at the next step's alpha_bar.",
        ),
        "number_told": (
            _draw(told=lambda step, i: i),
            "The network's time: you told it the number of the sampling step. It knows the step of"
            " training, such as 999.",
        ),
        "constant_guidance": (
            _draw(
                scales=lambda count, scale, steps: torch.full(
                    (count,), 1.0 + scale, dtype=torch.float64
                )
            ),
            "The guidance: yours is 1 + scale in every step. It grows:"
            " `dynamic_guidance(count, scale)`.",
        ),
        "scale_itself": (
            _draw(
                scales=lambda count, scale, steps: torch.full((count,), scale, dtype=torch.float64)
            ),
            "The guidance: yours is `scale` in every step. It grows from 1 towards 1 + scale:"
            " `dynamic_guidance(count, scale)`.",
        ),
        "falling_guidance": (
            _draw(scales=lambda count, scale, steps: dynamic_guidance(count, scale).flip(0)),
            "The guidance: yours falls. The first step, the noisiest, has entry 0.",
        ),
        "released_guidance": (
            _draw(
                scales=lambda count, scale, steps: cogvideox_diffusion.released_dynamic_guidance(
                    steps, scale
                )
            ),
            "The guidance: that is the ramp of the released code, which takes 999 for the number of"
            " a sampling step. Yours goes by `dynamic_guidance(count, scale)`.",
        ),
        "guidance_of_the_default": (
            _draw(scales=lambda count, scale, steps: dynamic_guidance(count)),
            "The guidance: you left `scale` at its default. Pass it on.",
        ),
        "one_step_ahead": (
            _draw(
                scales=lambda count, scale, steps: F.pad(
                    dynamic_guidance(count, scale)[1:], (0, 1), value=1.0 + scale
                )
            ),
            "The guidance: you are one step ahead. Step i has entry i, and the first no guidance"
            " at all.",
        ),
        "no_guidance": (
            _draw(combine=lambda known, unknown, scale: known),
            "The guidance is missing: your v is what the network says of the text alone. Ask it"
            " without the text, too, and go from there by the scale.",
        ),
        "without_text": (
            _draw(combine=lambda known, unknown, scale: unknown),
            "The guidance: what the network says of the text is not used.",
        ),
        "guidance_exchanged": (
            _draw(combine=lambda known, unknown, scale: known + scale * (unknown - known)),
            "The guidance goes away from the text: the two outputs have changed places. Start from"
            " the one without, and go to the one with it.",
        ),
        "beyond_the_known": (
            _draw(combine=lambda known, unknown, scale: known + scale * (known - unknown)),
            "The guidance: each scale is one too large, as where one starts from the output with"
            " the text. Start from the one without, and take the ramp as it is.",
        ),
    },
)

EXERCISES = [
    EXPERT_ADALN,
    EXPERT_BLOCK,
    V_TARGET,
    ZERO_TERMINAL_SNR,
    EXPLICIT_UNIFORM,
    FRAME_PACK,
    DYNAMIC_GUIDANCE,
    SAMPLER,
]
