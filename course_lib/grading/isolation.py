"""Jails for students' code, seen from outside: how one is built, and how an answer is run in it.

`bwrap`    bubblewrap, Linux: no network, a read-only system and environment, an empty scratch folder in memory,
           no other file, no other process, limits on time, memory, processes, file size and output
`process`  limits alone, Linux and macOS: for code that one trusts
"""

import contextlib
import functools
import importlib.util
import itertools
import json
import os
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import psutil
from pydantic import ValidationError

from course_lib.grading.records import Ending
from course_lib.paths import ROOT

ISOLATIONS = ("bwrap", "process")
START = 120  # seconds a jail may take to load the course
PATIENCE = 4  # times its time an answer may take on a busy machine
GRACE = 10  # seconds after that at which the jail itself is given up
ALL_MEMORY, ALL_TASKS = 4 * 2**30, 200  # of all processes in a jail: bytes, processes and threads
SCRATCH = 64 * 2**20  # bytes of the scratch folder
RESULTS, PRINTS = 40 * 2**20, 2000  # bytes taken of what an answer shows and prints
FRAMES = 1000  # messages taken of an answer
LIBRARIES = ("torch", "numpy", "einops", "psutil", "pydantic", "safetensors", "IPython")
TAKEN_DOWN = "it took down the process that watches it"
NO_MEMORY = SimpleNamespace(rss=0)
FIRST_USER = 2**30  # users that nobody has; root runs each jail's answers as one of its own

HOW_TO_GET_BWRAP = """\
bubblewrap (the command bwrap) is needed to run students' code safely, and {trouble}.
  Debian, Ubuntu: sudo apt install bubblewrap    Fedora: sudo dnf install bubblewrap    Arch: sudo pacman -S bubblewrap
  In a container it needs user namespaces (docker run --security-opt seccomp=unconfined ...), on Windows WSL 2.
--isolation process runs the code with limits alone: it could read your files and use your network."""


class JailError(RuntimeError):
    """This machine cannot run a jail: nothing that a student has done.  The message says what to
    do.
    """


@dataclass
class Reply:
    """What came out of a jail: the frames, what was printed, and "" or why the answer did not end
    by itself.

    lost: the jail itself went down; an answer can do that, and so can a machine in trouble.
    """

    frames: list[bytes] = field(default_factory=list)
    printed: str = ""
    stopped: str = ""
    lost: bool = False


