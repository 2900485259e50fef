"""`spider study`: what a file asks for, who does it, and the page."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from dataclasses import dataclass
from statistics import fmean, stdev

import pytest

from cluster.errors import ClusterUsageError
from spider import api
from spider.cli.main import app
from spider.errors import SpiderError, SpiderUsageError
from spider.study import study as studying
from spider.study.ended import is_done, is_hopeless, note_of
from spider.study.request import StudyRequest
from spider.study.work import work

FILE = """
title: Do letters help <digits>?
claim: "They do: 1 < 2 & 3 (a paper)."
values: {{kimg: 0.16}}
seeds: {seeds}
stages:
  one:
    verb: train
    config: dcgan
    data: {patches}
    run: "{{out}}/first/one-{{seed}}"
    seed: "{{seed}}"
    kimg: 0.08
    overrides: &small [batch=8, generator.width=0.05, discriminator.width=0.05, log.samples=4, log.tensorboard=false]
train:
  config: dcgan
  data: {digits}
  kimg: "{{kimg}}"
  overrides: [*small, evaluate.every_kimg=0.08, evaluate.embedding=offline, evaluate.count=32]
variants:
  plain: {{about: vectors, published: FID 12}}
  "images": {{source: {patches}}}
  cascade: {{source: "{{out}}/first/one-{{seed}}", after: one}}
measure: {{metrics: [fid, recall, nearest], embedding: offline, count: 48, seeds: 2}}
"""


@pytest.fixture
def file(tmp_path, digits, patches):
    place = tmp_path / "study.yaml"
    place.write_text(FILE.format(seeds="0-1", digits=digits, patches=patches))
    return place


@dataclass
class Ended:
    code: int

    def exit_code(self):
        return self.code

    def stop(self):
        raise AssertionError("it has ended")


class InThisProcess:
    """Does stages at once, and remembers them."""

    def __init__(self, at_once=1, fails=()):
        self.at_once, self.fails, self.began = at_once, fails, []

    def start(self, words, log):
        name = log.stem
        self.began.append(name)
        said = io.StringIO()
        if name in self.fails:
            said.write(f"error: {self.fails[name]}\n")
            code = 1
        else:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
                app(list(words), prog_name="spider")
            code = int(end.value.code or 0)
        log.write_text(said.getvalue())
        return Ended(code)


def plan_of(file, out, *given):
    return api._read_study(StudyRequest(file, given, out=out), "local")


@pytest.fixture
def do(monkeypatch):
    """Do all that is left of a study in this process: (what began, what came of it)."""

    def do(file, out, fails=None):
        hands = InThisProcess(fails=fails or {})
        monkeypatch.setattr(studying, "Here", lambda at_once: hands)
        return hands.began, api.study(file, out=out)

    return do


@pytest.fixture(scope="module")
def done(tmp_path_factory, digits, patches):
    """A study that is finished."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(FILE.format(seeds="0-1", digits=digits, patches=patches))
    plan = plan_of(folder / "study.yaml", folder / "out")
    hands = InThisProcess()
    assert work(plan.stages, plan.out, hands, progress=False) == []
    api.study(folder / "study.yaml", out=folder / "out", report=True)
    return folder, hands.began


