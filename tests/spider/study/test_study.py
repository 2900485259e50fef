"""`spider study`: what a file asks for, who does it, and the page."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import time
from dataclasses import dataclass
from statistics import fmean, stdev
from types import SimpleNamespace

import pytest

from cluster.errors import ClusterUsageError
from cluster.lock import alone_in
from cluster.ray import connected
from cluster.world import World
from spider import api
from spider.cli.main import app
from spider.errors import SpiderError, SpiderUsageError
from spider.study import report as reporting
from spider.study import study as studying
from spider.study.cost import Measurements, StudyCost
from spider.study.ended import failure, has_diverged, is_done, left, note_of
from spider.study.findings import Spread
from spider.study.request import StudyRequest
from spider.study.work import Here, OnRay, work

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

    def ask_to_stop(self):
        pass

    def end(self, deadline):
        pass


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


def plan_of(file, out, *given, only=()):
    return api._read_study(StudyRequest(file, given, out=out, only=only), "local")


@pytest.fixture
def do(monkeypatch):
    """Do all that is left of a study in this process: (what began, what came of it)."""

    def do(file, out, fails=None, given=(), only=()):
        hands = InThisProcess(fails=fails or {})
        monkeypatch.setattr(studying, "Here", lambda at_once: hands)
        return hands.began, api.study(file, given, out=out, only=only)

    return do


@pytest.fixture(scope="module")
def done(tmp_path_factory, digits, patches):
    """A study that is finished."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(FILE.format(seeds="0-1", digits=digits, patches=patches))
    plan = plan_of(folder / "study.yaml", folder / "out")
    hands = InThisProcess()
    assert work(plan, hands, progress=False) == []
    api.study(folder / "study.yaml", out=folder / "out", report=True)
    return folder, hands.began


def test_every_variant_has_a_run_for_every_seed_and_waits_for_its_own_stages(file, tmp_path):
    plan = plan_of(file, tmp_path / "out", "kimg=0.5")
    assert [run.name for run in plan.runs] == ["plain-0", "plain-1", "cascade-0", "cascade-1"]
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
        ("  plain:", "  plain: {kimg: x}\n  plain2:", "variants.plain: kimg=x"),
        ("  plain: {", "  plain: {kimgs: 3, ", "variants.plain: kimgs: no such key"),
        ('seed: "{seed}"\n', 'seed: "{seed}"\n    kimgs: 3\n', "stages.one: kimgs: no such key"),
        ("measure: {", "measure: {metric: fid, ", "measure: metric: no such key"),
        ("  plain: {", "  plain: {seed: 3, ", "variants.plain.seed: the study says it"),
        ("measure: {", "measure: {subject: a, ", "measure.subject: the study says it"),
        ("measure: {metrics: [fid,", "measure: {metrics: [fidd,", "metric 'fidd'"),
        ("measure: {", "baseline: plane\nmeasure: {", "baseline: variant 'plane'.*plain"),
        ("  plain: {", "  plain: {baseline: plane, ", "variants.plain.baseline: variant 'plane'.*plain"),
        ("measure: {", "measure: [{embedding: offline, metrics: fid}, {", "measure: offline is there twice"),
        ("measure: {", "measure: [] # {", "measure: .*at least 1"),
        ("  plain: {", "  one-0: {overrides: a=1}\n  plain: {", "one-0"),
        ("config: dcgan\n  data", "configs: dcgan\n  data", "configs: no such key"),
        ("seeds: 0-1", "seeds: 1-0", "seeds"),
        ("seeds: 0-1", "seeds: 3", "seeds.*found 3"),
        ("metrics: [fid,", "metrics: [nearest,", "nearest comes first, and decides, but has no better end"),
        ("evaluate.every_kimg=0.08, ", "", "variants.plain: .*evaluate.every_kimg is not set"),
        ("verb: train", "verb: trains", "verb 'trains'"),
        ("[*small,", "[generator.widths=3,", "generator.widths"),
    ],
)
def test_a_mistake_in_the_file_is_named(file, tmp_path, old, new, said):
    text = file.read_text()
    assert old in text
    text = text.replace(old, new)
    file.write_text(text.rstrip() + "]\n" if "[{embedding" in new else text)
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
        + [f"{name}-{seed}" for name in ("plain", "cascade") for seed in (0, 1)]
        + [f"{name}-{seed}-last" for name in ("plain", "cascade") for seed in (0, 1)]
        + [name for name in began if name.endswith("-best")]  # those that are not the last checkpoint
    )
    before = (folder / "out" / "study.json").read_text()
    again, found = do(folder / "study.yaml", folder / "out")
    assert again == []
    assert found.failure() is None
    assert (folder / "out" / "study.json").read_text() == before


