"""The jailed side of grading: a server that has the course loaded and forks one process for every
answer.

    python -m course_lib.grading.jail RESULTS PRINTS WALLS UID

Requests come on standard input and statuses go to standard output, as JSON after its length.  What
an answer shows goes to the file descriptor RESULTS and what it prints to PRINTS, straight from its
own process, which holds nothing else of the server.  WALLS is `bwrap` in a process namespace of our
own, `process` without one. UID is the user that answers run as, 0 for the server's own.  Nothing of
a notebook is run or even parsed in the server itself.
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
from course_lib.grading.isolation import PATIENCE, kill_descendants
from course_lib.grading.program import NoAnswer, Notebook, Program
from course_lib.grading.records import Cell, Ending, Found
from course_lib.grading.syscalls import refuse
from course_lib.grading.wire import pack

MEMORY = 2 * 2**30  # bytes an answer may take on top of the course
SCRATCH = 64 * 2**20  # bytes of a file
PROCESSES = 64  # processes and threads of an answer
FILES = 256
ANSWER = 32 * 2**20  # bytes of what an answer returns, all cases together
SET_DUMPABLE, SET_CHILD_SUBREAPER = 4, 36  # prctl


def main() -> None:
    """Serve until standard input ends."""
    results, prints, uid = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4])
    alone = sys.argv[3] == "bwrap"
    control, statuses = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    _harden()
    _warm_up()
    with contextlib.suppress(BrokenPipeError):  # the grader has gone
        send(statuses, b"{}")  # ready
        clean, mode = True, os.stat(".").st_mode
        while clean and (message := receive(control)):
            request = json.loads(message)
            child = os.fork()
            if child == 0:
                _answer(request, results, prints, uid)
            ending = _watch(child, request["seconds"], control)
            _sweep(alone)
            clean = _is_clean(mode)
            send(statuses, ending.model_copy(update={"clean": clean}).model_dump_json().encode())
    _remove_scratch()


def _harden() -> None:
    """Answers must not look into this process; and those whose parent has died become children of
    it.
    """
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(SET_DUMPABLE, 0, 0, 0, 0)
        prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _warm_up() -> None:
    """Load what every answer needs, once."""
    torch.set_num_threads(1)
    for topic in topics():
        exercises(topic)
    x = torch.ones(2, requires_grad=True)
    torch.autograd.grad(x.square(), x, torch.ones(2))  # imports sympy
    gc.collect()
    gc.freeze()


def _watch(child: int, seconds: float, control: int) -> Ending:
    """Wait for the child, and kill it past its time, or when the grader is gone.

    Where others keep the processors busy, its waiting for one does not count, up to PATIENCE times
    its time.
    """
    start, pause = time.monotonic(), 0.001
    late = False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return Ending(status=os.waitstatus_to_exitcode(status), late=late)
        if _hung_up(control):
            _sweep_and_exit(child)
        passed = time.monotonic() - start
        if (
            not late
            and passed > seconds
            and passed > min(seconds + _queued(child), PATIENCE * seconds)
        ):
            late = True
            _kill(child)
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _queued(pid: int) -> float:
    """Seconds for which a process that could run waited for a processor; 0 where the system does
    not tell.
    """
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _hung_up(control: int) -> bool:
    """Whether the other end of the pipe is closed; nothing is sent while an answer runs."""
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    return bool(waiting.poll(0))


def _sweep_and_exit(child: int) -> None:
    _kill(child)
    _sweep(alone=False)
    _remove_scratch()
    os._exit(1)


def _kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # what it has forked, at one stroke


def _sweep(alone: bool) -> None:
    """Kill what the answer has left running, and empty the scratch folder."""
    if alone:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)  # all in this namespace but its first process and this one
    else:
        kill_descendants(os.getpid())
    deadline = time.monotonic() + 1
    # none is left; the dead count among an answer's processes, too
    with contextlib.suppress(ChildProcessError):
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
    """Whether the scratch folder is as it was; an answer that runs as the user of the server can
    prevent it.
    """
    with contextlib.suppress(OSError):
        return os.stat(".").st_mode == mode and not os.listdir(".")
    return False


def _remove_scratch() -> None:
    """The grader does this, unless it was killed.  Behind walls the folder is a part of them, and
    goes with them.
    """
    with contextlib.suppress(OSError):
        os.rmdir(os.getcwd())


# ------------------------------------------------------------------------------ in the answer's own process


def _answer(request: dict, results: int, prints: int, uid: int) -> None:
    """Run one answer and leave.  It holds the two pipes to write to, and nothing to read from."""
    try:
        for standard in (1, 2):
            os.dup2(prints, standard)
        os.closerange(3, results)
        os.closerange(results + 1, 1024)
        sys.stdout, sys.stderr = (
            os.fdopen(n, "w", 1, "utf-8", "backslashreplace", closefd=False) for n in (1, 2)
        )
        os.setsid()
        _limit(uid)
        observe(request, lambda frame: send(results, frame))
        sys.stdout.flush()
        sys.stderr.flush()
    # a fault of the course, or of an answer that has broken what stands above
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _limit(uid: int) -> None:
    """Limits that the answer cannot lift, and a user of its own where there is one."""
    limits = {"NOFILE": FILES, "CORE": 0, "FSIZE": SCRATCH, "NPROC": PROCESSES}
    if sys.platform == "linux":
        limits["AS"] = psutil.Process().memory_info().vms + MEMORY
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        highest = resource.getrlimit(kind)[1]
        value = value if highest == resource.RLIM_INFINITY else min(value, highest)
        resource.setrlimit(kind, (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file too large is an error, not the end
    if uid:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    if sys.platform == "linux":  # or an answer could not read what /proc says of itself
        ctypes.CDLL(None).prctl(SET_DUMPABLE, 1, 0, 0, 0)
    refuse()


def observe(request: dict, emit: Callable[[bytes], None]) -> None:
    """Find and run the answer that a request asks for.  Emits what was Found, then an outcome per
    case.

    request: exercise (its id), seed, cells (list of {name, source}), passed (ids), seconds.
    """
    exercise = find_exercise(request["exercise"])
    random.seed(request["seed"])
    np.random.seed(request["seed"])  # noqa: NPY002  for code that draws from it
    try:
        notebook = Notebook.parse(map(Cell.model_validate, request["cells"]))
        known = {one.id for topic in topics() for one in exercises(topic)}
        # left as they are, as in the notebook
        unknown = {s.answers for s in notebook.statements if s.answers} - known
        program = notebook.program(exercise.id, unknown.union(request["passed"]))
    except NoAnswer as error:
        return emit(Found(missing=str(error)).model_dump_json().encode())
    emit(_described(program).model_dump_json().encode())
    left = len(
        exercise.make_cases(request["seed"])
    )  # drawn before anything of the student's has run
    try:
        answer = program.execute(lambda id: find_exercise(id).reference)
        guard(
            exercise.reference, {statement.cell for statement in (*program.needed, program.answer)}
        )
        room = ANSWER
        for outcome in run(answer, exercise, request["seed"]):
            frame = _frame(outcome, room)
            room -= len(frame)
            left -= 1
            emit(frame)
    # in the statements that were needed, or an interrupt raised by the answer
    except BaseException as error:
        for _ in range(left):
            emit(pack(Outcome(error=failure(error))))


def _frame(outcome: Outcome, room: int) -> bytes:
    """The outcome as bytes; if it cannot be sent, what is wrong with it."""
    try:
        frame = pack(outcome)
        if len(frame) <= room:
            return frame
        trouble = f"what your code returns is larger than {ANSWER // 2**20} MB"
    except ValueError:
        trouble = (
            "what your code returns cannot be compared: its texts are too long or its parts oddly"
            " named"
        )
    return pack(Outcome(error=Failure("ValueError", trouble)))


def _described(program: Program) -> Found:
    return Found(
        notes=program.notes,
        replaced=tuple(sorted(set(program.replaced.values()))),
        unresolved=tuple(sorted(program.unresolved)),
        outside=tuple(sorted(program.outside)),
    )


# --------------------------------------------------------------------------------- the course's own solution


class CoursesOwnSolution(Exception):
    """Raised in an answer that calls the course's solution instead of being one."""


