"""Ray: a cluster to work on, for a while or one that is there, and workers on it that may die.

    with connected("local") as cluster, RayWorkers(make, cluster) as workers:
        for done in workers.run(pieces): ...

A piece of work whose worker dies, with its machine or alone, is done again; so is one that fails, when no new ones are
left, by another worker if there is one. After the third time it is given up, by name, while the others go on. A process
on which one piece after the other fails is replaced. Pieces are sent to a worker two at a time, so that it never waits
and a death costs little. Nothing here needs torch.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cluster import ray_place
from cluster.errors import ClusterError, ClusterUsageError, MachineError, one_line
from cluster.stop import heard
from cluster.workers import Done, Piece
from untrusted.words import did_you_mean

LOCAL = "local"
AUTO = "auto"

log = logging.getLogger(__name__)

_ATTEMPTS = 3
_IN_FLIGHT = 2  # pieces that a worker has: one that it does, and the next
_OBJECT_STORE_BYTES = 512 << 20  # pieces and what they return are small; Ray would take a third of the memory
_LEAST_START_S = 2.0  # of a start that fails, times how often; what keeps processes from starting may pass
_POLL_S = 10.0
_QUIET_S = 300.0  # after which it is said what is waited for
_DEADLINE_S = 3600.0  # of a piece: a mount that is gone answers never
_CONNECT_S = 20.0
_OLD_S = 3600.0


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
        MachineError: the place of its files is full or closed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray will, and warns that it does not yet
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # which prints C stacks at SIGTERM, and aborts
    logging.getLogger("ray").setLevel(logging.ERROR)  # what it says before `init`, which sets the level again
    import ray

    if ray.is_initialized():
        raise ClusterUsageError("this process is connected to a Ray cluster already")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with _Stoppable() as stop:
        yield from _while_connected(address, quiet, stop)


def _while_connected(address: str, quiet: dict[str, Any], stop: _Stoppable) -> Iterator[RayCluster]:
    import ray

    context: Any
    try:
        if address == LOCAL:
            # Ray's own choice, /tmp/ray, may be somebody else's
            root = ray_place.require() / f"spider-ray-{os.getuid()}"
            _remove_old_sessions(root)
            with _without_rays_handler():
                context = ray.init(
                    "local",
                    num_cpus=len(os.sched_getaffinity(0)),
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=str(root),
                    **quiet,
                )
        else:
            _require_listener(os.environ.get("RAY_ADDRESS", address) if address == AUTO else address)
            _show_token()
            with _without_rays_handler():
                context = ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if stop.is_asked:
            raise KeyboardInterrupt from None
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ClusterError(f"no Ray cluster at {address}: {reason}") from error
    session = context.address_info["session_dir"]
    try:
        stop.begin()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        yield _describe(address, nodes)
    finally:
        stop.wait()
        ray.shutdown()
        if address == LOCAL:
            shutil.rmtree(Path(session).resolve(), ignore_errors=True)


@contextmanager
def _without_rays_handler() -> Iterator[None]:
    """Ray starts without its own answer to SIGTERM: to exit half started, and to crash on the way."""
    from ray._private import utils

    own: Any = getattr(utils, "set_sigterm_handler", None)
    if own is None:  # another version
        yield
        return
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = own


class _Stoppable:
    """Every signal that asks for a stop is KeyboardInterrupt; while Ray starts and ends it waits.

    Ray takes SIGTERM for itself, with an exit code of its own, and falls over where it is interrupted as it connects.
    """

    def __init__(self) -> None:
        self._waits, self.is_asked = True, False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in heard()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def begin(self) -> None:
        """Ray has started. Raises KeyboardInterrupt if a stop was asked for meanwhile."""
        for number in self._previous:
            signal.signal(number, self._on_signal)
        self._waits = False
        if self.is_asked:
            raise KeyboardInterrupt

    def wait(self) -> None:
        """Ray will end."""
        self._waits = True

    def _on_signal(self, number: int, frame: object) -> None:
        """Schedulers and shells repeat SIGTERM and SIGHUP, which then change nothing."""
        is_repeated, self.is_asked = self.is_asked, True
        if not self._waits and (number == signal.SIGINT or not is_repeated):
            raise KeyboardInterrupt


@dataclass(eq=False)
class _Hand:
    """A process on the cluster, and what it was given and has not answered yet, in order.

    Attributes:
        slot: its place among the workers, which whoever replaces it keeps.
        actor: its handle.
        starting: what it answers when its worker is made; None once it has.
        given: answers to come, with their pieces.
        since: when it was last heard of, or given something after it had nothing, by the monotonic clock.
        errors: pieces in a row that failed on it.
    """

    slot: int
    actor: Any
    starting: Any
    given: deque[tuple[Any, Piece]] = field(default_factory=deque)
    since: float = field(default_factory=time.monotonic)
    errors: int = 0


class _Queue:
    """Pieces that wait: new ones first, then those that failed, each for a worker that has not failed it yet."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._new = iter(pieces)
        self._untouched, self._again = deque[Piece](), deque[Piece]()
        self._failed_on: dict[Piece, list[int]] = {}

    def next_for(self, slot: int, slots: Set[int]) -> Piece | None:
        """The next piece for a worker, one of these, if there is one.

        Not one that failed on it, as long as there are others: it may be the worker that is sick.
        """
        piece = self._untouched.popleft() if self._untouched else next(self._new, None)
        if piece is None:
            suits = (p for p in self._again if slot not in self._failed_on[p] or slots <= set(self._failed_on[p]))
            piece = next(suits, None)
            if piece is not None:
                self._again.remove(piece)
        return piece

    def is_empty(self) -> bool:
        """Whether nothing waits."""
        if not self._untouched and (piece := next(self._new, None)) is not None:
            self._untouched.append(piece)
        return not self._untouched and not self._again

    def give_back(self, pieces: Iterable[Piece]) -> None:
        """Pieces that were given and not begun."""
        self._untouched.extend(pieces)

    def has_failed(self, piece: Piece, slot: int) -> bool:
        """Note a failure; the piece waits again unless that was its last attempt, which the result says."""
        failures = self._failed_on.setdefault(piece, [])
        failures.append(slot)
        if len(failures) == _ATTEMPTS:
            return True
        self._again.append(piece)
        return False


