"""Every number says what it hangs on, and is the same whatever the number of ranks."""

import functools
import json
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cluster.world import World
from spider import measures
from spider.errors import SpiderError, SpiderUsageError
from spider.heartbeat import Heartbeat, silent
from spider.judge.embed import features
from spider.judge.embed.brought import DINOV2_RULES
from spider.judge.embed.cache import FeatureCache
from spider.judge.embed.resize import INCEPTION_PROTOCOLS
from spider.judge.metrics import comparison, distances, kid, moments, spread
from spider.judge.metrics.evaluate import evaluate_images
from spider.judge.metrics.protocols import PROTOCOLS
from spider.judge.metrics.registry import METRICS
from spider.judge.metrics.results import MetricResult
from spider.judge.sid.robust import sid_curves

WORLD = World.single()
DIM = 12


class Images:
    """Noise in three grey levels that differ between sets, of two classes, one twice as large."""

    class_names = ("many", "few")
    class_counts = (500, 5)

    def __init__(self, name: str, count: int, seed: int, low: int = 0, high: int = 256, channels: int = 3) -> None:
        self.name = name
        self.fingerprint = f"{name}-{count}-{seed}-{low}-{high}"
        rng = np.random.default_rng(seed)
        light = rng.integers(low, high, (count, 1, 2, 2)).repeat(4, axis=2).repeat(4, axis=3)
        noise = rng.integers(-20, 21, (count, channels, 8, 8))
        self.pixels = torch.from_numpy((light + noise).clip(0, 255).astype(np.uint8))

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, start: int, stop: int) -> Tensor:
        return self.pixels[start:stop]

    def labels(self) -> NDArray[np.int64]:
        return (np.arange(len(self)) % 3 == 2).astype(np.int64)


@dataclass
class Projection:
    """A fixed random projection of the pixels; a stand-in for any embedding."""

    name: str = "offline"
    protocol: str = "offline"
    label: str = "offline"
    dim: int = DIM
    digest: str = "d1" * 32
    has_logits: bool = False
    calls: int = 0

    def features(self, images: Tensor) -> Tensor:
        self.calls += 1
        flat = images.float().expand(-1, 3, -1, -1).flatten(1) / 255
        weights = np.random.default_rng(0).standard_normal((flat.shape[1], self.dim)).astype(np.float32)
        return (flat @ torch.from_numpy(weights) / 8).relu()

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return features, 3 * features[:, :5]


class AnySize(Projection):
    """Takes images of any size."""

    def features(self, images: Tensor) -> Tensor:
        return super().features(torch.nn.functional.interpolate(images, (8, 8)))


def inception(protocol: str = "tf", label: str | None = None) -> Projection:
    return Projection("inception", protocol, label or f"inception/{protocol}", has_logits=True)


def evaluate(
    metrics: list[str], embedding: Projection | None = None, samples: Images | None = None, **options: object
) -> list[MetricResult]:
    return evaluate_images(
        samples or Images("samples", 90, seed=1, low=30, high=220),
        Images("reference", 120, seed=2),
        metrics=metrics,
        embedding=embedding or Projection(),
        world=WORLD,
        **options,
    )


QUICK_SID = functools.partial(sid_curves, subsets=2, replicates=10)


@pytest.fixture(autouse=True)
def _quick_sid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "sid_curves", QUICK_SID)


def measure_everything(
    world: World, cache: FeatureCache | None = None, heartbeat: Heartbeat = silent
) -> list[dict[str, object]]:
    """Every metric, in blocks so small that there are more of them than ranks."""
    small = [mock.patch.object(module, "ROWS", 32) for module in (distances, kid, moments)]
    quick = mock.patch.object(comparison, "sid_curves", QUICK_SID)
    for patch in [*small, quick, mock.patch.object(moments, "COLUMNS", 5)]:
        patch.start()
    try:
        results = evaluate_images(
            Images("samples", 90, seed=1, low=30, high=220),
            Images("reference", 120, seed=2),
            training=Images("training", 100, seed=3),
            metrics=list(METRICS),
            embedding=inception(),
            world=world,
            cache=cache,
            heartbeat=heartbeat,
        )
    finally:
        mock.patch.stopall()
    return [result.to_json() for result in results]


