"""MAGVIT has no peer on PyPI and no released weights.  Its tokenizer and discriminator are checked
against an executor of the official Flax modules' structure, channels last, written with loops over
kernel offsets in double precision and with weights of its own; its transformer against
transformers' BERT, which is what the official one simplifies.
"""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from course_lib.compat import import_torchvision
from course_lib.papers import magvit
from course_lib.papers.magvit import BertConfig, MaskedTransformer
from course_lib.papers.magvit_tokenizer import (
    TOKENIZER_CONFIGS,
    DiscriminatorConfig,
    StyleGANDiscriminator,
    Tokenizer,
    TokenizerConfig,
)
from tests.parity.peers import largest_difference, randomize

import_torchvision()  # before transformers asks for it

from transformers import BertConfig as PeerConfig  # noqa: E402
from transformers import BertForMaskedLM  # noqa: E402

# ------------------------------------------------------------ an executor of the official structure


class Flax:
    """Weights by the path of their module, made when they are first asked for; layers on (b t h w
    c).
    """

    def __init__(self, padding="zeros", groups=32, seed=0):
        self.weights, self.padding, self.groups = {}, padding, groups
        self.generator = torch.Generator().manual_seed(seed)

    def get(self, name, shape):
        if name not in self.weights:
            noise = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
            scale = 1 / math.prod(shape[:-1]) ** 0.5 if len(shape) > 1 else 0.3
            self.weights[name] = (noise * scale + name.endswith("scale")).requires_grad_()
        assert self.weights[name].shape == shape
        return self.weights[name]

    def conv(self, name, x, features, kernel, bias=True, padding=None):
        """Every offset of the kernel is a shifted copy of the clip times a matrix."""
        weight = self.get(f"{name}/kernel", (*kernel, x.shape[-1], features))
        size = x.shape[1:4]
        for axis, k in enumerate(kernel, start=1):
            x = extend(x, axis, k // 2, padding or self.padding)
        y = 0.0
        for dt, dh, dw in itertools.product(*map(range, kernel)):
            y = (
                y
                + x[:, dt : dt + size[0], dh : dh + size[1], dw : dw + size[2]] @ weight[dt, dh, dw]
            )
        return y + self.get(f"{name}/bias", (features,)) if bias else y

    def norm(self, name, x):
        b, t, h, w, c = x.shape
        grouped = x.reshape(b, t * h * w, self.groups, c // self.groups)
        mean = grouped.mean((1, 3), keepdim=True)
        variance = (grouped - mean).square().mean((1, 3), keepdim=True)
        x = ((grouped - mean) / (variance + 1e-6).sqrt()).reshape(x.shape)
        return x * self.get(f"{name}/scale", (c,)) + self.get(f"{name}/bias", (c,))

    def dense(self, name, x, features):
        return x @ self.get(f"{name}/kernel", (x.shape[-1], features)) + self.get(
            f"{name}/bias", (features,)
        )


def extend(x, axis, pad, padding):
    """An axis goes on at both ends as its mirror image, or as zeros."""
    n = x.shape[axis]
    places = torch.arange(-pad, n + pad)
    inside = (places >= 0) & (places < n)
    mirror = torch.where(places < 0, -places, torch.where(places < n, places, 2 * (n - 1) - places))
    if padding == "reflect":
        return x.index_select(axis, mirror)
    x = x.index_select(axis, places.clamp(0, n - 1))
    return x * inside.reshape(-1, *[1] * (x.ndim - axis - 1))


def halve(x, axes):
    """Averages of pairs; an entry left over stays as it is."""
    for axis in axes:
        x = torch.stack([part.mean(axis) for part in x.split(2, dim=axis)], dim=axis)
    return x


def res_block(flax, name, x, filters, kernel):
    residual, numbers = x, iter(range(9))
    for part in range(2):
        x = F.silu(flax.norm(f"{name}/GroupNorm_{part}", x))
        x = flax.conv(f"{name}/Conv_{next(numbers)}", x, filters, kernel, bias=False)
    if residual.shape[-1] != filters:
        residual = flax.conv(
            f"{name}/Conv_{next(numbers)}", residual, filters, (1, 1, 1), bias=False
        )
    return x + residual


def encoder(flax, config, x):
    kernel, block = (config.kernel_frames, 3, 3), iter(range(99))
    x = flax.conv("encoder/Conv_0", x, config.filters, kernel, bias=False)
    for i, multiplier in enumerate(config.multipliers):
        for _ in range(config.blocks):
            x = res_block(
                flax, f"encoder/ResBlock_{next(block)}", x, config.filters * multiplier, kernel
            )
        if i < len(config.multipliers) - 1:
            x = halve(x, (1, 2, 3) if config.halve_time[i] else (2, 3))
    for _ in range(config.blocks):
        x = res_block(flax, f"encoder/ResBlock_{next(block)}", x, x.shape[-1], kernel)
    x = F.silu(flax.norm("encoder/GroupNorm_0", x))
    return flax.conv("encoder/Conv_1", x, config.code_dim, (1, 1, 1))


def decoder(flax, config, x):
    kernel, block, conv = (config.kernel_frames, 3, 3), iter(range(99)), iter(range(99))
    x = flax.conv(f"decoder/Conv_{next(conv)}", x, config.filters * config.multipliers[-1], kernel)
    for _ in range(config.blocks):
        x = res_block(flax, f"decoder/ResBlock_{next(block)}", x, x.shape[-1], kernel)
    for i in reversed(range(len(config.multipliers))):
        for _ in range(config.blocks):
            name = f"decoder/ResBlock_{next(block)}"
            x = res_block(flax, name, x, config.filters * config.multipliers[i], kernel)
        if i > 0:
            for axis in (1, 2, 3) if config.halve_time[i - 1] else (2, 3):
                x = x.repeat_interleave(2, dim=axis)
            x = flax.conv(f"decoder/Conv_{next(conv)}", x, x.shape[-1], kernel)
    x = F.silu(flax.norm("decoder/GroupNorm_0", x))
    return flax.conv(f"decoder/Conv_{next(conv)}", x, config.channels, kernel)


def discriminator(flax, x, filters, multipliers):
    def leaky(x):
        return torch.where(x >= 0, x, 0.2 * x)

    def conv(name, x, features, kernel=(3, 3, 3), bias=True):
        return flax.conv(name, x, features, kernel, bias, padding="zeros")

    x = leaky(conv("Conv_0", x, filters))
    for i, multiplier in enumerate(multipliers):
        h = halve(leaky(conv(f"ResBlock_{i}/Conv_0", x, x.shape[-1])), (1, 2, 3))
        residual = conv(
            f"ResBlock_{i}/Conv_1", halve(x, (1, 2, 3)), filters * multiplier, (1, 1, 1), bias=False
        )
        h = leaky(conv(f"ResBlock_{i}/Conv_2", h, filters * multiplier))
        x = (residual + h) / math.sqrt(2)
    x = leaky(conv("Conv_1", x, x.shape[-1]))
    hidden = leaky(flax.dense("Dense_0", x.reshape(len(x), -1), x.shape[-1]))
    return flax.dense("Dense_1", hidden, 1)[:, 0]


# ---------------------------------------------------------------- its weights under our names


def layers(part):
    """Our layers in the order of the official calls: Conv_*, ResBlock_* and GroupNorm_* are
    numbered by kind.
    """
    counts = {}
    for name, module in part.named_children():
        kind = {"SameConv3d": "Conv", "ClipResBlock": "ResBlock", "GroupNorm": "GroupNorm"}.get(
            type(module).__name__
        )
        if kind:
            yield name, f"{kind}_{counts.setdefault(kind, 0)}"
            counts[kind] += 1


def names(model):
    """Our name of every official weight of a tokenizer."""
    found = {}
    for part in ("encoder", "decoder"):
        for ours, theirs in layers(getattr(model, part)):
            inside = {"": ""}
            if theirs.startswith("ResBlock"):
                inside = {
                    "norm1.": "GroupNorm_0/",
                    "conv1.": "Conv_0/",
                    "norm2.": "GroupNorm_1/",
                    "conv2.": "Conv_1/",
                    "skip.": "Conv_2/",
                }
            for a, b in inside.items():
                found[f"{part}/{theirs}/{b}kernel"] = found[f"{part}/{theirs}/{b}scale"] = (
                    f"{part}.{ours}.{a}weight"
                )
                found[f"{part}/{theirs}/{b}bias"] = f"{part}.{ours}.{a}bias"
    return found


def converted(weights, names):
    """Official arrays as ours: kernels (t h w i o) become (o i t h w), matrices are transposed."""
    found = {}
    for name, value in weights.items():
        if value.ndim == 5:
            value = value.movedim((4, 3), (0, 1))
        elif value.ndim == 2:
            value = value.T
        found[names[name]] = value
    return found


def tokenizer(**changes):
    """A tokenizer with widths of its own."""
    odd = {
        "filters": 6,
        "multipliers": (1, 2, 3),
        "halve_time": (True, False),
        "blocks": 2,
        "code_dim": 5,
        "num_codes": 11,
        "groups": 3,
    }
    return TokenizerConfig(**{**odd, **changes})


CASES = {
    "reflect": (tokenizer(), (4, 12, 16)),
    "zeros": (tokenizer(padding="zeros"), (4, 12, 16)),
    "time twice, one block": (tokenizer(halve_time=(True, True), blocks=1), (12, 8, 12)),
    "one halving, no wider": (
        tokenizer(multipliers=(1, 1), halve_time=(True,), channels=2),
        (6, 4, 6),
    ),
    "time late": (tokenizer(halve_time=(False, True), padding="zeros"), (2, 8, 8)),
}


def gradients(output, x, weights, seed=2):
    """Of a fixed random projection of the output, for x and for every weight by name."""
    probe = torch.randn(
        output.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    grads = torch.autograd.grad((probe.to(output) * output).sum(), [x, *weights.values()])
    return dict(zip(["x", *weights], grads, strict=True))


def compare(run, model, executor, flax, name_of, x, back):
    """Largest differences of values and gradients; `back` brings theirs to our order of axes."""
    ours, theirs = x.clone().requires_grad_(), x.double().movedim(1, -1).clone().requires_grad_()
    expected = executor(flax, theirs)
    state = {name: value.detach() for name, value in converted(flax.weights, name_of).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    got = run(ours)
    assert got.shape == back(expected).shape
    values = largest_difference({"y": got.detach()}, {"y": back(expected).detach()})
    used = {name: p for name, p in model.named_parameters() if name not in missing}
    assert used.keys() == state.keys()
    slopes_theirs = gradients(back(expected), theirs, flax.weights)
    x_slope = slopes_theirs.pop("x").movedim(-1, 1)
    slopes_theirs = {"x": x_slope, **converted(slopes_theirs, name_of)}
    slopes = largest_difference(gradients(got, ours, used), slopes_theirs)
    print(f"values {values:.1e}, gradients {slopes:.1e}")
    return values, slopes


@pytest.mark.parametrize(
    ("name", "double"), [*((name, True) for name in CASES), ("reflect", False)]
)
def test_the_encoder_equals_the_official_structure(name, double):
    config, size = CASES[name]
    model = Tokenizer(config).to(torch.float64 if double else torch.float32)
    x = torch.randn(2, config.channels, *size, generator=torch.Generator().manual_seed(1)).to(
        next(model.parameters())
    )
    flax = Flax(config.padding, config.groups)
    values, slopes = compare(
        model.encoder,
        model,
        lambda f, x: encoder(f, config, x),
        flax,
        names(model),
        x,
        lambda y: y.movedim(-1, 1),
    )
    limit = 1e-10 if double else 1e-5
    assert values < limit and slopes < limit


@pytest.mark.parametrize(
    ("name", "double"), [*((name, True) for name in CASES), ("reflect", False)]
)
def test_the_decoder_equals_the_official_structure(name, double):
    config, size = CASES[name]
    model = Tokenizer(config).to(torch.float64 if double else torch.float32)
    grid = [n // cell for n, cell in zip(size, config.cell, strict=True)]
    x = torch.randn(2, config.code_dim, *grid, generator=torch.Generator().manual_seed(1)).to(
        next(model.parameters())
    )
    if config.padding == "reflect" and min(grid) < 2:
        x = torch.cat([x, x.flip(1)], dim=1 + 1 + grid.index(min(grid)))
    flax = Flax(config.padding, config.groups)
    values, slopes = compare(
        model.decoder,
        model,
        lambda f, x: decoder(f, config, x),
        flax,
        names(model),
        x,
        lambda y: y.movedim(-1, 1),
    )
    limit = 1e-10 if double else 1e-5
    assert values < limit and slopes < limit


def test_frames_of_a_2d_tokenizer_are_images_of_their_own():
    """The official code maps its 2D modules over time: the executor sees one frame at a time, norms
    included.
    """
    config = tokenizer(kernel_frames=1, halve_time=(False, False))
    model, flax = Tokenizer(config).double(), Flax(config.padding, config.groups)
    clip = torch.randn(
        2, 3, 3, 8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    z = torch.cat(
        [encoder(flax, config, clip[:, :, i : i + 1].movedim(1, -1)) for i in range(3)], dim=1
    )
    y = torch.cat([decoder(flax, config, z[:, i : i + 1]) for i in range(3)], dim=1)
    model.load_state_dict(
        {n: v.detach() for n, v in converted(flax.weights, names(model)).items()}, strict=False
    )
    torch.testing.assert_close(model.run(model.encoder, clip), z.movedim(-1, 1), rtol=0, atol=1e-10)
    torch.testing.assert_close(model.decode(z.movedim(-1, 1)), y.movedim(-1, 1), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "size,multipliers", [((4, 8, 12), (2, 3)), ((5, 6, 7), (1, 2, 2)), ((1, 4, 4), (3,))]
)
def test_the_discriminator_equals_the_official_structure(size, multipliers):
    model = StyleGANDiscriminator(DiscriminatorConfig(size, 4, multipliers)).double()
    name_of = {
        "Dense_1/kernel": "logit.weight",
        "Dense_1/bias": "logit.bias",
        "Dense_0/bias": "hidden.bias",
    }
    for ours, theirs in (("conv_in", "Conv_0"), ("conv_out", "Conv_1")):
        name_of |= {f"{theirs}/kernel": f"{ours}.weight", f"{theirs}/bias": f"{ours}.bias"}
    for i in range(len(multipliers)):
        for ours, theirs in (("conv1", "Conv_0"), ("skip", "Conv_1"), ("conv2", "Conv_2")):
            name_of[f"ResBlock_{i}/{theirs}/kernel"] = f"blocks.{i}.{ours}.weight"
            name_of[f"ResBlock_{i}/{theirs}/bias"] = f"blocks.{i}.{ours}.bias"
    name_of["Dense_0/kernel"] = "hidden.weight"
    channels = 4 * multipliers[-1]

    def run(x):  # theirs flattens cells before channels
        with torch.no_grad():
            weight = model.hidden.weight.clone()
            model.hidden.weight.copy_(
                weight.reshape(channels, -1, channels).mT.reshape(channels, -1)
            )
        return model(x)

    x = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flax = Flax()
    expected = discriminator(flax, x.movedim(1, -1), 4, multipliers)
    model.load_state_dict(
        {name: value.detach() for name, value in converted(flax.weights, name_of).items()}
    )
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    got = run(ours)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    (a,) = torch.autograd.grad(got.square().sum(), ours)
    (b,) = torch.autograd.grad(
        discriminator(flax, theirs.movedim(1, -1), 4, multipliers).square().sum(), theirs
    )
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_a_tokenizer_s_loss_is_the_official_one():
    """Commitment .25, codebook 1, entropy .1 at temperature .01 of softmax(-distance), as the
    official code adds up.
    """
    config = tokenizer()
    torch.manual_seed(0)
    model = Tokenizer(config).double().train()
    clip = torch.randn(
        2, 3, 4, 12, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    z = model.encoder(clip).movedim(1, -1)  # b t h w d
    codebook = model.quantizer.codebook
    distances = (z[..., None, :] - codebook).square().sum(-1)
    indices = distances.argmin(-1)
    z_q = codebook[indices]
    p = torch.softmax(-distances.reshape(-1, 11) / 0.01, dim=1)
    entropies = torch.special.entr(p).sum(1).mean() - torch.special.entr(p.mean(0)).sum()
    expected = (
        0.25 * (z - z_q.detach()).square().mean()
        + (z_q - z.detach()).square().mean()
        + 0.1 * entropies
    )
    found = model.encode(clip)
    assert torch.equal(found.indices, indices) and len(indices.unique()) > 1
    torch.testing.assert_close(found.latents, z_q.movedim(-1, 1))
    torch.testing.assert_close(found.loss, expected)
    ours = torch.autograd.grad(found.loss, [codebook, model.encoder[0].weight])
    theirs = torch.autograd.grad(expected, [codebook, model.encoder[0].weight])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


# ------------------------------------------------------- the transformer against transformers' BERT


def peer_of(config):
    """BertForMaskedLM of this config; all its segments are of the first kind, which is zero."""
    peer = BertForMaskedLM(
        PeerConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp,
            hidden_act="gelu_pytorch_tanh",
            max_position_embeddings=config.prefix_length + math.prod(config.grid),
            type_vocab_size=1,
            layer_norm_eps=1e-12,
            pad_token_id=None,
            tie_word_embeddings=True,
        )
    )
    return peer


PIECES = {
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "mlp1",
    "output.dense": "mlp2",
    "output.LayerNorm": "norm2",
}


def from_peer(state, depth):
    """transformers' names and shapes as ours; a linear map, so that gradients go through it too."""
    ours = {
        "tokens.weight": state["bert.embeddings.word_embeddings.weight"],
        "bert.positions": state["bert.embeddings.position_embeddings.weight"],
        "bias": state["cls.predictions.bias"],
    }
    for theirs, name in (
        ("bert.embeddings.LayerNorm", "bert.norm"),
        ("cls.predictions.transform.dense", "head.dense"),
        ("cls.predictions.transform.LayerNorm", "head.norm"),
        *(
            (f"bert.encoder.layer.{i}.{a}", f"bert.layers.{i}.{b}")
            for i in range(depth)
            for a, b in PIECES.items()
        ),
    ):
        for part in ("weight", "bias"):
            ours[f"{name}.{part}"] = state[f"{theirs}.{part}"]
    for i in range(depth):
        for part in ("weight", "bias"):
            three = [
                state[f"bert.encoder.layer.{i}.attention.self.{n}.{part}"]
                for n in ("query", "key", "value")
            ]
            ours[f"bert.layers.{i}.qkv.{part}"] = torch.cat(three)
    return ours


@pytest.mark.parametrize(
    "config",
    [
        BertConfig((2, 3, 4), num_codes=13, num_classes=5, width=12, depth=3, heads=3, mlp=20),
        BertConfig(
            (1, 5, 3),
            num_codes=7,
            num_classes=2,
            multi_task=True,
            width=16,
            depth=1,
            heads=1,
            mlp=10,
        ),
    ],
    ids=["one task", "several tasks"],
)
def test_the_transformer_equals_transformers_bert(config):
    peer = randomize(peer_of(config)).double().eval()
    with torch.no_grad():
        peer.bert.embeddings.token_type_embeddings.weight.zero_()
    model = MaskedTransformer(config).double().eval()
    model.load_state_dict(
        {n: v.detach() for n, v in from_peer(peer.state_dict(), config.depth).items()}
    )
    length = config.prefix_length + math.prod(config.grid)
    tokens = torch.randint(
        0, config.vocabulary, (3, length), generator=torch.Generator().manual_seed(1)
    )
    got, expected = model(tokens), peer(tokens).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)
    probe = torch.randn(got.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (probe * got).sum().backward()
    (probe * expected).sum().backward()
    theirs = from_peer(
        {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}, config.depth
    )
    assert largest_difference({name: p.grad for name, p in model.named_parameters()}, theirs) < 1e-9


# ---------------------------------------------------------------- sizes


def flax_size(config):
    """Parameters of the official modules, from the shapes that they ask for."""

    class Shapes(Flax):
        def get(self, name, shape):
            self.weights[name] = shape
            return torch.zeros(shape, device="meta")

        def conv(self, name, x, features, kernel, bias=True, padding=None):
            self.get(f"{name}/kernel", (*kernel, x.shape[-1], features))
            if bias:
                self.get(f"{name}/bias", (features,))
            return x.new_empty(*x.shape[:-1], features)

    flax = Shapes(config.padding, config.groups)
    grid = (2 if config.kernel_frames > 1 else 1, 2, 2)
    pixels = [n * cell for n, cell in zip(grid, config.cell, strict=True)]
    encoder(flax, config, torch.zeros(1, *pixels, config.channels, device="meta"))
    decoder(flax, config, torch.zeros(1, *grid, config.code_dim, device="meta"))
    return sum(map(math.prod, flax.weights.values())) + config.num_codes * config.code_dim


@pytest.mark.parametrize("name", TOKENIZER_CONFIGS)
def test_a_tokenizer_has_as_many_parameters_as_the_official_modules(name):
    with torch.device("meta"):
        model = Tokenizer(TOKENIZER_CONFIGS[name])
    assert sum(p.numel() for p in model.parameters()) == flax_size(TOKENIZER_CONFIGS[name])


@pytest.mark.parametrize("name", magvit.BERT_CONFIGS)
def test_a_transformer_has_as_many_parameters_as_transformers_bert(name):
    config = magvit.BERT_CONFIGS[name]
    with torch.device("meta"):
        model, peer = MaskedTransformer(config), peer_of(config)
    peer.tie_weights()
    segments = config.width
    assert (
        sum(p.numel() for p in model.parameters())
        == sum(p.numel() for p in peer.parameters()) - segments
    )
