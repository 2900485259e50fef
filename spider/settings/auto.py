"""Values that follow from the images and the batch: `auto` stands for one until its run begins, and is then filled in.

r1_gamma: Annotated[AutoSchedule, Follows(rule)]     # config.yaml of the run holds what the rule gives
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spider.settings.choices import sections_of

if TYPE_CHECKING:
    from spider.config.schema import Config


@dataclass(frozen=True)
class OfImages:
    """What rules know of the training images.

    Attributes:
        side: the longer one, in pixels.
        count: how many there are.
    """

    side: int
    count: int


@dataclass(frozen=True)
class Follows:
    """The mark of a key that may be `auto`.

    Attributes:
        rule: what it is then, of the configuration and the images.
    """

    rule: Callable[[Config, OfImages], float]


def left_open(config: Config) -> Iterator[tuple[str, Follows]]:
    """The keys that are `auto`, and what they follow."""
    for above, section in sections_of(config):
        for name, info in type(section).model_fields.items():
            for mark in info.metadata:
                if isinstance(mark, Follows) and getattr(section, name) == "auto":
                    yield f"{above}{name}", mark


def filled(config: Config, images: OfImages) -> dict[str, Any]:
    """What the keys that are `auto` are for these images, by key."""
    return {key: mark.rule(config, images) for key, mark in left_open(config)}
