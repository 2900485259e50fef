"""A pipeline's file is refused by its keys, or becomes jobs behind each other; again, only what has not finished."""

from __future__ import annotations

import json
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from cluster.errors import ClusterError
from cluster.jobs.history import History
from cluster.jobs.submission import Submission
from spider import api
from spider.config.load import make_config
from spider.data import fingerprint_of
from spider.errors import SpiderError, SpiderUsageError
from spider.jobs import inputs
from spider.jobs.of_folder import cancel_jobs, stage_folders
from spider.jobs.pipeline import foresee, submit_pipeline
from spider.jobs.stages import Stage, is_pipeline
from spider.jobs.submit import read_place
from spider.runs.directory import RunDirectory
from spider.runs.request import TrainRequest

if TYPE_CHECKING:
    from tests.conftest import Programs

FILE = """
stages:
  measured:
    {verb: evaluate, subject: "{run}/two", out: "{run}/two.json", after: two}
  digits:
    {verb: pack, source: "builtin:digits", out: "{run}/digits", slurm: {gpus_per_node: 0, time: 5}}
  one:
    {verb: train, config: dcgan, data: "{run}/digits", run: "{run}/one", overrides: batch=64, after: digits}
  two:
    verb: train
    config: dcgan
    data: "{run}/digits"
    source: "{run}/one"
    run: "{run}/two"
    overrides: [batch=64]
    after: [digits, one]
"""
VERIFY = "{verb: verify, shards: x"
DOCS = Path(__file__).parents[3] / "docs"
SLURM = "nodes=2,gpus_per_node=4,time=60"


def read(tmp_path: Path, text: str = FILE) -> list[Stage]:
    (tmp_path / "stages.yaml").write_text(text)
    return api.read_pipeline(tmp_path / "stages.yaml", tmp_path / "all", SLURM)


@pytest.fixture
def queue(programs: Programs, tmp_path: Path) -> Queue:
    return Queue(programs, tmp_path)


class Queue:
    """Slurm, as far as a pipeline knows it: a folder with a file for each job that waits or runs."""

    def __init__(self, programs: Programs, tmp_path: Path) -> None:
        self.programs, self.root, self.jobs = programs, tmp_path, tmp_path / "queue"
        self.jobs.mkdir()
        number = f"n=$(( 7 + $(wc -l < {programs.folder}/sbatch.calls) - 1 ))"
        programs.play("sbatch", f"{number}; touch {self.jobs}/$n; echo Submitted batch job $n")
        programs.play("squeue", f"[ -e {self.jobs}/$3 ] && echo 'PENDING|(Dependency)'; true")
        programs.play("scancel", f"rm {self.jobs}/$1")

    def submit(self, text: str = FILE) -> dict[str, str | None]:
        """By stage, its new job, or what else became of it."""
        made = submit_pipeline(read(self.root, text))
        return {each.name: each.job if each.is_new else f"as {each.job}" for each in made}

    def end(self, stage: str, how: str = "finished") -> None:
        folder = self.root / "all" / "stages" / stage
        submission = Submission.read(folder)
        assert submission is not None
        (self.jobs / submission.job).unlink()
        History(folder).add(how, job=submission.job, start=0)

    def behind(self, stage: str) -> str | None:
        """What the script of a stage's last job waits for."""
        folder = self.root / "all" / "stages" / stage
        submission = Submission.read(folder)
        assert submission is not None
        lines = (folder / f"{submission.job}_submission.sh").read_text().splitlines()
        return next((line.partition("afterok:")[2] for line in lines if "--dependency" in line), None)


def test_stages_come_after_those_that_they_wait_for(tmp_path: Path) -> None:
    stages = read(tmp_path)
    assert [stage.name for stage in stages] == ["digits", "one", "two", "measured"]
    assert [stage.after for stage in stages] == [(), ("digits",), ("digits", "one"), ("two",)]
    assert stages[0].words == ("pack", "--", "builtin:digits", f"{tmp_path}/all/digits")
    assert stages[0].folder == tmp_path / "all" / "stages" / "digits"


def test_trainings_and_evaluations_run_on_all_ranks_and_the_rest_as_one_process(tmp_path: Path) -> None:
    stages = read(tmp_path)
    asked = [(s.place.request.nodes, s.place.request.tasks, s.place.request.gpus_per_node) for s in stages]
    assert asked == [(1, 1, 0), (2, 4, 4), (2, 4, 4), (2, 4, 4)]
    assert [stage.place.request.time_min for stage in stages] == [5, 60, 60, 60]


