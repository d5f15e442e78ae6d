"""One file to hand in: the notebook, and the student's saved answers to its quiz."""

import io
import re
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from course_lib.classroom.state import course_home
from course_lib.files import write_atomically

__all__ = ["hand_in", "to_pack"]


def to_pack(notebook: Path) -> list[Path]:
    """List the files of a notebook: itself and, if there, quiz-<topic>.json of `COURSE_HOME`.

    The topic of 01_ddpm.ipynb is ddpm, as is that of a copy such as "01_ddpm (1).ipynb".  Raises
    ValueError when there is no such notebook.
    """
    notebook = Path(notebook)
    if notebook.suffix.lower() != ".ipynb" or not notebook.is_file():
        trouble = "that is another kind of file" if notebook.exists() else "there is no such file"
        raise ValueError(
            f"expected a notebook, such as notebooks/01_ddpm.ipynb, got {notebook}: {trouble}"
        )
    topic = re.match(r"(?:\d+_)?(\w+)", notebook.stem)
    answers = course_home() / f"quiz-{topic[1]}.json" if topic else None
    return [notebook, answers] if answers and answers.is_file() else [notebook]


def hand_in(notebook: Path, target: Path | None = None) -> Path:
    """Pack the files of `to_pack` into a zip and return its path: same files, same bytes.

    target: the file to write, or a folder for it; <name of the notebook>-hand-in.zip in the current
    one if not given.  Raises ValueError when there is no such notebook or `target` is no .zip,
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
    """Make a member of a zip that does not say when and on which system it was made."""
    member = ZipInfo(name)  # dated 1980
    member.compress_type = ZIP_DEFLATED
    member.create_system = 3  # Unix
    member.external_attr = 0o644 << 16
    return member
