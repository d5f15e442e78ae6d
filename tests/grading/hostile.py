"""What hostile, careless and unlucky students hand in: HOSTILE notebooks and odd FILES.

Each notebook attacks one exercise: it holds right answers to BEFORE and AFTER, and between them the
cells of the attack on TARGET.  Names like @home@ stand for what the tests have planted for the
attack to find; what it must not find contains PLANTED.
"""

import io
import json
import os
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from tests.grading.handed_in import IMPORTS, RIGHT, answer, notebook

BEFORE = "ddpm.q_sample"
TARGET = "ddpm.predict_x_start"
AFTER = "ddpm.posterior_mean_variance"
PLANTED = "planted-secret"
DECORATOR = f'@exercise("{TARGET}")\n'
STUB = f"{DECORATOR}def predict_x_start(x_t, t, eps, alphas_cumprod):\n"
RIGHT_BODY = """\
a = alphas_cumprod[t].to(x_t).reshape(-1, *[1] * (x_t.ndim - 1))
return (x_t - (1 - a).sqrt() * eps) / a.sqrt()
"""
SOLVED = RIGHT_BODY.replace("return", "y =")
LATE = "ran for more than"


@dataclass(frozen=True)
class Hostile:
    """A notebook that attacks TARGET.

    cells   of the attack
    says    a pattern of what the student is told
    earned  of the one point: none, unless the answer is right after all
    loops   whether it has to be stopped by the clock
    """

    cells: tuple[str, ...]
    says: str
    earned: float = 0.0
    loops: bool = False

    def sources(self, places: dict[str, str]) -> tuple[str, ...]:
        """Return all code cells of the notebook."""
        cells = self.cells
        for name, place in places.items():
            cells = tuple(cell.replace(f"@{name}@", place) for cell in cells)
        return (IMPORTS, RIGHT[BEFORE], *cells, RIGHT[AFTER])


def wrong(says: str, body: str, above: str = "") -> Hostile:
    """Return an answer with this body, and a cell above it."""
    return Hostile((dedent(above), answer(TARGET, body)), says)


def endless(body: str, above: str = "", says: str = LATE) -> Hostile:
    """Return an answer that never ends."""
    return Hostile((dedent(above), answer(TARGET, body)), says, loops=True)


def right(body: str, above: str = "", says: str = "") -> Hostile:
    """Return the right answer, given after something that harms nobody."""
    return Hostile((dedent(above), answer(TARGET, dedent(body) + RIGHT_BODY)), says, earned=1.0)


def cells(*sources: str, says: str = "", earned: float = 0.0) -> Hostile:
    """Return a notebook with these cells."""
    return Hostile(tuple(map(dedent, sources)), says, earned)


RIGHT_CELL = RIGHT[TARGET]
WRONG_CELL = answer(TARGET, "return x_t")

# --------------------------------------------------------------------------------------------- time

ENDING = {
    "loop": endless("while True: pass"),
    "loop that ignores all signals": endless("""
        import signal
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        while True:
            try:
                while True: pass
            except BaseException:
                pass
    """),
    "loop inside C": endless("import itertools\nsum(itertools.repeat(0))"),
    "deadlock": endless(
        "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()"
    ),
    "regular expression without an end": endless("import re\nre.fullmatch('(a*)*b', 'a' * 60)"),
    "stops itself": endless("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    "loop in a statement that the answer needs": endless(
        "return x_t * forever",
        above="""
        def never_ends():
            while True: pass
        forever = never_ends()
    """,
    ),
    "os._exit(0)": wrong("ended the process it ran in", "import os\nos._exit(0)"),
    "os._exit(3)": wrong("ended the process it ran in, with exit code 3", "import os\nos._exit(3)"),
    "sys.exit": wrong("SystemExit: enough", "import sys\nsys.exit('enough')"),
    "KeyboardInterrupt": wrong("KeyboardInterrupt", "raise KeyboardInterrupt"),
    "GeneratorExit": wrong("GeneratorExit", "raise GeneratorExit"),
    "exit in a statement that the answer needs": wrong(
        "exit code 3", "return size", "import os\nsize = os._exit(3)"
    ),
    "error in a statement that the answer needs": wrong(
        "ZeroDivisionError", "return size", "size = 1 / 0"
    ),
    "kills itself": wrong(r"signal 9 \(SIGKILL\)", "import os\nos.kill(os.getpid(), 9)"),
    "kills its process group": wrong(r"signal 9 \(SIGKILL\)", "import os\nos.killpg(0, 9)"),
    "kills its parent": wrong(
        "ValueError: it lives",
        """
        import contextlib, os, signal, time
        parent = os.getppid()
        for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.kill(parent, number)
        time.sleep(0.1)
        raise ValueError("it lives" if os.getppid() == 1 else "gone")
    """,
    ),
    "kills all": wrong(
        "ValueError: I live",
        """
        import contextlib, os
        with contextlib.suppress(OSError):
            os.kill(-1, 9)
        raise ValueError("I live")
    """,
    ),
    "abort": wrong("SIGABRT", "import os\nos.abort()"),
    "segmentation fault": wrong("SIGSEGV", "import ctypes\nctypes.string_at(0)"),
    "stack overflow": wrong(
        "SIGSEGV|RecursionError|MemoryError",
        """
        import sys
        sys.setrecursionlimit(10**9)
        def deeper(*_):
            return max([1], key=deeper)
        return deeper()
    """,
    ),
    "faulthandler": wrong(
        "exit code 1",
        """
        import faulthandler, time
        faulthandler.dump_traceback_later(0.05, exit=True)
        time.sleep(100)
    """,
    ),
    "alarm": wrong(
        "SIGALRM",
        "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\ntime.sleep(100)",
    ),
}

# ---------------------------------------------------------------------------------------- resources

