"""What lies among the checkpoints of a run and is none of its own, or does not fit it, neither ends nor changes it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.errors import ClusterError
from cluster.world import World
from spider.config.load import make_config
from spider.runs.directory import RunDirectory, resolve
from spider.runs.start import prepare
from spider.train.loop import train

BATCH = 8
SETTINGS = [f"batch={BATCH}", "generator.width=0.05", "discriminator.width=0.05", "log.samples=4"]
SETTINGS += ["log.tensorboard=false", "checkpoint.every_kimg=0.008", "checkpoint.keep_last=2"]
EARLIER, NEWEST = "000000.032-kimg", "000000.040-kimg"


def go_on(digits, path, kimg):
    config = make_config({"data": {"path": str(digits)}}, [*SETTINGS, f"kimg={kimg}"])
    directory = RunDirectory(path)
    assert train(prepare(config, directory), directory, World.single(), progress=False) == "finished"
    return directory


@pytest.fixture(scope="module")
def five_steps(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("misfits") / "run"
    go_on(digits, path, 0.04)
    return path


@pytest.fixture(scope="module")
def six_steps(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("misfits") / "run"
    return state_of(go_on(digits, path, 0.048))


def state_of(directory):
    """Every file of the newest checkpoint, by its digest."""
    newest = directory.checkpoints / directory.checkpoint_names()[-1]
    return newest.name, {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in newest.iterdir()}


@pytest.fixture
def run(five_steps, tmp_path):
    shutil.copytree(five_steps, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


# ---- copies ----------------------------------------------------------------------------------------------------------


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("name", [f"{NEWEST}.bak", f"backup-{NEWEST}", "zz-copy", "000099-kimg", "000000.024-kimg"])
@pytest.mark.parametrize("copied", [EARLIER, NEWEST])
def test_a_copy_is_left_alone_and_the_run_goes_on_from_its_own(digits, run, six_steps, name, copied):
    copy = shutil.copytree(run.checkpoints / copied, run.checkpoints / name)
    before = content(copy)
    assert run.checkpoint_names() == [EARLIER, NEWEST]
    assert resolve(str(run.path)).checkpoint == NEWEST
    go_on(digits, run.path, 0.048)
    assert state_of(run) == six_steps
    assert content(copy) == before
    assert not (run.checkpoints / "quarantine").exists()


def test_what_else_lies_there_is_left_alone(digits, run, six_steps):
    (run.checkpoints / "notes.txt").write_text("the good one is 32")
    (run.checkpoints / "best").symlink_to(NEWEST)
    (run.checkpoints / "old").mkdir()
    (run.checkpoints / "old" / "manifest.json").write_text("{}")
    os.mkfifo(run.checkpoints / "pipe")
    go_on(digits, run.path, 0.048)
    assert state_of(run) == six_steps
    assert {"notes.txt", "old", "pipe"} <= {entry.name for entry in run.checkpoints.iterdir()}
    assert (run.checkpoints / "best").is_symlink()


def test_a_copy_by_the_name_of_the_next_checkpoint_is_kept_aside(digits, run, six_steps, capfd):
    before = content(shutil.copytree(run.checkpoints / EARLIER, run.checkpoints / "000000.048-kimg"))
    go_on(digits, run.path, 0.048)
    assert state_of(run) == six_steps
    kept = content(run.checkpoints / "quarantine" / "000000.048-kimg")
    assert b"is in the way of a checkpoint of that name" in kept.pop("reason.txt")
    assert kept == before
    assert "is in the way" in capfd.readouterr().err


# ---- what does not fit -----------------------------------------------------------------------------------------------


def vouch(folder):
    """Make the manifest agree with the files, as whoever edits a checkpoint with ill intent would."""
    files = [file for file in folder.iterdir() if file.name != "manifest.json"]
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {
        file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in files
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def tensors(group, change):
    def damage(folder):
        file = folder / f"{group}.safetensors"
        found = load_file(file)
        name = max(found, key=lambda name: (found[name].is_floating_point(), found[name].numel(), name))
        change(found, name)
        save_file(found, file)

    return damage


def state(change):
    def damage(folder):
        tree = json.loads((folder / "state.json").read_text())
        change(tree)
        (folder / "state.json").write_text(json.dumps(tree))

    return damage


def put(key, value):
    return lambda tree, *_: tree.update({key: value})


MISFITS = {
    "shape": (tensors("generator", lambda t, n: t.update({n: t[n].flatten()[:-1].clone()})), "has shape"),
    "missing": (tensors("discriminator", lambda t, n: t.pop(n)), "is missing"),
    "extra": (tensors("generator_ema", put("more", torch.zeros(3))), "generator_ema.more is none of its tensors"),
    "dtype": (tensors("generator", lambda t, n: t.update({n: t[n].double()})), "is torch.float64, not torch.float32"),
    "nan": (tensors("generator_ema", lambda t, n: t[n].view(-1)[0].fill_(float("nan"))), "is not finite"),
    "moment shape": (tensors("g_optimizer", lambda t, n: t.update({n: t[n].flatten()[:-1].clone()})), "has shape"),
    "moment nan": (tensors("d_optimizer", lambda t, n: t[n].view(-1)[0].fill_(float("nan"))), "is not a number"),
    "moment missing": (tensors("d_optimizer", lambda t, n: t.pop(n)), "is missing"),
    "moment extra": (tensors("d_optimizer", put("9999.exp_avg", torch.zeros(3))), "does not fit the run"),
    "moment unnamed": (tensors("d_optimizer", put("more", torch.zeros(3))), "does not fit the run"),
    "group removed": (lambda folder: (folder / "discriminator.safetensors").unlink(), "it has no 'discriminator'"),
    "clock huge": (state(put("images", 10**18)), "its clock is 1000000000000000000 images"),
    "clock negative": (state(put("images", -8)), "its clock is -8 images"),
    "clock text": (state(put("images", "40")), "its clock is '40' images"),
    "clock float": (state(put("images", 40.0)), "its clock is 40.0 images"),
    "clock truth": (state(put("images", True)), "its clock is True images"),
    "clock of another": (state(put("images", 32)), "its clock is 32 images"),
    "clock missing": (state(lambda tree: tree.pop("images")), "it has no 'images'"),
    "entry of another type": (state(put("stats", [1])), "state.stats is [1], not an object"),
    "entry missing": (state(lambda tree: tree.pop("overfit")), "it has no 'overfit'"),
    "evaluator": (state(put("evaluator", {"best": [1]})), "does not fit the run"),
    "inputs": (state(put("inputs", [])), "does not fit the run"),
    "empty": (state(lambda tree: tree.clear()), "does not fit the run"),
}


@pytest.mark.parametrize(("damage", "says"), MISFITS.values(), ids=list(MISFITS))
def test_what_does_not_fit_is_set_aside_and_the_one_before_is_taken(digits, run, six_steps, capfd, damage, says):
    damage(run.checkpoints / NEWEST)
    vouch(run.checkpoints / NEWEST)
    go_on(digits, run.path, 0.048)
    assert state_of(run) == six_steps
    reason = (run.checkpoints / "quarantine" / NEWEST / "reason.txt").read_text()
    assert says in reason
    assert reason.count("\n") == 1
    told = [line for line in capfd.readouterr().err.splitlines() if "moved to" in line]
    assert len(told) == 1
    assert told[0].startswith(f"warning: checkpoint {run.checkpoints / NEWEST} does not fit the run: ")


def test_if_none_fits_nothing_is_moved_and_the_newest_is_named(digits, run):
    for name in (EARLIER, NEWEST):
        state(put("images", 0))(run.checkpoints / name)
        vouch(run.checkpoints / name)
    with pytest.raises(ClusterError, match=rf"^checkpoint .*{NEWEST} does not fit the run: its clock is 0 images$"):
        go_on(digits, run.path, 0.048)
    assert run.checkpoint_names() == [EARLIER, NEWEST]


# ---- what does not end -----------------------------------------------------------------------------------------------


def link_to_an_endless_device(file):
    file.unlink()
    file.symlink_to("/dev/zero")


def pipe(file):
    file.unlink()
    os.mkfifo(file)


def grown(file):
    with file.open("ab") as grows:
        grows.truncate(200 << 30)


@pytest.mark.parametrize("damage", [link_to_an_endless_device, pipe, grown])
@pytest.mark.parametrize("file", ["generator.safetensors", "state.json", "manifest.json"])
def test_no_file_is_read_that_does_not_end(digits, run, six_steps, damage, file):
    damage(run.checkpoints / NEWEST / file)
    go_on(digits, run.path, 0.048)
    assert state_of(run) == six_steps
    assert file in (run.checkpoints / "quarantine" / NEWEST / "reason.txt").read_text()


def test_a_size_in_the_manifest_that_no_memory_holds_is_refused(digits, run, six_steps):
    manifest = json.loads((run.checkpoints / NEWEST / "manifest.json").read_text())
    manifest["files"]["generator.safetensors"]["bytes"] = 200 << 30
    (run.checkpoints / NEWEST / "manifest.json").write_text(json.dumps(manifest))
    go_on(digits, run.path, 0.048)
    assert state_of(run) == six_steps


def test_a_checkpoint_may_be_a_link_to_a_folder(digits, run, six_steps, tmp_path):
    """As where one disk is full and another one is not."""
    (run.checkpoints / NEWEST).rename(tmp_path / NEWEST)
    (run.checkpoints / NEWEST).symlink_to(tmp_path / NEWEST)
    go_on(digits, run.path, 0.048)
    assert state_of(run) == six_steps
