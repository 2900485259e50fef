"""Which process of this machine a number means. Numbers are used again: within minutes, or after a restart."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_ENDED = (b"Z", b"X")  # nobody has asked yet how it ended


def birth(pid: int) -> str | None:
    """What no other process has that ever had this number: when the machine started, and when the process did since.

    None if no process of that number runs here.
    """
    with suppress(OSError):
        # PID (NAME) STATE PARENT ...: the name may hold anything, also spaces and brackets
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        if fields[0] not in _ENDED:
            return f"{_BOOT.read_text().strip()} {int(fields[19])}"
    return None
