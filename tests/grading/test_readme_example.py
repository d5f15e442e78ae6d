"""The README's worked example, run as it is written."""

import json
import re
import shlex
import subprocess
import sys

from course_lib import paths

README = (paths.ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README[README.index("## For instructors") : README.index("## For developers")]


def test_the_readmes_example_gives_what_the_readme_shows(tmp_path):
    commands, shown = re.findall(r"^```\n(.*?)^```", SECTION, re.M | re.S)[:2]
    said = ""
    for command in commands.splitlines():
        program, *arguments = shlex.split(command)
        if program == "course":
            program = "python"
            arguments = ["-m", "course_lib.cli", *arguments]
        arguments = [str(paths.ROOT / a) if a.startswith("docs/") else a for a in arguments]
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert program == "python" and done.returncode == 0, done.stderr
        said += done.stdout
    assert said.endswith(shown)
    told = " ".join(SECTION.split())
    total = {}
    for path in tmp_path.glob("grades/students/*/grade.json"):
        grade = json.loads(path.read_text(encoding="utf-8"))
        total[grade["student"]] = (path, grade)
        sentences = [mark["sentence"] for mark in grade["exercises"] if mark["sentence"]]
        if grade["student"] == "Pascal, Blaise":
            assert re.search(r'\*"(.+?)"\*', told)[1] in sentences
        if grade["student"] == "Gauss, Carl":
            untried = [mark for mark in grade["exercises"] if mark["status"] == "not attempted"]
            assert len(untried) == 6 and 'six exercises "not attempted"' in told
    rows = (tmp_path / "grades" / "grades.csv").read_text(encoding="utf-8").splitlines()
    points = {row.split('"')[1]: row.rsplit(",", 1)[1] for row in rows[1:]}
    assert f"Blaise Pascal has {points['Pascal, Blaise']} points" in told
    assert f"Carl Gauss has {points['Gauss, Carl']}, " in told
