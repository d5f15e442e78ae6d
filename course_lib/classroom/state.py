"""The student's folder, and the small JSON files in it: progress, answers, cards."""

import json
import os
import warnings
from pathlib import Path

from course_lib.files import write_atomically
from course_lib.paths import ROOT


def course_home() -> Path:
    """Return the folder of the student's state: COURSE_HOME, or .course in the course's folder."""
    return Path(os.environ.get("COURSE_HOME") or ROOT / ".course")


def load_state(name: str) -> dict:
    """Read the record `name`; {} when there is none yet.

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
    """Write the record `name` in one piece, for its owner's eyes only.  Raises OSError."""
    text = json.dumps(content, ensure_ascii=False, indent=1)
    write_atomically(course_home() / f"{name}.json", text, mode=0o600)