RESOURCES = {
    "fork bomb": wrong(
        f"BlockingIOError|{LATE}|processes and threads",
        """
        import os
        for _ in range(1000):
            os.fork()
    """,
    ),
    "thread bomb": wrong(
        "RuntimeError: can't start new thread|processes and threads",
        """
        import threading, time
        while True:
            threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
    """,
    ),
    "20 GiB": wrong("RuntimeError: .*allocate", "return torch.zeros(20 * 2**28)"),
    "grows slowly": wrong(
        "MemoryError|GB of memory", "kept = []\nwhile True: kept.append(bytearray(2**24))"
    ),
    "memory of many processes": wrong(
        "GB of memory",
        """
        import os, time
        for _ in range(8):
            if os.fork() == 0:
                kept = bytearray(b"x" * 2**28)
                break
        time.sleep(100)
    """,
    ),
    "memory that forks share": wrong(
        "GB of memory",
        """
        import os, time
        kept = []
        for _ in range(12):
            kept.append(bytearray(b"x" * 2**27))
            if os.fork():
                time.sleep(100)
        time.sleep(100)
    """,
    ),
    "files in memory": wrong(
        "PermissionError",
        """
        import os
        while True:
            os.write(os.memfd_create("more"), bytes(2**20))
    """,
    ),
    "shared memory": wrong("PermissionError", "import mmap\nmmap.mmap(-1, 2**30)"),
    "shared memory of System V": wrong(
        "ValueError: refused",
        """
        import ctypes
        raise ValueError("refused" if ctypes.CDLL(None).shmget(0, 2**30, 0o1600) == -1 else "taken")
    """,
    ),
    "all system calls that are refused": wrong(
        "ValueError: refused all$",
        """
        import ctypes, errno, os
        from course_lib.grading.syscalls import REFUSED
        c, passed = ctypes.CDLL(None, use_errno=True), []
        for name, (*numbers, error) in REFUSED.items():
            ctypes.set_errno(0)
            number = numbers[os.uname().machine == "aarch64"]
            if c.syscall(number, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != error:
                passed.append(name)
        raise ValueError(f"refused all{passed or ''}")
    """,
    ),
    "namespaces of its own": wrong(
        "ValueError: refused",
        """
        import ctypes, os
        from signal import SIGCHLD
        user, mounts = 0x10000000, 0x00020000
        clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
        c = ctypes.CDLL(None)
        taken = c.unshare(user | mounts) == 0 or c.syscall(clone, user | SIGCHLD, 0, 0, 0, 0) != -1
        taken = taken or c.mount(b"none", b"/scratch", b"tmpfs", 0, None) == 0
        raise ValueError("taken" if taken else "refused")
    """,
    ),
    "one large file": wrong(
        "OSError: .*(File too large|No space left)",
        """
        with open("large", "wb") as file:
            while True:
                file.write(bytes(2**20))
    """,
    ),
    "many files": wrong(
        "OSError: .*No space left",
        """
        for n in range(1000):
            with open(f"{n}", "wb") as file:
                file.write(bytes(2**20))
    """,
    ),
    "many empty files": wrong(
        "ValueError: 5000",
        """
        import os
        for n in range(5000):
            os.close(os.open(f"{n}", os.O_CREAT))
        raise ValueError(len(os.listdir()))
    """,
    ),
    "/dev/shm": wrong("OSError: .*Read-only file system", "open('/dev/shm/more', 'wb')"),
    "endless print": endless("while True: print('no end ' * 100)"),
    "endless error messages": endless("import sys\nwhile True: sys.stderr.write('no end ' * 100)"),
    "binary print": right("import os\nos.write(1, bytes(range(256)) * 100)\n"),
    "print without a new line": right("print('no line', end='')\n"),
    "closes what it prints to": right("import os\nos.closerange(0, 3)\n"),
    "opens all files there are": wrong(
        "OSError: .*Too many open files",
        """
        kept = []
        while True:
            kept.append(open("/dev/null"))
    """,
    ),
}

# ------------------------------------------------------------------------------------------ secrets

PATTERN = f"[{PLANTED[0]}]{PLANTED[1:]}|[#] SOLUTION"  # the pattern does not match itself
LOOK = f"""
    import os, re

    def look(*places):
        "Return the secrets in these files, or in the files of these folders."
        files = [place for place in places if not os.path.isdir(place)]
        for place in places:
            for folder, _, names in os.walk(place):
                files += [os.path.join(folder, name) for name in names]
        found = []
        for file in files:
            try:
                with open(file, errors="replace") as stream:
                    found += re.findall("{PATTERN}", stream.read(10**6))
            except (OSError, ValueError) as error:
                pass
        return found
"""


def search(*places: str) -> Hostile:
    """Return an answer that searches places for the planted secret."""
    return wrong(
        r"ValueError: found \[\]$",
        f'raise ValueError(f"found {{look({", ".join(places)})}}")',
        LOOK,
    )


SECRETS = {
    "reads the solutions": search("'@solutions@'", "'/course/solutions'", "'/course/notebooks'"),
    "reads the grades": search("'@grades@'", "'@grades@/students/ada/grade.json'"),
    "reads other submissions": search("'@submissions@'", "'@submissions@/zoe.ipynb'"),
    "reads the home directory": search("'@home@'", "'@home@/.secret'", "os.path.expanduser('~')"),
    "reads the temporary directory": search("'@home@/..'", "'/var/tmp'", "os.environ['TMPDIR']"),
    "reads its environment": search("'/proc/self/environ'"),
    "reads the environment of its parent": search("f'/proc/{os.getppid()}/environ'"),
    "reads the environment of all": search(
        "*(f'/proc/{p}/{f}' for p in range(1000) for f in ('environ', 'cmdline'))"
    ),
    "reads the environment in os.environ": wrong(
        r"ValueError: found \[\]$",
        f"""
        import os, re
        raise ValueError(f"found {{re.findall('{PATTERN}', str(os.environ))}}")
    """,
    ),
    "reads through the root of another process": search("'/proc/1/root@home@'", "'/proc/1/cwd/'"),
    "reads the password file": wrong(
        "FileNotFoundError", "raise ValueError(open('/etc/passwd').read())"
    ),
    "reads its descriptors": wrong(
        "ValueError: found 0",
        """
        import os, stat
        kinds = [os.fstat(n).st_mode for n in range(256) if os.path.exists(f"/proc/self/fd/{n}")]
        raise ValueError(f"found {sum(map(stat.S_ISREG, kinds))}")
    """,
    ),
    "reads the memory of its parent": wrong(
        "ValueError: found nothing",
        """
        import ctypes, os
        parent, found = os.getppid(), []
        for name in ("mem", "maps", "environ", "auxv", "fd/0", "fd/1", "stack", "syscall"):
            try:
                flags = os.O_RDWR if name == "mem" else os.O_RDONLY
                found.append(os.open(f"/proc/{parent}/{name}", flags))
                os.read(found[-1], 1)
            except OSError:
                pass
        c = ctypes.CDLL(None)
        buffer = ctypes.create_string_buffer(100)
        local = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 100)
        remote = (ctypes.c_void_p * 2)(0x400000, 100)
        if c.ptrace(16, parent, 0, 0) != -1:
            found.append("ptrace")
        if c.process_vm_readv(parent, local, 1, remote, 1, 0) != -1:
            found.append("process_vm_readv")
        raise ValueError(f"found {found or 'nothing'}")
    """,
    ),
    "looks for what the judge expects": wrong(
        "ValueError: found nothing",
        """
        import gc
        known = [o for o in gc.get_objects() if type(o).__name__ in ("Outcome", "Verdict", "Leaf")]
        known = [o for o in known if getattr(o, "outputs", None)]
        raise ValueError(f"found {known or 'nothing'}")
    """,
    ),
}

# ------------------------------------------------------------------------------------------ network

