"""Resume equals uninterrupted, bit for bit: after a stop, after kill -9 at any moment, in the middle of a save."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from cluster.checkpoint import CheckpointStore
from cluster.errors import ClusterError
from cluster.world import World
from shards.files import open_whole
from shards.pack import pack
from spider.config.load import make_config
from spider.errors import SpiderError, SpiderUsageError
from spider.gan.sources.frozen import GeneratedImages
from spider.runs.directory import RunDirectory, resolve
from spider.runs.start import prepare
from spider.train.evaluator import Evaluator
from spider.train.loop import train
from spider.train.record import Recorder
from tests.equal_runs import assert_equal_runs, everything
from tests.every_axis import EVERY_AXIS

OVERRIDES = [
    "batch=50",
    "kimg=1.2",
    "generator.width=0.1",
    "discriminator.width=0.1",
    "d_steps=2",
    *EVERY_AXIS,
    "selection.trace.first_step=3",
    "selection.trace.steps=16",
    "ema.half_life_kimg=0.2",
    "log.every_kimg=0.1",
    "log.samples_every_kimg=0.5",
    "log.samples=4",
    "checkpoint.every_kimg=0.3",
    "evaluate.every_kimg=0.4",
    "evaluate.embedding=offline",
    "evaluate.count=64",
    "compute.deterministic=true",
]
# Where nothing is said of TensorBoard's files: a start waits for another second than that of the file before
NO_BOARD = "log.tensorboard=false"


def config_for(data, extra=()):
    return make_config({"data": {"path": str(data)}}, [*OVERRIDES, *extra])


def run(data, path, extra=()):
    """Train in this process to the end."""
    directory = RunDirectory(Path(path))
    config = prepare(config_for(data, extra), directory)
    return train(config, directory, World.single(), progress=False)


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert run(digits, path) == "finished"
    return path


SCRIPT = """
import sys, torch
torch.set_num_threads({threads})
sys.path[:0] = [{folder!r}, {root!r}]
import test_resume
print(test_resume.run_up_to_the_last_row({data!r}, {path!r}), flush=True)
"""


def let_go(path):
    """The file that lets a run in a process of its own come to its end."""
    return Path(f"{path}.let-go")


def run_up_to_the_last_row(data, path):
    """`run`, which waits after row 11 of 12 for `let_go`: however late a signal is sent, it finds the run at work."""
    row, parent = Recorder.row, os.getppid()

    def row_and_wait(record):
        row(record)
        # If the tests are killed, nobody will let it go
        while record.trainer.images >= 1100 and not let_go(path).exists() and os.getppid() == parent:
            time.sleep(0.005)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "row", row_and_wait)
        return run(data, path)


@contextlib.contextmanager
def started(data, path):
    """The same training in a process of its own, which is killed in the end."""
    code = SCRIPT.format(
        threads=torch.get_num_threads(),
        folder=str(Path(__file__).parent),
        root=str(Path(__file__).parents[3]),
        data=str(data),
        path=str(path),
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_rows(path, count, process):
    """Until metrics.jsonl has `count` rows."""
    file = RunDirectory(Path(path)).metrics_file
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if file.is_file() and file.read_text().count("\n") >= count:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    raise AssertionError(f"{file} did not come to {count} rows")


def test_a_longer_run_goes_on_where_the_shorter_one_ended(digits, uninterrupted, tmp_path):
    run(digits, tmp_path / "run", ["kimg=0.5"])
    for file in ("samples/000001-kimg.png", "evaluations/000001-kimg.json"):  # as a kill while they are written leaves
        with contextlib.suppress(KeyboardInterrupt), open_whole(tmp_path / "run" / file) as beside:
            os.link(beside.name, tmp_path / "left")
            raise KeyboardInterrupt
        os.rename(tmp_path / "left", beside.name)
    assert run(digits, tmp_path / "run") == "finished"
    assert_equal_runs(tmp_path / "run", uninterrupted)
    assert not [*(tmp_path / "run" / "samples").glob(".*"), *(tmp_path / "run" / "evaluations").glob(".*")]


def test_resume_after_a_stop_is_exact(digits, uninterrupted, tmp_path):
    with started(digits, tmp_path / "run") as process:
        wait_for_rows(tmp_path / "run", 4, process)
        process.send_signal(signal.SIGINT)
        let_go(tmp_path / "run").touch()
        out, err = process.communicate(timeout=600)
    assert out.strip() == "stopped", err
    assert run(digits, tmp_path / "run") == "finished"
    assert_equal_runs(tmp_path / "run", uninterrupted)


def test_resume_after_kill_9_is_exact(digits, uninterrupted, tmp_path):
    """Twice in one run, at moments that differ from one test run to the next; the seed is in the failure's message."""
    seed = int.from_bytes(os.urandom(2), "little")
    moments = random.Random(seed)
    for rows in sorted(moments.sample(range(3, 11), 2)):
        with started(digits, tmp_path / "run") as process:
            wait_for_rows(tmp_path / "run", rows, process)
            time.sleep(moments.random() * 0.1)
        assert process.returncode == -signal.SIGKILL, seed
    assert run(digits, tmp_path / "run") == "finished", seed
    assert_equal_runs(tmp_path / "run", uninterrupted)


