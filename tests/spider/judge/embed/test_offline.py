"""The offline embedding is the same everywhere, and sees what a feature should see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.world import World
from shards import builtin
from spider.errors import SpiderUsageError
from spider.judge.embed import offline
from spider.judge.embed.load import load_embedding
from spider.judge.embed.offline import OfflineEmbedding
from spider.judge.metrics.frechet import frechet_distance
from spider.judge.metrics.moments import moments_of

WORLD = World.single()
EMBEDDING = OfflineEmbedding()


def pictures(name: str, count: int = 1200) -> Tensor:
    """uint8 [N, C, H, W] of a built-in set, in shuffled order."""
    pixels = builtin.SETS[name]().pixels
    pixels = pixels[np.random.default_rng(0).permutation(len(pixels))[:count]]
    return torch.from_numpy(pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2).copy())


def distance(a: Tensor, b: Tensor) -> float:
    features = (torch.cat([EMBEDDING.features(block) for block in images.split(64)]).numpy() for images in (a, b))
    return frechet_distance(*(moments_of(rows, WORLD) for rows in features))


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return pictures("digits")


@pytest.fixture(scope="module")
def patches() -> Tensor:
    return pictures("patches")


def gradient_image() -> Tensor:
    y, x = np.mgrid[0:20, 0:28]
    image = np.stack([7 * y + 3 * x, 255 - 9 * x, (x * y) % 256])
    return torch.from_numpy(image.astype(np.uint8))[None]


def test_digest_and_features_are_the_known_ones():
    # Change REVISION, and these, when the formulas change: caches and results must not mix.
    assert EMBEDDING.digest.startswith("322ce74eec72e000")
    features = EMBEDDING.features(gradient_image())[0]
    known = torch.tensor([0.2772179, 0.0205661, 0.0524320, 0.0086246, 0.0038652, 0.3260032])
    torch.testing.assert_close(features[[0, 100, 200, 230, 260, 287]], known, rtol=0, atol=1e-5)


def test_the_digest_does_not_depend_on_rounding(monkeypatch: pytest.MonkeyPatch):
    exact = offline.wavelets()
    for noise in (1e-18, -1e-18, 1e-9):
        monkeypatch.setattr(offline, "wavelets", lambda noise=noise: exact + noise)
        assert OfflineEmbedding().digest == EMBEDDING.digest


@pytest.mark.parametrize("name", [name for name, value in vars(offline).items() if isinstance(value, int | float)])
def test_the_digest_depends_on_every_constant(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(offline, name, getattr(offline, name) * 2)
    assert offline._digest() != EMBEDDING.digest


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (2, 3, 32, 32), (1, 3, 200, 90), (1, 1, 1, 1)])
def test_any_size_and_channels(shape: tuple[int, ...]):
    features = EMBEDDING.features(torch.randint(0, 256, shape, dtype=torch.uint8))
    assert features.shape == (shape[0], EMBEDDING.dim)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


def test_gray_is_rgb_with_equal_channels():
    gray = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(EMBEDDING.features(gray), EMBEDDING.features(gray.expand(-1, 3, -1, -1)))


def test_flat_images_have_no_structure():
    features = EMBEDDING.features(torch.full((1, 1, 24, 24), 130, dtype=torch.uint8))[0]
    assert features[:16].std() < 1e-6
    assert features[16:].abs().max() < 1e-5


def test_halves_of_a_set_are_much_nearer_than_other_sets(digits: Tensor, patches: Tensor):
    halves = distance(digits[::2], digits[1::2])
    to_letters = distance(digits, pictures("letters"))
    assert 20 * halves < to_letters < distance(digits, patches)


@pytest.mark.parametrize("name", ["digits", "patches"])
@pytest.mark.parametrize("damage", ["blur", "noise", "collapse", "dark"])
def test_sees_damage(name: str, damage: str, request: pytest.FixtureRequest):
    images = request.getfixturevalue(name)
    first, second = images[::2], images[1::2]
    rng = torch.Generator().manual_seed(0)
    damaged = {
        "blur": lambda x: torch.nn.functional.avg_pool2d(x.float(), 3, 1, 1, count_include_pad=False),
        "noise": lambda x: x + 25 * torch.randn(x.shape, generator=rng),
        "collapse": lambda x: x[torch.randint(0, 10, (len(x),), generator=rng)],
        "dark": lambda x: x * 0.7,
    }[damage](first)
    assert distance(damaged.clamp(0, 255).to(torch.uint8), second) > 2 * distance(first, second)


def test_sees_colour(patches: Tensor):
    assert distance(patches[::2].flip(1), patches[1::2]) > 2 * distance(patches[::2], patches[1::2])


def test_a_linear_probe_reads_digits_from_it():
    data = builtin.digits()
    assert data.labels is not None
    images = torch.from_numpy(data.pixels)[:, None]
    features = EMBEDDING.features(images).double().numpy()
    order = np.random.default_rng(0).permutation(len(features))
    train, test = order[:1200], order[1200:]
    inputs = np.c_[(features - features.mean(0)) / (features.std(0) + 1e-2), np.ones(len(features))]
    targets = np.eye(10)[data.labels]
    gram = inputs[train].T @ inputs[train] + 10 * np.eye(inputs.shape[1])
    guesses = (inputs[test] @ np.linalg.solve(gram, inputs[train].T @ targets[train])).argmax(1)
    assert (guesses == data.labels[test]).mean() > 0.95  # mean and spread of the pixels alone: about 0.2


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 8, 8, dtype=torch.uint8)])
def test_other_images_are_refused(images: Tensor):
    with pytest.raises(SpiderUsageError, match="uint8"):
        EMBEDDING.features(images)


def test_only_its_own_options_are_taken(tmp_path):
    for options, words in (({"protocol": "tf"}, "protocol 'tf'"), ({"weights": tmp_path}, "no weights")):
        with pytest.raises(SpiderUsageError, match=words):
            load_embedding("offline", **options)
    with pytest.raises(SpiderUsageError, match=r"known: inception, .*efficientnet, dinov2, "):
        load_embedding("resnet")