@pytest.fixture
def copy(done, tmp_path):
    """A copy of the finished study, to change: (its file, its folder)."""
    shutil.copytree(done[0] / "out", tmp_path / "out")
    text = (done[0] / "study.yaml").read_text()
    (tmp_path / "study.yaml").write_text(text)
    return tmp_path / "study.yaml", tmp_path / "out"


def names_left(file, out, *given):
    plan = plan_of(file, out, *given)
    return [stage.name for stage in left(plan.stages, plan.wanted)]


def test_a_longer_study_goes_on_and_measures_again(copy, do):
    file, out = copy
    plan = plan_of(file, out, "kimg=0.24")
    assert set(names_left(file, out, "kimg=0.24")) == {stage.name for stage in plan.wanted}
    began, found = do(file, out, given=["kimg=0.24"])
    assert found.failure() is None
    assert {run.name for run in plan.runs} | {f"{run.name}-last" for run in plan.runs} <= set(began)
    assert all(each.measured["last"].kimg >= 0.24 for each in found.findings.runs)
    assert plan_of(file, out).values == {"kimg": 0.24}  # it is remembered
    with pytest.raises(SpiderUsageError, match=r"plain-0: .* is 0.24 kimg long, and the study asks for 0.16"):
        api.study(file, ["kimg=0.16"], out=out)


def test_a_run_of_other_settings_is_refused_by_its_key(copy):
    file, out = copy
    file.write_text(re.sub("  cascade: {", "  cascade: {overrides: [d_optimizer.lr=3e-4], ", file.read_text()))
    for report in (False, True):
        with pytest.raises(SpiderUsageError, match=r"cascade-0: .*d_optimizer.lr: .* -> 0\.0003"):
            api.study(file, out=out, report=report)


@pytest.mark.parametrize(
    ("old", "new"), [("count: 48", "count: 64"), ("seeds: 2}", "seeds: 3}"), ("[fid,", "[fid, kid,")]
)
def test_another_question_is_measured_again(copy, old, new):
    file, out = copy
    file.write_text(file.read_text().replace(old, new))
    assert {name.rpartition("-")[2] for name in names_left(file, out)} == {"last", "best"}
    found = api.study(file, out=out, report=True).findings
    assert found.labels == {}
    left_out = "plain-0-last.json is of another checkpoint, or another question, and left out until it is made again"
    assert left_out in found.warnings


def test_numbers_of_some_classes_say_so_and_are_not_compared_in_silence(copy):
    file, out = copy
    for measure in (out / "measures").glob("cascade-*.json"):
        content = json.loads(measure.read_text())
        for result in content["results"]:
            result["protocol"]["classes"] = ["<cats>"]
        measure.write_text(json.dumps(content))
    found = api.study(file, out=out, report=True).findings
    assert any(warning.endswith("measured with different classes") for warning in found.warnings)
    page, numbers = (out / "report.html").read_text(), json.loads((out / "study.json").read_text())
    assert page.count("judged by its images of &lt;cats&gt;") == 1
    assert re.findall(r"[^>]*, uncurated", page) == ["At 0.16 kimg, uncurated"] * 2
    assert numbers["runs"]["cascade-0"]["measured"]["last"]["classes"] == ["<cats>"]
    assert numbers["runs"]["plain-0"]["measured"]["last"]["classes"] == []


