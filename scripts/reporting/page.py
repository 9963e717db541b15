"""What a report is made of, as one HTML page that loads nothing, and as Markdown."""

from __future__ import annotations

import base64
import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from scripts.table import markdown

CSS_DPI = 96  # pixels of a page in an inch
LONG = 24  # letters of words, or of a list, that may be broken into lines; a number stays together
STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1c2430; font: 16px/1.55 system-ui, "Segoe UI", "Noto Sans", sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0.5rem 0 0.25rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 0.5rem; padding-top: 1rem; border-top: 1px solid #d8dee6; }
p, li { max-width: 48rem; }
p { margin: 0.6rem 0; }
nav { font-size: 0.9rem; margin: 1rem 0; }
nav a { margin-right: 1rem; white-space: nowrap; display: inline-block; }
a { color: #00508c; }
ul.headline { padding-left: 1.2rem; font-size: 1.08rem; }
ul.headline li { margin: 0.4rem 0; }
p.absent { color: #5a4a12; background: #fdf6dc; border-left: 4px solid #d9b83a; padding: 0.4rem 0.8rem; }
figure { margin: 1.5rem 0; }
.wide { overflow-x: auto; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { color: #49566a; font-size: 0.9rem; text-align: left; max-width: 58rem; }
figcaption { margin-top: 0.5rem; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; margin: 0.4rem 0 0.6rem; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid #e3e8ee; text-align: right; vertical-align: top; }
th { border-bottom: 2px solid #b9c3cf; font-weight: 600; vertical-align: bottom; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
table.words th { text-align: left; }
table.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td.words { white-space: normal; min-width: 10rem; }
tbody tr:hover { background: #f5f8fb; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: #00508c; }
@media (max-width: 45rem) { body { font-size: 15px; } figure img { max-width: 46rem; } }
@media print { h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str

    def to_html(self) -> str:
        return f"<p>{html.escape(self.text)}</p>"


@dataclass(frozen=True)
class Absent:
    """What is left out, and why."""

    text: str

    def to_html(self) -> str:
        return f'<p class="absent">Left out: {html.escape(self.text)}</p>'


@dataclass(frozen=True)
class Sentences:
    """What a reader should take away, a sentence a line."""

    sentences: Sequence[str]

    def to_html(self) -> str:
        items = "\n".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences)
        return f'<ul class="headline">\n{items}\n</ul>'


@dataclass(frozen=True)
class Table:
    """Attributes:

    rows: of as many texts as the head has.
    words: texts rather than numbers, to be read from the left. folded: hidden until it is asked for.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False
    folded: bool = False

    def to_html(self) -> str:
        head = _row("th", self.head) if any(self.head) else ""
        rows = "\n".join(_row("td", row) for row in self.rows)
        kind = ' class="words"' if self.words else ""
        table = f"<table{kind}><thead>{head}</thead>\n<tbody>\n{rows}\n</tbody></table>"
        table = f'<div class="wide">{table}</div>'
        caption = html.escape(self.caption)
        if self.folded:
            return f"<details><summary>{caption}</summary>\n{table}</details>"
        return f"<figure><figcaption>{caption}</figcaption>\n{table}</figure>"

    def to_markdown(self) -> str:
        return markdown([self.head, *self.rows])


@dataclass(frozen=True)
class Figure:
    """Attributes:

    path: of a PNG, which the page holds itself. alternative: what it shows, for who does not see it.
    """

    path: Path
    caption: str
    alternative: str

    def to_html(self) -> str:
        data = base64.b64encode(self.path.read_bytes()).decode("ascii")
        with Image.open(self.path) as image:
            width = round(image.width * CSS_DPI / image.info["dpi"][0])
        shown = f'<img width="{width}" alt="{html.escape(self.alternative)}" src="data:image/png;base64,{data}">'
        caption = f"<figcaption>{html.escape(self.caption)} <code>{html.escape(self.path.name)}</code></figcaption>"
        return f'<figure><div class="wide">{shown}</div>{caption}</figure>'


Part = Text | Absent | Sentences | Table | Figure


@dataclass
class Section:
    """Attributes:

    title: its heading. parts: from top to bottom.
    """

    title: str
    parts: list[Part] = field(default_factory=list)

    @property
    def printed(self) -> list[Table]:
        """Its tables of numbers, which are printed as Markdown, too; not those that are folded."""
        tables = [part for part in self.parts if isinstance(part, Table)]
        return [table for table in tables if not (table.words or table.folded)]


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """One HTML document; nothing in it is loaded from elsewhere."""
    links = "\n".join(f'<a href="#s{i}">{html.escape(s.title)}</a>' for i, s in enumerate(sections, start=1))
    bodies = "\n".join(
        f'<section id="s{i}"><h2>{html.escape(section.title)}</h2>\n'
        + "\n".join(part.to_html() for part in section.parts)
        + "\n</section>"
        for i, section in enumerate(sections, start=1)
    )
    opening = textwrap.dedent(f"""\
        <!doctype html>
        <html lang="en">
        <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <title>{html.escape(title)}</title>
        """)
    return (
        f"{opening}<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{html.escape(title)}</h1>\n"
        f"<p>{html.escape(subtitle)}</p>\n<nav>{links}</nav>\n{bodies}\n</main>\n</body>\n</html>\n"
    )


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}{_kind(cell)}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _kind(cell: str) -> str:
    return ' class="words"' if len(cell) > LONG and (cell[0].isalpha() or "; " in cell) else ""
