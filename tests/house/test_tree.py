"""What is committed: sizes, encodings, and no trace of the machine it was made on."""

import ast
import re
import subprocess

from course_lib import paths

TEXT = {
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
    ".ipynb",
    ".json",
    ".js",
    ".css",
    ".cfg",
    "",
}
MACHINE = re.compile(r"(?<![\w.~])/(?:home|root|Users|tmp|work)/\w+")
MB = 1_000_000


def tracked():
    """The files of the repository; of a copy without git, all that it holds."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=paths.ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0:
        files = [paths.ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        files = [
            path
            for path in paths.ROOT.rglob("*")
            if not {"build", ".course", ".venv"} & set(path.parts)
        ]
    return [path for path in files if path.is_file()]


FILES = tracked()


def test_there_is_a_tree():
    assert paths.ROOT / "README.md" in FILES and paths.ROOT / "course_lib" / "cli.py" in FILES


def test_sizes_are_within_budget():
    def size(paths):
        return {path.name: path.stat().st_size for path in paths}

    notebooks = size(path for path in FILES if path.suffix == ".ipynb")
    checkpoints = size(path for path in FILES if path.suffix == ".safetensors")
    others = size(path for path in FILES if path.suffix not in {".ipynb", ".safetensors"})
    assert {name: n for name, n in notebooks.items() if n > 2 * MB} == {}
    assert {name: n for name, n in checkpoints.items() if n > 6 * MB} == {}
    assert sum(checkpoints.values()) <= 100 * MB
    assert {name: n for name, n in others.items() if n > MB} == {}


def test_a_notebook_loads_every_checkpoint():
    """By a name in its text or its hero, of which a part may vary, or a constant of course_lib."""
    names = set()
    for path in [*paths.SOLUTIONS.glob("*.py"), *(paths.ROOT / "course_lib").rglob("heroes/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Constant(value=str(name)):
                    names.add(re.escape(name))
                case ast.JoinedStr(values=[ast.Constant(), *_] as parts):
                    texts = (p.value if isinstance(p, ast.Constant) else None for p in parts)
                    names.add("".join(re.escape(t) if t else r"[\w.-]+" for t in texts))
    for path in (paths.ROOT / "course_lib").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                names.add(re.escape(str(node.value.value)))
    stems = [path.stem for path in FILES if path.suffix == ".safetensors"]
    assert [stem for stem in stems if not any(re.fullmatch(name, stem) for name in names)] == []


def test_text_is_utf8_and_names_no_folder_of_a_machine():
    """Tests speak of such paths on purpose; what notebooks show is looked at by `course build
    --check`.
    """
    found = {}
    for path in FILES:
        name = path.relative_to(paths.ROOT).as_posix()
        if path.suffix in TEXT:
            text = path.read_bytes().decode("utf-8")
            if not name.startswith("tests/") and path.suffix != ".ipynb" and MACHINE.search(text):
                found[name] = MACHINE.findall(text)
    assert found == {}


def test_checkpoints_are_safetensors():
    pickles = [
        path.name for path in FILES if path.suffix in {".pt", ".pth", ".pkl", ".ckpt", ".bin"}
    ]
    assert pickles == []
