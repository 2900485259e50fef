"""Names and values that anybody may have chosen reach the terminal written out, wherever they come from."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from cluster.jobs.history import History
from cluster.jobs.submission import Submission
from untrusted.terminal import one_line

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp"
SHOWN = one_line(EVIL)


def require_written_out(outcome, shown=True):
    """No control code but tqdm's, and the name can be read."""
    for text in (outcome.out, outcome.err):
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e]|\x1b(?!\\[A)", text), ascii(
            text
        )
    if shown:
        assert SHOWN in outcome.out + outcome.err, outcome.err


def picture(number):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def tar_of(path, *odd):
    """Eight pictures, and members (name, kind, link) with pictures of their own."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for number, (name, kind, link) in enumerate([*((f"{n}.png", tarfile.REGTYPE, "") for n in range(8)), *odd]):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            content = picture(number) if kind == tarfile.REGTYPE else b""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "odd",
    [
        [(f"{EVIL}.png", tarfile.SYMTYPE, "/etc/passwd")],
        [(f"a{EVIL}.png", tarfile.SYMTYPE, EVIL)],
        [(f"{EVIL}.png", tarfile.LNKTYPE, "nowhere.png")],
        [(f"../{EVIL}.png", tarfile.REGTYPE, "")],
        [(f"/{EVIL}.png", tarfile.REGTYPE, "")],
        [(f"{EVIL}.png", tarfile.REGTYPE, "")] * 2,
        [(f"{EVIL}.png", tarfile.CHRTYPE, "")],
        [(f"{EVIL}.heic", tarfile.REGTYPE, "")],
    ],
    ids=["link", "link to evil", "hard link", "leads out", "absolute", "repeats", "device", "unread type"],
)
@pytest.mark.parametrize("allowed", ["0", "50%"])
def test_members_of_an_archive(spider, tmp_path, odd, allowed):
    done = spider("pack", tar_of(tmp_path / "odd.tar", *odd), tmp_path / "out", "--workers", "1", "--max-bad", allowed)
    require_written_out(done, shown=done.code != 0)


@pytest.mark.parametrize("place", ["file", "folder"])
def test_names_of_files_and_classes(spider, tmp_path, place):
    folder = tmp_path / "images" / (EVIL if place == "folder" else "a")
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"{number}.png").write_bytes(picture(number))
    (tmp_path / "images" / "b").mkdir()
    (tmp_path / "images" / "b" / "4.png").write_bytes(picture(4))
    (folder / f"{EVIL}.png").write_bytes(b"no picture")
    words = (tmp_path / "images", tmp_path / "out", "--workers", "1", "--labels", "class")
    require_written_out(spider("pack", *words))
    require_written_out(spider("pack", *words, "--max-bad", "50%"))
    require_written_out(spider("verify", tmp_path / "out"), shown=False)
    (next((tmp_path / "out").glob("*.tar"))).write_bytes(b"")
    require_written_out(spider("verify", tmp_path / "out"), shown=False)


def test_what_stands_on_the_command_line(spider, digits, tmp_path):
    for verb in ("ls", "status", "verify", "logs"):
        require_written_out(spider(verb, EVIL))
    for words in ((EVIL,), ("dcgan", f"generator.{EVIL}=1"), ("dcgan", f"generator.width={EVIL}")):
        require_written_out(spider("train", *words, "--data", digits, "--run", tmp_path / "run"))


def planted(value):
    """The same data with every text made hostile, but for what a reader looks up."""
    if isinstance(value, dict):
        return {key: item if key in KEPT else planted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [planted(item) for item in value]
    return f"{value}{EVIL}" if isinstance(value, str) else value


KEPT = ("time", "event", "job", "checkpoint", "format", "host", "born", "metric")


@pytest.fixture
def planted_run(runs, tmp_path):
    """A run of whose files every text is hostile."""
    run = shutil.copytree(runs / "gaussian", tmp_path / "runs" / f"bad{EVIL}")
    shutil.copytree(runs / "patches", tmp_path / "runs" / "good")
    job = run / "slurm"
    job.mkdir()
    (run / "_FAILED").write_text(f"at 0.16 kimg: {EVIL}\n")
    (run / "_SUCCESS").unlink()
    Submission("7", 1, 1, ["true"], "code", {}).write(job)
    (job / "7_0_log.out").write_text(f"line {EVIL}\n")
    history = History(job)
    history.add("submitted", job="7", nodes=1, ranks=1)
    history.add("started", job="7", start=0, nodes=["n1"], ranks=1, newest=None)
    history.add("failed", job="7", start=0, reason="died", rank=0, node="n1", again=False, newest=None)
    for file in [*run.glob("*.json"), *run.glob("evaluations/*.json"), *job.glob("*.json")]:
        file.write_text(json.dumps(planted(json.loads(file.read_text()))))
    for file in (run / "metrics.jsonl", job / "history.jsonl"):
        rows = [json.dumps(planted(json.loads(line))) for line in file.read_text().splitlines()]
        file.write_text("\n".join([*rows, json.dumps({EVIL: EVIL})]) + "\n")
    return run


def test_fields_of_the_files_of_a_run(spider, planted_run):
    root = planted_run.parent
    for words in (("ls", root), ("status", root), ("status", planted_run), ("compare", root), ("logs", planted_run)):
        outcome = spider(*words)
        assert outcome.code in (0, 1, 2), outcome.err
        require_written_out(outcome)
    for words in (
        ("evaluate", planted_run),
        ("cancel", planted_run),
        ("train", "--run", planted_run, "--kimg", "0.168"),
    ):
        require_written_out(spider(*words), shown=False)


def test_the_bytes_of_a_state(spider, planted_run):
    """Of the newest checkpoint, which its manifest does not vouch for any more."""
    newest = max((planted_run / "checkpoints").iterdir())
    state = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps(planted(state)))
    (newest / f"{EVIL}.safetensors").write_bytes(b"")
    trained = spider("train", "--run", planted_run, "--kimg", "0.168")
    require_written_out(trained)
    assert "moved to" in trained.err or trained.code != 0
