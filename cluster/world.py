"""The ranks of one run, and the few things they say to each other.

A `World` is handed to everything that may run on several processes. With one process every method is the identity and
torch.distributed is never touched, so that nobody writes `if distributed:`.

Every method that communicates is collective: all ranks call it, in the same order, with the same shapes. What is not a
tensor crosses as JSON, never as a pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from queue import Empty, Queue
from types import TracebackType
from typing import Any, Self, cast

import torch
import torch.distributed as dist
from torch import Tensor

from cluster.errors import ClusterError, ClusterUsageError, MachineError, one_line
from cluster.launcher import LaunchedRank
from untrusted.counts import numbered

_AGAIN_S = 0.2


class World:
    """The ranks of a run as seen by one of them.

    Attributes:
        rank: this process, 0 <= rank < size.
        size: number of processes.
        local_rank: this process among those of its machine.
        device: where this rank computes. Tensors on the CPU may be sent too, also when the device is a GPU.
        waited_s: seconds that this process has spent within collectives since `take_waited_s`, waiting for the others
            and for the network. NCCL's return at once: on a GPU, waiting shows where the host next asks for a result.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        local_rank: int,
        device: torch.device,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """Describe a world over an initialised process group (None: the default). `from_env` also initialises it."""
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self.device = device
        self.waited_s = 0.0
        self._group = group
        self._owns_process_group = False
        self._sum_in_autograd: Callable[[Tensor, World], Tensor] = _SumOverRanks.apply
        if size > 1:
            # Never traced. Not as a decorator, because that imports the compiler: a second, also for one process.
            self._sum_in_autograd = torch.compiler.disable(_SumOverRanks.apply)  # type: ignore[no-untyped-call]

    @classmethod
    def single(cls, device: str | torch.device = "cpu") -> Self:
        """The world of one process."""
        return cls(rank=0, size=1, local_rank=0, device=_choose_device(device, local_rank=0))

    @classmethod
    def from_env(cls, device: str | None = None, timeout_min: float = 10.0) -> Self:
        """Join the world that torchrun (or any launcher that sets its variables) describes; one process without it.

        Args:
            device: "cpu" or "cuda"; None takes the GPU of this local rank where there is one.
            timeout_min: a collective that waits longer than this for another rank fails.

        Raises:
            ClusterUsageError: the variables are incomplete or contradict each other, or the device is not there.
            MachineError: the other ranks did not come.
        """
        place = LaunchedRank.from_env()
        if place is None:
            return cls.single(device or _default_device())
        chosen = _choose_device(device or _default_device(), place.local_rank)
        world = cls(place.rank, place.size, place.local_rank, chosen)
        if world.device.type == "cuda":
            torch.cuda.set_device(world.device)
        if world.size > 1:
            world._join(place, timeout_min)
        return world

    def _join(self, place: LaunchedRank, timeout_min: float) -> None:
        """Initialise the default process group, with gloo beside nccl for the tensors that stay on the CPU."""
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        try:
            _wait_for_rank_0(place, 60 * timeout_min)
            dist.init_process_group(
                backend, rank=self.rank, world_size=self.size, timeout=timedelta(minutes=timeout_min)
            )
        except (RuntimeError, ValueError, MachineError) as error:
            raise MachineError(
                f"rank {self.rank} of {self.size} could not join the others at {place.address}:{place.port}: "
                f"{one_line(error)}"
            ) from error
        self._owns_process_group = True

    def close(self) -> None:
        """Leave. Tears down the process group if this world made it."""
        if self._owns_process_group:
            self._owns_process_group = False
            dist.destroy_process_group()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self.device.type == "cuda":
            # The others may be in the middle of a kernel that waits for this rank, and NCCL would wait for them here:
            # the error would never be told. They lose this rank when the process ends.
            self._owns_process_group = False
        self.close()

    def __repr__(self) -> str:
        return f"World(rank={self.rank}, size={self.size}, local_rank={self.local_rank}, device='{self.device}')"

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes files and prints."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """The GPU's name, or the processor's."""
        gpu = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if gpu else f"cpu ({platform.machine()})"

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.any(False)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, the same bits on every rank, as a new tensor without history."""
        if self.size == 1:
            return tensor.detach().clone()
        return self.all_reduce_sum_(tensor.detach().clone(memory_format=torch.contiguous_format))

    def all_reduce_sum_(self, tensor: Tensor) -> Tensor:
        """`all_reduce_sum` in place, for buffers too large to copy. The tensor is contiguous and needs no gradient."""
        if self.size > 1:
            with self._collective("sum", tensor):
                dist.all_reduce(tensor, group=self._group)
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Every rank's tensor, in rank order: [...] -> [W, ...]. Any dtype, no gradient."""
        if self.size == 1:
            return tensor.detach().clone().unsqueeze(0)
        gathered = tensor.new_empty((self.size, *tensor.shape))
        if tensor.numel() > 0:
            with self._collective("gathering", tensor):
                # As bytes, because the backends know few dtypes.
                _all_gather(_bytes(gathered), _bytes(tensor), group=self._group)
        return gathered

    def broadcast(self, tensor: Tensor, src: int = 0) -> Tensor:
        """Rank `src`'s tensor on every rank, as a new tensor. Every rank passes one of the same shape and dtype."""
        copy = tensor.detach().clone(memory_format=torch.contiguous_format)
        if self.size > 1 and copy.numel() > 0:
            with self._collective("broadcasting", tensor):
                dist.broadcast(_bytes(copy), group=self._group, group_src=src)
        return copy

    def broadcast_json(self, value: Any, src: int = 0) -> Any:
        """Rank `src`'s value on every rank, as JSON reads it: tuples come back as lists, also in a world of one."""
        return self._exchange_json(value if self.rank == src else None)[src]

    def all_gather_json(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, as JSON reads it."""
        return self._exchange_json(value)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank."""
        return self._count(flag) > 0

    def all(self, flag: bool) -> bool:
        """Whether the flag is set on every rank."""
        return self._count(flag) == self.size

    def read(self, tensor: Tensor) -> list[float]:
        """The values of a vector that collectives made, on the host.

        On a GPU this waits for the other ranks, since NCCL's collectives have returned at once.
        """
        values: list[float] = tensor.tolist()
        return values

    def sum_with_grad(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, differentiable any number of times.

        Gradients are those of the sum of all ranks' losses, as everywhere in this package: y = sum_r x_r on every rank,
        so dL/dx_r = sum_r dL_r/dy, again a sum over ranks. All ranks must therefore differentiate the same graph: a
        loss that leaves `y` out on one rank alone would leave the others waiting. Never part of a compiled graph.
        """
        return tensor if self.size == 1 else self._sum_in_autograd(tensor, self)

    def assert_same(self, digests: Mapping[str, str], what: str) -> None:
        """Check that every rank holds the same named digests.

        Raises:
            ClusterError: on every rank, naming the first entry that differs and the ranks that hold each value of it.
        """
        if self.size == 1:
            return
        combined = hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()
        if len(set(self._exchange_json(combined))) == 1:
            return
        by_rank: list[dict[str, str]] = self._exchange_json(dict(digests))
        names = dict.fromkeys(name for held in by_rank for name in held)
        differing = [name for name in names if len({held.get(name) for held in by_rank}) > 1]
        groups: dict[str, list[int]] = {}
        for rank, held in enumerate(by_rank):
            groups.setdefault(held.get(differing[0], "nothing")[:12], []).append(rank)
        found = "; ".join(f"{digest} on {numbered('rank', ranks)}" for digest, ranks in groups.items())
        others = f" (and {len(differing) - 1} more entries differ)" if len(differing) > 1 else ""
        raise ClusterError(f"{what}: {differing[0]!r} is not the same on all ranks: {found}{others}")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave a block together: if it raises on one rank, it raises on all of them, and the rank is named.

        For work that not all ranks do, or that may fail on some only: a file that rank 0 writes, a shard that one rank
        cannot read. The block itself must not communicate.

        Raises:
            ClusterError: on the ranks whose own block went well, naming the first rank whose did not. MachineError if
                that rank's was one.
        """
        if self.size == 1:
            yield
            return
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        failures = self._exchange_json(None if failure is None else [one_line(failure), _is_of_the_machine(failure)])
        if failure is not None:
            raise failure
        for rank, told in enumerate(failures):
            if told is not None:
                text, by_machine = told
                raise (MachineError if by_machine else ClusterError)(f"rank {rank}: {text}")

    def take_waited_s(self) -> float:
        """`waited_s`, which begins anew."""
        seconds, self.waited_s = self.waited_s, 0.0
        return seconds

    def _count(self, flag: bool) -> int:
        """How many ranks set the flag. On the CPU, so that asking never waits for a GPU."""
        return int(self.all_reduce_sum_(torch.tensor(int(flag))))

    def _exchange_json(self, value: Any) -> list[Any]:
        """Every rank's value: first the lengths, then the texts, padded to the longest."""
        text = json.dumps(value).encode()
        if self.size == 1:
            return [json.loads(text)]
        lengths = self.all_gather(torch.tensor(len(text))).tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        texts = self.all_gather(padded)
        return [json.loads(bytes(row[:length].tolist())) for row, length in zip(texts, lengths, strict=True)]

    @contextmanager
    def _collective(self, doing: str, tensor: Tensor) -> Iterator[None]:
        """Take the time, and say which rank was doing what when the backend gives up."""
        started = time.perf_counter()
        try:
            yield
        except RuntimeError as error:
            what = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            raise MachineError(
                f"rank {self.rank} of {self.size} failed {doing} {what} with the other ranks, "
                f"one of which has stopped or does something else: {one_line(error)}"
            ) from error
        finally:
            self.waited_s += time.perf_counter() - started


# torch 2.14 gave it another name, and warns of the old one
_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class _SumOverRanks(torch.autograd.Function):
    """all_reduce(sum), whose derivative is itself."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World) -> Tensor:
        ctx.world = world
        return world.all_reduce_sum(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return cast(World, ctx.world).sum_with_grad(grads[0]), None


def _wait_for_rank_0(place: LaunchedRank, timeout_s: float) -> None:
    """Until it listens; on rank 0, until its own name can be resolved. Raises MachineError when the time is over.

    torch alone would take the whole timeout several times over, and longer where names resolve slowly or not at all.
    """
    heard: Queue[OSError | None] = Queue()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                if place.rank == 0:
                    socket.getaddrinfo(place.address, place.port, type=socket.SOCK_STREAM)
                else:
                    socket.create_connection((place.address, place.port), timeout_s).close()
            except OSError as error:
                heard.put(error)
                over.wait(_AGAIN_S)
            else:
                heard.put(None)
                return

    deadline, last = time.monotonic() + timeout_s, OSError("its name was not resolved")
    threading.Thread(target=ask, daemon=True).start()  # a resolver cannot be interrupted
    try:
        while True:
            answer = heard.get(timeout=max(0.0, deadline - time.monotonic()))
            if answer is None:
                return
            last = answer
    except Empty:
        raise MachineError(f"{last.strerror or last}, for {timeout_s:g} s") from None
    finally:
        over.set()


def _is_of_the_machine(failure: BaseException | None) -> bool:
    """Whether it may go well the next time: not what was told to a user, save a machine's own failure."""
    return getattr(failure, "exit_code", MachineError.exit_code) == MachineError.exit_code


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() or _gpus_given() else "cpu"


def _gpus_given() -> str | None:
    """The GPUs that a scheduler, or somebody, says are this process's; None if nobody does."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    return None if given in ("", "-1", "NoDevFiles") else given


def _choose_device(device: str | torch.device, local_rank: int) -> torch.device:
    """The device of a local rank. A launcher may show each process only its own GPU, which is then index 0."""
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ClusterUsageError(f"device {str(device)!r} is unknown; choose cpu or cuda") from None
    if chosen.type == "cpu":
        return torch.device("cpu")
    if chosen.type != "cuda":
        raise ClusterUsageError(f"device {str(device)!r} is not supported; choose cpu or cuda")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0 and (given := _gpus_given()) is not None:  # broken, or this torch is one without CUDA
        raise MachineError(f"CUDA_VISIBLE_DEVICES={given}, but torch can use no GPU here; choose cpu to do without")
    if count == 0:
        raise ClusterUsageError(f"device {str(device)!r} was asked for, but no GPU is visible; choose cpu")
    index = chosen.index if chosen.index is not None else (0 if count == 1 else local_rank)
    if index >= count:
        raise ClusterUsageError(f"GPU {index} was asked for (local rank {local_rank}), but only {count} are visible")
    return torch.device("cuda", index)


def _bytes(tensor: Tensor) -> Tensor:
    """The tensor's storage as uint8 [numel * itemsize]; a view if it is contiguous."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)
