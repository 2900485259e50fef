"""A user's mistake is one line that names it, with its exit code; a mistake of the program keeps its traceback."""

from __future__ import annotations

import errno
import re
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.errors import ClusterError
from shards.files import cache_root, open_whole
from spider import api


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("train dcgna --run {new}", 2, r"dcgna: neither a file nor a preset; did you mean dcgan\? \(presets: .*\)$"),
        ("train icgan --run {new}", 2, r"; did you mean icgan/128 or icgan/256 or icgan/256-half\? \(presets"),
        (
            "train spider-dcgan --from {runs}/gaussian@last --run {new}",
            2,
            r"source\.path: missing; .*; or leave spider-dcgan out: --from {runs}/gaussian@last goes on with the",
        ),
        (
            "train spider-dcgan --run {runs}/gaussian",
            2,
            r"source\.path: missing; .*; or leave spider-dcgan out: --run {runs}/gaussian goes on with the",
        ),
        ("train spider-dcgan --from {runs}/gaussian@last --run {new} batc=4", 2, r"did you mean batch\?$"),
        (
            "train dcgan --run {new} --gpus 4",
            2,
            r"--gpus: no such option; .*torchrun --nproc-per-node N -m spider train",
        ),
        ("train dcgan --run {new} --gpus=4", 2, r"--gpus: no such option; .*torchrun .*spider launch"),
        (
            "train dcgan --outdir {new}",
            2,
            r"--outdir: no such option; a run has the folder that you name: --run DIR; se",
        ),
        ("train --run {new}", 2, r"--run {new}: no such folder; to begin a run, say .* \(presets: atopk-dcgan, .*\)$"),
        (
            "train --run {runs}/gausian",
            2,
            r"--run {runs}/gausian: no such folder; did you mean {runs}/gaussian\?; to b",
        ),
        ("train dcgan --run {new}", 2, r"data\.path: no images to learn; give --data"),
        ("train dcgan --data {digits} --run {new} batc=4", 2, r"batc=4: no such key; did you mean batch\?"),
        (
            "train dcgan --data {digits} --run {new} penalty.r1=4",
            2,
            r"penalty: no such key; did you mean penalties or g_penalties\?",
        ),
        (
            "train dcgan --data {digits} --run {new} lr=0.1",
            2,
            r"lr=0\.1: no such key; did you mean g_optimizer\.lr or d_optimizer\.lr\?$",
        ),
        ("train dcgan --data {digits} --run {new} batch=0", 2, r"error: batch=0: must be >= 1$"),
        ("train dcgan --data {digits} --run {new} --kimg many", 2, r"kimg=many: a number"),
        ("train dcgan --data {new} --run {new}", 2, r"data\.path: {new}: no such file or folder$"),
        ("train dcgan --data {digits} --source {new} --run {new}", 2, r"source\.path: {new}: no such file"),
        (
            "train spider-dcgan --data {digits} --run {new}",
            2,
            r"error: preset spider-dcgan: source\.path: missing; give --source PLACE ",
        ),
        (
            "train dcgan --data {digits} --source gausian --run {new}",
            2,
            r"/gausian: no such .*; did you mean gaussian\? \(priors: gaussian, gamma, cauchy, gmm, nonparametric\)$",
        ),
        ("train dcgan --data {digits} --source {runs}/gaussian@beste --run {new}", 2, r"; did you mean best\?$"),
        (
            "train dcgan --data {digits} --run {new} g_optimizer.lr=abc",
            2,
            r"error: g_optimizer\.lr=abc: must be a number or auto$",
        ),
        ("train dcgan --data {digits} --run {new} --kimg 0", 2, r"error: kimg=0: must be >= 0\.001$"),
        ("train dcgan --data {digits} --source {runs}/gaussian@7 --run {new}", 2, r"no checkpoint at 7 kimg"),
        ("train dcgan --data {digits} --source {runs}/none@best --run {new}", 2, r"none: no such folder"),
        ("train --from {runs}/gaussian@first --run {new}", 2, r"after @ comes last, best or a number"),
        ("train dcgan --data {digits} --run {runs}/gaussian", 2, r"evaluate\.every_kimg: 0\.08 -> null"),
        ("train dcgan", 2, r"--run"),
        (
            "train dcgan --data {digits} --run {new} evaluate.every_kimg=1",
            1,
            r"evaluate\.embedding=inception: .*weights get .*evaluate\.weights=FILE; evaluate\.embedding=efficientnet",
        ),
        (
            "train dcgan --data {digits} --run {new} evaluate.every_kimg=1 evaluate.weights={new}",
            2,
            r"evaluate\.weights: {new}: no such file",
        ),
        (
            "train dcgan --data {digits} --run {new} evaluate.every_kimg=1 evaluate.reference={new}",
            2,
            r"evaluate\.reference: {new}: no such",
        ),
        (
            "evaluate {runs}/gaussian",
            1,
            r"weights inception: no .*get inception.*--weights FILE; --embedding efficientnet",
        ),
        ("evaluate {runs}/cascade@best --embedding offline", 2, r"never evaluated"),
        ("evaluate {digits} --embedding offline", 2, r"needs a --reference"),
        ("evaluate {runs}/gaussian --embedding offline --metrics fidd", 2, r"'fidd' is unknown"),
        ("evaluate {runs}/gaussian --embedding online", 2, r"embedding 'online' is unknown"),
        ("evaluate {runs}/gaussian --protocol mine", 2, r"protocol 'mine' is unknown"),
        ("evaluate {runs}/gaussian --embedding offline --seeds 0", 2, r"seeds: a whole number from 1"),
        ("generate {runs}/none --out {new}", 2, r"none: no such folder$"),
        ("generate {runs} --out {new}", 2, r"no run here .*; it holds runs: {runs}/cascade, {runs}/gaussian"),
        ("generate {runs}/gaussian", 2, r"--out or --grid"),
        ("generate {runs}/gaussian --out {new} --seeds x", 2, r"seeds: .*0-99, found .x."),
        (
            "generate {runs}/gaussian --out {new} --seeds 0,5-1",
            2,
            r"seeds: '5-1' is a range that goes down; .*1-5",
        ),
        ("generate {runs}/gaussian --out {new} --trunc 0.7", 2, r"--trunc 0\.7: .*no truncation"),
        (
            "generate {runs}/gaussian --out {new} --class 3",
            2,
            r"--class: class 3: the generator was trained without classes",
        ),
        ("generate {runs}/gaussian --out {new} --source-image a.png", 2, r"fed vectors"),
        ("generate {runs}/patches --out {new} --source-image {new}.png", 2, r"^error: --source-image: .*no such file"),
        ("interpolate {runs}/gaussian --out a.jpg", 2, r"\.png .*\.gif and \.mp4"),
        ("interpolate {runs}/gaussian --out a.png --seeds 1,2", 2, r"four corners, 2 given"),
        (
            "interpolate {runs}/gaussian --out a.png --space image",
            2,
            r"--space image: the generator has none; the generator is fed z$",
        ),
        (
            "interpolate {runs}/gaussian --out a.png --space imge",
            2,
            r"--space: 'imge' is unknown; known: z, image, w, instance; did you mean image\?; see .*--help$",
        ),
        ("interpolate {runs}/cascade --out a.png --stage 3", 2, r"no such stage"),
        ("interpolate {runs}/cascade --out a.png --stage 2 --space z", 2, r"stage has no z; stage 1 is fed z, stage 2"),
        ("interpolate {runs}/patches --out a.png --blend spherical", 2, r"of vectors"),
        (
            "interpolate {runs}/gaussian --out a.png --space w",
            2,
            r"--space w: the generator has none; the generator is fed z$",
        ),
        ("interpolate {runs}/gaussian --out a.png --blend cubic", 2, r"of loops, .*\.gif or \.mp4"),
        ("interpolate {runs}/gaussian --out a.gif --blend circular", 2, r"two inputs, --seeds gives 4"),
        ("generate {runs}/gaussian --styles 1 --grid a.png", 2, r"--styles: this generator has no mapping network"),
        (
            "generate {runs}/gaussian --styles 1 --out {new}",
            2,
            r"--styles: goes with --seeds and --grid, not with --out",
        ),
        ("generate {runs}/gaussian --style-layers 0-3 --grid a.png", 2, r"--style-layers: of --styles only"),
        ("ls {new}", 1, r"{new}: no such folder"),
        *(
            (words, code, r"; did you mean {runs}/gaussian\?")
            for words, code in (
                ("evaluate {runs}/gausian --embedding offline", 2),
                ("evaluate {runs}/gausian@best --embedding offline", 2),
                ("evaluate {digits} --reference {runs}/gausian --embedding offline", 2),
                ("generate {runs}/gausian --out {new}", 2),
                ("interpolate {runs}/Gaussian1@last --out a.png", 2),
                ("compare {runs}/gausian {runs}/patches", 2),
                ("ls {runs}/gausian", 1),
                ("verify {runs}/gausian", 2),
                ("pack {runs}/gausian {new}", 2),
                ("neighbors {digits} {runs}/gausian --out {new}", 2),
                ("train dcgan --data {digits} --source {runs}/gausian --run {new}", 2),
                ("train dcgan --data {runs}/gausian --run {new}", 2),
                ("train --from {runs}/gausian@last --run {new}", 2),
            )
        ),
        ("compare {runs}/gaussian", 2, r"two runs or more"),
        ("compare {runs}/gaussian {runs}/patches@last", 2, r"whole runs, without @"),
        ("verify {runs}", 2, r"no packed dataset here: index\.json: No such file or directory$"),
        (
            "verify {digits}/..",
            2,
            r"{digits}/\.\.: no packed dataset here: .*; it holds datasets: {digits}/\.\./digits",
        ),
        (
            "pack imagefolder:foo {new}",
            2,
            r"imagefolder:foo: .*imagefolder is no kind of source: builtin, torchvision,",
        ),
        ("pack builtin:digit {new}", 2, r"builtin:digits, builtin:letters, builtin:patches"),
        ("pack {digits} {new} --channels 2", 2, r"--channels 2: 1 \(grey\) or 3"),
        ("neighbors {digits} {digits} {digits} --out {new} --embedding offline", 2, r"two sources are named digits"),
        ("neighbors {digits} a={digits} a={digits} --out {new}", 2, r"two sources are named a; give names: NAME=PLACE"),
        ("neighbors {digits} {digits} --out {new} --embedding offline --orders=a,b", 2, r"order 'a' .*`2 log`.*m/n"),
        ("neighbors {digits} {digits} --out {new}", 1, r"weights inception: no .*spider weights get inception"),
        ("config explain r1_gamma", 2, r"did you mean penalties\.r1_gamma"),
        ("config explain sourc", 2, r"did you mean source"),
        ("train dcgan --data {digits} --run {digits}", 2, r"--run {digits}: holds packed images; a run needs"),
        ("train dcgan --data {digits} --run {digits}/index.json/run", 1, r"index\.json.*: Not a directory"),
        ("generate {runs}/gaussian --out {digits}/index.json/out", 1, r"index\.json.*: Not a directory"),
        ("ls {digits}/index.json", 1, r"index\.json: not a folder"),
        ("presets dcgna", 2, r"preset 'dcgna' is unknown; did you mean dcgan\? \(presets: .*\)$"),
        ("weights verify inception", 1, r"spider weights get inception"),
        ("weights get vgg", 2, r"weights 'vgg' is unknown"),
    ],
)
def test_a_mistake_is_named(spider, digits, runs, tmp_path, words, code, message):
    places = {"digits": str(digits), "runs": str(runs), "new": str(tmp_path / "new")}
    outcome = spider(*words.format(**places).split())
    assert outcome.code == code, outcome.err
    for name, place in places.items():
        message = message.replace(f"{{{name}}}", re.escape(place))
    assert re.search(message, outcome.error), outcome.error
    assert outcome.out == ""


