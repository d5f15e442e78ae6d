"""Stable Video Diffusion: layers between frames, the blend, conditions, guidance, LoRA."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from course_lib.diffusion import edm
from course_lib.nn.lora import add_lora
from course_lib.papers import ldm, svd
from course_lib.papers.svd import SVD_CONFIGS, Condition, SVDConfig, UNet
from course_lib.papers.svd_decoder import SpatioTemporalResBlock

SHAPE = {
    "width": 16,
    "multipliers": (1, 2),
    "blocks": 1,
    "attends": (True, False),
    "heads": (2, 4),
    "context": 12,
    "groups": 4,
}
CONFIG = SVDConfig(**SHAPE, in_channels=8, vector=18)
TEXT = SVDConfig(**SHAPE, in_channels=4, vector=None)


def randomized(model, seed=0):
    """The model with every parameter drawn anew, so that nothing is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=generator).mul_(0.5 / max(p[0].numel(), 1) ** 0.5)
    return model.eval()


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- attention over time


def test_temporal_attention_against_loops():
    b, t, n, heads, d = 2, 3, 5, 2, 8
    q, k, v = random(3, b, t, n, d).double()
    got = svd.temporal_attention(q, k, v, heads)
    width = d // heads
    for i in range(b):
        for place in range(n):
            for head in range(heads):
                own = slice(head * width, (head + 1) * width)
                one = [x[i, :, place, own] for x in (q, k, v)]
                weights = (one[0] @ one[1].T / math.sqrt(width)).softmax(dim=1)
                torch.testing.assert_close(got[i, :, place, own], weights @ one[2])


def test_a_place_never_sees_another():
    q, k, v = random(3, 1, 4, 6, 8)
    before = svd.temporal_attention(q, k, v, 2)
    for x in (q, k, v):
        x[:, :, 2] += 1
    changed = (svd.temporal_attention(q, k, v, 2) != before).any(dim=-1)  # b t n
    assert changed[:, :, 2].all() and changed.sum() == 4


def test_the_temporal_residual_block_is_a_convolution_of_3_1_1():
    b, t, c, h, w = 2, 5, 8, 3, 4
    block = randomized(svd.TemporalResBlock(c, time_width=6, groups=4, eps=1e-5))
    x, time = random(b * t, c, h, w), random(b, 6, seed=2)
    clip = x.unflatten(0, (b, t)).transpose(1, 2)  # b c t h w
    y = F.silu(F.group_norm(clip, 4, block.norm1.weight, block.norm1.bias, 1e-5))
    y = F.conv3d(y, block.conv1.weight[..., None], block.conv1.bias, padding=(1, 0, 0))
    y = y + block.time(F.silu(time))[:, :, None, None, None]
    y = F.silu(F.group_norm(y, 4, block.norm2.weight, block.norm2.bias, 1e-5))
    y = clip + F.conv3d(y, block.conv2.weight[..., None], block.conv2.bias, padding=(1, 0, 0))
    torch.testing.assert_close(block(x, t, time), y.transpose(1, 2).flatten(0, 1))


def test_a_fresh_residual_block_over_time_changes_nothing():
    block = svd.TemporalResBlock(8, time_width=6, groups=4, eps=1e-5)
    x = random(6, 8, 3, 4)
    assert torch.equal(block(x, 3, random(2, 6)), x)


# ---------------------------------------------------------------- the blend


def test_the_blend_at_the_start():
    spatial, temporal = torch.ones(2, 3), torch.zeros(2, 3)
    alpha = svd.blend(spatial, temporal, torch.tensor([0.5]))
    torch.testing.assert_close(alpha, torch.full((2, 3), 0.62246), rtol=0, atol=1e-5)


