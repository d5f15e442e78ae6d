"""MAGVIT-v2 has no official code.  Its tokenizer is checked against a second one that knows no
third axis: a clip is a list of frames, a convolution a sum of two-dimensional ones over the frames
there are.  Its layers are checked against those of diffusers that do the same, its transformer
against transformers' BERT.  Values and gradients, in odd sizes.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.compat import import_torchvision
from course_lib.nn.causal_conv import CausalConv3d, CausalUpsample
from course_lib.papers.magvit2 import LMConfig, MaskedLM, Tokenizer, TokenizerConfig
from tests.parity.peers import gradients, largest_difference, randomize

import_torchvision()  # before diffusers asks for it

from diffusers.models.autoencoders.autoencoder_kl_cogvideox import (  # noqa: E402
    CogVideoXCausalConv3d,
)
from diffusers.models.autoencoders.autoencoder_kl_ltx import LTXVideoUpsampler3d  # noqa: E402
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d  # noqa: E402
from transformers import BertConfig, BertForMaskedLM  # noqa: E402


def rand(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---------------------------------------------------------------- the tokenizer, frame by frame


class Frames:
    """The tokenizer of a configuration on lists of frames (b c h w), with another tokenizer's
    weights.
    """

    def __init__(self, config, weights):
        self.config, self.weights = config, weights

    def conv(self, name, frames, stride=(1, 1, 1)):
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        kt, kh, kw = weight.shape[2:]
        result = []
        for newest in range(0, len(frames), stride[0]):
            total = 0.0
            for offset in range(kt):
                frame = newest - (kt - 1) + offset
                if frame < 0 and self.config.padding == "zeros":
                    continue
                x = frames[max(frame, 0)]
                total = total + F.conv2d(
                    x, weight[:, :, offset], None, stride[1:], (kh // 2, kw // 2)
                )
            result.append(total if bias is None else total + bias[:, None, None])
        return result

    def norm(self, name, frames, affine=True):
        result = []
        for x in frames:
            grouped = x.unflatten(1, (self.config.groups, -1))
            centred = grouped - grouped.mean((2, 3, 4), keepdim=True)
            x = (centred / (centred.square().mean((2, 3, 4), keepdim=True) + 1e-6).sqrt()).flatten(
                1, 2
            )
            if affine:
                x = (
                    x * self.weights[f"{name}.weight"][:, None, None]
                    + self.weights[f"{name}.bias"][:, None, None]
                )
            result.append(x)
        return result

    def swish(self, frames):
        return [x / (1 + torch.exp(-x)) for x in frames]

    def residuals(self, names, frames):
        for name in names:
            h = self.conv(f"{name}.conv1", self.swish(self.norm(f"{name}.norm1", frames)))
            h = self.conv(f"{name}.conv2", self.swish(self.norm(f"{name}.norm2", h)))
            frames = [x + y for x, y in zip(frames, h, strict=True)]
        return frames

    def encode(self, frames):
        layer, blocks = itertools.count(), self.config.blocks
        frames = self.conv(f"encoder.{next(layer)}", frames)
        frames = self.residuals([f"encoder.{next(layer)}" for _ in range(blocks)], frames)
        for stride in self.config.strides:
            frames = self.conv(f"encoder.{next(layer)}", frames, stride)
            frames = self.residuals([f"encoder.{next(layer)}" for _ in range(blocks)], frames)
        frames = self.residuals([f"encoder.{next(layer)}" for _ in range(blocks)], frames)
        frames = self.swish(self.norm(f"encoder.{next(layer)}", frames))
        return self.conv(f"encoder.{next(layer) + 1}", frames)  # a swish has a number too

    def upsample(self, name, frames, factors):
        """Every place of a frame becomes a box of places; of the first frame, only the box's last
        frame is kept.
        """
        s, fh, fw = factors
        result = []
        for x in self.conv(f"{name}.conv", frames):
            for part in x.chunk(s, dim=1):
                b, d, h, w = part.shape
                rows = []
                for i in range(fh):
                    columns = [part.unflatten(1, (fh, fw, -1))[:, i, j] for j in range(fw)]
                    rows.append(torch.stack(columns, dim=-1).reshape(b, d // (fh * fw), h, w * fw))
                result.append(torch.stack(rows, dim=-2).reshape(b, d // (fh * fw), h * fh, w * fw))
        return result[s - 1 :]

    def decode(self, latents):
        controls = [x.mean((2, 3)) for x in latents]
        blocks, frames, s = range(self.config.blocks), latents, 1
        for level, factors in enumerate([None, *self.config.strides[::-1]]):
            name = f"decoder.levels.{level}"
            if factors is None:
                frames = self.conv(f"{name}.resize.0", frames)
                frames = self.residuals([f"{name}.resize.{1 + block}" for block in blocks], frames)
            else:
                frames, s = self.upsample(f"{name}.resize", frames, factors), s * factors[0]
            frames = self.norm(f"{name}.norm", frames, affine=False)
            for number, x in enumerate(frames):
                control = controls[(number + s - 1) // s] @ self.weights[f"{name}.control.weight"].T
                scale, shift = (control + self.weights[f"{name}.control.bias"])[
                    :, :, None, None
                ].chunk(2, dim=1)
                frames[number] = x + scale * x + shift
            frames = self.residuals([f"{name}.blocks.{block}" for block in blocks], frames)
        return self.conv("decoder.conv_out", self.swish(self.norm("decoder.norm_out", frames)))

    def __call__(self, clip):
        """The reconstruction, the encoder's output, the commitment loss."""
        z = self.encode(list(clip.unbind(2)))
        signs = [(2.0 * (x > 0) - 1).to(x) for x in z]
        reconstruction = self.decode(
            [sign + x - x.detach() for sign, x in zip(signs, z, strict=True)]
        )
        loss = torch.stack([(x - sign).square() for sign, x in zip(signs, z, strict=True)]).mean()
        return torch.stack(reconstruction, dim=2), torch.stack(z, dim=2), 0.25 * loss


