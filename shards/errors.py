"""What goes wrong in shards, as one line for the person who ran it.

The command line catches these, prints ``error: <message>`` and exits with the class's `exit_code`.
"""

from __future__ import annotations


class ShardsError(Exception):
    """Something that was asked for rightly failed: a damaged shard, a missing file, too many bad images."""

    exit_code = 1


class ShardsUsageError(ShardsError):
    """What was asked for cannot be: an unknown source, a value out of range, options that do not fit the input."""

    exit_code = 2


class ShardsMachineError(ShardsError):
    """Storage that did not answer, or a reading process that was killed: the same command may go well later."""

    exit_code = 3


def refusal(error: Exception) -> type[ShardsError]:
    """What a file system's refusal is: of what is not there, or not ours, it is the same the next time."""
    lasting = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
    return ShardsError if isinstance(error, lasting) else ShardsMachineError
