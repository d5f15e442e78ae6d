"""How different two sounds (b n) are to the ear: distances between their mel spectrograms."""

import math
from functools import cache

import torch
from einops import rearrange

from course_lib.shapes import Float, PerSample, Shaped, Tensor


def stft(sound: Float[Tensor, "b n"], window: int, hop: int) -> Shaped[Tensor, "b t f"]:
    """Return the complex spectra of Hann windows of that many samples, one every `hop` samples.

    t = 1 + n // hop, the first around the first sample; f = window // 2 + 1.  Outside the sound
    there is silence.
    """
    spectra = torch.stft(
        sound,
        window,
        hop,
        window=torch.hann_window(window, dtype=sound.dtype, device=sound.device),
        pad_mode="constant",
        return_complex=True,
    )
    return rearrange(spectra, "b f t -> b t f")


@cache
def mel_filters(
    frequencies: int, mels: int, sample_rate: int, least: int | float = 0
) -> Float[Tensor, "f mels"]:
    """Return triangular filters, evenly spaced in mel from `least` hertz to half the sample rate.

    mel = 2595 log10(1 + hertz / 700).  A filter rises from the centre of the one before it to 1 at
    its own, and falls to the centre of the next; a narrow one may have no frequency to itself.
    """
    top = _mel(sample_rate / 2)
    corners = torch.linspace(_mel(least), top, mels + 2, dtype=torch.float64)
    corners = 700 * (10 ** (corners / 2595) - 1)  # in hertz
    hertz = torch.linspace(0, sample_rate / 2, frequencies, dtype=torch.float64)[:, None]
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (hertz - low) / (centre - low)
    falling = (high - hertz) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0).float()


def _mel(hertz: int | float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def mel_spectrogram(
    sound: Float[Tensor, "b n"], sample_rate: int, window: int, hop: int, mels: int = 64
) -> Float[Tensor, "b t mels"]:
    """Return the magnitudes of the spectra, gathered by mel filters."""
    spectra = stft(sound, window, hop).abs()  # b t f
    return spectra @ mel_filters(spectra.shape[-1], mels, sample_rate).to(spectra)


def multi_scale_mel_loss(
    true: Float[Tensor, "b n"],
    made: Float[Tensor, "b n"],
    sample_rate: int,
    windows: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048),
    mels: int = 64,
    floor: float = 1e-5,
) -> PerSample:
    """SoundStream, section III-E: compare mel spectrograms of several windows, hop a quarter.

    Summed over windows of s samples: the L1 norm of a frame's difference and sqrt(s / 2) times the
    L2 norm of the difference of its logarithms, each a mean over frames.  floor: the share of a
    full-scale tone that is added in the logarithm.  A clamp there would leave a sound that is too
    quiet without a gradient.
    """
    total = true.new_zeros(len(true))
    for s in windows:
        a = mel_spectrogram(true, sample_rate, s, s // 4, mels)  # b t mels
        b = mel_spectrogram(made, sample_rate, s, s // 4, mels)
        absolute = (a - b).abs().sum(-1)  # b t
        least = floor * s / 4
        logarithmic = ((a + least).log() - (b + least).log()).norm(dim=-1)
        total = total + (absolute + math.sqrt(s / 2) * logarithmic).mean(-1)
    return total
