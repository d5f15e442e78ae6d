"""A notebook from an untrusted source, read as data: the code of its cells and nothing else.

Reads Jupyter's formats 4 and 3.  Damage inside a cell costs only that cell; a file that is not a
notebook is refused with one sentence.  Limiting the size of the file itself is up to the caller.
"""

import json
import re
from typing import Any

__all__ = [
    "MAX_CELLS",
    "MAX_CODE_BYTES",
    "MAX_PUNCTUATION",
    "NotANotebook",
    "clean",
    "read_json",
    "read_notebook",
]

MAX_CELLS = 5000  # cells of all kinds in one notebook
MAX_CODE_BYTES = 1_000_000  # all code cells together, in UTF-8
# Commas and brackets in one file: for each of them a short text can take 200 bytes of memory.
MAX_PUNCTUATION = 1_000_000
MAX_NESTING = 100  # levels of lists and objects
MAX_INTEGER_DIGITS = 18
FORMATS = (3, 4)
_TOO_DEEP = object()
_UNENCODABLE = re.compile("[\0\ud800-\udfff]")  # no Python file can hold these


class NotANotebook(ValueError):
    """Why a file cannot be read: the end of a sentence that begins with its name ("is empty")."""


def read_notebook(data: bytes) -> list[str | None]:
    """Return the source of every cell in order; None for one that is not code, or is malformed.

    Every source can be encoded in UTF-8 and holds no NUL: characters that would prevent this are
    replaced by U+FFFD.  Raises NotANotebook.
    """
    try:
        notebook = read_json(data)
    except ValueError as error:
        raise NotANotebook(str(error)) from None
    if not isinstance(notebook, dict):
        raise NotANotebook(
            f"is not a notebook: expected a JSON object, got {type(notebook).__name__}"
        )
    number = notebook.get("nbformat")
    if type(number) is int and number not in FORMATS:
        raise NotANotebook(f"is a notebook of format {number}; formats 3 and 4 are read")
    cells = _cells(notebook)
    if len(cells) > MAX_CELLS:
        raise NotANotebook(f"has {len(cells):,} cells; at most {MAX_CELLS:,} are read")
    sources = [_source(cell) for cell in cells]
    size = sum(len(source.encode("utf-8")) for source in sources if source)
    if size > MAX_CODE_BYTES:
        raise NotANotebook(f"holds {size:,} bytes of code; at most {MAX_CODE_BYTES:,} are read")
    return sources


def read_json(data: bytes) -> Any:
    """Return the value of a JSON text in UTF-8, UTF-16 or UTF-32.

    An integer of more than 18 digits becomes a float.  Raises ValueError, worded as the end of a
    sentence that begins with the name of the file.
    """
    if not data or data.isspace():
        raise ValueError("is empty")
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"is not text in UTF-8: byte {error.start + 1:,} does not belong"
        ) from None
    if sum(map(text.count, ",[{")) > MAX_PUNCTUATION:
        raise ValueError(
            f"holds more than {MAX_PUNCTUATION:,} commas and brackets, the most that are read;"
            " clear its outputs"
        )

    def parse_integer(digits: str) -> int | float:
        # Python refuses to convert thousands of digits.
        return int(digits) if len(digits) <= MAX_INTEGER_DIGITS else float(digits)

    try:
        value = json.loads(text, parse_int=parse_integer)
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at").removesuffix(" starting")
        raise ValueError(
            f"is not JSON: line {error.lineno:,}, column {error.colno:,} ({what})"
        ) from None
    except RecursionError:
        value = _TOO_DEEP
    # The levels are counted here, because where Python gives up depends on its caller.
    if value is _TOO_DEEP or _is_nested_deeper(value, MAX_NESTING):
        raise ValueError(f"is nested more than {MAX_NESTING} deep, the most that is read")
    return value


def clean(text: str) -> str:
    """Replace NUL and lone surrogates by U+FFFD, so that the text can be encoded and parsed."""
    return _UNENCODABLE.sub("\ufffd", text)


def _is_nested_deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        parts = []
        for whole in level:
            if isinstance(whole, dict):
                parts += whole.values()
            elif isinstance(whole, list):
                parts += whole
        level = [part for part in parts if isinstance(part, dict | list)]
    return bool(level)


def _cells(notebook: dict) -> list:
    """Return the cells of format 4, or else those of all worksheets of format 3."""
    cells = notebook.get("cells")
    if isinstance(cells, list):
        return cells
    sheets = notebook.get("worksheets")
    if not isinstance(sheets, list):
        raise NotANotebook("has no list of cells")
    found = []
    for sheet in sheets:
        if isinstance(sheet, dict) and isinstance(sheet.get("cells"), list):
            found += sheet["cells"]
    return found


def _source(cell: Any) -> str | None:
    if not isinstance(cell, dict) or cell.get("cell_type") != "code":
        return None
    source = cell.get("source", cell.get("input"))
    lines = source if isinstance(source, list) else [source]
    return clean("".join(lines)) if all(isinstance(line, str) for line in lines) else None