def test_every_metric_is_the_same_on_one_two_four_ranks(ranks):
    alone = measure_everything(WORLD)
    for size in (2, 4):
        for results in ranks(size).run(measure_everything):
            for found, expected in zip(results, alone, strict=True):
                assert found["value"] == pytest.approx(expected["value"], rel=1e-9), (size, found["label"])
                for error in ("std", "stderr"):
                    assert (found[error] or 0) == pytest.approx(expected[error] or 0, rel=1e-9), (size, found["label"])
                assert found["protocol"] == expected["protocol"]


def beats_of_everything(world: World, root: Path) -> list[list[int]]:
    """On a rank: at every heartbeat, how many each rank has had; with an empty cache, then with a full one."""
    beats: list[list[int]] = []
    for _ in range(2):
        measure_everything(world, FeatureCache(root), lambda: beats.append(world.all_gather_json(len(beats))))
    return beats


def test_all_ranks_have_their_heartbeats_at_the_same_places(ranks, tmp_path):
    """So that one which communicates, or raises, does so on all of them."""
    for size in (2, 4):
        for beats in ranks(size).run(beats_of_everything, tmp_path / str(size)):
            assert beats == [[n] * size for n in range(len(beats))]


def test_no_two_rounds_of_an_evaluation_are_without_a_heartbeat_between(monkeypatch, tmp_path):
    """Rounds of blocks through the embedding, of units of a metric, and pieces from the cache."""
    events: list[str] = []

    def noted(function):
        return lambda *args, **kwargs: (events.append("round"), function(*args, **kwargs))[1]

    def done(iterable, **_):
        for each in iterable:
            yield each
            events.append("round")

    embedded = features.ahead
    monkeypatch.setattr(features, "ahead", lambda *work: (events.append("round") or r for r in embedded(*work)))
    monkeypatch.setattr(FeatureCache, "load", noted(FeatureCache.load))
    monkeypatch.setattr(spread, "Bar", done)
    for _ in range(2):
        measure_everything(WORLD, FeatureCache(tmp_path), lambda: events.append("beat"))
    assert events.count("round") > 2 * 100  # of kid alone
    assert ("round", "round") not in set(pairwise(events))


def test_what_a_heartbeat_raises_ends_an_evaluation():
    def stop() -> None:
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        measure_everything(WORLD, heartbeat=stop)


def test_blocks_change_no_metric():
    small = {result["name"]: result["value"] for result in measure_everything(WORLD)}
    for result in evaluate(list(METRICS), inception(), training=Images("training", 100, seed=3)):
        rounding = 1e-7 if result.name.startswith("kid") else 0.0  # of float32 products, whose shapes differ
        close = 1e-6 if result.name == "cmmd" else 1e-9
        assert result.value == pytest.approx(small[result.name], rel=close, abs=rounding), result.name


def test_high_precision_near_a_few_images_is_warned_of():
    """As of noise that falls into the wide ball of an outlier; here of copies of one image."""
    copies = Images("reference", 120, seed=2)
    copies.pixels = copies.pixels[:1].repeat(90, 1, 1, 1)
    (precision,) = evaluate(["precision"], samples=copies)
    assert precision.value == 1
    [warning] = precision.warnings
    assert "near a few images of the reference only" in warning
    (spread_out,) = evaluate(["precision"])
    assert spread_out.warnings == []