NETWORK = {
    "connects to the world": wrong(
        "OSError: .*(unreachable|refused)",
        """
        import socket
        socket.create_connection(("1.1.1.1", 80), 2)
    """,
    ),
    "connects to the grader's machine": wrong(
        "ConnectionRefusedError",
        """
        import socket
        socket.create_connection(("127.0.0.1", @port@), 2)
    """,
    ),
    "resolves a name": wrong("gaierror", "import socket\nsocket.getaddrinfo('example.com', 80)"),
    "asks a name server": wrong(
        "OSError: .*unreachable",
        """
        import socket
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"?", ("8.8.8.8", 53))
    """,
    ),
    "sends a datagram to the grader's machine": wrong(
        "ValueError: sent",
        """
        import socket
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"?", ("127.0.0.1", @port@))
        raise ValueError("sent")
    """,
    ),
    "IPv6": wrong(
        "OSError: .*(unreachable|not supported|assign)",
        """
        import socket
        socket.create_connection(("2606:4700:4700::1111", 80), 2)
    """,
    ),
    "a socket among the files": wrong(
        "FileNotFoundError",
        """
        import socket
        socket.socket(socket.AF_UNIX).connect("@home@/socket")
    """,
    ),
    "a socket without a file": wrong(
        "ConnectionRefusedError",
        r"""
        import socket
        socket.socket(socket.AF_UNIX).connect("\0@abstract@")
    """,
    ),
    "a server of its own": wrong(
        "ValueError: deaf",
        """
        import os, socket
        server = socket.create_server(("0.0.0.0", 0))
        server.settimeout(0.1)
        try:
            server.accept()
        except TimeoutError:
            raise ValueError("deaf")
    """,
    ),
}

# ------------------------------------------------------------------------------------------ writing

WRITING = {
    "writes outside its folder": wrong(
        "ValueError: wrote nothing",
        """
        import os, sys, torch, course_lib
        wrote = []
        places = ["/", "/tmp", "/usr", "/usr/bin", "/etc", "/course", "/course/course_lib"]
        places += ["/dev", "/dev/shm", "/proc", "/proc/sys/kernel", "/sys", "/home", "/root"]
        places += ["/var/tmp", sys.prefix, "@home@"]
        places += [os.path.dirname(module.__file__) for module in (torch, course_lib)]
        for place in places:
            try:
                open(os.path.join(place, "hostile.py"), "w").close()
                wrote.append(place)
            except OSError:
                pass
        raise ValueError(f"wrote {wrote or 'nothing'}")
    """,
    ),
    "changes the library": wrong(
        "ValueError: changed nothing",
        """
        import os, sys, torch, course_lib.checking.diagnose as diagnose
        changed = []
        files = [torch.__file__, diagnose.__file__, os.__file__, sys.executable]
        files += ["/proc/sys/kernel/hostname", f"/proc/{os.getppid()}/oom_score_adj"]
        files += ["/proc/sysrq-trigger", "/etc/ld.so.cache"]
        for file in files:
            for change in (
                lambda: open(file, "r+"),
                lambda: os.truncate(file, 0),
                lambda: os.unlink(file),
                lambda: os.chmod(file, 0o777),
                lambda: os.rename(file, file + "x"),
            ):
                try:
                    change()
                    changed.append(file)
                except OSError:
                    pass
        raise ValueError(f"changed {changed or 'nothing'}")
    """,
    ),
    "becomes root": wrong(
        "ValueError: gained nothing",
        """
        import ctypes, os
        c, gained = ctypes.CDLL(None), []
        for name, attempt in {
            "user": lambda: os.setuid(0) if os.getuid() else os.getuid() / 0,
            "group": lambda: os.setgroups([0, 1]),
            "root": lambda: os.chroot("/scratch"),
            "device": lambda: os.mknod("disk", 0o60666, os.makedev(8, 0)),
            "mount": lambda: 1 / (1 + c.mount(b"none", b"/scratch", b"tmpfs", 0, None)),
            "writable": lambda: 1 / (1 + c.mount(None, b"/", None, 0x20 | 0x1000, None)),
            "name": lambda: 1 / (1 + c.sethostname(b"x", 1)),
            "limit": lambda: os.nice(-5),
        }.items():
            try:
                attempt()
                gained.append(name)
            except (OSError, ZeroDivisionError):
                pass
        raise ValueError(f"gained {gained or 'nothing'}")
    """,
    ),
    "lifts its limits": wrong(
        "ValueError: lifted nothing",
        """
        import resource
        lifted = []
        for name in ("AS", "NOFILE", "NPROC", "FSIZE", "CORE"):
            kind = getattr(resource, f"RLIMIT_{name}")
            try:
                resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                lifted.append(name)
            except (OSError, ValueError):
                pass
        raise ValueError(f"lifted {lifted or 'nothing'}")
    """,
    ),
    "leaves modules behind": cells(
        "!ls  # needs IPython",
        *right("""
        import os, sys
        names = ["torch", "IPython", "json", "psutil", "safetensors"]
        names += ["course_lib", "usercustomize", "random"]
        for name in names:
            if os.path.exists(name):
                continue
            os.mkdir(name)
            with open(f"{name}/__init__.py", "w") as file:
                file.write("import os\\nos._exit(9)")
            with open(f"{name}.py", "w") as file:
                file.write("import os\\nos._exit(9)")
            os.chmod(name, 0o500)
    """).cells,
        earned=1.0,
    ),
    "leaves what cannot be removed": right("""
        import os
        if os.getcwd() == "/scratch":
            os.makedirs("locked/inside")
            os.chmod("locked/inside", 0)
            os.chmod("locked", 0)
            for name in ("-rf", "\\n", "\\udcff", "x" * 255):
                os.symlink("/proc/self/root", name)
            for _ in range(3000):
                os.mkdir("d")
                os.chdir("d")
    """),
    "closes its folder": right("""
        import contextlib, os
        with contextlib.suppress(PermissionError):
            os.chmod("/scratch", 0)
    """),
}

# ------------------------------------------------------------------------------------------ forgery

FORGE = """
    import json, os, stat, struct
    from course_lib.checking.observe import Leaf, Outcome
    from course_lib.grading.records import Found
    from course_lib.grading.wire import pack

    def message(data):
        return struct.pack("<I", len(data)) + data

    def tell(data, everywhere=True):
        "Write to all that is open for writing here, and in the processes above."
        for n in range(1, 256):
            try:
                os.write(n, data)
            except OSError:
                pass
        for process in (os.getppid(), 1) if everywhere else ():
            for n in range(1, 256):
                try:
                    there = os.open(f"/proc/{process}/fd/{n}", os.O_WRONLY | os.O_NONBLOCK)
                    os.write(there, data)
                    os.close(there)
                except OSError:
                    pass

    def outcome(value, like):
        inputs = {f"['{name}']": Leaf("tensor", part) for name, part in like.items()}
        gradients = {"x_t": torch.ones_like(value), "eps": torch.ones_like(value)}
        return message(pack(Outcome({"": Leaf("tensor", value)}, inputs, gradients)))
"""
ENDED = '{"status": 0, "late": false, "clean": true}'
NEXT = json.dumps({"missing": "", "notes": [], "replaced": [], "unresolved": [], "outside": []})

