"""What an iteration of Projected FastGAN costs in CPU time of one thread, beside the public code in the same run.

    OMP_NUM_THREADS=1 python -m benchmarks.projected_step [--peer FOLDER] [--out FILE.json] [--side 64] [--batch 8] ...

An iteration is a step of the generator and one of the discriminator, with the average of the generator's weights:
preset projected/fastgan-lite (or projected/fastgan), images enlarged to 224 px. FOLDER is a checkout of
github.com/autonomousvision/projected-gan; its timm (0.4.12) must be importable. Its loss takes the same steps as its
training loop does, through an EfficientNet-Lite0 of random weights, which costs what the pretrained one does. At 64 px
its generator ends as in Diffusion-GAN's copy. Turns alternate, and the best of each counts: a busy machine changes CPU
time little.

The floor is the floating-point operations of ours, as torch counts those of convolutions and products, over the rate of
a product of matrices.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import Row, write_report
from benchmarks.steps import Operations, alternating, product_rate
from cluster.world import World
from shards.pack import pack
from spider.config.load import load_config
from spider.runs.directory import RunDirectory
from spider.runs.start import prepare
from spider.train.trainer import Trainer

_FORMS = {"lite": "projected/fastgan-lite", "projected": "projected/fastgan"}


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="checkout of projected-gan")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--form", choices=_FORMS, default="lite", help="of the generator")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "patches"
        pack("builtin:patches", data, resolution=asked.side, subset=64, workers=1, progress=False)
        words = [f"data.path={data}", f"batch={asked.batch}", "compute.device=cpu", *asked.overrides]
        config = load_config(_FORMS[asked.form], words)
        trainer = Trainer(prepare(config, RunDirectory(Path(folder) / "none")), World.single())
        ways: dict[str, Callable[[], object]] = {"here": trainer.iterate}
        if asked.peer is not None:
            ways["projected-gan"] = _peer(asked.peer, asked.side, asked.batch, lite=asked.form == "lite")
        best = {name: min(seconds) for name, seconds in alternating(ways, asked.turns).items()}
        with Operations() as counted:
            trainer.iterate()
        trainer.close()
    public = best.get("projected-gan")
    rows: list[Row] = [
        {
            "iteration of": name,
            "px": asked.side,
            "batch": asked.batch,
            "CPU s": seconds,
            "s per kimg": 1000 * seconds / asked.batch,
            "of the public": "" if public is None else seconds / public,
        }
        for name, seconds in {**best, "the floor": counted.total / product_rate()}.items()
    ]
    write_report("Projected FastGAN step", rows, asked.out)


def _peer(folder: Path, side: int, batch: int, *, lite: bool) -> Callable[[], object]:
    """An iteration of the public implementation, with its optimizers and its moving average."""
    sys.path.insert(0, str(folder))
    import timm  # type: ignore[import-not-found]

    made = timm.create_model
    timm.create_model = lambda name, pretrained: made(name, pretrained=False)
    from pg_modules.discriminator import ProjectedDiscriminator  # type: ignore[import-not-found]
    from pg_modules.networks_fastgan import Generator  # type: ignore[import-not-found]
    from torch_utils import misc  # type: ignore[import-not-found]
    from training.loss import ProjectedGANLoss  # type: ignore[import-not-found]

    generator = Generator(img_resolution=side, synthesis_kwargs={"lite": lite}).train().requires_grad_(False)
    if side == 64:
        _end_at_64(generator.synthesis)
    discriminator = ProjectedDiscriminator(
        diffaug=True, interp224=side < 224, backbone_kwargs={"cout": 64, "expand": True, "proj_type": 2, "num_discs": 4}
    )
    discriminator.train().requires_grad_(False)
    average = copy.deepcopy(generator).eval()
    loss = ProjectedGANLoss(torch.device("cpu"), generator, discriminator, average)
    adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.0, 0.99), eps=1e-8)
    players = [
        ("Gmain", generator, adam(generator.parameters())),
        ("Dmain", discriminator, adam(discriminator.parameters())),
    ]
    real, told = torch.rand(batch, 3, side, side) * 2 - 1, torch.zeros(batch, 0)

    def iterate() -> None:
        for phase, module, optimizer in players:
            optimizer.zero_grad(set_to_none=True)
            module.requires_grad_(True)
            if phase == "Dmain":
                module.feature_network.requires_grad_(False)
            z = torch.randn(batch, generator.z_dim)
            loss.accumulate_gradients(phase, real, told, z, told, gain=1, cur_nimg=0)
            module.requires_grad_(False)
            owned = [p for p in module.parameters() if p.grad is not None]
            flat = torch.cat([p.grad.flatten() for p in owned])
            misc.nan_to_num(flat, nan=0, posinf=1e5, neginf=-1e5, out=flat)
            for p, grad in zip(owned, flat.split([p.numel() for p in owned]), strict=True):
                p.grad = grad.reshape(p.shape)
            optimizer.step()
        for averaged, p in zip(average.parameters(), generator.parameters(), strict=True):
            averaged.copy_(p.lerp(averaged, 0.5))
        for averaged, p in zip(average.buffers(), generator.buffers(), strict=True):
            averaged.copy_(p)

    return iterate


def _end_at_64(network: Any) -> None:
    """The public generator begins at 128 px. At 64 px its layers up to there, as Diffusion-GAN's copy has them."""
    for name in ("feat_128", "feat_256", "se_128", "se_256"):
        delattr(network, name)

    def forward(z: torch.Tensor, told: torch.Tensor, **_: object) -> torch.Tensor:
        first = network.init(z[:, 0] * (z[:, 0].square().mean(1, keepdim=True) + 1e-8).rsqrt())
        last = network.feat_64(network.feat_32(network.feat_16(network.feat_8(first))))
        image: torch.Tensor = network.to_big(network.se_64(first, last))
        return image

    network.forward = forward


if __name__ == "__main__":
    main()
