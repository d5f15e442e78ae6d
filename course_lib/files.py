"""Writing a file in one piece."""

import os
import secrets
from pathlib import Path


def write_atomically(path: Path, content: bytes | str, mode: int = 0o666) -> None:
    """Write a whole file or nothing: whoever reads sees the old one or the new one, never a part.

    A crash at any moment, of the machine too, leaves the old file or the new one.  The folders
    above are made.  Text is UTF-8 with its line breaks as they are.  mode: the permissions, less
    what the umask takes.  Raises OSError, and then leaves no part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(
        f".{path.name}-{secrets.token_hex(4)}.part"
    )  # the folder of `path`: one disk
    try:
        handle = os.open(
            part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode
        )
        with open(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def remove_parts(folder: Path) -> None:
    """Remove what killed writers left in `folder` and below, where nobody writes at the moment."""
    for part in folder.rglob(".*-????????.part"):
        part.unlink(missing_ok=True)


def write_if_changed(path: Path, content: bytes | str) -> None:
    """Write as `write_atomically` does, unless the file holds this already."""
    data = content.encode() if isinstance(content, str) else content
    if not path.is_file() or path.read_bytes() != data:
        write_atomically(path, data)