def test_a_training_says_where_it_saves(tmp_path: Path) -> None:
    pack, one, two, measured = (stage.command for stage in read(tmp_path))
    assert (pack.saves, measured.stacks) == (None, None)
    assert (one.saves, one.stacks) == (tmp_path / "all" / "one" / "checkpoints", tmp_path / "all" / "one" / "stacks")
    assert two.saves == tmp_path / "all" / "two" / "checkpoints"
    assert two.command[:4] == (sys.executable, "-m", "spider", "train")


def test_a_pickle_of_others_is_imported_trained_on_and_exported(tmp_path: Path) -> None:
    """Its run is not there yet: a training is fed by it, and another begins with its weights."""
    stages = read(
        tmp_path,
        """
        stages:
          theirs: {verb: import_pickle, file: theirs.pkl, out: "{run}/theirs"}
          fed: {verb: train, data: d, source: "{run}/theirs", run: "{run}/fed", after: theirs, CONFIG}
          tuned: {verb: train, data: d, init: "{run}/theirs", run: "{run}/tuned", after: theirs, CONFIG}
          out: {verb: export, run: "{run}/tuned@last", out: "{run}/out", onnx: true, after: tuned}
        """.replace("CONFIG", "config: dcgan, overrides: batch=64"),
    )
    folder = tmp_path / "all"
    words = {stage.name: stage.words for stage in stages}
    assert words["theirs"] == ("import", "--", "theirs.pkl", f"{folder}/theirs")
    assert f"--source={folder}/theirs" in words["fed"]
    assert f"--init={folder}/theirs" in words["tuned"]
    assert words["out"] == ("export", "--onnx", "--", f"{folder}/tuned@last", f"{folder}/out")
    assert stages[0].command.saves is None


LADDERS = {
    "ladders/cifar10": 2, "ladders/stylegan-xl-cifar10": 2, "ladders/ffhq": 7, "ladders/imagenet": 1,
    "results/xl/catface": 6, "results/xl/cifar10": 4,
}  # fmt: skip


def side_in(folder: str | Path | None) -> int:
    """Of images, which the name of a folder ends with."""
    digits = re.search(r"\d+$", str(folder))
    assert digits is not None
    return int(digits[0])


def test_every_ladder_of_the_guide_is_tried() -> None:
    found = [file for folder in ("ladders", "results/xl") for file in (DOCS / folder).glob("*.yaml")]
    assert {str(file.relative_to(DOCS).with_suffix("")) for file in found} == LADDERS.keys()


@pytest.mark.parametrize("name", LADDERS)
def test_ladders_are_pipelines(tmp_path: Path, name: str) -> None:
    """Each stage grows from the run of a stage before, at the side of the images that it learns."""
    stages = api.read_pipeline(DOCS / f"{name}.yaml", tmp_path, SLURM)
    requests = [stage.request for stage in stages if isinstance(stage.request, TrainRequest)]
    made = [tmp_path / "128", *(Path(str(request.run)) for request in requests)]  # 128 is imported
    for request in requests:
        config = request.foreseen(made)
        assert config.objective.slicing == str(request.config).startswith("stylesan-xl/")
        if request.init and not str(request.init).endswith(".safetensors"):
            before = str(request.init).partition("@")[0]
            assert config.generator.sides[-2:] == (side_in(before), side_in(request.data))
            assert config.generator.sides[-1] == side_in(request.run)
        else:
            assert config.generator.sides == ()
    assert len(requests) == LADDERS[name]


def test_the_ladder_without_slicing_is_the_other_but_for_its_presets() -> None:
    sliced, plain = (
        yaml.safe_load((DOCS / "ladders" / f"{name}.yaml").read_text())["stages"]
        for name in ("cifar10", "stylegan-xl-cifar10")
    )
    for name in ("stem", "grown"):
        assert plain[name].pop("config").replace("stylegan", "stylesan") == sliced[name].pop("config")
    assert plain == sliced


