"""Pages of HTML."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

from spider import page


class Reader(HTMLParser):
    """Tags in order, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.sources: list[str | None] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_text_is_never_markup():
    evil = "<script>alert('x')</script> & \"quotes\""
    parts = [
        page.paragraph(evil),
        page.heading(evil),
        page.bullets([evil]),
        page.table([evil], [[evil, f"{evil}\n{evil}"]], evil),
        page.commands([evil]),
    ]
    read = Reader(page.page(evil, parts))
    assert "script" not in read.tags
    assert "".join(read.text).count(evil) == 11


def test_a_picture_is_within_the_page(tmp_path: Path):
    png = tmp_path / "a.png"
    png.write_bytes(b"\x89PNG pixels")
    (source,) = Reader(page.picture(png, 'what "it" shows', "caption")).sources
    assert source == "data:image/png;base64," + base64.b64encode(b"\x89PNG pixels").decode()