def test_every_variant_has_a_run_for_every_seed_and_waits_for_its_own_stages(file, tmp_path):
    plan = plan_of(file, tmp_path / "out", "kimg=0.5")
    assert [run.name for run in plan.runs] == ["plain-0", "plain-1", "images-0", "images-1", "cascade-0", "cascade-1"]
    by_name = {stage.name: stage for stage in plan.stages}
    assert by_name["cascade-1"].after == ("one-1",)
    words = by_name["cascade-1"].words
    assert f"--source={tmp_path}/out/first/one-1" in words
    assert "--seed=1" in words
    assert "--kimg=0.5" in words
    assert "batch=8" in words
    assert by_name["one-0"].request.seed == 0
    assert by_name["plain-0-best"].after == ("plain-0", "plain-0-last")
    places = {stage.name: number for number, stage in enumerate(plan.stages)}
    assert all(places[before] < places[stage.name] for stage in plan.stages for before in stage.after)
    assert [stage.name for stage in plan.of_variant("cascade")[1].before] == ["one-1"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title:", "titel:", "title: missing"),
        ("title: Do", "titel: x\ntitle: Do", "titel: no such key.*title"),
        ("values: {kimg: 0.16}", "values: {seed: 1}", "values.seed: {seed} has a meaning already"),
        ('kimg: "{kimg}"', 'kimg: "{kimgs}"', "{kimgs}: only {kimg}, {out}, {seed} stands for"),
        ("after: one}", "after: ones}", "after: stage 'ones'.*one"),
        ("  plain:", "  plain: {kimg: x}\n  plain2:", "kimg=x"),
        ("  plain: {", "  plain: {seed: 3, ", "variants.plain.seed: the study says it"),
        ("measure: {", "measure: {subject: a, ", "measure.subject: the study says it"),
        ("measure: {metrics: [fid,", "measure: {metrics: [fidd,", "metric 'fidd'"),
        ("measure: {", "baseline: plane\nmeasure: {", "baseline: variant 'plane'.*plain"),
        ("  plain: {", "  one-0: {overrides: a=1}\n  plain: {", "one-0"),
        ("config: dcgan\n  data", "configs: dcgan\n  data", "configs: no such key"),
        ("seeds: 0-1", "seeds: 1-0", "seeds"),
        ("verb: train", "verb: trains", "verb 'trains'"),
        ("[*small,", "[generator.widths=3,", "generator.widths"),
    ],
)
def test_a_mistake_in_the_file_is_named(file, tmp_path, old, new, said):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises((SpiderUsageError, ClusterUsageError), match=said) as caught:
        plan_of(file, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("given", "said"), [("kimgs=3", "value.*'kimgs'.*kimg"), ("kimg", "write NAME=VALUE")])
def test_a_value_that_the_file_does_not_know_is_named(file, tmp_path, given, said):
    with pytest.raises(SpiderUsageError, match=said):
        plan_of(file, tmp_path / "out", given)


def test_a_finished_study_does_nothing_more(done, do):
    folder, began = done
    assert sorted(began) == sorted(
        [f"one-{seed}" for seed in (0, 1)]
        + [f"{name}-{seed}" for name in ("plain", "images", "cascade") for seed in (0, 1)]
        + [f"{name}-{seed}-last" for name in ("plain", "images", "cascade") for seed in (0, 1)]
        + [name for name in began if name.endswith("-best")]  # those that are not the last checkpoint
    )
    before = (folder / "out" / "study.json").read_text()
    again, found = do(folder / "study.yaml", folder / "out")
    assert again == []
    assert found.failure() is None
    assert (folder / "out" / "study.json").read_text() == before


def test_a_longer_study_goes_on_and_measures_again(done, tmp_path):
    folder, _ = done
    shutil.copytree(folder / "out", tmp_path / "out")
    plan = plan_of(folder / "study.yaml", tmp_path / "out", "kimg=0.24")
    left = [stage.name for stage in plan.stages if not is_done(stage)]
    assert left == [run.name for run in plan.runs]  # only when they have ended their measures are of other checkpoints


def traceable(out):
    """study.json without what another machine does otherwise: times, and places."""
    found = json.loads((out / "study.json").read_text())
    for run in found["runs"].values():
        for key in ("command", "hours", "hours_before", "devices"):
            del run[key]
    del found["command"]
    for variant in found["variants"].values():
        for reached in variant["to_baselines_best"].values():
            if reached is not None:
                del reached["hours"]
    return json.loads(json.dumps(found).replace(str(out), "OUT"))