FORGERY = {
    "garbage to every descriptor": wrong(
        "cannot be read|ended the process",
        """
        for garbage in (b"garbage" * 1000, bytes(4000), b"\\xff" * 4000):
            tell(garbage)
        return x_t
    """,
        FORGE,
    ),
    "garbage and an exit": wrong(
        "cannot be read|ended the process", "tell(b'\\x05\\0\\0\\0')\nos._exit(0)", FORGE
    ),
    "half a message": wrong(
        "ended the process", "tell(b'\\xff\\xff\\xff\\x7f12345')\nos._exit(0)", FORGE
    ),
    "the end of its own exercise": wrong(
        "values are not|cannot be read",
        f"""
        tell(message({ENDED.encode()}))
        return x_t
    """,
        FORGE,
    ),
    "outcomes of its own": wrong(
        "values are not",
        """
        tell(3 * outcome(torch.zeros_like(x_t), locals()), everywhere=False)
        os._exit(0)
    """,
        FORGE,
    ),
    "outcomes of the next exercise": wrong(
        "cannot be read",
        f"""
        own = 3 * outcome(torch.zeros_like(x_t), locals())
        tell(message({ENDED.encode()}))
        tell(own + message({NEXT.encode()}) + own)
        os._exit(0)
    """,
        FORGE,
    ),
    "outcomes that call themselves not attempted": wrong(
        "",
        """
        from course_lib.checking.observe import Failure
        tell(3 * message(pack(Outcome(error=Failure("NotImplementedError", "")))), everywhere=False)
        os._exit(0)
    """,
        FORGE,
    ),
    "outcomes that take the grader's memory": wrong(
        "cannot be read",
        """
        record = '{"outputs":[' + "[]," * 10**6 + "[]]}"
        header = json.dumps({"__metadata__": {"outcome": record}}).encode()
        data = message(struct.pack("<Q", len(header)) + header)
        tell(data, everywhere=False)
        results = [n for n in range(3, 256) if os.path.exists(f"/proc/self/fd/{n}")
                   and stat.S_ISFIFO(os.stat(f"/proc/self/fd/{n}").st_mode)]
        for part in range(0, len(data), 2**16):
            os.write(results[0], data[part:][:2**16])
        os._exit(0)
    """,
        FORGE,
    ),
    "an error in an endless line": wrong(
        "Error: x",
        """
        from course_lib.checking.observe import Failure
        error = Failure("Error", "x", (("f", 10**4000, "x"), ("f", -1, "x")))
        tell(3 * message(pack(Outcome(error=error))), everywhere=False)
        os._exit(0)
    """,
        FORGE,
    ),
    "millions of messages": wrong(
        "cannot be read|more than 40 MB",
        """
        results = [n for n in range(3, 256) if os.path.exists(f"/proc/self/fd/{n}")
                   and stat.S_ISFIFO(os.stat(f"/proc/self/fd/{n}").st_mode)]
        for _ in range(500):
            os.write(results[0], message(b"ab") * 10_000)
        os._exit(0)
    """,
        FORGE,
    ),
    "a process that stays and writes": wrong(
        "values are not",
        """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True:
                    tell(outcome(torch.zeros_like(x_t), {}))
            os._exit(0)
        return x_t
    """,
        FORGE,
    ),
    "a process that stays and kills": wrong(
        "values are not",
        """
        import os, signal
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                for number in range(1, 32):
                    if number not in (9, 19, 17):
                        signal.signal(number, signal.SIG_IGN)
                while True:
                    for process in os.listdir("/proc"):
                        if process.isdigit() and int(process) not in (os.getpid(), os.getppid()):
                            try:
                                os.kill(int(process), signal.SIGKILL)
                            except OSError:
                                pass
        return x_t
    """,
    ),
    "processes that always start others": wrong(
        "values are not|BlockingIOError",
        """
        import os
        for _ in range(4):
            if os.fork() == 0:
                while True:
                    try:
                        os.setsid() if os.getpgrp() != os.getpid() else None
                        if os.fork():
                            os._exit(0)
                    except OSError:
                        pass
        return x_t
    """,
    ),
}

# ------------------------------------------------------------------------------------------ patches

ZEROS = "return torch.zeros_like(x_t)"
WRONG_VALUES = "values are not"

