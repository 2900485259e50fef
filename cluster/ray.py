"""Ray: a cluster to work on, for a while or one that is there, and workers on it that may die.

    with connected("local") as cluster, RayWorkers(make, cluster) as workers:
        for done in workers.run(pieces): ...

A piece of work whose worker dies, with its machine or alone, is done again by another; one that fails for the third
time is given up, by name, and the others go on. Pieces are sent to a worker two at a time, so that it never waits and a
death costs little. Nothing here needs torch.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cluster.errors import ClusterError, ClusterUsageError, one_line
from cluster.workers import Done, Piece

LOCAL = "local"
AUTO = "auto"

_ATTEMPTS = 3
_IN_FLIGHT = 2  # pieces that a worker has: one that it does, and the next
_OBJECT_STORE_BYTES = 512 << 20  # pieces and what they return are small; Ray would take a third of the memory
_POLL_S = 10.0
_CONNECT_S = 20.0


@dataclass(frozen=True)
class RayCluster:
    """A cluster that this process is connected to.

    Attributes:
        address: where it is, as `connected` takes it.
        nodes: machines that are there now.
        cpus, gpus: what they have together.
        cpus_per_gpu: cores for each GPU, on every machine that has any; at least 1.
    """

    address: str
    nodes: int
    cpus: int
    gpus: int
    cpus_per_gpu: int = 1


@contextmanager
def connected(address: str) -> Iterator[RayCluster]:
    """A Ray cluster for the time of the block.

    Args:
        address: `local` starts one on this machine's cores and GPUs and stops it afterwards; `auto` is the one that
            RAY_ADDRESS names or that runs on this machine; `HOST:PORT` any other. Those go on afterwards.

    Raises:
        ClusterUsageError: this process is connected already.
        ClusterError: nothing answers there, or it runs another version of Ray or Python.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray will, and warns that it does not yet
    logging.getLogger("ray").setLevel(logging.ERROR)  # what it says before `init`, which sets the level again
    import ray

    if ray.is_initialized():
        raise ClusterUsageError("this process is connected to a Ray cluster already")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    context: Any
    try:
        if address == LOCAL:
            context = ray.init(
                "local",
                num_cpus=len(os.sched_getaffinity(0)),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=f"/tmp/spider-ray-{os.getuid()}",  # /tmp/ray may be somebody else's; sockets need short names
                **quiet,
            )
        else:
            _require_listener(os.environ.get("RAY_ADDRESS", address) if address == AUTO else address)
            _show_token()
            context = ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ClusterError(f"no Ray cluster at {address}: {reason}") from error
    session = context.address_info["session_dir"]
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        yield _describe(address, nodes)
    finally:
        ray.shutdown()
        if address == LOCAL:
            shutil.rmtree(Path(session).resolve(), ignore_errors=True)


@dataclass(eq=False)
class _Hand:
    """A process on the cluster, and what it was given and has not answered yet, in order.

    Attributes:
        actor: its handle.
        starting: what it answers when its worker is made; None once it has.
        given: answers to come, with their pieces.
    """

    actor: Any
    starting: Any
    given: deque[tuple[Any, Piece]] = field(default_factory=deque)


