"""One file to hand in: the notebook, and the answers to its quiz that the student's folder keeps."""

import io
import re
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from course_lib.classroom.state import course_home
from course_lib.files import write_atomically

__all__ = ["hand_in", "to_pack"]


def to_pack(notebook: Path) -> list[Path]:
    """The files that belong to a notebook: itself and, if there, quiz-<topic>.json of
    `COURSE_HOME`.

    The topic of 01_ddpm.ipynb is ddpm, as is that of the copies that "01_ddpm (1).ipynb" and the
    like are. Raises ValueError when there is no such notebook.
    """
    if notebook.suffix.lower() != ".ipynb" or not notebook.is_file():
        came = "that is another kind of file" if notebook.exists() else "there is no such file"
        raise ValueError(
            f"expected a notebook, such as notebooks/01_ddpm.ipynb, got {notebook}: {came}"
        )
    topic = re.match(r"(?:\d+_)?(\w+)", notebook.stem)
    answers = course_home() / f"quiz-{topic[1]}.json" if topic else None
    return [notebook, answers] if answers and answers.is_file() else [notebook]


def hand_in(notebook: Path, target: Path | None = None) -> Path:
    """Pack the files of `to_pack` into `target` and return it: a zip, in one piece, the same for
    the same files.

    target: the file to write, or a folder for it; <name of the notebook>-hand-in.zip in the current
    one if not given. Raises ValueError when there is no such notebook or `target` is no .zip,
    OSError when it cannot be written.
    """
    files = to_pack(notebook)
    target = target or Path.cwd()
    if target.is_dir():
        target = target / f"{notebook.stem}-hand-in.zip"
    if target.suffix.lower() != ".zip":  # above all not the notebook itself
        raise ValueError(f"expected a .zip to write, got {target}")
    content = io.BytesIO()
    with ZipFile(content, "w", ZIP_DEFLATED) as package:
        for file in files:
            package.writestr(_member(file.name), file.read_bytes())
    write_atomically(target, content.getvalue())
    return target


def _member(name: str) -> ZipInfo:
    """A member of a zip that says nothing of when and on which system it was made."""
    member = ZipInfo(name)  # of 1980
    member.compress_type, member.create_system, member.external_attr = ZIP_DEFLATED, 3, 0o644 << 16
    return member