def test_the_unet_weighs_space_by_alpha_and_the_decoder_time():
    """A mix far above 0 leaves the spatial layers in the one, the temporal ones in the other."""
    unet = randomized(UNet(CONFIG))
    x, t, context, vector = random(2, 3, 8, 4, 4), torch.zeros(2), random(2, 1, 12), random(2, 18)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name.endswith("mix"):
                parameter.fill_(50)
        images = unet(x, t, context, vector, image_only=True)
        torch.testing.assert_close(unet(x, t, context, vector), images)
        for name, parameter in unet.named_parameters():
            if name.endswith("mix"):
                parameter.fill_(-50)
        assert (unet(x, t, context, vector) - images).abs().max() > 1e-2

        block = randomized(SpatioTemporalResBlock(_vqgan(), 8, 8))
        frames = random(6, 8, 4, 4)
        spatial = super(SpatioTemporalResBlock, block).forward(frames)
        for mix, expected in ((50, block.temporal(spatial, 3)), (-50, spatial)):
            block.mix.fill_(mix)
            torch.testing.assert_close(block(frames, 3), expected)


def _vqgan():
    from course_lib.papers.vqgan import VQGANConfig

    return VQGANConfig(image_size=8, width=8, multipliers=(1, 1), attention=(), groups=4)


# ---------------------------------------------------------------- images and clips


def test_images_alone_pass_the_image_model_bit_for_bit():
    image = randomized(ldm.UNet(ldm.LDMConfig(**SHAPE)))
    clip = randomized(UNet(TEXT), seed=5)
    svd.start_from(clip, image)
    x, t, context = random(3, 1, 4, 6, 8), torch.tensor([0.2, -0.5, 0.0]), random(3, 7, 12)
    with torch.no_grad():
        expected = image(x[:, 0], t, context)
        assert torch.equal(clip(x, t, context, image_only=True)[:, 0], expected)
        assert (clip(x, t, context)[:, 0] - expected).abs().max() > 1e-3
        # Frames that share a time and a context: the same up to rounding.
        x = random(3, 2, 4, 6, 8)
        for i in range(2):
            frame = clip(x, t, context, image_only=True)[:, i]
            torch.testing.assert_close(frame, image(x[:, i], t, context), rtol=0, atol=1e-6)


def test_the_order_of_frames_counts_in_a_clip_alone():
    unet = randomized(UNet(CONFIG))
    x, t, context, vector = random(1, 4, 8, 4, 4), torch.zeros(1), random(1, 1, 12), random(1, 18)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for image_only in (True, False):
            straight = unet(x, t, context, vector, image_only)[:, order]
            shuffled = unet(x[:, order], t, context, vector, image_only)
            assert torch.allclose(straight, shuffled, atol=1e-5) == image_only


def test_frames_know_their_places():
    """Where no convolution over time tells them apart, only what is added for the place does."""
    unet = randomized(UNet(CONFIG))
    x, t, context, vector = random(1, 4, 8, 4, 4), torch.zeros(1), random(1, 1, 12), random(1, 18)
    order = torch.tensor([2, 0, 3, 1])
    transformers = [m for m in unet.modules() if isinstance(m, svd.SpatioTemporalTransformer)]
    with torch.no_grad():
        for module in unet.modules():
            if isinstance(module, svd.TemporalResBlock):
                module.conv2.weight.zero_()
        for shuffling_counts in (True, False):
            straight = unet(x, t, context, vector)[:, order]
            shuffled = unet(x[:, order], t, context, vector)
            assert torch.allclose(straight, shuffled, atol=1e-5) != shuffling_counts
            for transformer in transformers:
                transformer.frame_embed[2].weight.zero_()


def test_clips_of_a_batch_do_not_see_each_other():
    unet = randomized(UNet(CONFIG))
    x, t, context, vector = random(3, 2, 8, 4, 4), random(3), random(3, 1, 12), random(3, 18)
    with torch.no_grad():
        together = unet(x, t, context, vector)
        for i in range(3):
            one = slice(i, i + 1)
            alone = unet(x[one], t[one], context[one], vector[one])
            torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-5)


def test_a_fresh_network_says_nothing():
    unet = UNet(CONFIG)
    out = unet(random(1, 2, 8, 4, 4), torch.zeros(1), random(1, 1, 12), random(1, 18))
    assert out.shape == (1, 2, 4, 4, 4) and not out.any()


def test_starting_from_an_image_model_of_fewer_input_channels():
    image = randomized(ldm.UNet(ldm.LDMConfig(**SHAPE)))
    clip = randomized(UNet(CONFIG), seed=5)
    temporal = clip.down[0].temporal_res.conv1.weight.clone()
    svd.start_from(clip, image)
    assert torch.equal(clip.stem.weight[:, :4], image.stem.weight)
    assert not clip.stem.weight[:, 4:].any()
    assert torch.equal(clip.up[0].res.conv1.weight, image.up[0].res.conv1.weight)
    assert torch.equal(clip.down[0].temporal_res.conv1.weight, temporal)
    assert clip.down[0].mix.item() != 0.5


