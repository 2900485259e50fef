"""Bytes to text, whatever the editor saved: UTF-8, or what a byte order mark announces."""

from __future__ import annotations

import codecs

from untrusted.errors import UnreadableError

_MARKS = (  # the longer ones first: that of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode(content: bytes, where: str) -> str:
    """The text of a file. Raises UnreadableError: `where`, the encoding that was tried, and the place that is wrong."""
    mark, encoding = next(((mark, name) for mark, name in _MARKS if content.startswith(mark)), (b"", "utf-8"))
    try:
        return content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = content[len(mark) :][: error.start].count(b"\n") + 1
        guess = "it may be UTF-16 without a byte order mark" if b"\0" in content[:4] else "it may be Latin-1"
        raise UnreadableError(
            f"{where}: not {encoding.upper()}: byte 0x{error.object[error.start]:02x} in line {line}; "
            f"{guess}; save it as UTF-8"
        ) from None
