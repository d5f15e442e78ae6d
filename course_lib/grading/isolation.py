"""Jails for students' code, seen from outside: how one is built, and how an answer is run in it.

`bwrap`    bubblewrap on Linux: no network, a read-only system and environment, an empty scratch
           folder in memory, no other files, no other processes, and limits on time, memory,
           processes, file size and output
`process`  only resource limits, on Linux and macOS: for code that you trust
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

from course_lib.grading.records import ExitReport
from course_lib.paths import ROOT

ISOLATIONS = ("bwrap", "process")

JAIL_START_SECONDS = 120  # a jail may take as long to load the course
BUSY_FACTOR = 4  # multiple of its time limit that an answer may use on a busy machine
JAIL_REPLY_SECONDS = 10  # a jail that has not reported this long after that is given up
# Limits of all processes in a jail together.
MAX_JAIL_MEMORY_BYTES = 4 * 2**30
MAX_JAIL_TASKS = 200  # processes and threads
SCRATCH_BYTES = 64 * 2**20  # the scratch folder, and any one file in it
# Limits of what is kept of an answer: the outcomes it sends, and what it prints.
MAX_RESULT_BYTES = 40 * 2**20
MAX_MESSAGES = 1000
MAX_PRINTED_BYTES = 2000
LIBRARIES = ("torch", "numpy", "einops", "psutil", "pydantic", "safetensors", "IPython")
SERVER_DIED = "it took down the process that watches it"
NO_MEMORY = SimpleNamespace(rss=0)
# User ids from here on belong to nobody; root runs the answers of each jail as a user of its own.
FIRST_UNUSED_UID = 2**30

HOW_TO_GET_BWRAP = """\
bubblewrap (the command bwrap) is needed to run students' code safely, but {trouble}.
  Debian, Ubuntu: sudo apt install bubblewrap
  Fedora: sudo dnf install bubblewrap    Arch: sudo pacman -S bubblewrap
  In a container it needs user namespaces (docker run --security-opt seccomp=unconfined ...),
  on Windows WSL 2.
--isolation process runs the code with only resource limits: it could read your files and use your
network."""


class JailError(RuntimeError):
    """This machine cannot run a jail, and no student is to blame; the message says what to do."""


@dataclass
class Reply:
    """What came out of a jail.

    frames   the messages of the answer
    printed  what it printed
    stopped  why the answer did not end normally, or ""
    lost     whether the jail itself went down, which an answer or a failing machine can cause
    """

    frames: list[bytes] = field(default_factory=list)
    printed: str = ""
    stopped: str = ""
    lost: bool = False


class Jail:
    """A jailed Python that has the course loaded and runs one answer after another.

    It is started when it is first needed, and again after an answer has taken it down.  Use it as
    a context manager.  Raises ValueError for an unknown isolation and JailError where no jail can
    be started.
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
        """Run an answer; `request` is what jail.observe takes, including `seconds`."""
        self.start()
        message = json.dumps(request).encode()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(struct.pack("<I", len(message)) + message)
            self._process.stdin.flush()
        reply, report = self._listen(BUSY_FACTOR * request["seconds"] + JAIL_REPLY_SECONDS)
        if not (report and report.clean):
            self.close()
        if report and report.late:
            reply.stopped = (
                f"it ran for more than {request['seconds']:g} s; is there a loop that never ends?"
            )
        elif report and report.status:
            reply.stopped = _describe_exit(report.status)
        return reply

    def start(self) -> None:
        """Start the server unless it is running.  Raises JailError."""
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
            self._close_pipes()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        for descriptor in (*ours, self._process.stdout.fileno()):
            os.set_blocking(descriptor, False)
        reply, report = self._listen(JAIL_START_SECONDS)
        if report is None:
            self._errors.seek(0)
            said = self._errors.read()[-1000:].decode(errors="replace").strip()
            self.close()
            if not said and reply.lost:
                said = "it ended at once"
            elif not said:
                said = f"it had not started after {JAIL_START_SECONDS} s"
            if self.isolation == "bwrap":
                trouble = f"it does not work here: {said}"
                raise JailError(HOW_TO_GET_BWRAP.format(trouble=trouble))
            raise JailError(f"a jail does not start here: {said}")

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
        self._close_pipes()

    def _close_pipes(self) -> None:
        self._errors.close()
        for descriptor in (self._results, self._prints):
            os.close(descriptor)
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)

    # ------------------------------------------------------------------------------------ listening

    def _listen(self, seconds: int | float) -> tuple[Reply, ExitReport | None]:
        """Collect output until the server reports how the answer ended.

        Returns None for the report where the jail has to be given up.
        """
        results = bytearray()
        printed = bytearray()
        statuses = bytearray()
        streams = {
            self._results: results,
            self._prints: printed,
            self._process.stdout.fileno(): statuses,
        }
        now = time.monotonic()
        deadline = now + seconds
        next_look = now + 0.15  # most answers have ended before the first look at their processes
        stopped = ""
        lost = False
        with selectors.DefaultSelector() as selector:
            for descriptor in streams:
                selector.register(descriptor, selectors.EVENT_READ)
            while not (stopped or frames(statuses)):
                for key, _ in selector.select(timeout=0.1):
                    most = MAX_PRINTED_BYTES if key.fd == self._prints else MAX_RESULT_BYTES
                    ended = _drain(key.fd, streams[key.fd], most + 1)
                    if ended and streams[key.fd] is statuses:
                        stopped = SERVER_DIED
                        lost = True
                now = time.monotonic()
                if now > next_look:
                    next_look = now + 0.1
                    stopped = stopped or _limit_exceeded(self._process.pid)
                if len(results) > MAX_RESULT_BYTES:
                    stopped = f"it returned more than {MAX_RESULT_BYTES // 2**20} MB"
                if now > deadline:
                    stopped = "it did not end, not even when it was told to"
        _drain(self._results, results, MAX_RESULT_BYTES)
        _drain(self._prints, printed, MAX_PRINTED_BYTES + 1)
        text = bytes(printed[:MAX_PRINTED_BYTES]).decode(errors="replace")
        if len(printed) > MAX_PRINTED_BYTES:
            text += "\n... (cut)"
        report = None
        if not stopped:
            try:
                report = ExitReport.model_validate_json(frames(statuses)[0])
            except ValidationError:  # the server itself would not send this
                stopped = SERVER_DIED
                lost = True
        return Reply(frames(results), text, stopped, lost), report

    # ------------------------------------------------------------------------------------- building

    def _command(self, results: int, prints: int) -> list[str]:
        # -P: no module is imported from the scratch folder.
        python = [sys.executable, "-B", "-P", "-m", "course_lib.grading.jail"]
        python += [str(results), str(prints), self.isolation]
        if self.isolation == "process":
            return [*python, "0"]
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise JailError(HOW_TO_GET_BWRAP.format(trouble="it was not found"))
        if os.geteuid() != 0:
            return [bwrap, *_bwrap_arguments(), *python, "0"]
        if closed := _unreadable_to_others():
            raise JailError(
                f"answers run as another user than root, and cannot read {closed}: chmod -R o+rX it"
            )
        user = FIRST_UNUSED_UID + threading.get_native_id()
        return [bwrap, *_bwrap_arguments(), *python, str(user)]


