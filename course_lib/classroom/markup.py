"""The small HTML that the classroom shows: one style for light and dark themes, and safe text."""

import re
from html import escape

__all__ = ["STYLE", "card", "escape", "prose", "show_report"]

# Colours keep a contrast of at least 4.5 to 1 on JupyterLab's light and dark backgrounds.
STYLE = """<style>
.vgc{--good:#0b6b3a;--bad:#a3212b;--calm:#4d5b6b;--line:#8884;color:inherit;font-size:14px;line-height:1.45;max-width:60em}
[data-jp-theme-light="false"] .vgc,.vscode-dark .vgc,html[theme=dark] .vgc{
--good:#7fdca4;--bad:#ff9c98;--calm:#b4c0cd}
.vgc.card{border-left:4px solid var(--tone);padding:2px 0 2px 10px;margin:4px 0}
.vgc.good{--tone:var(--good)}.vgc.bad{--tone:var(--bad)}.vgc.calm{--tone:var(--calm)}
.vgc b.tone{color:var(--tone)}.vgc p{margin:4px 0}.vgc .small{font-size:12px;color:var(--calm)}
.vgc pre{margin:4px 0;padding:4px 8px;border:1px solid var(--line);background:transparent;
color:inherit;overflow-x:auto}
.vgc table{border-collapse:collapse;margin:4px 0;color:inherit}
.vgc caption{font-weight:600;text-align:left;padding:4px 0;white-space:nowrap}
.vgc table tr th,.vgc table tr td{border-bottom:1px solid var(--line);padding:3px 12px 3px 0;
  text-align:left!important;vertical-align:top}
.vgc .good{color:var(--good)}.vgc .bad{color:var(--bad)}.vgc .calm{color:var(--calm)}
</style>"""


def card(tone: str, inner: str) -> str:
    """Make a block with a coloured edge, read out when it appears; tone: good, bad or calm."""
    return f'{STYLE}<div class="vgc card {tone}" role="status">{inner}</div>'


def prose(text: str) -> str:
    """Escape a text in which `backticks` mark code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def show_report(report: object) -> None:
    """Display a report in a notebook, print it anywhere else."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        print(report)
        return
    if get_ipython() is None:
        print(report)
    else:
        display(report)