def config(**changes):
    odd = {
        "filters": 4,
        "multipliers": (1, 3, 2),
        "strides": ((1, 2, 1), (2, 1, 3)),
        "blocks": 1,
        "bits": 5,
    }
    return TokenizerConfig(**{**odd, "groups": 2, "channels": 2, **changes})


TOKENIZERS = {  # with frames, rows and columns
    "late over time": (config(), (7, 6, 9)),
    "replicated frames": (config(padding="replicate"), (7, 6, 9)),
    "two blocks, three groups": (config(blocks=2, filters=6, groups=3), (5, 4, 3)),
    "four resolutions": (
        config(multipliers=(1, 2, 1, 3), strides=((2, 2, 1), (1, 1, 2), (3, 1, 1))),
        (7, 4, 6),
    ),
    "kernels of two frames": (config(kernel_frames=2), (3, 2, 3)),
    "images": (config(kernel_frames=1, strides=((1, 2, 2), (1, 3, 1))), (2, 6, 4)),
    "one image": (config(), (1, 6, 9)),
}


@pytest.mark.parametrize(("config", "size"), TOKENIZERS.values(), ids=TOKENIZERS)
def test_the_tokenizer_equals_one_that_goes_frame_by_frame(config, size):
    torch.manual_seed(0)
    model = randomize(Tokenizer(config)).double().eval()
    named = dict(model.named_parameters())
    ours, theirs = (rand(3, 2, *size).requires_grad_() for _ in range(2))
    reconstruction, quantized = model(ours)
    peer = Frames(config, named)
    expected, z, loss = peer(theirs)
    values = largest_difference(
        {
            "clip": reconstruction.detach(),
            "z": model.encoder(ours).detach(),
            "loss": quantized.loss.detach(),
        },
        {"clip": expected.detach(), "z": z.detach(), "loss": loss.detach()},
    )
    found = gradients(reconstruction + quantized.loss, ours, named.items())
    slopes = largest_difference(found, gradients(expected + loss, theirs, named.items()))
    print(f"values {values:.1e}, gradients {slopes:.1e}")
    assert values < 1e-10 and slopes < 1e-9
    bits = (2 ** torch.arange(config.bits))[:, None, None, None]
    assert torch.equal(quantized.indices, ((z > 0) * bits).sum(1))


# ---------------------------------------------------------------- layers of diffusers


@pytest.mark.parametrize(
    ("kernel", "stride"), [(3, 1), (3, (2, 1, 3)), ((5, 1, 3), 2), (1, (1, 2, 2))], ids=str
)
def test_padding_with_zeros_is_as_in_wan(kernel, stride):
    ours = CausalConv3d(3, 4, kernel, stride).double()
    padding = [k // 2 for k in ours.kernel_size]
    theirs = WanCausalConv3d(3, 4, kernel, stride, padding).double()
    theirs.load_state_dict(ours.state_dict())
    compare(ours, theirs, (2, 3, 7, 5, 6))


@pytest.mark.parametrize(
    ("kernel", "stride"), [(3, 1), (3, 2), ((4, 3, 3), 1), ((2, 5, 5), 3), (1, 1)], ids=str
)
def test_padding_with_the_first_frame_is_as_in_cogvideox(kernel, stride):
    ours = CausalConv3d(3, 4, kernel, (stride, 1, 1), "replicate").double()
    theirs = CogVideoXCausalConv3d(3, 4, kernel, stride).double()
    theirs.conv.load_state_dict(ours.state_dict())
    compare(ours, lambda x: theirs(x)[0], (2, 3, 7, 5, 6))


@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 2, 3), (3, 1, 2)], ids=str)
def test_upsampling_is_as_in_ltx_video_but_for_the_order_of_channels(factors):
    volume = factors[0] * factors[1] * factors[2]
    ours = CausalUpsample(6, 6, factors, padding="replicate").double()
    theirs = LTXVideoUpsampler3d(6, factors).double()
    state = {}
    # there the places of a box are the fastest, here the slowest
    for name, value in ours.conv.state_dict().items():
        state[f"conv.{name}"] = value.unflatten(0, (volume, 6)).transpose(0, 1).flatten(0, 1)
    theirs.conv.load_state_dict(state)
    compare(ours, theirs, (2, 6, 4, 5, 3))