def test_a_second_embedding_measures_apart_and_a_variant_has_its_own_baseline(copy, do):
    file, out = copy
    text = file.read_text()
    second = "measure:\n  - {metrics: [fid, recall, nearest], embedding: offline, count: 48, seeds: 2}\n"
    second += "  - {metrics: [fid, coverage], embedding: efficientnet, count: 32, seeds: 1}\n"
    text = re.sub("measure: .*\n", second, text).replace("seeds: 0-1", "seeds: [0]")
    file.write_text(text.replace("  plain: {", "  again: {baseline: cascade}\n  plain: {"))
    assert set(names_left(file, out)) == {
        *("again-0", "again-0-last", "again-0-last-efficientnet", "again-0-best", "again-0-best-efficientnet"),
        *(f"{name}-0-{which}-efficientnet" for name in ("plain", "cascade") for which in ("last", "best")),
    }
    _, found = do(file, out)
    assert found.failure() is None
    numbers = json.loads((out / "study.json").read_text())
    assert found.findings.deciding == "FD[offline]"
    assert [(label, name) for label, name in numbers["labels"].items()] == [
        ("FD[offline]", "fid"),
        ("recall[offline]", "recall"),
        ("nearest training[offline]", "nearest"),
        ("FD[efficientnet]", "fid"),
        ("coverage[efficientnet]", "coverage"),
    ]
    told = numbers["variants"]["again"]["metrics"]["FD[efficientnet]"]["last"]
    values = {}
    for name in ("again", "cascade"):
        read = json.loads((out / "measures" / f"{name}-0-last-efficientnet.json").read_text())["results"]
        [values[name]] = [each["value"] for each in read if each["name"] == "fid"]
    assert told["by_seed"] == {"0": values["again"]}
    assert told["minus_baseline"]["mean"] == pytest.approx(values["again"] - values["cascade"])
    page = (out / "report.html").read_text()
    assert "to cascade" in page
    assert "again: FD[offline] is " in page


def says_otherwise(offline, efficientnet):
    """What a page adds to a difference of FD[offline], given that of FD[efficientnet]."""
    plan = SimpleNamespace(metrics=[["fid", "kid"], ["fid"]])
    labels = {"FD[offline]": "fid", "KD[offline]": "kid", "FD[efficientnet]": "fid"}
    apart = {"FD[offline]": offline, "KD[offline]": -offline, "FD[efficientnet]": efficientnet}
    findings = SimpleNamespace(plan=plan, labels=labels, apart=lambda name, which, label: Spread({0: apart[label]}))
    return reporting._otherwise(findings, "plain", offline)


def test_an_embedding_that_says_the_opposite_is_heard():
    assert says_otherwise(-2.0, 3.5) == " (but FD[efficientnet] 3.5 higher)"
    assert says_otherwise(2.0, 3.5) == ""


@pytest.mark.parametrize(
    ("apart", "verdict", "cell"),
    [
        ({0: 0.0, 1: 0.0}, "FID is identical to that of plain under 2 seeds.", "identical"),
        ({0: 0.0}, "FID is identical to that of plain under 1 seed.", "identical\n1 of 2 seeds"),
        ({0: 1.0, 1: -1.0}, "FID is 0 higher than that of plain, better under 1 of 2 seeds; 95 %", "+0\n± 1.4"),
    ],
)
def test_a_difference_of_nothing_under_every_seed_is_called_identical(apart, verdict, cell):
    plan = SimpleNamespace(baseline_of=lambda name: "plain", metrics=[["fid"]])
    findings = SimpleNamespace(
        plan=plan, labels={}, of=lambda name: [], apart=lambda *_: Spread(apart), lower_is_better=True
    )
    assert reporting._verdict(findings, "again", "FID").startswith(f"again: {verdict}")
    assert reporting._mean(Spread(apart), 2, signed=True) == cell


def test_a_run_that_was_made_anew_is_measured_anew(copy, do):
    file, out = copy
    shutil.rmtree(out / "runs" / "plain-0")
    assert names_left(file, out) == ["plain-0", "plain-0-last", "plain-0-best"]
    for manifest in (out / "runs" / "cascade-0" / "checkpoints").glob("*/manifest.json"):
        tree = json.loads(manifest.read_text())
        tree["files"]["generator_ema.safetensors"]["sha256"] = "0" * 64
        manifest.write_text(json.dumps(tree))
    assert {"cascade-0-last", "cascade-0-best"} <= set(names_left(file, out))


