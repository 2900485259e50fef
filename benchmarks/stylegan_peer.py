"""Iterations of StyleGAN2 and StyleGAN3 by their public code: networks, loss, augmentations, optimizers, average.

It is that of github.com/NVlabs/stylegan3, whose one training loop and loss train both (NVlabs/stylegan2-ada-pytorch has
the older form of them). An iteration takes the steps of that loop, on images of noise that lie on the device already.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from spider.config.schema import Config
from spider.settings.schedule import value_at

_EXTENSIONS = ("bias_act", "upfirdn2d", "filtered_lrelu")
_BGC = (
    *("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac"),
    *("brightness", "contrast", "lumaflip", "hue", "saturation"),
)


@dataclass
class _Phase:
    name: str
    module: Any
    optimizer: torch.optim.Optimizer
    interval: int


class Public:
    """A checkout, imported.

    Attributes:
        extensions: how its operators run.
    """

    def __init__(self, folder: Path, device: torch.device, built: Path) -> None:
        """Import it, and build its extensions for a GPU, which takes minutes where `built` does not hold them yet.

        Args:
            folder: the checkout.
            built: where built extensions are kept.
        """
        if not (folder / "training" / "networks_stylegan3.py").is_file():
            raise SystemExit(f"--peer {folder}: no checkout of NVlabs/stylegan3")
        from packaging.version import parse

        os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(built.absolute()))
        _stand_in("pkg_resources", parse_version=parse)  # of old setuptools
        _stand_in("distutils.util", strtobool=lambda text: int(text in ("y", "yes", "t", "true", "on", "1")))
        sys.path.insert(0, str(folder))
        self.device = device
        self._of = {
            name: importlib.import_module(f"training.{name}")
            for name in ("networks_stylegan2", "networks_stylegan3", "loss", "augment")
        }
        self._ops = {name: importlib.import_module(f"torch_utils.ops.{name}") for name in _EXTENSIONS}
        importlib.import_module("torch_utils.ops.conv2d_gradfix").enabled = True  # type: ignore[attr-defined]
        importlib.import_module("torch_utils.ops.grid_sample_gradfix").enabled = True  # type: ignore[attr-defined]
        self.extensions = self._build() if device.type == "cuda" else "its plain operators"

    def _build(self) -> str:
        try:
            for module in self._ops.values():
                module._init()
        except Exception as error:  # whatever a compiler may say: its plain operators are measured then, and named
            for module in self._ops.values():
                module._init = lambda: False  # type: ignore[attr-defined]
            return f"its plain operators, since its extensions did not build: {str(error).splitlines()[-1][:200]}"
        return "its compiled extensions"

    def iteration(self, config: Config, side: int, p: float | None) -> Callable[[int], None]:
        """What takes an iteration of the settings of `config`, by its number.

        Args:
            side: of the images, in pixels.
            p: of ADA's pipe bgc; None: no augmentation.
        """
        device, batch = self.device, config.batch
        generator, discriminator = (each.to(device).train().requires_grad_(False) for each in self._pair(config, side))
        average = copy.deepcopy(generator).eval()
        pipe = None
        if p is not None:
            pipe = self._of["augment"].AugmentPipe(**dict.fromkeys(_BGC, 1)).train().requires_grad_(False).to(device)
            pipe.p.copy_(torch.as_tensor(p))
        with_path_length = config.g_penalties.active
        of_stylegan2 = {"style_mixing_prob": 0.9, "pl_weight": 2, "pl_no_weight_grad": True}
        loss = self._of["loss"].StyleGAN2Loss(
            device=device, G=generator, D=discriminator, augment_pipe=pipe,
            r1_gamma=value_at(config.penalties.r1_gamma, 0), **(of_stylegan2 if with_path_length else {}),
        )  # fmt: skip
        phases = [
            *_phases("G", generator, 0.0025, config.g_penalties.interval_steps if with_path_length else None),
            *_phases("D", discriminator, 0.002, config.penalties.interval_steps),
        ]
        real = torch.rand(batch, 3, side, side, device=device) * 2 - 1
        told = torch.zeros(batch, 0, device=device)
        size = batch // config.accumulation

        def take(step: int) -> None:
            z = torch.randn(len(phases) * batch, generator.z_dim, device=device).split(batch)
            for phase, own in zip(phases, z, strict=True):
                if step % phase.interval:
                    continue
                phase.optimizer.zero_grad(set_to_none=True)
                phase.module.requires_grad_(True)
                for micro in zip(real.split(size), told.split(size), own.split(size), told.split(size), strict=True):
                    loss.accumulate_gradients(phase.name, *micro, gain=phase.interval, cur_nimg=step * batch)
                phase.module.requires_grad_(False)
                _step(phase)
            with torch.no_grad():
                for averaged, weight in zip(average.parameters(), generator.parameters(), strict=True):
                    averaged.copy_(weight.lerp(averaged, 0.999))
                for averaged, buffer in zip(average.buffers(), generator.buffers(), strict=True):
                    averaged.copy_(buffer)

        return take

    def _pair(self, config: Config, side: int) -> tuple[Any, Any]:
        """Generator and discriminator of the sizes that `config` names."""
        generator: Any = config.generator  # of StyleGAN2 or StyleGAN3
        discriminator: Any = config.discriminator
        source: Any = config.source
        shown = {"c_dim": 0, "img_resolution": side, "img_channels": 3}
        judged = {**shown, **_sizes(discriminator, side)}
        judged["epilogue_kwargs"] = {"mbstd_group_size": discriminator.mbstd_group}
        made = {**shown, **_sizes(generator, side), "z_dim": source.dim, "w_dim": generator.w_dim}
        made["mapping_kwargs"] = {"num_layers": generator.mapping_layers}
        if generator.kind == "stylegan3":
            made["magnitude_ema_beta"], module = 0.5 ** (config.batch / 20e3), self._of["networks_stylegan3"]
        else:
            made["fused_modconv_default"], module = "inference_only", self._of["networks_stylegan2"]
        return module.Generator(**made), self._of["networks_stylegan2"].Discriminator(**judged)


def _sizes(network: Any, side: int) -> dict[str, Any]:
    base = (32768 if side >= 512 else 16384) if network.channel_base == "auto" else network.channel_base
    return {
        "channel_base": base,
        "channel_max": network.channel_max,
        "conv_clamp": network.conv_clamp,
        "num_fp16_res": network.bf16_resolutions,
    }


def _phases(player: str, module: Any, lr: float, interval: int | None) -> list[_Phase]:
    """Of a player: one, or a main one and a lazy one with corrected settings of Adam, which both share."""
    adam = partial(torch.optim.Adam, module.parameters(), eps=1e-8)
    if interval is None:
        return [_Phase(f"{player}both", module, adam(lr=lr, betas=(0.0, 0.99)), 1)]
    ratio = interval / (interval + 1)
    optimizer = adam(lr=lr * ratio, betas=(0.0, 0.99**ratio))
    return [_Phase(f"{player}main", module, optimizer, 1), _Phase(f"{player}reg", module, optimizer, interval)]


def _step(phase: _Phase) -> None:
    """Of the optimizer, on gradients that hold no number which is none."""
    trained = [weight for weight in phase.module.parameters() if weight.grad is not None]
    if not trained:
        return
    flat = torch.cat([weight.grad.flatten() for weight in trained])
    torch.nan_to_num(flat, nan=0, posinf=1e5, neginf=-1e5, out=flat)
    for weight, gradient in zip(trained, torch.split(flat, [weight.numel() for weight in trained]), strict=True):
        weight.grad = gradient.reshape(weight.shape)
    phase.optimizer.step()


def _stand_in(name: str, **functions: object) -> None:
    """A module that the installed Python no longer has."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        above, _, last = name.rpartition(".")
        module = sys.modules[name] = ModuleType(name)
        module.__dict__.update(functions)
        if above:
            parent = sys.modules.setdefault(above, ModuleType(above))
            parent.__dict__[last] = module
            parent.__path__ = []
