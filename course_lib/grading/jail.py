"""The jailed side of grading: a server that has the course loaded and forks for every answer.

    python -m course_lib.grading.jail RESULTS PRINTS ISOLATION UID

Requests come on standard input and statuses go to standard output, as JSON after its length.  What
an answer returns goes to the file descriptor RESULTS and what it prints to PRINTS, straight from
its own process, which holds nothing else of the server.  ISOLATION is `bwrap` where the server has
a process namespace of its own, else `process`.  UID is the user that answers run as, 0 for the
server's own.  Nothing from a notebook is run or even parsed in the server itself.
"""

import contextlib
import ctypes
import gc
import json
import os
import random
import resource
import select
import shutil
import signal
import struct
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import torch

from course_lib.checking import exercises, find_exercise, topics
from course_lib.checking.exercise import call_by_name
from course_lib.checking.observe import Failure, Outcome, failure, run
from course_lib.grading.isolation import BUSY_FACTOR, SCRATCH_BYTES, kill_descendants
from course_lib.grading.program import NoAnswer, Notebook
from course_lib.grading.records import AnswerInfo, Cell, ExitReport
from course_lib.grading.syscalls import refuse_syscalls
from course_lib.grading.wire import pack

# Limits of one answer.
MAX_ANSWER_MEMORY_BYTES = 2 * 2**30  # in addition to what the course takes
MAX_ANSWER_TASKS = 64  # processes and threads
MAX_OPEN_FILES = 256
MAX_ANSWER_BYTES = 32 * 2**20  # of what it returns, all cases together
# Arguments of prctl.
SET_DUMPABLE = 4
SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Serve until standard input ends."""
    results = int(sys.argv[1])
    prints = int(sys.argv[2])
    own_namespace = sys.argv[3] == "bwrap"
    uid = int(sys.argv[4])
    control = os.dup(0)
    statuses = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    if sys.platform == "linux":
        # Answers must not look into this process, and orphans of theirs become its children.
        prctl = ctypes.CDLL(None).prctl
        prctl(SET_DUMPABLE, 0, 0, 0, 0)
        prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _warm_up()
    with contextlib.suppress(BrokenPipeError):  # the grader is gone
        send(statuses, b"{}")  # the first message says that the server is ready
        clean = True
        mode = os.stat(".").st_mode
        while clean and (message := receive(control)):
            request = json.loads(message)
            child = os.fork()
            if child == 0:
                _answer(request, results, prints, uid)
            report = _watch(child, request["seconds"], control)
            _kill_leftovers(own_namespace)
            clean = _is_clean(mode)
            send(statuses, report.model_copy(update={"clean": clean}).model_dump_json().encode())
    _remove_scratch()


def _warm_up() -> None:
    """Load once what every answer needs."""
    torch.set_num_threads(1)
    for topic in topics():
        exercises(topic)
    # What the first run of an answer resolves and imports, its forks need not.
    first = exercises(topics()[0])[0]
    for outcome in run(first.reference, first, seed=0):
        pack(outcome)
    gc.collect()
    gc.freeze()


def _watch(child: int, seconds: float, control: int) -> ExitReport:
    """Wait for the child, and kill it when its time is up or the grader is gone.

    Time for which it waits for a busy processor does not count, up to BUSY_FACTOR times its limit.
    """
    start = time.monotonic()
    pause = 0.001
    late = False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return ExitReport(status=os.waitstatus_to_exitcode(status), late=late)
        if _is_closed(control):
            _kill(child)
            _kill_leftovers(own_namespace=False)
            _remove_scratch()
            os._exit(1)
        passed = time.monotonic() - start
        if not late and passed > seconds:
            allowed = min(seconds + _seconds_queued(child), BUSY_FACTOR * seconds)
            if passed > allowed:
                late = True
                _kill(child)
        time.sleep(pause)
        pause = min(2 * pause, 0.005)


def _seconds_queued(pid: int) -> float:
    """Return how long a process was ready but waited for a processor; 0 where unknown."""
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _is_closed(control: int) -> bool:
    """Tell whether the pipe's other end is closed; nothing is sent on it while an answer runs."""
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    return bool(waiting.poll(0))


def _kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # kills what it has forked at once


def _kill_leftovers(own_namespace: bool) -> None:
    """Kill what the answer has left running, and empty the scratch folder."""
    if own_namespace:
        with contextlib.suppress(ProcessLookupError):
            # This reaches every process in the namespace except the first one and this one.
            os.kill(-1, signal.SIGKILL)
    else:
        kill_descendants(os.getpid())
    # Zombies are collected as well, because they count among an answer's processes.
    deadline = time.monotonic() + 1
    with contextlib.suppress(ChildProcessError):  # none is left
        while time.monotonic() < deadline:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.001)
    with contextlib.suppress(OSError, RecursionError):
        for entry in os.scandir("."):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


def _is_clean(mode: int) -> bool:
    """Tell whether the scratch folder is as it was before.

    An answer that runs as the server's own user can prevent this.
    """
    with contextlib.suppress(OSError):
        return os.stat(".").st_mode == mode and not os.listdir(".")
    return False


def _remove_scratch() -> None:
    """Remove the scratch folder in case the grader was killed, which otherwise does it.

    Under bwrap the folder vanishes with the sandbox.
    """
    with contextlib.suppress(OSError):
        os.rmdir(os.getcwd())


# ---------------------------------------------------------------------- in the answer's own process


