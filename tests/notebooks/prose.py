"""Sentences in a chapter's prose that compare or quote results without a claim that covers them.

    python -m tests.notebooks.prose 05

lists those of one chapter.  Prose stands beside results where the code cell above it reads stored
results, trains, measures or shows a table.  There, a sentence with a number or a comparison is
suspect, unless it says that it is about the paper, asks a question, or is listed with its reason in
uncovered.yaml.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from nbformat import NotebookNode

from course_lib import build

LISTED = Path(__file__).with_name("uncovered.yaml")

RESULTS = re.compile(
    r"\bresults\(|\bmetrics\b|\btable\(|\bscorecard\(|\btrain_live\(|\bpsnr\(|\bssim\(|\blpips\(|"
    r"\bfrechet|\baccuracy|\bjudge|\bscore|\bclaim\(|\breading\(|:\.\d[f%g]|\bshow_lines\("
)
NUMERAL = re.compile(
    r"(?<![\w^_{.-])\d[\d,.]*\d?\s?(?:%|times|points?|dB|bits?|nats?|seconds?|s\b|minutes?)|"
    r"\b(?:half|third|quarter|fifth|tenth|twice|double|percent|"
    r"(?:two|three|four|five|six|seven|eight|nine|ten) times)\b"
)
COMPARISON = re.compile(
    r"\b(?:better|best|worse|worst|fewer|fewest|less|least|more|most|higher|highest|lower|lowest|"
    r"larger|largest|smaller|smallest|faster|slower|sharper|blurrier|longer|shorter|above|below|"
    r"beats?|wins?|loses?|gains?|outperforms?|improves?|falls?|rises?|grows?|equals?|"
    r"as good as|ahead|behind|not shown|agrees?|differs?|helps?|hurts?|costs?)\b"
)
OF_THE_PAPER = re.compile(
    r"\bpapers?\b|\bpaper's\b|\bTables? \d|\bFigures? \d|\bEq\. ?\d|\bet al\b|\bSection \d|"
    r"\barXiv\b|\bImageNet|\bKinetics|\bUCF|\bCIFAR|\bauthors\b|\bofficial\b"
)


def suspects(notebook: NotebookNode) -> Iterator[str]:
    """Yield the sentences of a notebook that are beside results and need a claim or a reason.

    Code cells without prose between them show their results together.
    """
    shown = False
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if RESULTS.search(cell.source) and "@exercise" not in cell.source:
                shown = True
        elif shown:
            for sentence in sentences(cell.source):
                quotes = NUMERAL.search(sentence) or COMPARISON.search(sentence)
                if quotes and not OF_THE_PAPER.search(sentence) and not sentence.endswith("?"):
                    yield sentence
            shown = False


def sentences(markdown: str) -> list[str]:
    """Split the prose up to the first heading into sentences; code, math and folds are left out."""
    prose = re.split(r"^#{1,6} ", markdown, maxsplit=1, flags=re.MULTILINE)[0]
    prose = re.sub(r"<details>.*?</details>|```.*?```|\$\$.*?\$\$", " ", prose, flags=re.DOTALL)
    prose = re.sub(r"`[^`]*`|\$[^$]*\$", "x", prose)
    paragraphs = re.split(r"\n\s*\n|^[-*] |^\| ", prose, flags=re.MULTILINE)
    found = []
    for paragraph in paragraphs:
        text = " ".join(paragraph.split())
        found += [s.strip() for s in re.split(r"(?<=[.?!:])\s+(?=[A-Z*_\"(])", text) if s.strip()]
    return found


def listed(chapter: str) -> dict[str, str]:
    """Return a chapter's sentences that need no claim, each by its beginning, with the reason."""
    return yaml.safe_load(LISTED.read_text(encoding="utf-8")).get(chapter, {}) or {}


def uncovered(source: Path) -> list[str]:
    """Return the suspects of a chapter that are not listed."""
    reasons = listed(source.stem)
    return [
        sentence
        for sentence in suspects(build.student_edition(source))
        if not any(sentence.startswith(start) for start in reasons)
    ]


if __name__ == "__main__":
    for source in build.sources(sys.argv[1:]):
        found = uncovered(source)
        print(f"{source.stem}: {len(found)} sentences beside results without a claim")
        print("".join(f"  {sentence}\n" for sentence in found))