PATCHES = {
    "patches the decorator": wrong(
        WRONG_VALUES,
        ZEROS,
        """
        import course_lib.classroom, course_lib.classroom.exercise as module
        course_lib.classroom.exercise = exercise = lambda id: lambda answer: answer
        module.check_answer = module.examine = lambda *_: (None, True)
    """,
    ),
    "patches the comparison": wrong(
        WRONG_VALUES,
        f"""
        import course_lib.checking.compare as compare, course_lib.checking.diagnose as diagnose
        torch.allclose = torch.equal = torch.isclose = lambda *a, **k: True
        torch.testing.assert_close = lambda *a, **k: True
        compare.close = diagnose.close = compare._compare_values = lambda *a, **k: True
        compare.compare = diagnose.compare = compare._compare_outputs = lambda *a, **k: None
        diagnose.assess = lambda exercise, *_: diagnose.Verdict("passed", (None,) * 3)
        {ZEROS}
    """,
    ),
    "patches the comparison for all": wrong(
        WRONG_VALUES,
        ZEROS,
        """
        import course_lib.checking.diagnose as diagnose
        torch.allclose = lambda *a, **k: True
        torch.equal = lambda *a, **k: True
        diagnose.compare = lambda *a, **k: None
    """,
    ),
    "patches torch for all": wrong(
        WRONG_VALUES,
        ZEROS,
        """
        import os
        torch.randn = torch.rand = torch.cat = lambda *a, **k: torch.zeros(1)
        torch.nothing = 1 / 0
        torch.more = os._exit(3)
    """,
    ),
    "patches torch": wrong(
        WRONG_VALUES,
        f"""
        torch.randn = torch.rand = torch.randint = lambda *a, **k: torch.zeros(1)
        torch.Tensor.__eq__ = torch.Tensor.__le__ = torch.Tensor.__mul__ = lambda *_: torch.ones(())
        torch.set_default_dtype(torch.float64)
        torch.Tensor.detach = torch.Tensor.copy_ = lambda x, *a: x
        {ZEROS}
    """,
    ),
    "patches the reference": wrong(
        WRONG_VALUES,
        f"""
        from course_lib.checking import find_exercise
        def zeros(x_t, t, eps, alphas_cumprod):
            {ZEROS}
        ddpm.predict_x_start = zeros
        object.__setattr__(find_exercise("{TARGET}"), "reference", zeros)
        return zeros(x_t, t, eps, alphas_cumprod)
    """,
    ),
    "patches the code of the reference": wrong(
        WRONG_VALUES,
        f"""
        ddpm.predict_x_start.__code__ = (lambda x_t, t, eps, alphas_cumprod: 0 * x_t).__code__
        {ZEROS}
    """,
    ),
    "patches the cases": wrong(
        ".",
        f"""
        from course_lib.checking import find_exercise
        object.__setattr__(find_exercise("{TARGET}"), "cases", lambda rng: [])
        object.__setattr__(find_exercise("{TARGET}"), "tolerance", 1e9)
        object.__setattr__(find_exercise("{TARGET}"), "points", 1000)
        {ZEROS}
    """,
    ),
    "patches what observes it": wrong(
        ".",
        f"""
        import course_lib.checking.observe as observe, course_lib.grading.jail as jail
        observe.Outcome.error = observe.flatten = observe._observe = observe.failure = None
        jail.run = jail.pack = jail.send = jail.observe = jail._pack_within = None
        {ZEROS}
    """,
    ),
    "patches the jail that runs it": wrong(
        ".",
        f"""
        import sys
        main = sys.modules["__main__"]
        main.pack = main._frame = lambda *_: b""
        main.failure = main.send = lambda *_: None
        {ZEROS}
    """,
    ),
    "patches builtins": wrong(
        ".",
        f"""
        import builtins
        names = ["len", "isinstance", "type", "str", "range", "open", "print", "__import__"]
        for name in [*names, "BaseException"]:
            setattr(builtins, name, lambda *a, **k: True)
        {ZEROS}
    """,
    ),
    "patches the ends": wrong(
        ".",
        f"""
        import os, sys
        os._exit = os.waitpid = os.dup2 = os.kill = os.close = lambda *_: (1, 0)
        sys.exit = sys.excepthook = sys.unraisablehook = lambda *_: None
        {ZEROS}
    """,
    ),
    "patches the standard streams": right("""
        import sys
        class Stream:
            def __getattr__(self, name):
                raise RuntimeError
        sys.stdout = sys.stderr = Stream()
    """),
    "patches a standard stream that never ends": endless("""
        import sys
        class Stream:
            def write(self, text):
                while True: pass
        sys.stdout = Stream()
        print()
    """),
    "empties sys.modules": wrong(
        WRONG_VALUES,
        f"""
        import sys
        for name in list(sys.modules):
            if name.startswith(("torch", "course_lib", "safetensors", "json")):
                del sys.modules[name]
        {ZEROS}
    """,
    ),
    "traces": wrong(
        ".",
        f"""
        import sys, threading
        def trace(frame, event, argument):
            for name in frame.f_locals:
                if name in ("outcome", "exercise", "room", "left", "error"):
                    frame.f_locals[name] = None
            raise RuntimeError("traced")
        sys.settrace(trace)
        sys.setprofile(trace)
        {ZEROS}
    """,
    ),
    "outlives": right("""
        import atexit, signal, threading, time
        atexit.register(time.sleep, 100)
        threading._register_atexit(time.sleep, 100)
        threading.Thread(target=time.sleep, args=(100,)).start()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    """),
    "switches gradients off": right("torch.set_grad_enabled(False)\n"),
    "turns the collector off": right("import gc\ngc.disable()\ngc.get_objects().clear()\n"),
    "imports all": wrong(
        "ModuleNotFoundError: No module named 'evil'", "return evil(x_t)", "from evil import *"
    ),
}

# ------------------------------------------------------------------------------------------ objects

ALWAYS = """
    class Always:
        def __eq__(self, other): return True
        def __ne__(self, other): return False
        def __bool__(self): return True
        def __len__(self): return 0
        def __hash__(self): return 0
        def __getattr__(self, name): return self
        def __call__(self, *a, **k): return self
        __lt__ = __le__ = __gt__ = __ge__ = __eq__
        __add__ = __sub__ = __mul__ = __radd__ = __rsub__ = __rmul__ = __getitem__ = __call__
"""