class Jail:
    """A jailed Python that has the course loaded and runs one answer after another.

    It is started when it is first needed, and again after an answer has taken it down.  Use as a
    context. Raises ValueError for an unknown isolation and JailError where no jail can be started.
    """

    def __init__(self, isolation: str = "bwrap"):
        if isolation not in ISOLATIONS:
            raise ValueError(
                f"expected an isolation out of {', '.join(ISOLATIONS)}, got {isolation!r}"
            )
        self.isolation = isolation
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Jail":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, request: dict) -> Reply:
        """Run an answer; `request` is what jail.observe takes, `seconds` among it."""
        self.start()
        message = json.dumps(request).encode()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(struct.pack("<I", len(message)) + message)
            self._process.stdin.flush()
        reply, ending = self._listen(PATIENCE * request["seconds"] + GRACE)
        if not (ending and ending.clean):
            self.close()
        if ending and ending.late:
            reply.stopped = (
                f"it ran for more than {request['seconds']:g} s; is there a loop that never ends?"
            )
        elif ending and ending.status:
            reply.stopped = _how_it_ended(ending.status)
        return reply

    def start(self) -> None:
        """Start the server, if it is not running.  Raises JailError."""
        if self._process is not None:
            return
        ours, theirs = zip(os.pipe(), os.pipe(), strict=True)
        self._results, self._prints = ours
        self._scratch = tempfile.mkdtemp(prefix="answers-") if self.isolation == "process" else None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                self._command(*theirs),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                pass_fds=theirs,
                env=_environment(self._scratch or "/scratch", self.isolation),
                cwd=self._scratch or "/",
                start_new_session=True,
            )
        except (OSError, JailError):
            self._let_go()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        for descriptor in (*ours, self._process.stdout.fileno()):
            os.set_blocking(descriptor, False)
        reply, ending = self._listen(START)
        if ending is None:
            self._errors.seek(0)
            said = self._errors.read()[-1000:].decode(errors="replace").strip()
            self.close()
            said = said or (
                "it ended at once" if reply.lost else f"it had not started after {START} s"
            )
            trouble = f"it does not work here: {said}"
            raise JailError(
                HOW_TO_GET_BWRAP.format(trouble=trouble) if self.isolation == "bwrap" else trouble
            )

    def close(self) -> None:
        """End the server and all that runs in it."""
        if self._process is None:
            return
        process, self._process = self._process, None
        kill_descendants(process.pid)
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self._let_go()

    def _let_go(self) -> None:
        self._errors.close()
        for descriptor in (self._results, self._prints):
            os.close(descriptor)
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)

    # ---------------------------------------------------------------------------------------- listening

    def _listen(self, seconds: int | float) -> tuple[Reply, Ending | None]:
        """Collect until the server says how the answer has ended; None where the jail has to be
        given up.
        """
        results, printed, said = bytearray(), bytearray(), bytearray()
        streams = {
            self._results: results,
            self._prints: printed,
            self._process.stdout.fileno(): said,
        }
        now = time.monotonic()
        deadline, look = now + seconds, now + 0.15  # most answers have ended before anyone looks
        stopped, lost = "", False
        with selectors.DefaultSelector() as selector:
            for descriptor in streams:
                selector.register(descriptor, selectors.EVENT_READ)
            while not (stopped or frames(said)):
                for key, _ in selector.select(timeout=0.1):
                    ended = _pour(
                        key.fd,
                        streams[key.fd],
                        most=PRINTS + 1 if key.fd == self._prints else RESULTS + 1,
                    )
                    if ended and streams[key.fd] is said:
                        stopped, lost = TAKEN_DOWN, True
                now = time.monotonic()
                if now > look:
                    look = now + 0.1
                    stopped = stopped or _too_much(self._process.pid)
                if len(results) > RESULTS:
                    stopped = f"it returned more than {RESULTS // 2**20} MB"
                if now > deadline:
                    stopped = "it did not end, not even when it was told to"
        _pour(self._results, results, RESULTS)
        _pour(self._prints, printed, PRINTS + 1)
        text = bytes(printed[:PRINTS]).decode(errors="replace") + (
            "\n... (cut)" if len(printed) > PRINTS else ""
        )
        ending = None if stopped else _ending(frames(said)[0])
        if not (stopped or ending):
            stopped, lost = TAKEN_DOWN, True
        return Reply(frames(results), text, stopped, lost), ending

    # ----------------------------------------------------------------------------------------- building

    def _command(self, results: int, prints: int) -> list[str]:
        # -P: no module from the scratch folder
        python = [sys.executable, "-B", "-P", "-m", "course_lib.grading.jail"]
        python += [str(results), str(prints), self.isolation]
        if self.isolation == "process":
            return [*python, "0"]
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise JailError(HOW_TO_GET_BWRAP.format(trouble="was not found"))
        if os.geteuid() == 0 and (closed := _closed_to_others()):
            raise JailError(
                f"answers run as another user than root, and cannot read {closed}: chmod -R o+rX it"
            )
        user = FIRST_USER + threading.get_native_id() if os.geteuid() == 0 else 0
        return [bwrap, *_walls(), *python, str(user)]


def _walls() -> list[str]:
    """bubblewrap's arguments."""
    walls = [
        "--die-with-parent",
        "--new-session",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
    ]
    # which no answer can kill, and no other process holds the server's pipes
    walls += ["--as-pid-1"]
    walls += ["--unshare-uts", "--unshare-cgroup-try", "--hostname", "jail", "--cap-drop", "ALL"]
    # answers run as another user: the server has to become that, to kill and to clean up
    if os.geteuid() == 0:
        for capability in ("SETUID", "SETGID", "KILL", "DAC_OVERRIDE", "FOWNER"):
            walls += ["--cap-add", f"CAP_{capability}"]
    else:
        walls += ["--unshare-user"]
    for folder in ("/bin", "/lib", "/lib64", "/sbin"):
        if os.path.islink(folder):
            walls += ["--symlink", os.readlink(folder), folder]
        else:
            walls += ["--ro-bind-try", folder, folder]
    system = ("/usr", "/etc/ld.so.cache", "/sys/devices/system/cpu")
    places = {place: place for place in (*system, *_outermost(libraries()))}
    places[str(ROOT / "course_lib")] = "/course/course_lib"
    folders = {
        str(parent) for place in places.values() for parent in Path(place, "in it").parents
    } - {"/"}
    for folder in sorted(folders - {"/etc/ld.so.cache"}):
        walls += ["--perms", "0755", "--dir", folder]  # bubblewrap would make them for root alone
    # what is in a folder, since the folder itself may be for its owner alone
    for here, there in places.items():
        for entry in sorted(os.listdir(here)) if os.path.isdir(here) else [""]:
            walls += [
                "--ro-bind-try",
                f"{here}/{entry}".rstrip("/"),
                f"{there}/{entry}".rstrip("/"),
            ]
    walls += ["--proc", "/proc", "--dev", "/dev"]
    # which can be mapped as memory that belongs to no process
    walls += ["--dev-bind", "/dev/null", "/dev/zero"]
    walls += ["--remount-ro", "/dev"]
    walls += ["--perms", "1777", "--size", str(SCRATCH), "--tmpfs", "/scratch", "--remount-ro", "/"]
    return [*walls, "--chdir", "/scratch"]


