"""A notebook that a stranger sent, read as data: the code of its cells and nothing else.

Formats 4 and 3 of Jupyter.  What is damaged in one cell costs that cell; what is no notebook is
refused with one sentence.  The size of the file itself is for the caller to limit.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["CELLS", "CODE_BYTES", "MARKS", "NotANotebook", "clean", "read_json", "read_notebook"]

CELLS = 5000  # of all kinds in one notebook
CODE_BYTES = 1_000_000  # of all code cells together, in UTF-8
# commas and brackets of one file: for each, a short text can take 200 bytes of memory
MARKS = 1_000_000
NESTING = 100  # lists and objects within one another
FORMATS = (3, 4)
_NESTED = object()
_UNFIT = re.compile("[\0\ud800-\udfff]")  # no Python file can hold them


class NotANotebook(ValueError):
    """Why a file cannot be read: the end of a sentence that begins with its name ("is not JSON:
    ...").
    """


def read_notebook(data: bytes) -> list[str | None]:
    """The source of every cell in order; None for one that is not code, or is malformed.

    Every source can be encoded in UTF-8 and holds no NUL: what has no place there is replaced by
    U+FFFD. Raises NotANotebook.
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
    if len(cells) > CELLS:
        raise NotANotebook(f"has {len(cells):,} cells; at most {CELLS:,} are read")
    sources = [_code(cell) for cell in cells]
    size = sum(len(source.encode("utf-8")) for source in sources if source)
    if size > CODE_BYTES:
        raise NotANotebook(f"holds {size:,} bytes of code; at most {CODE_BYTES:,} are read")
    return sources


def read_json(data: bytes) -> Any:
    """The value of a JSON text in UTF-8, UTF-16 or UTF-32; an integer of more than 18 digits
    becomes a float.

    Raises ValueError, worded as the end of a sentence that begins with the name of the file.
    """
    if not data or data.isspace():
        raise ValueError("is empty")
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"is not text in UTF-8: byte {error.start + 1:,} does not belong"
        ) from None
    if sum(map(text.count, ",[{")) > MARKS:
        raise ValueError(
            f"holds more than {MARKS:,} commas and brackets, the most that are read; clear its"
            " outputs"
        )
    try:
        value = json.loads(text, parse_int=_integer)
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at").removesuffix(" starting")
        raise ValueError(
            f"is not JSON: line {error.lineno:,}, column {error.colno:,} ({what})"
        ) from None
    except RecursionError:
        value = _NESTED
    level = [value]
    for _ in range(NESTING):
        level = [part for whole in level for part in _parts(whole) if isinstance(part, dict | list)]
    if level or value is _NESTED:  # counted, because where Python gives up depends on who called
        raise ValueError(f"is nested more than {NESTING} deep, the most that is read")
    return value


def clean(text: str) -> str:
    """The text with U+FFFD for NUL and for lone surrogates, so that it can be encoded and parsed."""
    return _UNFIT.sub("\ufffd", text)


def _parts(value: Any) -> Iterable:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _integer(digits: str) -> int | float:
    """Python refuses to convert thousands of digits."""
    return int(digits) if len(digits) <= 18 else float(digits)


def _cells(notebook: dict) -> list:
    """The cells of format 4, or else those of all worksheets of format 3."""
    cells, sheets = notebook.get("cells"), notebook.get("worksheets")
    if isinstance(cells, list):
        return cells
    if not isinstance(sheets, list):
        raise NotANotebook("has no list of cells")
    found = [sheet.get("cells") for sheet in sheets if isinstance(sheet, dict)]
    return [cell for cells in found if isinstance(cells, list) for cell in cells]


def _code(cell: Any) -> str | None:
    if not isinstance(cell, dict) or cell.get("cell_type") != "code":
        return None
    source = cell.get("source", cell.get("input"))
    lines = source if isinstance(source, list) else [source]
    return clean("".join(lines)) if all(isinstance(line, str) for line in lines) else None