OBJECTS = {
    "equal to everything": wrong("your answer|Your answer", "return Always()", ALWAYS),
    "calls itself a tensor": wrong(
        ".",
        """
        class Liar(Always):
            __class__ = property(lambda self: torch.Tensor)
        return Liar()
    """,
        ALWAYS,
    ),
    "calls itself a number": wrong(
        ".",
        """
        class Liar(float):
            __eq__ = __le__ = lambda *_: True
            def __float__(self): raise SystemExit
        return Liar(1)
    """,
    ),
    "a type of another name": wrong(
        ".",
        """
        class Named(type):
            __name__ = property(lambda cls: Named)
        kind = Named if issubclass(type(Exception), Named) else type
        class Strange(Exception, metaclass=kind): pass
        class Thing(metaclass=Named): pass
        return Thing()
    """,
    ),
    "a tensor that answers for itself": wrong(
        WRONG_VALUES,
        """
        class Mine(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                return torch.tensor(True)
        return torch.zeros_like(x_t).as_subclass(Mine)
    """,
    ),
    "a tensor that dispatches for itself": wrong(
        ".",
        """
        class Mine(torch.Tensor):
            __torch_function__ = torch._C._disabled_torch_function_impl
            @classmethod
            def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
                return torch.ones(x_t.shape)
        return torch.Tensor._make_wrapper_subclass(Mine, x_t.shape)
    """,
    ),
    "a right answer in a subclass": cells(
        "import torch",
        answer(
            TARGET,
            """
        class Mine(torch.Tensor): pass
        a = alphas_cumprod[t].to(x_t).reshape(-1, *[1] * (x_t.ndim - 1))
        return ((x_t - (1 - a).sqrt() * eps) / a.sqrt()).as_subclass(Mine)
    """,
        ),
        earned=1.0,
    ),
    "an attribute that raises": wrong(
        ".",
        """
        class Evil:
            def __getattribute__(self, name): raise SystemExit(name)
        return Evil()
    """,
    ),
    "an attribute that never ends": endless("""
        class Evil:
            def __getattribute__(self, name):
                while True: pass
        return Evil()
    """),
    "NaN": wrong("NaN", "return x_t * float('nan')"),
    "infinite": wrong(WRONG_VALUES, "return x_t / 0"),
    "another dtype": wrong("dtype", SOLVED + "return y.half()"),
    "another shape": wrong("shape", "return x_t[None]"),
    "on another device": wrong(".", "return x_t.to('meta')"),
    "sparse": wrong("sparse", "return x_t.to_sparse()"),
    "quantized": wrong(
        "quantized", "return torch.quantize_per_tensor(x_t.detach(), 0.1, 0, torch.qint8)"
    ),
    "nested tensor": wrong("nested", "return torch.nested.nested_tensor([x_t])"),
    "float8": wrong(".", "return x_t.to(torch.float8_e4m3fn)"),
    "complex": wrong("dtype", "return x_t + 0j"),
    "65 axes": wrong(".", "return torch.zeros(65 * [1])"),
    "a gigabyte that is not there": wrong(
        "holds 8,589,934,592 numbers", "return torch.zeros(1).expand(2**33)"
    ),
    "64 MB": wrong("larger than 32 MB", "return torch.zeros(2**24)"),
    "nothing": wrong("is None.*`return` missing", "x_t"),
    "not implemented": wrong("", "raise NotImplementedError"),
    "nested deeply": wrong(
        "contains itself",
        """
        nest = []
        for _ in range(100_000):
            nest = [nest]
        return nest
    """,
    ),
    "holds itself": wrong("contains itself", "nest = []\nnest.append(nest)\nreturn nest"),
    "too many parts": wrong("more than 1000 parts", "return [x_t] * 10**5"),
    "a generator": wrong("generator", "return (x for x in x_t)"),
    "a generator function": wrong("generator", "yield x_t"),
    "a coroutine": cells(STUB.replace("def", "async def") + "    return x_t", says="coroutine"),
    "a mapping without an end": endless(
        """
        import itertools
        from collections.abc import Mapping
        class Endless(Mapping):
            def __iter__(self): return itertools.count()
            def __len__(self): return 1
            def __getitem__(self, key): return key
        return Endless()
    """,
        says=f"{LATE}|MemoryError",
    ),
    "strange names": wrong(
        "strange|oddly", "return {'\\ud800': x_t, 'a\\nb': x_t, '<b>' * 100: x_t}"
    ),
    "long names": wrong(".", "return {f'{n:050d}': x_t for n in range(900)}"),
    "a long text": wrong("str", "return 'x' * 10**7"),
    "an array of objects": wrong(
        "ndarray", "import numpy\nreturn numpy.array([x_t, Ellipsis], dtype=object)"
    ),
    "a module, a type, a function": wrong("tuple or list of 3", "return torch, type, print"),
    "a data class that lies": wrong(
        ".",
        """
        class Fake:
            __dataclass_fields__ = {"x": 3, "y": None}
            x = property(lambda self: self)
        return Fake()
    """,
    ),
    "changes its input": wrong(
        "changed its input `x_t` in place", SOLVED + "x_t.zero_()\nreturn y"
    ),
    "empties its input": wrong(
        "changed its input `x_t`", SOLVED + "x_t.data = torch.zeros(0)\nreturn y"
    ),
    "resizes its input": wrong("changed its input `t`", SOLVED + "t.resize_(100)\nreturn y"),
    "right at first": cells(
        "calls = []",
        answer(TARGET, "calls.append(1)\nif len(calls) > 2: return x_t\n" + RIGHT_BODY),
        says=WRONG_VALUES,
        earned=0.25,
    ),
    "an error that cannot be printed": wrong(
        "no readable message",
        """
        class Evil(Exception):
            def __str__(self): raise ValueError
        raise Evil
    """,
    ),
    "an error that never ends to be printed": endless("""
        class Evil(Exception):
            def __str__(self):
                while True: pass
        raise Evil
    """),
    "an error that kills": wrong(
        "exit code 4",
        """
        import os
        class Evil(Exception):
            def __str__(self): os._exit(4)
        raise Evil
    """,
    ),
    "an error that raises an exit": wrong(
        ".",
        """
        class Text(str):
            def __getitem__(self, key): raise SystemExit
        class Evil(BaseException):
            def __str__(self): return Text("x" * 1000)
        raise Evil
    """,
    ),
    "a long error": wrong("Error: xxx", "raise ValueError('x' * 10**7)"),
    "a chain of errors": wrong(
        "Error",
        """
        error = None
        for _ in range(10_000):
            following = ValueError("x")
            following.__cause__, error = error, following
        raise error
    """,
    ),
}

# ------------------------------------------------------------------------------------ the reference

OWN = "CoursesOwnSolution: your answer calls the course's own solution"
OPEN = r"write the parameters \(x_t, t, eps, alphas_cumprod\) out"
CALL = "(x_t, t, eps, alphas_cumprod)"

REFERENCE = {
    "the reference": wrong(OWN, f"return ddpm.predict_x_start{CALL}"),
    "the reference under another name": wrong(
        OWN, f"return solve{CALL}", "solve = ddpm.predict_x_start"
    ),
    "the reference of the exercise": wrong(
        OWN,
        f"""
        from course_lib.checking import find_exercise
        return find_exercise("{TARGET}").reference{CALL}
    """,
    ),
    "the reference in a helper": wrong(
        OWN,
        f"return helper{CALL}",
        """
        def helper(*values):
            return list(map(ddpm.predict_x_start, *[[value] for value in values]))[0]
    """,
    ),
    "the reference in a process": wrong(
        OWN,
        f"""
        import io, os
        reading, writing = os.pipe()
        if os.fork() == 0:
            with open(writing, "wb") as pipe:
                torch.save(ddpm.predict_x_start{CALL}, pipe)
            os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            return torch.load(io.BytesIO(pipe.read() or ddpm.predict_x_start{CALL}))
    """,
    ),
    "the reference in a thread": wrong(
        OWN,
        f"""
        from concurrent.futures import ThreadPoolExecutor
        return ThreadPoolExecutor().submit(ddpm.predict_x_start, *{CALL}).result()
    """,
    ),
    "the reference in code of its own": wrong(
        OWN,
        f"return solve{CALL}",
        """
        def elsewhere():
            code = "from course_lib.papers import ddpm"
            code += "; solve = lambda *given: ddpm.predict_x_start(*given)"
            exec(compile(code, "elsewhere", "exec"), globals())
            return solve
        solve = elsewhere()
    """,
    ),
    "the reference by a decorator": cells(
        "def instead(answer): return ddpm.predict_x_start", "@instead\n" + WRONG_CELL, says=OPEN
    ),
    "the reference in a partial function": cells(
        "import functools\ndef instead(answer): return functools.partial(ddpm.predict_x_start)",
        "@instead\n" + WRONG_CELL,
        says=OPEN,
    ),
    "the reference through a class": cells(
        "class Solved:\n    __call__ = staticmethod(ddpm.predict_x_start)\ndef instead(answer):"
        " return Solved()",
        "@instead\n" + WRONG_CELL,
        says=OPEN,
    ),
}

