"""LVM's transformer against transformers' Llama: values, gradients, counts, cached generation."""

from dataclasses import replace

import pytest
import torch

from course_lib import zoo
from course_lib.convert import load_official
from course_lib.lm.kv_cache import KVCache
from course_lib.lm.sampling import next_token_probabilities
from course_lib.papers import lvm
from course_lib.papers.lvm import LVMConfig
from tests.parity.peers import largest_difference, llama_as_easylm, randomize, transformers_llama


def config(**changes):
    odd = dict(width=24, mlp=37, depth=2, heads=3, image=(3, 5), num_codes=47, specials=6)
    return LVMConfig(**{**odd, "context": 4096, **changes})


CONFIGS = {
    "one layer, one head": config(depth=1, heads=1),
    "two layers, three heads": config(),
    "five layers, heads of two numbers": config(depth=5, heads=12),
    "three layers, heads of 22": config(depth=3, width=88, heads=4, mlp=101),
    "another epsilon": config(norm_eps=1e-3),
    # Llama has no places in an image.
    "as the course trains it": replace(zoo.find("lvm/LVM-tiny").config, image_places=False),
}


@pytest.fixture
def exact_angles(monkeypatch):
    """Their angles are computed in float32, which far from the first place is not enough."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    def forward(self, x, position_ids):
        width = 2 * len(self.inv_freq)
        inverse = 10_000 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = position_ids[..., None].double() * inverse
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    monkeypatch.setattr(LlamaRotaryEmbedding, "forward", forward)


def pair(config, seed=0):
    peer = randomize(transformers_llama(config), seed).eval()
    return load_official("lvm", peer.state_dict(), config).eval(), peer


def tokens(config, *shape, seed=1):
    return torch.randint(config.vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def codes(config, *shape, seed=1):
    return torch.randint(config.num_codes, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 65)], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_values_and_gradients_equal_transformers(name, shape):
    config = CONFIGS[name]
    model, peer = pair(config)
    ids = tokens(config, *shape)
    got, expected = model(ids), peer(input_ids=ids).logits
    assert got.shape == expected.shape
    values = largest_difference({"y": got.detach()}, {"y": expected.detach()})

    generator = torch.Generator().manual_seed(2)
    probe = torch.randn(got.shape, generator=generator) / got[0].numel() ** 0.5
    (probe * expected).sum().backward()
    (probe * got).sum().backward()
    # Converting is linear: their gradients by our names.
    theirs = {name: p.grad for name, p in peer.named_parameters()}
    theirs = load_official("lvm", theirs, config).state_dict()
    ours = {name: p.grad for name, p in model.named_parameters()}
    slopes = largest_difference(ours, dict(theirs))
    print(f"{name}, {shape}: values {values:.1e}, gradients {slopes:.1e}")
    assert values < 1e-5 and slopes < 1e-5


def test_the_loss_equals_transformers():
    config = CONFIGS["three layers, heads of 22"]
    model, peer = pair(config)
    ids = tokens(config, 3, 31)
    ours, theirs = lvm.sentence_losses(model, ids).mean(), peer(input_ids=ids, labels=ids).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_easylm_s_layout_is_the_same_network():
    for name, config in CONFIGS.items():
        model, peer = pair(config)
        tree = llama_as_easylm(peer.state_dict(), config)
        other = load_official("lvm", tree, config).state_dict()
        assert all(torch.equal(other[key], value) for key, value in model.state_dict().items()), (
            name
        )


def test_in_double_precision_they_agree_to_a_billionth(monkeypatch, exact_angles):
    """Their norm computes in float32 always: here, in double precision.  Ours keeps its turns in
    complex64: here, in double precision, too.
    """
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    from course_lib.nn.rope import rope_angles

    def norm(self, x):
        return self.weight * x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

    def turns(first, n, width):
        angles = rope_angles(torch.arange(first, first + n).double(), width)
        return torch.polar(torch.ones_like(angles), angles)

    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(lvm, "turns_of_places", turns)
    model, peer = pair(CONFIGS["five layers, heads of two numbers"])
    ids = tokens(model.config, 2, 33)
    expected = peer.double()(input_ids=ids).logits
    torch.testing.assert_close(model.double()(ids), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_half_precision_both_are_as_near_to_the_truth(dtype):
    model, peer = pair(CONFIGS["three layers, heads of 22"])
    ids = tokens(model.config, 4, 33)
    truth = model(ids)
    ours, theirs = model.to(dtype)(ids), peer.to(dtype)(input_ids=ids).logits
    assert ours.dtype == dtype
    one, other = ((half.float() - truth).abs().mean().item() for half in (ours, theirs))
    print(f"{dtype}: ours {one:.1e}, theirs {other:.1e}")
    assert one < 1.1 * other


@pytest.mark.parametrize("parts", [(40, 3, 1, 1, 20), (1,) * 9], ids=str)
@pytest.mark.parametrize("name", ["two layers, three heads", "three layers, heads of 22"])
def test_a_cache_goes_on_where_theirs_does(name, parts):
    """Tokens in several calls, so that positions do not start at 0."""
    from transformers import DynamicCache

    config = CONFIGS[name]
    model, peer = pair(config)
    ours, theirs = KVCache(config.depth, sum(parts)), DynamicCache(config=peer.config)
    with torch.no_grad():
        for part in tokens(config, 3, sum(parts)).split(parts, dim=1):
            got = model(part, ours)
            expected = peer(input_ids=part, past_key_values=theirs, use_cache=True).logits
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("first", [1, 500, 4000])
def test_positions_that_start_late(first, exact_angles):
    """Ours after as many tokens of another document; theirs with position_ids."""
    config = CONFIGS["three layers, heads of 22"]
    model, peer = pair(config)
    ids = tokens(config, 2, 9)
    places = torch.arange(first, first + 9)
    with torch.no_grad():
        expected = peer(input_ids=ids, position_ids=places[None]).logits
        row = torch.cat([tokens(config, 2, first, seed=5), ids], dim=1)
        documents = (torch.arange(first + 9) >= first).long().expand(2, -1)
        got = model(row, documents=documents)[:, first:]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-5)


GENERATIONS = {
    "two layers, three heads": (1, 4, 30),
    "five layers, heads of two numbers": (3, 1, 15),
    "three layers, heads of 22": (5, 17, 45),
    "as the course trains it": (2, 65, 64),
}


@pytest.mark.parametrize("name", GENERATIONS)
def test_cached_generation_gives_the_same_codes_as_theirs_and_as_without_a_cache(name):
    config = CONFIGS[name]
    model, peer = pair(config)
    b, prompt, new = GENERATIONS[name]
    start = codes(config, b, prompt)
    options = dict(
        attention_mask=torch.ones_like(start),
        max_new_tokens=new,
        do_sample=False,
        suppress_tokens=list(range(config.num_codes, config.vocabulary)),
        pad_token_id=config.num_codes,
    )
    expected = peer.generate(start, use_cache=True, **options)[:, prompt:]
    images = new // config.image_tokens
    cached = lvm.decode_images(model, start, images, top_k=1)
    assert torch.equal(cached.flatten(1), expected)
    assert torch.equal(lvm.decode_images(model, start, images, top_k=1, cache=False), cached)
    assert len(expected.unique()) > 1


@pytest.mark.parametrize("settings", [{"temperature": 1.7}, {"temperature": 0.8, "top_p": 0.7}])
def test_sampled_codes_come_as_often_as_theirs(settings):
    """The next code's distribution, ours exactly, theirs drawn."""
    config = CONFIGS["two layers, three heads"]
    model, peer = pair(config)
    start = codes(config, 1, 7)
    count = 20_000
    theirs = peer.generate(
        start.expand(count, -1),
        attention_mask=torch.ones(count, 7, dtype=torch.long),
        max_new_tokens=1,
        do_sample=True,
        top_k=0,
        suppress_tokens=list(range(config.num_codes, config.vocabulary)),
        pad_token_id=config.num_codes,
        **settings,
    )[:, -1]
    with torch.no_grad():
        logits = model.next_logits(start)[:, : config.num_codes]
    p = next_token_probabilities(logits, **settings)[0]
    counts = torch.bincount(theirs, minlength=config.num_codes)
    assert not counts[p == 0].any()
    expected = count * p[p > 0]
    statistic = ((counts[p > 0] - expected).square() / expected).sum()
    freedom = int((p > 0).sum()) - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


COUNTS = {"LVM-300M": 290_968_576, "LVM-3B": 3_274_742_400, "LVM-7B": 6_544_199_680}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_equal_transformers(name):
    with torch.device("meta"):
        models = zoo.build(f"lvm/{name}"), transformers_llama(zoo.find(f"lvm/{name}").config)
    ours, theirs = (sum(p.numel() for p in model.parameters()) for model in models)
    assert ours == theirs == COUNTS[name]
