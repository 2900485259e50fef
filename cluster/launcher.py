"""What torchrun, or another launcher that sets its variables, says of this process; and numbers in an environment.

RANK=1 WORLD_SIZE=4 LOCAL_RANK=1 MASTER_ADDR=n1 MASTER_PORT=29500
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

from cluster.errors import ClusterUsageError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

_LAST_PORT = 65_535


@dataclass(frozen=True)
class LaunchedRank:
    """The place of this process among those that were launched together.

    Attributes:
        rank: of this process, 0 <= rank < size.
        size: how many there are.
        local_rank: of this process among those of its machine.
        address, port: where rank 0 is met.
    """

    rank: int
    size: int
    local_rank: int
    address: str
    port: int

    @classmethod
    def from_env(cls) -> Self | None:
        """None if nothing was launched. Raises ClusterUsageError for variables that are missing, or cannot be."""
        if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
            return None
        missing = [name for name in VARIABLES if not os.environ.get(name, "").strip()]
        if missing:
            present = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name not in missing)
            raise ClusterUsageError(f"{', '.join(missing)} missing in the environment beside {present}: use torchrun")
        rank, size, local_rank, port = (whole_number(name) for name in VARIABLES if name != "MASTER_ADDR")
        if rank >= size:
            raise ClusterUsageError(f"RANK={rank} must be at least 0 and less than WORLD_SIZE={size}")
        if not 0 < port <= _LAST_PORT:
            raise ClusterUsageError(f"MASTER_PORT={port} in the environment is no port: 1 to {_LAST_PORT}")
        return cls(rank, size, local_rank, os.environ["MASTER_ADDR"], port)


def processes() -> int:
    """How many were launched together with this one. Raises ClusterUsageError if that is no number."""
    return whole_number("WORLD_SIZE", "1")


def whole_number(name: str, default: str | None = None) -> int:
    """A variable of the environment that counts something.

    Raises:
        KeyError: it is not set, and there is no default.
        ClusterUsageError: it is no whole number, or negative.
    """
    text = os.environ[name] if default is None else os.environ.get(name, default)
    if not (text.strip().isascii() and text.strip().isdigit()):
        raise ClusterUsageError(f"{name}={text!r} in the environment is not a whole number")
    return int(text)
