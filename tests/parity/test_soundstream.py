"""SoundStream's parts against others': the codec against EnCodec's with SoundStream's layers (no
LSTM, whole-width units of 7, kernels of 3 and 7 at the ends), the quantizer against
vector-quantize-pytorch's, mel filters against transformers'.
"""

import pytest
import torch
from torch import nn
from vector_quantize_pytorch import ResidualVQ as PeerResidualVQ

from course_lib.losses.spectral import mel_filters
from course_lib.nn.causal_conv1d import CausalConv1d, CausalConvTranspose1d
from course_lib.papers.soundstream import SoundStream, SoundStreamConfig
from course_lib.quantize.rvq import ResidualVQ
from tests.parity.peers import EncodecConfig, EncodecConv1d, EncodecModel, mel_filter_bank

CONFIGS = {
    "three strides, odd": SoundStreamConfig(
        width=4, multipliers=(1, 2, 4, 8), strides=(3, 2, 5), dim=6, levels=4, num_codes=8
    ),
    "two strides, two units": SoundStreamConfig(
        width=6,
        multipliers=(1, 2, 4),
        strides=(4, 7),
        dilations=(1, 3),
        dim=5,
        levels=2,
        num_codes=32,
    ),
}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Skip(nn.Module):
    def forward(self, x):
        return x


def encodec(config):
    """An EncodecModel with the layers of our model of this config, and random weights."""
    peer_config = EncodecConfig(
        sampling_rate=config.sample_rate,
        num_filters=config.width,
        hidden_size=config.dim,
        codebook_dim=config.dim,
        codebook_size=config.num_codes,
        upsampling_ratios=list(config.strides[::-1]),
        num_residual_layers=len(config.dilations),
        dilation_growth_rate=3,
        residual_kernel_size=7,
        last_kernel_size=3,
        compress=1,
        use_conv_shortcut=False,
        pad_mode="constant",
        target_bandwidths=[100.0],
    )
    torch.manual_seed(0)
    peer = EncodecModel(peer_config).eval()
    for half in (peer.encoder, peer.decoder):
        for index, layer in enumerate(half.layers):
            if type(layer).__name__ == "EncodecLSTM":
                half.layers[index] = Skip()
    peer.decoder.layers[-1] = EncodecConv1d(peer_config, config.width, 1, 7)
    quantizers = peer.quantizer.layers[: config.levels]
    for number, layer in enumerate(quantizers):
        layer.codebook.embed.copy_(randn(config.num_codes, config.dim, seed=number) / 2**number)
    return peer, quantizers


def pair(name):
    """Our model with the weights of the peer; layers come in the same order in both."""
    config = CONFIGS[name]
    peer, quantizers = encodec(config)
    model = SoundStream(config).eval()
    kinds = (CausalConv1d, CausalConvTranspose1d)
    for ours, theirs in ((model.encoder, peer.encoder), (model.decoder, peer.decoder)):
        layers = [layer for layer in ours.modules() if isinstance(layer, kinds)]
        peers = [
            layer for layer in theirs.modules() if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)
        ]
        for layer, other in zip(layers, peers, strict=True):
            with torch.no_grad():
                layer.weight.copy_(other.weight)
                layer.bias.copy_(other.bias)
    for level, layer in zip(model.quantizer.levels, quantizers, strict=True):
        level.codebook.copy_(layer.codebook.embed)
    return model, peer, quantizers


