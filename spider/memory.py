"""Work that asks for more memory than there is ends in one line, which says what needs less; how much there is."""

from __future__ import annotations

import re
import resource
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.errors import MachineError, is_out_of_memory

_AMOUNT = re.compile(r"allocate (?P<size>[\d.,]+ ?[A-Za-z]+)")
_CGROUPS = Path("/sys/fs/cgroup")


def training_needs_less(networks: Collection[str]) -> str:
    """What needs less memory in a training. `networks`: the keys that make its networks smaller."""
    smaller = f" or smaller networks ({', '.join(networks)})" if networks else ""
    return f"a smaller batch{',' if smaller else ' or'} a larger accumulation{smaller} need less"


@contextmanager
def needs_memory(what_needs_less: str) -> Iterator[None]:
    """A block, or a function, that may ask for too much.

    Args:
        what_needs_less: keys or options, in words that end the line.

    Raises:
        MachineError: it did. The cause is what Python, numpy or torch raised.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        amount = _AMOUNT.search(str(error))
        asked = f" (of {amount['size']} more)" if amount else ""
        raise MachineError(f"out of memory{asked}: {what_needs_less}") from error


def free_bytes() -> int | None:
    """What this process may still take of the host's memory; None where the system does not say (it is no Linux).

    The least of what the machine has left, and of what limits of the process (`ulimit`) and of its cgroup leave. A
    process that takes more is killed without a word, or refused.
    """
    return min([*_left_by_machine(), *_left_by_limits(), *_left_by_cgroup()], default=None)


def _left_by_machine() -> Iterator[int]:
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _left_by_limits() -> Iterator[int]:
    with suppress(OSError):
        pages = Path("/proc/self/statm").read_text().split()  # size, resident, shared, text, 0, data, 0
        for limit, used in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
            soft, _ = resource.getrlimit(limit)
            if soft != resource.RLIM_INFINITY:
                yield max(0, soft - int(used) * resource.getpagesize())


def _left_by_cgroup() -> Iterator[int]:
    """Of the process's own and all above it, as far as they are to be seen here; of version 2 or 1."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, limit, usage = _CGROUPS, "memory.max", "memory.current"
            elif controllers == "memory":
                root, limit, usage = _CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            else:
                continue
            own = root / path.strip("/")
            for group in (own, *own.parents):
                if group.is_relative_to(root):
                    yield from _left(group, limit, usage)


def _left(group: Path, limit: str, usage: str) -> Iterator[int]:
    with suppress(OSError, ValueError):  # no such group; no limit, which is the word `max`
        most, used = (int((group / name).read_text()) for name in (limit, usage))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        yield max(0, most - used + int(stat.get("inactive_file", 0)))  # which the kernel gives up when asked
