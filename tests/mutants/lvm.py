"""Notebook 07, second half: more wrong answers, and right ones written differently."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange

from course_lib.lm.kv_cache import KVCache
from course_lib.lm.llama import swiglu
from course_lib.lm.sampling import draw_tokens, generate, next_token_probabilities
from course_lib.nn.norm import RMSNorm, rms_norm
from course_lib.nn.rope import rope_angles, rotate, rotate_places
from course_lib.papers.lvm import decode_image, next_token_loss

# ---------------------------------------------------------------- wrong


def norm_of_the_first_axis(x, weight, eps):
    """Takes the mean over the first axis."""
    return weight * x / (x.square().mean(0, keepdim=True) + eps).sqrt()


def norm_of_each_sample(x, weight, eps):
    """Takes one mean for all that is in a row of the batch."""
    axes = tuple(range(1, x.ndim)) or (0,)
    return weight * x / (x.square().mean(axes, keepdim=True) + eps).sqrt()


def norm_with_eps_squared(x, weight, eps):
    return rms_norm(x, weight, eps**2)


def norm_with_its_own_eps(x, weight, eps):
    return rms_norm(x, weight, 1e-6)


def norm_by_one_less(x, weight, eps):
    """Divides the sum of squares by d - 1."""
    d = x.shape[-1]
    return weight * x / (x.square().sum(-1, keepdim=True) / (d - 1) + eps).sqrt()


def norm_inverse_root_twice(x, weight, eps):
    y = rms_norm(x, weight, eps)
    return y * (x.square().mean(-1, keepdim=True) + eps).rsqrt()


def norm_divided_by_weight(x, weight, eps):
    return rms_norm(x, 1 / weight, eps)


def norm_of_absolute_weight(x, weight, eps):
    return rms_norm(x, weight.abs(), eps)


def norm_weight_detached(x, weight, eps):
    return rms_norm(x, weight.detach(), eps)


def norm_in_place(x, weight, eps):
    new = rms_norm(x, weight, eps)
    with torch.no_grad():
        x.copy_(new)
    return new


def norm_squared(x, weight, eps):
    return rms_norm(x, weight, eps).square()


def rotary_with(change):
    """Build rotary on changed arguments."""

    def answer(x, first=0):
        given = {"x": x, "first": first}
        return rotate_places(**{**given, **change(given)})

    return answer


def rotary_twice(x, first=0):
    return rotate_places(rotate_places(x, first), first)


def rotary_added(x, first=0):
    """Adds what is turned."""
    return x + rotate_places(x, first)


def rotary_first_half(x, first=0):
    """Turns half of every head and leaves the rest."""
    half = x.shape[-1] // 4 * 2
    return torch.cat([rotate_places(x[..., :half], first), x[..., half:]], dim=-1)


def rotary_other_base(x, first=0):
    d = x.shape[-1]
    angles = torch.arange(first, first + x.shape[1])[:, None] * 500_000 ** (
        -torch.arange(0, d, 2) / d
    )
    return rotate(x, angles.to(x))


def rotary_relative(x, first=0):
    """Measures places in rows of the batch's length."""
    n = x.shape[1]
    return rotate(x, rope_angles((first + torch.arange(n)).to(x) / n, x.shape[-1]))


def rotary_heads_apart(x, first=0):
    """Goes on counting from one head to the next."""
    n = x.shape[1]
    return torch.cat([rotate_places(x[:, :, [h]], first + h * n) for h in range(x.shape[2])], dim=2)


def rotary_rows_go_on(x, first=0):
    """Goes on counting from one row of the batch to the next."""
    n = x.shape[1]
    return torch.cat([rotate_places(x[[b]], first + b * n) for b in range(len(x))])


def rotary_as_vectors(x, first=0):
    """Joins the heads."""
    return rotate_places(x, first).flatten(2)


def rotary_subtracted(x, first=0):
    return rotate_places(x, -first)


def rotary_in_place(x, first=0):
    new = rotate_places(x, first)
    with torch.no_grad():
        x.copy_(new)
    return new


def rotary_needs_first(x, first):
    return rotate_places(x, first)


def rotary_from_one(x, first=1):
    return rotate_places(x, first)


def gate_quick(x, into, out):
    gate, value = into(x).chunk(2, dim=-1)
    return out(gate * torch.sigmoid(1.702 * gate) * value)


def gate_hard(x, into, out):
    gate, value = into(x).chunk(2, dim=-1)
    return out(F.hardswish(gate) * value)


