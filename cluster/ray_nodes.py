"""Wait until nodes have joined the Ray cluster at RAY_ADDRESS: `python -m cluster.ray_nodes SECONDS NAME...`

A process of its own, because whoever connects to a cluster becomes a part of it and dies with it. The last line of what
it prints is why it gave up, exit code 1.
"""

from __future__ import annotations

import sys
import time

from cluster.errors import ClusterError, one_line
from cluster.ray import connected

_POLL_S = 0.5


def wait_for_nodes(names: list[str], timeout_s: float) -> None:
    """Raises ClusterError with the names of those that have not come."""
    deadline = time.monotonic() + timeout_s
    with connected("auto"):
        import ray

        def living() -> set[str]:
            return {node["NodeName"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]

        while missing := set(names) - living():
            if time.monotonic() > deadline:
                late = ", ".join(sorted(missing))
                raise ClusterError(
                    f"{len(missing)} of {len(names)} nodes have not joined Ray in {timeout_s:g} s: {late}"
                )
            time.sleep(_POLL_S)


if __name__ == "__main__":
    try:
        wait_for_nodes(sys.argv[2:], float(sys.argv[1]))
    except ClusterError as error:
        sys.exit(one_line(error))
