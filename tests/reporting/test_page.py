"""Test the files of a report from hand-made results: report.html, report.md, CSV and PNG."""

import html.parser
import re
from html import unescape

import pandas as pd
import pytest

from mlpbench.config import RunConfig
from mlpbench.reporting import formatting
from mlpbench.reporting.build import build
from mlpbench.reporting.page import write as write_report
from tests.strategies import (
    HOSTILE_REASON,
    OTHER_ENVIRONMENT,
    blocks,
    check,
    example,
    measurement,
    results,
    session,
    skip,
    timed,
    trained,
)

VOID = {"meta", "link", "br", "hr", "img", "input"}


@pytest.fixture(autouse=True)
def _no_step_summary(monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def write(records, directory):
    """Write the report of results, and return its HTML and its Markdown."""
    directory.mkdir(exist_ok=True)
    path = write_report(build(records, (), 0.9), directory)
    return path.read_text(encoding="utf-8"), (directory / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Return the folder of a report with every section; tests only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        folder = tmp_path_factory.mktemp("report")
        write(example(), folder)
    return folder


@pytest.fixture(scope="module")
def page(directory):
    return (directory / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def markdown(directory):
    return (directory / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sections():
    return build(example(), (), 0.9).sections


class Elements(html.parser.HTMLParser):
    """Hold every element with its attributes, and the text inside each `th`, `td` and `h2`; check the nesting."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("th", "td", "h2"):
            self.texts.append((tag, ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"th", "td", "h2"} & set(self.open):
            tag, text = self.texts[-1]
            self.texts[-1] = (tag, text + data)

    def text_of(self, name: str) -> list[str]:
        return [text for tag, text in self.texts if tag == name]


@pytest.fixture(scope="module")
def elements(page):
    return Elements(page)


# --- files ------------------------------------------------------------------------------------------------------------


def test_report_has_a_file_for_each_table_and_figure(directory, sections):
    expected = {"report.html", "report.md"}
    expected |= {f"{section.name}.csv" for section in sections if section.frame is not None}
    expected |= {f"{section.name}.png" for section in sections if section.figure is not None}
    assert {path.name for path in directory.iterdir()} == expected


def test_png_files_are_pictures(directory):
    for path in directory.glob("*.png"):
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
        assert width > 300
        assert height > 100


def test_csv_files_hold_the_numbers_in_full(directory, sections):
    for section in sections:
        if section.frame is None:
            continue
        frame = pd.read_csv(directory / f"{section.name}.csv")
        assert list(frame.columns) == list(section.frame.columns)
        for name in section.frame.select_dtypes("float"):
            assert frame[name].tolist() == pytest.approx(section.frame[name].tolist(), rel=1e-15, nan_ok=True)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_page_needs_no_other_file_and_no_network(page, elements):
    for tag, attributes in elements.elements:
        assert tag not in ("img", "iframe", "object", "embed")
        assert tag != "link" or attributes == {"rel": "icon", "href": "data:,"}
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert "@import" not in page
    assert {url[:1] for url in re.findall(r"url\(\s*['\"]?([^)]*)", page)} <= {"#"}


def test_every_figure_has_its_text_alternative(elements, sections):
    labels = [a["aria-label"] for tag, a in elements.elements if tag == "svg" and a.get("role") == "img"]
    assert labels == [section.alt for section in sections if section.figure is not None]
    assert all(labels)
    assert len(labels) == sum(tag == "svg" for tag, _ in elements.elements)


def test_text_alternative_has_the_numbers_of_the_figure(sections):
    (operations,) = [section for section in sections if section.name == "operations"]
    assert "forward on cpu 85.0 µs" in operations.alt
    assert "evaluate on cpu 25.0 ms" in operations.alt


def test_every_table_is_there_with_its_headings_and_cells(elements, sections):
    tables = [formatting.table(section.frame) for section in sections if section.frame is not None]
    assert elements.text_of("th") == [name for content in tables for name in content.headings]
    assert elements.text_of("td") == [cell.text for content in tables for row in content.rows for cell in row]


def test_columns_that_need_an_explanation_have_it_as_a_tooltip(elements, sections):
    tables = [formatting.table(section.frame) for section in sections if section.frame is not None]
    tooltips = [attributes.get("title", "") for tag, attributes in elements.elements if tag == "th"]
    assert tooltips == [column.help for content in tables for column in content.columns]
    assert "share of the blocks during which something else ran" in tooltips


def test_every_section_has_its_title_and_its_anchor(elements, sections):
    assert elements.text_of("h2") == [section.title for section in sections]
    ids = [attributes["id"] for _, attributes in elements.elements if "id" in attributes]
    anchors = [attributes["href"][1:] for tag, attributes in elements.elements if tag == "a"]
    assert anchors == [section.name for section in sections]
    assert set(anchors) <= set(ids)


def test_every_reference_within_the_page_has_one_target(page, elements):
    ids = [attributes["id"] for _, attributes in elements.elements if "id" in attributes]
    references = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', page))
    assert len(references) > 20
    assert {ids.count(name) for name in references} == {1}


def test_text_is_escaped(page, elements):
    assert HOSTILE_REASON in elements.text_of("td")
    assert "<b>" not in page
    assert "&lt;b&gt;none&lt;/b&gt; &amp;" in page


def test_label_in_a_figure_and_its_alternative_is_escaped(tmp_path):
    text = '<i>"&'
    page, _ = write(results(session(), trained((0.5,), optimizer=text)), tmp_path)
    labels = [attributes.get("aria-label") for tag, attributes in Elements(page).elements if tag == "svg"]
    assert any(text in label for label in labels)
    assert "<i>" not in page


def test_figures_take_the_pages_colours(page):
    svg = page[page.index("<svg") : page.rindex("</svg>")]
    assert "var(--ink)" in svg
    assert "var(--line)" in svg
    assert "#1b1d21" not in svg


def test_page_names_the_commands_that_measure_again(page):
    for command in ("pytest bench/ --preset quick", "mlpbench study --preset quick"):
        assert f"<code>{command}</code>" in page


def test_same_results_give_the_same_bytes(tmp_path, directory):
    write(example(), tmp_path / "again")
    for name in ("report.html", "report.md"):
        assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes()


# --- the text ---------------------------------------------------------------------------------------------------------


def cells(line: str) -> list[str]:
    """Return the cells of a line of a Markdown table: the texts between pipes that are not escaped."""
    assert line.startswith("| ")
    assert line.endswith(" |")
    return [unescape(part.strip().replace(r"\|", "|")) for part in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables_of(markdown: str) -> list[list[list[str]]]:
    """Return the cells of every table: lines that begin with a pipe, after a blank line."""
    tables = []
    for paragraph in re.split(r"\n\s*\n", markdown):
        lines = paragraph.strip("\n").split("\n")
        if any(line.startswith("|") for line in lines):
            tables.append([cells(line) for line in lines])
    return tables


def test_markdown_tables_are_well_formed_and_hold_every_cell(markdown, sections):
    expected = [formatting.table(section.frame) for section in sections if section.frame is not None]
    tables = tables_of(markdown)
    assert len(tables) == len(expected)
    for (heading, rule, *rows), content in zip(tables, expected, strict=True):
        assert heading == list(content.headings)
        assert rule == ["---"] * len(content.columns)
        assert rows == [[cell.text for cell in row] for row in content.rows]


def test_markdown_explains_each_column_once(markdown):
    assert markdown.count("Meaning of the columns:") == 1
    for name in ("disturbed blocks", "warm-up stable?", "confidence", "first difference"):
        assert markdown.count(f"\n- **{name}**: ") == 1


def test_markdown_points_to_the_figures_beside_it(markdown, directory, sections):
    names = re.findall(r"!\[.+\]\((.+)\)", markdown)
    assert names == [f"{section.name}.png" for section in sections if section.figure is not None]
    assert all((directory / name).is_file() for name in names)


def test_text_of_several_lines_stays_in_its_cell(tmp_path):
    _, markdown = write(results(session(), skip("first\nsecond")), tmp_path)
    assert {len(row) for row in tables_of(markdown)[0]} == {6}


def test_step_summary_gets_the_text_appended_without_figures(tmp_path, monkeypatch):
    target = tmp_path / "summary.md"
    target.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(target))
    _, markdown = write(results(session(), timed("m", [1.0])), tmp_path / "report")
    appended = target.read_text(encoding="utf-8").removeprefix("before\n")
    assert "![" in markdown
    assert "![" not in appended
    assert tables_of(appended) == tables_of(markdown)
    assert "# mlpbench report" in appended


# --- hostile and missing text -----------------------------------------------------------------------------------------


def test_markdown_text_cannot_be_taken_for_tags(markdown):
    assert "<b>" in HOSTILE_REASON
    assert "<b>" not in markdown


def test_skips_appear_with_their_reasons(markdown, elements):
    assert "## Skipped" in markdown
    rows = [row[2:] for table in tables_of(markdown) for row in table if len(row) == 6]
    assert [HOSTILE_REASON, "1", "–", "train_step (1)"] in rows
    assert HOSTILE_REASON in elements.text_of("td")


FEW = {
    "one session": [],
    "one training run": [trained((0.5, 0.95))],
    "one epoch": [trained((0.5,))],
    "no seed at the target": [trained((0.5,), seed=0), trained((0.4,), seed=1)],
    "diverged training": [trained((0.1, 0.1), diverged=True)],
    "the tutorial alone": [trained((0.5,) * 133, dataset="mnist")],
    **{
        suite: timed("m", [1.0], suite=suite)
        for suite in (
            "operations",
            "epochs",
            "activations",
            "optimizers",
            "batch_sizes",
            "widths",
            "time",
            "unheard_of",
        )
    },
    "interleaved, one round": [
        *timed("m", [1.0], suite="time", group="g"),
        *timed("n", [1.0], suite="time", group="g", config=RunConfig(seed=1)),
    ],
    "interleaved, killed in a round": [
        measurement("m", suite="time", group="g"),
        measurement("n", suite="time", group="g", config=RunConfig(seed=1)),
        *blocks("m", [1.0]),
    ],
    "measurement without blocks": [measurement("m")],
    "evaluate alone": timed("m", [1.0], operation="evaluate"),
    "two devices": [*timed("m", [1.0]), *timed("n", [0.5], config=RunConfig(device="cuda"))],
    "reruns": [check(), check("threads", first_difference="step 0 loss")],
    "skips": [skip("no CUDA device")],
    "two machines": [
        session("t", environment=OTHER_ENVIRONMENT),
        *(timed("m", [1.0]) + timed("n", [1.0], session="t")),
        *(trained((0.5,), session=name) for name in ("s", "t")),
        *(check(session=name) for name in ("s", "t")),
    ],
}


@pytest.mark.parametrize("records", FEW.values(), ids=FEW)
def test_report_of_few_results_is_whole(tmp_path, records):
    few = results(session(), records)
    report = build(few, (), 0.9)
    sections = report.sections
    page = write_report(report, tmp_path).read_text(encoding="utf-8")
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert Elements(page).text_of("h2") == [section.title for section in sections]
    assert len(tables_of(markdown)) == sum(section.frame is not None for section in sections)


def test_text_that_utf8_cannot_hold_does_not_stop_the_report(tmp_path):
    path_of_bytes = b"no file \xff".decode(errors="surrogateescape")
    page, _ = write(results(session(), skip(path_of_bytes)), tmp_path)
    assert "no file" in page
