"""Our lookup-free quantizer against vector-quantize-pytorch's: tokens, entropies, losses and
gradients.

It differs in four things.  Its first number is the highest bit.  Its temperature is given as the
inverse.  Its logarithms stop at 1e-5, which is taken away here where probabilities fall below
that.  And of several codebooks, which are our groups of bits, it means the entropies where we sum
them: entropies of independent parts add up.
"""

import pytest
import torch
from vector_quantize_pytorch import LFQ as PeerLFQ
from vector_quantize_pytorch import lookup_free_quantization

from course_lib.quantize.lfq import LFQ, batch_entropy, factorize, sample_entropy

CASES = {  # bits, shape of the batch and its grid, temperature, weight of the penalty
    "one bit": (1, (3, 5, 7), 1.0, 0.1),
    "two bits, rows": (2, (5, 11), 0.5, 0.3),
    "five bits, images": (5, (3, 5, 7), 0.37, 0.1),
    "nine bits, clips": (9, (2, 3, 5, 3), 2.0, 0.7),
    "thirteen bits": (13, (2, 3, 5), 5.0, 0.1),
}


@pytest.fixture
def exact_logarithms(monkeypatch):
    monkeypatch.setattr(lookup_free_quantization, "log", lambda t: t.clamp(min=1e-30).log())


def latents(bits, shape, seed=0):
    b, *grid = shape
    return 0.4 * torch.randn(b, bits, *grid, generator=torch.Generator().manual_seed(seed))


def peer_of(bits, weight, **settings):
    return PeerLFQ(
        codebook_size=2**bits,
        entropy_loss_weight=weight,
        commitment_loss_weight=0.25,
        channel_first=True,
        **settings,
    )


def compare(bits, shape, temperature, weight, double=False):
    """The largest differences of values, entropies and gradients; indices and quantized latents
    must be equal.

    double: theirs, not ours, in double precision.
    """
    ours = LFQ(bits, entropy_weight=weight, temperature=temperature)
    peer = peer_of(bits, weight, force_quantization_f32=not double)
    z, x = (latents(bits, shape).requires_grad_() for _ in range(2))
    if double:
        peer, x = peer.double(), x.detach().double().requires_grad_()
    got = ours(z)
    (quantized, indices, loss), parts = peer(
        x, inv_temperature=1 / temperature, return_loss_breakdown=True
    )
    # the bits' order
    assert torch.equal(got.indices, peer(x.flip(1), inv_temperature=1 / temperature).indices)
    assert torch.equal(reversed_bits(got.indices, bits), indices)
    # theirs is rounded twice
    torch.testing.assert_close(got.latents, quantized.float(), rtol=0, atol=1e-6)
    flat = z.movedim(1, -1).reshape(-1, bits)
    values = max(
        difference(got.loss, loss),
        difference(sample_entropy(flat, temperature), parts.per_sample_entropy),
        difference(batch_entropy(flat, temperature), parts.batch_entropy),
    )
    probe = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    ((got.latents * probe).mean() + got.loss).backward()
    ((quantized * probe).mean() + loss).backward()
    slopes = difference(z.grad, x.grad) / x.grad.abs().max().item()
    print(f"{bits} bits: values {values:.1e}, gradients {slopes:.1e}")
    return values, slopes


def difference(a, b):
    return (a - b).abs().max().item()


def reversed_bits(indices, bits):
    return torch.tensor(
        [int(f"{i:0{bits}b}"[::-1], 2) for i in indices.flatten().tolist()]
    ).reshape(indices.shape)


@pytest.mark.parametrize("name", CASES)
def test_equals_vector_quantize_pytorch(name, exact_logarithms):
    values, slopes = compare(*CASES[name])
    assert values < 1e-5 and slopes < 1e-5


@pytest.mark.parametrize("bits,temperature", [(1, 0.5), (2, 3.0), (4, 30.0)])
def test_equals_it_as_it_is_where_no_probability_is_small(bits, temperature):
    values, slopes = compare(bits, (3, 5, 7), temperature, 0.1)
    assert values < 1e-5 and slopes < 1e-5


@pytest.mark.parametrize("bits", [3, 6])
def test_equals_it_at_a_temperature_as_low_as_in_use(bits, exact_logarithms):
    """At 0.01 its softmax over codes, of numbers near 500, costs it digits of the gradient: there
    it is given more.
    """
    values, slopes = compare(bits, (5, 7, 11), 0.01, 0.1, double=True)
    assert values < 1e-5 and slopes < 1e-5


def test_its_logarithms_do_matter_where_probabilities_are_small():
    """Were they exact as they are, the patch above would hide nothing; they are not, and it is
    theirs that is off.
    """
    values, _ = compare(9, (3, 5, 7), 0.37, 0.1)
    assert values > 1e-5


def test_equals_it_at_the_papers_vocabulary(exact_logarithms):
    values, slopes = compare(18, (1, 3), 1.5, 0.1)
    assert values < 2e-5 and slopes < 1e-5  # entropies near 10: a unit in their last place is 1e-6


def test_the_papers_example_is_token_2_here_and_1_there():
    z = torch.tensor([[-0.3, 0.1]])
    assert LFQ(2)(z).indices.tolist() == [2]
    assert peer_of(2, 0.1)(z[..., None]).indices.flatten().tolist() == [1]


@pytest.mark.parametrize("bits,codebooks", [(3, 2), (2, 3), (5, 2)])
def test_our_groups_are_its_codebooks(bits, codebooks, exact_logarithms):
    temperature = 0.8
    peer = peer_of(bits, 0.1, num_codebooks=codebooks, dim=bits * codebooks)
    z, x = (latents(bits * codebooks, (3, 5, 7)).requires_grad_() for _ in range(2))
    _, parts = peer(x, inv_temperature=1 / temperature, return_loss_breakdown=True)
    flat = z.movedim(1, -1).reshape(-1, bits * codebooks)
    each, mean = sample_entropy(flat, temperature), batch_entropy(flat, temperature, group=bits)
    torch.testing.assert_close(each, codebooks * parts.per_sample_entropy, rtol=0, atol=1e-5)
    torch.testing.assert_close(mean, codebooks * parts.batch_entropy, rtol=0, atol=1e-5)
    (each - mean).backward()
    (codebooks * (parts.per_sample_entropy - parts.batch_entropy)).backward()
    torch.testing.assert_close(z.grad, x.grad, rtol=0, atol=1e-5 * x.grad.abs().max().item())
    factors = factorize(LFQ(bits * codebooks)(z).indices, (bits,) * codebooks)
    assert torch.equal(reversed_bits(factors, bits), peer(x).indices)
