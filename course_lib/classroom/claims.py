"""Sentences about results, each tied to the numbers that decide it.

A `claim` is about stored results and what is computed from them: the build and the tests stop on
one that does not hold.  A `reading` is about what varies from machine to machine, such as a minute
of training: it says what holds here.
"""

import os
from dataclasses import dataclass

from IPython.display import display

from course_lib.classroom.markup import STYLE, prose
from course_lib.metrics.evidence import Finding

CLAIM_MIME = "application/vnd.visual-generation-course.claim+json"  # how tests find claims


class ClaimError(AssertionError):
    """A claim that its figure contradicts."""


@dataclass(frozen=True)
class Statement:
    """A sentence with its figure, and whether the figure bears it out."""

    sentence: str
    finding: Finding

    def __str__(self) -> str:
        if self.finding.holds:
            return self.sentence
        return f"This does not hold on your machine: “{self.sentence}”"

    def _repr_mimebundle_(self, **_: object) -> dict:
        tone = "" if self.finding.holds else " bad"
        figure = f'<span class="small">[{prose(self.finding.figure)}]</span>'
        text = f'{STYLE}<p class="vgc claim{tone}">{prose(str(self))} {figure}</p>'
        return {
            "text/html": text,
            "text/plain": f"{self} [{self.finding.figure}]",
            CLAIM_MIME: {
                "sentence": self.sentence,
                "holds": self.finding.holds,
                "figure": self.finding.figure,
            },
        }


def claim(sentence: str, finding: object) -> None:
    """Show a sentence about results with the figure that decides it.

    finding: a comparison of `course_lib.metrics.evidence`.  Where it does not hold, the student
    reads that it does not hold there; with COURSE_STRICT=1, as in the build and in the tests,
    ClaimError is raised.  Raises TypeError for a finding that is a bare bool, which has no figure.
    """
    _expect(sentence, finding)
    display(Statement(sentence, finding))
    if not finding.holds and os.environ.get("COURSE_STRICT") == "1":
        raise ClaimError(f"expected a claim that holds, got “{sentence}” with {finding.figure}")


def reading(finding: object, sentence: str, otherwise: str) -> None:
    """Show the one of two sentences that holds here, with its figure; for what varies.

    otherwise: the sentence where the finding does not hold.  Raises TypeError for a bare bool.
    """
    _expect(sentence, finding)
    _expect(otherwise, finding)
    text = sentence if finding.holds else otherwise
    display(
        {
            "text/html": f'{STYLE}<p class="vgc claim">{prose(text)}'
            f' <span class="small">[{prose(finding.figure)}]</span></p>',
            "text/plain": f"{text} [{finding.figure}]",
        },
        raw=True,
    )


def _expect(sentence: str, finding: object) -> None:
    if not isinstance(finding, Finding):
        raise TypeError(
            f"claim: expected a finding of course_lib.metrics.evidence, such as paired(a, b) < 0,"
            f" got {finding!r}"
        )
    if not sentence.strip().endswith((".", "!", "?")):
        raise ValueError(f"claim: expected a whole sentence, got {sentence!r}")
