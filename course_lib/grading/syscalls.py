"""System calls that an answer is refused: memory that belongs to no process, and what outlives or
leaves the jail.

The limits of a jail look at processes and at the scratch folder.  What is refused here would pass
by them: files in memory, shared memory, and user namespaces, in which everyone can mount a file
system of any size.
"""

import ctypes
import errno
import os
import struct
import sys

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = {  # numbers on x86-64 and on ARM64, and the error
    "memfd_create": (319, 279, errno.EPERM),
    "memfd_secret": (447, 447, errno.EPERM),
    "shmget": (29, 194, errno.EPERM),
    "vmsplice": (278, 75, errno.EPERM),
    "unshare": (272, 97, errno.EPERM),
    # a filter cannot see its flags; the C library goes on with clone
    "clone3": (435, 435, errno.ENOSYS),
    "keyctl": (250, 219, errno.EPERM),
    "add_key": (248, 217, errno.EPERM),
    "request_key": (249, 218, errno.EPERM),
    "userfaultfd": (323, 282, errno.EPERM),
    "perf_event_open": (298, 241, errno.EPERM),
    "bpf": (321, 280, errno.EPERM),
    "io_uring_setup": (425, 425, errno.EPERM),
}
CLONE, NEW_USER = (56, 220), 0x10000000
MMAP, SHARED_WITHOUT_FILE = (9, 222), 0x21
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2  # prctl

# instructions of a classic BPF program
LOAD, AND, EQUAL, ANY_BIT, RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
# offsets in struct seccomp_data; each argument has 8 bytes
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


def refuse() -> None:
    """Refuse the calls above to this process and all that it starts, for ever.

    Linux on x86-64 and ARM64 alone; elsewhere, and in a kernel without seccomp, nothing is refused.
    """
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        return
    program = b"".join(struct.pack("<HBBI", *step) for step in _program(machine))
    steps = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(steps))
    prctl = ctypes.CDLL(None).prctl
    prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    prctl(SECCOMP, FILTER, header, 0, 0)


def _program(machine: str) -> list[tuple[int, int, int, int]]:
    """Instructions: code, how many to skip if it holds, how many if not, operand."""
    column = list(ARCHITECTURES).index(machine)
    refuse, allow = (RETURN, 0, 0, REFUSE | errno.EPERM), (RETURN, 0, 0, ALLOW)
    return [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        refuse,  # a call of another architecture, with numbers of its own
        (LOAD, 0, 0, NUMBER),
        (ANY_BIT, 0, 1, 0x40000000),
        refuse,  # x32, likewise
        *(
            step
            for *numbers, error in REFUSED.values()
            for step in ((EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, REFUSE | error))
        ),
        *(
            (EQUAL, 0, 4, CLONE[column]),
            (LOAD, 0, 0, ARGUMENTS),
            (ANY_BIT, 0, 1, NEW_USER),
            refuse,
            allow,
        ),
        *(
            (EQUAL, 0, 5, MMAP[column]),
            (LOAD, 0, 0, ARGUMENTS + 3 * 8),
            (AND, 0, 0, SHARED_WITHOUT_FILE),
        ),
        *((EQUAL, 0, 1, SHARED_WITHOUT_FILE), refuse, allow),
        allow,
    ]