def test_numbers_of_checkpoints_that_lie_elsewhere_are_told_as_such(copy):
    """As where a run was copied without them. Its numbers count."""
    file, out = copy
    told = "the numbers of cascade are not checked: the checkpoints that they are of lie elsewhere"
    assert told not in api.study(file, out=out, report=True).findings.warnings
    shutil.rmtree(out / "runs" / "cascade-0" / "checkpoints")
    assert names_left(file, out) == []
    found = api.study(file, out=out, report=True).findings
    assert found.warnings.count(told) == 1
    assert (out / "report.html").read_text().count(told) == 1
    assert found.spread("cascade", "last", found.deciding).values.keys() == {0, 1}


def test_what_nobody_needs_is_not_made(copy):
    """As where only runs and measures were copied to."""
    file, out = copy
    shutil.rmtree(out / "first")
    shutil.rmtree(out / "stages")
    assert names_left(file, out) == []
    shutil.rmtree(out / "runs" / "cascade-1")
    assert names_left(file, out) == ["one-1", "cascade-1", "cascade-1-last", "cascade-1-best"]


def test_a_set_to_be_joined_that_is_not_there_is_named_before_anything_begins(file, tmp_path, digits, patches):
    both = (
        f'stages:\n  both: {{verb: pack, source: {digits}, join: [{patches}, {tmp_path}/gone], out: "{{out}}/both"}}\n'
    )
    text = file.read_text().replace("stages:\n", both)
    file.write_text(text.replace("plain: {", 'plain: {data: "{out}/both", after: both, '))
    with pytest.raises(SpiderUsageError, match=rf"stages.both: join: {tmp_path}/gone: no such file or folder"):
        api.study(file, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "place"),
    [("variants.plain: data.path", "data: {digits}"), ("stages.one: data.path", "data: {patches}")],
)
def test_data_that_is_not_there_is_named_before_anything_begins(file, tmp_path, digits, patches, key, place):
    file.write_text(file.read_text().replace(place.format(digits=digits, patches=patches), f"data: {tmp_path}/gone"))
    error = io.StringIO()
    with contextlib.redirect_stderr(error), pytest.raises(SystemExit) as end:
        app(["study", str(file), "--out", str(tmp_path / "out"), "--dry-run"], prog_name="spider")
    assert end.value.code == 2
    assert f"{key}: {tmp_path}/gone: no such file or folder" in error.getvalue()
    with pytest.raises(SpiderUsageError, match=key):
        api.study(file, out=tmp_path / "out")
    assert not (tmp_path / "out" / "study.yaml").exists()


@pytest.mark.parametrize("made", ["{out}/cut", "{elsewhere}/cut"])
def test_data_that_stages_make_need_not_be_there(file, tmp_path, digits, made):
    made = made.replace("{elsewhere}", str(tmp_path))
    text, pack = file.read_text(), 'stages:\n  cut: {{verb: pack, source: {}, out: "{}", subset: 64}}\n'
    asked = text.replace(f"data: {digits}", f'data: "{made}"\n  after: cut')
    file.write_text(asked.replace("stages:\n", pack.format(digits, made)))
    assert "cut" in [stage.name for stage in api.study_stages(file, out=tmp_path / "out")[0]]
    file.write_text(text.replace("stages:\n", pack.format(f"{tmp_path}/gone", made)))  # which nobody waits for
    assert "cut" not in [stage.name for stage in api.study_stages(file, out=tmp_path / "out")[0]]


def test_a_run_under_way_is_told_as_such(copy):
    file, out = copy
    run = out / "runs" / "cascade-1"
    curve = sorted((run / "evaluations").glob("*.json"))
    for evaluation in curve:  # as bad as could be
        found = json.loads(evaluation.read_text())
        for each in found["results"]:
            each["value"] = 1e6
        evaluation.write_text(json.dumps(found))
    with alone_in(run, World.single()):
        found = api.study(file, out=out, report=True)
        assert found.findings.of("cascade")[1].state == "under way, at 0.16 kimg"
        assert 1 not in found.findings.to_baselines_best("cascade")
        assert not any("another checkpoint" in line for line in found.findings.warnings)
        page = (out / "report.html").read_text()
        assert "cascade-1 under way, at 0.16 kimg" in page
        assert "never" not in page.split("The runs")[0]
    found = api.study(file, out=out, report=True).findings
    assert found.of("cascade")[1].state == "finished"
    assert found.to_baselines_best("cascade")[1] is None