def test_starting_from_a_clip_model_of_fewer_inputs():
    """Of one channel and one number of the vector fewer: what is new begins at zero."""
    source = randomized(UNet(CONFIG))
    more = replace(CONFIG, in_channels=CONFIG.in_channels + 1, vector=CONFIG.vector + 5)
    clip = randomized(UNet(more), seed=5)
    svd.start_from(clip, source)
    x, t, context, vector = random(1, 3, 8, 4, 4), torch.zeros(1), random(1, 1, 12), random(1, 18)
    with torch.no_grad():
        expected = source(x, t, context, vector)
        x = torch.cat([x, random(1, 3, 1, 4, 4)], dim=2)
        told = clip(x, t, context, torch.cat([vector, random(1, 5)], dim=1))
    torch.testing.assert_close(told, expected, rtol=0, atol=1e-6)


def test_the_tiny_model_starts_from_the_tiny_image_model():
    clip, image = UNet(SVD_CONFIGS["tiny"]), ldm.UNet(ldm.LDM_CONFIGS["tiny"])
    svd.start_from(clip, image)
    assert torch.equal(clip.middle[0].res.conv1.weight, image.middle[0].res.conv1.weight)


@pytest.mark.parametrize(
    "changes", [{"width": 32}, {"blocks": 2}, {"in_channels": 9}, {"context": 11}]
)
def test_an_image_model_of_another_shape_is_refused(changes):
    image = ldm.UNet(ldm.LDMConfig(**{**SHAPE, **changes}))
    before = UNet(CONFIG).state_dict()
    clip = UNet(CONFIG)
    clip.load_state_dict(before)
    with pytest.raises(ValueError, match="expected a source of the clip model's shape, got"):
        svd.start_from(clip, image)
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())


# ---------------------------------------------------------------- conditions


def test_micro_conditioning_is_three_sinusoids_in_order():
    fps, bucket, noise = (
        torch.tensor([6.0, 1.0]),
        torch.tensor([127.0, 0.0]),
        torch.tensor([0.02, 1]),
    )
    got = svd.micro_conditioning(fps, bucket, noise, width=8)
    assert got.shape == (2, 24)
    for i, values in enumerate((fps, bucket, noise)):
        angles = values[:, None] * 10_000 ** (-torch.arange(4) / 4)
        expected = torch.cat([angles.cos(), angles.sin()], dim=1)
        torch.testing.assert_close(got[:, 8 * i : 8 * i + 8], expected)
    assert svd.micro_conditioning(fps, bucket, noise).shape == (2, SVD_CONFIGS["SVD"].vector)


def test_the_vector_counts():
    unet = randomized(UNet(CONFIG))
    x, t, context = random(2, 2, 8, 4, 4), torch.zeros(2), random(2, 1, 12)
    one, two = random(2, 2, 18)
    assert (unet(x, t, context, one) - unet(x, t, context, two)).abs().max() > 1e-3


def test_an_image_stands_beside_every_frame():
    embedding, latent, vector = random(2, 12), random(2, 4, 3, 5), random(2, 18)
    condition = svd.image_condition(embedding, latent, vector, frames=4)
    assert torch.equal(condition.context, embedding[:, None])
    assert condition.latent.shape == (2, 4, 4, 3, 5)
    assert all(torch.equal(condition.latent[:, i], latent) for i in range(4))


def test_two_frames_are_known_to_an_interpolation():
    embeddings, vector = random(2, 2, 12), random(2, 18)
    first, last = random(2, 2, 4, 3, 5)
    condition = svd.interpolation_condition(embeddings, first, last, vector, frames=5)
    latent = condition.latent
    assert latent.shape == (2, 5, 5, 3, 5) and condition.context.shape == (2, 2, 12)
    assert torch.equal(latent[:, 0, :4], first) and torch.equal(latent[:, 4, :4], last)
    assert latent[:, (0, 4), 4].all() and not latent[:, 1:4].any()
    unet = UNet(SVDConfig(**SHAPE, in_channels=9, vector=18))
    noisy = random(2, 5, 4, 4, 4)
    condition = svd.interpolation_condition(embeddings, *random(2, 2, 4, 4, 4), vector, frames=5)
    assert svd.predict_v(unet, condition, noisy, torch.zeros(2)).shape == noisy.shape


