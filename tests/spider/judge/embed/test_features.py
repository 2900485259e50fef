"""Features depend on the image alone: not on range, world size, or what the cache has been through."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.judge.embed.cache import FeatureCache, FeatureKey
from spider.judge.embed.features import BLOCK, PIECE, extract_features, extract_features_and_logits
from spider.judge.embed.images import DrawnImages, has_colour
from spider.judge.embed.offline import OfflineEmbedding

WORLD = World.single()
COUNT = 2 * BLOCK + 37


class Noise:
    """Images of random pixels, by number."""

    name = "noise"
    fingerprint = "noise-1"

    def __init__(self, channels: int = 3) -> None:
        rng = np.random.default_rng(0)
        self._pixels = torch.from_numpy(rng.integers(0, 256, (COUNT, channels, 12, 12), dtype=np.uint8))

    def __len__(self) -> int:
        return COUNT

    def batch(self, start: int, stop: int) -> Tensor:
        return self._pixels[start:stop]


class Counting(OfflineEmbedding):
    """Counts the blocks that went through it, and has logits."""

    has_logits = True
    calls = 0

    def features(self, images: Tensor) -> Tensor:
        self.calls += 1
        return super().features(images)

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return features, features[:, :5] * 2


def extract_on(world: World) -> np.ndarray:
    return extract_features(Noise(), OfflineEmbedding(), world, start=10)


def extract_through_cache(world: World, root: Path) -> np.ndarray:
    return extract_features(Noise(), OfflineEmbedding(), world, cache=FeatureCache(root))


def test_a_range_is_the_same_bits_as_the_whole():
    whole = extract_features(Noise(), OfflineEmbedding(), WORLD)
    part = extract_features(Noise(), OfflineEmbedding(), WORLD, start=70, stop=131)
    np.testing.assert_array_equal(part, whole[70:131])


def test_every_world_size_gets_the_same_bits_on_every_rank(ranks):
    alone = extract_on(WORLD)
    assert alone.shape == (COUNT - 10, OfflineEmbedding().dim)
    for size in (2, 4):  # three blocks: with 4 ranks, one has none
        for found in ranks(size).run(extract_on):
            np.testing.assert_array_equal(found, alone)


def test_ranks_share_one_cache(ranks, tmp_path):
    first = ranks(2).run(extract_through_cache, tmp_path)
    again = ranks(4).run(extract_through_cache, tmp_path)
    for found in (*first, *again):
        np.testing.assert_array_equal(found, first[0])


def test_the_cache_saves_the_work(tmp_path):
    embedding, cache = Counting(), FeatureCache(tmp_path)
    first = extract_features(Noise(), embedding, WORLD, cache=cache)
    blocks = embedding.calls
    np.testing.assert_array_equal(extract_features(Noise(), embedding, WORLD, cache=cache), first)
    assert embedding.calls == blocks == 3
    extract_features(Noise(), embedding, WORLD, cache=cache, stop=5)
    assert embedding.calls == blocks + 1


def test_logits_come_with_features_and_are_kept_too(tmp_path):
    embedding, cache = Counting(), FeatureCache(tmp_path)
    features, logits = extract_features_and_logits(Noise(), embedding, WORLD, cache=cache)
    np.testing.assert_array_equal(logits, features[:, :5] * 2)
    again = extract_features_and_logits(Noise(), embedding, WORLD, cache=cache)
    np.testing.assert_array_equal(again[1], logits)
    assert embedding.calls == 3
    with pytest.raises(SpiderUsageError, match="no class logits"):
        extract_features_and_logits(Noise(), OfflineEmbedding(), WORLD)


class Many(Noise):
    """More than two pieces of images, every one a piece of noise moved."""

    fingerprint = "noise-2"

    def __len__(self) -> int:
        return 2 * PIECE + 37

    def batch(self, start: int, stop: int) -> Tensor:
        return torch.stack([self._pixels[i % COUNT].roll(i // COUNT, 2) for i in range(start, stop)])


def test_pieces_that_are_there_are_not_made_again(tmp_path):
    embedding, cache = Counting(), FeatureCache(tmp_path)
    whole = extract_features(Many(), embedding, WORLD)
    extract_features(Many(), embedding, WORLD, cache=cache, start=PIECE, stop=2 * PIECE)  # as before a kill
    embedding.calls = 0
    np.testing.assert_array_equal(extract_features(Many(), embedding, WORLD, cache=cache), whole)
    assert embedding.calls == 16 + 1
    for path in tmp_path.rglob("features-00000000-*"):
        path.unlink()
    embedding.calls = 0
    np.testing.assert_array_equal(extract_features(Many(), embedding, WORLD, cache=cache, stop=2 * PIECE), whole[:-37])
    assert embedding.calls == 16


def test_samples_are_made_side_by_side_and_none_before_a_heartbeat():
    """A generator's: not by the caller's thread, which computes on one thread, and whose heartbeats would wait."""
    events, both, threads = [], threading.Barrier(2, timeout=60), torch.get_num_threads()

    class Made(Noise):
        def __len__(self) -> int:
            return 2 * BLOCK

        def batch(self, start: int, stop: int) -> Tensor:
            both.wait()
            events.append(threading.current_thread())
            return super().batch(start, stop)

    try:
        torch.set_num_threads(2)
        extract_features(Made(), OfflineEmbedding(), WORLD, heartbeat=lambda: events.append("beat"))
    finally:
        torch.set_num_threads(threads)
    assert events[0] == "beat"
    assert len({*events} - {"beat", threading.main_thread()}) == 2


def test_reading_ahead_changes_nothing_but_the_time():
    whole = extract_features(Many(), OfflineEmbedding(), WORLD, stop=PIECE + 100)
    ahead = extract_features(Many(), OfflineEmbedding(), WORLD, stop=PIECE + 100, readers=3)
    np.testing.assert_array_equal(ahead, whole)

    class Torn(Many):
        def batch(self, start: int, stop: int) -> Tensor:
            if start >= 5 * BLOCK:
                raise ValueError("torn")
            return super().batch(start, stop)

    with pytest.raises(ValueError, match="torn"):
        extract_features(Torn(), OfflineEmbedding(), WORLD, readers=3)


def extract_many(world: World, root: Path) -> np.ndarray:
    return extract_features(Many(), OfflineEmbedding(), world, cache=FeatureCache(root))


def test_pieces_are_the_same_on_any_number_of_ranks(ranks, tmp_path):
    whole = extract_features(Many(), OfflineEmbedding(), WORLD)
    for found in ranks(4).run(extract_many, tmp_path):
        np.testing.assert_array_equal(found, whole)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
def test_a_damaged_entry_is_reported_and_made_again(damage, tmp_path, caplog):
    cache = FeatureCache(tmp_path)
    right = extract_features(Noise(), OfflineEmbedding(), WORLD, cache=cache)
    (path,) = tmp_path.rglob("*.safetensors")
    blob = bytearray(path.read_bytes())
    blob[-100] ^= 1
    path.write_bytes({"flip": bytes(blob), "truncate": blob[:-100], "empty": b"", "text": b"not features"}[damage])
    with caplog.at_level(logging.WARNING):
        again = extract_features(Noise(), OfflineEmbedding(), WORLD, cache=cache)
    np.testing.assert_array_equal(again, right)
    assert str(path) in caplog.text
    caplog.clear()
    extract_features(Noise(), OfflineEmbedding(), WORLD, cache=cache)
    assert caplog.text == ""


def test_an_entry_in_anothers_place_is_not_taken(tmp_path, caplog):
    cache = FeatureCache(tmp_path)
    mine = FeatureKey("a", "d" * 64, 0, 4, "features")
    cache.store(mine, rows=np.ones((4, 2), np.float32))
    other = FeatureKey("a", "d" * 63 + "e", 0, 4, "features")
    assert mine.path(tmp_path) == other.path(tmp_path)
    assert cache.load(other) is None
    assert "not what its header says" in caplog.text
    assert cache.load(mine) is not None


@pytest.mark.parametrize(("start", "stop"), [(0, COUNT + 1), (5, 5), (-1, 4)])
def test_images_that_are_not_there_are_refused(start: int, stop: int):
    with pytest.raises(SpiderUsageError, match=f"it has {COUNT}"):
        extract_features(Noise(), OfflineEmbedding(), WORLD, start=start, stop=stop)


def test_drawn_images_are_some_of_the_images():
    images = Noise()
    drawn = DrawnImages(images, 40, seed=3)
    found = drawn.batch(0, 40)
    rows = {bytes(image.numpy()) for image in images.batch(0, COUNT)}
    assert {bytes(image.numpy()) for image in found} <= rows
    assert len({bytes(image.numpy()) for image in found}) == 40
    torch.testing.assert_close(DrawnImages(images, 40, seed=3).batch(7, 12), found[7:12])
    fingerprints = {DrawnImages(images, count, seed).fingerprint for count, seed in ((40, 3), (40, 4), (41, 3))}
    assert len(fingerprints | {images.fingerprint}) == 4
    with pytest.raises(SpiderUsageError, match="cannot draw"):
        DrawnImages(images, COUNT + 1, seed=0)


def test_colour_is_told_from_gray():
    class Gray(Noise):
        def batch(self, start: int, stop: int) -> Tensor:
            return super().batch(start, stop)[:, :1].expand(-1, 3, -1, -1)

    assert has_colour(Noise())
    assert not has_colour(Noise(channels=1))
    assert not has_colour(Gray())
