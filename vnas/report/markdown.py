"""A report as Markdown for a repository."""

from __future__ import annotations

import re

from vnas.report.document import Block, Diagrams, Document, Facts, Figure, Items, Listing, Paragraph, Section, Table

# Emphasis, code, tables, strikethrough and formulas; an underscore inside a word is none of these.
_SPECIAL = re.compile(r"[\\`*|$]|~(?=~)|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
# A link or the definition of one; brackets alone are text, as around an interval.
_LINK = re.compile(r"\](?=[(\[:])")
_LINE_START = re.compile(r"^(#+|[-+]|\d+[.)])(?=\s|$)")


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    plain = _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LINE_START.sub(r"\\\1", _LINK.sub(r"\\]", plain))


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def _table(table: Table) -> str:
    lines = [
        "| " + " | ".join(map(escape, table.columns)) + " |",
        "|" + "|".join(" ---: " if numeric else " --- " for numeric in table.numeric) + "|",
        *("| " + " | ".join(map(escape, row)) + " |" for row in table.rows),
    ]
    return f"{escape(table.caption)}\n\n" + "\n".join(lines)


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return escape(text)
        case Items(items):
            return "\n".join(f"- {escape(item)}" for item in items)
        case Facts(facts):
            return "\n".join(
                f"- {escape(name)}: **{escape(value)}**" + (f" ({escape(remark)})" if remark else "")
                for name, value, remark in facts
            )
        case Table():
            return _table(block)
        case Figure(name, caption, alt):
            return f"![{escape(alt)}](figures/{name}.png)\n\n{escape(caption)}"
        case Diagrams():
            return ""
        case Listing(summary, body):
            return f"<details><summary>{escape(summary)}</summary>\n\n{_fenced(body)}\n\n</details>"


def _section(section: Section) -> str:
    blocks = [written for block in section.blocks if (written := _block(block))]
    return "\n\n".join([f"## {escape(section.title)}", *blocks])


def text(document: Document) -> str:
    """The whole report; figures are linked relative to it."""
    parts = [f"# {escape(document.title)}", escape(document.subtitle)]
    parts += [_block(block) for block in document.answer]
    parts += [_section(section) for section in document.sections]
    parts.append(escape(document.closing))
    return "\n\n".join(parts) + "\n"
