"""From a preset or a YAML file, and dotted overrides, to a `Config`; and the difference between two of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from spider.config.explain import choice_names, kinds_with, similar_keys
from spider.config.schema import Config
from spider.errors import SpiderUsageError, shown
from spider.settings.marks import runtime_keys
from spider.settings.section import SECTION_ERROR
from untrusted import yaml_data
from untrusted.errors import UnreadableError


def preset_names() -> list[str]:
    """The presets that ship with the package, sorted."""
    return sorted(file.name.removesuffix(".yaml") for file in _presets().iterdir() if file.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML of preset `name`; its first comment line says what it is."""
    text: str = _presets().joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return text


def load_config(preset_or_file: str, overrides: Sequence[str] = ()) -> Config:
    """Read a preset or a YAML file and apply `key=value` overrides, later ones winning.

    Raises SpiderUsageError, one line that names the key, the value found and what would be valid.
    """
    if Path(preset_or_file).is_file():
        return make_config(read_mapping(Path(preset_or_file)), overrides, preset_or_file)
    if preset_or_file in preset_names():
        where = f"preset {preset_or_file}"
        return make_config(parse_yaml(preset_text(preset_or_file), where), overrides, where)
    raise SpiderUsageError(
        f"{preset_or_file}: neither a file nor a preset; presets: {', '.join(preset_names())}"
        f"{_hint(preset_or_file, preset_names())}"
    )


def make_config(tree: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "config") -> Config:
    """A Config from plain data, whose keys may be dotted, and overrides. Raises SpiderUsageError as `load_config`."""
    merged = _nested(tree, where)
    for text in overrides:
        key, value = parse_override(text)
        _assign(merged, key, value)
    for name, field in Config.model_fields.items():  # a section that does not name its choice is of the default one
        section, kind = merged.get(name), getattr(field.default, "kind", None)
        if isinstance(section, dict) and kind is not None:
            section.setdefault("kind", kind)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise SpiderUsageError(f"{where}: {_one_line(error)}") from None


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Plain data from YAML within the limits of `untrusted`. Raises SpiderUsageError that begins with `where`."""
    return _mapping(lambda: yaml_data.parse_yaml(text, where), where)


def read_mapping(file: Path) -> dict[str, Any]:
    """`parse_yaml` of a file, in whatever Unicode it was saved."""
    return _mapping(lambda: yaml_data.read_yaml(file), str(file))


def _mapping(read: Callable[[], Any], where: str) -> dict[str, Any]:
    try:
        tree = read()
    except UnreadableError as error:
        raise SpiderUsageError(str(error)) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SpiderUsageError(f"{where}: holds a {type(tree).__name__}, not a mapping of keys")
    return tree


def parse_override(text: str) -> tuple[str, Any]:
    """`penalties.r1_gamma=1` to ("penalties.r1_gamma", 1); the value is read as YAML."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise SpiderUsageError(f"{text or repr(text)}: an override is KEY=VALUE, for example penalties.r1_gamma=1")
    if not value.strip():
        raise SpiderUsageError(f"{text}: no value; is a variable of the shell not set? (null stands for none)")
    tree = parse_yaml(f"value: {value}", text)
    if tree.keys() != {"value"}:  # a line break began another key
        raise SpiderUsageError(f"{key.strip()}: an override is one KEY=VALUE, found {shown(text)}")
    return key.strip(), tree["value"]


def to_yaml(config: Config) -> str:
    """The whole configuration, every default written out."""
    return yaml_data.to_yaml(config.model_dump(mode="json"))