def gate_softplus(x, into, out):
    gate, value = into(x).chunk(2, dim=-1)
    return out(F.softplus(gate) * value)


def gate_of_x(x, into, out):
    """Activates x before the first layer."""
    gate, value = into(F.silu(x)).chunk(2, dim=-1)
    return out(gate * value)


def gate_value_sigmoid(x, into, out):
    gate, value = into(x).chunk(2, dim=-1)
    return out(gate * torch.sigmoid(value))


def gate_normalized(x, into, out):
    gate, value = into(x).chunk(2, dim=-1)
    return out(gate.softmax(-1) * value)


def gate_backwards(x, into, out):
    """Cuts the halves off from the end."""
    gate, value = into(x).flip(-1).chunk(2, dim=-1)
    return out(F.silu(gate) * value)


def gate_over_tokens(x, into, out):
    """Cuts along another axis."""
    gate, value = into(x).chunk(2, dim=0)
    return out(F.silu(gate) * value)


def gate_layers_exchanged(x, into, out):
    return swiglu(x, out, into)


def gate_without_input(x, into, out):
    return swiglu(x.detach(), into, out)


def gate_negative(x, into, out):
    gate, value = into(x).chunk(2, dim=-1)
    return out(F.silu(-gate) * value)


def gate_halved(x, into, out):
    return swiglu(x, into, out) / 2


def loss_with(change):
    """Build next_token_loss on changed arguments."""

    def answer(logits, tokens):
        given = {"logits": logits, "tokens": tokens}
        return next_token_loss(**{**given, **change(given)})

    return answer


def loss_zero_for_the_first(logits, tokens):
    """Gives the first token a loss, too."""
    return F.pad(next_token_loss(logits, tokens), (1, 0))


def loss_without_the_last(logits, tokens):
    """Shifts the logits as well."""
    return next_token_loss(logits[:, :-1], tokens[:, :-1])


def loss_shifted_the_other_way(logits, tokens):
    """Asks logits i + 1 for token i + 1, the one that they have read, and drops a loss."""
    return next_token_loss(logits[:, 1:], torch.cat([tokens[:, :1], tokens[:, 1:-1]], dim=1))


def loss_of_the_last(logits, tokens):
    return next_token_loss(logits, tokens)[:, -1:]


def loss_squared(logits, tokens):
    """Compares probabilities with ones and zeros."""
    hot = F.one_hot(tokens[:, 1:], logits.shape[-1])
    return (logits.softmax(-1) - hot).square().sum(-1)


def loss_binary(logits, tokens):
    hot = F.one_hot(tokens[:, 1:], logits.shape[-1]).to(logits)
    return F.binary_cross_entropy_with_logits(logits, hot, reduction="none").sum(-1)


def loss_accuracy(logits, tokens):
    return (logits.argmax(-1) == tokens[:, 1:]).to(logits)


def loss_smoothed(logits, tokens):
    flat = logits.flatten(0, 1)
    losses = F.cross_entropy(flat, tokens[:, 1:].flatten(), reduction="none", label_smoothing=0.1)
    return losses.view(logits.shape[:2])


def loss_flat(logits, tokens):
    return next_token_loss(logits, tokens).flatten()


def loss_transposed_view(logits, tokens):
    losses = next_token_loss(logits, tokens)
    return losses.t().reshape(losses.shape)


def loss_of_the_best(logits, tokens):
    """Takes the most probable token for the one that follows."""
    return -logits.log_softmax(-1).amax(-1)


def loss_base_ten(logits, tokens):
    return next_token_loss(logits, tokens) / math.log(10)


def loss_of_the_first_row(logits, tokens):
    return next_token_loss(logits, tokens[:1].expand_as(tokens))


def loss_single(logits, tokens):
    return next_token_loss(logits.float(), tokens)


def picture_with(change):
    """Build decode_picture on changed arguments."""

    def answer(model, prompt, uniform, temperature=1.0, top_p=None):
        given = {
            "model": model,
            "prompt": prompt,
            "uniform": uniform,
            "temperature": temperature,
            "top_p": top_p,
        }
        return decode_image(**{**given, **change(given)})

    return answer


def codes_of(model, logits, temperature, top_p):
    return next_token_probabilities(logits[:, : model.config.num_codes], temperature, top_p=top_p)


