"""What a sound (b n) has in it, and how far it is from another: onsets, and a spectral distance.

An onset is where something starts to sound.  In the little world that is every contact, so that
what a model plays can be compared with what happened.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from course_lib.losses.spectral import stft
from course_lib.shapes import Float, PerSample, Tensor

WINDOW_SECONDS = 0.016
HOP_SECONDS = 0.004
APART_SECONDS = 0.1  # onsets closer than this are one
COMPRESSION = 10.0  # of magnitudes, before they are compared
LEAST_RISE = 0.04  # of an onset; those of the little world's sounds rise by 0.1 and more
TOLERANCE_SECONDS = 0.05  # within which two onsets are the same, as is usual for music
FLOOR = 1e-3  # of a full-scale tone, -60 decibels: magnitudes below it are as silent as it


# ---------------------------------------------------------------- onsets


def spectral_flux(sound: Float[Tensor, "b n"], sample_rate: int) -> Float[Tensor, "b t"]:
    """Return by how much the spectrum has risen since the window half its length before.

    It is the mean over frequencies of the rises of log(1 + 10 x), where x = 1 is a full-scale tone;
    t = 1 + n // hop windows, one around every 4 milliseconds.  Windows that reach beyond the end
    have no flux: a tone that is cut off there would show as a rise.
    """
    window, hop = _window(sample_rate)
    magnitudes = stft(sound, window, hop).abs() / (window / 4)  # b t f
    compressed = (1 + COMPRESSION * magnitudes).log()
    lag = window // (2 * hop)
    before = F.pad(compressed, (0, 0, lag, 0))[:, :-lag]  # silence before the first
    flux = (compressed - before).clamp(min=0).mean(-1)  # b t
    flux[:, (sound.shape[1] - window // 2) // hop + 1 :] = 0
    return flux


def onsets(sound: Float[Tensor, "b n"], sample_rate: int) -> list[list[float]]:
    """Return the times in seconds of every sound's onsets, in their order.

    They are the peaks of the spectral flux above `LEAST_RISE`, the highest within 0.1 seconds.
    """
    _, hop = _window(sample_rate)
    flux = spectral_flux(sound, sample_rate)  # b t
    reach = round(APART_SECONDS * sample_rate / hop)
    highest = F.max_pool1d(flux[:, None], 2 * reach + 1, 1, reach)[:, 0]
    is_peak = (flux == highest) & (flux > LEAST_RISE)
    # Of equal peaks the first: there is no other within reach before it.
    peaks = F.pad(is_peak.float(), (reach, 0)).unfold(1, reach + 1, 1).sum(-1)
    is_first = is_peak & (peaks == 1)
    return [(row.nonzero().flatten() * hop / sample_rate).tolist() for row in is_first]


def onset_matches(
    found: Sequence[float], true: Sequence[float], tolerance: float = TOLERANCE_SECONDS
) -> int:
    """Return how many pairs there are at most of a found and a true time, each in one pair.

    A pair is no farther apart than the tolerance, in seconds; both lists are in order.
    """
    pairs = i = j = 0
    while i < len(found) and j < len(true):
        if abs(found[i] - true[j]) <= tolerance:
            pairs += 1
            i += 1
            j += 1
        elif found[i] < true[j]:
            i += 1
        else:
            j += 1
    return pairs


def onset_precision_recall(
    found: Sequence[Sequence[float]],
    true: Sequence[Sequence[float]],
    tolerance: float = TOLERANCE_SECONDS,
) -> tuple[float, float]:
    """Return the shares of found and of true onsets that have a partner, over all sounds at once.

    A share of nothing is 1.  Raises ValueError unless there are as many sounds on both sides.
    """
    if len(found) != len(true):
        raise ValueError(f"expected onsets of as many sounds, {len(true)}, got {len(found)}")
    hits = sum(onset_matches(a, b, tolerance) for a, b in zip(found, true, strict=True))
    precision, recall = (
        hits / count if count else 1.0 for count in (sum(map(len, found)), sum(map(len, true)))
    )
    return precision, recall


def onset_f1(
    made: Float[Tensor, "b n"],
    true: Float[Tensor, "b m"],
    sample_rate: int,
    tolerance: float = TOLERANCE_SECONDS,
) -> PerSample:
    """Return the harmonic mean of precision and recall of each sound's onsets.

    It is 1 where neither of the two has an onset.
    """
    scores = []
    for a, b in zip(onsets(made, sample_rate), onsets(true, sample_rate), strict=True):
        count = len(a) + len(b)
        scores.append(2 * onset_matches(a, b, tolerance) / count if count else 1.0)
    return torch.tensor(scores)


# ---------------------------------------------------------------- the spectral distance


def log_spectral_distance(
    made: Float[Tensor, "b n"], true: Float[Tensor, "..."], sample_rate: int
) -> PerSample:
    """Return the distance between two sounds' spectra in decibels (Gray and Markel 1976).

    It is the root of the mean square over frequencies, and a mean over windows of 16 milliseconds;
    magnitudes below -60 decibels count as these.  Raises ValueError for sounds of two shapes.
    """
    if made.shape != true.shape:
        raise ValueError(
            f"expected sounds of one shape, got {tuple(made.shape)} and {tuple(true.shape)}"
        )
    window, hop = _window(sample_rate)
    made_level, true_level = (
        20 * (stft(sound, window, hop).abs() / (window / 4)).clamp(min=FLOOR).log10()
        for sound in (made, true)
    )  # b t f
    return (made_level - true_level).square().mean(-1).sqrt().mean(-1)


def _window(sample_rate: int) -> tuple[int, int]:
    """Return the samples of a window and from one to the next; four steps are a window."""
    hop = round(HOP_SECONDS * sample_rate)
    return 4 * hop, hop
