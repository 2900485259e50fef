"""Workers on a Ray cluster do every piece once as far as anybody sees, whoever of them dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cluster import ray as ray_module
from cluster.errors import ClusterError, ClusterUsageError
from cluster.ray import RayCluster, RayWorkers, _describe, connected
from cluster.workers import OneWorker, Piece


class Worker:
    """Squares numbers, and notes every call beside its process in a file."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def square(self, number: int) -> int:
        self._note(number)
        return number**2

    def slow_square(self, number: int) -> int:
        self._note(number)
        time.sleep(0.2)
        return number**2

    def meet(self, number: int) -> int:
        """Answer when two processes have been called, or after a minute."""
        self._note(number)
        until = time.monotonic() + 60
        while len(self.processes(self._log)) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        return number**2

    def fail(self, number: int) -> int:
        self._note(number)
        raise ClusterError(f"no square of {number}\nand more")

    def die(self, number: int) -> int:
        self._note(number)
        time.sleep(1.0)  # until what it did before has been answered
        os.kill(os.getpid(), signal.SIGKILL)
        return number

    def die_once(self, number: int) -> int:
        again = self.calls(self._log).get(number, 0)
        return self.square(number) if again else self.die(number)

    def hang_once(self, number: int) -> int:
        if not self.calls(self._log).get(number, 0):
            self._note(number)
            time.sleep(1000)
        return self.square(number)

    def _note(self, number: int) -> None:
        with self._log.open("a") as log:
            log.write(f"{number} {os.getpid()}\n")

    @staticmethod
    def calls(log: Path) -> dict[int, int]:
        found: dict[int, int] = {}
        for line in log.read_text().splitlines() if log.exists() else []:
            number = int(line.split()[0])
            found[number] = found.get(number, 0) + 1
        return found

    @staticmethod
    def processes(log: Path) -> set[str]:
        return {line.split()[1] for line in log.read_text().splitlines()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with connected("local") as here:
        import sys

        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a module of tests
        yield here


def pieces(*methods: str) -> list[Piece]:
    return [Piece(f"piece {i}", method, (i,)) for i, method in enumerate(methods)]


def do(cluster: RayCluster, log: Path, *methods: str, count: int = 2) -> dict[int, int | str | None]:
    """By number, what came of it: a value, or an error."""
    with RayWorkers(lambda: Worker(log), cluster, count=count) as workers:
        found = [(done.piece.arguments[0], done.error or done.value) for done in workers.run(pieces(*methods))]
    assert len(found) == len(dict(found)) == len(methods)
    return dict(found)


def test_every_piece_comes_back_once(cluster: RayCluster, tmp_path: Path) -> None:
    assert do(cluster, tmp_path / "log", *["square"] * 40) == {i: i**2 for i in range(40)}
    assert set(Worker.calls(tmp_path / "log").values()) == {1}
    with RayWorkers(lambda: Worker(tmp_path / "log"), cluster) as workers:
        assert list(workers.run([])) == []
        assert [done.value for done in workers.run(pieces("square"))] == [0]  # the same workers, again


def test_both_workers_work(cluster: RayCluster, tmp_path: Path) -> None:
    do(cluster, tmp_path / "log", *["meet"] * 6)
    assert len(Worker.processes(tmp_path / "log")) == 2


def test_pieces_are_taken_as_they_are_needed(cluster: RayCluster, tmp_path: Path) -> None:
    taken = []

    def endless() -> Iterator[Piece]:
        for i in range(10**9):
            taken.append(i)
            yield Piece(f"piece {i}", "square", (i,))

    with RayWorkers(lambda: Worker(tmp_path / "log"), cluster) as workers:
        for _, _done in zip(range(10), workers.run(endless()), strict=False):
            pass
    assert len(taken) <= 10 + 2 * 2 + 1


def test_a_worker_that_dies_costs_its_piece_one_more_call(cluster: RayCluster, tmp_path: Path) -> None:
    found = do(cluster, tmp_path / "log", "square", "die_once", *["slow_square"] * 6)
    assert found == {i: i**2 for i in range(8)}
    assert Worker.calls(tmp_path / "log")[1] == 2


@pytest.mark.parametrize(("method", "said"), [("fail", "no square of 1"), ("die", "its worker died: ")])
def test_what_fails_three_times_is_named_and_the_rest_goes_on(
    method: str, said: str, cluster: RayCluster, tmp_path: Path
) -> None:
    found = do(cluster, tmp_path / "log", "square", method, "square", "square")
    assert (found[0], found[2], found[3]) == (0, 4, 9)
    assert str(found[1]).startswith(said)
    assert Worker.calls(tmp_path / "log")[1] == 3


class Sick(Worker):
    """Fails everything, on one of two workers; the other lets it have its share."""

    def __init__(self, log: Path) -> None:
        super().__init__(log)
        try:
            (log.parent / "sick").mkdir()
            self.square = self.fail  # type: ignore[method-assign]
        except FileExistsError:
            self.square = self.meet  # type: ignore[method-assign]


def test_a_sick_worker_does_not_cost_what_others_can_do(cluster: RayCluster, tmp_path: Path) -> None:
    with RayWorkers(lambda: Sick(tmp_path / "log"), cluster, count=2) as workers:
        found = list(workers.run(pieces(*["square"] * 60)))
    assert sorted(done.value for done in found) == [i**2 for i in range(60)]
    assert max(Worker.calls(tmp_path / "log").values()) > 1


def test_what_is_killed_for_its_memory_is_done_again(cluster: RayCluster, tmp_path: Path) -> None:
    """Ray's name for that is no death of an actor."""
    with RayWorkers(lambda: Worker(tmp_path / "log"), cluster, count=2) as workers:
        real, raised = workers._ray.get, []

        def get(ref: object) -> object:
            asked = [hand.given[0][0] for hand in workers._hands if hand.given]
            if not raised and any(ref is given for given in asked):  # of whichever process is the first to start
                raised.append(ref)
                raise workers._ray.exceptions.OutOfMemoryError("memory")
            return real(ref)

        with mock.patch.object(workers._ray, "get", get):
            found = [done.value for done in workers.run(pieces(*["square"] * 6))]
    assert raised
    assert sorted(found) == [i**2 for i in range(6)]


def test_a_worker_that_never_answers_is_replaced(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, seconds in (("_DEADLINE_S", 1.0), ("_POLL_S", 0.2), ("_QUIET_S", 0.5)):
        monkeypatch.setattr(ray_module, name, seconds)
    found = do(cluster, tmp_path / "log", "square", "hang_once", count=1)
    assert found == {0: 0, 1: 1}
    assert "nothing came for" in caplog.text
    assert "being done: piece 1" in caplog.text


def test_one_worker_here_does_the_same(tmp_path: Path) -> None:
    here = OneWorker(lambda: Worker(tmp_path / "log"))
    assert [done.value for done in here.run(pieces("square", "square"))] == [0, 1]
    with pytest.raises(ClusterError, match="no square of 0"):
        list(here.run(pieces("fail")))


def test_a_cluster_that_starts_nothing_for_a_while_costs_that_while(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy one was seen to end every actor before it ran, three times within a second."""
    monkeypatch.setattr(ray_module, "_LEAST_START_S", 0.5)
    with RayWorkers(lambda: Worker(tmp_path / "log"), cluster, count=1) as workers:
        ray, over = workers._ray, time.monotonic() + 1.0
        get, wait = ray.get, ray.wait

        def refused(ref: object) -> object:
            if time.monotonic() < over:
                raise ray.exceptions.OutOfMemoryError("no room")
            return get(ref)

        def at_once(refs: list[object], **options: Any) -> Any:
            return (refs, []) if time.monotonic() < over else wait(refs, **options)

        with mock.patch.object(ray, "get", refused), mock.patch.object(ray, "wait", at_once):
            assert sorted(done.value for done in workers.run(pieces(*["square"] * 3))) == [0, 1, 4]


def test_a_worker_that_cannot_be_made_ends_the_run_with_its_error(
    cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_module, "_LEAST_START_S", 0.1)

    def refuse() -> Worker:
        raise ClusterUsageError("no weights here")

    with pytest.raises(ClusterUsageError, match=r"^no weights here$"), RayWorkers(refuse, cluster) as workers:
        list(workers.run(pieces("square")))
    with pytest.raises(ClusterError, match="workers die as they start"), RayWorkers(_die, cluster) as workers:
        list(workers.run(pieces("square")))


def _die() -> Worker:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_more_workers_than_there_is_room_for_are_refused(cluster: RayCluster) -> None:
    with pytest.raises(ClusterUsageError, match=f"1000 workers.* has {cluster.cpus}"):
        RayWorkers(lambda: None, cluster, count=1000)


def test_a_gpu_comes_with_its_share_of_cores_on_any_machine() -> None:
    nodes = [{"CPU": 64.0}, {"CPU": 16.0, "GPU": 8.0}, {"CPU": 32.0, "GPU": 8.0}]
    assert _describe("there", nodes) == RayCluster("there", nodes=3, cpus=112, gpus=16, cpus_per_gpu=2)
    assert _describe("there", [{"CPU": 4.0, "GPU": 8.0}]).cpus_per_gpu == 1
    assert _describe("there", [{"CPU": 4.0}]) == RayCluster("there", nodes=1, cpus=4, gpus=0)


def test_files_of_clusters_that_were_killed_go_after_an_hour(tmp_path: Path) -> None:
    old, young, alive = (
        tmp_path / f"session_2026-01-02_{n}_{pid}" for n, pid in ((1, 4194999), (2, 4194998), (3, os.getpid()))
    )
    for folder in (old, young, alive):
        folder.mkdir()
    for folder in (old, alive):
        os.utime(folder, (0, 0))
    ray_module._remove_old_sessions(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {young.name, alive.name}


def test_there_is_one_connection(cluster: RayCluster) -> None:
    with pytest.raises(ClusterUsageError, match="already"), connected("local"):
        pass
