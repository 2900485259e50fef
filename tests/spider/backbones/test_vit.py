"""One transformer is DINOv2's and CLIP's, for recorded weights and images, under the names of either's files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spider.backbones.clip import clip_name, read_clip
from spider.backbones.dinov2 import dinov2_name, read_dinov2
from spider.errors import SpiderError

GOLDEN = dict(np.load(Path(__file__).parents[2] / "golden" / "vit.npz"))
WIDTH, DEPTH, SIDE, OUT = 128, 2, 42, 96
SHAPES = {"weight": (WIDTH,), "bias": (WIDTH,)}


def by_rule(name: str, *shape: int) -> Tensor:
    """The recorded networks' weights: each a function of its name."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    bits = np.random.Philox(key=key).random_raw(int(np.prod(shape)))
    v = np.sqrt(3) * (2 * ((bits >> np.uint64(11)) * 2.0**-53) - 1).reshape(shape)
    if len(shape) > 1:
        v = v / np.sqrt(np.prod(shape[1:]))
    else:
        v = 0.1 * v + name.endswith((".weight", ".gamma"))
    return torch.from_numpy(v.astype(np.float32))


def images(side: int) -> Tensor:
    bits = np.random.Philox(key=side).random_raw(2 * 3 * side * side).reshape(2, 3, side, side)
    return (torch.from_numpy((bits % np.uint64(256)).astype(np.float32)) - 127) / 64


def with_bias(name: str, out: int, *inputs: int) -> dict[str, Tensor]:
    return {f"{name}.weight": by_rule(f"{name}.weight", out, *inputs), f"{name}.bias": by_rule(f"{name}.bias", out)}


@pytest.fixture(scope="module")
def dinov2() -> dict[str, Tensor]:
    """As torch.hub's files name tensors, and timm's too."""
    state = with_bias("patch_embed.proj", WIDTH, 3, 14, 14) | with_bias("norm", WIDTH)
    state |= {"cls_token": by_rule("cls_token", 1, 1, WIDTH), "pos_embed": by_rule("pos_embed", 1, 10, WIDTH)}
    state["mask_token"] = torch.zeros(1, WIDTH)
    for block in (f"blocks.{number}." for number in range(DEPTH)):
        for name in ("norm1", "norm2"):
            state |= with_bias(block + name, WIDTH)
        for name, out, inputs in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            state |= with_bias(block + name, out * WIDTH, inputs * WIDTH)
        state |= {f"{block}{name}": by_rule(f"{block}{name}", WIDTH) for name in ("ls1.gamma", "ls2.gamma")}
    return state


@pytest.fixture(scope="module")
def port() -> dict[str, Tensor]:
    """As Hugging Face's port of CLIP names tensors, with some of the text tower's."""
    images_ = "vision_model.embeddings."
    state = {
        f"{images_}class_embedding": by_rule(f"{images_}class_embedding", WIDTH),
        f"{images_}patch_embedding.weight": by_rule(f"{images_}patch_embedding.weight", WIDTH, 3, 14, 14),
        f"{images_}position_embedding.weight": by_rule(f"{images_}position_embedding.weight", 10, WIDTH),
        f"{images_}position_ids": torch.arange(10)[None],
        "visual_projection.weight": by_rule("visual_projection.weight", OUT, WIDTH),
        "text_projection.weight": torch.zeros(OUT, WIDTH),
        "logit_scale": torch.zeros(()),
    }
    for name in ("vision_model.pre_layrnorm", "vision_model.post_layernorm"):
        state |= with_bias(name, WIDTH)
    for block in (f"vision_model.encoder.layers.{number}." for number in range(DEPTH)):
        for name in ("layer_norm1", "layer_norm2"):
            state |= with_bias(block + name, WIDTH)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            state |= with_bias(f"{block}self_attn.{name}", WIDTH, WIDTH)
        state |= with_bias(f"{block}mlp.fc1", 4 * WIDTH, WIDTH) | with_bias(f"{block}mlp.fc2", WIDTH, 4 * WIDTH)
    return state