def test_duplicates_are_called_duplicates():
    """With every image eight times, the fifth nearest is a copy: coverage is 0, and outliers are not to blame."""

    class EightTimes(Images):
        def __init__(self) -> None:
            super().__init__("eight", 120, seed=2)
            self.pixels = self.pixels[:15].repeat(8, 1, 1, 1)

    four = ["precision", "recall", "density", "coverage"]
    for side in ("reference", "samples"):
        sets = {"samples": Images("samples", 90, seed=1), "reference": Images("reference", 120, seed=2)}
        sets[side] = EightTimes()
        results = evaluate_images(**sets, metrics=four, embedding=Projection(), world=WORLD)
        found = {result.name: [w for w in result.warnings if "duplicates" in w] for result in results}
        blamed = [name for name in four if (name == "recall") == (side == "samples")]
        assert [name for name in four if found[name]] == blamed
        assert all("100.0% of the" in found[name][0] for name in blamed)
        assert side == "samples" or not any("outliers" in w for result in results for w in result.warnings)
    assert not any(result.warnings for result in evaluate(four))


def test_images_on_a_disk_go_through_the_network_once_whichever_side_they_are_on(tmp_path: Path):
    embedding, cache = inception(), FeatureCache(tmp_path)
    one, other = Images("one", 90, seed=1), Images("other", 120, seed=2)

    def measured(samples: Images, reference: Images, metric: str = "fid", keep: bool = True) -> int:
        before = embedding.calls
        options = {"embedding": embedding, "world": WORLD, "cache": cache, "keep_samples": keep}
        evaluate_images(samples, reference, metrics=[metric], **options)
        return embedding.calls - before

    assert measured(one, other) == 2 + 2  # blocks of 64
    assert measured(other, one) == measured(one, other) == 0
    assert [measured(one, other, "is") for _ in range(2)] == [2, 0]  # logits, which were not asked for before
    generated = Images("generated", 60, seed=3)
    assert [measured(generated, other, keep=False) for _ in range(2)] == [1, 1]


def test_every_resize_rule_has_its_protocol_and_help_names_all():
    from spider.cli import judging

    assert set(INCEPTION_PROTOCOLS) <= set(PROTOCOLS)
    assert PROTOCOLS["clean"].resize == "clean"
    told = re.sub(r'"\s+"', "", Path(judging.__file__).read_text())  # texts over several lines
    assert f"{', '.join(name for name in PROTOCOLS if name != 'tf')}." in told


def test_a_result_says_what_it_hangs_on():
    (fid,) = evaluate(["fid"], count=50, seed=4)
    assert fid.protocol == {
        "name": "offline",
        "embedding": "offline",
        "embedding_digest": "d1" * 32,
        "resize": "offline",
        "dim": DIM,
        "seed": 4,
        "ddof": 1,
    }
    assert fid.provenance == {
        "samples": {"name": "samples", "fingerprint": "samples-90-1-30-220", "count": 50},
        "reference": {"name": "reference", "fingerprint": "reference-120-2-0-256", "count": 120},
    }
    kid, precision, coverage = evaluate(["kid", "precision", "coverage"])
    assert (kid.protocol["subsets"], kid.protocol["subset_size"], kid.std_over) == (100, 90, "100 subsets")
    assert precision.protocol["neighbourhood"] == {"name": "nv_pr", "k": 3, "strict": False}
    assert coverage.protocol["neighbourhood"] == {"name": "prdc", "k": 5, "strict": True}


def test_no_label_poses_as_inception():
    everything = [name for name in METRICS if not METRICS[name].needs_logits]
    stranger = inception(label="inception/tf@0123abcd")
    for embedding in (Projection(), stranger):
        for result in evaluate(everything, embedding):
            assert result.label.endswith(f"[{embedding.label}]")
            assert not result.label.startswith(("FID", "KID", "CSID", "SID"))
    named = evaluate(["fid", "kid", "is", "csid", "mind", "fdr", "cmmd"], inception())
    assert [result.label for result in named] == [
        *("FID", "KID", "IS", "CSID[-1]", "MIND", "FDr[inception/tf]", "Gaussian MMD[inception/tf]")
    ]
    assert evaluate(["is"], stranger)[0].label == "IS[inception/tf@0123abcd]"