def test_every_kind_of_failure_keeps_its_exit_code(spider, monkeypatch):
    def lose_a_rank(*arguments, **options):
        raise ClusterError("rank 1 is gone")

    monkeypatch.setattr(api, "verify", lose_a_rank)
    outcome = spider("verify", "shards")
    assert (outcome.code, outcome.error) == (1, "error: rank 1 is gone")


def test_an_interruption_is_one_line(spider, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "verify", interrupt)
    outcome = spider("verify", "shards")
    assert (outcome.code, outcome.err) == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        ("study", ["a.yaml", "--out", "here"], "interrupted: what is done, .* is in here; the same command goes on\n"),
        (
            "instances",
            ["builtin:digits", "--out", "a.safetensors"],
            "interrupted: .* are kept; the same command goes on\n",
        ),
        ("toy", [], "interrupted: a toy keeps nothing before its end.*\n"),
    ],
)
def test_an_interruption_says_what_is_kept(spider, monkeypatch, verb, words, said):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, verb, interrupt)
    outcome = spider(verb, *words)
    assert outcome.code == 130
    assert re.fullmatch(said, outcome.err)


def test_a_full_disk_is_named(spider, monkeypatch):
    def fill(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/000001.tar")

    monkeypatch.setattr(api, "verify", fill)
    outcome = spider("verify", "shards")
    assert (outcome.code, outcome.error) == (3, "error: /data/000001.tar: No space left on device")


def test_what_moves_a_place_that_is_full_is_said(spider, monkeypatch, tmp_path):
    """A cache is moved by SPIDER_CACHE, a temporary file by TMPDIR. A write to a full disk names its file."""

    def fill(place):
        def write(*arguments, **options):
            with open_whole(place):
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(api, "verify", write)
        return spider("verify", "shards").error

    inside = cache_root() / "file"
    assert fill(inside) == f"error: {inside}: No space left on device; SPIDER_CACHE=DIR keeps caches in DIR"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert fill(tmp_path / "x").endswith("; TMPDIR=DIR keeps temporary files in DIR")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_without_a_name_is_looked_for(spider, monkeypatch, tmp_path):
    def fill(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(api, "verify", fill)
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path / "cache" / "not yet there"))
    free = {tmp_path: 0}
    monkeypatch.setattr(shutil, "disk_usage", lambda disk: SimpleNamespace(free=free.get(disk, 1 << 30)))
    outcome = spider("verify", "shards")
    where = f"{tmp_path}/cache/not yet there is full; SPIDER_CACHE=DIR keeps caches in DIR"
    assert (outcome.code, outcome.error) == (3, f"error: No space left on device: {where}")


