"""A report as one page: no script, nothing loaded from elsewhere, everything that came from data escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from importlib import resources

from vnas.report.document import Block, Diagrams, Document, Facts, Figure, Items, Listing, Paragraph, Section, Table
from vnas.report.figure_style import Drawing


def _cell(text: str, numeric: bool) -> str:
    value, bracket, interval = text.partition(" [")
    if not numeric or not bracket:
        return escape(text)
    return f'{escape(value)} <span class="interval">[{escape(interval)}</span>'


def _table(table: Table) -> str:
    def kind(numeric: bool) -> str:
        return ' class="number"' if numeric else ""

    head = "".join(
        f'<th scope="col"{kind(numeric)}>{escape(name)}</th>'
        for name, numeric in zip(table.columns, table.numeric, strict=True)
    )
    rows = "".join(
        "<tr>"
        + f'<th scope="row"{kind(table.numeric[0])}>{escape(row[0])}</th>'
        + "".join(
            f"<td{kind(numeric)}>{_cell(cell, numeric)}</td>"
            for cell, numeric in zip(row[1:], table.numeric[1:], strict=True)
        )
        + "</tr>\n"
        for row in table.rows
    )
    label = escape(table.caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><caption>{label}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>"
    )


def _figure(figure: Figure, drawings: Mapping[str, Drawing]) -> str:
    encoded = base64.b64encode(drawings[figure.name].svg).decode("ascii")
    return (
        '<figure><div class="scroll" tabindex="0" role="region" aria-label="Figure">'
        f'<img src="data:image/svg+xml;base64,{encoded}" alt="{escape(figure.alt)}"></div>'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _diagrams(diagrams: Diagrams) -> str:
    drawn = "\n".join(
        f'<figure class="diagram"><figcaption><b>{escape(title)}</b> {escape(words)}</figcaption>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">{svg}</div></figure>'
        for svg, title, words in diagrams.nets
    )
    return f'<div class="diagrams">\n{drawn}\n</div>\n<p class="note">{escape(diagrams.caption)}</p>'


def _block(block: Block, drawings: Mapping[str, Drawing]) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Items(items):
            return "<ul>\n" + "\n".join(f"<li>{escape(item)}</li>" for item in items) + "\n</ul>"
        case Facts(facts):
            return '<dl class="facts">' + "".join(
                f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b>"
                + (f"<span>{escape(remark)}</span>" if remark else "")
                + "</dd></div>"
                for name, value, remark in facts
            ) + "</dl>"  # fmt: skip
        case Table():
            return _table(block)
        case Figure():
            return _figure(block, drawings)
        case Diagrams():
            return _diagrams(block)
        case Listing(summary, text):
            return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def _section(section: Section, drawings: Mapping[str, Drawing]) -> str:
    blocks = "\n".join(_block(block, drawings) for block in section.blocks)
    return (
        f'<section id="{section.anchor}" aria-labelledby="{section.anchor}-title">\n'
        f'<h2 id="{section.anchor}-title">{escape(section.title)}</h2>\n{blocks}\n</section>'
    )


def page(document: Document, drawings: Mapping[str, Drawing]) -> str:
    """The whole page.

    Args:
        document: what it says.
        drawings: the figures that it names.
    """
    style = resources.files("vnas.report").joinpath("page.css").read_text(encoding="utf-8")
    links = "".join(f'<li><a href="#{s.anchor}">{escape(s.title)}</a></li>' for s in document.sections)
    answer = "\n".join(_block(block, drawings) for block in document.answer)
    sections = "\n".join(_section(section, drawings) for section in document.sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # Whatever slips through the escaping: no script may run and nothing may be fetched.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f'<link rel="icon" href="data:,">\n<title>{escape(document.title)}</title>\n<style>\n{style}</style>\n'
        f"</head>\n<body>\n<header>\n<h1>{escape(document.title)}</h1>\n"
        f'<p class="subtitle">{escape(document.subtitle)}</p>\n</header>\n'
        f'<main>\n<div class="answer">\n{answer}\n</div>\n'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n{sections}\n</main>\n'
        f"<footer><p>{escape(document.closing)}</p></footer>\n</body>\n</html>\n"
    )