def test_a_training_begins_with_weights_of_a_stage_before(tmp_path: Path) -> None:
    """As stages of growth do, which are refused without weights."""
    stem, grown = read(
        tmp_path,
        """
        stages:
          stem: {verb: train, config: stylegan-xl/stem, data: d, run: "{run}/16", overrides: SEEN}
          grown:
            verb: train
            config: stylegan-xl/head
            data: d
            init: "{run}/16@last"
            run: "{run}/32"
            overrides: ["generator.sides=[16,32]", "init.players=[g_ema]", SEEN]
            after: stem
        """.replace("SEEN", '"discriminator.backbones=[{kind: efficientnet_lite0}]"'),
    )
    assert f"--init={tmp_path}/all/16@last" in grown.words
    assert not any(word.startswith("--init") for word in stem.words)
    [filed] = read(
        tmp_path,
        """
        stages:
          filed:
            verb: train
            config: stylegan-xl/head
            data: d
            init: "{run}/stem.safetensors"
            run: "{run}/32"
            overrides: ["generator.sides=[16,32]", "discriminator.backbones=[{kind: efficientnet_lite0}]"]
        """,
    )
    assert f"--init={tmp_path}/all/stem.safetensors" in filed.words
    with pytest.raises(SpiderError, match="there: no such folder"):
        read(
            tmp_path,
            """
            stages:
              grown: {verb: train, config: dcgan, data: d, init: "there@last", run: "{run}/32"}
            """,
        )


def test_a_folder_with_spaces_stays_one_word(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("stages: {a: {verb: pack, source: b, out: '{run}/c'}}")
    [stage] = api.read_pipeline(tmp_path / "x.yaml", tmp_path / "a b", SLURM)
    assert stage.words == ("pack", "--", "b", f"{tmp_path}/a b/c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"stages: {{a: {VERIFY}, after: b}}}}", "stages.a.after: stage 'b' is unknown; known: a"),
        (f"stages: {{a: {VERIFY}, after: b}}, b: {VERIFY}, after: a}}}}", "stages wait for each other: "),
        (f"stages: {{a: {VERIFY}, after: a}}}}", "stages wait for each other: a after a"),
        ("stages: {a: {run: pack x y}}", "stages.a.verb: missing; a stage has a verb and its arguments as keys, such"),
        ("stages: {a: ls}", "stages.a: "),
        (f"stages: {{../a: {VERIFY}}}}}", "stages.../a"),
        ("stages: {}", "stages: dictionary should have at least 1 item"),
        (f"stages: {{a: {VERIFY}}}}}\nkimg: 3", "kimg: no such key; keys: stages"),
        (f"stages: {{a: {VERIFY}}}, a: {VERIFY}}}}}", "not plain YAML: a stands there twice"),
        (f"stages: {{a: {VERIFY}, slurm: {{nods: 2}}}}}}", "stages.a.slurm: nods: no such key; did you mean nodes?"),
        (f"stages: {{a: {VERIFY}, slurm: {{nodes: 0}}}}}}", "stages.a.slurm: nodes: input should be greater than 0, "),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises((SpiderUsageError, ClusterError)) as refused:
        read(tmp_path, text)
    assert str(refused.value).startswith(f"{tmp_path}/stages.yaml: {message}")
    assert refused.value.exit_code == 2
    assert not (tmp_path / "all").exists()


def test_a_pipeline_moves_into_no_run(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "all").write_config(make_config({"data": {"path": "x"}}))
    with pytest.raises(SpiderUsageError, match=r"^--run .*/all: that is a run's folder"):
        read(tmp_path)


def test_a_file_with_stages_is_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("stages: {}")
    Path("b.yaml").write_text("batch: 3")
    assert [is_pipeline(name) for name in ("a.yaml", "b.yaml", "dcgan", None)] == [True, False, False, False]


def test_each_job_is_behind_those_that_it_waits_for(queue: Queue) -> None:
    assert queue.submit() == {"digits": "7", "one": "8", "two": "9", "measured": "10"}
    assert [queue.behind(name) for name in ("digits", "one", "two", "measured")] == [None, "7", "7:8", "9"]


def test_of_several_who_submit_at_once_one_does(queue: Queue) -> None:
    stages = read(queue.root)
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: submit_pipeline(stages), range(3)))
    assert len({tuple(each.job for each in found) for found in made}) == 1
    assert sorted(sum(each.is_new for each in found) for found in made) == [0, 0, 4]


