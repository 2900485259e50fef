"""Tensors that follow from a layer's weight, and are found again where a beginning does not give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import nn

from spider.gan.init.fit import Fit


@runtime_checkable
class Derives(Protocol):
    """A layer with such tensors.

    Attributes:
        derived: their names; they follow from `weight`.
    """

    derived: tuple[str, ...]

    def derive(self) -> None:
        """Find them."""


def derive_missing(networks: Mapping[str, nn.Module], fits: Mapping[str, Fit]) -> None:
    """Find what was not given beside a weight that was; what is told as missing then is what begins at random."""
    for network, fit in fits.items():
        for name, module in networks[network].named_modules():
            if isinstance(module, Derives) and f"{name}.weight" in fit.fitted:
                missing = [f"{name}.{each}" for each in module.derived if f"{name}.{each}" in fit.missing]
                if missing:
                    module.derive()
                fit.derived.update({each: fit.missing.pop(each) for each in missing})
