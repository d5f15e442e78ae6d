"""What both pages are made of: text that is safe to show, and the parts of a page.

Names, messages, printed text and file names come from students and are never trusted: `text` makes
them harmless.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape

from course_lib.grading.records import Grade

# Unicode categories: controls, overrides of direction, private use.
HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
KEPT = "\n\t\u200c\u200d"  # the two joiners belong to words of several scripts, and to emoji
# On one letter.  No script needs more, and a pile of them covers the lines around it.
MAX_COMBINING_MARKS = 4


def visible(raw: str) -> str:
    """Write out what would not show, or would scramble the text around it: "\\x1b", "\\u202e".

    Line breaks and tabs stay, as do the first four combining marks on a letter.
    """
    if raw.isascii() and raw.isprintable():
        return raw
    shown = []
    marks = 0
    for sign in raw.replace("\r\n", "\n").replace("\r", "\n"):
        category = unicodedata.category(sign)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if category in HIDDEN_CATEGORIES and sign not in KEPT:
            shown.append(sign.encode("unicode_escape").decode())
        elif marks <= MAX_COMBINING_MARKS:
            shown.append(sign)
    return "".join(shown)


def text(raw: str) -> str:
    """Return any text as harmless HTML."""
    return escape(visible(raw))


def prose(raw: str) -> str:
    """Return a sentence as harmless HTML; `backticks` mark code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", text(raw))


def number(value: int | float) -> str:
    """Format a number with at most two decimals, without trailing zeros: 2, 1.5, 0.33."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def percent(share: float) -> str:
    """Format a share as a percentage."""
    return f"{100 * share:.0f}\u00a0%"


def counted(n: int, thing: str) -> str:
    """Return a number with its noun, in the plural where it needs one."""
    return f"{n} {thing}{'s' * (n != 1)}"


def listed(words: Iterable[str]) -> str:
    """Join words into a list that can be read aloud: "a, b and c"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def code(raw: str) -> str:
    """Return untrusted text as code."""
    return f"<code>{text(raw)}</code>"


def exercise_name(id: str) -> str:
    """Return an exercise's id with its topic in grey; lines may break after "." and "_"."""
    topic, dot, name = text(id).rpartition(".")
    name = name.replace("_", "_<wbr>")
    return f'<code class="id"><span class="calm">{topic}{dot}</span><wbr>{name}</code>'


def topics_of(grades: Sequence[Grade]) -> str:
    """Return the topics of an assignment, in order: "ddpm and vit"."""
    exercises = [mark.id.partition(".")[0] for grade in grades for mark in grade.exercises]
    quizzes = [quiz.topic for grade in grades for quiz in grade.quizzes]
    topics = list(dict.fromkeys(exercises + quizzes))
    return listed(map(text, topics)) if topics else "no topic"


def heading(over: str, title: str) -> str:
    """Return the head of a page: a line above, and the title."""
    return f'<header><p class="over">{over}</p><h1>{title}</h1></header>'


def section(title: str, inner: str) -> str:
    """Return a part of a page under its own title."""
    return f"<section><h2>{title}</h2>{inner}</section>\n"


def fold(summary: str, inner: str, unfolded: str = "") -> str:
    """Return content that opens when its summary is clicked."""
    return f"<details{unfolded}><summary>{summary}</summary>{inner}</details>"


