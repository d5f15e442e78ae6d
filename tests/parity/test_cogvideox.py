"""CogVideoX against diffusers: the transformer and both samplers; values, gradients, sizes."""

import math
from dataclasses import replace

import pytest
import torch

from course_lib import zoo
from course_lib.convert import load_official
from course_lib.diffusion.samplers import trailing_steps
from course_lib.diffusion.schedules import scaled_linear_betas, shift_snr
from course_lib.papers import cogvideox_diffusion as diffusion
from course_lib.papers.cogvideox import COGVIDEOX_CONFIGS, CogVideoXConfig
from tests.parity.cogvideox_peers import (
    SCHEDULERS,
    as_sat,
    diffusers_transformer,
    run_diffusers,
)
from tests.parity.peers import gradients, largest_difference, randomize


def transformer(**changes):
    """A transformer with widths of its own, with the epsilons of diffusers."""
    odd = {
        "in_channels": 3,
        "out_channels": 3,
        "depth": 2,
        "heads": 3,
        "head_width": 16,
        "text_width": 20,
        "text_length": 7,
        "time_width": 12,
        "latent": (3, 6, 10),
        "norm_eps": 1e-5,
        "interpolate": True,
    }
    return CogVideoXConfig(**{**odd, **changes})


NEWER = dict(temporal_patch=2, latent=(4, 16, 12), interpolate=False)
TRANSFORMERS = {  # config, batch, latent frames, rows, columns
    "rotary": (transformer(), 2, 3, 6, 10),
    "rotary, another size": (transformer(depth=1), 3, 2, 4, 14),
    "rotary, taller": (transformer(depth=1), 1, 5, 10, 6),
    "rotary, one head of 64, one frame": (transformer(heads=1, head_width=64), 1, 1, 6, 10),
    "sines": (transformer(positions="sincos", depth=3, heads=1, head_width=32), 2, 3, 6, 10),
    "sines, another size": (transformer(positions="sincos", interpolate=False), 2, 4, 8, 4),
    "sines, patches of 3": (
        transformer(positions="sincos", patch=3, latent=(3, 6, 9), spatial_scale=1.0), 2, 3, 6, 9,
    ),
    "an image beside": (transformer(in_channels=6), 2, 3, 6, 10),
    "learned positions": (transformer(in_channels=6, learned_positions=True), 2, 3, 6, 10),
    "1.5": (transformer(**NEWER), 2, 4, 6, 10),
    "1.5, an image beside": (transformer(**NEWER, in_channels=6, offset=True, depth=1), 3, 2, 8, 4),
}  # fmt: skip


