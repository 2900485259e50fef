"""Pickles of the form that the public code of StyleGAN2-ADA writes, from weights by its names and stand-in classes.

The form is that of NVlabs/stylegan2-ada-pytorch, torch_utils/persistence.py. The source text within marks a file if
somebody runs it.
"""

from __future__ import annotations

import pickle
import re
import sys
from collections import OrderedDict
from itertools import pairwise
from types import ModuleType

import numpy as np
import torch

from spider.gan.networks.bands import plan
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from tests.vectors import recorded, weights_of

SMALL = {"channel_base": 512, "channel_max": 24}
FILTER = torch.tensor(np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64, dtype=torch.float32)

PERSISTENCE, NAMES = ModuleType("torch_utils.persistence"), ModuleType("dnnlib.util")


def _reconstruct_persistent_obj(meta):
    raise AssertionError("only named, never called")


class EasyDict(dict):
    """Stands for the public code's dict with attributes."""


for module, stand_in in ((PERSISTENCE, _reconstruct_persistent_obj), (NAMES, EasyDict)):
    stand_in.__module__, stand_in.__qualname__ = module.__name__, stand_in.__name__
    setattr(module, stand_in.__name__, stand_in)


class Persistent:
    """An object that is pickled as the public code pickles a module."""

    def __init__(self, class_name, tensors, children, attributes, source="", version=6):
        state = {
            "training": False,
            "_parameters": OrderedDict(tensors[0]),
            "_buffers": OrderedDict(tensors[1]),
            "_non_persistent_buffers_set": set(),
            "_backward_hooks": OrderedDict(),
            "_modules": OrderedDict(children),
            "weight_gain": np.float64(0.5),
            **attributes,
        }
        self.meta = {
            "type": "class", "version": version, "module_src": source, "class_name": class_name, "state": state,
        }  # fmt: skip

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,), None

    def inner(self, path):
        """The part at a dotted path."""
        found = self
        for name in path.split("."):
            found = found.meta["state"]["_modules"][name]
        return found


def dumped(tree, protocol=4, more=()):
    """A pickle of it, while the names of the public code, and those of more modules, stand for something."""
    named = {module.__name__: module for module in (PERSISTENCE, NAMES, *more)}
    named |= {name.partition(".")[0]: ModuleType(name.partition(".")[0]) for name in named}
    before = {name: sys.modules.get(name) for name in named}
    sys.modules.update(named)
    try:
        return pickle.dumps(tree, protocol)
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


CLASSES = {
    r"synthesis\.input": "SynthesisInput", r"synthesis\.L\d+_\d+_\d+": "SynthesisLayer",
    r"mapping": "MappingNetwork", r"synthesis": "SynthesisNetwork", r"synthesis\.b\d+": "SynthesisBlock",
    r"synthesis\.b\d+\.conv\d": "SynthesisLayer", r".*torgb": "ToRGBLayer", r"b4": "DiscriminatorEpilogue",
    r"b\d+": "DiscriminatorBlock",
    r".*\.(affine|fc\d*|embed|embed_proj|out)": "FullyConnectedLayer", r".*": "Conv2dLayer",
}  # fmt: skip
BUFFERS = ("noise_const", "resample_filter", "w_avg", "magnitude_ema", "freqs", "phases", "transform")
TENSORS = ("weight", "bias", "const", "noise_strength", *BUFFERS)


def official(weights, class_name, attributes, kwargs, source=""):
    """A network as a module of the public code, from its weights by name."""
    names = {name.rpartition(".")[0] for name in weights}
    paths = {"", *names, *(parent for name in names for parent in parents(name))}
    if class_name == "Discriminator":
        paths.add("b4.mbstd")
    return _module("", paths, weights, class_name, attributes, kwargs, source)


def parents(name):
    while name:
        name = name.rpartition(".")[0]
        yield name


