"""How fast packed images come back, against the least that decoding them can cost.

    python -m benchmarks.reader [--out FILE.json]

Makes its own images (cuttings of scikit-learn's two photographs) and packs them at 64 and 256 px, as PNG, raw and JPEG;
packing is measured too, in CPU seconds of one process. Then, in one process:

    bare decode     a loop over the same bytes, already in memory, with the same decoder: the goal is 0.9 of this
    reader          ShardDataset.read_batch in a shuffled order: find, read, check, decode, into one array
    reader, raw     the same images packed with encoding="raw"
    reader, JPEG    the same images as JPEG files of quality 90, packed with encoding="keep"
    ImageFolder     torchvision's, on the same images as PNG files, to uint8 tensors

then batches from BatchStream, by a thread and by processes; how much of a CPU training's steps is spent waiting for
them; and how memory stands after one epoch and after three. Machines are noisy: the ways of reading take turns, each
turn is measured in CPU seconds (files are in the page cache), and the best of each counts. Loader and waiting are
measured by the clock.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

from benchmarks.report import Row, write_report
from shards.choices import Encoding
from shards.dataset import ShardDataset
from shards.encodings import decode
from shards.pack import pack
from shards.stream import BatchStream

_IMAGES = {64: 2000, 256: 320}
_IMAGES_PER_TURN = {64: 256, 256: 64}
_TURNS = 40
_PACKED: dict[Encoding, str] = {"png": "files", "raw": "files", "keep": "jpeg"}  # encoding: the folder that is packed
_BATCH = 64


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="write JSON here")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for side in _IMAGES:
            folder = Path(scratch) / f"{side}"
            _make_images(folder / "files", side)
            packed = {}
            for encoding, files in _PACKED.items():
                start = time.process_time()
                pack(folder / files, folder / encoding, encoding=encoding, shard_mb=16, workers=1, progress=False)
                took_s = time.process_time() - start
                packed[encoding] = dataset = ShardDataset(folder / encoding)
                size = sum(shard.bytes for shard in dataset.index.shards) / len(dataset)
                rows.append(
                    {"what": f"pack, {encoding}", "px": side, "img/s": len(dataset) / took_s, "bytes an image": size}
                )
            png = packed["png"]
            rows += _reader(side, packed, folder / "files")
            rows += _loader(side, png)
            rows.append(_memory(side, png))
            if side == min(_IMAGES):
                rows += [_wait(side, png, workers) for workers in (0, 1)]
    write_report("Reader and loader", rows, out)


def _make_images(folder: Path, side: int) -> None:
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(_IMAGES[side]):
        photograph = photographs[number % 2]
        cut = int(rng.integers(side, 400))
        left, top = (int(rng.integers(0, extent - cut)) for extent in photograph.size)
        path = folder / str(number % 2) / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        patch = photograph.crop((left, top, left + cut, top + cut))
        image = patch.resize((side, side), Image.Resampling.BOX)
        image.save(path, compress_level=3)
        jpeg = folder.with_name("jpeg") / path.parent.name / f"{number:05d}.jpg"
        jpeg.parent.mkdir(parents=True, exist_ok=True)
        image.save(jpeg, quality=90)


def _reader(side: int, packed: dict[Encoding, ShardDataset], files: Path) -> Iterator[Row]:
    png = packed["png"]
    count = _IMAGES_PER_TURN[side]
    shuffled = np.random.default_rng(1).permutation(len(png))[:count]
    stored = _image_bytes(png)
    in_memory = [stored[number] for number in shuffled]
    image_folder = ImageFolder(str(files), transform=PILToTensor())

    def bare() -> None:
        for data in in_memory:
            decode(data, png.index.shape)

    def batches(dataset: ShardDataset) -> Callable[[], None]:
        def read() -> None:
            for start in range(0, count, _BATCH):
                dataset.read_batch(shuffled[start : start + _BATCH])

        return read

    def files_one_by_one() -> None:
        for number in shuffled:
            image_folder[number]

    ways = {
        "bare decode": bare,
        "reader": batches(png),
        "reader, raw": batches(packed["raw"]),
        "reader, JPEG": batches(packed["keep"]),
        "ImageFolder": files_one_by_one,
    }
    seconds: dict[str, list[float]] = {what: [] for what in ways}
    for _ in range(_TURNS):
        for what, way in ways.items():
            seconds[what].append(_cpu_s(way))
    least = min(seconds["bare decode"])
    for what in ways:
        best = min(seconds[what])
        yield {"what": what, "px": side, "img/s": count / best, "of bare decode": least / best}


def _image_bytes(dataset: ShardDataset) -> list[bytes]:
    stored = []
    for shard in dataset.index.shards:
        with tarfile.open(Path(dataset.path) / shard.name) as tar:
            images = (tar.extractfile(member) for member in tar if member.name.endswith(".png"))
            stored += [image.read() for image in images if image is not None]
    return stored


def _cpu_s(function: Callable[[], None]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _loader(side: int, dataset: ShardDataset) -> Iterator[Row]:
    """Batches as fast as they come, nothing else to do."""
    for workers in (0, 1, 2):
        batches = BatchStream(dataset, seed=0, global_batch=_BATCH, workers=workers).batches(0)
        for _ in islice(batches, 4):  # workers are up, and have read ahead
            pass
        start = time.perf_counter()
        images = sum(len(batch.images) for batch in islice(batches, len(dataset) // _BATCH))
        rate = images / (time.perf_counter() - start)
        batches.close()
        what = f"stream, {workers} processes" if workers else "stream, a thread"
        yield {"what": what, "px": side, "img/s": rate}


def _wait(side: int, dataset: ShardDataset, workers: int) -> Row:
    """The share of a small CPU training's steps that is spent waiting for images."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(64, 128, 4, 2, 1), nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 1)),
    )
    optimizer = torch.optim.Adam(network.parameters(), betas=(0.0, 0.99))
    batches = BatchStream(dataset, seed=0, global_batch=_BATCH, workers=workers).batches(0)
    waits, steps = [], []
    for _ in range(24):
        start = time.perf_counter()
        batch = next(batches)
        optimizer.zero_grad()
        network(batch.images.float().div_(127.5).sub_(1)).square().mean().backward()
        optimizer.step()
        waits.append(batch.wait_s)
        steps.append(time.perf_counter() - start)
    batches.close()
    return {
        "what": f"wait, {f'{workers} process' if workers else 'a thread'}, batch {_BATCH}",
        "px": side,
        "step ms": 1e3 * statistics.median(steps[4:]),
        "waiting": sum(waits[4:]) / sum(steps[4:]),
    }


def _memory(side: int, dataset: ShardDataset) -> Row:
    """Resident memory after one epoch, and after three."""
    batches = BatchStream(dataset, seed=0, global_batch=_BATCH).batches(0)
    per_epoch = len(dataset) // _BATCH
    resident_mb = []
    for batches_taken in (per_epoch, 2 * per_epoch):
        for _ in islice(batches, batches_taken):
            pass
        resident_mb.append(_resident_mb())
    batches.close()
    return {"what": "memory", "px": side, "MB, 1 epoch": resident_mb[0], "MB, 3 epochs": resident_mb[1]}


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