def test_a_closed_cache_is_named_with_what_moves_it(spider, digits, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path / "home" / "spider"))
    outcome = spider("evaluate", str(digits), "--reference", str(digits), "--embedding", "offline")
    assert outcome.code == 3
    assert f"{tmp_path}/home/spider" in outcome.error
    assert "SPIDER_CACHE=DIR keeps caches in DIR" in outcome.error


def test_a_folder_above_the_cache_that_cannot_be_made_is_named(spider, digits, monkeypatch):
    monkeypatch.setenv("SPIDER_CACHE", "/proc/no-home/.cache/spider")  # where nobody may make a folder
    outcome = spider("evaluate", digits, "--reference", digits, "--embedding", "offline")
    assert outcome.code == 3
    assert outcome.error.startswith("error: /proc")
    assert "SPIDER_CACHE=DIR keeps caches in DIR" in outcome.error


def test_a_user_without_a_home_is_told_what_to_set(spider, digits, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    for name in ("SPIDER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    outcome = spider("evaluate", digits, "--reference", digits, "--embedding", "offline")
    assert outcome.code == 3
    assert "SPIDER_CACHE=DIR names one" in outcome.error


@pytest.mark.parametrize(
    ("verb", "out"),
    [
        ("generate", "pictures"),
        ("generate", "pictures.zip"),
        ("interpolate", "pictures"),
        ("interpolate", "pictures.png"),
        ("interpolate", "pictures.gif"),
    ],
)
def test_no_room_leaves_no_part_of_a_picture(spider, runs, tmp_path, verb, out):
    """And the file that had no room is named."""
    least, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32, most))  # bytes: less than any picture has
    try:
        done = spider(verb, runs / "gaussian", "--out", tmp_path / out, "--seeds", "0-3")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (least, most))
    assert done.code == 1
    assert re.search(rf"{tmp_path}/pictures.*: File too large", done.error)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_bug_keeps_its_traceback(spider, monkeypatch):
    def fail(*arguments, **options):
        raise ZeroDivisionError

    monkeypatch.setattr(api, "verify", fail)
    with pytest.raises(ZeroDivisionError):
        spider("verify", "shards")


@pytest.mark.parametrize(
    "words",
    [
        "pack {digits} {new}",
        "generate {runs}/gaussian",
        "interpolate {runs}/gaussian",
        "project {runs}/gaussian {digits}",
    ],
)
def test_the_work_of_one_process_is_not_done_by_every_rank(spider, digits, runs, tmp_path, monkeypatch, words):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = words.format(digits=digits, runs=runs, new=tmp_path / "new").split()
    outcome = spider(*given, *(() if given[0] == "pack" else ("--out", tmp_path / "new.png")))
    assert outcome.code == 2
    assert "one process, and here are several (RANK=1 WORLD_SIZE=2)" in outcome.err


def test_another_rank_says_which_it_is_and_answers_nothing(spider, digits, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert spider("verify", digits).out == ""
    assert spider("ls", "nowhere").err == "error (rank 1): nowhere: no such folder\n"
