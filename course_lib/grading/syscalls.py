"""System calls that are refused to answers, because they would evade the limits of a jail.

The limits watch processes and the scratch folder.  The calls refused here would bypass them:
memory that belongs to no process (files in memory, shared memory), what outlives or leaves the
jail, and user namespaces, in which everyone can mount a file system of any size.
"""

import ctypes
import errno
import os
import struct
import sys

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = {  # call: (number on x86-64, number on ARM64, error)
    "memfd_create": (319, 279, errno.EPERM),
    "memfd_secret": (447, 447, errno.EPERM),
    "shmget": (29, 194, errno.EPERM),
    "vmsplice": (278, 75, errno.EPERM),
    "unshare": (272, 97, errno.EPERM),
    # A filter cannot see the flags of clone3; without it the C library falls back on clone.
    "clone3": (435, 435, errno.ENOSYS),
    "keyctl": (250, 219, errno.EPERM),
    "add_key": (248, 217, errno.EPERM),
    "request_key": (249, 218, errno.EPERM),
    "userfaultfd": (323, 282, errno.EPERM),
    "perf_event_open": (298, 241, errno.EPERM),
    "bpf": (321, 280, errno.EPERM),
    "io_uring_setup": (425, 425, errno.EPERM),
}
# The numbers of clone and mmap on both architectures, and the flags with which they are refused.
CLONE = (56, 220)
NEW_USER = 0x10000000
MMAP = (9, 222)
SHARED_WITHOUT_FILE = 0x21

# Arguments of prctl.
NO_NEW_PRIVILEGES = 38
SECCOMP = 22
FILTER = 2

# Instructions of a classic BPF program.
LOAD = 0x20
AND = 0x54
EQUAL = 0x15
ANY_BIT = 0x45
RETURN = 0x06

# Byte offsets in struct seccomp_data, in which each argument has 8 bytes.
NUMBER_OFFSET = 0
ARCHITECTURE_OFFSET = 4
ARGUMENTS_OFFSET = 16

# Verdicts of a filter; REFUSE is combined with the error that the caller gets.
ALLOW = 0x7FFF0000
REFUSE = 0x00050000

Instruction = tuple[int, int, int, int]


def refuse_syscalls() -> None:
    """Refuse the calls above to this process and to all that it starts, irrevocably.

    Works on Linux on x86-64 and ARM64 only; elsewhere, and in a kernel without seccomp, nothing is
    refused.
    """
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        return
    program = b"".join(struct.pack("<HBBI", *step) for step in _filter_program(machine))
    steps = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(steps))
    prctl = ctypes.CDLL(None).prctl
    prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    prctl(SECCOMP, FILTER, header, 0, 0)


def _filter_program(machine: str) -> list[Instruction]:
    """Return the filter's instructions: (code, steps to skip if true, if false, operand)."""
    column = list(ARCHITECTURES).index(machine)
    refuse = (RETURN, 0, 0, REFUSE | errno.EPERM)
    allow = (RETURN, 0, 0, ALLOW)
    program = [
        (LOAD, 0, 0, ARCHITECTURE_OFFSET),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        refuse,  # Another architecture has other numbers.
        (LOAD, 0, 0, NUMBER_OFFSET),
        (ANY_BIT, 0, 1, 0x40000000),
        refuse,  # So has x32.
    ]
    for *numbers, error in REFUSED.values():
        program.append((EQUAL, 0, 1, numbers[column]))
        program.append((RETURN, 0, 0, REFUSE | error))
    program += [
        (EQUAL, 0, 4, CLONE[column]),
        (LOAD, 0, 0, ARGUMENTS_OFFSET),
        (ANY_BIT, 0, 1, NEW_USER),
        refuse,
        allow,
    ]
    program += [
        (EQUAL, 0, 5, MMAP[column]),
        (LOAD, 0, 0, ARGUMENTS_OFFSET + 3 * 8),
        (AND, 0, 0, SHARED_WITHOUT_FILE),
        (EQUAL, 0, 1, SHARED_WITHOUT_FILE),
        refuse,
        allow,
    ]
    return [*program, allow]