def test_a_run_of_an_older_first_stage_is_told(copy):
    file, out = copy
    assert api.study(file, out=out, report=True).findings.warnings == []
    inputs = out / "runs" / "cascade-1" / "inputs.json"
    known = json.loads(inputs.read_text())
    before = {**known["source.run"], "fingerprint": "0" * 64}
    inputs.write_text(json.dumps({**known, "source.run": before}))
    (warning,) = api.study(file, out=out, report=True).findings.warnings
    again = f"without {out}/runs/cascade-1 it is trained again"
    assert warning == f"cascade-1 learned from one-1 at 0.08 kimg, which was made anew since; {again}"
    before["path"] = before["path"].replace("@0.08", "@0.04")
    inputs.write_text(json.dumps({**known, "source.run": before}))
    (warning,) = api.study(file, out=out, report=True).findings.warnings
    assert warning == f"cascade-1 learned from one-1 at 0.04 kimg, which is at 0.08 kimg now; {again}"
    shutil.rmtree(out / "first")  # as where only runs and measures were copied to
    assert api.study(file, out=out, report=True).findings.warnings == []


def test_a_dry_run_says_what_the_trainings_would_take(file, tmp_path, capsys):
    """Those of a stage and of a variant are measured; the other variant waits for the stage."""
    app(["study", str(file), "--out", str(tmp_path / "out"), "--dry-run", "--at-once", "2"], standalone_mode=False)
    *_, kinds, one, plain, cascade, measures, by, whole, disk, why, rest = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"# trainings left +6", kinds)
    assert re.fullmatch(r"#   stages.one +2 x 0.08 kimg: .* each, measured here on .*", one)
    assert re.fullmatch(r"#   variants.plain +2 x 0.16 kimg: .* each, measured here on .*", plain)
    assert re.fullmatch(r"#   variants.cascade +2 x not measured", cascade)
    assert re.fullmatch(r"# measurements left +8", measures)
    assert re.fullmatch(r"#   by offline +8 x 96 images: about .* each", by)
    assert re.fullmatch(r"# all of them +.* of trainings and about .* of measurements; .* with 2 at a time", whole)
    assert re.fullmatch(r"# disk +.*; .* are free", disk)
    assert why.startswith("# ! variants.cascade: not measured, the mean of the others stands for it: ")
    assert rest.startswith("# ! runs that have begun are counted whole")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_adds_up_what_is_known_and_names_what_is_not():
    one = SimpleNamespace(kimg=0.5, hours=10 / 3600, device="cpu")
    whole = "40 s of trainings and about 2.0 minutes of measurements"
    known, unknown = Measurements(4, 4000, 120 / 3600), Measurements(2, 2000, None)
    cost = StudyCost(2, 40 / 3600, 1.0, 9.0, {"a": 4}, {"a": one}, {"offline": known, "clip": unknown}, [])
    assert [re.split("  +", line.strip()) for line in cost.table().splitlines()] == [
        ["trainings left", "4"],
        ["a", "4 x 0.5 kimg: 10 s each, measured here on cpu"],
        ["measurements left", "6"],
        ["by offline", "4 x 1,000 images: about 30 s each"],
        ["by clip", "2 x 1,000 images"],
        ["all of them", f"{whole}; 80 s with 2 at a time, without 2 measurements by clip"],
        ["disk", "1.0 GB; 9.0 GB are free"],
    ]


def test_a_dry_run_of_data_that_are_not_packed_yet_says_so_once(tmp_path, digits, capsys):
    file = tmp_path / "study.yaml"
    file.write_text(
        "title: t\nclaim: c\nseeds: 0-1\n"
        f"stages: {{cut: {{verb: pack, source: {digits}, out: '{{out}}/cut', subset: 64}}}}\n"
        "train: {config: dcgan, data: '{out}/cut', kimg: 1, overrides: [evaluate.every_kimg=1], after: cut}\n"
        "variants: {a: {}, b: {overrides: [batch=8]}}\nmeasure: {metrics: [kid], embedding: offline}\n"
    )
    app(["study", str(file), "--out", str(tmp_path / "out"), "--dry-run"], standalone_mode=False)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# !")]
    assert len(notes) == 2
    assert notes[0].startswith("# ! nothing was measured: data.path: ")
    assert notes[0].endswith("The stages that pack come first, as above; then ask again")