@pytest.mark.parametrize("name", CONFIGS)
def test_the_codec_is_encodecs_with_its_layers(name):
    model, peer, _ = pair(name)
    n = 11 * model.config.hop
    ours, theirs = (randn(3, n).requires_grad_() for _ in range(2))
    latents = model.features(ours)
    expected = peer.encoder(theirs[:, None])
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-5)

    made = model.decode(latents)
    expected = peer.decoder(expected)[:, 0]
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)

    probe = randn(3, n, seed=1)
    (made * probe).sum().backward()
    (expected * probe).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    weight = peer.encoder.layers[0].conv.parametrizations.weight
    # Of a weight with weight norm, the part of the gradient along the weight is that of its gain.
    ours_gain = (model.encoder.conv_in.weight.grad * weight.original1).sum((1, 2), keepdim=True)
    ours_gain = ours_gain / weight.original1.norm(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(ours_gain, weight.original0.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("more", [1, 7, 13])
def test_of_odd_lengths_the_peer_keeps_a_last_frame_that_is_not_whole(name, more):
    model, peer, _ = pair(name)
    hop = model.config.hop
    sound = randn(2, 5 * hop + more)
    with torch.no_grad():
        latents = model.features(sound)
        expected = peer.encoder(sound[:, None])
    assert latents.shape[2] == 5 and expected.shape[2] == 6
    torch.testing.assert_close(latents, expected[:, :, :5], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dilation,kernel", [(1, 7), (3, 7), (9, 7), (2, 4), (1, 1)])
@pytest.mark.parametrize("n", [1, 2, 37, 64])
def test_the_convolution_is_encodecs(dilation, kernel, n):
    theirs = EncodecConv1d(EncodecConfig(pad_mode="constant"), 3, 5, kernel, dilation=dilation)
    ours = CausalConv1d(3, 5, kernel, dilation=dilation)
    with torch.no_grad():
        ours.weight.copy_(theirs.conv.weight)
        ours.bias.copy_(theirs.conv.bias)
    x, y = (randn(2, 3, n).requires_grad_() for _ in range(2))
    torch.testing.assert_close(ours(x), theirs(y), rtol=0, atol=1e-5)
    probe = randn(2, 5, n, seed=1)
    (ours(x) * probe).sum().backward()
    (theirs(y) * probe).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_residual_quantizer_is_encodecs(name):
    model, peer, quantizers = pair(name)
    z = randn(3, model.config.dim, 17)
    residual, expected = z, []
    for layer in quantizers:
        expected.append(layer.encode(residual))
        residual = residual - layer.decode(expected[-1])
    q = model.quantizer(z)
    assert torch.equal(q.indices, torch.stack(expected, dim=-1))
    torch.testing.assert_close(q.latents, z - residual, rtol=0, atol=1e-5)
    for m in range(1, model.config.levels + 1):
        theirs = peer.quantizer.decode(q.indices[..., :m].permute(2, 0, 1))
        torch.testing.assert_close(
            model.quantizer.embed(q.indices[..., :m]), theirs, rtol=0, atol=1e-5
        )


# ---------------------------------------------------------------- vector-quantize-pytorch


def quantizers(levels, k, d, **options):
    """Both quantizers with the same codes, counts and sums."""
    theirs = PeerResidualVQ(
        dim=d,
        num_quantizers=levels,
        codebook_size=k,
        decay=0.9,
        commitment_weight=0.3,
        rotation_trick=False,
        threshold_ema_dead_code=0,
        quantize_dropout=True,  # so that it decodes fewer levels
        quantize_dropout_cutoff_index=levels - 1,
    )
    ours = ResidualVQ(levels, k, d, beta=0.3, decay=0.9)
    for number, (level, layer) in enumerate(zip(ours.levels, theirs.layers, strict=True)):
        codes = randn(k, d, seed=number + 1) / 2**number
        counts = 1 + randn(k, seed=number + 9).square()
        book = layer._codebook
        for kept in (level.codebook, book.embed[0]):
            kept.data.copy_(codes)
        for kept in (level.counts, book.cluster_size[0]):
            kept.copy_(counts)
        for kept in (level.sums, book.embed_avg[0]):
            kept.copy_(codes * counts[:, None])
    return ours, theirs


@pytest.mark.parametrize("levels,k,d,n", [(1, 5, 3, 7), (3, 17, 4, 31), (6, 8, 5, 2)])
def test_encodes_decodes_and_learns_as_vector_quantize_pytorch(levels, k, d, n):
    ours, theirs = quantizers(levels, k, d)
    for step in range(3):
        z, y = (randn(4, d, n, seed=step).requires_grad_() for _ in range(2))
        q = ours(z)
        latents, indices, losses = theirs(y.mT)
        assert torch.equal(q.indices, indices)
        torch.testing.assert_close(q.latents, latents.mT, rtol=0, atol=1e-5)
        torch.testing.assert_close(q.loss, losses.sum(), rtol=0, atol=1e-5)

        # There a gradient passes straight through once for every level.
        probe = randn(4, d, n, seed=99)
        ((q.latents * levels * probe).sum() + q.loss).backward()
        ((latents.mT * probe).sum() + losses.sum()).backward()
        torch.testing.assert_close(z.grad, y.grad, rtol=0, atol=1e-5)

        for level, layer in zip(ours.levels, theirs.layers, strict=True):
            book = layer._codebook
            torch.testing.assert_close(level.codebook, book.embed[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(level.counts, book.cluster_size[0], rtol=0, atol=1e-5)

    indices = ours.eval()(randn(2, d, n, seed=7)).indices
    for m in range(1, levels + 1):
        if m == levels or levels > 1:
            expected = theirs.get_output_from_indices(indices[..., :m]).mT
            torch.testing.assert_close(ours.embed(indices[..., :m]), expected, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- mel filters


@pytest.mark.parametrize(
    "frequencies,mels,rate,least", [(513, 64, 24000, 0), (33, 64, 24000, 0), (129, 20, 8000, 50)]
)
def test_mel_filters_are_those_of_transformers(frequencies, mels, rate, least):
    expected = mel_filter_bank(frequencies, mels, least, rate / 2, rate, None, "htk")
    got = mel_filters(frequencies, mels, rate, least)
    torch.testing.assert_close(got, torch.from_numpy(expected).float(), rtol=0, atol=1e-6)
