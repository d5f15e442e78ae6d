"""Latent diffusion against diffusers' networks and samplers and CompVis' layout."""

from functools import partial

import pytest
import torch

from course_lib import zoo
from course_lib.convert import load_official
from course_lib.diffusion import Guided, edm, scaled_linear_betas
from course_lib.papers.ldm import LatentDiffusion, LDMConfig
from course_lib.papers.ldm_autoencoder import AutoencoderConfig
from tests.parity import compvis_layout
from tests.parity.peers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    diffusers_autoencoder,
    diffusers_conditional_unet,
    gradients,
    largest_difference,
    randomize,
)
from tests.parity.taming_layouts import random_weights

# ---------------------------------------------------------------- the U-Net


def ldm(**changes):
    """A small U-Net, all of whose numbers differ."""
    odd = {
        "in_channels": 3,
        "out_channels": 5,
        "width": 16,
        "multipliers": (1, 2),
        "blocks": 1,
        "attends": (False, True),
        "heads": (1, 2),
        "context": 13,
        "groups": 4,
    }
    return LDMConfig(**{**odd, **changes})


CASES = {  # config, batch, height, width, tokens of the context
    "one level, one image, one token": (
        ldm(multipliers=(1,), attends=(True,), heads=(4,)),
        *(1, 7, 11, 1),
    ),
    "two levels": (ldm(), 3, 24, 40, 5),
    "two levels, convolutions around the transformers": (
        ldm(linear_projection=False, attends=(True, True), heads=(2, 4)),
        *(2, 24, 40, 9),
    ),
    "two blocks, transformers of two": (ldm(blocks=2, depth=2, groups=8), 2, 6, 10, 4),
    "four levels as in Stable Diffusion": (
        ldm(
            multipliers=(1, 2, 4, 4),
            blocks=2,
            attends=(True, True, True, False),
            heads=(1, 2, 4, 4),
            in_channels=4,
            out_channels=4,
        ),
        *(2, 24, 40, 3),
    ),
    "no context": (ldm(context=None, attends=(True, True)), 2, 10, 6, 0),
}
# Bounds of values and of gradients; theirs pass through single precision on their way to our names.
PRECISIONS = [(torch.float32, (1e-5, 1e-5)), (torch.float64, (1e-9, 1e-6))]
COMPVIS_CASES = [name for name, (config, *_) in CASES.items() if config.context]


