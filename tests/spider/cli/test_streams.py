"""Printing ends nothing: whoever watches a training may go, and who has read enough of an answer ends it quietly."""

from __future__ import annotations

import io
import os
import select
import shutil
import socket
import subprocess
import sys
import threading

import pytest

from cluster.jobs.history import History
from cluster.jobs.submission import Submission
from cluster.process import birth
from spider.cli import launch
from spider.cli.main import app
from spider.runs.directory import RunDirectory, resolve
from tests.untrusted.limits import limited_to


def newest(run):
    found = resolve(str(run)).path
    return found.name, {file.name: file.read_bytes() for file in found.iterdir()}


@pytest.fixture(scope="module")
def trained(spider, digits, tiny, tmp_path_factory):
    """The files of the newest checkpoint of a run that everybody watched."""
    run = tmp_path_factory.mktemp("watched") / "run"
    assert spider("train", "dcgan", "--data", digits, "--run", run, "--kimg", "0.16", *tiny).code == 0
    return newest(run)


@pytest.mark.parametrize("redirection", ["2>&1 | head -c1", "<&- >&- 2>&-"])
def test_a_training_ends_complete_whatever_becomes_of_its_streams(digits, tiny, tmp_path, trained, redirection):
    run = tmp_path / "run"
    words = ["train", "dcgan", "--data", str(digits), "--run", str(run), "--kimg", "0.16", *tiny]
    streams, pipe, reader = redirection.partition("|")
    script = f'{{ "$@" {streams}; echo $? > "{tmp_path}/code"; }} {pipe}{reader}'
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "spider", *words]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    assert (tmp_path / "code").read_text() == "0\n"
    assert newest(run) == trained
    assert RunDirectory(run).success_file.exists()


@pytest.fixture
def to_nobody(monkeypatch):
    """stdout is a pipe whose reader has gone; returns what stands on stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    err = io.StringIO()
    with os.fdopen(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        yield err


def code_of(*words):
    with pytest.raises(SystemExit) as end:
        app([str(word) for word in words], prog_name="spider")
    return end.value.code or 0


@pytest.mark.parametrize("words", [("ls", "{}"), ("status", "{}"), ("compare", "{}"), ("ls", "{}", "--json")])
def test_who_has_read_enough_ends_an_answer_quietly(runs, to_nobody, words):
    assert code_of(*(word.format(runs) for word in words)) == 0
    assert to_nobody.getvalue() == ""


@pytest.fixture
def at_work(runs, tmp_path, monkeypatch):
    """A run whose job never ends: it is this process."""
    monkeypatch.setattr(launch, "_WATCH_S", 0.05)
    run = tmp_path / "run"
    shutil.copytree(runs / "gaussian", run)
    (run / "slurm").mkdir()
    RunDirectory(run).success_file.unlink(missing_ok=True)
    me = os.getpid()
    job = Submission(str(me), 1, 1, ["true"], "code", {}, local=True, host=socket.gethostname(), born=birth(me))
    job.write(run / "slurm")
    History(run / "slurm").add("started", job=str(me), start=0, nodes=["n"], ranks=1, newest=None)
    job.log(run / "slurm", 0).write_text("a line\n")
    return run


@pytest.mark.parametrize(
    ("words", "last"),
    [(("status", "--watch"), b"started on n"), (("status", "--watch", "--json"), b'"drivers"'),
     (("logs", "--follow"), b"a line")],
)  # fmt: skip
def test_who_watches_and_goes_ends_the_command(at_work, monkeypatch, words, last):
    """Though the job that is watched says nothing more."""
    reader, writer = os.pipe()
    err = io.StringIO()
    said = bytearray()

    def read_and_go():
        while last not in said and select.select([reader], [], [], 60)[0] and (more := os.read(reader, 1 << 16)):
            said.extend(more)
        os.close(reader)

    watcher = threading.Thread(target=read_and_go)
    with os.fdopen(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        watcher.start()
        code = code_of(words[0], at_work, *words[1:])
    watcher.join(60)
    assert last in said
    assert (code, err.getvalue()) == (0, "")


def test_a_disk_that_swallows_an_answer_is_an_error(runs, monkeypatch):
    err = io.StringIO()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "stderr", err)
        assert code_of("ls", runs) == 3
    assert err.getvalue().startswith("error: stdout: No space left on device")


def test_an_answer_that_a_limit_cuts_is_an_error(runs, tmp_path, monkeypatch):
    err = io.StringIO()
    with (tmp_path / "answer").open("w") as out, limited_to(10):
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert code_of("ls", runs) == 1
    assert err.getvalue() == "error: stdout: File too large\n"