def _module(path, paths, weights, class_name, attributes, kwargs, source):
    start = f"{path}." if path else ""
    inner = {name: weights[f"{start}{name}"] for name in TENSORS if f"{start}{name}" in weights}
    children = [each for each in sorted(paths) if each and each.rpartition(".")[0] == path]
    if re.search(r"conv\d?$|skip$|fromrgb$", path):
        inner["resample_filter"] = FILTER.clone()
    if not path:
        own = {**attributes[""], "_init_args": (), "_init_kwargs": EasyDict(kwargs)}
    else:
        class_name = "MinibatchStdLayer" if path.endswith("mbstd") else _class(path)
        own = _told(path, class_name, weights, attributes)
    parameters = {name: torch.nn.Parameter(each, False) for name, each in inner.items() if name not in BUFFERS}
    buffers = {name: each for name, each in inner.items() if name in BUFFERS}
    made = {
        each.rpartition(".")[2]: _module(each, paths, weights, class_name, attributes, kwargs, source)
        for each in children
    }
    return Persistent(class_name, ({**parameters, "unused": None}, buffers), made, own, source)


def _class(path):
    return next(name for pattern, name in CLASSES.items() if re.fullmatch(pattern, path))


def _told(path, class_name, weights, attributes):
    name = path.rpartition(".")[2]
    if path in attributes:
        return attributes[path]
    linear = name in ("affine", "embed", "out", "skip")
    return {
        "MappingNetwork": attributes.get("mapping", {}),
        "SynthesisBlock": {"architecture": "skip"},
        "SynthesisLayer": {"use_noise": True, "activation": "lrelu", "conv_clamp": None},
        "ToRGBLayer": {"conv_clamp": None},
        "FullyConnectedLayer": {
            "activation": "linear" if linear else "lrelu", "bias_gain": 0.01 if path.startswith("mapping.fc") else 1,
        },
        "Conv2dLayer": {"activation": "linear" if linear else "lrelu", "conv_clamp": None},
        "DiscriminatorBlock": {"architecture": "resnet"},
        "DiscriminatorEpilogue": {"architecture": "resnet"},
        "MinibatchStdLayer": {"group_size": 4, "num_channels": 1},
    }.get(class_name, {})  # fmt: skip


def generator(suffix="", source=""):
    """The recorded generator as the public code's object."""
    weights = weights_of(recorded(f"stylegan2_g32{suffix}"))
    classes = 3 if suffix else 0
    told = {"z_dim": 32, "c_dim": classes, "w_dim": 48, "img_resolution": 32, "img_channels": 3}
    mapping = {"num_layers": 2 if suffix else 8, "w_avg_beta": 0.998}
    return official(
        weights, "Generator", {"": told, "mapping": mapping}, {"synthesis_kwargs": EasyDict(SMALL), **told}, source
    )


def stylegan3(name, rotation):
    """A recorded generator of StyleGAN3, whose layers tell their rates and cutoffs as numpy's numbers."""
    weights = weights_of(recorded(name)) | {"synthesis.input.transform": torch.eye(3)}
    side, layers, critical = 32, 6, 2
    exponents = np.minimum(np.arange(layers + 1) / (layers - critical), 1)
    cutoffs = 2 * (side / 2 / 2) ** exponents
    stops = 2**2.1 * (side / 2 * 2**0.3 / 2**2.1) ** exponents
    rates = np.exp2(np.ceil(np.log2(np.minimum(stops * 2, side))))
    widths = np.maximum(stops, rates / 2) - cutoffs
    told = {"z_dim": 32, "c_dim": 0, "w_dim": 48, "img_resolution": side, "img_channels": 3}
    attributes = {
        "": told,
        "mapping": {"num_layers": 2, "w_avg_beta": 0.998},
        "synthesis": {"num_layers": layers, "num_critical": critical, "margin_size": 10, "output_scale": 0.25},
        "synthesis.input": {"bandwidth": cutoffs[0], "sampling_rate": rates[0]},
    }
    names = {".".join(each.split(".")[:2]) for each in weights if ".L" in each}
    for level, path in enumerate(sorted(names, key=lambda each: int(each.split("L")[1].split("_")[0]))):
        before, last, is_critical = max(level - 1, 0), level == layers, level >= layers - critical
        fine = max(rates[before], rates[level]) * (1 if last else 2)
        up, down = round(fine / rates[before]), round(fine / rates[level])
        attributes[path] = {
            "is_torgb": last, "is_critically_sampled": is_critical, "conv_kernel": 1 if last or rotation else 3,
            "conv_clamp": 256, "tmp_sampling_rate": fine, "down_radial": rotation and not is_critical,
            "in_sampling_rate": rates[before], "out_sampling_rate": rates[level], "in_cutoff": cutoffs[before],
            "out_cutoff": cutoffs[level], "in_half_width": widths[before], "out_half_width": widths[level],
            "up_taps": 6 * up if up > 1 and not last else 1, "down_taps": 6 * down if down > 1 and not last else 1,
        }  # fmt: skip
    return official(weights, "Generator", attributes, {**SMALL, **told})


