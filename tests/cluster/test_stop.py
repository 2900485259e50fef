"""A signal on one rank stops all of them at the same step."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from cluster.stop import SIGNALS, StopRequest
from cluster.world import World

if TYPE_CHECKING:
    from tests.cluster.ranks import Ranks


def _run_until_stopped(world: World, number: int, signalled_rank: int, at_step: int) -> tuple[int, str | None]:
    """Steps done, and this rank's own reason."""
    with StopRequest(world) as stop:
        for step in range(10):
            if stop.agreed():
                assert stop.agreed()
                return step, stop.reason
            if world.rank == signalled_rank and step == at_step:
                os.kill(os.getpid(), number)
    return 10, stop.reason


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_signal_on_one_rank_stops_all_at_the_same_step(ranks: Ranks, size: int, number: signal.Signals) -> None:
    stopped = ranks(size).run(_run_until_stopped, int(number), size - 1, 3)
    assert stopped == [(4, None)] * (size - 1) + [(4, number.name)]


def test_without_a_signal_nothing_stops(ranks: Ranks) -> None:
    assert ranks(2).run(_run_until_stopped, int(signal.SIGTERM), 5, 3) == [(10, None)] * 2


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_a_signal_interrupts(first: signal.Signals) -> None:
    with StopRequest(World.single()) as stop:
        signal.raise_signal(first)
        assert stop.agreed()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_scheduler_or_shell_that_repeats_itself_changes_nothing(first: signal.Signals) -> None:
    with StopRequest(World.single()) as stop:
        signal.raise_signal(first)
        for number in (signal.SIGTERM, signal.SIGHUP) * 2:
            signal.raise_signal(number)
            assert stop.agreed()
        assert stop.reason == first.name


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_answered_at_once_and_the_next_in_silence(
    capfd: pytest.CaptureFixture[str], first: signal.Signals
) -> None:
    with StopRequest(World.single(), "saves, and stops"):
        signal.raise_signal(first)
        assert capfd.readouterr() == ("", f"{first.name}: saves, and stops\n")
        signal.raise_signal(signal.SIGTERM)
        assert capfd.readouterr() == ("", "")


def test_a_signal_within_a_write_to_stderr_is_answered(capfd: pytest.CaptureFixture[str]) -> None:
    """Python's own buffer refuses a second write within the first."""

    class Interrupted(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            signal.raise_signal(signal.SIGINT)
            return os.write(2, data)

        def fileno(self) -> int:
            return 2

    with pytest.MonkeyPatch.context() as patch, StopRequest(World.single(), "saves, and stops"):
        patch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(Interrupted()), write_through=True))
        print("a row", file=sys.stderr, flush=True)
    assert capfd.readouterr().err == "SIGINT: saves, and stops\na row\n"


def test_a_stream_that_is_closed_or_none_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        with StopRequest(World.single(), "saves, and stops") as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.agreed()


def test_a_command_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(World.single()) as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.agreed()
            signal.raise_signal(signal.SIGTERM)
            assert stop.agreed()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_restored_also_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError, match="within"), StopRequest(World.single()):
        raise ValueError("within")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_thread_can_ask_without_signals() -> None:
    answers: list[bool] = []

    def work() -> None:
        with StopRequest(World.single()) as stop:
            answers.append(stop.agreed())
            stop.request("the caller")
            answers.append(stop.agreed())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False, True]