def table(heads: tuple[str, ...], rows: Sequence[str], figures: int) -> str:
    """Return a table whose last `figures` columns are numbers."""
    head = "".join(f"<th scope=col>{head}</th>" for head in heads)
    body = "".join(rows)
    return (
        f'<table class="figures-{figures}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def ranked(name: str, value: str, of: str, below: str) -> str:
    """Return an entry of a ranking: its name, its figure at the right, a bar and words below."""
    return f'<li><span>{name}</span><span class="value"><b>{value}</b> {of}</span>{below}</li>\n'


def ranking(rows: Sequence[str]) -> str:
    """Return a list of `ranked` entries."""
    return f'<ol class="rows">{"".join(rows)}</ol>'


def document(title: str, width: str, parts: Iterable[str]) -> str:
    """Return a whole page; every student's text in `parts` has gone through `text`."""
    body = "\n".join(part for part in parts if part)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main class="{width}">
{body}
</main>
</body>
</html>
"""


STYLE = """
:root{--paper:#fdfdfb;--raised:#f4f4f0;--ink:#20252b;--calm:#5b6470;--line:#dcdcd5;--accent:#0a5f9e;
  --passed:#0a5f9e;--on-passed:#fff;--partly:#85b9e3;--on-partly:#10222f;--wrong:#bf4b00;
  --on-wrong:#fff;
  --idle:#d6d6cf;--on-idle:#20252b;--rest:#ecece7}
@media screen and (prefers-color-scheme:dark){
:root{--paper:#15181c;--raised:#1e2227;--ink:#e4e6e8;--calm:#9da7b1;--line:#343a41;--accent:#74b9ec;
  --passed:#5aa9e2;--on-passed:#08141d;--partly:#2f6390;--on-partly:#f0f7fc;--wrong:#f0883e;
  --on-wrong:#1d0f03;
  --idle:#4b525a;--on-idle:#f4f5f6;--rest:#282d33}}

*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);overflow-wrap:anywhere;
  font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{margin:0 auto;padding:3.5rem 1.25rem 5rem}
main.narrow{max-width:46rem}
main.wide{max-width:60rem}
section{display:flow-root;margin-top:3.25rem}
footer{margin-top:4rem;padding-top:1rem;border-top:1px solid var(--line)}

h1,h2{font-family:Charter,"Iowan Old Style","Palatino Linotype",Palatino,Georgia,serif;
  font-weight:600;line-height:1.2}
h1{font-size:2.25rem;margin:.15rem 0 0;letter-spacing:-.01em}
h2{font-size:1.375rem;margin:0 0 .75rem}
h3{font-size:1.125rem;font-weight:600;line-height:1.4;margin:0 0 .25rem}
h3.prompt{font-size:1rem;font-weight:400;white-space:pre-line}
p{margin:.5rem 0}
.calm,.label,.note,.value,.legend,summary,footer{font-size:.875rem}
.calm,.note,.value,.legend,footer{color:var(--calm)}
.over{margin:0;color:var(--accent);font-size:.875rem;font-weight:600}
.lead{font-size:1.125rem;max-width:44rem;margin:1rem 0 0}
.total{font-size:1.25rem;margin:1rem 0 .75rem;color:var(--calm)}
.total b{font-size:2.5rem;line-height:1;color:var(--ink);font-weight:600;letter-spacing:-.02em}
.said{white-space:pre-line;border-left:3px solid var(--accent);padding-left:.8rem;margin:.75rem 0}
.note{border-left:3px solid var(--line);padding-left:.8rem}
.label{margin:1rem 0 0;font-weight:600}
a{color:var(--accent);text-decoration-thickness:1px;text-underline-offset:.18em}
a:focus-visible,summary:focus-visible{outline:2px solid var(--accent);outline-offset:3px;
  border-radius:2px}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
  font-size:.875em}
code.id{font-weight:600;overflow-wrap:normal}
code.id .calm{font-size:1em;font-weight:400}
a .calm{color:inherit}
pre{margin:.5rem 0;padding:.75rem 1rem;background:var(--raised);border-radius:6px;
  font-size:.8125rem;line-height:1.5;
  white-space:pre-wrap;max-height:26rem;overflow:auto}
article{padding:1.25rem 0;border-top:1px solid var(--line);scroll-margin-top:1rem}
article p{margin:.35rem 0}
article:target{background:var(--raised);box-shadow:0 0 0 .75rem var(--raised)}
article:target pre{background:var(--paper)}
details{margin:1rem 0}
summary{cursor:pointer;font-weight:600}
details ul{font-size:.875rem;color:var(--calm);padding-left:1.25rem}
aside{margin-top:2rem;padding:1rem 1.25rem;background:var(--raised);
  border-left:3px solid var(--wrong)}
aside h2{font:inherit;font-weight:600;margin:0 0 .25rem}
aside ul{margin:0;padding-left:1.1rem}

table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.5rem .75rem .5rem 0;text-align:left;vertical-align:middle;
  border-bottom:1px solid var(--line)}
th{font-weight:400}
thead th{font-size:.8125rem;font-weight:600;color:var(--calm);border-bottom-color:var(--calm)}
tr>:last-child{padding-right:0}
.figures-1 tr>:last-child,.figures-2 tr>:nth-last-child(-n+2){text-align:right;white-space:nowrap}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:1.25rem 1.75rem;
  margin:2rem 0 0}
