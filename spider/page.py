"""One HTML page that needs nothing beside itself: no network, no scripts, images within. To read, to print, to mail.

Everything that is passed as text is escaped. Parts are strings of HTML, joined by whoever builds the page.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

_STYLE = """
:root { color-scheme: light; --ink: #1f2430; --soft: #5b6474; --line: #d9dde4; --wash: #f5f6f8; --mark: #0b5cad; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 54rem; color: var(--ink); background: #fff;
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .25rem; }
p, li { overflow-wrap: anywhere; }
ul { padding-left: 1.25rem; }
.note { color: var(--soft); font-size: .9rem; }
.result { background: var(--wash); border-left: 4px solid var(--mark); margin: 1rem 0; padding: .25rem 1rem; }
.result > p { font-weight: 600; }
figure { margin: 1.25rem 0; }
figure img { display: block; max-width: 100%; height: auto; }
figure.detailed img { max-width: none; width: 100%; min-width: 38rem; }
img.pixels { image-rendering: pixelated; }
figcaption { color: var(--soft); font-size: .9rem; padding: .4rem 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .4rem 1.1rem .4rem 0; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--soft); vertical-align: bottom; }
th small, td small { display: block; color: var(--soft); font-weight: normal; }
.commands { background: var(--wash); padding: .75rem 1rem; }
.commands code { display: block; padding-left: 2ch; text-indent: -2ch; margin: .3rem 0; font-size: .82rem;
  line-height: 1.45; overflow-wrap: anywhere; }
@media (max-width: 36rem) {
  body { padding: 1.25rem 1rem 3rem; }
  table { font-size: .8rem; }
  th, td { padding-right: .6rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  figure, .result, .commands code { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  figure.detailed img { min-width: 0; }
  img.pixels { max-width: 9cm; }
  .wide { overflow: visible; }
}
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join([f"<h1>{escape(title)}</h1>", *parts])
        + "\n</main>\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """A section's heading, or with level 3 one within it."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; of kind `note` smaller."""
    return f"<p{_class(kind)}>{escape(text)}</p>"


def bullets(items: Sequence[str]) -> str:
    """A list."""
    return "<ul>\n" + "\n".join(f"<li>{escape(item)}</li>" for item in items) + "\n</ul>"


def boxed(parts: Iterable[str]) -> str:
    """Parts that a reader should see first."""
    return '<div class="result">\n' + "\n".join(parts) + "\n</div>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table; the first column names the rows. Further lines of a cell stand below its first, smaller."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "\n".join(
        f'<tr><th scope="row">{_cell(name)}</th>{"".join(f"<td>{_cell(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in rows
    )
    return (
        f'<figure><div class="wide"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
        f"{_caption(caption)}</figure>"
    )


def picture(image_file: Path, alt: str, caption: str, *, pixels: bool = False, detailed: bool = False) -> str:
    """An image within the page.

    Args:
        image_file: a .png or a .gif.
        alt: what it shows, for those who do not see it.
        pixels: keep every pixel a square when the image is scaled.
        detailed: has small print, so that narrow screens scroll it instead of shrinking it.
    """
    data = base64.b64encode(image_file.read_bytes()).decode()
    source = f"data:image/{image_file.suffix[1:]};base64,{data}"
    image = f'<img{_class("pixels" if pixels else "")} alt="{escape(alt)}" src="{source}">'
    return (
        f'<figure{_class("detailed" if detailed else "")}><div class="wide">{image}</div>{_caption(caption)}</figure>'
    )


def commands(lines: Sequence[str]) -> str:
    """Commands to copy, one a line, however narrow the page."""
    return '<div class="commands">\n' + "\n".join(f"<code>{escape(line)}</code>" for line in lines) + "\n</div>"


def _caption(text: str) -> str:
    return f"<figcaption>{escape(text)}</figcaption>"


def _cell(text: str) -> str:
    first, *more = text.split("\n")
    return escape(first) + "".join(f"<small>{escape(line)}</small>" for line in more)


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