def picture_until_eos(model, prompt, uniform, temperature=1.0, top_p=None):
    """Stops at EOS, and fills the rest with 0."""
    tokens = prompt
    for u in uniform:
        logits = model.next_logits(tokens)
        token = draw_tokens(next_token_probabilities(logits, temperature, top_p=top_p), u)
        if (token == model.config.eos).any():
            break
        tokens = torch.cat([tokens, token[:, None]], dim=1)
    codes = tokens[:, prompt.shape[1] :]
    codes = F.pad(codes, (0, len(uniform) - codes.shape[1]))
    return codes.unflatten(1, model.config.image)


def picture_skips_specials(model, prompt, uniform, temperature=1.0, top_p=None):
    """Draws from all tokens and leaves out what is no code, so that the image comes out short."""
    tokens = prompt
    for u in uniform:
        logits = model.next_logits(tokens)
        token = draw_tokens(next_token_probabilities(logits, temperature, top_p=top_p), u)
        if (token < model.config.num_codes).all():
            tokens = torch.cat([tokens, token[:, None]], dim=1)
    return tokens[:, prompt.shape[1] :].reshape(len(prompt), -1, model.config.image[1])


def picture_with_prompt(model, prompt, uniform, temperature=1.0, top_p=None):
    codes = decode_image(model, prompt, uniform, temperature, top_p).flatten(1)
    return torch.cat([prompt, codes], dim=1)


def picture_at_once(model, prompt, uniform, temperature=1.0, top_p=None):
    """Reads all codes off one pass over a prompt with an empty image after it."""
    empty = prompt.new_zeros(len(prompt), len(uniform) - 1)
    logits = model(torch.cat([prompt, empty], dim=1))[:, prompt.shape[1] - 1 :]
    codes = [
        draw_tokens(codes_of(model, each, temperature, top_p), u)
        for each, u in zip(logits.unbind(1), uniform, strict=True)
    ]
    return torch.stack(codes, dim=1).unflatten(1, model.config.image)


def picture_short_cache(model, prompt, uniform, temperature=1.0, top_p=None):
    """Makes room for the image alone."""
    cache, new, codes = KVCache(model.config.depth, len(uniform)), prompt, []
    for u in uniform:
        new = draw_tokens(codes_of(model, model.next_logits(new, cache), temperature, top_p), u)
        new = new[:, None]
        codes.append(new)
    return torch.cat(codes, dim=1).unflatten(1, model.config.image)


def picture_cache_overflows(model, prompt, uniform, temperature=1.0, top_p=None):
    """Gives the cache all tokens again."""
    cache, tokens = KVCache(model.config.depth, prompt.shape[1] + len(uniform)), prompt
    for u in uniform:
        logits = model.next_logits(tokens, cache)
        new = draw_tokens(codes_of(model, logits, temperature, top_p), u)[:, None]
        tokens = torch.cat([tokens, new], dim=1)
    return tokens[:, prompt.shape[1] :].unflatten(1, model.config.image)


def picture_fresh_cache(model, prompt, uniform, temperature=1.0, top_p=None):
    """Makes a new cache in every step, and gives it the new token alone."""
    new, codes = prompt, []
    for u in uniform:
        cache = KVCache(model.config.depth, prompt.shape[1])
        logits = model.next_logits(new, cache)
        new = draw_tokens(codes_of(model, logits, temperature, top_p), u)[:, None]
        codes.append(new)
    return torch.cat(codes, dim=1).unflatten(1, model.config.image)


def picture_own_numbers(model, prompt, uniform, temperature=1.0, top_p=None):
    codes = generate(
        model,
        prompt,
        len(uniform),
        temperature=temperature,
        top_p=top_p,
        among=model.config.num_codes,
    )
    return codes.unflatten(1, model.config.image)


def picture_square(model, prompt, uniform, temperature=1.0, top_p=None):
    """Takes every image for a square."""
    side = math.isqrt(len(uniform))
    codes = decode_image(model, prompt, uniform, temperature, top_p).flatten(1)
    return codes[:, : side * side].unflatten(1, (side, side))


def picture_turned(model, prompt, uniform, temperature=1.0, top_p=None):
    return decode_image(model, prompt, uniform, temperature, top_p).mT


def picture_forgets_the_prompt(model, prompt, uniform, temperature=1.0, top_p=None):
    """Starts from BOS."""
    return decode_image(
        model, torch.full_like(prompt[:, :1], model.config.bos), uniform, temperature, top_p
    )