def _answer(request: dict, results: int, prints: int, uid: int) -> None:
    """Run one answer and exit.  The process can write to two pipes and read from none."""
    try:
        for standard in (1, 2):
            os.dup2(prints, standard)
        os.closerange(3, results)
        os.closerange(results + 1, 1024)
        sys.stdout = os.fdopen(1, "w", 1, "utf-8", "backslashreplace", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
        os.setsid()
        _limit(uid)
        observe(request, lambda frame: send(results, frame))
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # a fault of the course, or an answer has broken what is used above
        traceback.print_exc()
    finally:
        os._exit(0)


def _limit(uid: int) -> None:
    """Set limits that the answer cannot lift, and become its own user where there is one."""
    limits = {
        "NOFILE": MAX_OPEN_FILES,
        "CORE": 0,
        "FSIZE": SCRATCH_BYTES,
        "NPROC": MAX_ANSWER_TASKS,
    }
    if sys.platform == "linux":
        limits["AS"] = psutil.Process().memory_info().vms + MAX_ANSWER_MEMORY_BYTES
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        highest = resource.getrlimit(kind)[1]
        value = value if highest == resource.RLIM_INFINITY else min(value, highest)
        resource.setrlimit(kind, (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # too large a file is an error, not the end
    if uid:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    if sys.platform == "linux":  # otherwise an answer could not read its own entries in /proc
        ctypes.CDLL(None).prctl(SET_DUMPABLE, 1, 0, 0, 0)
    refuse_syscalls()


def observe(request: dict, emit: Callable[[bytes], None]) -> None:
    """Find and run the answer that a request asks for; emit an AnswerInfo, then its outcomes.

    There is one outcome per case.
    request: exercise (its id), seed, cells (list of {name, source}), passed (ids), seconds.
    """
    exercise = find_exercise(request["exercise"])
    random.seed(request["seed"])
    np.random.seed(request["seed"])  # noqa: NPY002  for code that draws from it
    try:
        notebook = Notebook.parse(map(Cell.model_validate, request["cells"]))
        known = {one.id for topic in topics() for one in exercises(topic)}
        # Definitions with an unknown id are used as they are, as in the notebook.
        unknown = {s.answers for s in notebook.statements if s.answers} - known
        program = notebook.program(exercise.id, unknown.union(request["passed"]))
    except NoAnswer as error:
        return emit(AnswerInfo(missing=str(error)).model_dump_json().encode())
    info = AnswerInfo(
        notes=program.notes,
        replaced=tuple(sorted(set(program.replaced.values()))),
        unresolved=tuple(sorted(program.unresolved)),
        outside=tuple(sorted(program.outside)),
    )
    emit(info.model_dump_json().encode())
    left = len(
        exercise.make_cases(request["seed"])
    )  # drawn before any of the student's code has run
    try:
        answer = program.execute(lambda id: find_exercise(id).reference)
        cells = {statement.cell for statement in (*program.needed, program.answer)}
        forbid_calls(exercise.reference, cells)
        bytes_left = MAX_ANSWER_BYTES
        for outcome in run(answer, exercise, request["seed"]):
            frame = _pack_within(outcome, bytes_left)
            bytes_left -= len(frame)
            left -= 1
            emit(frame)
    # Raised by the statements that the answer needs, or an interrupt raised by the answer.
    except BaseException as error:
        for _ in range(left):
            emit(pack(Outcome(error=failure(error))))


def _pack_within(outcome: Outcome, bytes_left: int) -> bytes:
    """Return the outcome as bytes, or an outcome that says why it cannot be sent."""
    try:
        frame = pack(outcome)
        if len(frame) <= bytes_left:
            return frame
        trouble = f"what your code returns is larger than {MAX_ANSWER_BYTES // 2**20} MB"
    except ValueError:
        trouble = (
            "what your code returns cannot be compared: its texts are too long or its parts oddly"
            " named"
        )
    return pack(Outcome(error=Failure("ValueError", trouble)))


# ------------------------------------------------------------------------ the course's own solution


class CoursesOwnSolution(Exception):
    """Raised in an answer that calls the course's solution instead of being one."""


def forbid_calls(reference: Any, cells: set[str]) -> None:
    """Make `reference` refuse to be called by an answer, by the notebook's `cells`, or in a thread.

    Its code object is exchanged, so that it is covered under every name.  Calls by the course
    itself, which may build a case or a model with it, go through.  (Copying its code goes
    unnoticed: that is a matter for people, not for a jail.)
    """
    target = vars(reference).get("__init__") if isinstance(reference, type) else reference
    if not isinstance(target, types.FunctionType) or target.__closure__:
        return
    original = types.FunctionType(
        target.__code__, target.__globals__, target.__name__, target.__defaults__
    )
    original.__kwdefaults__ = target.__kwdefaults__

    def checked(*args: Any, **kwargs: Any) -> Any:
        frame = sys._getframe()
        theirs = threading.current_thread() is not threading.main_thread()
        while frame := frame.f_back:
            theirs = (
                theirs or frame.f_code is call_by_name.__code__ or frame.f_code.co_filename in cells
            )
        if theirs:
            raise CoursesOwnSolution("your answer calls the course's own solution of this exercise")
        return original(*args, **kwargs)

    target.__globals__["__checked__"] = checked
    target.__code__ = _forward.__code__


def _forward(*args: Any, **kwargs: Any) -> Any:
    return __checked__(*args, **kwargs)


# ----------------------------------------------------------------------------------------- messages


def send(descriptor: int, message: bytes) -> None:
    """Write a message and its length."""
    data = memoryview(struct.pack("<I", len(message)) + message)
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int) -> bytes | None:
    """Read the next message; return None where the stream ends."""
    head = _read_exactly(descriptor, 4)
    return None if head is None else _read_exactly(descriptor, struct.unpack("<I", head)[0])


def _read_exactly(descriptor: int, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        part = os.read(descriptor, min(size - len(data), 2**20))
        if not part:
            return None
        data += part
    return data


if __name__ == "__main__":
    main()
