"""The options of the command line that set keys of the configuration: how one gives a key a value."""

from __future__ import annotations

from spider.gan.sources.config import FROM_IMAGES, FROM_RUN

SOURCE_KEYS = tuple(f"source.{key}" for _, key in (FROM_IMAGES, FROM_RUN))
OPTIONS = {
    "data.path": "--data PLACE",
    "data.mirror": "--mirror",
    **dict.fromkeys(SOURCE_KEYS, "--source PLACE"),
    "kimg": "--kimg N",
    "seed": "--seed S",
}


def how_to_give(key: str, value: str = "VALUE") -> str:
    """`--source PLACE` for `source.path`; `init.file=VALUE` where there is no option."""
    return OPTIONS.get(key, f"{key}={value}")
