"""A big class of chapter 01, one student in ten of it hostile, to measure `course grade` on.

    python -m tests.grading.big_class FOLDER [--students N] [--seed S]

roster.csv is written beside FOLDER.  Hostile students hand in right answers to eleven exercises and
an attack instead of the twelfth, or files that are not notebooks.
"""

import argparse
import random
from pathlib import Path

from docs.make_submissions import invent, write
from tests.grading.handed_in import IMPORTS, RIGHT, notebook
from tests.grading.hostile import ENDING, FILES, FORGERY, PATCHES, RESOURCES, TARGET

ATTACKS = {**ENDING, **RESOURCES, **FORGERY, **PATCHES}


def make(folder: Path, students: int, seed: int = 0) -> None:
    """Write a class of `students`, the same for the same seed.

    Of 200, 15 attack and 5 hand in odd files.
    """
    rng = random.Random(seed)
    attacks = max(students * 15 // 200, 1)
    odd = max(students * 5 // 200, 1)
    write(folder, invent(students - attacks - odd, seed))
    others = [source for id, source in RIGHT.items() if id != TARGET]
    for n, name in enumerate(rng.sample(sorted(ATTACKS), attacks), 1):
        own = folder / f"Hostile {n}"
        own.mkdir(exist_ok=True)
        (own / "01_ddpm.ipynb").write_bytes(notebook(IMPORTS, *others, *ATTACKS[name].cells))
    for name in rng.sample(sorted(FILES), odd):
        FILES[name].make(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--students", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    options = parser.parse_args()
    make(options.folder, options.students, options.seed)