def stylegan_xl(name, head_equivariance=()):
    """A recorded generator of StyleGAN-XL, whose table of classes is torch's own module.

    `head_equivariance`: other heads than the recorded ones, of the middles of their kernels.
    """
    vectors = recorded(name)
    weights, shape = weights_of(vectors), vectors["img"].shape[1:]
    grown, classes = "stem.mapping.w_avg" in vectors, 4 if "label" in vectors else 0
    table = torch.nn.Embedding.from_pretrained(weights.pop("mapping.embed.weight"))
    settings = {
        "channel_base": 256, "channel_max": 16, "w_dim": 12, "margin": 4, "layers": 7 if classes else 6,
        "equivariance": "translation" if classes else "rotation",
        **({"sides": (16, 32), "head_layers": (4,), "head_equivariance": head_equivariance} if grown else {}),
    }  # fmt: skip
    bands = plan(Stylegan3GeneratorConfig(**settings), shape)
    told = {"z_dim": 8, "c_dim": classes, "w_dim": 12, "img_resolution": shape[1], "img_channels": 3}
    attributes = {
        "": told,
        "mapping": {"num_layers": 2, "w_avg_beta": 0.998},
        "mapping.embed_proj": {"activation": "lrelu", "bias_gain": 1},
        "synthesis": {
            "num_critical": 2, "margin_size": 4, "output_scale": 0.25, "channel_base": 256, "channel_max": 16,
        },
        "synthesis.input": {"bandwidth": bands[0].cutoff, "sampling_rate": bands[0].rate},
    }  # fmt: skip
    paths = {".".join(each.split(".")[:2]) for each in weights if ".L" in each}
    paths = sorted(paths, key=lambda each: int(each.split("L")[1].split("_")[0]))
    for path, (before, after) in zip(paths, pairwise([bands[0], *bands]), strict=True):
        fine = 2 * max(before.rate, after.rate)
        up, down = fine // before.rate, fine // after.rate
        attributes[path] = {
            "is_torgb": after.shown, "is_critically_sampled": after.critical, "conv_clamp": 256,
            "conv_kernel": 1 if after.rotation or after.shown else 3, "tmp_sampling_rate": fine,
            "down_radial": after.rotation and not after.critical, "up_taps": 6 * up, "down_taps": 6 * down,
            "in_sampling_rate": before.rate, "out_sampling_rate": after.rate, "in_cutoff": before.cutoff,
            "out_cutoff": after.cutoff, "in_half_width": before.half_width, "out_half_width": after.half_width,
        }  # fmt: skip
        if after.rotation and weights[f"{path}.weight"].shape[-1] == 3:
            weights[f"{path}.weight"] = weights[f"{path}.weight"][:, :, 1:2, 1:2].clone()
    weights["synthesis.input.transform"] = torch.eye(3)
    network = official(weights, "SuperresGenerator" if grown else "Generator", attributes, told)
    network.inner("mapping").meta["state"]["_modules"]["embed"] = table
    return network


def discriminator(suffix="", source=""):
    """The recorded discriminator."""
    weights = weights_of(recorded(f"stylegan2_d32{suffix}"))
    told = {"c_dim": 3 if suffix else 0, "img_resolution": 32, "img_channels": 3}
    return official(weights, "Discriminator", {"": told, "mapping": {"num_layers": 8}}, {**SMALL, **told}, source)


def networks(suffix="", source=""):
    """What a snapshot of the public code holds."""
    return {
        "training_set_kwargs": {"class_name": "training.dataset.ImageFolderDataset", "path": "./data.zip"},
        "G": generator(suffix, source),
        "D": discriminator(suffix, source),
        "G_ema": generator(suffix, source),
        "augment_pipe": None,
    }