def test_a_condition_is_left_out_as_a_whole_but_for_its_vector():
    condition = Condition(random(3, 1, 12), random(3, 18), random(3, 2, 4, 3, 5))
    kept = condition.keep(torch.tensor([True, False, True]))
    assert torch.equal(kept.context[[0, 2]], condition.context[[0, 2]])
    assert torch.equal(kept.latent[[0, 2]], condition.latent[[0, 2]])
    assert not kept.context[1].any() and not kept.latent[1].any()
    assert torch.equal(kept.vector, condition.vector)
    nothing = condition.without()
    assert not nothing.context.any() and not nothing.latent.any()
    assert torch.equal(nothing.vector, condition.vector)
    assert Condition(random(1, 3, 12)).without().latent is None


def test_augmentation_adds_noise_of_its_level():
    image, noise = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=2)
    got = svd.augment(image, torch.tensor([0.0, 0.5]), noise)
    assert torch.equal(got[0], image[0])
    torch.testing.assert_close(got[1], image[1] + 0.5 * noise[1])


# ---------------------------------------------------------------- training and sampling


def test_the_guidance_grows_over_the_frames():
    assert svd.guidance_ramp(5, 1.0, 3.0).tolist() == [1, 1.5, 2, 2.5, 3]
    assert svd.guidance_ramp(1, 1.0, 3.0).tolist() == [1]
    ramp = svd.guidance_ramp(14, 1.0, 2.5)
    torch.testing.assert_close(ramp.diff(), torch.full((13,), 1.5 / 13))


def test_each_frame_is_guided_by_its_own_scale():
    unet = randomized(UNet(CONFIG))
    condition = Condition(random(2, 1, 12), random(2, 18), random(2, 3, 4, 4, 4))
    x, sigma = random(2, 3, 4, 4, 4), torch.tensor([0.5, 3.0])
    with torch.no_grad():
        known, unknown = (
            edm.denoise(lambda x, t, c=c: svd.predict_v(unet, c, x, t), x, sigma)
            for c in (condition, condition.without())
        )
        scale = torch.tensor([0.0, 1.0, 2.5])
        got = svd.guided_denoiser(unet, condition, condition.without(), scale, x, sigma)
    torch.testing.assert_close(got[:, 0], unknown[:, 0])
    torch.testing.assert_close(got[:, 1], known[:, 1])
    torch.testing.assert_close(got[:, 2], unknown[:, 2] + 2.5 * (known - unknown)[:, 2])


def test_the_loss_is_what_edm_says_of_the_network_with_its_condition():
    unet = randomized(UNet(CONFIG))
    condition = Condition(random(2, 1, 12), random(2, 18), random(2, 3, 4, 4, 4))
    x_start, noise = random(2, 2, 3, 4, 4, 4)
    sigma = edm.noise_levels(random(2), *svd.NOISE["image-to-video 320x576"])
    factors = edm.precondition(sigma[:, None, None, None, None])
    x = x_start + sigma[:, None, None, None, None] * noise
    beside = torch.cat([factors.c_in * x, condition.latent], dim=2)
    v = unet(beside, factors.c_noise.flatten(), condition.context, condition.vector)
    denoised = factors.c_skip * x + factors.c_out * v
    expected = (denoised - x_start).square().flatten(1).mean(1) * (1 + sigma**2) / sigma**2
    torch.testing.assert_close(svd.loss(unet, x_start, sigma, noise, condition), expected)


def test_a_sample_has_the_shape_of_its_noise():
    unet = randomized(UNet(CONFIG))
    condition = Condition(random(1, 1, 12), random(1, 18), random(1, 3, 4, 4, 4))
    noise = random(1, 3, 4, 4, 4)
    scale = svd.guidance_ramp(3, 1.0, 2.5)
    sigmas = edm.karras_sigmas(2)
    got = svd.sample(unet, noise, condition, condition.without(), scale, sigmas)
    assert got.shape == noise.shape and not got.requires_grad and got.isfinite().all()


