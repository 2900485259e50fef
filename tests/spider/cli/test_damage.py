"""Any file of a run may be damaged: every command says so in a line, shows the other runs, and ends."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal

import pytest

from cluster.jobs.history import History
from cluster.jobs.submission import Submission

HUGE = b"9" * 5000


def rewritten(change):
    """Damage of a file's content."""

    def damage(path, rng):
        path.write_bytes(change(path.read_bytes() or b"process 1 on elsewhere\n", rng))

    damage.__name__ = change.__name__
    return damage


@rewritten
def truncated(content, rng):
    return content[: rng.randrange(len(content))]


@rewritten
def flipped(content, rng):
    spoilt = bytearray(content)
    for _ in range(3):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


@rewritten
def other_type(content, rng):
    return rng.choice([b"[1, 2]", b'"text"', b"3", b"null", b"{}", b'{"a": {"b": []}}', b"true"]) + b"\n"


@rewritten
def not_utf8(content, rng):
    at = rng.randrange(len(content))
    return content[:at] + b"\xe9\xff\xb7" + content[at:]


@rewritten
def huge_numbers(content, rng):
    return re.sub(rb"\d+(\.\d+)?", lambda match: rng.choice([match[0], HUGE, b"1e999", b"-1", b"NaN"]), content)


@rewritten
def swapped_values(content, rng):
    swap = [b'"\\u001b[2J"', b"[[]]", b"{}", b"null", b"true", b"1.5", b'"\\ud800"', b"-7"]
    spots = [match.span(1) for match in re.finditer(rb': ("[^"]*"|[-\d.e]+|null|true|false)', content)]
    if spots:
        start, stop = rng.choice(spots)
        content = content[:start] + rng.choice(swap) + content[stop:]
    return content


@rewritten
def deep(content, rng):
    return b"[" * 20_000 + b"]" * 20_000 + b"\n"


@rewritten
def empty(content, rng):
    return b""


def folder(path, rng):
    path.unlink()
    path.mkdir()


def pipe(path, rng):
    path.unlink()
    os.mkfifo(path)


def device(path, rng):
    path.unlink()
    path.symlink_to("/dev/zero")


def grown(path, rng):
    with path.open("wb") as file:
        file.truncate(200 << 30)


NOT_PLAIN = [folder, pipe, device, grown]
DAMAGES = [truncated, flipped, other_type, not_utf8, huge_numbers, swapped_values, deep, empty, *NOT_PLAIN]
TRAINED_AFTER = [other_type, not_utf8, swapped_values, folder, device]
STOPPING = ["config.yaml", "inputs.json", ".lock"]  # files without which a training may not begin
SHOWN_IN_FULL = ["_FAILED", "metrics.jsonl", "slurm/job.json", "slurm/history.jsonl", "slurm/7_0_log.out"]  # of one run
FILES = [
    "environment.json",
    "metrics.jsonl",
    "best.json",
    "_FAILED",
    "evaluations/000000.080-kimg.json",
    "slurm/job.json",
    "slurm/history.jsonl",
    "slurm/7_0_log.out",
    "checkpoints/000000.160-kimg/manifest.json",
    "checkpoints/000000.160-kimg/state.json",
    "checkpoints/000000.160-kimg/generator.safetensors",
]


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    """A finished run with a job, and one beside it."""
    root = tmp_path_factory.mktemp("whole")
    shutil.copytree(runs / "gaussian", root / "bad")
    shutil.copytree(runs / "patches", root / "good")
    job = root / "bad" / "slurm"
    job.mkdir()
    (root / "bad" / "_FAILED").write_text("at 0.16 kimg: SpiderError: not finite\n")
    Submission("7", 1, 1, ["true"], "code", {}).write(job)
    (job / "7_0_log.out").write_text("0.16 of 0.16 kimg, 100 img/s\n" * 3)
    history = History(job)
    history.add("submitted", job="7", nodes=1, ranks=1)
    history.add("started", job="7", start=0, nodes=["n1"], ranks=1, newest="000000.080-kimg")
    history.add("failed", job="7", start=0, reason="rank 0 died", rank=0, node="n1", again=True, newest=None)
    history.add("requeued", job="7", start=0, reason="SIGUSR2", seconds=1.5, grace_s=60.0, saved=True)
    history.add("finished", job="7", start=1)
    return root


