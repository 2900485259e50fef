"""Settings of discriminators that may have CHAIN's normalisation (`chain.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from spider.gan.networks.config import BatchNormedChoice

if TYPE_CHECKING:
    from spider.config.schema import Config


class ChainableChoice(BatchNormedChoice):
    """The settings of a discriminator whose `norm` is batch, chain, chain_cumulative or none."""

    norm: str

    @property
    def chained(self) -> bool:
        """See NetworkChoice."""
        return self.norm in ("chain", "chain_cumulative")

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if self.norm == "batch":
            yield from self.split_refusals("discriminator", config)
        elif self.statistics != "batch":
            yield "discriminator.statistics goes with discriminator.norm=batch"
        elif self.chained and config.accumulation > 1:
            yield f"discriminator.norm={self.norm} normalises over the global batch: set accumulation=1"
        if self.chained and all(each.kind != "chain" for each in config.auxiliary):
            yield f"discriminator.norm={self.norm} is steered by auxiliary: kind=chain: add that"
        if self.norm == "chain_cumulative":
            yield from _cumulative_refusals(config)


def _cumulative_refusals(config: Config) -> Iterator[str]:
    """Its backward pass is no derivative, and has its own means for what the published code judges: see `chain.py`."""
    norm = "discriminator.norm=chain_cumulative"
    if config.penalties.active:
        yield f"{norm} cannot be differentiated twice, as penalties are: set them to 0, or discriminator.norm=chain"
    if config.objective.paired:
        yield f"{norm} has no means of real images in the generator's step, where objective.kind pairs them"
    if any(each.kind == "consistency" for each in config.auxiliary):
        yield f"{norm} has no means of images that are judged again, as auxiliary: kind=consistency does"
    if config.engine.kind == "deepspeed":
        yield f"{norm} keeps means of gradients, which engine.kind=deepspeed multiplies by the number of ranks"
    if config.compute.compile:
        yield f"{norm} moves its means within the backward pass: set compute.compile=false"
