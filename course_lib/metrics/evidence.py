"""What a sentence about results rests on: numbers with their errors, and what holds of them.

    paired(ours, theirs) < 0     a mean difference over the same samples, with its standard error
    shares(54, 128, 50, 128) > 0 two proportions
    single(22.2, 22.0) > 0       one run each: no error is known
    ordered({"scratch": 20.7, "average": 22.0, "central": 22.2})

A comparison gives a `Finding`: whether it holds, and the figure that decides it.  Where an error is
known, "smaller" and "larger" mean by more than two standard errors.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from course_lib.shapes import Tensor

ERRORS = 2  # standard errors that a difference must exceed to count as one

Number = int | float
Samples = Tensor | np.ndarray | Sequence


@dataclass(frozen=True)
class Finding:
    """Whether something holds of the results, and the figure that decides it.

    Findings combine with `&` (both hold), and `~` turns one around.
    """

    holds: bool
    figure: str

    def __bool__(self) -> bool:
        return self.holds

    def __and__(self, other: "Finding") -> "Finding":
        return Finding(self.holds and other.holds, f"{self.figure}; {other.figure}")

    def __invert__(self) -> "Finding":
        return Finding(not self.holds, self.figure)


@dataclass(frozen=True, eq=False)
class Evidence:
    """A number of the results, to be compared with another.

    value: the number, often a difference.  error: its standard error; 0 for what is computed
    exactly, None where one run each leaves it unknown.  figure: the number in words.
    """

    value: float
    error: float | None
    figure: str

    def __lt__(self, bound: Number) -> Finding:
        return Finding(self.value + self._slack() < bound, self.figure)

    def __gt__(self, bound: Number) -> Finding:
        return Finding(self.value - self._slack() > bound, self.figure)

    def __le__(self, bound: Number) -> Finding:
        self._expect_exact("<=")
        return Finding(self.value <= bound, self.figure)

    def __ge__(self, bound: Number) -> Finding:
        self._expect_exact(">=")
        return Finding(self.value >= bound, self.figure)

    def near(self, target: Number, within: Number) -> Finding:
        """Find that the number, two standard errors included, is this near to a target."""
        return Finding(abs(self.value - target) + self._slack() <= within, self.figure)

    def unseen(self, target: Number = 0.0) -> Finding:
        """Find no difference from a target that so many samples could show.

        Raises TypeError where no error is known.
        """
        if not self.error:
            raise TypeError(
                f"unseen: expected a number with a standard error, got {self.figure}; a difference"
                " of single numbers cannot be too small to be seen"
            )
        return Finding(abs(self.value - target) <= self._slack(), self.figure)

    def _slack(self) -> float:
        return ERRORS * (self.error or 0.0)

    def _expect_exact(self, sign: str) -> None:
        if self.error:
            raise TypeError(
                f"{sign}: a number with a standard error is compared by <, > or unseen(), got"
                f" {self.figure}"
            )


def value(number: Number, unit: str = "") -> Evidence:
    """Take one number that is computed exactly, such as a count."""
    return Evidence(float(number), 0.0, _with_unit(_digits(number), unit))


def mean(samples: Samples, unit: str = "") -> Evidence:
    """Take the mean of samples, with its standard error.  Raises ValueError for fewer than two."""
    x = _flat(samples)
    error = _standard_error(x)
    figure = f"{_digits(x.mean())} ± {_digits(error)}"
    return Evidence(float(x.mean()), error, f"{_with_unit(figure, unit)} ({len(x):,} samples)")


def paired(a: Samples, b: Samples, unit: str = "") -> Evidence:
    """Take the mean of a - b over the same samples, with its standard error.

    Raises ValueError unless there are at least two of each, equally many.
    """
    x = _flat(a)
    y = _flat(b)
    if len(x) != len(y):
        raise ValueError(f"paired: expected as many b as a, got {len(x)} and {len(y)}")
    return _difference(x.mean(), y.mean(), _standard_error(x - y), f"{len(x):,} pairs", unit)


def unpaired(a: Samples, b: Samples, unit: str = "") -> Evidence:
    """Take the difference of two means over different samples, with its standard error.

    Raises ValueError for fewer than two of either.
    """
    x = _flat(a)
    y = _flat(b)
    error = math.hypot(_standard_error(x), _standard_error(y))
    return _difference(x.mean(), y.mean(), error, f"{len(x):,} and {len(y):,} samples", unit)


def shares(
    hits: int, n: int, other_hits: int | None = None, other_n: int | None = None
) -> Evidence:
    """Take the share hits / n, or its difference from another share, with its standard error.

    The error is that of (hits + 1) / (n + 2), which is not zero for none or all (Agresti and Caffo
    2000).  Raises ValueError unless 0 <= hits <= n.
    """
    error = _share_error(hits, n)
    if other_hits is None or other_n is None:
        return Evidence(hits / n, error, f"{hits / n:.1%} ± {100 * error:.1f} points of {n:,}")
    both = math.hypot(error, _share_error(other_hits, other_n))
    gap = hits / n - other_hits / other_n
    many = f"{n:,} each" if n == other_n else f"{n:,} and {other_n:,}"
    return Evidence(
        gap,
        both,
        f"{hits / n:.1%} against {other_hits / other_n:.1%}: {100 * gap:+.1f} ±"
        f" {100 * both:.1f} points ({many})",
    )


def single(a: Number, b: Number, unit: str = "") -> Evidence:
    """Take a - b of two numbers from one run each, whose errors are not known."""
    figure = _with_unit(f"{_digits(a)} against {_digits(b)}", unit)
    return Evidence(float(a) - float(b), None, f"{figure}, one run each")


def ordered(numbers: Mapping[str, Number], unit: str = "") -> Finding:
    """Find that the numbers grow strictly in the order in which they are given, one run each."""
    values = list(numbers.values())
    rising = all(a < b for a, b in itertools.pairwise(values))
    figure = ", ".join(f"{name} {_digits(number)}" for name, number in numbers.items())
    return Finding(rising, f"{_with_unit(figure, unit)}; one run each")


# ---------------------------------------------------------------------------------------- the parts


def _difference(a: Number, b: Number, error: Number, many: str, unit: str) -> Evidence:
    gap = float(a - b)
    figure = f"{_digits(a)} against {_digits(b)}: {_digits(gap, '+')} ± {_digits(error)}"
    return Evidence(gap, error, f"{_with_unit(figure, unit)} ({many})")


def _flat(samples: Samples) -> np.ndarray:
    detached = samples.detach().cpu() if isinstance(samples, Tensor) else samples
    return np.asarray(detached, dtype=float).flatten()


def _standard_error(x: np.ndarray) -> float:
    if len(x) < 2:
        raise ValueError(f"expected at least two samples, for a standard error, got {len(x)}")
    return float(x.std(ddof=1) / math.sqrt(len(x)))


def _share_error(hits: int, n: int) -> float:
    if not 0 <= hits <= n or not n:
        raise ValueError(f"expected 0 <= hits <= n and n > 0, got {hits} of {n}")
    share = (hits + 1) / (n + 2)
    return math.sqrt(share * (1 - share) / (n + 2))


def _digits(number: Number, sign: str = "") -> str:
    return f"{float(number):{sign}.3g}" if abs(number) < 1000 else f"{float(number):{sign},.0f}"


def _with_unit(figure: str, unit: str) -> str:
    return f"{figure} {unit}" if unit else figure
