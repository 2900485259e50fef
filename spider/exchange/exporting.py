"""`spider export`: the averaged generator of a run, for other programs.

OUT/
  generator.safetensors     its weights by our names
  generator.json            settings, inputs, images, classes, noise, and where all comes from
  generator.onnx            with --onnx: the network itself, for any number of images at once

A generator that draws noise for each image (generator.noise=random) has constant noise in ONNX: that of image 0.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import spider
from spider.errors import SpiderError, SpiderUsageError
from spider.exchange.folder import require_free, whole_folder
from spider.exchange.request import ExportRequest
from spider.files import write_text
from spider.gan.outputs import Condition, as_made
from spider.gan.saved import saved_tensors
from spider.gan.sources.frozen import FrozenGenerator
from spider.runs.directory import resolve
from spider.runs.generator import open_generator
from spider.runs.given import EXPORT_SETTINGS
from spider.runs.provenance import versions
from spider.tensors import save_state_dict
from spider.weights import sha256_of_file

WEIGHTS, NETWORK = "generator.safetensors", "generator.onnx"
OPSET = 18
_NEEDED = ("onnx", "onnxscript")  # the packages by which torch writes ONNX
_TRIED = 2  # images that the network is traced with; one would be taken for all that there ever are


def export(request: ExportRequest) -> list[Path]:
    """Write OUT, and return its files.

    Raises:
        SpiderUsageError: no such run; something is in OUT already; a package is missing that ONNX needs.
        SpiderError: the network cannot be put into ONNX; and what `open_generator` raises.
    """
    out, ref = Path(request.out), resolve(str(request.run))
    require_free(out)
    if request.onnx:
        _require_packages()
    generator = open_generator(str(ref), torch.device("cpu"))
    settings = ref.directory.config().generator
    with whole_folder(out) as folder:
        save_state_dict(saved_tensors(generator.module), folder / WEIGHTS)
        about = {
            "run": str(ref),
            "generator": settings.model_dump(mode="json"),
            "input": {"shape": ["N", *generator.source.shape], "source": generator.source.provenance()},
            "images": {"shape": ["N", *generator.image_shape], "range": [-1, 1]},
            "classes": [*generator.conditions.names],
            "noise": getattr(settings, "noise", "none"),
            "digest": generator.digest,
            "sha256": sha256_of_file(folder / WEIGHTS),
            "versions": versions(),
        }
        if request.onnx:
            about["onnx"] = _write_onnx(generator, folder / NETWORK)
        write_text(folder / EXPORT_SETTINGS, json.dumps(about, indent=2) + "\n")
    return [out / name for name in (WEIGHTS, EXPORT_SETTINGS, *([NETWORK] if request.onnx else []))]


def _require_packages() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        need = f"--onnx: needs {' and '.join(missing)}, the extra onnx of this package"
        raise SpiderUsageError(f"{need}: in its folder, pip install -e .[onnx]{_constraints()}")


def _constraints() -> str:
    """The versions that were tested together, if there are such of this Python and machine: ` -c FILE`."""
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    file = Path("constraints") / f"{python}-{sys.platform}-{platform.machine()}.txt"
    return f" -c {file}" if (Path(spider.__file__).parents[1] / file).is_file() else ""


class _Exported(nn.Module):
    """A generator as a function of tensors: inputs [N, ...] and, with classes, labels int64 [N] -> images."""

    def __init__(self, module: nn.Module, told: Condition) -> None:
        super().__init__()
        self.module = module
        self.names = [*told.draws]
        for number, each in enumerate(told.draws.values()):
            self.register_buffer(f"draw{number}", each)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """See the class."""
        count = inputs.shape[0]
        fixed = {name: self.get_buffer(f"draw{number}") for number, name in enumerate(self.names)}
        draws = {name: each.expand(count, *each.shape[1:]) for name, each in fixed.items()}
        return as_made(self.module(inputs, Condition(labels, draws=draws))).images


def _write_onnx(generator: FrozenGenerator, path: Path) -> dict[str, Any]:
    """Write the network, and tell what it takes. It is in full precision: there is no half precision on a CPU."""
    has_classes = bool(generator.conditions.names)
    told = generator.condition_at(0, [0])  # its draws are those of image 0
    network = _Exported(generator.module, told)
    inputs = generator.source.at(0, range(_TRIED)).to(next(network.parameters()).dtype)
    given = {"inputs": inputs, **({"labels": torch.zeros(_TRIED, dtype=torch.int64)} if has_classes else {})}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                tuple(given.values()),
                path,
                input_names=[*given],
                output_names=["images"],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes={name: {0: torch.export.Dim.DYNAMIC} for name in given},
                external_data=False,
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError) as error:  # the exporter's own errors are RuntimeErrors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SpiderError(f"--onnx: this generator cannot be put into ONNX: {reason[:300]}") from error
    return {
        "opset": OPSET,
        "inputs": [*given],
        "outputs": ["images"],
        "fixed_draws": network.names,
        "noise": "constant: that of image 0 under seed 0" if "noise" in network.names else "as in the weights",
    }