def _describe(address: str, nodes: Sequence[Mapping[str, float]]) -> RayCluster:
    cpus, gpus = ([int(node.get(kind, 0)) for node in nodes] for kind in ("CPU", "GPU"))
    each = [cores // devices for cores, devices in zip(cpus, gpus, strict=True) if devices]
    return RayCluster(address, len(nodes), sum(cpus), sum(gpus), max(1, min(each, default=1)))


def _show_token() -> None:
    """Show the user's token, if there is one, to a cluster that may ask for it: Ray does so for `auto` alone."""
    try:
        from ray._private.authentication import authentication_token_setup as authentication
    except ImportError:  # a version without tokens
        return
    authentication.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _require_listener(address: str) -> None:
    """Refuse a place where nothing listens, for which Ray would wait many minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "://" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ClusterError(f"no Ray cluster at {address}: {error}") from None


class RayWorkers:
    """One worker for every GPU of the cluster with its share of cores, or for every core if it has none.

    A `cluster.workers.Workers`.
    """

    def __init__(self, make: Callable[[], Any], cluster: RayCluster, *, count: int | None = None) -> None:
        """Begin to start them.

        Args:
            make: makes a worker, on its process. An error of it that has an `exit_code` ends the run as it is.
            cluster: where.
            count: how many; None: as many as there is room for.
        """
        room = cluster.gpus or cluster.cpus
        kind = "GPU" if cluster.gpus else "core"
        count = room if count is None else count
        if not 1 <= count <= room:
            raise ClusterUsageError(f"{count} workers, of one {kind} each: the cluster at {cluster.address} has {room}")
        import ray

        self._ray = ray
        self._make = ray.put(make)
        cpus, gpus = (cluster.cpus_per_gpu, 1) if cluster.gpus else (1, 0)
        self._actor_class = ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus)
        self._deaths_at_start = 0
        self._hands = [self._start() for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hand in self._hands:
            self._ray.kill(hand.actor)

    @property
    def count(self) -> int:
        """How many pieces are done at a time."""
        return len(self._hands)

    def run(self, pieces: Iterable[Piece]) -> Iterator[Done]:
        """Do all of them, in any order; each comes back once, with a value or with the error of its third attempt.

        Raises:
            ClusterError: workers die as they start.
        """
        waiting, again = iter(pieces), deque[Piece]()
        failures: dict[Piece, int] = {}
        while True:
            self._give(waiting, again)
            if not any(hand.given for hand in self._hands) and not again and self._is_over(waiting, again):
                return
            expected = {hand.starting or hand.given[0][0]: hand for hand in self._hands if hand.starting or hand.given}
            for ref in self._ray.wait(list(expected), timeout=_POLL_S)[0]:
                hand = expected[ref]
                if hand.starting is not None:
                    self._take_start(hand)
                else:
                    yield from self._answers(hand, again, failures)

    def _is_over(self, waiting: Iterator[Piece], again: deque[Piece]) -> bool:
        """Whether no piece is left; one that is found goes to `again`."""
        again.extend([piece for piece in [next(waiting, None)] if piece is not None])
        return not again

    def _give(self, waiting: Iterator[Piece], again: deque[Piece]) -> None:
        """Pieces to whoever has started and has fewer than two, those with fewer first."""
        for has in range(_IN_FLIGHT):
            for hand in self._hands:
                if hand.starting is None and len(hand.given) == has:
                    piece = again.popleft() if again else next(waiting, None)
                    if piece is None:
                        return
                    hand.given.append((hand.actor.do.remote(piece.method, piece.arguments), piece))

    def _answers(self, hand: _Hand, again: deque[Piece], failures: dict[Piece, int]) -> Iterator[Done]:
        """Take what has come of a process, in the order of what it was given: values, errors, or that it is gone."""
        while hand.given and self._has_come(hand.given[0][0]):
            ref, piece = hand.given[0]
            try:
                value = self._ray.get(ref)
            except self._ray.exceptions.RayTaskError as error:
                yield from _failed(piece, one_line(_cause(error)), again, failures)
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError) as error:
                self._replace(hand)
                # The first was being done; the others did not do anything to deserve blame
                again.extendleft(other for _, other in reversed(list(hand.given)[1:]))
                yield from _failed(piece, f"its worker died: {one_line(error)}", again, failures)
                return
            else:
                yield Done(piece, value)
            hand.given.popleft()

    def _has_come(self, ref: Any) -> bool:
        return bool(self._ray.wait([ref], timeout=0)[0])

    def _take_start(self, hand: _Hand) -> None:
        try:
            self._ray.get(hand.starting)
        except self._ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except self._ray.exceptions.RayActorError as error:
            self._deaths_at_start += 1
            if self._deaths_at_start == _ATTEMPTS:
                raise ClusterError(f"workers die as they start: {one_line(error)}") from error
            self._replace(hand)
        else:
            hand.starting, self._deaths_at_start = None, 0

    def _replace(self, hand: _Hand) -> None:
        """Another process in the place of one that died, wherever the cluster has room now."""
        self._ray.kill(hand.actor)
        self._hands[self._hands.index(hand)] = self._start()

    def _start(self) -> _Hand:
        actor: Any = self._actor_class.remote(self._make)
        return _Hand(actor, actor.start.remote())


class _Actor:
    """The process of a worker."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def start(self) -> None:
        """Make the worker; here and not in `__init__`, whose errors arrive without their type."""
        self._worker = self._make()

    def do(self, method: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(self._worker, method)(*arguments)


def _failed(piece: Piece, error: str, again: deque[Piece], failures: dict[Piece, int]) -> Iterator[Done]:
    """The piece once more, at the end of the queue, unless this was its last attempt."""
    failures[piece] = failures.get(piece, 0) + 1
    if failures[piece] == _ATTEMPTS:
        yield Done(piece, error=error)
    else:
        again.append(piece)


def _cause(error: Any) -> BaseException:
    """What the worker raised."""
    cause: BaseException = error.cause or error
    return cause
