"""Nothing commands the terminal but ourselves, and a terminal that is gone ends nothing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import pty
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from tests.untrusted.limits import limited_to
from untrusted import terminal
from untrusted.terminal import CLEAR_SCREEN, GuardedStream, escaped, guarded, one_line, warn

COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@settings(derandomize=True, max_examples=300, deadline=None, database=None)
@given(st.text(st.characters()))
def test_no_text_commands_a_terminal(text):
    assert not COMMANDS.search(escaped(text))
    assert "\n" not in one_line(text)
    escaped(text).encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\rb\x07\x9b", "a\\rb\\x07\\x9b"),
        ("photo\u202egpj.exe", "photo\\u202egpj.exe"),
        ("caf\udce9", "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("tab\there\nand", "tab\there\nand"),
        ("é 雪 🙂 naïve \\x1b", "é 雪 🙂 naïve \\x1b"),
    ],
)
def test_what_is_written_out_can_be_read(text, shown):
    assert escaped(text) == shown


def screen():
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")


def shown_by(stream):
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding)


def test_a_progress_bar_keeps_its_own_codes_and_none_of_its_words():
    out = screen()
    guard = GuardedStream(out)
    outer = tqdm(range(2), desc="evil\x1b[2J\rname", file=guard, position=0, mininterval=0)
    inner = tqdm(range(2), desc="below", file=guard, position=1, mininterval=0)
    for _ in outer:
        inner.update()
    inner.close()
    outer.close()
    shown = shown_by(out)
    assert "\r" in shown
    assert "\x1b[A" in shown
    assert "\x1b[2J" not in shown
    assert "evil\\x1b[2J\\rname" in shown


def test_a_screen_is_cleared_by_a_call_of_its_own_alone():
    out = screen()
    guard = GuardedStream(out)
    guard.write(CLEAR_SCREEN)
    guard.write(f"{CLEAR_SCREEN}run")
    assert shown_by(out) == f"{CLEAR_SCREEN}\\x1b[H\\x1b[2Jrun"


def test_a_terminal_of_few_letters_shows_the_others_written_out():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    GuardedStream(out).write("é雪 a")
    assert shown_by(out) == "\\xe9\\u96ea a"


class Refusing(io.StringIO):
    """Takes one text, and then refuses as a pipe that nobody reads, or a disk without room."""

    def __init__(self, error):
        super().__init__()
        self.error = error
        self.calls = 0

    def write(self, text):
        self.calls += 1
        raise self.error

    def flush(self):
        pass


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), ValueError("closed")])
def test_what_refuses_ends_nothing_and_is_asked_once(error):
    out = Refusing(error)
    guard = GuardedStream(out)
    for _ in range(3):
        assert guard.write("text") == 4
        guard.flush()
    assert out.calls == 1
    assert guard.is_gone
    assert guard.refusal is not None


def test_a_disk_that_was_full_takes_what_is_written_when_it_has_room(tmp_path):
    """Nothing else is lost than what was written while it was full."""
    file = tmp_path / "log"
    with file.open("w") as out:
        guard = GuardedStream(out)
        guard.write("before\n")
        guard.flush()
        with limited_to(file.stat().st_size):
            guard.write("x" * 100_000)
            guard.flush()
        guard.write("after\n")
        guard.release()
    assert guard.refusal.errno == errno.EFBIG
    assert file.read_text().startswith("before\n")
    assert file.read_text().endswith("after\n")


@pytest.mark.parametrize("words", [["-u"], []], ids=["without a buffer", "with one"])
def test_a_pipe_that_is_full_for_now_gets_every_byte(words):
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    code = "from untrusted.terminal import guarded\nwith guarded():\n"
    code += "  for row in range(20_000): print(row)\n  print('x' * 100_000)"
    with subprocess.Popen([sys.executable, *words, "-c", code], stdout=writer, stderr=subprocess.PIPE) as printing:
        os.close(writer)
        with os.fdopen(reader) as answer:
            answer.read(1)  # it prints faster than this reads
            lines = ["0", *answer.read().split()]
        assert printing.communicate(timeout=60)[1] == b""
    assert printing.returncode == 0
    assert lines == [*map(str, range(20_000)), "x" * 100_000]


def test_a_process_without_streams_prints_into_nothing():
    guard = GuardedStream(None)
    assert guard.write("text") == 4
    guard.flush()
    assert not guard.isatty()
    with pytest.raises(OSError, match="fileno"):
        guard.fileno()


def test_both_streams_are_guarded_and_given_back(monkeypatch):
    out, err = screen(), screen()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with guarded():
        print("a\x1b[2J")
        print("b\x9b", file=sys.stderr)
        warn("name\nwith a line break \u202e")
    assert sys.stdout is out
    assert sys.stderr is err
    assert shown_by(out) == "a\\x1b[2J\n"
    assert shown_by(err) == "b\\x9b\nwarning: name\\nwith a line break \\u202e\n"


def test_a_terminal_that_has_hung_up_is_gone():
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as out:
        guard = GuardedStream(out)
        assert guard.isatty()
        os.close(ours)
        guard.write("a\n")
        guard.flush()
        assert guard.is_gone
    assert guard.refusal.errno == errno.EIO


def test_nobody_hears_after_the_pipe_has_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Refusing(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    with guarded():
        assert terminal.is_heard()
        print("a")
        assert not terminal.is_heard()


def test_a_warning_goes_nowhere_without_stderr(monkeypatch):
    for stream in (None, Refusing(OSError(errno.ENOSPC, "No space"))):
        monkeypatch.setattr(sys, "stderr", stream)
        warn("text")


CLOSED = """
import os, sys
from untrusted.terminal import guarded, occupy_closed_streams
occupy_closed_streams()
opened = open(sys.argv[1], "w")
assert opened.fileno() > 2
with guarded():
    for _ in range(100_000):
        print("x" * 20)
        print("y", file=sys.stderr)
opened.write("done")
"""


@pytest.mark.parametrize(
    "redirection", ["<&- >&-", "2>&-", "<&- >&- 2>&-", "| head -1", "2>&1 | head -1", ">/dev/full"]
)
def test_work_ends_whatever_becomes_of_the_streams(tmp_path, redirection):
    file = tmp_path / "file"
    ended = tmp_path / "code"
    inner = f"'{sys.executable}' -c '{CLOSED}' '{file}'"
    pipe = redirection.find("|")
    before, after = (redirection, "") if pipe < 0 else (redirection[:pipe], redirection[pipe:])
    subprocess.run(
        ["bash", "-c", f"{{ {inner} {before}; echo $? > {ended}; }} {after}"],
        check=True,
        capture_output=True,
        timeout=300,
    )
    assert file.read_text() == "done"
    assert ended.read_text() == "0\n"


def test_names_of_files_on_a_terminal_are_whole():
    """Letters that a font draws together stay, as do the marks of emoji."""
    with contextlib.suppress(OSError):
        os.getcwd()
    assert escaped("👩\u200d🔬 क्ष") == "👩\u200d🔬 क्ष"
