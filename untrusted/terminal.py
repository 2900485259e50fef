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
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, TextIO

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

    A stream that is full for now (EAGAIN) is waited for. A full disk loses what is written until it has room again.

    Attributes:
        refusal: the first error with which text was refused; None while none was, and of a process without the stream.
        is_gone: whether the stream can take nothing any more, so that nothing is written to it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """`stream`: None where the process was started without one."""
        self._stream = stream
        self.refusal: OSError | None = None
        self.is_gone = stream is None
        # Only a buffer of bytes says how much of a write was taken; a text stream drops what was not
        self._buffer: BinaryIO | None = getattr(stream, "buffer", None)
        self._try(self._flush)  # what was printed before comes first

    def write(self, text: str) -> int:
        """Write. Control codes are written out, but for those of progress bars, which begin a call or are all of it."""
        own = _OWN_CODES.match(text)
        kept = own[0] if own is not None and (own[0] == "\r" or own[0] == text) else ""
        self._try(lambda: self._send(kept + escaped(text[len(kept) :])))
        return len(text)

    def flush(self) -> None:
        """Send what is held back."""
        self._try(self._flush)

    def release(self) -> None:
        """`flush`, and forget what could not be sent: Python would try once more at its end, and fail aloud."""
        if not self.is_gone and not self._try(self._flush):
            self._forget()

    def isatty(self) -> bool:
        """Whether somebody watches."""
        return not self.is_gone and self._stream is not None and self._stream.isatty()

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

    def _try(self, act: Callable[[], None]) -> bool:
        """Whether `act` was done, and nothing was refused."""
        if self.is_gone:
            return False
        try:
            act()
        except ValueError:  # it has been closed
            self.refusal = self.refusal or OSError(errno.EBADF, os.strerror(errno.EBADF))
            self.is_gone = True
        except OSError as error:
            self.refusal = self.refusal or error
            if error.errno in (errno.EPIPE, errno.EBADF) or (error.errno == errno.EIO and self._is_terminal()):
                self.is_gone = True
                self._forget()
        else:
            return True
        return False

    def _send(self, text: str) -> None:
        assert self._stream is not None
        data = text.encode(self.encoding, "backslashreplace")
        if self._buffer is None:
            self._stream.write(data.decode(self.encoding))
            return
        while data:
            try:
                taken = self._buffer.write(data) or 0  # None of a file without a buffer, which is full
            except BlockingIOError as full:
                taken = full.characters_written
            data = data[taken:]
            if data:
                self._await_room()
        if getattr(self._stream, "line_buffering", False) and ("\n" in text or "\r" in text):
            self._flush()

    def _flush(self) -> None:
        assert self._stream is not None
        while True:
            try:
                return self._stream.flush()
            except BlockingIOError:
                self._await_room()

    def _await_room(self) -> None:
        """As a write to a stream that blocks does. A reader that goes ends the wait as well."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        poll.poll()

    def _is_terminal(self) -> bool:
        """Also one that has hung up, which `isatty` does not know any more."""
        try:
            return stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
        except (OSError, ValueError):
            return False

    def _forget(self) -> None:
        """What the stream still holds goes nowhere."""
        try:
            number = self.fileno()
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
            stream.release()
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
    return not sys.stdout.is_gone and not _has_no_reader(sys.stdout)


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