def inputs(config, batch, height, width, tokens, seed=1):
    """Latents, times between two steps and at both ends, and a context if there is one."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, config.in_channels, height, width, generator=generator)
    t = torch.rand(batch, generator=generator) * 999
    t[0], t[-1] = 999, 0.25
    if config.context is None:
        return x, t, None
    return x, t, torch.randn(batch, tokens, config.context, generator=generator)


def compare(model, peer, parameters, x, t, context):
    """The largest difference of values and of gradients; theirs come under our names.

    Conversion is linear, so it converts gradients too.  The context's gradient is among them.
    """
    precision = model.stem.weight.dtype
    ours = [x.to(precision).requires_grad_()]
    theirs = [x.double().requires_grad_()]
    if context is not None:
        ours.append(context.to(precision).requires_grad_())
        theirs.append(context.double().requires_grad_())
    got = model(ours[0], t, *ours[1:])
    expected = peer(theirs[0], t, theirs[1] if context is not None else None)
    assert got.shape == expected.shape == (len(x), model.config.out_channels, *x.shape[2:])
    values = float((got - expected).detach().abs().max())

    named = [("context", tensor) for tensor in theirs[1:]]
    theirs_by_name = gradients(expected, theirs[0], [*named, *parameters])
    kept = {name: theirs_by_name.pop(name) for name in ("x", *(name for name, _ in named))}
    single = {name: grad.float() for name, grad in theirs_by_name.items()}
    converted = load_official("ldm", single, model.config).state_dict()
    named = [("context", tensor) for tensor in ours[1:]]
    slopes = largest_difference(
        gradients(got, ours[0], [*named, *model.named_parameters()]), {**kept, **converted}
    )
    print(
        f"values {values:.1e} of {float(expected.detach().abs().max()):.1f}, gradients {slopes:.1e}"
    )
    return values, slopes


@pytest.mark.parametrize(("precision", "bounds"), PRECISIONS)
@pytest.mark.parametrize("name", CASES)
def test_the_unet_equals_diffusers(name, precision, bounds):
    """Theirs is in double precision, so that the only difference is our rounding."""
    config, *shape = CASES[name]
    peer = randomize(diffusers_conditional_unet(config)).eval()
    model = load_official("ldm", peer.state_dict(), config).eval().to(precision)
    peer = peer.double()

    def run(x, t, context):
        return peer(x, t, context).sample

    values, slopes = compare(model, run, list(peer.named_parameters()), *inputs(config, *shape))
    assert values < bounds[0] and slopes < bounds[1]


@pytest.mark.parametrize("name", COMPVIS_CASES)
def test_the_unet_equals_the_compvis_layout(name):
    """In double precision, where no order of sums hides a mistake."""
    config, *shape = CASES[name]
    weights = random_weights(compvis_layout.unet_shapes(config))
    model = load_official("ldm", weights, config).eval().double()
    weights = {key: value.double().requires_grad_() for key, value in weights.items()}
    heads = dict(zip(config.widths, config.heads, strict=True))

    def run(x, t, context):
        return compvis_layout.run_unet(weights, x, t, context, heads, config.groups)

    values, slopes = compare(model, run, list(weights.items()), *inputs(config, *shape))
    assert values < 1e-9 and slopes < 1e-6


def test_what_a_checkpoint_does_not_say_changes_the_output():
    """Heads, groups and epsilons leave no trace in the weights: were one lost, it would be seen."""
    config, *shape = CASES["two levels"]
    weights = randomize(diffusers_conditional_unet(config)).state_dict()
    x, t, context = inputs(config, *shape)
    expected = load_official("ldm", weights, config)(x, t, context)
    for change in ({"heads": (1, 4)}, {"groups": 8}, {"norm_eps": 1e-2}):
        other = load_official("ldm", weights, ldm(**change))(x, t, context)
        assert (other - expected).abs().max() > 1e-4, change


# ---------------------------------------------------------------- the autoencoder


def autoencoder(**changes):
    odd = {"channels": 3, "width": 8, "multipliers": (1, 2), "blocks": 1, "latent": 3, "groups": 4}
    return AutoencoderConfig(**{**odd, **changes})


AUTOENCODERS = {  # config, batch, height, width
    "one level, one image": (autoencoder(multipliers=(1,), channels=1), 1, 5, 9),
    "two levels": (autoencoder(), 3, 24, 40),
    "three levels, two blocks": (autoencoder(multipliers=(1, 3, 2), blocks=2, groups=2), 2, 12, 20),
    "as Stable Diffusion's": (autoencoder(multipliers=(1, 2, 4, 4), blocks=2, latent=4), 2, 24, 40),
}


def moments_and_image(model, image, noise):
    """What either autoencoder makes of an image and noise, as one tensor a row."""
    if hasattr(model, "to_moments"):
        reconstruction, posterior = model(image, noise)
        parts = [posterior.mean, posterior.log_variance, reconstruction]
    else:
        posterior = model.encode(image).latent_dist
        latents = posterior.mean + posterior.std * noise
        parts = [posterior.mean, posterior.logvar, model.decode(latents).sample]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


@pytest.mark.parametrize("layout", ["diffusers", "compvis"])
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_the_autoencoder_equals_diffusers(name, layout):
    """Theirs is in double precision, so that the only difference is our rounding."""
    config, batch, height, width = AUTOENCODERS[name]
    f, levels = config.downsampling, len(config.multipliers)
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(batch, config.channels, height, width, generator=generator)
    noise = torch.randn(batch, config.latent, height // f, width // f, generator=generator)

    def load(weights):
        if layout == "compvis":
            weights = compvis_layout.autoencoder(weights, levels)
        return load_official("ldm", weights, config).eval()

    peer = randomize(diffusers_autoencoder(config)).eval()
    model = load(peer.state_dict())
    peer = peer.double()
    ours, theirs = image.clone().requires_grad_(), image.double().requires_grad_()
    got = moments_and_image(model, ours, noise)
    expected = moments_and_image(peer, theirs, noise.double())
    values = float(((got - expected).abs().max() / expected.abs().max()).detach())

    grads = gradients(expected, theirs, peer.named_parameters())
    slope = grads.pop("x")
    converted = load({name: grad.float() for name, grad in grads.items()}).state_dict()
    slopes = largest_difference(
        gradients(got, ours, model.named_parameters()), {"x": slope, **converted}
    )
    print(f"{name}, {layout}: values {values:.1e}, gradients {slopes:.1e}")
    assert values < 1e-5 and slopes < 1e-5


# ---------------------------------------------------------------- sampling

SCALE = 7.5
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}


def scheduler(kind, prediction, **options):
    """Theirs, as in a folder of Stable Diffusion, with float64 tables."""
    made = kind(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        prediction_type=PREDICTIONS[prediction],
        timestep_spacing="leading",
        **options,
    )
    exact = (1 - scaled_linear_betas(1000, 0.00085, 0.012)).cumprod(0)
    torch.testing.assert_close(made.alphas_cumprod, exact.float(), rtol=1e-4, atol=0)
    made.alphas_cumprod = exact
    if kind is DDIMScheduler:
        made.final_alpha_cumprod = exact[0]
    return made


def sampling(prediction):
    """Return our network and theirs, in double precision, and what both start from."""
    config = ldm(prediction=prediction, in_channels=4, out_channels=4)
    peer = randomize(diffusers_conditional_unet(config)).eval()
    model = load_official("ldm", peer.state_dict(), config).eval().double()
    noise, _, context = inputs(config, 2, 6, 10, 5)
    null = inputs(config, 1, 6, 10, 5, seed=4)[2]
    return model, peer.double(), noise.double(), context.double(), null.double()


def their_chain(theirs, peer, x, context, null, **options):
    """Their whole run, guided as in their pipelines: every x on the way."""
    x = x * theirs.init_noise_sigma
    noise = torch.Generator().manual_seed(3)
    for t in theirs.timesteps:
        both = theirs.scale_model_input(torch.cat([x, x]), t)
        contexts = torch.cat([null.expand_as(context), context])
        without, given = peer(both, t, contexts).sample.chunk(2)
        out = without + SCALE * (given - without)
        if options:
            options["variance_noise"] = torch.randn(x.shape, generator=noise).to(x)
        x = theirs.step(out, t, x, **options).prev_sample
        yield x


def largest_share(pairs):
    """The largest difference of any pair, as a share of the largest value."""
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)


@torch.no_grad()
@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("count", [2, 10])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_guided_ddim_run(prediction, count, eta):
    model, peer, noise, context, null = sampling(prediction)
    theirs = scheduler(DDIMScheduler, prediction, clip_sample=False, set_alpha_to_one=False)
    theirs.set_timesteps(count)
    predict = Guided(model, context, null, SCALE)
    ours = LatentDiffusion(model.config).denoise(
        predict, noise, count, eta, torch.Generator().manual_seed(3)
    )
    options = {"eta": eta} if eta else {}
    chain = their_chain(theirs, peer, noise, context, null, **options)
    pairs = [(x, other) for (x, _), other in zip(ours, chain, strict=True)]
    print(f"{prediction}, {count} steps, eta {eta}: {largest_share(pairs):.1e}")
    assert len(pairs) == count and largest_share(pairs) < 1e-9


@torch.no_grad()
@pytest.mark.parametrize("karras", [False, True], ids=["the schedule's levels", "Karras' levels"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_guided_euler_run(prediction, karras):
    """Their levels are in single precision, and so is the time that they tell the network."""
    model, peer, noise, context, null = sampling(prediction)
    theirs = scheduler(EulerDiscreteScheduler, prediction, use_karras_sigmas=karras)
    theirs.set_timesteps(8)
    process = LatentDiffusion(model.config)
    sigmas = process.levels(8)
    if karras:
        sigmas = edm.karras_sigmas(8, float(sigmas[-2]), float(sigmas[0]))
    torch.testing.assert_close(sigmas.float(), theirs.sigmas, rtol=1e-4, atol=0)
    predict = partial(process.estimate, Guided(model, context, null, SCALE))
    ours = edm.euler_steps(predict, noise, sigmas)
    chain = their_chain(theirs, peer, noise, context, null)
    pairs = [(x, other) for (x, _), other in zip(ours, chain, strict=True)]
    print(f"{prediction}, Karras {karras}: {largest_share(pairs):.1e}")
    assert len(pairs) == 8 and largest_share(pairs) < 1e-5


# ---------------------------------------------------------------- sizes

COUNTS = {  # FACTS.md, counted in diffusers' classes
    "SD-2.1": 865_910_724,
    "SD-1.5": 859_520_964,
    "txt2img-1.4B": 872_300_484,
    "kl-f4": 55_312_063,
    "kl-f8": 83_653_863,
    "kl-f16": 69_610_963,
}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    with torch.device("meta"):
        assert parameters(zoo.build(f"ldm/{name}")) == COUNTS[name]