def test_a_stage_that_is_refused_leaves_none_in_the_queue(queue: Queue) -> None:
    with pytest.raises(ClusterError, match=r"^stage two: slurm: time: 1 min are no longer than signal_delay_s"):
        queue.submit(f"{FILE}    slurm: {{time: 1}}\n")
    assert queue.programs.calls("sbatch") == []
    refuses = f"[ $(wc -l < {queue.programs.folder}/sbatch.calls) -lt 3 ] || {{ echo 'no such node' >&2; exit 1; }}"
    sbatch = queue.programs.folder / "sbatch"
    queue.programs.play("sbatch", "\n".join([refuses, *sbatch.read_text().splitlines()[2:]]))
    with pytest.raises(ClusterError, match=r"^stage two: sbatch refuses .*no such node; taken back: digits, one$"):
        queue.submit()
    assert list(queue.jobs.iterdir()) == []


def test_a_first_stage_that_is_refused_leaves_no_folder(queue: Queue) -> None:
    queue.programs.play("sbatch", "echo 'no such partition' >&2; exit 1")
    with pytest.raises(ClusterError, match=r"^stage digits: sbatch refuses .*no such partition$"):
        queue.submit()
    assert not (queue.root / "all").exists()


TRAINED = "verb: train, config: plain.yaml, run: '{run}/b'"
GONE = [
    ("source", "{verb: pack, source: gone, out: '{run}/b'}"),
    ("join", "{verb: pack, source: here, join: ['builtin:digits', gone], out: '{run}/b'}"),
    ("listed", "{verb: pack, source: here, listed: gone, out: '{run}/b'}"),
    ("listed", "{verb: pack, source: here, listed: 'coco-stuff:gone:train', out: '{run}/b'}"),
    ("sources", "{verb: neighbors, target: here, sources: {a: here, b: gone}, out: '{run}/b'}"),
    ("data.path", f"{{{TRAINED}, data: gone}}"),
    ("data.path", "{verb: train, config: null, run: '{run}/a', data: gone}"),
    ("source.path", f"{{{TRAINED}, data: here, source: gone}}"),
    ("init", f"{{{TRAINED}, data: here, init: gone}}"),
    ("init.file", f"{{{TRAINED}, data: here, init: gone.safetensors}}"),
    ("from_run", f"{{{TRAINED}, data: here, from_run: gone@1}}"),
    ("data", "{verb: instances, data: gone, out: '{run}/b.safetensors'}"),
    ("data", "{verb: classes, data: gone, out: '{run}/b.safetensors'}"),
    ("subject", "{verb: evaluate, subject: gone}"),
    ("subject", "{verb: evaluate, subject: gone@best}"),
    ("reference", "{verb: evaluate, subject: here, reference: gone}"),
    ("run", "{verb: generate, run: gone@best, out: '{run}/b'}"),
    ("points", "{verb: generate, run: '{run}/a', points: gone, out: '{run}/b'}"),
    ("run", "{verb: interpolate, run: gone, out: '{run}/b.png'}"),
    ("images", "{verb: project, run: '{run}/a', images: gone, out: '{run}/b'}"),
    ("run", "{verb: export, run: gone, out: '{run}/b'}"),
    ("file", "{verb: import_pickle, file: gone, out: '{run}/b'}"),
]


@pytest.mark.parametrize(("key", "stage"), GONE)
def test_what_a_stage_reads_and_no_stage_makes_is_there_or_refused(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, key: str, stage: str
) -> None:
    monkeypatch.chdir(queue.root)
    Path("here").mkdir()
    Path("plain.yaml").write_text("batch: 64")
    (name,) = set(re.findall(r"gone[\w.]*", stage))
    stages = read(queue.root, behind_a_pack(stage))
    for ask in (foresee, submit_pipeline):
        with pytest.raises(SpiderUsageError, match=rf"^stage second: {key}: ({queue.root}/)?{name}: no such "):
            ask(stages)
    assert queue.programs.calls("sbatch") == []
    assert not (queue.root / "all").exists()
    if key == "init":  # without the ending of a file that is a run, and stages say which runs they make
        return
    for made in ("made/below", f"{queue.root}/all/below"):
        found = foresee(read(queue.root, behind_a_pack(stage.replace("gone", made))))
        assert [each.is_new for each in found] == [True, True]


def behind_a_pack(stage: str) -> str:
    return f"stages: {{first: {{verb: pack, source: here, out: made}}, second: {stage}}}"


