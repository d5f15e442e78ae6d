"""Who may import whom (the contracts stand in pyproject.toml), and what an import may cost."""

import subprocess
import sys

from course_lib import paths


def test_import_contracts_hold():
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
    ]
    done = subprocess.run([*command, "--no-cache"], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_course_lib_imports_without_torch_in_a_moment():
    code = "import sys, time; a = time.perf_counter(); import course_lib; b = time.perf_counter()\n"
    code += "assert 'torch' not in sys.modules and b - a < 0.3, b - a"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