def inputs(config, b, t, h, w, seed=1):
    """A noisy clip with what stands beside it, steps, and a text."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, t, config.in_channels, h, w, generator=generator)
    text = torch.randn(b, config.text_length, config.text_width, generator=generator)
    return x, torch.tensor([999, 3, 640])[:b], text


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_transformer_equals_diffusers(name):
    config, *shape = TRANSFORMERS[name]
    peer = randomize(diffusers_transformer(config)).eval()
    model = load_official("cogvideox", peer.state_dict(), config).eval()
    x, t, text = inputs(config, *shape)
    with torch.no_grad():
        got = model(x, t, text)
        expected = run_diffusers(peer.double(), config, x.double(), t, text)
    difference = largest_difference({"y": got}, {"y": expected})
    print(f"{difference:.1e}")
    assert difference < 1e-5


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_its_gradients_equal_diffusers(name):
    """In double precision."""
    config, *shape = TRANSFORMERS[name]
    peer = randomize(diffusers_transformer(config)).eval()
    model = load_official("cogvideox", peer.state_dict(), config).eval().double()
    peer = peer.double()
    x, t, text = inputs(config, *shape)
    ours, theirs = x.double().requires_grad_(), x.double().requires_grad_()
    got = model(ours, t, text.double())
    expected = run_diffusers(peer, config, theirs, t, text)
    wanted = converted(gradients(expected, theirs, peer.named_parameters()), config)
    values = largest_difference({"y": got.detach()}, {"y": expected.detach()})
    slopes = largest_difference(gradients(got, ours, model.named_parameters()), wanted)
    print(f"values {values:.1e}, gradients {slopes:.1e}")
    assert values < 1e-6 and slopes < 1e-6


def converted(by_name, config):
    """Their gradients under our names, as conversion is linear, and that of the input."""
    slope = by_name.pop("x")
    single = {name: grad.float() for name, grad in by_name.items()}
    model = load_official("cogvideox", single, config)
    return {"x": slope, **{name: p.detach() for name, p in model.named_parameters()}}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_authors_layout_holds_the_same_network(name):
    config = TRANSFORMERS[name][0]
    weights = randomize(diffusers_transformer(config)).state_dict()
    expected = load_official("cogvideox", weights, config).state_dict()
    got = load_official("cogvideox", as_sat(weights), config).state_dict()
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_what_a_checkpoint_does_not_say_changes_the_output():
    """Heads, epsilons, the scale of places and who sees whom leave no trace in the weights."""
    config, *shape = TRANSFORMERS["sines"]
    weights = randomize(diffusers_transformer(config)).state_dict()
    x, t, text = inputs(config, *shape)
    expected = load_official("cogvideox", weights, config)(x, t, text)
    for changes in (
        {"heads": 2, "head_width": 16, "depth": 3},
        {"spatial_scale": 1.0},
        {"positions": "rope"},
        {"attention": "factorised"},
        {"norm_eps": 1e-1},
    ):
        if "heads" in changes:
            with pytest.raises(ValueError, match="misshapen"):  # of the norms of queries and keys
                load_official("cogvideox", weights, replace(config, **changes))
            continue
        other = load_official("cogvideox", weights, replace(config, **changes))
        assert (other(x, t, text) - expected).abs().max() > 1e-3, changes


# ---------------------------------------------------------------- schedules and samplers

PUBLISHED = dict(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    clip_sample=False,
    set_alpha_to_one=True,
)


def scheduler(name, steps, shift):
    found = SCHEDULERS[name](**PUBLISHED, snr_shift_scale=shift)
    found.set_timesteps(steps)
    return found


@pytest.mark.parametrize(
    ("preset", "first", "middle"), [("2B", 0.99745433, 0.0959696), ("5B", 0.99915, 0.2423592)]
)
def test_the_schedules_are_the_published_ones(preset, first, middle):
    config = COGVIDEOX_CONFIGS[preset]
    ours = config.alphas_cumprod
    theirs = scheduler("ddim", 50, config.snr_shift).alphas_cumprod
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-15)
    assert float(ours[0]) == pytest.approx(first, abs=5e-9)
    assert float(ours[499]) == pytest.approx(middle, abs=5e-8)
    assert float(ours[999]) == 0


@pytest.mark.parametrize(
    ("preset", "middle", "low"),
    [("2B", 0.0961709, 0.9485588), ("5B", 0.2426639, 0.982244)],
)
def test_the_authors_sampler_has_another_table(preset, middle, low):
    config = COGVIDEOX_CONFIGS[preset]
    table = (1 - scaled_linear_betas(config.timesteps, *config.betas)).cumprod(0)
    shifted = shift_snr(table, config.snr_shift)
    theirs = diffusion.authors_alphas_cumprod(shifted, trailing_steps(1000, 50))
    assert float(theirs[499]) == pytest.approx(middle, abs=5e-8)
    assert float(theirs[19]) == pytest.approx(low, abs=5e-7)
    assert float(theirs[19]) == pytest.approx(float(shifted[19]), rel=1e-15)
    assert float(theirs[999]) == 0
    assert float(config.alphas_cumprod[19]) < low - 1e-3


@pytest.mark.parametrize("steps", [2, 3, 7, 50, 999, 1000])
def test_the_steps_are_those_of_diffusers(steps):
    theirs = scheduler("ddim", steps, 1.0).timesteps
    assert torch.equal(trailing_steps(1000, steps).flip(0), theirs[:steps])


def run(theirs, name, peer, config, noise, text, null, scales, generator):
    """A whole run in diffusers, as its pipeline does it, with guidance."""
    x, old, timesteps = noise, None, theirs.timesteps
    texts = torch.cat([null.expand_as(text), text])
    for i, t in enumerate(timesteps):
        both = run_diffusers(peer, config, torch.cat([x, x]), t.expand(2 * len(x)), texts)
        without, known = both.chunk(2)
        v = without + float(scales[i]) * (known - without)
        if name == "ddim":
            x = theirs.step(v, t, x, return_dict=False)[0]
        else:
            last = timesteps[i - 1] if i else None
            x, old = theirs.step(v, old, t, last, x, generator=generator, return_dict=False)
    return x


def fresh_of(generator, shape):
    """Noise as the released sampler draws it: twice in every step but the first, for one use."""
    first = True

    def draw():
        nonlocal first
        if not first:
            torch.randn(shape, generator=generator)
        first = False
        return torch.randn(shape, generator=generator)

    return draw


@pytest.mark.parametrize("guidance", ["constant", "dynamic", "as released"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", SCHEDULERS)
@torch.no_grad()
def test_a_sampled_clip_equals_diffusers(name, shift, guidance):
    config, b, t, h, w = TRANSFORMERS["rotary"]
    config = replace(config, snr_shift=shift)
    peer = randomize(diffusers_transformer(config)).eval()
    model = load_official("cogvideox", peer.state_dict(), config).eval()
    noise, _, text = inputs(config, b, t, h, w)
    null = torch.randn(1, *text.shape[1:], generator=torch.Generator().manual_seed(2))
    steps = trailing_steps(1000, 8)
    scales = {
        "constant": torch.full((8,), 6.0, dtype=torch.float64),
        "dynamic": diffusion.dynamic_guidance(8),
        "as released": diffusion.released_dynamic_guidance(steps.flip(0)),
    }[guidance]

    theirs = scheduler(name, 8, shift)
    seeded = torch.Generator().manual_seed(3)
    expected = run(theirs, name, peer, config, noise, text, null, scales, seeded)
    fresh = fresh_of(torch.Generator().manual_seed(3), noise.shape)
    got = diffusion.sample(
        model, noise, text, null, scales, steps, config.alphas_cumprod, name, fresh
    )
    difference = largest_difference({"x": got}, {"x": expected})
    print(f"{difference:.1e}")
    assert difference < 2e-5


def test_the_released_ramp_is_that_of_diffusers():
    """Its pipeline's own line, which takes the training step for the steps that are left."""
    steps = trailing_steps(1000, 50).flip(0)
    theirs = [
        1 + 6.0 * ((1 - math.cos(math.pi * ((50 - t.item()) / 50) ** 5.0)) / 2) for t in steps
    ]
    ours = diffusion.released_dynamic_guidance(steps)
    torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64))
    rounded = [round(float(scale), 2) for scale in ours[:6]]
    assert rounded == [2.29, 2.54, 6.97, 6.42, 2.79, 4.27]


