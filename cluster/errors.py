"""What can go wrong between processes and machines. `str(error)` is the one line that the user sees."""

from __future__ import annotations


class ClusterError(Exception):
    """A failure of ranks, of their communication or of their checkpoints."""

    exit_code = 1


class ClusterUsageError(ClusterError):
    """A mistake of the caller that can be named before anything runs: an environment, a device, a checkpoint's name."""

    exit_code = 2
