"""LPIPS is the package's number for recorded weights; the distance on EfficientNet's maps behaves as a distance."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spider import weights
from spider.backbones.perceptual import Lpips, perceptual_distance
from spider.errors import SpiderError, SpiderUsageError

CPU = torch.device("cpu")
VGG = ((64, (0, 2)), (128, (5, 7)), (256, (10, 12, 14)), (512, (17, 19, 21, 24, 26, 28)))
CONVOLUTIONS = {  # number, channels, kernel
    "alex": [(0, 64, 11), (3, 192, 5), (6, 384, 3), (8, 256, 3), (10, 256, 3)],
    "vgg": [(number, channels, 3) for channels, numbers in VGG for number in numbers],
}
TAPPED = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
# By lpips 0.1.4 under the weights below: of two images, of an image and itself, of an image and one like it
RECORDED = {"alex": (0.23809688, 0.0, 0.00169012), "vgg": (0.23055549, 0.0, 0.00247199)}


def by_rule(name: str, *shape: int) -> Tensor:
    """The recorded networks' weights: each a function of its name."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    bits = np.random.Philox(key=key).random_raw(int(np.prod(shape)))
    v = np.sqrt(3) * (2 * ((bits >> np.uint64(11)) * 2.0**-53) - 1).reshape(shape)
    return torch.from_numpy((v * np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else v).astype(np.float32))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that holds learned weights, as lpips does."""
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "some_lpips"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for trunk, channels in TAPPED.items():
        state = {f"lin{i}.model.1.weight": by_rule(f"{trunk}.lin{i}", 1, c, 1, 1).abs() for i, c in enumerate(channels)}
        torch.save(state, folder / f"{trunk}.pth")
        digest = hashlib.sha256((folder / f"{trunk}.pth").read_bytes()).hexdigest()
        found = weights.Package("lpips", "some_lpips", f"{trunk}.pth", weights.sha256_of_state_dict(state))
        entry = replace(weights.REGISTRY[f"lpips_{trunk}"], sha256=digest, package=found)
        monkeypatch.setitem(weights.REGISTRY, entry.name, entry)
    return folder


def trunk_file(folder: Path, trunk: str) -> Path:
    """As torchvision's files have it."""
    state = {"classifier.1.weight": torch.zeros(2, 2)}
    channels = 3
    for number, out, kernel in CONVOLUTIONS[trunk]:
        name = f"features.{number}"
        state[f"{name}.weight"] = by_rule(f"{trunk}.{name}.weight", out, channels, kernel, kernel)
        state[f"{name}.bias"] = 0.1 * by_rule(f"{trunk}.{name}.bias", out)
        channels = out
    torch.save(state, folder / f"{trunk}-trunk.pth")
    return folder / f"{trunk}-trunk.pth"


def pairs() -> tuple[Tensor, Tensor]:
    a, b = ((60 * by_rule(f"images {k}", 3, 3, 41, 64)).clamp(-1, 1) for k in "ab")
    b[1], b[2] = a[1], (a[2] + 0.1 * b[2]).clamp(-1, 1)
    return a, b


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_lpips_is_the_packages_number(package, tmp_path, trunk):
    file = trunk_file(tmp_path, trunk)
    distance = perceptual_distance(f"lpips_{trunk}", file, CPU)
    np.testing.assert_allclose(distance(*pairs()).numpy(), RECORDED[trunk], rtol=1e-4, atol=1e-7)
    assert distance.label == f"LPIPS[{trunk}@{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}]"
    grey = [images[:, :1] for images in pairs()]
    torch.testing.assert_close(distance(*grey), distance(*(images.expand(-1, 3, -1, -1) for images in grey)))


@pytest.mark.parametrize("name", ["lpips_alex", "efficientnet"])
def test_one_image_is_compared_with_many_by_its_maps(package, tmp_path, name):
    """And an image in which a map is 0 everywhere has a gradient."""
    distance = perceptual_distance(name, trunk_file(tmp_path, "alex") if name == "lpips_alex" else None, CPU)
    many, one = pairs()[0], pairs()[1][:1]
    each = distance.between(distance.maps(many), distance.maps(one))
    torch.testing.assert_close(each, distance(many, one.expand(3, -1, -1, -1)))
    flat = torch.full((1, 3, 41, 64), -0.9, requires_grad=True)
    for convolution in getattr(distance, "_convolutions", {}).values():
        torch.nn.init.constant_(convolution.bias, -100.0)
    (gradient,) = torch.autograd.grad(distance(flat, one).sum(), flat)
    assert gradient.isfinite().all()


def test_a_distance_on_efficientnet_is_zero_at_equal_images_and_grows():
    distance = perceptual_distance("efficientnet", None, CPU)
    image, other = pairs()[0][:1, :, :32, :32], pairs()[1][:1, :, :32, :32]
    blends = [(1 - t) * image + t * other for t in (0.0, 0.1, 0.3, 1.0)]
    found = [float(distance(image, blend)) for blend in blends]
    assert found[0] == 0
    assert found == sorted(set(found))
    assert found[-1] < 4
    assert float(distance(blends[2], image)) == pytest.approx(found[2], rel=1e-5)
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(distance(image, other), image)
    assert gradient.abs().sum() > 0
    assert distance.label == "PD[efficientnet]"


def test_what_lpips_lacks_is_said(package, tmp_path, monkeypatch):
    alex = trunk_file(tmp_path, "alex")
    with pytest.raises(SpiderUsageError, match="LPIPS needs images of 32 x 32 px; found 64 x 31"):
        Lpips("alex", alex)(*(torch.zeros(1, 3, 31, 64) for _ in "ab"))
    with pytest.raises(SpiderError, match=r"not the weights of LPIPS' trunk vgg: features.0.weight is"):
        perceptual_distance("lpips_vgg", alex, CPU)
    with pytest.raises(SpiderError, match=r"weights get alexnet.* or name a file: --weights FILE, or use --dist"):
        perceptual_distance("lpips_alex", None, CPU)
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path / "empty"))
    absent = replace(weights.REGISTRY["lpips_alex"].package, module="no_such_module")
    monkeypatch.setitem(weights.REGISTRY, "lpips_alex", replace(weights.REGISTRY["lpips_alex"], package=absent))
    with pytest.raises(SpiderError, match=r"the package lpips is not installed; run `pip install lpips` .* --distance"):
        perceptual_distance("lpips_alex", alex, CPU)
    with pytest.raises(SpiderUsageError, match="distance 'lpips' is unknown; known: efficientnet, lpips_alex, "):
        perceptual_distance("lpips", None, CPU)
