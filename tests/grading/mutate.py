"""Damaged notebooks without end: small real ones, with bytes or parts of their JSON changed.

A mutant depends only on a `random.Random`, so that the same seed gives the same bytes, and
hypothesis, with a Random of its own, can shrink a mutant that breaks something.
"""

import json
import zipfile
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from random import Random
from typing import Any

from course_lib.paths import NOTEBOOKS

DEEP = "@deep@"  # replaced by brackets that json cannot write
WORDS = [
    "",
    "code",
    "markdown",
    "cells",
    "source",
    "nbformat",
    "x = 1\n",
    "\0",
    "\ud800",
    "é",
    "\U0001f600",
    DEEP,
]
NUMBERS = [0, 1, 3, 4, 5, -1, 2**63, 10**400, 1e308, float("nan"), float("inf"), True, False, None]


def mutated_notebooks(seed: int, count: int) -> Iterator[bytes]:
    """Yield `count` mutants, the same for the same seed.

    They change with notebooks/00_start_here.ipynb.
    """
    random = Random(seed)
    for _ in range(count):
        yield mutant(random)


def mutant(random: Random) -> bytes:
    """Return a notebook of format 4 or 3 with one to four changes, in its JSON or in its bytes."""
    notebook = json.loads(random.choice(originals()))
    if random.random() < 0.5:
        for _ in range(random.randint(1, 4)):
            notebook = change_json(notebook, random)
        return encode(notebook, random)
    data = json.dumps(notebook, indent=1).encode()
    for _ in range(random.randint(1, 4)):
        data = change_bytes(data, random)
    return data


def mutated_zip(random: Random) -> bytes:
    """Return a zip of notebooks, quiz answers and a zip, with one or two changes in its bytes."""
    inner = BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("inner.ipynb", originals()[1])
    outer = BytesIO()
    with zipfile.ZipFile(
        outer, "w", random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    ) as package:
        package.writestr("work/one.ipynb", originals()[0])
        package.writestr("work/two.ipynb", originals()[1])
        package.writestr("quiz-toy.json", '{"q": {"digest": "0", "result": {"answer": [0]}}}')
        package.writestr("inner.zip", inner.getvalue())
    data = outer.getvalue()
    listing = data.index(b"PK\1\2")
    for _ in range(random.randint(1, 2)):
        # Otherwise most changes would fall into the compressed text.
        if random.random() < 0.5:
            data = data[:listing] + change_bytes(data[listing:], random)
        else:
            data = change_bytes(data, random)
    return data


@cache
def originals() -> tuple[str, str]:
    """Return the beginning of a real notebook, with few of its outputs, in formats 4 and 3."""
    notebook = json.loads((NOTEBOOKS / "00_start_here.ipynb").read_text(encoding="utf-8"))
    cells = notebook["cells"][:14]
    for cell in cells:
        if cell["cell_type"] == "code":
            cell["outputs"] = [
                output for output in cell["outputs"] if len(json.dumps(output)) < 500
            ]
    old = [{k: v for k, v in cell.items() if k != "id"} for cell in cells]
    for cell in old:
        if cell["cell_type"] == "code":
            cell |= {
                "input": cell.pop("source"),
                "language": "python",
                "prompt_number": None,
                "collapsed": False,
            }
    metadata = {"kernelspec": notebook["metadata"]["kernelspec"]}
    four = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    three = {
        "worksheets": [{"cells": old, "metadata": {}}],
        "metadata": metadata,
        "nbformat": 3,
        "nbformat_minor": 0,
    }
    return json.dumps(four), json.dumps(three)


def change_bytes(data: bytes, random: Random) -> bytes:
    """Flip, delete, cut off, insert or repeat some bytes."""
    at = random.randint(0, max(len(data) - 1, 0))
    to = at + random.choice([1, 1, 2, 8, 64, 1000])
    noise = bytes(random.randint(0, 255) for _ in range(random.randint(1, 6)))
    return random.choice(
        [
            lambda: (
                data[:at]
                + bytes(b ^ 1 << random.randint(0, 7) for b in data[at : at + 1])
                + data[at + 1 :]
            ),
            lambda: data[:at] + data[to:],
            lambda: data[:at],
            lambda: data[:at] + noise + data[at:],
            lambda: data[:to] + data[at:],
            lambda: (
                data[:at]
                + random.choice([b"\0", b"\xff\xfe", b'"', b"{", b"]", b",", b"\\ud800"])
                + data[at:]
            ),
        ]
    )()


def change_json(value: Any, random: Random, stay: float = 0.01) -> Any:
    """Descend to a random part of the value and replace, delete or repeat it."""
    if isinstance(value, dict | list) and value and random.random() > stay:
        keys = sorted(value) if isinstance(value, dict) else range(len(value))
        key = random.choice(keys)
        action = random.random()
        if action < 0.1:
            del value[key]
        elif action < 0.2 and isinstance(value, list):
            value.insert(key, value[key])
        else:
            value[key] = change_json(value[key], random, stay=0.15)
        return value
    return anything(random, depth=0)


def anything(random: Random, depth: int) -> Any:
    """Return JSON of any type, and a little more than JSON allows."""
    kind = random.randint(0, 5) if depth < 3 else random.randint(0, 1)
    if kind == 0:
        return random.choice(NUMBERS)
    if kind <= 3:
        return random.choice(WORDS)
    parts = [anything(random, depth + 1) for _ in range(random.randint(0, 4))]
    return parts if kind == 4 else {random.choice(WORDS): part for part in parts}


def encode(notebook: Any, random: Random) -> bytes:
    """Return the notebook's text, mostly in UTF-8, with brackets for DEEP.

    Sometimes a key occurs twice.
    """
    text = json.dumps(notebook, ensure_ascii=random.random() < 0.7, indent=random.choice([None, 1]))
    depth = random.choice([10, 300, 990, 100_000])
    text = text.replace(f'"{DEEP}":', '"deep":').replace(f'"{DEEP}"', "[" * depth + "]" * depth)
    if random.random() < 0.1 and text.startswith("{"):
        text = '{"cells": [], ' + text[1:]
    encoding = random.choice(["utf-8"] * 7 + ["utf-8-sig", "utf-16", "latin-1"])
    return text.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")
