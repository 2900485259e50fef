"""What an editor saved is read, or refused by its line and with what it may be."""

from __future__ import annotations

import pytest

from untrusted.errors import UnreadableError
from untrusted.text import decode

TEXT = "a: é\nb: 雪\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_unicode_with_a_byte_order_mark_is_read(encoding):
    assert decode(TEXT.encode(encoding), "x.yaml") == TEXT


@pytest.mark.parametrize(("mark", "encoding"), [(b"\xfe\xff", "utf-16-be"), (b"\0\0\xfe\xff", "utf-32-be")])
def test_the_other_order_of_bytes_is_read(mark, encoding):
    assert decode(mark + TEXT.encode(encoding), "x.yaml") == TEXT


def test_latin1_is_refused_by_its_line():
    with pytest.raises(UnreadableError, match=r"^x\.yaml: not UTF-8: byte 0xe9 in line 2; it may be Latin-1; save it"):
        decode("a: 1\nb: é\n".encode("latin-1"), "x.yaml")


def test_utf16_without_a_mark_is_named():
    with pytest.raises(UnreadableError, match="it may be UTF-16 without a byte order mark"):
        decode("aé".encode("utf-16-le"), "x.yaml")


def test_text_that_was_cut_within_a_letter_is_refused():
    for encoding in ("utf-8", "utf-16", "utf-32"):
        with pytest.raises(UnreadableError, match=r"^x\.yaml: not UTF-"):
            decode("雪".encode(encoding)[:-1], "x.yaml")
