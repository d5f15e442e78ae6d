"""The checksums of Matroska, which FFmpeg writes and does not compare (RFC 8794, 11.3.1)."""

import zlib
from collections.abc import Iterator

HEADER, SEGMENT = 0x1A45DFA3, 0x18538067
CHECKSUM = b"\xbf\x84"  # the name of a CRC-32 element, and its size


def is_damaged(data: bytes) -> bool:
    """Tell whether a part of a Matroska file is not what its checksum was made of.

    A part without a checksum (WebM has none), or cut off at the end, is not damaged; neither is a
    file of another kind.
    """
    if not data.startswith(HEADER.to_bytes(4, "big")):
        return False
    for name, start, end in _elements(data, 0, len(data)):
        inside = [(start, end)]
        if name == SEGMENT:
            inside = [(first, last) for _, first, last in _elements(data, start, end)]
        for first, last in inside:
            has_sum = data[first : first + 2] == CHECKSUM and first + 6 <= last
            stated = int.from_bytes(data[first + 2 : first + 6], "little")
            if has_sum and zlib.crc32(memoryview(data)[first + 6 : last]) != stated:
                return True
    return False


def _elements(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the name, the start and the end of the body of each whole element."""
    while at < end:
        name, at = _number(data, at, keep_marker=True)
        size, start = _number(data, at)
        is_unknown = size == (1 << 7 * (start - at)) - 1  # of a live stream: to the end
        stop = min(start + size, len(data)) if is_unknown or name == SEGMENT else start + size
        if stop > len(data):
            return
        yield name, start, stop
        at = stop


def _number(data: bytes, at: int, keep_marker: bool = False) -> tuple[int, int]:
    """Return a number of variable length, and where it ends: its leading zeros tell how long."""
    length = 9 - data[at].bit_length() if at < len(data) else 9
    value = int.from_bytes(data[at : at + length], "big")
    return value if keep_marker else value & ((1 << 7 * length) - 1), at + length
