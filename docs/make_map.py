"""Write docs/MAP.md: one line on every module of the library, from its own docstring.

python docs/make_map.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {  # in the order of the imports, what is imported first
    "": "the library's own root",
    "nn": "layers that several papers share",
    "world": "the little world",
    "quantize": "codebooks",
    "diffusion": "what several diffusion papers share",
    "lm": "language models: sampling, caching, masked decoding",
    "losses": "what is minimized",
    "papers": "one paper, one file",
    "convert": "official checkpoints in",
    "training": "the loop, recipes, checkpoints",
    "training/recipes": "the numbers of every training run",
    "metrics": "what is measured",
    "curation": "what is done to clips before anyone trains on them",
    "pipelines": "published weights at work",
    "checking": "an exercise, an answer, a verdict",
    "exercises": "the exercises of every chapter",
    "classroom": "what a notebook imports",
    "classroom/heroes": "the picture that opens a chapter",
    "grading": "submissions in, grades out",
    "grading/pages": "what students and instructors read",
    "build": "solutions to notebooks",
}


def summary(path: Path) -> str:
    """Return the first paragraph of a module's docstring as one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def table(folder: str, meaning: str) -> str:
    """Return a heading and a table with a row for every module of a folder."""
    place = "/".join(filter(None, ["course_lib", folder]))
    rows = [
        f"| [{path.name}](../{place}/{path.name}) | {summary(path).replace('|', '¦')} |"
        for path in sorted((ROOT / place).glob("*.py"))
    ]
    return "\n".join([f"## `{place}/`: {meaning}", "", "| file | |", "|---|---|", *rows])


def page() -> str:
    """Return the whole map."""
    head = (
        "# A map of the library\n\nOne line on every module, in the order of the imports: a folder"
        " uses those above it. Written by `python docs/make_map.py` from the modules' own"
        " docstrings."
    )
    tables = [table(folder, meaning) for folder, meaning in FOLDERS.items()]
    return "\n\n".join([head, *tables]) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "MAP.md").write_text(page(), encoding="utf-8")