# An exercise whose gradients are compared, and answers of the right values that tamper with them.
DIFFERENTIATED = "ddpm.hybrid_loss"
HYBRID = """
eps, v = output.chunk(2, dim=1)
simple = ((noise - eps) ** 2).flatten(1).mean(1)
y = simple + 0.001 * len(betas) * improved_ddpm.vlb_term(eps.detach(), v, x_start, x_t, t, betas)
"""
NO_FLOW = "gradients do not flow back to `output`"
GRADIENTS = {
    "switches gradients off": (
        answer(DIFFERENTIATED, f"torch.set_grad_enabled(False){HYBRID}return y"),
        NO_FLOW,
    ),
    "no gradients": (answer(DIFFERENTIATED, f"{HYBRID}return y.detach()"), NO_FLOW),
    "gradients of its own": (
        answer(DIFFERENTIATED, f"{HYBRID}s = output.flatten(1).sum(1)\nreturn y + s - s.detach()"),
        "the gradient with respect to `output`",
    ),
}

# ---------------------------------------------------------------------------------------- notebooks

DEEP = {
    "brackets": "x = " + "(" * 100_000,
    "signs": "x = " + "-" * 100_000 + "1",
    "attributes": "x = a" + ".b" * 100_000,
    "sums": "x = " + "a + " * 100_000 + "1",
    "conditions": "x = " + "a if b else " * 20_000 + "c",
    "elif": "if a: pass\n" + "elif b: pass\n" * 20_000,
    "lambdas": "x = " + "lambda: " * 20_000 + "1",
    "decorators": "@a\n" * 20_000 + "def f(): pass",
    "indents": "".join(" " * n + "if a:\n" for n in range(200)) + " " * 200 + "pass",
    "strings": "x = f'" + "{" * 10_000,
}

NOTEBOOKS = {
    "no answer": cells("x = 1", says="No definition with @exercise"),
    "no decorator": cells(RIGHT_CELL.partition("\n")[2], says="does not count without @exercise"),
    "a stub": cells(answer(TARGET, "raise NotImplementedError  # your turn")),
    "an unknown exercise": cells(RIGHT_CELL.replace('predict_x_start"', 'predict"'), says="."),
    "syntax error": cells(RIGHT_CELL + "\n)", says="cannot be read: unmatched"),
    "syntax error in another cell": cells("def f(:", RIGHT_CELL, "x = (", earned=1.0),
    "two answers, the last one right": cells(
        WRONG_CELL, RIGHT_CELL, says="2 times; the last one counts", earned=1.0
    ),
    "two answers, the last one wrong": cells(
        RIGHT_CELL, WRONG_CELL, says="2 times; the last one counts"
    ),
    "two answers, the last one broken": cells(
        RIGHT_CELL, WRONG_CELL + ")", says="left out", earned=1.0
    ),
    "the decorator under another name": cells(
        "from course_lib.classroom import exercise as check",
        RIGHT_CELL.replace("@exercise", "@check"),
        earned=1.0,
    ),
    "the decorator as an attribute": cells(
        RIGHT_CELL.replace("@exercise", "@room.exercise"), earned=1.0
    ),
    "magics": cells(
        "%matplotlib inline\n!pip install evil\nx = !ls",
        "%%time\n" + RIGHT_CELL,
        "%%bash\nrm -rf /",
        earned=1.0,
    ),
    "600 magics": cells("!ls\n" * 600, RIGHT_CELL, earned=1.0),
    "300,000 magics": cells("!a\n" * 300_000, RIGHT_CELL, earned=1.0),
    "many cells of magics": cells(*["!a\n" * 20] * 100, RIGHT_CELL, earned=1.0),
    "unicode": cells(
        "größe, 变量, 𝔵 = 1.0, 1, 2",
        answer(
            TARGET,
            "print('é', '🎲', '\u202e')\nα = größe * 变量 * x / 2\n" + SOLVED + "return α * y",
        ),
        earned=1.0,
    ),
    "loops that are not needed": cells(
        "while True: pass", "for _ in iter(int, 1): pass", RIGHT_CELL, earned=1.0
    ),
    "an exit that is not needed": cells(
        "import os\nos._exit(3)\nraise SystemExit", "1 / 0", RIGHT_CELL, earned=1.0
    ),
    "names that are deleted": cells("del torch", "del x_t, a", RIGHT_CELL, earned=1.0),
    "a helper below": cells(
        answer(TARGET, f"return solved{CALL}"),
        RIGHT_CELL.replace("predict_x_start", "solved").partition("\n")[2],
        earned=1.0,
    ),
    "a class instead of a function": cells(
        f"{DECORATOR}class predict_x_start:\n    def __init__(self, *_): pass",
        says=OPEN,
    ),
    "a lambda": cells(
        f'predict_x_start = exercise("{TARGET}")(lambda x_t, t, eps, alphas_cumprod: x_t)',
        says="No definition",
    ),
    "the same parameter twice": cells(
        f"{DECORATOR}def predict_x_start(x_t, x_t): return x_t",
        says="SyntaxError: duplicate argument",
    ),
    "answers known by heart": cells(
        "KNOWN = @known@",
        answer(TARGET, "return torch.tensor(KNOWN[tuple(x_t.shape)])"),
        says=WRONG_VALUES,
    ),
    "other parameters": cells(
        f"{DECORATOR}def predict_x_start(*values): return values[0]", says=OPEN
    ),
    **{f"deep {name}": cells(source, RIGHT_CELL, earned=1.0) for name, source in DEEP.items()},
    "many statements": cells("a;" * 30_000, "x = [" + "a," * 30_000 + "]", RIGHT_CELL, earned=1.0),
}

# -------------------------------------------------------------------------------------------- pages

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"

PAGES = {
    "script in an error": wrong("<script>alert", f"raise ValueError('{SCRIPT}')"),
    "script in the name of an error": wrong(
        "<script>alert", f"raise type('{SCRIPT}', (Exception,), {{}})('x')"
    ),
    "script in the name of a type": wrong("<script>alert", f"return type('{SCRIPT}', (), {{}})()"),
    "script in what is printed": wrong(WRONG_VALUES, f"print('{SCRIPT}')\nreturn x_t"),
    "script in a name": wrong("<script>alert", f"return {{'{SCRIPT}': x_t}}"),
    "script in the code": wrong("ZeroDivisionError", f"return 1 / 0  # {SCRIPT}"),
    "script in the name of a function": wrong(
        "Error",
        f"""
        def f(): raise ValueError
        f.__code__ = f.__code__.replace(co_name='{SCRIPT}', co_filename='{SCRIPT}')
        f()
    """,
    ),
    "terminal and direction": wrong(
        "Error", "raise ValueError('\\x1b[2J\\x1b]0;x\\x07\\u202e\\x00')"
    ),
    "an error that is no text": wrong(".", "raise ValueError('\\ud800')"),
}