def test_half_here_and_half_there_is_the_same_page(done, do, tmp_path):
    """A study that failed, went on and took runs from elsewhere comes to the same numbers as an uninterrupted one."""
    folder, _ = done
    whole, parts = folder / "out", tmp_path / "parts"
    began, found = do(folder / "study.yaml", parts, fails={"plain-0": "no room", "one-0": "no room"})
    assert re.fullmatch(r"\S+-0: no room; \d more; the same command goes on with what is left", str(found.failure()))
    assert not {"cascade-0", "plain-0-last"} & set(began)
    assert found.findings.of("plain")[0].state == "failed"
    shutil.rmtree(parts / "runs" / "images-1")
    shutil.copytree(whole / "runs" / "images-1", parts / "runs" / "images-1")
    for file in (parts / "measures").glob("images-1-*"):
        file.unlink()
    began, found = do(folder / "study.yaml", parts)
    assert found.failure() is None
    assert {"plain-0", "one-0", "cascade-0", "images-1-last"} <= set(began)
    assert "images-1" not in began
    assert traceable(parts) == traceable(whole)


def test_numbers_are_those_of_the_files(done):
    folder, _ = done
    out = folder / "out"
    numbers = json.loads((out / "study.json").read_text())
    label = "FD[offline]"
    assert list(numbers["labels"].values()) == [label, "recall[offline]", "nearest training[offline]"]
    by_seed = {}
    for name in ("plain", "images"):
        for seed in (0, 1):
            file = out / numbers["runs"][f"{name}-{seed}"]["measured"]["last"]["file"]
            of_file = [each["value"] for each in json.loads(file.read_text())["results"] if each["label"] == label]
            assert numbers["runs"][f"{name}-{seed}"]["measured"]["last"]["values"][label] == of_file
            assert len(of_file) == 2
            by_seed[name, seed] = fmean(of_file)
    found = numbers["variants"]["images"]["metrics"][label]["last"]
    assert found["mean"] == pytest.approx(fmean([by_seed["images", 0], by_seed["images", 1]]))
    assert found["std"] == pytest.approx(stdev([by_seed["images", 0], by_seed["images", 1]]))
    apart = [by_seed["images", seed] - by_seed["plain", seed] for seed in (0, 1)]
    assert found["minus_baseline"]["mean"] == pytest.approx(fmean(apart))
    assert found["minus_baseline"]["std"] == pytest.approx(stdev(apart))
    page = (out / "report.html").read_text()
    assert f"{found['mean']:.4g}" in page
    curve = numbers["runs"]["plain-0"]["curve"]
    assert numbers["variants"]["plain"]["to_baselines_best"]["0"]["kimg"] == min(curve, key=lambda point: point[1])[0]
    assert numbers["runs"]["cascade-0"]["hours_before"] > 0 == numbers["runs"]["plain-0"]["hours_before"]


def test_the_page_escapes_names_and_stands_alone(done):
    page = (done[0] / "out" / "report.html").read_text()
    assert "<title>Do letters help &lt;digits&gt;?</title>" in page
    assert "1 &lt; 2 &amp; 3" in page
    assert "<digits>" not in page
    assert "FID 12" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("data:image/png") >= 1 + 3 + 3  # curves, samples, and who is nearest to whom


def test_a_variant_that_diverged_is_told_and_not_tried_again(file, tmp_path, do):
    wild = "  wild: {overrides: [d_optimizer.lr=1e6, guard.max_skipped=0]}\n"
    text = re.sub('  "images".*\n  cascade.*\n', wild, file.read_text())
    file.write_text(
        re.sub("stages:\n(  .*\n)*", "", text).replace("seeds: 0-1", "seeds: 0").replace("*small", "batch=8")
    )
    _, found = do(file, tmp_path / "out")
    assert "wild-0: phase" in str(found.failure())
    assert found.findings.of("wild")[0].state == "diverged"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1 of 1 diverged" in page
    assert "not finite" in page
    began, found = do(file, tmp_path / "out")
    assert began == []
    assert "wild-0" in str(found.failure())
    plan = plan_of(file, tmp_path / "out")
    assert [stage.name for stage in plan.stages if is_hopeless(stage)] == ["wild-0"]
    assert [stage.name for stage in api.study_stages(file, out=tmp_path / "out")] == ["wild-0-last", "wild-0-best"]