def test_a_clip_continues_an_image_by_eulers_method_written_out():
    embedding, latent, vector = random(2, 12), random(2, 2, 4, 5), random(2, 18)
    x, sigmas = random(2, 3, 2, 4, 5), edm.karras_sigmas(3, 0.01, 5.0).float()

    def network(x, t, context, vector):
        told = (context.sum((1, 2)) + vector.sum(1) + t)[:, None, None, None, None]
        return (x[:, :, :2] + 0.5 * x[:, :, 2:] + 0.1 * told).sin()

    scale = svd.guidance_ramp(3, 1.0, 2.5)
    got = svd.image_to_video(network, x, embedding, latent, vector, scale, sigmas)

    beside = torch.stack([latent] * 3, dim=1)
    x = x * (1 + sigmas[0] ** 2) ** 0.5
    for sigma, sigma_next in pairwise(sigmas):
        t, size = sigma.log().expand(2) / 4, (1 + sigma**2) ** 0.5
        known, unknown = (
            x / size**2
            - sigma / size * network(torch.cat([x / size, on * beside], 2), t, context, vector)
            for on, context in ((1, embedding[:, None]), (0, torch.zeros(2, 1, 12)))
        )
        denoised = unknown + scale[:, None, None, None] * (known - unknown)
        x = x + (sigma_next - sigma) * (x - denoised) / sigma
    torch.testing.assert_close(got, x)


# ---------------------------------------------------------------- camera motion


def test_a_camera_lora_adapts_attention_over_time_alone():
    unet = randomized(UNet(CONFIG))
    layers = svd.temporal_attention_layers(unet)
    assert len(layers) == 3 * 4 and all(".temporal_blocks." in name for name in layers)
    x, t, context, vector = random(1, 3, 8, 4, 4), torch.zeros(1), random(1, 1, 12), random(1, 18)
    with torch.no_grad():
        clip = unet(x, t, context, vector)
        images = unet(x, t, context, vector, image_only=True)
        trained = add_lora(unet, layers, 4, torch.Generator().manual_seed(0))
        torch.testing.assert_close(unet(x, t, context, vector), clip, rtol=0, atol=0)
        for parameter in trained:
            parameter.add_(0.3)
        assert (unet(x, t, context, vector) - clip).abs().max() > 1e-4
        assert torch.equal(unet(x, t, context, vector, image_only=True), images)


# ---------------------------------------------------------------- what is refused


@pytest.fixture
def untyped():
    """Switch the checks of types off, as they are for a student."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 2, 8, 5, 4), (1, 1, 12), (1, 18)), r"both sides divisible by 2, got \(5, 4\)"),
        (((1, 2, 8, 4, 4), (1, 1, 11), (1, 18)), "tokens of width 12, got 11"),
        (((1, 2, 8, 4, 4), (1, 1, 12), (1, 24)), "vector: expected 18 numbers, got 24"),
        (((1, 2, 8, 4, 4), (1, 1, 12), None), "vector: expected 18 numbers, got None"),
    ],
)
def test_what_the_network_cannot_take_is_refused(shapes, message, untyped):
    x, context, vector = (None if shape is None else random(*shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        UNet(CONFIG)(x, torch.zeros(1), context, vector)


def test_a_vector_that_the_network_does_not_have_is_refused():
    with pytest.raises(ValueError, match="vector: expected None numbers, got 18"):
        UNet(TEXT)(random(1, 2, 4, 4, 4), torch.zeros(1), random(1, 1, 12), random(1, 18))


def test_other_nonsense_is_refused():
    with pytest.raises(ValueError, match="context: expected the width of a token, got None"):
        SVDConfig(context=None)
    with pytest.raises(ValueError, match="frames: expected at least 1, got 0"):
        svd.guidance_ramp(0, 1.0, 3.0)
    with pytest.raises(ValueError, match="frames: expected at least 2, got 1"):
        svd.interpolation_condition(
            random(1, 2, 12), random(1, 4, 2, 2), random(1, 4, 2, 2), random(1, 18), frames=1
        )