def picture_small_for_specials(model, prompt, uniform, temperature=1.0, top_p=None):
    """Sets the specials' logits to 0, which is not what forbids them."""
    tokens = prompt
    for u in uniform:
        logits = model.next_logits(tokens).clone()
        logits[:, model.config.num_codes :] = 0
        p = next_token_probabilities(logits, temperature, top_p=top_p)
        tokens = torch.cat([tokens, draw_tokens(p, u)[:, None]], dim=1)
    return tokens[:, prompt.shape[1] :].unflatten(1, model.config.image)


def picture_of_the_first(model, prompt, uniform, temperature=1.0, top_p=None):
    codes = decode_image(model, prompt[:1], uniform[:, :1], temperature, top_p)
    return codes.expand(len(prompt), -1, -1)


def picture_short(model, prompt, uniform, temperature=1.0, top_p=None):
    return decode_image(model, prompt, uniform, temperature, top_p).int()


def picture_other_defaults(model, prompt, uniform, temperature=0.9, top_p=0.95):
    return decode_image(model, prompt, uniform, temperature, top_p)


WRONG = {
    "lvm.rms_norm": {
        "of_the_first_axis": norm_of_the_first_axis,
        "of_each_sample": norm_of_each_sample,
        "with_eps_squared": norm_with_eps_squared,
        "with_its_own_eps": norm_with_its_own_eps,
        "by_one_less": norm_by_one_less,
        "inverse_root_twice": norm_inverse_root_twice,
        "divided_by_weight": norm_divided_by_weight,
        "of_absolute_weight": norm_of_absolute_weight,
        "weight_detached": norm_weight_detached,
        "in_place": norm_in_place,
        "squared": norm_squared,
    },
    "lvm.rotary": {
        "twice": rotary_twice,
        "added": rotary_added,
        "first_half": rotary_first_half,
        "other_base": rotary_other_base,
        "relative": rotary_relative,
        "heads_apart": rotary_heads_apart,
        "rows_go_on": rotary_rows_go_on,
        "as_vectors": rotary_as_vectors,
        "subtracted": rotary_subtracted,
        "in_place": rotary_in_place,
        "needs_first": rotary_needs_first,
        "from_one": rotary_from_one,
        "twice_as_far_from_the_start": rotary_with(lambda given: {"first": 2 * given["first"]}),
        "one_too_near": rotary_with(lambda given: {"first": given["first"] - 1}),
        "heads_backwards": rotary_with(lambda given: {"x": given["x"].flip(-1)}),
    },
    "lvm.swiglu": {
        "quick": gate_quick,
        "hard": gate_hard,
        "softplus": gate_softplus,
        "of_x": gate_of_x,
        "value_sigmoid": gate_value_sigmoid,
        "normalized": gate_normalized,
        "backwards": gate_backwards,
        "over_tokens": gate_over_tokens,
        "layers_exchanged": gate_layers_exchanged,
        "without_input": gate_without_input,
        "negative": gate_negative,
        "halved": gate_halved,
    },
    "lvm.next_token_loss": {
        "zero_for_the_first": loss_zero_for_the_first,
        "without_the_last": loss_without_the_last,
        "shifted_the_other_way": loss_shifted_the_other_way,
        "of_the_last": loss_of_the_last,
        "squared": loss_squared,
        "binary": loss_binary,
        "accuracy": loss_accuracy,
        "smoothed": loss_smoothed,
        "flat": loss_flat,
        "transposed_view": loss_transposed_view,
        "of_the_best": loss_of_the_best,
        "base_ten": loss_base_ten,
        "of_the_first_row": loss_of_the_first_row,
        "single": loss_single,
        "backwards": loss_with(lambda given: {"tokens": given["tokens"].flip(1)}),
        "negated": loss_with(lambda given: {"logits": -given["logits"]}),
    },
    "lvm.decode_picture": {
        "until_eos": picture_until_eos,
        "skips_specials": picture_skips_specials,
        "with_prompt": picture_with_prompt,
        "at_once": picture_at_once,
        "short_cache": picture_short_cache,
        "cache_overflows": picture_cache_overflows,
        "fresh_cache": picture_fresh_cache,
        "own_numbers": picture_own_numbers,
        "square": picture_square,
        "turned": picture_turned,
        "forgets_the_prompt": picture_forgets_the_prompt,
        "small_for_specials": picture_small_for_specials,
        "of_the_first": picture_of_the_first,
        "short": picture_short,
        "other_defaults": picture_other_defaults,
        "numbers_from_above": picture_with(lambda given: {"uniform": 1 - given["uniform"]}),
        "prompt_backwards": picture_with(lambda given: {"prompt": given["prompt"].flip(1)}),
    },
}


