"""From a preset or a YAML file, and dotted overrides, to a `Config`; and the difference between two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from spider.config.refusal import Override, refusal
from spider.config.schema import Config
from spider.errors import SpiderUsageError, shown
from spider.settings.choices import Choice
from spider.settings.marks import runtime_keys
from spider.settings.schedule import Moving
from spider.settings.section import Section
from untrusted import yaml_data
from untrusted.errors import UnreadableError
from untrusted.words import hint, similar

_OFFERED = 3  # presets of a family


def preset_names() -> list[str]:
    """The presets that ship with the package, sorted."""
    return sorted(_names(_presets()))


def preset_text(name: str) -> str:
    """The YAML of preset `name`; its first comment line says what it is."""
    text: str = _presets().joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return text


def presets_like(word: str) -> str:
    """`; did you mean dcgan? (presets: ...)`, to end an error with: there are many, and they come after the hint."""
    names = preset_names()
    of_family = [name for name in names if name.startswith((f"{word}/", f"{word}-"))]
    return f"{hint(of_family[:_OFFERED] or similar(word, names))} (presets: {', '.join(names)})"


def load_config(preset_or_file: str, overrides: Sequence[str | Override] = ()) -> Config:
    """Read a preset or a YAML file and apply overrides, `key=value` as texts, later ones winning.

    Raises SpiderUsageError, one line that names the key, the value found and what would be valid.
    """
    if Path(preset_or_file).is_file():
        return make_config(read_mapping(Path(preset_or_file)), overrides, preset_or_file)
    if preset_or_file in preset_names():
        where = f"preset {preset_or_file}"
        return make_config(parse_yaml(preset_text(preset_or_file), where), overrides, where)
    raise SpiderUsageError(f"{preset_or_file}: neither a file nor a preset{presets_like(preset_or_file)}")


def make_config(tree: Mapping[str, Any], overrides: Sequence[str | Override] = (), where: str = "config") -> Config:
    """A Config from plain data, whose keys may be dotted, and overrides. Raises SpiderUsageError as `load_config`."""
    merged = _nested(tree, where)
    given = [parse_override(each) if isinstance(each, str) else each for each in overrides]
    for each in given:
        _assign(merged, each.key, each.value)
    for name, field in Config.model_fields.items():  # a section that does not name its choice is of the default one
        section, kind = merged.get(name), getattr(field.default, "kind", None)
        if isinstance(section, dict) and kind is not None:
            section.setdefault("kind", kind)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise SpiderUsageError(refusal(error, where, given)) from None


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


def parse_override(text: str) -> Override:
    """`penalties.r1_gamma=1` to the key and 1; the value is read as YAML."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise SpiderUsageError(f"{text or repr(text)}: an override is KEY=VALUE, for example penalties.r1_gamma=1")
    if not value.strip():
        raise SpiderUsageError(f"{text}: no value; is a variable of the shell not set? (null stands for none)")
    tree = parse_yaml(f"value: {value}", text)
    if tree.keys() != {"value"}:  # a line break began another key
        raise SpiderUsageError(f"{key.strip()}: an override is one KEY=VALUE, found {shown(text)}")
    return Override(key.strip(), tree["value"], text)


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


def differences(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ and may not when a run is resumed, with both values as plain data.

    Of another choice only its name is told: that it has other settings follows. A list of other members and a schedule
    are told whole, without their defaults.
    """
    free = runtime_keys(old) | runtime_keys(new)
    return [each for each in _differences("", old, new) if each[0] not in free]


def _differences(key: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if old == new:
        return
    before, after = _alike(old), _alike(new)
    if before is None or after is None or before.keys() != after.keys():
        is_other_choice = hasattr(old, "kind") and hasattr(new, "kind")
        yield (f"{key}.kind", old.kind, new.kind) if is_other_choice else (key, _plain(old), _plain(new))
        return
    for name in before:
        yield from _differences(f"{key}.{name}" if key else name, before[name], after[name])


def _alike(value: Any) -> dict[str, Any] | None:
    """What can be compared part by part: a section, or a list of sections. None: a single value."""
    if isinstance(value, Section) and not isinstance(value, Moving):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, tuple) and value and all(isinstance(each, Section) for each in value):
        return {str(number): each for number, each in enumerate(value)}
    return None


def _plain(value: Any) -> Any:
    """As one would write it: without defaults."""
    if isinstance(value, Section):
        kind = {"kind": value.kind} if isinstance(value, Choice) else {}
        return {**kind, **value.model_dump(mode="json", exclude_defaults=True)}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


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


def _names(folder: Traversable, above: str = "") -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.name.endswith(".yaml"):
            yield f"{above}{entry.name.removesuffix('.yaml')}"
        elif entry.is_dir() and not entry.name.startswith("_"):
            yield from _names(entry, f"{above}{entry.name}/")


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
    """Set a dotted key, of which a number names a member of a list: `augment.0.p`."""
    *parents, last = parts = key.split(".")
    for depth, parent in enumerate(parents):
        below = tree.setdefault(parent, {})
        if below is None:
            below = tree[parent] = {}
        members = _members(below)
        if parts[depth + 1] in members:
            _assign(members, ".".join(parts[depth + 1 :]), value)
            tree[parent] = [*members.values()]
            return
        if not isinstance(below, dict):
            raise SpiderUsageError(f"{key}: {'.'.join(parents[: depth + 1])} is a value, not a section")
        tree = below
    if last == "kind" and tree.get("kind") not in (None, value):
        tree.clear()  # another choice has other settings
    tree[last] = value


def _members(value: Any) -> dict[str, Any]:
    """Copies of the members of a list, by their numbers as text; none of anything else."""
    members = value if isinstance(value, list) else []
    return {str(number): {**each} if isinstance(each, dict) else each for number, each in enumerate(members)}
