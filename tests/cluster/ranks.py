"""Run a function on 1, 2, 4, ... gloo ranks inside a test, in milliseconds.

    def sum_of_ranks(world: World, scale: float) -> float:      # at the top level of the test module
        return world.all_reduce_sum(torch.tensor(scale * world.rank)).item()

    def test_every_rank_gets_the_sum(ranks):                     # the fixture of tests/conftest.py
        assert ranks(4).run(sum_of_ranks, 0.5) == [3.0] * 4      # one result per rank, in rank order

- The function gets its rank's `World` first; torch.distributed's default group is the same ranks. One thread per rank,
  CPU, and `torch.manual_seed(0)` before every run.
- Arguments and results are pickled: plain data, arrays, tensors, classes of installed packages or of the test module.
- `run(..., timeout_s=600)`: if a rank raises, dies or does not answer, `RankError` shows each rank's traceback or where
  it hangs, the processes are thrown away, and the next run gets new ones. Nothing that a test does to its ranks hangs
  the session or reaches the next test. What is expected to raise is caught inside the function.
- Processes stay for the session: a later run finds the module globals and the memory of an earlier one.
  `ranks(4, fresh=True)` starts new ones, for laws about a restart.

How it works: a nursery process imports torch and the trainer once and forks the ranks of each world size on first use
(a fork takes 0.1 s, an import of torch seconds). Functions travel as (module, file, name), because pytest's importlib
mode gives test modules names that other processes cannot import. The nursery ends with the session, also if that is
killed, and takes its ranks with it. Each pytest-xdist worker has its own.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import inspect
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, Self

START_TIMEOUT_S = 600.0
# How long the other ranks may go on after one has raised: they are most often waiting for it and never will answer.
GRACE_S = 4.0


class RankError(Exception):
    """A function failed on some rank. The text shows every rank that did not answer well."""


class Ranks:
    """World sizes to groups of processes. `ranks(4).run(function, *args)`."""

    def __init__(self) -> None:
        self._nursery: subprocess.Popen[str] | None = None
        self._groups: dict[int, RankGroup] = {}

    def __call__(self, world_size: int, *, fresh: bool = False) -> RankGroup:
        """The group of that many ranks, started on first use and whenever the last run broke it."""
        group = self._groups.get(world_size)
        if group is not None and (fresh or group.broken):
            group.kill()
            group = None
        if group is None:
            group = self._groups[world_size] = self._start(world_size)
        return group

    def _start(self, world_size: int) -> RankGroup:
        nursery = self._ensure_nursery()
        folder = Path(tempfile.mkdtemp(prefix="ranks-"))  # The nursery removes it in the end, whatever becomes of us.
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(folder / "socket"))
            server.listen(world_size)
            server.settimeout(1.0)
            _write_line(nursery, {"size": world_size, "folder": str(folder)})
            connections = _accept(server, world_size, nursery)
        return RankGroup(connections, folder)

    def _ensure_nursery(self) -> subprocess.Popen[str]:
        if self._nursery is None or self._nursery.poll() is not None:
            self._nursery = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                text=True,
                env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
                start_new_session=True,  # Ctrl-C is for pytest, which then closes the ranks in order.
            )
            _write_line(self._nursery, {"sys_path": sys.path})
        return self._nursery

    def close(self) -> None:
        for group in self._groups.values():
            group.kill()
        if self._nursery is not None:
            assert self._nursery.stdin is not None
            self._nursery.stdin.close()
            self._nursery.wait(timeout=120)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RankGroup:
    """The processes of one world, waiting for functions."""

    def __init__(self, connections: list[Connection], folder: Path) -> None:
        self._folder = folder
        hellos = {connection: pickle.loads(connection.recv_bytes()) for connection in connections}
        self._connections = sorted(connections, key=lambda connection: hellos[connection]["rank"])
        self._pids = [hellos[connection]["pid"] for connection in self._connections]
        self.broken = False

    def run(self, function: Callable[..., Any], *args: Any, timeout_s: float = 600.0) -> list[Any]:
        """Call `function(world, *args)` on every rank; the results in rank order.

        Raises:
            RankError: with every failing rank's traceback.
            TypeError: the function is not one that another process can find.
        """
        message = pickle.dumps((_address_of(function), pickle.dumps(args)))
        try:
            for connection in self._connections:
                connection.send_bytes(message)
            answers = self._collect(timeout_s)
        except BaseException:  # Including Ctrl-C and pytest's own time limits: half a run must not meet the next one.
            self.kill()
            raise
        failures = {rank: text for rank, (good, text) in answers.items() if not good}
        if failures or len(answers) < len(self._pids):
            silent = {rank: self._where(rank) for rank in range(len(self._pids)) if rank not in answers}
            self.kill()
            raise RankError(_describe(failures, silent, len(self._pids), timeout_s))
        return [answers[rank][1] for rank in range(len(self._pids))]

    def _collect(self, timeout_s: float) -> dict[int, tuple[bool, Any]]:
        deadline = time.monotonic() + timeout_s
        answers: dict[int, tuple[bool, Any]] = {}
        waiting = {connection: rank for rank, connection in enumerate(self._connections)}
        while waiting and (left := deadline - time.monotonic()) > 0:
            for connection in wait(list(waiting), timeout=left):
                assert isinstance(connection, Connection)
                rank = waiting.pop(connection)
                try:
                    answers[rank] = pickle.loads(connection.recv_bytes())
                except (EOFError, OSError):
                    answers[rank] = (False, "the process ended without an answer")
                if not answers[rank][0]:
                    deadline = min(deadline, time.monotonic() + GRACE_S)
        return answers

    def _where(self, rank: int) -> str:
        """The stack of a rank that does not answer. Writing it ends the rank, which tells that it is whole."""
        try:
            os.kill(self._pids[rank], signal.SIGUSR1)
        except ProcessLookupError:
            return "the process is gone"
        wait([self._connections[rank]], timeout=GRACE_S)
        return (self._folder / f"stack-{rank}").read_text().strip() or "it does not say"

    def kill(self) -> None:
        if not self.broken:
            self.broken = True
            for pid, connection in zip(self._pids, self._connections, strict=True):
                connection.close()
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def _accept(server: socket.socket, world_size: int, nursery: subprocess.Popen[str]) -> list[Connection]:
    deadline = time.monotonic() + START_TIMEOUT_S
    connections: list[Connection] = []
    while len(connections) < world_size:
        try:
            connection, _ = server.accept()
        except TimeoutError:
            if nursery.poll() is not None or time.monotonic() > deadline:
                raise RankError(f"only {len(connections)} of {world_size} ranks started; see stderr") from None
        else:
            connection.setblocking(True)
            connections.append(Connection(connection.detach()))
    return connections


def _write_line(nursery: subprocess.Popen[str], line: dict[str, Any]) -> None:
    assert nursery.stdin is not None
    nursery.stdin.write(json.dumps(line) + "\n")
    nursery.stdin.flush()


def _address_of(function: Callable[..., Any]) -> tuple[str, str, str]:
    """(module, file, name) of a function at the top level of a module."""
    if not inspect.isfunction(function) or "<" in function.__qualname__:
        raise TypeError(f"{function!r} must be a function at the top level of a module, so that the ranks can find it")
    return function.__module__, inspect.getfile(function), function.__qualname__


def _describe(failures: dict[int, str], silent: dict[int, str], size: int, timeout_s: float) -> str:
    parts = [f"rank {rank} of {size} failed:\n{text}" for rank, text in sorted(failures.items())]
    when = "after another rank failed" if failures else f"within {timeout_s:g} s"
    parts += [f"rank {rank} of {size} did not answer {when}; it was at:\n{text}" for rank, text in silent.items()]
    return "\n\n".join(parts)


# ---- below: the nursery and the ranks it forks -----------------------------------------------------------------------


def _nursery() -> None:
    """Import torch, then fork a group of ranks for every line on stdin. At its end kill them all."""
    sys.path[:] = json.loads(sys.stdin.readline())["sys_path"]
    import torch._dynamo  # noqa: F401 (the compiler, which every rank's World needs)

    import spider.train.loop  # noqa: F401 (most functions need it, and every rank would import it for a second)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The dead are reaped.
    pids: list[int] = []
    folders: list[str] = []
    for line in sys.stdin:
        order = json.loads(line)
        folders.append(order["folder"])
        for rank in range(order["size"]):
            pid = os.fork()
            if pid == 0:
                _rank(rank, order["size"], Path(order["folder"]))
            pids.append(pid)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # Taking torch apart would cost every session a second.


def _rank(rank: int, size: int, folder: Path) -> None:
    """Serve runs until the connection ends. Never returns into the nursery's frames."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        with open(folder / f"stack-{rank}", "w") as stack, socket.socket(socket.AF_UNIX) as client:
            faulthandler.register(signal.SIGUSR1, file=stack, chain=True)  # The signal's own effect: to end.
            client.connect(str(folder / "socket"))
            connection = Connection(client.detach())
            connection.send_bytes(pickle.dumps({"rank": rank, "pid": os.getpid()}))
            _serve(connection, rank, size, folder)
    except EOFError:  # The session is over.
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


def _serve(connection: Connection, rank: int, size: int, folder: Path) -> None:
    import torch
    import torch.distributed as dist

    from cluster.world import World

    torch.set_num_threads(1)
    world = World(rank, size, rank, torch.device("cpu"))
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    while True:
        address, args = pickle.loads(connection.recv_bytes())
        torch.manual_seed(0)
        try:
            function = _find(*address)  # Before the arguments, which may be of the same module's classes.
            answer = pickle.dumps((True, function(world, *pickle.loads(args))))
        except BaseException:
            answer = pickle.dumps((False, traceback.format_exc()))
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send_bytes(answer)


def _find(module_name: str, file: str, name: str) -> Callable[..., Any]:
    module = sys.modules.get(module_name) or _load(module_name, file)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def _load(module_name: str, file: str) -> ModuleType:
    """Execute the file under the name that pytest gave it, so that its classes can be unpickled on both sides."""
    parents = module_name.split(".")[:-1]
    for depth in range(len(parents)):
        package = ModuleType(".".join(parents[: depth + 1]))
        package.__path__ = [str(Path(file).parents[len(parents) - 1 - depth])]
        sys.modules.setdefault(package.__name__, package)
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    _nursery()