def _describe(address: str, nodes: Sequence[Mapping[str, float]]) -> RayCluster:
    cpus, gpus = ([int(node.get(kind, 0)) for node in nodes] for kind in ("CPU", "GPU"))
    each = [cores // devices for cores, devices in zip(cpus, gpus, strict=True) if devices]
    return RayCluster(address, len(nodes), sum(cpus), sum(gpus), max(1, min(each, default=1)))


def _remove_old_sessions(root: Path) -> None:
    """Files of clusters whose process was killed, and which have had an hour to end."""
    for session in root.glob("session_*_*"):
        process = session.name.rpartition("_")[2]
        if not process.isdigit() or Path("/proc", process).exists():
            continue
        with suppress(OSError):
            if time.time() - session.stat().st_mtime > _OLD_S:
                shutil.rmtree(session)


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
    if "://" in address or address == AUTO:
        return
    if not colon:
        close = did_you_mean(address, [LOCAL, AUTO])
        raise ClusterUsageError(f"no Ray cluster at {address}: {LOCAL}, {AUTO} or HOST:PORT{close}")
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
        self._deaths_at_start = [0] * count
        self._hands = [self._start(slot) for slot in range(count)]

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
            MachineError: workers die as they start.
        """
        queue, quiet_since = _Queue(pieces), time.monotonic()
        while True:
            self._give(queue)
            if not any(hand.given for hand in self._hands) and queue.is_empty():
                return
            expected = {hand.starting or hand.given[0][0]: hand for hand in self._hands if hand.starting or hand.given}
            ready = self._ray.wait(list(expected), timeout=_POLL_S)[0]
            if ready:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > _QUIET_S:
                quiet_since = time.monotonic()
                self._say_what_is_waited_for()
            for ref in ready:
                hand = expected[ref]
                if hand.starting is not None:
                    self._take_start(hand)
                else:
                    yield from self._answers(hand, queue)
            for hand in list(self._hands):
                if hand.given and time.monotonic() - hand.since > _DEADLINE_S:
                    yield from self._lost(hand, f"no answer in {_DEADLINE_S / 60:g} minutes", queue)

    def _give(self, queue: _Queue) -> None:
        """Pieces to whoever has started and has fewer than two, those with fewer first."""
        started = {hand.slot for hand in self._hands if hand.starting is None}
        for has in range(_IN_FLIGHT):
            for hand in self._hands:
                if hand.starting is None and len(hand.given) == has:
                    piece = queue.next_for(hand.slot, started)
                    if piece is None:
                        continue
                    hand.since = hand.since if hand.given else time.monotonic()
                    hand.given.append((hand.actor.do.remote(piece.method, piece.arguments), piece))

    def _answers(self, hand: _Hand, queue: _Queue) -> Iterator[Done]:
        """Take what has come of a process, in the order of what it was given: values, errors, or that it is gone."""
        while hand.given and self._has_come(hand.given[0][0]):
            ref, piece = hand.given[0]
            try:
                value = self._ray.get(ref)
            except self._ray.exceptions.RayTaskError as error:
                hand.given.popleft()
                hand.errors += 1
                if queue.has_failed(piece, hand.slot):
                    yield Done(piece, error=one_line(_cause(error)))
                if hand.errors == _ATTEMPTS:  # it may be the process: a GPU does not recover from some errors
                    queue.give_back(other for _, other in hand.given)
                    self._replace(hand)
                    return
            except self._ray.exceptions.RayError as error:
                yield from self._lost(hand, f"its worker died: {one_line(error)}", queue)
                return
            else:
                hand.given.popleft()
                hand.errors = 0
                yield Done(piece, value)
            hand.since = time.monotonic()

    def _lost(self, hand: _Hand, why: str, queue: _Queue) -> Iterator[Done]:
        """A process is gone. What it was doing is to blame; the next in its queue did nothing to deserve it."""
        (_, piece), *others = hand.given
        queue.give_back(other for _, other in others)
        self._replace(hand)
        if queue.has_failed(piece, hand.slot):
            yield Done(piece, error=why)

    def _has_come(self, ref: Any) -> bool:
        return bool(self._ray.wait([ref], timeout=0)[0])

    def _take_start(self, hand: _Hand) -> None:
        try:
            self._ray.get(hand.starting)
        except self._ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except self._ray.exceptions.RayError as error:
            self._deaths_at_start[hand.slot] += 1
            if self._deaths_at_start[hand.slot] < _ATTEMPTS:
                # Counted from its making, so that many that fail at once are waited for together
                over = hand.since + _LEAST_START_S * self._deaths_at_start[hand.slot]
                time.sleep(max(0.0, over - time.monotonic()))
                self._replace(hand)
            elif len(self._hands) > 1:
                log.warning("a worker has died %d times as it started; going on without it: %s", _ATTEMPTS, error)
                self._hands.remove(hand)
            else:
                raise MachineError(f"workers die as they start: {one_line(error)}") from error
        else:
            hand.starting, hand.since = None, time.monotonic()
            self._deaths_at_start[hand.slot] = 0

    def _say_what_is_waited_for(self) -> None:
        doing = [hand.given[0][1].name for hand in self._hands if hand.given]
        starting = sum(hand.starting is not None for hand in self._hands)
        log.warning(
            "nothing came for %g minutes; being done: %s; workers not started yet (no room, or slow): %d",
            _QUIET_S / 60,
            "; ".join(doing) or "nothing",
            starting,
        )

    def _replace(self, hand: _Hand) -> None:
        """Another process in the place of one that died, wherever the cluster has room now."""
        self._ray.kill(hand.actor)
        self._hands[self._hands.index(hand)] = self._start(hand.slot)

    def _start(self, slot: int) -> _Hand:
        actor: Any = self._actor_class.remote(self._make)
        return _Hand(slot, actor, actor.start.remote())


class _Actor:
    """The process of a worker."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def start(self) -> None:
        """Make the worker; here and not in `__init__`, whose errors arrive without their type."""
        import ray

        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a worker on a core takes no GPU, also where it could see one
        self._worker = self._make()

    def do(self, method: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(self._worker, method)(*arguments)


def _cause(error: Any) -> BaseException:
    """What the worker raised."""
    cause: BaseException = error.cause or error
    return cause
