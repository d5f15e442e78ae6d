"""The temporal decoder: where it starts, and a few frames at a time."""

import pytest
import torch

from course_lib.papers.ldm_autoencoder import AutoencoderConfig, AutoencoderKL
from course_lib.papers.svd_decoder import TEMPORAL_DECODER_CONFIGS, TemporalAutoencoder

CONFIG = AutoencoderConfig(
    image_size=16, width=8, multipliers=(1, 2), blocks=1, attention=(16,), latent=3, groups=4
)


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_starts_as_the_decoder_of_images():
    """Layers over time begin as the identity, whatever the blend."""
    torch.manual_seed(0)
    clips, images = TemporalAutoencoder(CONFIG), AutoencoderKL(CONFIG)
    shared = clips.decoder.state_dict().keys() & images.decoder.state_dict().keys()
    assert shared == images.decoder.state_dict().keys()
    clips.decoder.load_state_dict(images.decoder.state_dict(), strict=False)
    with torch.no_grad():
        clips.decoder.time_conv_out.weight.zero_()
        clips.decoder.time_conv_out.weight[:, :, 1, 0] = torch.eye(3)
        clips.decoder.time_conv_out.bias.zero_()
        latents = random(2, 3, 3, 4, 5)
        got = clips.decode(latents).flatten(0, 1)
        torch.testing.assert_close(got, images.decoder(latents.flatten(0, 1)))


def test_its_encoder_is_that_of_images():
    clips, images = TemporalAutoencoder(CONFIG), AutoencoderKL(CONFIG)
    for part in ("encoder", "to_moments"):
        getattr(clips, part).load_state_dict(getattr(images, part).state_dict())
    x = random(2, 3, 6, 8)
    with torch.no_grad():
        for ours, theirs in zip(clips.encode(x), images.encode(x), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_forward_rebuilds_a_clip():
    model = TemporalAutoencoder(CONFIG)
    clip = random(2, 3, 3, 8, 6)
    rebuilt, posterior = model(clip, torch.zeros(6, 3, 4, 3))
    assert rebuilt.shape == clip.shape and posterior.mean.shape == (6, 3, 4, 3)
    torch.testing.assert_close(rebuilt, model.decode(posterior.mean.unflatten(0, (2, 3))))


@pytest.mark.parametrize(("at_once", "parts"), [(2, [2, 2, 1]), (5, [5]), (9, [5]), (1, [1] * 5)])
def test_no_more_frames_at_once_than_asked_for(at_once, parts):
    model, seen = TemporalAutoencoder(CONFIG).eval(), []
    model.decoder.conv_in.register_forward_hook(lambda _, args, out: seen.append(len(args[0])))
    latents = random(1, 5, 3, 4, 5)
    with torch.no_grad():
        stream = model.decode_in_parts(latents, at_once)
        next(stream)
        assert len(seen) == 1  # nothing is decoded before it is asked for
        assert [1 + len(list(stream)), *seen] == [len(parts), *parts]
        whole = model.decode(latents, at_once)
        alone = [model.decode(part) for part in latents.split(at_once, dim=1)]
        assert torch.equal(whole, torch.cat(alone, dim=1))


def test_frames_are_seen_by_their_neighbours():
    model = TemporalAutoencoder(CONFIG).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
        latents = random(1, 4, 3, 4, 5)
        before = model.decode(latents)
        latents[:, 0] += 1
        assert (model.decode(latents) - before).abs().flatten(2).amax(2).min() > 1e-5


def test_nonsense_is_refused():
    model = TemporalAutoencoder(CONFIG)
    with pytest.raises(ValueError, match="frames_at_once: expected at least 1, got 0"):
        model.decode(random(1, 2, 3, 4, 4), 0)
    with pytest.raises(ValueError, match=r"expected sides divisible by 2, got \(5, 4\)"):
        model.encode(random(1, 3, 5, 4))


def test_presets_share_their_shape_with_the_autoencoder_of_images():
    assert TEMPORAL_DECODER_CONFIGS["temporal-decoder"] == AutoencoderConfig()