def flatten(tree: Mapping[str, Any] | BaseModel, prefix: str = "") -> dict[str, Any]:
    """{"penalties": {"r1_gamma": 1}} to {"penalties.r1_gamma": 1}; of a list of sections, "augment.0.kind"."""
    items = tree.model_dump(mode="json") if isinstance(tree, BaseModel) else tree
    flat: dict[str, Any] = {}
    for key, value in items.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value):
                flat |= flatten(item, f"{prefix}{key}.{number}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(old: Config, new: Config, *, runtime: bool = False) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ, with both; those marked `runtime` only if asked for."""
    before, after = flatten(old), flatten(new)
    free = runtime_keys(old) | runtime_keys(new)
    return [
        (key, before.get(key), after.get(key))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key) and (runtime or key not in free)
    ]


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The same configuration with other values, by their dotted keys, each of which stands in it."""
    if not values:
        return config
    tree = config.model_dump(mode="json")
    for key, value in values.items():
        *above, last = key.split(".")
        section: Any = tree
        for part in above:
            section = section[int(part)] if isinstance(section, list) else section[part]
        section[last] = value
    return make_config(tree)


def _presets() -> Traversable:
    return resources.files("spider.presets")


def _nested(tree: Mapping[str, Any], where: str, above: str = "") -> dict[str, Any]:
    """A copy in which `generator.width: 1` is `generator: {width: 1}`. Raises SpiderUsageError for a key in both."""
    nested: dict[str, Any] = {}
    for key, value in tree.items():
        if not isinstance(key, str):
            raise SpiderUsageError(f"{where}: {above}{key}: keys are text, this one is read as {type(key).__name__}")
        first, _, rest = key.partition(".")
        inner = {rest: value} if rest else value
        _merge(nested, first, _nested(inner, where, f"{above}{first}.") if isinstance(inner, Mapping) else inner,
               f"{where}: {above}")  # fmt: skip
    return nested


def _merge(tree: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Add a key, or what a section has beside what is there of it."""
    if key not in tree or (tree[key] is None and isinstance(value, dict)):
        tree[key] = value
    elif isinstance(tree[key], dict) and isinstance(value, dict):
        for name, item in value.items():
            _merge(tree[key], name, item, f"{where}{key}.")
    elif not (isinstance(tree[key], dict) and value is None):
        raise SpiderUsageError(f"{where}{key}: given twice, once as a dotted key")


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        below = tree.setdefault(parent, {})
        if below is None:
            below = tree[parent] = {}
        if not isinstance(below, dict):
            raise SpiderUsageError(f"{key}: {'.'.join(parents[: depth + 1])} is a value, not a section")
        tree = below
    if last == "kind" and tree.get("kind") not in (None, value):
        tree.clear()  # another choice has other settings
    tree[last] = value


# In the words of YAML
_SHAPES = dict.fromkeys(("tuple_type", "list_type"), "must be a list, [..., ...]") | dict.fromkeys(
    ("model_type", "model_attributes_type", "dict_type"), "must be a section, {key: value}"
)


def _one_line(error: ValidationError) -> str:
    return "; ".join(_describe(detail) for detail in error.errors())


def _describe(detail: Mapping[str, Any]) -> str:
    key = ".".join(_without_tags(detail["loc"]))
    message, found = str(detail["msg"]).removeprefix("Value error, "), detail["input"]
    if detail["type"] == "extra_forbidden":
        kinds = kinds_with(key)
        if kinds:
            return f"{key} goes with {key.rpartition('.')[0]}.kind={' or '.join(kinds)}"
        return f"{key}: no such key{_suggest(similar_keys(key))}"
    if detail["type"] == "missing":
        return f"{key}: missing, and has no default (spider config explain {key})"
    if detail["type"] == "value_error":
        return message
    if detail["type"] == SECTION_ERROR:
        return ".".join(filter(None, [key, message]))
    if detail["type"].startswith("union_tag"):
        allowed = detail["ctx"].get("expected_tags", "")
        return (
            f"{key}.kind: found {shown(found.get('kind') if isinstance(found, Mapping) else found)}, allowed: {allowed}"
        )
    if detail["type"] in _SHAPES:
        message = _SHAPES[detail["type"]]
    return f"{key}: {message[0].lower()}{message[1:]}, found {shown(found)}"


def _without_tags(location: Iterable[Any]) -> Iterator[str]:
    """pydantic puts the tag of a union into the path of what is wrong inside it; users know no such key."""
    parts = [str(part) for part in location]
    for position, part in enumerate(parts):
        before = parts[position - 1] if position else ""
        below = position + 1 < len(parts)
        if below and part in choice_names() and (before.isdigit() or before in Config.model_fields):
            continue
        if part in ("number", "schedule"):
            continue
        yield part


def _hint(word: str, known: Iterable[str]) -> str:
    return _suggest(difflib.get_close_matches(word, list(known), n=3, cutoff=0.6))


def _suggest(close: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(close)}?" if close else ""
