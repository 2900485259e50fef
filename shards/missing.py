"""What to say of a path that leads nowhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from untrusted.words import hint, similar


def no_such(path: str | Path, what: str = "folder", *, words: Iterable[str] = ()) -> str:
    """`runs/lettres: no such folder; did you mean runs/letters?`

    Args:
        words: that could stand where `path` stands.
    """
    place = Path(path)
    try:
        if place.exists():
            return f"{path}: not a {what}"
        if place.is_symlink():
            return f"{path}: a link to {place.readlink()}, which is not there"
        beside = {**{word: word for word in words}, **{child.name: str(child) for child in place.parent.iterdir()}}
    except PermissionError as error:
        return f"{path}: cannot be read: {error.strerror}"
    except (OSError, ValueError):
        return f"{path}: no such {what}, nor {place.parent}"
    return f"{path}: no such {what}{hint(beside[name] for name in similar(place.name, beside))}"