@pytest.mark.parametrize("option", ["--ray=local", "--report", "--json"])
def test_a_dry_run_refuses_what_it_would_ignore(file, tmp_path, option):
    error = io.StringIO()
    with contextlib.redirect_stderr(error), pytest.raises(SystemExit) as end:
        app(["study", str(file), "--out", str(tmp_path / "out"), "--dry-run", option], prog_name="spider")
    assert end.value.code == 2
    assert f"--dry-run: not together with {option.partition('=')[0]}" in error.getvalue()


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
    assert re.fullmatch(
        r"one-0: no room; 6 more stages failed or had to wait: cascade-0, .*; the same command goes on with .*",
        str(found.failure()),
    )
    assert not {"cascade-0", "plain-0-last"} & set(began)
    assert found.findings.of("plain")[0].state == "failed"
    shutil.rmtree(parts / "runs" / "cascade-1")
    shutil.copytree(whole / "runs" / "cascade-1", parts / "runs" / "cascade-1")
    for file in (parts / "measures").glob("cascade-1-*"):
        file.unlink()
    began, found = do(folder / "study.yaml", parts)
    assert found.failure() is None
    assert {"plain-0", "one-0", "cascade-0", "cascade-1-last"} <= set(began)
    assert "cascade-1" not in began
    assert traceable(parts) == traceable(whole)


def test_numbers_are_those_of_the_files(done):
    folder, _ = done
    out = folder / "out"
    numbers = json.loads((out / "study.json").read_text())
    label = "FD[offline]"
    assert list(numbers["labels"]) == [label, "recall[offline]", "nearest training[offline]"]
    by_seed = {}
    for name in ("plain", "cascade"):
        for seed in (0, 1):
            [file] = [out / each for each in numbers["runs"][f"{name}-{seed}"]["measured"]["last"]["files"]]
            of_file = [each["value"] for each in json.loads(file.read_text())["results"] if each["label"] == label]
            assert numbers["runs"][f"{name}-{seed}"]["measured"]["last"]["values"][label] == of_file
            assert len(of_file) == 2
            by_seed[name, seed] = fmean(of_file)
    found = numbers["variants"]["cascade"]["metrics"][label]["last"]
    assert found["mean"] == pytest.approx(fmean([by_seed["cascade", 0], by_seed["cascade", 1]]))
    assert found["std"] == pytest.approx(stdev([by_seed["cascade", 0], by_seed["cascade", 1]]))
    apart = [by_seed["cascade", seed] - by_seed["plain", seed] for seed in (0, 1)]
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
    assert page.count("data:image/png") >= 1 + 2 + 2  # curves, samples, and who is nearest to whom