def test_resume_from_a_save_cut_short_is_exact(digits, uninterrupted, tmp_path):
    """A half-written checkpoint beside the finished ones, and a finished one that is damaged, change nothing."""
    run(digits, tmp_path / "run", ["kimg=0.9"])
    directory = RunDirectory(tmp_path / "run")
    *_, before, last = directory.checkpoint_names()
    shutil.copytree(directory.checkpoints / before, directory.checkpoints / ".tmp-000001-kimg-12345678")
    victim = directory.checkpoints / last / "generator.safetensors"
    victim.write_bytes(victim.read_bytes()[:-100])
    assert run(digits, tmp_path / "run") == "finished"
    assert_equal_runs(tmp_path / "run", uninterrupted)
    assert (directory.checkpoints / "quarantine" / last).is_dir()


def test_rows_are_on_the_disk_before_the_checkpoint_that_knows_of_them(digits, tmp_path, monkeypatch):
    """Also after a loss of power they are not fewer."""
    synced, fsync = [], os.fsync

    def noted(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    run(digits, tmp_path / "run", ["kimg=0.7", NO_BOARD])
    saves = [place for place, name in enumerate(synced) if name == "manifest.json"]
    assert len(saves) >= 3
    for number, place in enumerate(saves, start=1):
        for rows in ("metrics.jsonl", "topk_trace.jsonl"):
            assert synced[:place].count(rows) >= number


def distributed(world, data, path, kimg, *extra):
    """On a rank: train to `kimg`."""
    config = config_for(data, [f"kimg={kimg}", *extra])
    directory = RunDirectory(Path(path))
    return train(config, directory, world, progress=False)


SHORT = [
    "batch=20",
    "generator.width=0.1",
    "discriminator.width=0.1",
    "penalties.r1_gamma=1",
    "log.every_kimg=0.1",
    "log.samples=4",
    "evaluate.every_kimg=0.2",
    "evaluate.embedding=offline",
    "evaluate.count=16",
    "compute.deterministic=true",
    NO_BOARD,
]
METHODS = {
    "neighbour": [
        "source.kind=images",
        "source.path={patches}",
        "source.noise_std=0.3",
        "discriminator.norm=batch",
        "penalties.gp_weight=1",
        "d_steps=2",
        "compute.channels_last=true",
    ],
    "mixture": [
        "source.kind=gmm",
        "compute.precision=bf16",
        "selection.kind=linear",
        "selection.over_kimg=0.4",
        "data.mirror=true",
    ],
    "micro-batches": [
        "accumulation=2",
        "generator.norm=none",
        "selection.kind=adaptive",
        "selection.trace.first_step=3",
        "selection.trace.steps=9",
        "data.order=shard_local",
        "overfit.rise_kimg=0.2",
    ],
    "classes-apa": [
        "condition.kind=class",
        "condition.sampler=balanced",
        "condition.temperature=2",
        "evaluate.metrics=[fid,fid_class]",
        "augment=[{{kind: mirror}}, {{kind: apa, control: {{p_start: 0.5, rise_kimg: 0.3}}}}, {{kind: diffaugment}}]",
        "d_steps=2",
    ],
    "cascade": ["source.kind=generator", "source.run={stage}", "source.noise_std=0.1"],
}


@pytest.fixture(scope="module")
def stage(digits, tmp_path_factory):
    """A run to feed another with."""
    path = tmp_path_factory.mktemp("stage") / "run"
    config = make_config({"data": {"path": str(digits)}}, [*SHORT, "kimg=0.04"])
    train(config, RunDirectory(path), World.single(), progress=False)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_every_method_resumes_exactly(digits, patches, stage, tmp_path, method):
    keys = [*SHORT, *(key.format(patches=patches, stage=stage) for key in METHODS[method])]
    for path, lengths in ((tmp_path / "whole", [0.4]), (tmp_path / "parts", [0.14, 0.22, 0.4])):
        for length in lengths:
            directory = RunDirectory(path)
            config = prepare(make_config({"data": {"path": str(digits)}}, [*keys, f"kimg={length}"]), directory)
            assert train(config, directory, World.single(), progress=False) == "finished"
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def stop_within(patch, *evaluations):
    """SIGTERM while the samples of these evaluations are made; 0 is the process's next one."""
    made, batch = [], GeneratedImages.batch

    def batch_and_stop(self, start, stop):
        if start == 0:
            made.append(self.name)
            if len(made) - 1 in evaluations:
                signal.raise_signal(signal.SIGTERM)
        return batch(self, start, stop)

    patch.setattr(GeneratedImages, "batch", batch_and_stop)


def evaluated(path):
    """The names of the evaluations that were made."""
    return sorted(file.stem for file in RunDirectory(Path(path)).evaluations.glob("*.json"))


def owed(path):
    """What the newest checkpoint says."""
    store = CheckpointStore(RunDirectory(Path(path)).checkpoints, World.single())
    return store.load(resolve(str(path)).checkpoint).state["evaluator"]["owed"]


def test_an_evaluation_abandoned_for_a_stop_is_made_first_on_resume(digits, uninterrupted, tmp_path):
    """Also if it is abandoned again, and if it is the one that is due at the run's end."""
    path = tmp_path / "run"
    for made in ([], [], ["000000.400-kimg", "000000.800-kimg"]):
        with pytest.MonkeyPatch.context() as patch:
            stop_within(patch, 2 if made else 0)
            assert run(digits, path) == "stopped"
        assert evaluated(path) == made
        assert owed(path)
        assert not RunDirectory(path).success_file.exists()
    assert run(digits, path) == "finished"
    assert RunDirectory(path).success_file.exists()
    assert_equal_runs(path, uninterrupted)


def test_a_run_stopped_in_its_last_evaluation_out_of_turn_makes_it_and_finishes(digits, tmp_path):
    run(digits, tmp_path / "whole", ["kimg=0.5"])
    with pytest.MonkeyPatch.context() as patch:
        stop_within(patch, 1)
        assert run(digits, tmp_path / "run", ["kimg=0.5"]) == "stopped"
    assert evaluated(tmp_path / "run") == ["000000.400-kimg"]
    assert not RunDirectory(tmp_path / "run").success_file.exists()
    assert run(digits, tmp_path / "run", ["kimg=0.5"]) == "finished"
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")


def test_a_kill_after_an_evaluation_that_was_owed_shows_it_once(digits, tmp_path, monkeypatch):
    """Before the checkpoint knows that it was made."""
    run(digits, tmp_path / "whole", ["kimg=0.5"])
    with monkeypatch.context() as patch:
        stop_within(patch, 0)
        assert run(digits, tmp_path / "run", ["kimg=0.5"]) == "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "async_save", Mock(side_effect=ClusterError("killed")))
        with pytest.raises(ClusterError, match="killed"):
            run(digits, tmp_path / "run", ["kimg=0.5"])
    assert evaluated(tmp_path / "run") == ["000000.400-kimg"]
    assert run(digits, tmp_path / "run", ["kimg=0.5"]) == "finished"
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")


def test_a_checkpoint_that_does_not_say_what_is_owed_owes_nothing(digits, tmp_path, monkeypatch):
    state = Evaluator.state
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "state", lambda self: {k: v for k, v in state(self).items() if k != "owed"})
        run(digits, tmp_path / "run", ["kimg=0.4", NO_BOARD])
    assert run(digits, tmp_path / "run", ["kimg=0.5", NO_BOARD]) == "finished"
    assert evaluated(tmp_path / "run") == ["000000.400-kimg", "000000.500-kimg"]