def openai(port: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under OpenAI's names, with some of the text tower's."""
    one = "vision_model."
    state = {
        "visual.class_embedding": port[f"{one}embeddings.class_embedding"],
        "visual.conv1.weight": port[f"{one}embeddings.patch_embedding.weight"],
        "visual.positional_embedding": port[f"{one}embeddings.position_embedding.weight"],
        "visual.proj": port["visual_projection.weight"].T.contiguous(),
        "positional_embedding": torch.zeros(77, 64),
        "transformer.resblocks.0.ln_1.weight": torch.ones(64),
        "input_resolution": torch.tensor(SIDE),
    }
    for part in ("weight", "bias"):
        state[f"visual.ln_pre.{part}"] = port[f"{one}pre_layrnorm.{part}"]
        state[f"visual.ln_post.{part}"] = port[f"{one}post_layernorm.{part}"]
        for number in range(DEPTH):
            theirs, ours = f"{one}encoder.layers.{number}.", f"visual.transformer.resblocks.{number}."
            state[f"{ours}attn.in_proj_{part}"] = torch.cat([port[f"{theirs}self_attn.{p}_proj.{part}"] for p in "qkv"])
            state[f"{ours}attn.out_proj.{part}"] = port[f"{theirs}self_attn.out_proj.{part}"]
            for mine, other in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1")):
                state[f"{ours}{mine}.{part}"] = port[f"{theirs}{other}.{part}"]
            state[f"{ours}mlp.c_proj.{part}"] = port[f"{theirs}mlp.fc2.{part}"]
    return state


def saved(tmp_path: Path, state: dict[str, Tensor], name: str = "mine.pth") -> Path:
    torch.save(state, tmp_path / name)
    return tmp_path / name


def assert_recorded(found: Tensor, name: str) -> None:
    expected = torch.from_numpy(GOLDEN[name])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_dinov2_is_timms(dinov2, tmp_path):
    """Recorded from timm 1.0.31's VisionTransformer with layer scale."""
    network, read = read_dinov2(saved(tmp_path, dinov2))
    assert_recorded(network(images(SIDE)), "dinov2")
    assert (dinov2_name(network), read.is_published) == ("dinov2_vit_2x128_14", False)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_clip_is_transformers_and_openais_names_give_the_same(port, tmp_path):
    """Recorded from transformers 4.57's CLIPVisionModelWithProjection. OpenAI's file holds halves."""
    network, _ = read_clip(saved(tmp_path, port))
    assert_recorded(network(images(SIDE)), "clip")
    assert clip_name(network) == "clip_vit_2x128_14_42"
    theirs, _ = read_clip(saved(tmp_path, openai(port)))
    assert (theirs(images(SIDE)) == network(images(SIDE))).all()
    halves, _ = read_clip(saved(tmp_path, {n: t.half() if t.is_floating_point() else t for n, t in port.items()}))
    torch.testing.assert_close(halves(images(SIDE)), network(images(SIDE)), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("side", [28, 56])
def test_positions_are_resized_as_dinov2_does(dinov2, tmp_path, side):
    """By a cubic with a = -0.75 at the places (i + 1/2) grid / (patches + 0.1) - 1/2, the border repeated."""
    network, _ = read_dinov2(saved(tmp_path, dinov2))
    square = dinov2["pos_embed"][0, 1:].reshape(3, 3, WIDTH).double().numpy()
    patches = side // 14
    weights = np.zeros((patches, 3))
    for row in range(patches):
        place = (row + 0.5) * 3 / (patches + 0.1) - 0.5
        for tap in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            x = abs(place - tap)
            near, far = 1.25 * x**3 - 2.25 * x**2 + 1, -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3
            weights[row, min(max(tap, 0), 2)] += near if x <= 1 else far
    expected = np.einsum("ri,cj,ijw->rcw", weights, weights, square).reshape(-1, WIDTH)
    found = network._positions(patches, patches)
    np.testing.assert_allclose(found[1:].numpy(), expected, atol=1e-5)
    assert (found[0] == dinov2["pos_embed"][0, 0]).all()
    assert network(images(side)).shape == (2, WIDTH)


@pytest.mark.parametrize("layout", ["dinov2", "port", "openai"])
def test_a_tensor_of_any_other_shape_is_refused_by_its_name(dinov2, port, tmp_path, layout):
    state = {"dinov2": dinov2, "port": port, "openai": openai(port)}[layout]
    of_one_block = {name: tensor for name, tensor in state.items() if "s.1." not in name}
    read = read_dinov2 if layout == "dinov2" else read_clip
    read(saved(tmp_path, of_one_block))
    unread = ("mask_token", "position_ids", "text_projection.weight", "logit_scale", "input_resolution")
    for name in of_one_block:
        if name.endswith(unread) or name.startswith(("transformer.", "positional_embedding")):
            continue
        for other in (torch.zeros(()), torch.zeros(2, 3, 5)):
            with pytest.raises(SpiderError, match="not the weights of a") as caught:
                read(saved(tmp_path, of_one_block | {name: other}))
            assert "\n" not in str(caught.value)


def test_tensors_of_other_networks_are_refused(dinov2, port, tmp_path):
    without = {name: tensor for name, tensor in port.items() if "layers.1.self_attn.k_proj" not in name}
    cases = (
        (read_dinov2, dinov2 | {"register_tokens": torch.zeros(1, 4, WIDTH)}, "it also has register_tokens"),
        (read_dinov2, dinov2 | {"pos_embed": torch.zeros(1, 12, WIDTH)}, "a class token and a square of patches"),
        (read_dinov2, dinov2 | {"norm.weight": torch.zeros(7)}, r"norm.weight is torch.float32 \[7\]"),
        (read_dinov2, {**dinov2, "patch_embed.proj.weight": torch.zeros(100, 3, 14, 14)}, r"should be \[64 h, 3, "),
        (read_dinov2, {"patch_embed.proj.weight": torch.zeros(64, 3, 14, 14)}, "it has no blocks.0.norm1.weight"),
        (read_dinov2, port, "it has no patch_embed.proj.weight"),
        (read_clip, dinov2, "it has no visual.conv1.weight"),
        (read_clip, without, "it has only q, v of visual.transformer.resblocks.1.attn.in_proj_weight"),
    )
    for read, state, said in cases:
        with pytest.raises(SpiderError, match=said) as caught:
            read(saved(tmp_path, state))
        assert str(caught.value).startswith(f"{tmp_path}/mine.pth: not the weights of a")