# ---------------------------------------------------------------- right


def norm_as_the_solution(x, weight, eps):
    mean_square = x.square().mean(dim=-1, keepdim=True)
    return weight * x * torch.rsqrt(mean_square + eps)


def norm_by_module(x, weight, eps):
    layer = RMSNorm(len(weight), eps)
    return torch.func.functional_call(layer, {"weight": weight}, (x,))


def norm_by_length(x, weight, eps):
    """Measures by the vector's length, which is root d times as large."""
    d = x.shape[-1]
    squares = (x * x).sum(-1, keepdim=True)
    return x / (squares + d * eps) ** 0.5 * math.sqrt(d) * weight


def norm_by_einsum(x, weight, eps):
    squares = torch.einsum("...d,...d->...", x, x) / x.shape[-1]
    return torch.einsum("...d,d,...->...d", x, weight, 1 / (squares + eps).sqrt())


def rotary_as_the_solution(x, first=0):
    n, d = x.shape[1], x.shape[-1]
    places = torch.arange(first, first + n)  # n
    frequencies = 10_000 ** (-torch.arange(0, d, 2) / d)  # d/2
    angles = (places[:, None] * frequencies)[:, None].to(x)  # n 1 d/2
    cos, sin = angles.cos(), angles.sin()
    even, odd = x[..., 0::2], x[..., 1::2]  # b n heads d/2
    turned = [even * cos - odd * sin, even * sin + odd * cos]
    return torch.stack(turned, dim=-1).flatten(-2)


def rotary_by_complex_numbers(x, first=0):
    d = x.shape[-1]
    angles = rope_angles(torch.arange(first, first + x.shape[1]).to(x), d)
    pairs = torch.view_as_complex(rearrange(x, "b n h (i two) -> b n h i two", two=2).contiguous())
    return torch.view_as_real(pairs * torch.exp(1j * angles)[:, None]).flatten(3)


