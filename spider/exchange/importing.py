"""`spider import`: networks of another program as a run without a training, which all verbs read as any other.

OUT/
  config.yaml                    the networks, the source and the condition; all else by default
  imported.json                  where they come from: sha256 of the pickle, classes, arguments, what was left out
  checkpoints/000000-kimg/       generator_ema, and generator and discriminator if they were there

Projected GAN's generators are not read. They are plain modules as R3GAN's are, but hooks of torch's make the weights
that a layer uses, layers are found by their place in a list alone, and networks hold parts that their images do not
pass: little of what reads R3GAN would serve them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cluster.checkpoint import CheckpointStore, Snapshot
from cluster.manifest import TENSORS_SUFFIX
from cluster.world import World
from spider.config.load import make_config, to_yaml
from spider.config.schema import Config
from spider.errors import SpiderError, SpiderUsageError
from spider.exchange import r3gan, stylegan2, stylegan3, stylegan_xl
from spider.exchange.folder import require_free, whole_folder
from spider.exchange.persistent import NetworkPickle, PickledModule, plain, read_network_pickle
from spider.exchange.public_names import unknown_names
from spider.exchange.request import ImportRequest
from spider.exchange.translation import KNOWN, Imported
from spider.files import finite, write_text
from spider.runs.directory import STATE_FORMAT, RunDirectory, checkpoint_name
from spider.runs.generator import open_source
from spider.runs.provenance import git_state, versions
from untrusted.counts import counted
from untrusted.errors import UnreadableError
from untrusted.terminal import one_line

_GROUPS = {"G_ema": "generator_ema", "G": "generator", "D": "discriminator"}  # of a checkpoint, by name in the pickle
_CLASSES = r3gan.CLASSES | stylegan_xl.CLASSES
_BATCH = 64
_NAMED = 5  # of what a fork has, in a remark


@dataclass(frozen=True)
class ImportedRun:
    """What an import made.

    Attributes:
        networks: those that came over, by their names in the pickle, with their number of weights.
        remarks: what the person who imports should know, a line each.
    """

    path: Path
    sha256: str
    image_shape: tuple[int, int, int]
    classes: int
    networks: Mapping[str, int]
    remarks: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "path": str(self.path), "image_shape": [*self.image_shape], "remarks": [*self.remarks]}


def import_pickle(request: ImportRequest) -> ImportedRun:
    """Read the pickle without running anything of it, and make a run's folder.

    Raises:
        SpiderUsageError: there is no such file, or something is in OUT already.
        SpiderError: the pickle is damaged, or holds networks that are not known.
    """
    file, out = Path(request.file), Path(request.out)
    require_free(out)
    if file.suffix == TENSORS_SUFFIX:
        raise SpiderUsageError(
            f"{file}: weights alone, and no pickle: a training begins with them by spider train ... --init {file}"
        )
    try:
        pickle = read_network_pickle(file, tuple(_GROUPS), _CLASSES)
        networks = {name: _imported(name, network, pickle.bytes) for name, network in pickle.networks.items()}
    except (ArithmeticError, LookupError, ValueError) as error:
        raise SpiderError(f"{file}: damaged: {one_line(' '.join(str(error).split())[:200])}") from None
    except UnreadableError as error:
        raise SpiderError(f"{error}; networks that are read: {KNOWN}") from None
    generators = [networks[name] for name in ("G_ema", "G") if name in networks]
    if not generators:
        raise SpiderError(f"{file}: holds no generator, neither G_ema nor G")
    first, discriminator = generators[0], networks.get("D")
    for name, network in networks.items():
        if (network.image_shape, network.classes) != (first.image_shape, first.classes):
            raise SpiderError(f"{file}: {name} is of other images or classes than the generator")
    if any((each.settings, each.z_dim) != (first.settings, first.z_dim) for each in generators):
        raise SpiderError(f"{file}: G and G_ema are networks of other settings")
    groups = {_GROUPS[name]: network.tensors for name, network in networks.items()}
    groups.setdefault("generator_ema", first.tensors)
    config = _config(first, discriminator)
    remarks = tuple(_remarks(networks, first, pickle))
    with whole_folder(out) as folder:
        directory = RunDirectory(folder)
        store = CheckpointStore(directory.checkpoints, World.single(torch.device("cpu")))
        store.save(checkpoint_name(0), Snapshot(groups, _state(config, first, pickle)))
        write_text(directory.imported_file, json.dumps(_provenance(file, pickle, remarks), indent=2) + "\n")
        write_text(directory.config_file, to_yaml(config))
    weights = {name: sum(tensor.numel() for tensor in each.tensors.values()) for name, each in networks.items()}
    return ImportedRun(out, pickle.sha256, first.image_shape, first.classes, weights, remarks)


def _imported(name: str, network: PickledModule, max_bytes: int) -> Imported:
    """A network of the pickle. Another kind of network would be told apart here, by its classes."""
    if name == "D":
        judge: Imported = (r3gan if r3gan.is_r3gan(network) else stylegan2).import_discriminator(network, max_bytes)
        return judge
    kinds = {r3gan: r3gan.is_r3gan, stylegan_xl: stylegan_xl.is_stylegan_xl, stylegan3: stylegan3.is_stylegan3}
    kind = next((kind for kind, is_it in kinds.items() if is_it(network)), stylegan2)
    imported: Imported = kind.import_generator(network, max_bytes)
    return imported


def _config(generator: Imported, discriminator: Imported | None) -> Config:
    """The configuration that the networks fit."""
    group = None if discriminator is None else discriminator.settings.get("mbstd_group")
    tree = {
        "source": {"kind": "gaussian", "dim": generator.z_dim},
        "condition": {"kind": "class"} if generator.classes else {"kind": "none"},
        "generator": generator.settings,
        **({} if discriminator is None else {"discriminator": discriminator.settings}),
        "batch": _BATCH if group is None or _BATCH % group == 0 else group,
    }
    return make_config(tree, (), "import")


def _state(config: Config, generator: Imported, pickle: NetworkPickle) -> dict[str, Any]:
    """What a checkpoint says beside the weights, as far as a finished generator needs it."""
    source = open_source(config.source, generator.image_shape, torch.device("cpu"))
    names = [str(number) for number in range(generator.classes)]
    told = {"condition": {"names": names, "counts": [1] * len(names)}} if names else {}
    return {
        "format": STATE_FORMAT,
        "images": 0,
        "image_shape": [*generator.image_shape],
        "inputs": {"data": f"imported {pickle.sha256}", "source": source.identity, "weights": {}},
        **told,
    }


def _remarks(networks: Mapping[str, Imported], generator: Imported, pickle: NetworkPickle) -> Iterator[str]:
    yield (
        "code: none of the pickle was run. Its classes are taken to compute what those of the same names do in the "
        "public code. If a fork has changed one, its own code makes other images: compare some"
    )
    if other := sorted({name for network in pickle.networks.values() for name in unknown_names(network)}):
        more = f" and {len(other) - _NAMED} more" if len(other) > _NAMED else ""
        yield (
            f"code: the public code has no {', '.join(other[:_NAMED])}{more}. The pickle is of a fork, and what that "
            "does is left out here: compare some images with those of its own code"
        )
    if generator.settings.get("noise") == "const":
        yield (
            "noise: generator.noise=const, with the noise maps of the pickle: images are those that the public code "
            "makes with constant noise. A training with generator.noise=random draws its own"
        )
    set_here = "generator.bf16_resolutions=0 until a training sets it"
    if "bf16_resolutions" not in generator.settings:
        set_here = "images are computed in float32, also where the public code computes in bfloat16"
    yield f"precision: half precision is no property of weights; {set_here}"
    if generator.classes:
        yield f"classes: {counted(generator.classes, 'number')} without names or shares: all are as frequent"
    if "D" in pickle.unread:
        yield f"discriminator: a {pickle.unread['D']} is not read; a training that begins with it has one at random"
    elif "D" not in networks:
        yield "discriminator: none is in the pickle; a training that begins with it has one at random"
    if "G_ema" not in networks:
        yield "generator: G_ema is not in the pickle; G stands for it"


def _provenance(file: Path, pickle: NetworkPickle, remarks: tuple[str, ...]) -> dict[str, Any]:
    """What imported.json holds. The arguments of the networks are as their author wrote them; nothing reads them."""
    networks = {
        name: {"class": network.class_name, "source_sha256": network.source, "kwargs": plain(network.kwargs)}
        for name, network in pickle.networks.items()
    }
    found = {
        "pickle": {"name": file.name, "bytes": pickle.bytes, "sha256": pickle.sha256},
        "networks": networks,
        "rest": pickle.rest,
        "remarks": [*remarks],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "git": git_state(),
    }
    whole: dict[str, Any] = finite(found)
    return whole
