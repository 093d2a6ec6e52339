"""The classic BPF that seccomp filters are written in, interpreted. Source: linux/filter.h."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

LOAD, AND, RETURN, JUMP = 0x20, 0x54, 0x06, 0x05
BRANCHES: dict[int, Callable[[int, int], bool]] = {
    0x15: lambda a, k: a == k,
    0x25: lambda a, k: a > k,
    0x35: lambda a, k: a >= k,
    0x45: lambda a, k: bool(a & k),
}


def run(program: bytes, arch: int, syscall: int, args: Sequence[int] = ()) -> int:
    """What ``program`` returns for a system call; an unknown instruction is a KeyError."""
    words = [arg & (1 << 64) - 1 for arg in (*args, 0, 0, 0, 0, 0, 0)][:6]
    data = struct.pack("<iIQ6Q", syscall - (1 << 32 if syscall >= 1 << 31 else 0), arch, 0, *words)
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator: int = 0
    position = 0
    while True:
        code, yes, no, k = instructions[position]
        position += 1
        if code == LOAD:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == AND:
            accumulator &= k
        elif code == JUMP:
            position += k
        elif code == RETURN:
            return int(k)
        else:
            position += yes if BRANCHES[code](accumulator, k) else no
