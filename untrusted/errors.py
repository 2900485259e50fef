"""What is wrong with a file, as one line for the person who wrote it or ran a command on it."""

from __future__ import annotations


class UnreadableError(Exception):
    """A file does not hold what it must. The text begins with the file's name."""

    exit_code = 1