def compare(ours, theirs, shape):
    """Values, and gradients for what goes in."""
    results = []
    for layer in (ours, theirs):
        x = rand(*shape).requires_grad_()
        y = layer(x)
        results.append((y, *torch.autograd.grad((y * rand(*y.shape, seed=2)).sum(), x)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------- the masked model and transformers' BERT


def test_the_masked_model_is_transformers_bert_on_sums_of_embeddings():
    config = LMConfig(
        (2, 3, 2), 2**6, num_classes=4, width=20, depth=3, heads=5, mlp=28, dropout=0.0
    )
    torch.manual_seed(0)
    ours = randomize(MaskedLM(config)).double().eval()
    with torch.no_grad():
        for p in (
            *ours.tokens.tables,
            ours.tokens.others,
            *ours.tokens.biases,
            ours.bert.positions,
        ):
            p.copy_(rand(*p.shape, seed=p.numel()))
    heads = []
    for factor in range(2):  # two of theirs, whose bodies are the same
        peer = (
            BertForMaskedLM(
                BertConfig(
                    vocab_size=8,
                    hidden_size=20,
                    num_hidden_layers=3,
                    num_attention_heads=5,
                    intermediate_size=28,
                    max_position_embeddings=13,
                    hidden_act="gelu_new",
                    layer_norm_eps=1e-12,
                    hidden_dropout_prob=0.0,
                    attention_probs_dropout_prob=0.0,
                )
            )
            .double()
            .eval()
        )
        load(peer, ours, factor)
        heads.append(peer)
    prefix, shown = torch.tensor([[66], [68], [65]]), torch.randint(0, 70, (3, 12))
    tokens = torch.cat([prefix, shown], dim=1)
    embedded = torch.stack(
        [torch.stack([vector(ours, int(token)) for token in row]) for row in tokens]
    )
    for found, peer in zip(ours(prefix, shown), heads, strict=True):
        expected = peer(inputs_embeds=embedded).logits[:, 1:]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def vector(model, token):
    """What a token is embedded as: two rows of two tables, or one of the third."""
    low, high = model.tokens.tables
    return low[token % 8] + high[token // 8] if token < 64 else model.tokens.others[token - 64]


def load(peer, ours, factor):
    """Our weights, with the head of one factor, into transformers' names."""
    bert, head = peer.bert, peer.cls.predictions
    with torch.no_grad():
        bert.embeddings.word_embeddings.weight.copy_(ours.tokens.tables[factor])
        bert.embeddings.position_embeddings.weight.copy_(ours.bert.positions)
        nn.init.zeros_(bert.embeddings.token_type_embeddings.weight)
        head.bias.copy_(ours.tokens.biases[factor])
    pairs = [(bert.embeddings.LayerNorm, ours.bert.norm)]
    pairs += [(head.transform.dense, ours.tokens.heads[factor].dense)]
    pairs += [(head.transform.LayerNorm, ours.tokens.heads[factor].norm)]
    for theirs, mine in zip(bert.encoder.layer, ours.bert.layers, strict=True):
        attention, (weights, biases) = (
            theirs.attention.self,
            (p.chunk(3) for p in (mine.qkv.weight, mine.qkv.bias)),
        )
        for layer, weight, bias in zip(
            (attention.query, attention.key, attention.value), weights, biases, strict=True
        ):
            layer.load_state_dict({"weight": weight, "bias": bias})
        pairs += [
            (theirs.attention.output.dense, mine.out),
            (theirs.attention.output.LayerNorm, mine.norm1),
        ]
        pairs += [(theirs.intermediate.dense, mine.mlp1), (theirs.output.dense, mine.mlp2)]
        pairs += [(theirs.output.LayerNorm, mine.norm2)]
    for theirs, mine in pairs:
        theirs.load_state_dict(mine.state_dict())
