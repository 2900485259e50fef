"""What an iteration of BigGAN costs in CPU time of one thread, beside the public implementation in the same run.

    OMP_NUM_THREADS=1 python -m benchmarks.biggan_step [--peer FOLDER] [--out FILE.json] [--ch 32] [--batch 8] ...

An iteration is a step of the discriminator and one of the generator, with the average of its weights, told classes:
preset biggan/64, on digits. FOLDER is a checkout of github.com/ajbrock/BigGAN-PyTorch, whose networks
take the same steps as its train_fns.py does. Turns alternate, and the best of each counts: a busy machine changes CPU
time little.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.nn.functional import relu

from benchmarks.report import Row, write_report
from benchmarks.steps import alternating
from cluster.world import World
from spider import api
from spider.config.load import load_config
from spider.runs.directory import RunDirectory
from spider.runs.start import prepare
from spider.train.trainer import Trainer

_TURNS = 5
_CLASSES = 10


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="checkout of BigGAN-PyTorch")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--ch", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "digits"
        api.pack("builtin:digits", data, resolution=asked.side, channels=3, subset=400, workers=1)
        ch = [f"generator.ch={asked.ch}", f"discriminator.ch={asked.ch}"]
        words = [f"data.path={data}", f"batch={asked.batch}", *ch, *asked.overrides]
        config = load_config(f"biggan/{asked.side}", [*words, "compute.device=cpu"])
        trainer = Trainer(prepare(config, RunDirectory(Path(folder) / "none")), World.single())
        ways: dict[str, Callable[[], object]] = {"here": trainer.iterate}
        if asked.peer is not None:
            ways["BigGAN-PyTorch"] = _peer(asked.peer, asked.side, asked.ch, asked.batch)
        best = {name: min(seconds) for name, seconds in alternating(ways, _TURNS).items()}
        trainer.close()
    parameters = sum(p.numel() for p in trainer.generator.parameters) + sum(
        p.numel() for p in trainer.discriminator.parameters
    )
    what = {"px": asked.side, "ch": asked.ch, "batch": asked.batch, "parameters": parameters}
    rows: list[Row] = [
        {"iteration of": name, **what, "CPU s": seconds, "of the public": _share(seconds, best.get("BigGAN-PyTorch"))}
        for name, seconds in best.items()
    ]
    write_report("BigGAN step", rows, asked.out)


def _share(seconds: float, public: float | None) -> float | str:
    return "" if public is None else seconds / public


def _peer(folder: Path, side: int, ch: int, batch: int) -> Callable[[], object]:
    """An iteration of the public implementation, with its optimizers and its moving average."""
    sys.path.insert(0, str(folder))
    sys.modules.setdefault("h5py", ModuleType("h5py"))  # which its data sets import, and no step needs
    import BigGAN  # type: ignore[import-not-found]
    import utils  # type: ignore[import-not-found]

    told: dict[str, Any] = {
        "resolution": side, "n_classes": _CLASSES, "G_ch": ch, "D_ch": ch, "G_attn": "32", "D_attn": "32",
        "G_shared": True, "shared_dim": 128, "hier": True, "dim_z": 120, "G_lr": 1e-4, "D_lr": 1e-4, "G_B1": 0.0,
        "D_B1": 0.0, "adam_eps": 1e-6, "SN_eps": 1e-6, "BN_eps": 1e-5, "G_activation": torch.nn.ReLU(inplace=False),
        "D_activation": torch.nn.ReLU(inplace=False),
    }  # fmt: skip
    networks = BigGAN.Generator(**told), BigGAN.Discriminator(**told)
    averaged = BigGAN.Generator(**{**told, "skip_init": True, "no_optim": True})
    generator, discriminator = networks
    both = BigGAN.G_D(generator, discriminator)
    average = utils.ema(generator, averaged, 0.9999, 20_000)
    real, labels = torch.rand(batch, 3, side, side) * 2 - 1, torch.randint(_CLASSES, (batch,))

    def iterate() -> None:
        utils.toggle_grad(discriminator, True)
        utils.toggle_grad(generator, False)
        generator.optim.zero_grad()
        discriminator.optim.zero_grad()
        z, y = torch.randn(batch, generator.dim_z), torch.randint(_CLASSES, (batch,))
        fake_logits, real_logits = both(z, y, real, labels, train_G=False)
        (relu(1 - real_logits).mean() + relu(1 + fake_logits).mean()).backward()
        discriminator.optim.step()
        utils.toggle_grad(discriminator, False)
        utils.toggle_grad(generator, True)
        generator.optim.zero_grad()
        z, y = torch.randn(batch, generator.dim_z), torch.randint(_CLASSES, (batch,))
        (-both(z, y, train_G=True).mean()).backward()
        generator.optim.step()
        average.update(30_000)

    return iterate


if __name__ == "__main__":
    main()
