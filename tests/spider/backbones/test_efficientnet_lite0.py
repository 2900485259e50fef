"""The network is timm's and the package's own, for recorded weights and inputs, and passes gradients to its input."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spider.backbones.efficientnet_lite0 import CHANNELS, EfficientNetLite0, _Conv, read_efficientnet_lite0
from spider.errors import SpiderError

GOLDEN = dict(np.load(Path(__file__).parents[2] / "golden" / "efficientnet_lite0.npz"))
GROUPS = ((32, 16, 1, 3, 1), (16, 24, 6, 3, 2), (24, 40, 6, 5, 2), (40, 80, 6, 3, 3), (80, 112, 6, 5, 3))
GROUPS += ((112, 192, 6, 5, 4), (192, 320, 6, 3, 1))  # channels in and out, expansion, kernel, blocks


def by_rule(name: str, shape: tuple[int, ...]) -> Tensor:
    """The recorded networks' weights: each a function of timm's name for it."""
    key = int.from_bytes(hashlib.sha256(f"golden-pg:{name}".encode()).digest()[:8], "little")
    bits = np.random.Philox(key=key).random_raw(int(np.prod(shape)))
    v = np.sqrt(3) * (2 * ((bits >> np.uint64(11)) * 2.0**-53) - 1).reshape(shape)
    if len(shape) > 1:
        v = v * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        v = np.exp(0.2 * v)
    else:
        v = 0.1 * v + (re.search(r"bn\d\.weight$", name) is not None)
    return torch.from_numpy(v.astype(np.float32))


def layers():
    """Package's name, timm's name, package's norm, timm's norm, shape of the weight: of every convolution."""
    yield "_conv_stem", "conv_stem", "_bn0", "bn1", (32, 3, 3, 3)
    block = 0
    for group, (channels, out, expansion, kernel, count) in enumerate(GROUPS):
        for number in range(count):
            ours, timm = f"_blocks.{block}.", f"blocks.{group}.{number}."
            inner = channels if number == 0 else out
            wide = inner * expansion
            n = iter((1, 2, 3))
            if expansion > 1:
                yield f"{ours}_expand_conv", f"{timm}conv_pw", f"{ours}_bn0", f"{timm}bn{next(n)}", (wide, inner, 1, 1)
            depth = (wide, 1, kernel, kernel)
            yield f"{ours}_depthwise_conv", f"{timm}conv_dw", f"{ours}_bn1", f"{timm}bn{next(n)}", depth
            last = f"{timm}conv_pwl" if expansion > 1 else f"{timm}conv_pw"
            yield f"{ours}_project_conv", last, f"{ours}_bn2", f"{timm}bn{next(n)}", (out, wide, 1, 1)
            block += 1
    yield "_conv_head", "conv_head", "_bn1", "bn2", (1280, 320, 1, 1)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    tensors = {}
    for ours, timm, our_norm, timm_norm, shape in layers():
        tensors[f"{ours}.weight"] = by_rule(f"{timm}.weight", shape)
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{our_norm}.{part}"] = by_rule(f"{timm_norm}.{part}", shape[:1])
    tensors["_fc.weight"] = by_rule("classifier.weight", (1000, 1280))
    tensors["_fc.bias"] = by_rule("classifier.bias", (1000,))
    return tensors


@pytest.fixture(scope="module")
def network(state) -> EfficientNetLite0:
    return EfficientNetLite0(state)


def test_the_weights_follow_the_rule(state):
    for ours, timm in (
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_blocks.6._bn1.running_var", "blocks.3.1.bn2.running_var"),
        ("_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight"),
    ):
        np.testing.assert_array_equal(state[ours].flatten()[:16], GOLDEN[f"rule_check__{timm}"])


@pytest.mark.parametrize(("name", "height", "width"), [("even", 64, 64), ("odd", 33, 47)])
def test_stages_and_gradients_are_timms(network, name, height, width):
    """Recorded from timm 1.0.31's `tf_efficientnet_lite0`: every fourth channel, the gradient at every second pixel."""
    bits = np.random.Philox(key=height).random_raw(3 * height * width).reshape(1, 3, height, width)
    images = ((torch.from_numpy(bits % np.uint64(256)).float() - 127) / 128).requires_grad_()
    maps = network.stages(images)
    assert tuple(found.shape[1] for found in maps) == CHANNELS
    for number, found in enumerate(maps):
        expected = torch.from_numpy(GOLDEN[f"{name}_stage{number}"])
        torch.testing.assert_close(found[:, ::4], expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
    (gradient,) = torch.autograd.grad(sum((found**2).mean() for found in maps), images)
    expected = torch.from_numpy(GOLDEN[f"{name}_gradient"])
    torch.testing.assert_close(gradient[:, :, ::2, ::2], expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_timms_names_give_the_same_network(network, state):
    theirs = {"classifier.weight": state["_fc.weight"], "classifier.bias": state["_fc.bias"]}
    for ours, timm, our_norm, timm_norm, _ in layers():
        theirs[f"{timm}.weight"] = state[f"{ours}.weight"]
        for part in ("weight", "bias", "running_mean", "running_var"):
            theirs[f"{timm_norm}.{part}"] = state[f"{our_norm}.{part}"]
        theirs[f"{timm_norm}.num_batches_tracked"] = torch.tensor(1)
    found = EfficientNetLite0(theirs).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())
    for name, tensor in (("blocks.7.0.conv_pw.weight", torch.ones(1)), ("blocks.1.0.se.weight", torch.ones(1))):
        with pytest.raises(ValueError, match="it also has"):
            EfficientNetLite0(theirs | {name: tensor})


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_is_tensorflows_on_even_and_odd_sides(kernel: int, stride: int):
    weight, x = torch.randn(4, 3, kernel, kernel), torch.randn(2, 3, 12, 15)
    borders = []
    for side in (15, 12):
        total = (-(-side // stride) - 1) * stride + kernel - side
        borders += [total // 2, total - total // 2]
    expected = F.conv2d(F.pad(x, borders), weight, torch.ones(4), stride)
    found = _Conv(weight, torch.ones(4), stride, 1, rectified=False)(x)
    torch.testing.assert_close(found, expected)


def test_other_tensors_are_refused(state, tmp_path):
    for change, words in (
        ({"_fc.bias": torch.zeros(10)}, r"_fc.bias is torch.float32 \[10\], and should be of floats \[1000\]"),
        ({"_fc.bias": torch.zeros(1000, dtype=torch.int64)}, "_fc.bias is torch.int64"),
        ({"extra": torch.zeros(1)}, "it also has extra"),
    ):
        with pytest.raises(ValueError, match=words):
            EfficientNetLite0(state | change)
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(SpiderError, match=r"other.pth: not the weights of EfficientNet-Lite0: it has no _conv_stem"):
        read_efficientnet_lite0(tmp_path / "other.pth")


def test_published_weights_give_the_recorded_logits():
    """Recorded from the package efficientnet-lite-pytorch; features are compared with the embedding's."""
    network, read = read_efficientnet_lite0()
    assert read.is_published
    logits = network.logits(torch.from_numpy(GOLDEN["features_small"]))
    np.testing.assert_allclose(logits, GOLDEN["logits_small"], atol=1e-4)