def _bwrap_arguments() -> list[str]:
    arguments = [
        "--die-with-parent",
        "--new-session",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
    ]
    # The first process of the namespace is one that no answer can kill, and no other process holds
    # the server's pipes.
    arguments += ["--as-pid-1"]
    arguments += ["--unshare-uts", "--unshare-cgroup-try", "--hostname", "jail"]
    arguments += ["--cap-drop", "ALL"]
    # Root's answers run as another user, whom the server has to become to kill and to clean up.
    if os.geteuid() == 0:
        for capability in ("SETUID", "SETGID", "KILL", "DAC_OVERRIDE", "FOWNER"):
            arguments += ["--cap-add", f"CAP_{capability}"]
    else:
        arguments += ["--unshare-user"]
    for folder in ("/bin", "/lib", "/lib64", "/sbin"):
        if os.path.islink(folder):
            arguments += ["--symlink", os.readlink(folder), folder]
        else:
            arguments += ["--ro-bind-try", folder, folder]
    system = ("/usr", "/etc/ld.so.cache", "/sys/devices/system/cpu")
    places = {place: place for place in (*system, *_outermost(libraries()))}
    places[str(ROOT / "course_lib")] = "/course/course_lib"
    folders = set()
    for place in places.values():
        folders.update(map(str, Path(place, "in it").parents))
    for folder in sorted(folders - {"/", "/etc/ld.so.cache"}):
        # bubblewrap would create them readable only to root.
        arguments += ["--perms", "0755", "--dir", folder]
    # The contents of each folder are bound, since the folder itself may be private to its owner.
    for here, there in places.items():
        for entry in sorted(os.listdir(here)) if os.path.isdir(here) else [""]:
            source = f"{here}/{entry}".rstrip("/")
            target = f"{there}/{entry}".rstrip("/")
            arguments += ["--ro-bind-try", source, target]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    # /dev/zero could be mapped as memory that belongs to no process.
    arguments += ["--dev-bind", "/dev/null", "/dev/zero"]
    arguments += ["--remount-ro", "/dev"]
    arguments += ["--perms", "1777", "--size", str(SCRATCH_BYTES), "--tmpfs", "/scratch"]
    arguments += ["--remount-ro", "/"]
    return [*arguments, "--chdir", "/scratch"]