def guard(reference: Any, cells: set[str]) -> None:
    """From here on `reference` refuses to be called by an answer, by code of the notebook's
    `cells`, or in a thread.

    Its code object is exchanged, so that every name it goes by is covered.  Calls by the course
    itself, which may build a case or a model with it, go through.  (Copying its code is not
    noticed: that is a matter for people, not for a jail.)
    """
    target = vars(reference).get("__init__") if isinstance(reference, type) else reference
    if not isinstance(target, types.FunctionType) or target.__closure__:
        return
    original = types.FunctionType(
        target.__code__, target.__globals__, target.__name__, target.__defaults__
    )
    original.__kwdefaults__ = target.__kwdefaults__

    def checked(*args: Any, **kwargs: Any) -> Any:
        frame, theirs = sys._getframe(), threading.current_thread() is not threading.main_thread()
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


# ------------------------------------------------------------------------------------------------ messages


def send(descriptor: int, message: bytes) -> None:
    """Write a message and its length."""
    data = memoryview(struct.pack("<I", len(message)) + message)
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int) -> bytes | None:
    """Read the next message; None where the stream ends."""
    head = _read(descriptor, 4)
    return None if head is None else _read(descriptor, struct.unpack("<I", head)[0])


def _read(descriptor: int, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        part = os.read(descriptor, min(size - len(data), 2**20))
        if not part:
            return None
        data += part
    return data


if __name__ == "__main__":
    main()