def test_the_folder_above_what_other_stages_make_is_made(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(queue.root)
    Path("run").mkdir()
    makes = "{verb: generate, run: '{run}/a', out: samples/OUT}"
    reads = "{verb: pack, source: samples, out: samples/packed}"
    two = f"cats: {makes.replace('OUT', 'cats')}, dogs: {makes.replace('OUT', 'dogs')}"
    assert all(each.is_new for each in foresee(read(queue.root, f"stages: {{{two}, packed: {reads}}}")))
    for stages in (reads, reads.replace("verb: pack, source", "verb: generate, run")):
        with pytest.raises(SpiderUsageError, match=r"^stage packed: (source|run): samples: no such "):
            foresee(read(queue.root, f"stages: {{packed: {stages}}}"))
    with pytest.raises(SpiderUsageError, match=r"^stage packed: run: samples: no such "):  # no run lies above images
        foresee(read(queue.root, f"stages: {{{two}, packed: {reads.replace('pack, source', 'generate, run')}}}"))


def test_what_a_setup_line_names_is_looked_for_on_the_node_alone(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(queue.root)
    near = queue.root / "near"
    for setup, passes in (
        (f"tar -xf x.tar -C {near}", True),
        (f"ls '{near}/set/'", True),
        (f"DATA={near}; cd $DATA", True),
        ("module load cuda", False),
        (f"source venv{near}/bin/activate && cd / && ls {near}er", False),
    ):
        stage = f"{{verb: pack, source: {near}/set, out: '{{run}}/a', slurm: {{setup: [\"{setup}\"]}}}}"
        stages = read(queue.root, f"stages: {{a: {stage}}}")
        if passes:
            assert foresee(stages)[0].is_new
            continue
        with pytest.raises(SpiderUsageError, match=rf"^stage a: source: {near}/set: no such .*; if only its node has"):
            foresee(stages)
        stages = [replace(each, place=read_place("local")) for each in stages]
        with pytest.raises(SpiderUsageError, match=rf"^stage a: source: {near}/set: no such file or folder, nor \S+$"):
            foresee(stages)


@pytest.fixture
def begun(trained: Path, digits: Path, tmp_path: Path) -> Path:
    """A run whose images are gone, but for their packed copy, and so is the run that it took its weights from."""
    run = tmp_path / "begun"
    shutil.copytree(trained, run)
    gone = {"path": f"{tmp_path}/gone", "packed": str(digits), "fingerprint": fingerprint_of(digits)}
    weights = {"path": f"{tmp_path}/stem@1", "packed": f"{tmp_path}/stem@1", "fingerprint": "0"}
    (run / "inputs.json").write_text(json.dumps({"data.path": gone, "init.run": weights}))
    return run


def branch_of(begun: Path) -> str:
    init = f"'init.kind=run', 'init.run={begun.parent}/stem@1', 'init.players=[g]'"
    return (
        f"stages: {{a: {{verb: train, config: plain.yaml, run: '{{run}}/b', from_run: {begun}@last, kimg: 1, "
        f"data: {begun.parent}/gone, overrides: [{init}]}}}}"
    )


def test_a_branch_reads_what_its_run_has_read(queue: Queue, begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(queue.root)
    Path("plain.yaml").write_text("batch: 64")
    assert foresee(read(queue.root, branch_of(begun)))[0].is_new
    checkpoints = begun / "checkpoints"
    checkpoints.rename(begun / "none")  # another stage will save one
    own = "one: {verb: train, config: null, run: BEGUN}, ".replace("BEGUN", str(begun))
    text = branch_of(begun).replace("{a:", f"{{{own}a:", 1)
    assert foresee(read(queue.root, text))[1].is_new
    (begun / "none").rename(checkpoints)
    (begun / "inputs.json").unlink()
    with pytest.raises(SpiderUsageError, match=rf"^stage a: \S+: {begun.parent}/\w+(@1)?: no such "):
        foresee(read(queue.root, branch_of(begun)))


def test_what_is_damaged_is_told_with_its_stage(queue: Queue, begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(queue.root)
    Path("plain.yaml").write_text("batch: 64")
    (begun / "inputs.json").write_text("{")
    with pytest.raises(SpiderError, match=rf"^stage a: {begun}/inputs\.json"):
        foresee(read(queue.root, branch_of(begun)))

    def refuse(*_: object) -> None:
        raise ClusterError("the manifest is damaged")

    monkeypatch.setattr(inputs, "require_found", refuse)
    with pytest.raises(ClusterError, match=r"^stage a: source: the manifest is damaged$"):
        foresee(read(queue.root, f"stages: {{a: {{verb: pack, source: {begun}, out: '{{run}}/a'}}}}"))


@pytest.mark.parametrize("place", ["https://host/set", "builtin:letters", "torchvision:CIFAR10", "there"])
def test_names_that_lie_nowhere_here_are_taken_for_granted(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(queue.root)
    Path("there").mkdir()
    assert queue.submit(f"stages: {{a: {{verb: pack, source: '{place}', out: '{{run}}/a'}}}}") == {"a": "7"}


def test_what_a_finished_stage_has_read_may_be_gone(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(queue.root)
    there = Path("there")
    there.mkdir()
    text = FILE.replace("builtin:digits", "there")
    queue.submit(text)
    queue.end("digits")
    there.rmdir()
    assert queue.submit(text)["digits"] == "as None"
    for name in ("one", "two", "measured"):
        queue.end(name)
    shutil.rmtree(queue.root / "all" / "stages" / "digits")
    with pytest.raises(SpiderUsageError, match=r"^stage digits: source: there: no such file or folder$"):
        queue.submit(text)


def test_what_waits_or_runs_is_left_as_it_is(queue: Queue) -> None:
    queue.submit()
    before = len(queue.programs.calls("squeue"))
    assert queue.submit() == {"digits": "as 7", "one": "as 8", "two": "as 9", "measured": "as 10"}
    assert len(queue.programs.calls("squeue")) == before + 4  # each is asked for once


def test_what_has_failed_goes_behind_what_still_runs(queue: Queue) -> None:
    queue.submit()
    for name in ("one", "two", "measured"):
        queue.end(name, "failed")
    assert queue.submit() == {"digits": "as 7", "one": "11", "two": "12", "measured": "13"}
    assert [queue.behind(name) for name in ("one", "two", "measured")] == ["7", "7:11", "12"]


def test_what_has_finished_is_left_out(queue: Queue) -> None:
    queue.submit()
    for name in ("digits", "one"):
        queue.end(name)
    for name in ("two", "measured"):
        queue.end(name, "stopped")
    assert queue.submit() == {"digits": "as None", "one": "as None", "two": "11", "measured": "12"}
    assert [queue.behind(name) for name in ("two", "measured")] == [None, "11"]


def test_what_comes_after_a_stage_that_is_submitted_again_is_too(queue: Queue) -> None:
    queue.submit()
    for name in ("digits", "one", "two", "measured"):
        queue.end(name)
    assert set(queue.submit().values()) == {"as None"}
    changed = FILE.replace('run: "{run}/one"', 'run: "{run}/one", kimg: 5')
    assert queue.submit(changed) == {"digits": "as None", "one": "11", "two": "12", "measured": "13"}
    assert [queue.behind(name) for name in ("one", "two", "measured")] == [None, "11", "12"]


def test_all_jobs_are_cancelled_the_last_first(queue: Queue) -> None:
    queue.submit()
    queue.end("digits")
    assert cancel_jobs(queue.root / "all") == ["10", "9", "8"]
    assert queue.programs.calls("scancel") == ["10", "9", "8"]
    with pytest.raises(SpiderError, match=r"all: no job of it waits or runs$"):
        cancel_jobs(queue.root / "all")


def test_stages_are_listed_in_the_order_of_their_submission(queue: Queue) -> None:
    assert stage_folders(queue.root / "all") == {}
    queue.submit()
    assert list(stage_folders(queue.root / "all")) == ["digits", "one", "two", "measured"]


def test_a_stage_on_this_machine_is_a_local_job(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"stages: {{a: {VERIFY}}}}}")
    [stage] = api.read_pipeline(tmp_path / "x.yaml", tmp_path, "local,tasks_per_node=2")
    assert stage.place == replace(read_place("local,tasks_per_node=1"), local=True)


def test_a_stage_on_this_machine_has_one_node(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("stages: {a: {verb: evaluate, subject: b, slurm: {nodes: 2}}}")
    with pytest.raises(SpiderUsageError, match=r"x\.yaml: stages\.a\.slurm: nodes=2: a local job is on this machine"):
        api.read_pipeline(tmp_path / "x.yaml", tmp_path, "local")


def test_a_stage_whose_words_changed_is_refused_while_its_job_waits(queue: Queue) -> None:
    queue.submit()
    with pytest.raises(SpiderUsageError, match=r"^stage one: its job 8 has other words; cancel it first$"):
        queue.submit(FILE.replace("config: dcgan, data", "config: dcgan, seed: 3, data"))
    assert len(queue.programs.calls("sbatch")) == 4


def test_a_stage_that_would_not_wait_for_what_is_done_again_is_refused(queue: Queue) -> None:
    queue.submit()
    queue.end("digits")
    queue.end("one", "failed")
    with pytest.raises(SpiderUsageError, match=r"^stage two: its job 9 would not wait for one, "):
        queue.submit()


TRAIN = "{verb: train, config: plain.yaml, data: x, run: '{run}/a', "


@pytest.mark.parametrize(
    ("stage", "sweep", "named"),
    [
        ("{verb: train, config: base.yaml, data: x, run: '{run}/a'}", "", ["mybase"]),
        (f"{TRAIN}source: 'mysource:Src'}}", "", ["mysource"]),
        (f"""{TRAIN}overrides: ["augment=[{{kind: 'myaug:Aug'}}]"]}}""", "", ["myaug"]),
        (f"""{TRAIN}overrides: ["generator={{kind: 'mynet:Net'}}"]}}""", "", ["mynet"]),
        (f"{TRAIN}overrides: ['generator.kind=mynet:Net']}}", "", ["mynet"]),
        ("{verb: train, config: null, run: '{run}/a', source: 'mysource:Src'}", "", ["mysource"]),
        ("", "overrides: {augment: [{kind: 'myaug:Aug'}]}, space: {batch: {grid: [4]}}", ["mybase", "myaug"]),
        ("", "space: {source: {grid: [gaussian, 'mysource:Src']}}", ["mybase", "mysource"]),
        ("", "space: {generator: {grid: [{kind: dcgan}, {kind: 'mynet:Net'}]}}", ["mybase", "mynet"]),
        ("", "space: {generator.kind: {grid: [dcgan, 'mynet:Net']}}", ["mybase", "mynet"]),
    ],
)
def test_code_of_ones_own_that_a_stage_names_goes_with_all_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, sweep: str, named: list[str]
) -> None:
    axes = {
        "mybase": "objectives.config import PenaltyChoice as Base",
        "mynet": "networks.config import NetworkChoice as Base",
        "mysource": "sources.config import SourceChoice as Base",
        "myaug": "augment.config import AugmentationChoice as Base",
    }
    for module, base in axes.items():
        names = "Pen = Net = Src = Aug = Own"
        methods = "    build = build_generator = lambda self, *_: None\n"
        text = f"from spider.gan.{base}\n\n\nclass Own(Base):\n    kind: str = ''\n{methods}\n\n{names}\n"
        (tmp_path / f"{module}.py").write_text(text)
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("plain.yaml").write_text("batch: 64")
    Path("base.yaml").write_text("penalties: {more: [{kind: 'mybase:Pen'}]}")
    Path("sweep.yaml").write_text(f"{{config: base.yaml, data: x, kimg: 1, {sweep}}}")
    stage = stage or "{verb: sweep, file: sweep.yaml, out: b}"
    stages = read(tmp_path, f"stages: {{own: {stage}, other: {VERIFY}}}}}")
    assert [each.more_code for each in stages] == [tuple(named)] * 2


@pytest.mark.parametrize(
    ("key", "refused"),
    [("run=x", None), ("noise_std=0.1", None), ("order=full", "source.order")],
)
def test_a_source_that_another_stage_trains_is_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, refused: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain.yaml").write_text("batch: 64")
    for source in ("{run}/one@best", "{run}/one"):
        text = f"""
stages:
  one: {{verb: train, config: plain.yaml, data: x, run: "{{run}}/one"}}
  two: {{verb: train, config: plain.yaml, data: x, run: "{{run}}/two", source: "{source}", overrides: [source.{key}]}}
"""
        if refused is None:
            read(tmp_path, text)
            continue
        with pytest.raises(SpiderUsageError, match=refused):
            read(tmp_path, text)


STAGES = [
    ("{verb: trian, config: dcgan}", ".verb: verb 'trian' is unknown; known: pack, verify, "),
    ("{verb: launch, config: dcgan}", ".verb: verb 'launch' is unknown; known: pack, verify, "),
    ("{verb: train, config: dcgan, run: x, kmg: 3}", ": kmg: no such key; did you mean kimg?"),
    ("{verb: train, config: dcgan, data: x}", ": run: missing"),
    ("{verb: train, config: dcgan, run: x, data: x, progress: true}", ": progress: no such key; keys: config, run, "),
    ("{verb: train, config: dcgan, run: x, data: ''}", ": data: is empty; name a place"),
    ("{verb: train, config: dcgan, run: x, kimg: true}", ": kimg: a number of at least 0.001, found True"),
    (
        "{verb: train, config: dcgan, run: x, data: x, overrides: [batc=3]}",
        ": batc=3: no such key; did you mean batch?",
    ),
    ("{verb: train, config: dcgan, run: x, data: x, source: 'y@best', overrides: [batch=33]}", ": batch=33 does not"),
    ("{verb: train, run: x, kimg: '+50'}", ": kimg: +50: each start of the stage's job would add it again"),
    ("{verb: pack, source: a, out: b, workers: many}", ": workers: a whole number, found 'many'"),
    ("{verb: pack, source: a, out: b, crop: centre}", ": crop: one of center, pad, squash, found 'centre'"),
    ("{verb: neighbors, target: a, sources: [b], out: c, mode: fast}", ": mode: one of robust, paper, screen, found"),
    ("{verb: neighbors, target: a, sources: [b], out: c, orders: '-1,x'}", ": kernel order 'x' is none"),
    ("{verb: pack, source: a, out: b, max_bad: x%}", ": max_bad is 'x%'; known: a count such as 5"),
    ("{verb: pack, source: a, out: b, slurm: {nodes: 2}}", ".slurm: nodes=2: pack is one process; leave it out"),
    ("{verb: generate, run: a, out: b, slurm: {tasks_per_node: 4}}", ".slurm: tasks_per_node=4: generate is one"),
    ("{verb: neighbors, target: a, sources: [b], out: c, embedding: nope}", ": embedding 'nope' is unknown; known: in"),
    ("{verb: neighbors, target: a, sources: [b], out: c, protocol: prdc}", ": protocol 'prdc' is unknown; known: tf, "),
    ("{verb: neighbors, target: a, sources: [], out: c}", ": no sources: name at least one dataset"),
    ("{verb: neighbors, target: a, sources: [b, b], out: c}", ": sources: b stands there twice"),
    ("{verb: neighbor_matrix, datasets: [a], out: c}", ": 1 datasets have no pairs: name at least two"),
    ("{verb: train, run: x, kimg: x}", ": kimg=x: a number of thousand images"),
    ("{verb: train, run: x, overrides: [foo]}", ": foo: an override is KEY=VALUE"),
    ("{verb: evaluate, subject: a, metrics: [fidd]}", ": metric 'fidd' is unknown; known: fid, "),
    ("{verb: evaluate, subject: a, protocol: nope}", ": protocol 'nope' is unknown; known: tf, "),
    ("{verb: evaluate, subject: a, embedding: nope}", ": embedding 'nope' is unknown; known: inception, "),
    ("{verb: evaluate, subject: a, count: 1.5}", ": count: a whole number, found 1.5"),
    ("{verb: evaluate, subject: a, seeds: [1, 2]}", ": seeds: a stage says how many"),
    ("{verb: evaluate, subject: '{rum}/two'}", ": {rum}/two: {rum}: only {run} stands for something"),
    ("{verb: generate, run: a, seeds: 5-1, out: b}", ": seeds: '5-1' is a range that goes down"),
    (
        "{verb: interpolate, run: a, out: b.png, blend: round}",
        ": blend: one of linear, spherical, cubic, circular, found 'round'",
    ),
    ("{verb: sweep, file: nowhere.yaml, out: b}", ": nowhere.yaml: "),
]


@pytest.mark.parametrize(("stage", "message"), STAGES)
def test_a_stage_is_checked_as_its_verb_checks_it(tmp_path: Path, stage: str, message: str) -> None:
    with pytest.raises(SpiderUsageError) as refused:
        read(tmp_path, f"stages: {{first: {VERIFY}}}, a: {stage[:-1]}, after: first}}}}")
    assert str(refused.value).startswith(f"{tmp_path}/stages.yaml: stages.a{message}")
    assert not (tmp_path / "all").exists()