def test_another_study_is_kept_out_of_the_folder(file, tmp_path):
    studying.keep(plan_of(file, tmp_path / "out"))
    file.write_text(file.read_text().replace("title: Do letters", "title: Do patches"))
    with pytest.raises(SpiderUsageError, match="holds another study, 'Do letters help <digits>\\?'"):
        api.study(file, out=tmp_path / "out")


def test_a_page_of_nothing_is_refused(file, tmp_path):
    with pytest.raises(SpiderError, match="no run of the study has begun"):
        api.study(file, out=tmp_path / "out", report=True)


class Slow:
    """Stages that end when they are told to."""

    def __init__(self, at_once):
        self.at_once, self.running, self.most, self.stopped = at_once, [], 0, []

    def start(self, words, log):
        log.touch()
        process = SlowProcess(self, log.stem)
        self.running.append(process)
        self.most = max(self.most, len(self.running))
        return process


@dataclass
class SlowProcess:
    hands: Slow
    name: str
    asked: int = 0

    def exit_code(self):
        self.asked += 1
        if self.asked < 3:
            return None
        if self.name == "one-1" and self in self.hands.running and self.asked == 3:
            raise KeyboardInterrupt
        if self in self.hands.running:
            self.hands.running.remove(self)
        return 0

    def stop(self):
        self.hands.stopped.append(self.name)


def test_so_many_at_once_and_all_are_stopped(file, tmp_path, monkeypatch):
    monkeypatch.setattr("spider.study.work._LOOK_S", 0.001)
    plan, hands = plan_of(file, tmp_path / "out"), Slow(2)
    with pytest.raises(KeyboardInterrupt):
        work(plan.stages, plan.out, hands, progress=False)
    assert hands.most == 2
    assert "one-1" in hands.stopped
    stopped = next(stage for stage in plan.stages if stage.name == "one-1")
    assert note_of(stopped)["error"] == "stopped"
    assert not is_done(stopped)
    assert not is_hopeless(stopped)


def test_a_process_of_its_own_does_a_stage(tmp_path):
    """`Here` runs the command, and tells how it ended."""
    import time

    from spider.study.work import Here

    process = Here(1).start(("presets", "--help"), tmp_path / "log")
    while process.exit_code() is None:
        time.sleep(0.05)
    assert process.exit_code() == 0
    assert "presets" in (tmp_path / "log").read_text()
    slow = Here(2).start(("presets",), tmp_path / "log2")
    slow.stop()
    assert slow.exit_code() is not None


def test_slurm_gets_a_job_for_each_stage_that_is_left(done, tmp_path):
    folder, _ = done
    shutil.copytree(folder / "out", tmp_path / "out")
    for left in ("runs/cascade-1", "measures/cascade-1-last.json", "measures/cascade-1-best.json"):
        place = tmp_path / "out" / left
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    asked = ["study", str(folder / "study.yaml"), "--out", str(tmp_path / "out"), "--slurm"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        app([*asked, "time=60,partition=gpu", "--dry-run"], prog_name="spider")
    stages = re.findall("^# stage (.*)", said.getvalue(), re.MULTILINE)
    assert stages == [
        "cascade-1, behind one-1",
        "cascade-1-last, behind cascade-1",
        "cascade-1-best, behind cascade-1, cascade-1-last",
    ]
    assert said.getvalue().count("#SBATCH --partition=gpu") == 3
    error = io.StringIO()
    with contextlib.redirect_stderr(error), pytest.raises(SystemExit) as end:
        app([*asked, "local"], prog_name="spider")
    assert end.value.code == 2
    assert "--at-once 2" in error.getvalue()