ANYWHERE = {
    **ENDING,
    **RESOURCES,
    **SECRETS,
    **NETWORK,
    **WRITING,
    **FORGERY,
    **PATCHES,
    **OBJECTS,
    **PAGES,
}
HOSTILE = {**ANYWHERE, **REFERENCE, **NOTEBOOKS}
# The exercises whose functions take tensors.
OTHERS = [id for id in RIGHT if id not in (BEFORE, AFTER, "ddpm.cosine_alphas_cumprod")]
TENSOR = (
    "x_t = eps = next(value for value in list(locals().values()) if isinstance(value,"
    " torch.Tensor))"
)


def gathered(places: dict[str, str]) -> dict[str, bytes]:
    """Return notebooks with all attacks that can be made in any exercise.

    Each attack is on another one of OTHERS.
    """
    notebooks = {}
    for n in range(0, len(ANYWHERE), len(OTHERS)):
        cells = [IMPORTS]
        for id, name in zip(OTHERS, list(ANYWHERE)[n:], strict=False):
            cells += [
                cell.replace(STUB, answer(id, TENSOR))
                for cell in HOSTILE[name].sources(places)[2:-1]
            ]
        notebooks[f"hostile {n}"] = notebook(*cells)
    return notebooks


# -------------------------------------------------------------------------------------------- files

ALL_RIGHT = (IMPORTS, RIGHT[BEFORE], RIGHT[TARGET], RIGHT[AFTER])
CODE = {"cell_type": "code", "metadata": {}, "outputs": []}


@dataclass(frozen=True)
class Odd:
    """Something at the top of the submissions.

    make    puts it into a folder
    says    a pattern of the notes on it
    earned  of six points
    """

    make: Callable[[Path], object]
    says: str = ""
    earned: float = 0.0


def data(name: str, content: bytes, says: str) -> Odd:
    """Return a file with this content."""
    return Odd(lambda folder: (folder / name).write_bytes(content), says)


def called(name: str) -> Odd:
    """Return a right notebook of this name."""
    return Odd(lambda folder: (folder / name).write_bytes(notebook(*ALL_RIGHT)), earned=6.0)


def zipped(
    name: str, members: dict[str | zipfile.ZipInfo, bytes], says: str = "", earned: float = 0.0
) -> Odd:
    """Return a zip of these members."""

    def make(folder: Path) -> None:
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member, content)

    return Odd(make, says, earned)


def changed(**parts: object) -> bytes:
    """Return a right notebook with these parts instead of its own."""
    return json.dumps(json.loads(notebook(*ALL_RIGHT)) | parts).encode()


def version_3() -> bytes:
    """Return a right notebook of format 3."""
    lines = (source.splitlines(keepends=True) for source in ALL_RIGHT)
    sheet = [{"cell_type": "code", "input": source, "language": "python"} for source in lines]
    return json.dumps(
        {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": sheet}]}
    ).encode()


def link(name: str) -> zipfile.ZipInfo:
    """Return a zip's member that is a symbolic link."""
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def large(folder: Path) -> None:
    """Write a right notebook of 100 MB."""
    with open(folder / "large.ipynb", "wb") as file:
        file.write(notebook(*ALL_RIGHT))
        file.truncate(100 * 2**20)


def linked(folder: Path) -> None:
    """Write a folder of symbolic links."""
    (folder / "links").mkdir()
    (folder / "links" / "a.ipynb").symlink_to(
        Path(__file__).parents[2] / "notebooks" / "01_ddpm.ipynb"
    )
    (folder / "links" / "b").symlink_to("/")
    (folder / "links" / "c").symlink_to(".")


def bomb() -> bytes:
    """Return a zip of large files."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(4):
            archive.writestr(f"{n}.ipynb", bytes(2 * 10**7))
    return inner.getvalue()


FILES = {
    "malformed JSON": data("malformed.ipynb", b'{"cells": [', "is not JSON"),
    "truncated": data("truncated.ipynb", notebook(*ALL_RIGHT)[:-100], "is not JSON"),
    "empty": data("empty.ipynb", b"", "is empty"),
    "an image": data("image.ipynb", b"\x89PNG\r\n\x1a\n" + bytes(100), "is not text"),
    "a list": data("list.ipynb", b"[1, 2]", "is not a notebook"),
    "nested JSON": data("nested.ipynb", b'{"cells":' + b"[" * 100_000, "nested|JSON"),
    "no cells": data("no-cells.ipynb", b'{"nbformat": 4}', "no list of cells"),
    "format 5": data("five.ipynb", changed(nbformat=5), "format 5"),
    "strange cells": data(
        "strange.ipynb",
        changed(cells=[None, 3, {}, CODE | {"source": {"a": 1}}, CODE | {"source": "\ud800\0"}]),
        "",
    ),
    "endless integers": data(
        "integers.ipynb", changed(cells=[], x=3).replace(b"3}", b"3" * 10**5 + b"}"), "no code"
    ),
    "100 MB": Odd(large, "at most 20 MB are read"),
    "100 MB in a zip": zipped("bomb.zip", {"a.ipynb": bytes(100 * 2**20)}, "20 MB"),
    "zips in zips": zipped("bombs.zip", {f"{n}.zip": bomb() for n in range(3)}, "More than 100 MB"),
    "no zip": data("no.zip", b"PK\3\4" + bytes(100), "is not a zip"),
    "version 3": Odd(lambda folder: (folder / "three.ipynb").write_bytes(version_3()), earned=6.0),
    "zip slip": zipped(
        "slip.zip",
        {
            name: notebook()
            for name in ("../../slipped.ipynb", "/tmp/slipped.ipynb", "..\\slipped.ipynb")
        },
        "leads out of its folder",
    ),
    "link in a zip": zipped("link.zip", {link("a.ipynb"): b"/etc/passwd"}, "symbolic link"),
    "links": Odd(linked, "symbolic link"),
    "a pipe": Odd(lambda folder: os.mkfifo(folder / "pipe.ipynb"), "neither a file nor a folder"),
    "a folder called notebook": Odd(
        lambda folder: (folder / "folder.ipynb").mkdir(), "No notebook"
    ),
    "HTML for a name": called("<img src=x onerror=alert(1)>.ipynb"),
    "script for a name": zipped(
        "script.zip", {"<script>alert(1)</script>.ipynb": notebook(*ALL_RIGHT)}, "", 6.0
    ),
    "a formula for a name": called("=HYPERLINK(1).ipynb"),
    "dots for a name": called(" .. .ipynb"),
    "a path for a name": called("C:\\..\\etc\\passwd.ipynb"),
    "a device for a name": called("con.ipynb"),
    "an option for a name": called("-rf *.ipynb"),
    "lines for a name": called("a\nb\x1b[2J.ipynb"),
    "another direction for a name": called("\u202egpj.ipynb"),
    "a long name": called("x" * 249 + ".ipynb"),
    "unicode for a name": called("Žofie 变量 🎲.ipynb"),
}