def test_inception_score_is_refused_without_logits():
    embedding = Projection()
    with pytest.raises(SpiderUsageError, match="'is' needs class logits, which embedding offline does not have"):
        evaluate(["fid", "is"], embedding)
    assert embedding.calls == 0  # before any work


def test_protocols_change_what_they_say():
    samples = Images("samples", 90, seed=1, low=30, high=220)
    values = {
        name: {result.name: result.value for result in evaluate(["fid", "precision", "is"], inception(), protocol=name)}
        for name in ("tf", "nvlabs", "prdc")
    }
    assert values["tf"]["fid"] != values["nvlabs"]["fid"] == pytest.approx(values["tf"]["fid"], rel=0.02)
    assert values["tf"]["precision"] != values["prdc"]["precision"]
    assert values["tf"]["fid"] == values["prdc"]["fid"]
    assert values["tf"]["is"] != values["nvlabs"]["is"]
    for name, protocol in PROTOCOLS.items():
        if protocol.embedding == "inception":
            (fid,) = evaluate(["fid"], inception(protocol.resize), samples, protocol=name)
            assert fid.protocol["name"] == name


def test_protocols_demand_their_embedding():
    with pytest.raises(SpiderUsageError, match="'pytorch_fid' needs embedding inception with resize rule pytorch_fid"):
        evaluate(["fid"], inception("tf"), protocol="pytorch_fid")
    with pytest.raises(SpiderUsageError, match="'tf' needs embedding inception with resize rule tf, got offline"):
        evaluate(["fid"], protocol="tf")
    with pytest.raises(SpiderUsageError, match="protocol 'fif' is unknown; known: tf, "):
        evaluate(["fid"], protocol="fif")


def test_the_names_that_need_no_torch_are_those_of_the_registries():
    assert list(METRICS) == list(measures.METRICS)
    assert list(PROTOCOLS) == list(measures.PROTOCOLS)
    rules = {name: tuple(p.resize for p in PROTOCOLS.values() if p.embedding == name) for name in measures.EMBEDDINGS}
    assert {name: tuple(dict.fromkeys(found)) for name, found in rules.items()} == measures.RESIZE_RULES
    assert (tuple(INCEPTION_PROTOCOLS), tuple(DINOV2_RULES)) == tuple(
        measures.RESIZE_RULES[name] for name in ("inception", "dinov2")
    )
    assert {protocol.embedding for protocol in PROTOCOLS.values()} == set(measures.EMBEDDINGS)


def test_what_cannot_be_measured_is_refused_by_name():
    with pytest.raises(SpiderUsageError, match="metric 'fdi' is unknown; known: fid, kid"):
        evaluate(["fdi"])
    with pytest.raises(SpiderUsageError, match="no metric asked for; known: fid, kid"):
        evaluate([])
    for count in (0, 91):
        with pytest.raises(SpiderUsageError, match=f"samples: cannot measure {count} images; it has 90"):
            evaluate(["fid"], count=count)


def test_features_that_are_not_finite_name_the_image():
    class Broken(Projection):
        def features(self, images: Tensor) -> Tensor:
            features = super().features(images)
            features[images[:, 0, 0, 0] == 201] = torch.nan
            return features

    samples = Images("samples", 90, seed=1)
    samples.pixels[:, 0, 0, 0] = 0
    samples.pixels[77, 0, 0, 0] = 201
    with pytest.raises(SpiderError, match="samples: 1 of 90 images have features that are not finite, first image 77"):
        evaluate(["fid"], Broken(), samples)


def test_few_images_warn_in_the_result():
    (fid,) = evaluate(["fid"], count=2 * DIM - 1)
    assert fid.warnings == [warning for warning in fid.warnings if warning.startswith("23 samples are few")] != []
    assert evaluate(["fid"], count=2 * DIM)[0].warnings == []
    (kid,) = evaluate(["kid"], count=40)
    assert kid.warnings == ["subsets of 40 images instead of 1000: a set has no more"]


