"""A report as Markdown for a repository."""

from __future__ import annotations

import re

from vnas.report.document import Block, Diagram, Document, Facts, Figure, Items, Listing, Paragraph, Section, Table

_SPECIAL = re.compile(r"([\\`*_\[\]|#~$])")


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    plain = " ".join(text.split())
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"^([-+]|\d+[.)])(?=\s|$)", r"\\\1", _SPECIAL.sub(r"\\\1", plain))


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
        case Diagram(_, title, caption):
            return f"- {escape(title)}: {escape(caption)}"
        case Listing(summary, body):
            return f"{escape(summary)}\n\n{_fenced(body)}"


def _section(section: Section) -> str:
    parts: list[str] = [f"## {escape(section.title)}"]
    previous: Block | None = None
    for block in section.blocks:
        written = _block(block)
        if isinstance(block, Diagram) and isinstance(previous, Diagram):
            parts[-1] += f"\n{written}"
        else:
            parts.append(written)
        previous = block
    return "\n\n".join(parts)


def text(document: Document) -> str:
    """The whole report; figures are linked relative to it."""
    parts = [f"# {escape(document.title)}", escape(document.subtitle)]
    parts += [_block(block) for block in document.answer]
    parts += [_section(section) for section in document.sections]
    parts.append(escape(document.closing))
    return "\n\n".join(parts) + "\n"