@functools.cache
def libraries() -> tuple[str, ...]:
    """The folders of Python and of what the course needs, which every jail can read."""
    return tuple(
        sorted({sys.prefix, sys.base_prefix, *(str(file.parents[1]) for file in _needed())})
    )


def _needed() -> list[Path]:
    specs = map(importlib.util.find_spec, LIBRARIES)
    return [Path(spec.origin) for spec in specs if spec and spec.origin]


def _outermost(folders: Sequence[str]) -> list[str]:
    """The folders that lie in no other one."""
    return [
        f
        for f in folders
        if not any(f != other and Path(f).is_relative_to(other) for other in folders)
    ]


def _closed_to_others() -> Path | None:
    """A file or folder of the libraries that answers could not read where root grades: they run as
    another user.
    """
    tops = [Path(folder) for folder in _outermost(libraries())]
    for file in (*_needed(), ROOT / "course_lib" / "cli.py"):
        inner = [
            file,
            *itertools.takewhile(
                lambda folder: folder not in (*tops, ROOT / "course_lib"), file.parents
            ),
        ]
        for path in inner:
            if path.stat().st_mode & (0o005 if path.is_dir() else 0o004) == 0:
                return path
    return None


def _environment(scratch: str, isolation: str) -> dict[str, str]:
    """All that a jail knows of the environment."""
    course = "/course" if isolation == "bwrap" else str(ROOT)
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return one_thread | {
        "PYTHONPATH": os.pathsep.join([course, *libraries()]),
        "PYTHONHASHSEED": "0",  # the same order of sets in every run
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": scratch,
        "TMPDIR": scratch,
        "COURSE_HOME": scratch,
        "MPLBACKEND": "Agg",
    }


def _tree(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def kill_descendants(pid: int) -> None:
    """Kill what a process has started, again and again, since what is not yet dead may start more."""
    for _ in range(100):
        alive = [
            one
            for one in _tree(pid)
            if _ask(one, "status", psutil.STATUS_ZOMBIE) != psutil.STATUS_ZOMBIE
        ]
        if not alive:
            return
        for one in alive:
            with contextlib.suppress(psutil.Error):
                one.kill()


def _too_much(pid: int) -> str:
    """ "" or what a jail has too much of."""
    tree = _tree(pid)
    if sum(_ask(process, "num_threads", default=0) for process in tree) > ALL_TASKS:
        return f"it started more than {ALL_TASKS} processes and threads"
    if sum(_ask(process, "memory_info", default=NO_MEMORY).rss for process in tree) < ALL_MEMORY:
        return ""  # though pages that forks share were counted for each
    if sum(map(_memory, tree)) < ALL_MEMORY:
        return ""
    return f"it took more than {ALL_MEMORY // 2**30} GB of memory"


def _memory(process: psutil.Process) -> int:
    """Bytes; of what forks share each has its part, where the system tells."""
    full = _ask(process, "memory_full_info", default=None) or _ask(
        process, "memory_info", default=NO_MEMORY
    )
    return next(getattr(full, kind) for kind in ("pss", "uss", "rss") if hasattr(full, kind))


def _ask(process: psutil.Process, question: str, default: Any) -> Any:
    """What a process says; the default when it has just ended."""
    try:
        return getattr(process, question)()
    except psutil.Error:
        return default


def _pour(descriptor: int, into: bytearray, most: int) -> bool:
    """Read what a pipe holds and keep `most` bytes in all; whether its other end is closed."""
    for _ in range(16):  # not for ever: it may be written to all the time
        try:
            data = os.read(descriptor, 2**18)
        except BlockingIOError:
            return False
        if not data:
            return True
        into += data[: max(most - len(into), 0)]
    return False


def frames(stream: bytes | bytearray) -> list[bytes]:
    """The whole messages of a stream, each of which comes after its length; the first thousand."""
    found, at = [], 0
    while at + 4 <= len(stream) and len(found) < FRAMES:
        end = at + 4 + struct.unpack_from("<I", stream, at)[0]
        if end > len(stream):
            break
        found.append(bytes(stream[at + 4 : end]))
        at = end
    return found


def _ending(message: bytes) -> Ending | None:
    """What the server says at the end; None for what it would not say."""
    try:
        return Ending.model_validate_json(message)
    except ValidationError:
        return None


def _how_it_ended(status: int) -> str:
    if status > 0:
        return f"it ended the process it ran in, with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    return f"its process was ended by signal {-status} ({name})"