def test_a_variant_that_diverged_is_told_and_not_tried_again(file, tmp_path, do):
    wild = "  wild: {overrides: [d_optimizer.lr=1e6, guard.max_skipped=0]}\n"
    text = re.sub("  cascade.*\n", wild, file.read_text())
    file.write_text(
        re.sub("stages:\n(  .*\n)*", "", text).replace("seeds: 0-1", "seeds: [0]").replace("*small", "batch=8")
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
    assert [stage.name for stage in plan.stages if has_diverged(stage)] == ["wild-0"]
    stages, left_out = api.study_stages(file, out=tmp_path / "out")
    assert stages == []
    assert [line.partition(":")[0] for line in left_out] == ["wild-0", "wild-0-last", "wild-0-best"]
    assert "wild: no verdict, since wild diverged under 1 of 1 seed." in page
    file.write_text(file.read_text().replace("lr=1e6", "lr=1e-4"))  # it saved nothing, and may try again
    assert [stage.name for stage in api.study_stages(file, out=tmp_path / "out")[0]] == [
        "wild-0",
        "wild-0-last",
        "wild-0-best",
    ]


def test_another_study_is_kept_out_of_the_folder(file, tmp_path):
    studying.keep(plan_of(file, tmp_path / "out"))
    file.write_text(file.read_text().replace("title: Do letters", "title: Do patches"))
    for report in (False, True):
        with pytest.raises(SpiderUsageError, match="holds another study, 'Do letters help <digits>\\?'"):
            api.study(file, out=tmp_path / "out", report=report)


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
        if self.name in self.hands.stopped:
            return 130
        if self.asked < 3:
            return None
        if self.name == "one-1" and self in self.hands.running and self.asked == 3:
            raise KeyboardInterrupt
        if self in self.hands.running:
            self.hands.running.remove(self)
        return 0

    def ask_to_stop(self):
        self.hands.stopped.append(self.name)

    def end(self, deadline):
        assert self.name in self.hands.stopped


def test_so_many_at_once_and_all_are_stopped(file, tmp_path, monkeypatch):
    monkeypatch.setattr("spider.study.work._LOOK_S", 0.001)
    plan, hands = plan_of(file, tmp_path / "out"), Slow(2)
    with pytest.raises(KeyboardInterrupt):
        work(plan, hands, progress=False)
    assert hands.most == 2
    assert "one-1" in hands.stopped
    stopped = next(stage for stage in plan.stages if stage.name == "one-1")
    assert note_of(stopped)["outcome"] == "stopped"
    assert not is_done(stopped)
    assert failure(stopped) is None


def ended(process):
    """Its exit code."""
    deadline = time.monotonic() + 300
    while (code := process.exit_code()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return code


def stopped(process):
    """Its exit code when it was asked to stop."""
    process.ask_to_stop()
    process.end(time.monotonic() + 60)
    return process.exit_code()


def test_a_process_of_its_own_does_a_stage(tmp_path):
    assert ended(Here(1).start(("presets", "--help"), tmp_path / "log")) == 0
    assert "presets" in (tmp_path / "log").read_text()
    assert stopped(Here(2).start(("presets",), tmp_path / "log2")) is not None


def test_a_worker_of_ray_does_a_stage(tmp_path):
    with connected("local") as cluster:
        with pytest.raises(ClusterUsageError, match="gpus=64"):
            OnRay(cluster, 1, 1, 64)
        executor = OnRay(cluster, 2, cluster.cpus, 0)
        first = executor.start(("presets", "--help"), tmp_path / "log")
        waiting = executor.start(("presets",), tmp_path / "log2")  # there is room for one
        assert stopped(waiting) == -9
        assert ended(first) == 0
        assert "presets" in (tmp_path / "log").read_text()


def test_slurm_gets_a_job_for_each_stage_that_is_left(done, tmp_path):
    folder, _ = done
    shutil.copytree(folder / "out", tmp_path / "out")
    for gone in ("runs/cascade-1", "measures/cascade-1-last.json", "measures/cascade-1-best.json"):
        place = tmp_path / "out" / gone
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    asked = ["study", str(folder / "study.yaml"), "--out", str(tmp_path / "out"), "--slurm"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        app([*asked, "time=60,partition=gpu", "--dry-run", "--scripts"], prog_name="spider")
    assert [re.split("  +", line)[0::6] for line in said.getvalue().splitlines()[:4]] == [
        ["stage", "waits for"],
        ["cascade-1", "-"],
        ["cascade-1-last", "cascade-1"],
        ["cascade-1-best", "cascade-1, cascade-1-last"],
    ]
    assert said.getvalue().count("#SBATCH --partition=gpu") == 3
    error = io.StringIO()
    with contextlib.redirect_stderr(error), pytest.raises(SystemExit) as end:
        app([*asked, "local"], prog_name="spider")
    assert end.value.code == 2
    assert "--at-once 2" in error.getvalue()


def test_some_runs_are_worked_on_alone(file, tmp_path, do):
    began, found = do(file, tmp_path / "out", only=["cascade-1"])
    assert found.failure() is None
    assert {"one-1", "cascade-1", "cascade-1-last"} <= set(began)
    assert not {"plain-0", "plain-1", "cascade-0", "one-0"} & set(began)
    states = {run.run.name: bool(run.measured) for run in found.findings.runs}
    assert states == {"plain-0": False, "plain-1": False, "cascade-0": False, "cascade-1": True}
    began, _ = do(file, tmp_path / "out", only=["plain"])
    assert {"plain-0", "plain-1"} <= set(began)
    assert not {"one-1", "cascade-0", "cascade-1"} & set(began)
    with pytest.raises(SpiderUsageError, match=r"only: variant or run 'cascades' is unknown; .* did you mean cascade"):
        plan_of(file, tmp_path / "out", only=["cascades"])
    with pytest.raises(SpiderUsageError, match="only: not together with report"):
        api.study(file, out=tmp_path / "out", only=["plain"], report=True)