@functools.cache
def libraries() -> tuple[str, ...]:
    """Return the folders of Python and of what the course needs, which every jail can read."""
    folders = {str(file.parents[1]) for file in _library_files()}
    return tuple(sorted({sys.prefix, sys.base_prefix, *folders}))


def _library_files() -> list[Path]:
    specs = map(importlib.util.find_spec, LIBRARIES)
    return [Path(spec.origin) for spec in specs if spec and spec.origin]


def _outermost(folders: Sequence[str]) -> list[str]:
    """Return the folders that are inside no other one."""

    def is_inside_another(folder: str) -> bool:
        return any(folder != other and Path(folder).is_relative_to(other) for other in folders)

    return [folder for folder in folders if not is_inside_another(folder)]


def _unreadable_to_others() -> Path | None:
    """Return a library's file or folder that only its owner can read, if there is one.

    Where root grades, answers run as another user and need to read it.
    """
    tops = {*map(Path, _outermost(libraries())), ROOT / "course_lib"}
    for file in (*_library_files(), ROOT / "course_lib" / "cli.py"):
        inner = itertools.takewhile(lambda folder: folder not in tops, file.parents)
        for path in (file, *inner):
            if path.stat().st_mode & (0o005 if path.is_dir() else 0o004) == 0:
                return path
    return None


def _environment(scratch: str, isolation: str) -> dict[str, str]:
    """Return the environment variables of a jail, which gets no others."""
    course = "/course" if isolation == "bwrap" else str(ROOT)
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return one_thread | {
        "PYTHONPATH": os.pathsep.join([course, *libraries()]),
        "PYTHONHASHSEED": "0",  # sets have the same order in every run
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": scratch,
        "TMPDIR": scratch,
        "COURSE_HOME": scratch,
        "MPLBACKEND": "Agg",
    }


# ---------------------------------------------------------------------------------------- processes


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def kill_descendants(pid: int) -> None:
    """Kill what a process has started, repeatedly, since what is still alive may start more."""
    for _ in range(100):
        alive = []
        for process in _descendants(pid):
            if _safe_query(process, "status", psutil.STATUS_ZOMBIE) != psutil.STATUS_ZOMBIE:
                alive.append(process)
        if not alive:
            return
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _limit_exceeded(pid: int) -> str:
    """Return a sentence on the limit that a jail exceeds, or ""."""
    processes = _descendants(pid)
    if (
        sum(_safe_query(process, "num_threads", default=0) for process in processes)
        > MAX_JAIL_TASKS
    ):
        return f"it started more than {MAX_JAIL_TASKS} processes and threads"
    # This sum counts pages that forks share once for each of them, so it is an upper bound.
    resident = [_safe_query(process, "memory_info", default=NO_MEMORY).rss for process in processes]
    if sum(resident) < MAX_JAIL_MEMORY_BYTES:
        return ""
    if sum(map(_memory_bytes, processes)) < MAX_JAIL_MEMORY_BYTES:
        return ""
    return f"it took more than {MAX_JAIL_MEMORY_BYTES // 2**30} GB of memory"


def _memory_bytes(process: psutil.Process) -> int:
    """Return a process's memory, with its part of what forks share where the system tells."""
    memory = _safe_query(process, "memory_full_info", default=None)
    memory = memory or _safe_query(process, "memory_info", default=NO_MEMORY)
    return next(getattr(memory, kind) for kind in ("pss", "uss", "rss") if hasattr(memory, kind))


def _safe_query(process: psutil.Process, question: str, default: Any) -> Any:
    """Return what a process reports, or the default when it has just ended."""
    try:
        return getattr(process, question)()
    except psutil.Error:
        return default


def _describe_exit(status: int) -> str:
    if status > 0:
        return f"it ended the process it ran in, with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    return f"its process was ended by signal {-status} ({name})"


# ----------------------------------------------------------------------------------------- messages


def _drain(descriptor: int, into: bytearray, most: int) -> bool:
    """Read what a pipe holds, keeping `most` bytes in all; tell whether its other end is closed."""
    for _ in range(16):  # bounded, because the other side may never stop writing
        try:
            data = os.read(descriptor, 2**18)
        except BlockingIOError:
            return False
        if not data:
            return True
        into += data[: max(most - len(into), 0)]
    return False


def frames(stream: bytes | bytearray) -> list[bytes]:
    """Return the complete messages of a stream, at most MAX_MESSAGES; each follows its length."""
    found = []
    at = 0
    while at + 4 <= len(stream) and len(found) < MAX_MESSAGES:
        end = at + 4 + struct.unpack_from("<I", stream, at)[0]
        if end > len(stream):
            break
        found.append(bytes(stream[at + 4 : end]))
        at = end
    return found