def rotary_by_matrices(x, first=0):
    """Multiplies each token by a matrix of its own."""
    d = x.shape[-1]
    rows = []
    for place in range(x.shape[1]):
        blocks = []
        for i in range(d // 2):
            angle = (first + place) * 10_000 ** (-2 * i / d)
            c, s = math.cos(angle), math.sin(angle)
            blocks.append(torch.tensor([[c, -s], [s, c]], dtype=x.dtype))
        rows.append(x[:, place] @ torch.block_diag(*blocks).T)
    return torch.stack(rows, dim=1)


def rotary_by_partner(x, first=0):
    """Adds the partner of every number, turned by a quarter."""
    d = x.shape[-1]
    angles = torch.outer(
        torch.arange(first, first + x.shape[1]).double(),
        10_000 ** (-torch.arange(d // 2).double() * 2 / d),
    ).repeat_interleave(2, dim=1)
    cos, sin = (y.to(x.dtype)[None, :, None] for y in (angles.cos(), angles.sin()))
    partner = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).reshape(x.shape)
    return x * cos + partner * sin


def rotary_shifted(x, first=0):
    """Rotates from 0 on, and then everything by the first place's angles."""
    turned = rotary_as_the_solution(x)
    angles = rope_angles(torch.tensor([float(first)]), x.shape[-1]).to(x)
    return rotate(turned, angles.expand(x.shape[1], -1))


def gate_as_the_solution(x, into, out):
    gate, value = into(x).chunk(2, dim=-1)
    return out(F.silu(gate) * value)


def gate_by_sigmoid(x, into, out):
    h = into(x)
    half = h.shape[-1] // 2
    return out(h[..., :half] * torch.sigmoid(h[..., :half]) * h[..., half:])


def gate_by_exponential(x, into, out):
    gate, value = rearrange(into(x), "... (two m) -> two ... m", two=2)
    return out(gate * value / (1 + (-gate).exp()))


def gate_by_weights(x, into, out):
    """Takes the layer apart."""
    w, v = into.weight.chunk(2)
    return (F.silu(x @ w.T) * (x @ v.T)) @ out.weight.T


def loss_as_the_solution(logits, tokens):
    following = tokens[:, 1:]
    log_p = logits.log_softmax(dim=-1)
    return -log_p.gather(-1, following[..., None])[..., 0]


def loss_by_cross_entropy(logits, tokens):
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def loss_by_logsumexp(logits, tokens):
    hot = F.one_hot(tokens[:, 1:], logits.shape[-1])
    return logits.logsumexp(-1) - (logits * hot).sum(-1)


def loss_row_by_row(logits, tokens):
    return torch.stack(
        [
            F.nll_loss(row.log_softmax(-1), words[1:], reduction="none")
            for row, words in zip(logits, tokens, strict=True)
        ]
    )


@torch.no_grad()
def picture_as_the_solution(model, prompt, uniform, temperature=1.0, top_p=None):
    config = model.config
    cache = KVCache(config.depth, prompt.shape[1] + len(uniform))
    new, codes = prompt, []
    for u in uniform:
        logits = model.next_logits(new, cache)[:, : config.num_codes]
        p = next_token_probabilities(logits, temperature, top_p=top_p)
        new = draw_tokens(p, u)[:, None]  # b 1
        codes.append(new)
    h, w = config.image
    return rearrange(torch.cat(codes, dim=1), "b (h w) -> b h w", h=h, w=w)


def picture_without_cache(model, prompt, uniform, temperature=1.0, top_p=None):
    """Gives the model all tokens in every step, and reads the logits after each."""
    tokens = prompt
    for u in uniform:
        p = codes_of(model, model(tokens)[:, -1], temperature, top_p)
        tokens = torch.cat([tokens, draw_tokens(p, u)[:, None]], dim=1)
    return tokens[:, -len(uniform) :].reshape(-1, *model.config.image)


def picture_by_minus_infinity(model, prompt, uniform, temperature=1.0, top_p=None):
    """Forbids what is no code, and fills a grid code by code."""
    h, w = model.config.image
    grid = torch.zeros(len(prompt), h, w, dtype=torch.long)
    cache = KVCache(model.config.depth, model.config.context)
    logits = model.next_logits(prompt, cache).clone()
    for i in range(h * w):
        logits[:, model.config.num_codes :] = -torch.inf
        p = next_token_probabilities(logits, temperature, top_p=top_p)
        grid[:, i // w, i % w] = draw_tokens(p, uniform[i])
        if i < h * w - 1:
            logits = model.next_logits(grid[:, i // w, i % w, None], cache).clone()
    return grid


def picture_by_sums(model, prompt, uniform, temperature=1.0, top_p=None):
    """Draws by the sums of probabilities, its own way."""
    codes = prompt[:, :0]
    for u in uniform.unbind():
        tokens = torch.cat([prompt, codes], dim=1)
        p = codes_of(model, model.next_logits(tokens), temperature, top_p)
        code = (p.cumsum(-1) <= u[:, None]).sum(-1, keepdim=True)
        codes = torch.cat([codes, code], dim=1)
    return codes.unflatten(-1, model.config.image)


def picture_one_by_one(model, prompt, uniform, temperature=1.0, top_p=None):
    """Draws for one prompt after the other."""
    images = [
        picture_as_the_solution(model, row[None], numbers[:, None], temperature, top_p)
        for row, numbers in zip(prompt, uniform.t(), strict=True)
    ]
    return torch.cat(images)


RIGHT = {
    "lvm.rms_norm": {
        "as_the_solution": norm_as_the_solution,
        "by_module": norm_by_module,
        "by_length": norm_by_length,
        "by_einsum": norm_by_einsum,
    },
    "lvm.rotary": {
        "as_the_solution": rotary_as_the_solution,
        "by_complex_numbers": rotary_by_complex_numbers,
        "by_matrices": rotary_by_matrices,
        "by_partner": rotary_by_partner,
        "shifted": rotary_shifted,
    },
    "lvm.swiglu": {
        "as_the_solution": gate_as_the_solution,
        "by_sigmoid": gate_by_sigmoid,
        "by_exponential": gate_by_exponential,
        "by_weights": gate_by_weights,
    },
    "lvm.next_token_loss": {
        "as_the_solution": loss_as_the_solution,
        "by_cross_entropy": loss_by_cross_entropy,
        "by_logsumexp": loss_by_logsumexp,
        "row_by_row": loss_row_by_row,
    },
    "lvm.decode_picture": {
        "as_the_solution": picture_as_the_solution,
        "without_cache": picture_without_cache,
        "by_minus_infinity": picture_by_minus_infinity,
        "by_sums": picture_by_sums,
        "one_by_one": picture_one_by_one,
    },
}
