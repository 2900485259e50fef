"""Images a second through the embedding `dinov2` of each size, under random weights of the published layout.

    python -m benchmarks.dinov2 [--sizes s,b,l] [--threads 1] [--out FILE.json]

The floor is the network's multiplications and additions over the rate of a product of 1024 x 1024 matrices, measured in
turns in one run, in CPU time for one thread. ViT-L/14 needs 3 GB of memory and 1.2 GB of disk for a minute.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.backbones import medians
from benchmarks.report import Row, write_report
from spider.judge.embed.load import load_embedding
from spider.judge.embed.memory import kept_memory

SIZES = {"s": (12, 384), "b": (12, 768), "l": (24, 1024)}  # depth and width
TOKENS = 257
BATCH = 4


def random_weights(depth: int, width: int) -> dict[str, Tensor]:
    """As torch.hub's files name tensors."""
    generator = torch.Generator().manual_seed(0)

    def part(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.02

    state = {"cls_token": part(1, 1, width), "pos_embed": part(1, 1370, width), "mask_token": part(1, width)}
    state |= {"patch_embed.proj.weight": part(width, 3, 14, 14), "patch_embed.proj.bias": part(width)}
    state |= {"norm.weight": torch.ones(width), "norm.bias": part(width)}
    for block in (f"blocks.{number}." for number in range(depth)):
        for name in ("norm1", "norm2"):
            state |= {f"{block}{name}.weight": torch.ones(width), f"{block}{name}.bias": part(width)}
        for name, out, inputs in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            state[f"{block}{name}.weight"] = part(out * width, inputs * width)
            state[f"{block}{name}.bias"] = part(out * width)
        state |= {f"{block}{name}.gamma": torch.ones(width) for name in ("ls1", "ls2")}
    return state


def multiplications(depth: int, width: int) -> int:
    """Of one image: layers, attention, patches."""
    return depth * (12 * TOKENS * width**2 + 2 * TOKENS**2 * width) + (TOKENS - 1) * 3 * 14**2 * width


def row(size: str, folder: Path) -> Row:
    """Rates of one size, for images of 64 x 64."""
    depth, width = SIZES[size]
    file = folder / "random.pth"
    torch.save(random_weights(depth, width), file)
    embedding = load_embedding("dinov2", weights=file)
    file.unlink()
    matrix = torch.randn(1024, 1024)
    images = torch.randint(0, 256, (BATCH, 3, 64, 64), dtype=torch.uint8)
    taken = medians({"product": lambda: matrix @ matrix, "features": lambda: embedding.features(images)})
    rate = BATCH / taken["features"]
    floor = 2 * 1024**3 / taken["product"] / (2 * multiplications(depth, width))
    return {"size": f"ViT-{size.upper()}/14", "images/s": round(rate, 2), "of the floor": round(rate / floor, 2)}


def main() -> None:
    """Measure three sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="s,b,l", help="of the network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), kept_memory(torch.device("cpu")):
        write_report("dinov2", [row(size, Path(folder)) for size in given.sizes.split(",")], given.out)


if __name__ == "__main__":
    main()