def test_constant_images_do_not_crash(tmp_path: Path):
    constant = Images("constant", 30, seed=0)
    constant.pixels[:] = 128
    for reference in (constant, Images("reference", 120, seed=2)):
        results = evaluate_images(
            constant,
            reference,
            metrics=list(METRICS),
            embedding=inception(),
            world=WORLD,
            page=tmp_path / "page.png",
        )
        assert all(result.value is not None or result.warnings for result in results if result.name != "nearest")
        json.dumps([result.to_json() for result in results], allow_nan=False)
        values = {result.name: result.value for result in results}
        assert values["is"] == pytest.approx(1)
        assert (values["csid"] is None) == (values["sid"] is None) == (reference is constant)
        assert (values["fid"] == 0) == (reference is constant)


def test_features_are_computed_once_for_all_metrics_and_kept_for_the_reference(tmp_path: Path):
    first, again = Projection(), Projection()
    cache = FeatureCache(tmp_path)
    everything = [name for name in METRICS if not METRICS[name].needs_logits]
    results = evaluate(everything, first, cache=cache)
    assert first.calls == 2 + 2  # blocks of 64: samples 90, reference 120
    assert evaluate(everything, again, cache=cache) == results
    assert again.calls == 2
    unasked = Projection()
    evaluate(["fid"], unasked, training=Images("training", 200, seed=5))
    assert unasked.calls == 2 + 2  # nothing here looks at training images


def test_signed_distance_is_that_of_samples_to_reference():
    narrow = Images("narrow", 90, seed=1, low=100, high=156)
    (csid, sid) = evaluate(["csid", "sid"], samples=narrow)
    wide = Images("wide", 90, seed=1, low=0, high=256)
    (back,) = evaluate_images(wide, narrow, metrics=["csid"], embedding=Projection(), world=WORLD)
    assert csid.value < 0 < back.value  # less diverse, more diverse
    assert csid.value == pytest.approx(sum(csid.details["curve"]))
    assert csid.stderr > 0
    assert abs(sid.value) == max(map(abs, csid.details["curve"]))
    assert (csid.protocol["kernel"], csid.protocol["mode"]) == ("-1", "robust")


def test_a_generator_that_copies_is_seen(tmp_path: Path):
    training = Images("training", 200, seed=5)
    copies = Images("copies", 100, seed=6)
    copies.pixels[:40] = training.pixels[100:140]
    (honest,) = evaluate(["nearest"], samples=Images("honest", 100, seed=6), training=training)
    (copying,) = evaluate(["nearest"], samples=copies, training=training, page=tmp_path / "page.png")
    assert honest.value == pytest.approx(1, abs=0.15)
    assert honest.warnings == []
    assert honest.protocol["scale"] == "held-out images"
    assert copying.details["share_in_tail"] >= 0.4
    assert "nearer to a training image than 99% of held-out images, 40 nearer than all" in copying.warnings[0]
    assert [pair["training_image"] - pair["sample"] for pair in copying.details["closest"]] == [100] * 10
    assert [pair["distance"] for pair in copying.details["closest"]] == [0] * 10
    with Image.open(tmp_path / "page.png") as image:
        assert min(image.size) > 300


def test_a_page_of_three_samples_of_another_size(tmp_path: Path):
    grey = Images("grey", 3, seed=1, channels=1)
    grey.pixels = grey.pixels[:, :, :5, :5]
    page, reference = tmp_path / "page.png", Images("reference", 9, seed=2)
    evaluate_images(grey, reference, metrics=["nearest"], embedding=AnySize(), world=WORLD, page=page)
    assert page.stat().st_size > 1000


def test_without_training_images_the_reference_is_its_own_scale():
    samples = Images("samples", 100, seed=6)
    (nearest,) = evaluate(["nearest"], samples=samples)
    assert nearest.protocol["scale"] == "training images among themselves"
    same = Images("reference", 120, seed=2)  # the reference under another object
    assert evaluate(["nearest"], samples=samples, training=same) == [nearest]