def test_noise_and_target_equal_diffusers():
    config = COGVIDEOX_CONFIGS["2B"]
    theirs = scheduler("ddim", 50, 3.0)
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(3, 2, 4, 5, 6, generator=generator).double() for _ in range(2))
    t = torch.tensor([0, 999, 400])
    v = diffusion.v_target(x, t, noise, config.alphas_cumprod)
    torch.testing.assert_close(v, theirs.get_velocity(x, noise, t))
    torch.testing.assert_close(v[1], -x[1])
    said = {}

    def network(x_t, t, text):
        said["x_t"] = x_t
        return torch.zeros_like(x_t)

    loss = diffusion.loss(network, x, t, noise, x[:, 0, 0], config.alphas_cumprod)
    torch.testing.assert_close(said["x_t"], theirs.add_noise(x, noise, t))
    torch.testing.assert_close(loss, v.square().mean((1, 2, 3, 4)))


# ---------------------------------------------------------------- sizes


def parameters(model):
    return sum(p.numel() for p in model.parameters())


COUNTS = {
    "2B": 1_693_783_872,
    "5B": 5_570_283_072,
    "5B-I2V": 5_570_479_680 + 54_607_872,  # the authors train the table; to diffusers it is none
    "1.5-5B": 5_570_676_352,
    "1.5-5B-I2V": 5_571_594_880,
}


@pytest.mark.parametrize("preset", COUNTS)
def test_counts(preset):
    with torch.device("meta"):
        model = zoo.build(f"cogvideox/{preset}")
        peer = diffusers_transformer(model.config)
    assert parameters(model) == parameters(peer) == COUNTS[preset]


def test_counts_of_the_parts():
    with torch.device("meta"):
        model = zoo.build("cogvideox/2B")
    block = model.blocks[0]
    assert parameters(model.patch_embed) + parameters(model.text_embed) == 7_991_040
    assert parameters(model.time_embed) == 1_246_208
    assert parameters(block) == 56_081_536
    assert parameters(block.norm1) + parameters(block.experts1) == 5_913_600
    assert parameters(block.attention) == 14_753_536
    assert parameters(block.mlp) == 29_500_800
    assert parameters(model.norm) == 3_840
    assert parameters(model.head) == 1_973_760 + 122_944
    with torch.device("meta"):
        larger = zoo.build("cogvideox/5B-I2V")
    assert larger.positions.numel() == (226 + 17_550) * 3072 == 54_607_872