.tiles div{border-top:2px solid var(--accent);padding-top:.5rem}
.tiles dt,.tiles dd{font-size:.875rem;color:var(--calm);margin:0}
.tiles b{display:block;font-size:1.625rem;line-height:1.3;font-weight:600;color:var(--ink);
  letter-spacing:-.01em}
.rows{list-style:none;margin:0;padding:0}
.rows li{display:grid;grid-template-columns:1fr auto;gap:.2rem 1rem;align-items:baseline;
  padding:.6rem 0}
.rows svg,.rows p{grid-column:1/-1}
.rows p{font-size:.9375rem;max-width:44rem;margin:.2rem 0 0}
.prompts .rows{font-size:.9375rem}
.value{font-variant-numeric:tabular-nums;text-align:right}
.value b{font-size:1rem;color:var(--ink)}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:.75rem 0}
.noted{display:grid;grid-template-columns:minmax(10rem,1fr) 3fr;margin:0}
.noted dt,.noted dd{margin:0;padding:.5rem .75rem .5rem 0;border-top:1px solid var(--line)}

svg{display:block;font:inherit}
svg text{font-size:12px;fill:var(--calm);font-variant-numeric:tabular-nums}
text.mid{text-anchor:middle}
text.end{text-anchor:end}
text.strong{fill:var(--ink);font-weight:600;paint-order:stroke;stroke:var(--paper);stroke-width:4px}
svg.sign{display:inline-block;vertical-align:-.1em;margin-right:.2rem}
svg.swatch{display:inline-block;vertical-align:-.1em;width:14px;height:14px;margin-right:.45rem}
svg.strip{height:14px}
svg.stack{height:22px}
svg.thin{height:6px;background:var(--rest)}
svg.spark{height:18px;overflow:visible}
svg.histogram{overflow:visible;width:calc(100% - 4rem);height:180px;
  margin:3.25rem .75rem 3.5rem 3.25rem}
.rule{stroke:var(--line)}
.median{stroke:var(--ink);stroke-dasharray:3 3}
.strip rect,.stack rect{stroke:var(--paper)}
.passed{fill:var(--passed)}
.partly-right{fill:var(--partly)}
.wrong{fill:var(--wrong)}
.not-attempted{fill:var(--idle)}
.rest,.missing{fill:var(--rest)}
.stack .missing,.swatch .missing{stroke:var(--calm);stroke-dasharray:2 2}
text.on-passed{fill:var(--on-passed)}
text.on-partly-right{fill:var(--on-partly)}
text.on-wrong{fill:var(--on-wrong)}
text.on-not-attempted{fill:var(--on-idle)}
.stroke{fill:none;stroke:var(--on-passed);stroke-width:1.5;stroke-linecap:round;
  stroke-linejoin:round}
.ring{fill:none;stroke:var(--passed);stroke-width:1.2}
.dashed{stroke:var(--calm);stroke-dasharray:2.2 2.2}

@media (max-width:34rem){main{padding-top:2rem}h1{font-size:1.75rem}section{margin-top:2.5rem}
  th,td{padding-right:.5rem}
  .prompts li{grid-template-columns:1fr}.prompts .value{text-align:left}
  .noted{grid-template-columns:1fr}.noted dd{border:0;padding-top:0}}
@media print{main{max-width:none;padding:0}html{font-size:10pt}a{color:inherit}pre{max-height:none}
  *{-webkit-print-color-adjust:exact;print-color-adjust:exact}
  article,.rows li,tr,svg,aside{break-inside:avoid}h2,h3{break-after:avoid}}
"""
