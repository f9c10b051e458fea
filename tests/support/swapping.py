"""Memory of a process, swapped out as it is on a machine that has too little. Linux only; needs swap space."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

_PROCESS_MADVISE: Final = 440
_MADV_PAGEOUT: Final = 21


class _Range(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("size", ctypes.c_size_t))


def has_swap_space() -> bool:
    """Return whether this machine can swap."""
    return sys.platform == "linux" and len(Path("/proc/swaps").read_text().splitlines()) > 1


def swap_out(pid: int) -> float:
    """Write all private memory of a process to the swap space; returns the MiB that are there."""
    process = os.pidfd_open(pid)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            addresses, rights = line.split()[:2]
            if rights.startswith("rw") and rights.endswith("p"):
                start, end = (int(address, 16) for address in addresses.split("-"))
                region = _Range(start, end - start)
                # It fails for regions that are locked or gone meanwhile, which stay where they are.
                libc.syscall(_PROCESS_MADVISE, process, ctypes.byref(region), 1, _MADV_PAGEOUT, 0)
    finally:
        os.close(process)
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmSwap:")[2].split()[0]) / 1_024
