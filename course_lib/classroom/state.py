"""The student's folder, and the small JSON files in it: progress, answers, cards."""

import json
import os
import tempfile
import warnings
from pathlib import Path

from course_lib.paths import ROOT


def course_home() -> Path:
    """The folder of the student's own state: COURSE_HOME, or else .course in the course's folder."""
    return Path(os.environ.get("COURSE_HOME") or ROOT / ".course")


def load_state(name: str) -> dict:
    """The record `name`, or {} when there is none yet.

    A damaged file is set aside as `<name>.json.damaged` with a warning: a lost record must not stop
    a lesson.
    """
    path = course_home() / f"{name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    except FileNotFoundError:
        return {}
    except (ValueError, OSError):
        pass
    aside = path.with_name(path.name + ".damaged")
    try:
        path.replace(aside)
        warnings.warn(
            f"{path} was damaged and is kept as {aside.name}; starting afresh", stacklevel=2
        )
    except OSError as error:
        warnings.warn(f"{path} could not be read ({error}); starting afresh", stacklevel=2)
    return {}


def save_state(name: str, content: dict) -> None:
    """Write the record in one piece: whoever reads sees the old one or the new one, never a part."""
    folder = course_home()
    folder.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=folder, prefix=f".{name}-", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=1)
        os.replace(part, folder / f"{name}.json")
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
