"""Images come to a network that a user brings by the steps of the tool whose protocol it is."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision import transforms

from spider import weights
from spider.errors import SpiderError, SpiderUsageError
from spider.judge.embed import brought
from spider.judge.embed.load import load_embedding
from spider.judge.metrics.protocols import protocol_for
from spider.judge.metrics.registry import METRICS

WIDTH = 64
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RNG = np.random.default_rng(0)
IMAGES = torch.from_numpy(RNG.integers(0, 256, (3, 3, 40, 52), dtype=np.uint8))
LARGE = torch.from_numpy(RNG.integers(0, 256, (2, 3, 301, 280), dtype=np.uint8))


def vit_state(layout: str) -> dict[str, Tensor]:
    """One block of random weights under the names of a layout: dinov2's, or OpenAI's."""
    generator = torch.Generator().manual_seed(0)

    def part(out: int, *inputs: int) -> Tensor:
        return torch.randn(out, *inputs, generator=generator) / max(1, int(np.prod(inputs))) ** 0.5

    if layout == "dinov2":
        state = {"cls_token": part(1, 1, WIDTH), "pos_embed": part(1, 5, WIDTH), "mask_token": part(1, WIDTH)}
        state |= {"patch_embed.proj.weight": part(WIDTH, 3, 14, 14), "patch_embed.proj.bias": part(WIDTH)}
        state |= {f"blocks.0.ls{n}.gamma": torch.ones(WIDTH) for n in (1, 2)}
        block, names = "blocks.0.", ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        norms = {"norm.weight": torch.ones(WIDTH), "norm.bias": part(WIDTH)}
    else:
        state = {"visual.class_embedding": part(WIDTH), "visual.positional_embedding": part(5, WIDTH)}
        state |= {"visual.conv1.weight": part(WIDTH, 3, 14, 14), "visual.proj": part(WIDTH, 24)}
        block = "visual.transformer.resblocks.0."
        names = ("ln_1", "ln_2", "attn.in_proj_", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
        norms = {f"visual.{n}.{p}": torch.ones(WIDTH) for n in ("ln_pre", "ln_post") for p in ("weight", "bias")}
    shapes = ((WIDTH,), (WIDTH,), (3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH))
    for name, shape in zip(names, shapes, strict=True):
        dot = "" if name.endswith("_") else "."
        state |= {f"{block}{name}{dot}weight": part(*shape), f"{block}{name}{dot}bias": part(shape[0])}
    return state | norms


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(vit_state("dinov2"), tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


def pictures(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


@pytest.mark.parametrize("images", [IMAGES, LARGE])
def test_a_protocol_takes_the_steps_of_its_tool(images):
    rules = brought.DINOV2_RULES
    normalize = transforms.Normalize(*IMAGENET)
    steps = transforms.Compose(
        [transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC), transforms.ToTensor(), normalize]
    )
    torch.testing.assert_close(rules["dgm_eval"](images), torch.stack([steps(p) for p in pictures(images)]))
    edm2 = F.interpolate(images.float(), size=(224, 224), mode="bicubic", antialias=True)
    torch.testing.assert_close(rules["edm2"](images), normalize(edm2 / 255), rtol=0, atol=1e-4)
    icgan = F.interpolate(normalize(images / 255), size=(224, 224), mode="bicubic", align_corners=False)
    torch.testing.assert_close(brought._icgan(images), icgan)
    found = [rules[name](images) for name in ("dgm_eval", "edm2", "torch_fidelity")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (found[one] - found[other]).abs().max() > 1e-3


def test_cmmd_sees_the_central_square_and_lengths_are_one(tmp_path):
    torch.save(vit_state("openai"), tmp_path / "mine.pt")
    embedding = load_embedding("clip", weights=tmp_path / "mine.pt")
    features = embedding.features(IMAGES)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    square = [picture.crop((6, 0, 46, 40)).resize((28, 28), Image.Resampling.BICUBIC) for picture in pictures(IMAGES)]
    shown = torch.from_numpy(np.stack([np.asarray(picture) for picture in square])).permute(0, 3, 1, 2)
    assert (embedding.features(shown) == features).all()
    assert (embedding.label.partition("@")[0], embedding.dim) == ("clip_vit_1x64_14_28/cmmd", 24)


def test_a_number_names_network_protocol_and_digest(file):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    found = {rule: load_embedding("dinov2", protocol=rule, weights=file) for rule in brought.DINOV2_RULES}
    assert found["edm2"].label == f"dinov2_vit_1x64_14/edm2@{digest[:8]}"
    assert METRICS["fid"].label_under(found["edm2"]) == f"FD[{found['edm2'].label}]"
    assert len({embedding.digest for embedding in found.values()}) == 3
    assert len({tuple(embedding.features(IMAGES)[0, :2].tolist()) for embedding in found.values()}) == 3
    assert load_embedding("dinov2", weights=file).protocol == "dgm_eval"
    assert {protocol_for(embedding).name for embedding in found.values()} == set(found)
    with pytest.raises(SpiderUsageError, match="protocol 'tf' is not dinov2's, but inception's; dinov2 has dgm_eval, "):
        load_embedding("dinov2", protocol="tf", weights=file)


def test_features_do_not_depend_on_threads_or_on_a_batchs_length(file):
    embedding, before = load_embedding("dinov2", weights=file), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(embedding.features(IMAGES))
    finally:
        torch.set_num_threads(before)
    found.append(torch.cat([embedding.features(image[None]) for image in IMAGES]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-4 * float(found[0].std()))


def test_grey_images_are_three_equal_channels(file):
    grey = IMAGES[:, :1]
    for name in brought.DINOV2_RULES:
        embedding = load_embedding("dinov2", protocol=name, weights=file)
        torch.testing.assert_close(embedding.features(grey), embedding.features(grey.expand(-1, 3, -1, -1)))


def test_a_file_that_is_not_what_its_name_says_is_refused_with_both_digests(file, monkeypatch):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    known = weights.REGISTRY["dinov2_vitl14"]
    for name, said in ((known.filename, known.sha256), ("net-1a2b3c4d.pth", "1a2b3c4d")):
        other = file.rename(file.with_name(name))
        with pytest.raises(SpiderError, match=f"{name}: sha256 is {digest}, and its name says {said}"):
            load_embedding("dinov2", weights=other)
        file = other.rename(file)
    hashed = file.rename(file.with_name(f"net-{digest[:8]}.pth"))
    assert load_embedding("dinov2", weights=hashed).label.endswith(f"@{digest[:8]}")
    monkeypatch.setitem(weights.REGISTRY, "dinov2_vitb14", replace(weights.REGISTRY["dinov2_vitb14"], sha256=digest))
    assert load_embedding("dinov2", weights=hashed).label == "dinov2_vit_1x64_14/dgm_eval"


def test_without_a_file_it_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path))
    with pytest.raises(SpiderError, match="run `spider weights get dinov2_vitl14` where there is a network"):
        load_embedding("dinov2")
    smaller = tmp_path / "weights" / weights.REGISTRY["dinov2_vitb14"].filename
    smaller.parent.mkdir()
    smaller.touch()
    with pytest.raises(SpiderError, match=f"pretrain.pth; --weights {smaller} is at hand, run `spider weights get "):
        load_embedding("dinov2")
    for ask in (load_embedding, weights.of_embedding):
        with pytest.raises(SpiderError, match=r"swav_resnet50: their digest is not known, .*fetch https.* --weights"):
            ask("swav")
    with pytest.raises(SpiderUsageError, match="swav_resnet50: their digest is not known"):
        weights.get("swav_resnet50")
    assert {found.weights.name: found.state for found in weights.list_weights()}["swav_resnet50"] == "by file"


def test_no_code_is_run_for_weights(tmp_path):
    path = tmp_path / "ViT-L-14-336px.pt"
    with zipfile.ZipFile(path, "w") as archive:  # with the members that tell a TorchScript archive
        archive.writestr("net/data.pkl", b"cos\nsystem\n(S'false'\ntR.")
        archive.writestr("net/constants.pkl", b"(t.")
    with pytest.raises(SpiderError, match=r"a TorchScript archive, which holds code; its state dict, .* is read"):
        load_embedding("clip", weights=path)