def stopped_within(world, data, path, kimg, rank, evaluation):
    """On a rank: train to `kimg`; one rank is asked to stop during an evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        if world.rank == rank:
            stop_within(patch, evaluation)
        return distributed(world, data, path, kimg)


def test_a_stop_on_one_rank_within_an_evaluation_ends_on_both(ranks, digits, tmp_path):
    """In turn at 0.4; out of turn at 0.5, by the other rank, after what was owed was made."""
    path = tmp_path / "parts"
    ranks(2).run(distributed, digits, tmp_path / "whole", 0.5)
    assert ranks(2).run(stopped_within, digits, path, 0.5, 1, 0) == ["stopped"] * 2
    assert evaluated(path) == []
    assert owed(path)
    assert ranks(2).run(stopped_within, digits, path, 0.5, 0, 1) == ["stopped"] * 2
    assert evaluated(path) == ["000000.400-kimg"]
    assert ranks(2).run(distributed, digits, path, 0.5) == ["finished"] * 2
    assert_equal_runs(path, tmp_path / "whole")


def test_a_damaged_best_checkpoint_gives_way_to_the_best_before(digits, tmp_path, capfd):
    """Though only one checkpoint is kept besides the best."""
    directory = RunDirectory(tmp_path / "run")
    keys = ["checkpoint.keep_last=1", "checkpoint.every_kimg=9", NO_BOARD]
    run(digits, directory.path, [*keys, "kimg=0.4"])
    run(digits, directory.path, [*keys, "kimg=0.8"])
    assert directory.best()["checkpoint"] == "000000.800-kimg"
    (directory.checkpoints / "000000.800-kimg" / "generator.safetensors").write_bytes(b"cut")
    run(digits, directory.path, [*keys, "kimg=0.6"])
    assert "quarantine" in capfd.readouterr().err
    assert resolve(f"{directory.path}@best").checkpoint in ("000000.400-kimg", "000000.600-kimg")
    assert "000000.400-kimg" in directory.checkpoint_names()


def test_a_best_checkpoint_that_is_gone_is_forgotten(digits, tmp_path, capfd):
    directory = RunDirectory(tmp_path / "run")
    run(digits, directory.path, ["kimg=0.6", NO_BOARD])
    shutil.rmtree(directory.checkpoints / "000000.400-kimg")
    run(digits, directory.path, ["kimg=0.7", NO_BOARD])
    assert "the best checkpoint, 000000.400-kimg, is no longer there" in capfd.readouterr().err
    assert directory.best()["checkpoint"] == "000000.700-kimg"  # measured as the last


def test_a_lost_best_checkpoint_of_a_finished_run_is_forgotten_too(digits, tmp_path):
    directory = RunDirectory(tmp_path / "run")
    run(digits, directory.path, ["kimg=0.8", "checkpoint.keep_last=9", NO_BOARD])
    best = directory.best()["checkpoint"]
    directory.best_file.write_text(directory.best_file.read_text().replace(best, "000000.300-kimg"))
    shutil.rmtree(directory.checkpoints / "000000.300-kimg")
    assert run(digits, directory.path, ["kimg=0.8", "checkpoint.keep_last=9", NO_BOARD]) == "already finished"
    assert directory.best()["checkpoint"] == best


def test_the_last_images_are_measured_though_it_is_not_their_turn(digits, tmp_path):
    """And whoever goes on knows nothing of it: see test_every_method_resumes_exactly."""
    directory = RunDirectory(tmp_path / "run")
    run(digits, directory.path, ["kimg=0.5", NO_BOARD])
    assert (directory.evaluations / "000000.500-kimg.json").exists()
    run(digits, directory.path, ["kimg=0.9", NO_BOARD])
    assert sorted(file.name for file in directory.evaluations.iterdir()) == [
        "000000.400-kimg.json",
        "000000.800-kimg.json",
        "000000.900-kimg.json",
    ]


@pytest.mark.parametrize("engine", [(), ("engine.kind=deepspeed", "engine.zero_stage=2")], ids=["ddp", "deepspeed"])
def test_resume_is_exact_on_two_ranks(engine, ranks, digits, tmp_path):
    ranks(2).run(distributed, digits, tmp_path / "whole", 0.5, *engine)
    ranks(2).run(distributed, digits, tmp_path / "parts", 0.3, *engine)
    ranks(2, fresh=True).run(distributed, digits, tmp_path / "parts", 0.5, *engine)
    assert_equal_runs(tmp_path / "parts", tmp_path / "whole")


ZERO_0, ZERO_1, ZERO_2 = (("engine.kind=deepspeed", f"engine.zero_stage={stage}") for stage in range(3))
WAYS = {
    # In other orders of sums: rounding alone
    "fp64": (["compute.precision=fp64"], [(4, ()), (2, ()), (3, ())], 1e-9, 1e-9),
    # float32, and Adam with beta1 = 0: a few thousandths after some tens of steps
    "fp32": ([], [(4, ZERO_0), (2, ZERO_1), (3, ZERO_2)], 0.05, 0.02),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_goes_on_under_other_engines_and_world_sizes(ranks, digits, tmp_path, way):
    """On one rank, 4, 2, 3, and one again: weights to what the precision holds, and p and k the same."""
    precision, worlds, rtol, atol = WAYS[way]
    settings = [*precision, "batch=24", NO_BOARD]
    run(digits, tmp_path / "run", [*settings, "kimg=0.072"])
    for part, (size, engine) in enumerate(worlds, start=1):
        kimg = 0.072 + 0.048 * part
        assert set(ranks(size).run(distributed, digits, tmp_path / "run", kimg, *settings, *engine)) == {"finished"}
    run(digits, tmp_path / "run", [*settings, "kimg=0.36"])
    run(digits, tmp_path / "whole", [*settings, "kimg=0.36"])
    (one, rows, *_, trace), (other, rows_of_whole, *_, trace_of_whole) = (
        everything(tmp_path / name) for name in ("run", "whole")
    )
    for key in ("images", "overfit", "selection"):
        assert one.state[key] == other.state[key], key
    assert trace == trace_of_whole
    assert [row["images"] for row in rows] == [row["images"] for row in rows_of_whole]
    for group, tensors in other.tensors.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(one.tensors[group][name], tensor, rtol=rtol, atol=atol)


def test_another_configuration_is_refused_with_the_difference(digits, uninterrupted):
    directory = RunDirectory(uninterrupted)
    with pytest.raises(SpiderUsageError, match=r"seed: the run has 0, now 1") as refused:
        prepare(config_for(digits, ["seed=1"]), directory)
    assert "--from" in str(refused.value)
    assert prepare(config_for(digits, ["kimg=99"]), directory).kimg == 99


def test_other_data_is_refused(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    pack("builtin:digits", tmp_path / "others", subset=300, seed=1, workers=1, progress=False)
    with pytest.raises(SpiderError, match="data: the checkpoint was trained on"):
        run(tmp_path / "others", tmp_path / "run", ["kimg=2"])


def test_other_reference_images_are_refused_and_the_same_elsewhere_are_not(digits, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    shutil.copytree(digits, tmp_path / "moved")
    pack("builtin:digits", tmp_path / "others", subset=200, seed=1, workers=1, progress=False)
    with pytest.raises(SpiderError, match=r"evaluate\.reference: the run was measured by"):
        run(digits, tmp_path / "run", ["kimg=1.3", f"evaluate.reference={tmp_path / 'others'}"])
    assert run(digits, tmp_path / "run", ["kimg=1.3", f"evaluate.reference={tmp_path / 'moved'}"]) == "finished"


def test_a_branch_goes_on_from_another_runs_checkpoint(digits, uninterrupted, tmp_path):
    config = config_for(digits, ["g_optimizer.lr=1e-5", NO_BOARD])
    directory = RunDirectory(tmp_path / "branch")
    branch = resolve(f"{uninterrupted}@0.9")
    assert train(config, directory, World.single(), branch=branch, progress=False) == "finished"
    rows = [json.loads(line) for line in directory.metrics_file.read_text().splitlines()]
    assert rows[0]["kimg"] == pytest.approx(1.0)
    state = CheckpointStore(directory.checkpoints, World.single()).load("000001.200-kimg").state
    assert state["g_optimizer"]["group.0"]["lr"] == 1e-5


def test_a_checkpoint_that_holds_code_is_refused(digits, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    checkpoints = RunDirectory(tmp_path / "run").checkpoints
    torch.save({"a": 1}, checkpoints / resolve(str(tmp_path / "run")).checkpoint / "extra.pt")
    with pytest.raises(Exception, match=r"extra\.pt"):
        CheckpointStore(checkpoints, World.single()).load(resolve(str(tmp_path / "run")).checkpoint)


def test_retention_keeps_the_last_the_best_and_the_multiples(digits, tmp_path):
    run(
        digits,
        tmp_path / "run",
        ["checkpoint.every_kimg=0.1", "checkpoint.keep_last=2", "checkpoint.keep_every_kimg=0.5", NO_BOARD],
    )
    directory = RunDirectory(tmp_path / "run")
    best = directory.best()["checkpoint"]
    newest = "000001.200-kimg"
    state = CheckpointStore(directory.checkpoints, World.single()).load(newest).state["evaluator"]
    before = {state["before"]["checkpoint"]} if best == newest else set()  # where a damaged newest one leads back to
    assert set(directory.checkpoint_names()) == {
        best,
        *before,
        "000000.500-kimg",
        "000001-kimg",
        "000001.100-kimg",
        newest,
    }
