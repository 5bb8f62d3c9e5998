"""Throw hostile texts at every output: none changes what the output means."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mlpbench.reporting import escaping, formatting, page, terminal
from mlpbench.reporting.build import build
from mlpbench.reporting.section import Fact, Section
from tests.strategies import results, session, skip

HOSTILE = [
    "<script>alert(1)</script>",
    "![x](https://evil.example/pixel.png)",
    "[click](javascript:alert(1))",
    "`code` ``more`` ```",
    "a|b|c",
    "# heading",
    "- item",
    "1. item",
    "12) item",
    "    indented code",
    "> quote",
    "===",
    "---",
    "<!-- -->",
    "https://evil.example and www.evil.example",
    "<https://evil.example>",
    "**bold** _emphasis_ __both__ ~~gone~~",
    "$\\frac{1}{2}$",
    "&lt;b&gt; &amp; &#60;",
    "\\`x\\`",
    "line\n\n# heading\n| a | b |\n",
    "\x1b[31mred\x1b[0m\a\x08",
    "\ud800 \x00 \u202e \ufffe",
    "=1+1",
    '=HYPERLINK("https://evil.example")',
    "@SUM(A1)",
    "+1",
    "-1",
    "\t=1",
    "\r=1",
    "{{ 7 * 7 }} {% for x in y %}",
]
PIECES = st.lists(st.sampled_from([*HOSTILE, *"`*_[]()<>!|#\n\\~$@=+- &", "a", "1. ", "x_y"]), max_size=12).map("".join)
ANY = st.one_of(st.sampled_from(HOSTILE), PIECES, st.text(max_size=40))
RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def inline_types(tokens) -> set[str]:
    return {token.type for token in tokens} | {child.type for token in tokens for child in token.children or ()}


def visible(text: str) -> str:
    """Return a text as an output of one line shows it."""
    return escaping.printable(" ".join(text.splitlines()))


@given(ANY)
def test_markdown_of_a_text_is_one_paragraph_of_text(text):
    tokens = RENDERER.parse(f"before {escaping.markdown(text)} after")
    assert inline_types(tokens) <= {"paragraph_open", "inline", "paragraph_close", "text", "text_special"}
    assert tokens[1].children is not None
    shown = "".join(child.content for child in tokens[1].children)
    assert shown == f"before {visible(text)} after"


@given(ANY.filter(str.strip))
def test_text_at_the_beginning_of_a_line_begins_no_block(text):
    tokens = RENDERER.parse(escaping.markdown(text))
    assert inline_types(tokens) <= {"paragraph_open", "inline", "paragraph_close", "text", "text_special"}


@given(ANY)
def test_code_span_holds_the_text_and_ends_with_it(text):
    tokens = RENDERER.parse(f"run {escaping.code(text)} now")
    (code,) = [child for child in tokens[1].children or () if child.type == "code_inline"] or [None]
    assert inline_types(tokens) <= {"paragraph_open", "inline", "paragraph_close", "text", "code_inline"}
    if code is not None:
        assert code.content.strip() == visible(text).strip()
    else:
        assert not text.strip()


@given(st.lists(ANY, min_size=2, max_size=4))
def test_markdown_keeps_the_cells_of_a_table(texts):
    line = " | ".join(escaping.markdown(text) for text in texts)
    tokens = RENDERER.parse(f"| {' | '.join('h' for _ in texts)} |\n|{' --- |' * len(texts)}\n| {line} |\n")
    cells = [tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "td_open"]
    assert len(cells) == len(texts)
    assert not {"html_inline", "link_open", "image", "code_inline", "em_open", "strong_open"} & inline_types(tokens)


@pytest.mark.parametrize("text", ["https://evil.example", "http://a.b", "www.evil.example", "WWW.x.y", "a@b.example"])
def test_bare_address_is_no_link_for_readers_that_make_links(text):
    assert not re.search(r"https?://|www\.|@", escaping.markdown(text), re.IGNORECASE)


def test_names_of_the_project_stay_readable_in_the_markdown():
    assert escaping.markdown("num_threads=2 custom_relu 0.5 µs") == "num_threads=2 custom_relu 0.5 µs"


@given(st.lists(ANY, min_size=1, max_size=4))
def test_csv_has_no_formula_and_loses_no_cell(texts):
    content = escaping.csv(pd.DataFrame({"text": texts, "number": [-1.5] * len(texts)}))
    rows = list(csv.reader(io.StringIO(content, newline="")))
    assert len(rows) == len(texts) + 1
    for text, (cell, number) in zip(texts, rows[1:], strict=True):
        assert number == "-1.5"
        assert not cell.lstrip().startswith(("=", "+", "-", "@")) or len(cell.strip()) == 1
        assert cell.removeprefix("'") == escaping.printable_lines(text).removeprefix("'")


def test_csv_keeps_numbers_and_truth_values():
    frame = pd.DataFrame({"s": [1e-300, -2.0], "n": [-3, 2**40], "b": [True, False], "none": [None, "=x"]})
    assert escaping.csv(frame).splitlines() == ["s,n,b,none", "1e-300,-3,True,", "-2.0,1099511627776,False,'=x"]


# --- whole outputs ----------------------------------------------------------------------------------------------------


def hostile_sections(text: str) -> list[Section]:
    frame = pd.DataFrame({"reason": [text], "median_s": [0.5]})
    return [Section(name="s", title=text, text=text, alt=text, frame=frame, commands=(text,))]


class Tags(HTMLParser):
    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("text", HOSTILE)
def test_page_with_hostile_text_has_the_structure_of_one_without(text):
    harmless = Tags(page.html("title", "summary", hostile_sections("harmless")))
    hostile = Tags(page.html(text, text, hostile_sections(text)))
    assert hostile.tags == harmless.tags
    assert escaping.printable_lines(text) in hostile.texts
    assert hostile.rawdata == "" if hasattr(hostile, "rawdata") else True


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_page_with_hostile_text_has_the_structure_of_one_without(text):
    def types(value: str) -> list[str]:
        tokens = RENDERER.parse(page.markdown(f"a {value}", f"a {value}", hostile_sections(f"a {value}")))
        return [token.type for token in tokens]

    assert types(text) == types("harmless")
    tokens = RENDERER.parse(page.markdown(text, text, hostile_sections(text)))
    assert not {"html_inline", "html_block", "link_open", "image"} & inline_types(tokens)


@pytest.mark.parametrize("text", HOSTILE)
def test_terminal_shows_hostile_text_without_obeying_it(text, capsys):
    terminal.show_sections(hostile_sections(text), terminal.console())
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert all(c.isprintable() or c == "\n" for c in output)
    for line in escaping.printable_lines(text).split("\n"):
        assert line.strip() in output


@pytest.mark.parametrize("text", HOSTILE)
def test_report_of_hostile_records_is_written_whole(text, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    report = build(results(session(command=text), skip(text)), (), 0.9)
    page.write(report, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} >= {".html", ".md", ".csv"}
    for path in (tmp_path / "report.md", summary):
        tokens = RENDERER.parse(path.read_text(encoding="utf-8"))
        assert not {"html_inline", "html_block", "link_open"} & inline_types(tokens)
    json.dumps(formatting.table(report.sections[0].frame).headings if report.sections[0].frame is not None else [])


def test_fact_with_hostile_text_is_one_item_of_the_list():
    content = page._content("t", "s", [Fact(name="**x**", value="<b>", note="\n- item")], [], None)
    tokens = RENDERER.parse(page._markdown(content, has_figures=False))
    assert [token.type for token in tokens].count("list_item_open") == 1