@pytest.fixture
def damaged(whole, tmp_path):
    """Both, to do things to."""
    shutil.copytree(whole, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def patience():
    """A command that hangs ends the test."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(100)
    yield
    signal.alarm(0)


def require_calm(outcome, codes=(0, 1, 2, 3)):
    """No traceback (`spider` raises it), no control code, an exit code of the documented ones."""
    assert outcome.code in codes, outcome.err
    for text in (outcome.out, outcome.err):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text), ascii(text)
    assert outcome.code == 0 or len(outcome.err.splitlines()) >= 1


def named(damages):
    return pytest.mark.parametrize("damage", damages, ids=lambda damage: damage.__name__)


@named(DAMAGES)
def test_a_damaged_file_hides_no_other_run(spider, whole, tmp_path, damage):
    shutil.copytree(whole / "good", tmp_path / "good")
    for number, file in enumerate([*FILES, *STOPPING]):
        run = shutil.copytree(whole / "bad", tmp_path / f"bad-{number}")
        damage(run / file, random.Random(file))
        for verb in ("status", "logs") if file in SHOWN_IN_FULL else ():
            require_calm(spider(verb, run))
    for verb, state in (("ls", r"finished .*FD\[offline\]"), ("status", "finished")):
        listed = spider(verb, tmp_path)
        require_calm(listed, codes=(0,))
        assert re.search(rf"^good +{state}", listed.out, re.MULTILINE)
        assert len(re.findall(r"^bad-\d", listed.out, re.MULTILINE)) >= len(FILES)
    require_calm(spider("compare", tmp_path))


@named(TRAINED_AFTER)
def test_a_damaged_file_ends_no_training_in_a_traceback(spider, whole, tmp_path, damage):
    """All at once that a training can do without; of the others each alone."""
    alone = [*STOPPING, "metrics.jsonl", "best.json"]
    together = [file for file in FILES if file not in alone]
    for number, files in enumerate([together, *([file] for file in alone)]):
        run = shutil.copytree(whole / "bad", tmp_path / str(number))
        for file in files:
            damage(run / file, random.Random(f"train {file}"))
        trained = spider("train", "--run", run, "--kimg", "0.168")
        goes_on = files is together and damage is not folder  # which nothing can be written over
        require_calm(trained, codes=(0,) if goes_on else (0, 1, 2, 3))
        assert trained.code == 0 or any(file in trained.err for file in files) or "no run here" in trained.err
    require_calm(spider("status", tmp_path), codes=(0,))


def test_damage_is_named_with_its_file_and_row(spider, damaged):
    bad = damaged / "bad"
    (bad / "best.json").write_text('{"checkpoint": "000000.080-kimg", "metric": 3, "value": 1}')
    (bad / "metrics.jsonl").write_bytes(b"{}\n\xe9\n" + (bad / "metrics.jsonl").read_bytes())
    with (bad / "slurm" / "history.jsonl").open("ab") as history:
        history.write(b"\xff\xfe\n")
    assert f"! bad: {bad}/best.json: metric: input should be a valid string, found 3" in spider("ls", damaged).out
    compared = spider("compare", damaged).out
    assert f"! {bad}/metrics.jsonl: row 1: images: field required; 2 such rows are left out" in compared
    assert re.search(rf"{bad}/slurm/history.jsonl: row 6: not .*; the row is left out", spider("status", bad).out)
    trained = spider("train", "--run", bad, "--kimg", "0.168")
    assert trained.code == 0
    assert "metrics.jsonl: row 1" in trained.err
    assert "best.json: metric" in trained.err


def test_nobody_waits_for_a_file_that_does_not_end(spider, damaged):
    bomb = "k0: &k0 {x: 1}\n" + "".join(f"k{i}: &k{i} {{a: *k{i - 1}, b: *k{i - 1}}}\n" for i in range(1, 40))
    (damaged / "bad" / "config.yaml").write_text(bomb)
    for words in (("status", damaged), ("status", damaged / "bad"), ("compare", damaged)):
        require_calm(spider(*words))
    assert "config.yaml: not plain YAML: stands for more than 50,000 values in line" in spider("ls", damaged).out
    for words in (
        ("train", damaged / "bad" / "config.yaml"),
        ("launch", damaged / "bad" / "config.yaml", "--slurm", "time=9"),
    ):
        outcome = spider(*words, "--run", damaged / "new", "--dry-run")
        assert (outcome.code, "not plain YAML" in outcome.error) == (2, True)
