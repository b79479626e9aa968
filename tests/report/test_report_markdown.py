from __future__ import annotations

import pytest

from vnas.report.markdown import escape


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("0.71 [0.42, 0.90]", "0.71 [0.42, 0.90]"),
        ("perf_counter_ns", "perf_counter_ns"),
        ("_x_ and *y*", r"\_x\_ and \*y\*"),
        ("[a](b)", r"[a\](b)"),
        ("[a][b]", r"[a\][b]"),
        ("[a]: http://b", r"[a\]: http://b"),
        ("a|b", r"a\|b"),
        ("a\nb\t c", "a b c"),
        ("# no heading", r"\# no heading"),
        ("- no item", r"\- no item"),
        ("1. no item", r"\1. no item"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("`x` $y$ ~~z~~", r"\`x\` \$y\$ \~~z\~~"),
        ("\\", r"\\"),
        ("c# at 50 % ~ 3", "c# at 50 % ~ 3"),
    ],
)
def test_text_stays_text(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_nothing_is_rendered_but_the_text() -> None:
    markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    hostile = "</title><script>alert(1)</script>|`x`*b*[a](http://e.example)_c_ **d** ![i](j) # k ~~l~~ \\* &lt; [m]: n"
    tokens = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(escape(hostile))
    (inline,) = [token for token in tokens if token.type == "inline"]
    assert {child.type for child in inline.children or []} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children or []) == hostile
