"""What reaches the screen: names that anybody chose do not command the terminal, and a closed terminal ends no work.

File names, fields of files and output of programs may hold control codes, which clear a screen, rename a window or
write over what stands there. And whoever watches may go: `spider train | head` closes stdout, a shell may start
a command without stderr. While a command runs, `guarded` stands in for both streams and sees to it, whoever prints.
"""

from __future__ import annotations

import errno
import io
import os
import re
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

CLEAR_SCREEN = "\x1b[H\x1b[2J"

# What tqdm writes in calls of its own: a bar over the one before, and the way up to it. And what `status --watch` does
_OWN_CODES = re.compile(rf"\r|\n*(\x1b\[A)+|{re.escape(CLEAR_SCREEN)}")
# Control codes, marks that end a line, halves of a character, and marks that turn the direction of the text that
# follows, so that a name reads as another one. Line breaks and tabs are none of them
_COMMANDING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]"
)


def escaped(text: str) -> str:
    """`text` with control codes, and what is no character, written out: \\x1b, \\u202e. Line breaks and tabs stay."""
    return _COMMANDING.sub(_written_out, text)


def one_line(text: str) -> str:
    """`escaped`, and line breaks as well: for what must be one line, as an error or a row of a table."""
    return escaped(text).replace("\n", "\\n")


def _written_out(found: re.Match[str]) -> str:
    letter = found[0]
    if "\udc80" <= letter <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape", "backslashreplace").decode("ascii")


class GuardedStream(io.TextIOBase):
    """A stream that escapes what is written, and takes whatever happens to it in silence.

    Attributes:
        lost: what went wrong, once it has; nothing is written after that.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """`stream`: None where the process was started without one."""
        self._stream = stream
        self.lost: OSError | None = OSError(errno.EBADF, os.strerror(errno.EBADF)) if stream is None else None

    def write(self, text: str) -> int:
        """Write. Control codes are written out, but for those of progress bars, which begin a call or are all of it."""
        own = _OWN_CODES.match(text)
        kept = own[0] if own is not None and (own[0] == "\r" or own[0] == text) else ""
        self._try(kept + escaped(text[len(kept) :]))
        return len(text)

    def flush(self) -> None:
        """Send what is held back."""
        self._try(None)

    def isatty(self) -> bool:
        """Whether somebody watches."""
        return self.lost is None and self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """Of the stream. Raises OSError if there is none."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def writable(self) -> bool:
        """Always."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """What becomes of characters that the encoding does not have."""
        return "backslashreplace"

    def _try(self, text: str | None) -> None:
        if self.lost is not None or self._stream is None:
            return
        try:
            if text is None:
                self._stream.flush()
            else:
                self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        except OSError as error:
            self.lost = error
            self._forget()
        except ValueError:  # it has been closed
            self.lost = OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _forget(self) -> None:
        """What the stream still holds goes nowhere: Python would try once more at its end, and fail aloud."""
        assert self._stream is not None
        try:
            number = self._stream.fileno()
        except (OSError, ValueError):
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


@contextmanager
def guarded() -> Iterator[tuple[GuardedStream, GuardedStream]]:
    """Stand in for sys.stdout and sys.stderr."""
    before = sys.stdout, sys.stderr
    streams = GuardedStream(sys.stdout), GuardedStream(sys.stderr)
    sys.stdout, sys.stderr = streams
    try:
        yield streams
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before


def tell(text: str) -> None:
    """One line on stderr. What a full disk or a closed terminal does to it ends nothing."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(one_line(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """`tell` of what may not be meant."""
    tell(f"warning: {text}")


def is_heard() -> bool:
    """Whether anybody can still read what is written to stdout, also when there is nothing to write for a while."""
    if not isinstance(sys.stdout, GuardedStream):
        return True
    sys.stdout.flush()
    return sys.stdout.lost is None and not _has_no_reader(sys.stdout)


def _has_no_reader(stream: GuardedStream) -> bool:
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # a stream of Python's own
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(told & select.POLLERR for _, told in poll.poll(0))


def occupy_closed_streams() -> None:
    """Put /dev/null where the process was started without stdin, stdout or stderr.

    The next file to be opened would get the number, and all that a library writes to its stderr.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
