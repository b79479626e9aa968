"""A report before it is a page or a text: sections of blocks, plain text throughout."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of points."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """A few named values, each with what qualifies it: (name, value, remark)."""

    facts: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it.

    Attributes:
        caption: what it shows.
        columns: the names.
        numeric: whether a column holds numbers, one entry a column.
        rows: the cells.
    """

    caption: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A figure by the name of its file.

    Attributes:
        name: file name without folder and ending.
        caption: what to see in it.
        alt: what it shows, for who cannot see it.
    """

    name: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Diagrams:
    """Nets, drawn; for a page only, as the tables say the same.

    Attributes:
        nets: for each its drawing as SVG that is safe to embed, its name, and a few words.
        caption: how to read them.
    """

    nets: tuple[tuple[str, str, str], ...]
    caption: str


@dataclass(frozen=True)
class Listing:
    """Text to be kept as it is, behind a summary."""

    summary: str
    text: str


Block = Paragraph | Items | Facts | Table | Figure | Diagrams | Listing


@dataclass(frozen=True)
class Section:
    """A heading and what is under it."""

    title: str
    anchor: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: of the page.
        subtitle: device, data, extent.
        answer: the findings, before everything else.
        sections: the rest.
        closing: provenance.
    """

    title: str
    subtitle: str
    answer: tuple[Block, ...]
    sections: tuple[Section, ...]
    closing: str
