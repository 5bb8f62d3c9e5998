"""The files of a report made from hand-made results."""

import html.parser
import io
import re
import subprocess
import sys
from html import unescape

import pandas as pd
import pytest
from rich.console import Console

from mlpbench.config import RunConfig
from mlpbench.reporting import formatting, terminal
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
    """Write the report of results; its HTML and its Markdown."""
    directory.mkdir(exist_ok=True)
    path = write_report(build(records, (), 0.9), directory)
    return path.read_text(encoding="utf-8"), (directory / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A report of every section; read only."""
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
def made():
    return build(example(), (), 0.9).sections


class Elements(html.parser.HTMLParser):
    """Every element with its attributes, and the text inside each `th`, `td` and `h2`; refuses bad nesting."""

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

    def text_of(self, wanted: str) -> list[str]:
        return [text for tag, text in self.texts if tag == wanted]


@pytest.fixture(scope="module")
def elements(page):
    return Elements(page)


# --- files ------------------------------------------------------------------------------------------------------------


def test_report_writes_a_page_a_text_and_a_file_for_each_table_and_figure(directory, made):
    expected = {"report.html", "report.md"}
    expected |= {f"{section.name}.csv" for section in made if section.frame is not None}
    expected |= {f"{section.name}.png" for section in made if section.figure is not None}
    assert {path.name for path in directory.iterdir()} == expected


def test_example_fills_every_section(made):
    assert [section.name for section in made] == [
        "operations",
        "epochs",
        "activations",
        "optimizers",
        "batch-sizes",
        "widths",
        "timed",
        "in-turns",
        "tutorial",
        "accuracy-digits",
        "time-to-accuracy-digits",
        "accuracy-mnist",
        "time-to-accuracy-mnist",
        "activation-functions",
        "determinism",
        "skipped",
        "protocol",
    ]


def test_png_files_are_pictures(directory):
    for path in directory.glob("*.png"):
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
        assert width > 300
        assert height > 100


def test_csv_files_hold_the_numbers_in_full(directory, made):
    for section in made:
        if section.frame is None:
            continue
        back = pd.read_csv(directory / f"{section.name}.csv")
        assert list(back.columns) == list(section.frame.columns)
        for name in section.frame.select_dtypes("float"):
            assert back[name].tolist() == pytest.approx(section.frame[name].tolist(), rel=1e-15, nan_ok=True)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_page_needs_no_other_file_and_no_network(page, elements):
    for tag, attributes in elements.elements:
        assert tag not in ("img", "iframe", "object", "embed")
        assert tag != "link" or attributes == {"rel": "icon", "href": "data:,"}
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert "@import" not in page
    assert {url[:1] for url in re.findall(r"url\(\s*['\"]?([^)]*)", page)} <= {"#"}


def test_every_figure_speaks_its_text_alternative(elements, made):
    labels = [a["aria-label"] for tag, a in elements.elements if tag == "svg" and a.get("role") == "img"]
    assert labels == [section.alt for section in made if section.figure is not None]
    assert all(labels)
    assert len(labels) == sum(tag == "svg" for tag, _ in elements.elements)


def test_text_alternative_has_the_numbers_of_the_figure(made):
    (operations,) = [section for section in made if section.name == "operations"]
    assert "forward on cpu 85.0 µs" in operations.alt
    assert "evaluate on cpu 25.0 ms" in operations.alt


def test_every_table_is_there_with_its_headings_and_cells(elements, made):
    tables = [formatting.table(section.frame) for section in made if section.frame is not None]
    assert elements.text_of("th") == [name for content in tables for name in content.columns]
    assert elements.text_of("td") == [cell.text for content in tables for row in content.rows for cell in row]


def test_every_section_has_its_title_and_its_anchor(elements, made):
    assert elements.text_of("h2") == [section.title for section in made]
    ids = [attributes["id"] for _, attributes in elements.elements if "id" in attributes]
    anchors = [attributes["href"][1:] for tag, attributes in elements.elements if tag == "a"]
    assert anchors == [section.name for section in made]
    assert set(anchors) <= set(ids)


def test_every_reference_within_the_page_has_one_target(page, elements):
    ids = [attributes["id"] for _, attributes in elements.elements if "id" in attributes]
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', page))
    assert len(used) > 20
    assert {ids.count(name) for name in used} == {1}


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
    """The cells of a line of a Markdown table: what stands between pipes that are not escaped."""
    assert line.startswith("| ")
    assert line.endswith(" |")
    return [unescape(part.strip().replace(r"\|", "|")) for part in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables_of(markdown: str) -> list[list[list[str]]]:
    """Every run of lines that begin with a pipe, each after a blank line."""
    found = []
    for paragraph in re.split(r"\n\s*\n", markdown):
        lines = paragraph.strip("\n").split("\n")
        if any(line.startswith("|") for line in lines):
            found.append([cells(line) for line in lines])
    return found


def test_markdown_tables_are_well_formed_and_hold_every_cell(markdown, made):
    expected = [formatting.table(section.frame) for section in made if section.frame is not None]
    found = tables_of(markdown)
    assert len(found) == len(expected)
    for (heading, rule, *rows), content in zip(found, expected, strict=True):
        assert heading == list(content.columns)
        assert rule == ["---"] * len(content.columns)
        assert rows == [[cell.text for cell in row] for row in content.rows]


def test_markdown_points_to_the_figures_beside_it(markdown, directory, made):
    names = re.findall(r"!\[.+\]\((.+)\)", markdown)
    assert names == [f"{section.name}.png" for section in made if section.figure is not None]
    assert all((directory / name).is_file() for name in names)


def test_text_of_several_lines_stays_in_its_cell(tmp_path):
    _, markdown = write(results(session(), skip("first\nsecond")), tmp_path)
    assert {len(row) for row in tables_of(markdown)[0]} == {3}


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


# --- what it says -----------------------------------------------------------------------------------------------------


def test_markdown_text_cannot_be_taken_for_tags(markdown):
    assert "<b>" in HOSTILE_REASON
    assert "<b>" not in markdown


def test_skips_appear_with_their_reasons(markdown, elements):
    assert "## Skipped" in markdown
    assert any([HOSTILE_REASON, "1", "train_step"] in table for table in tables_of(markdown))
    assert HOSTILE_REASON in elements.text_of("td")


def test_summary_names_machine_and_stack_of_the_newest_session():
    newest = session("t", started_at="2027-01-01T00:00:00+00:00", environment=OTHER_ENVIRONMENT)
    text = build(results(newest, session()), (), 0.9).summary
    for part in ("Example GPU host", "2 CPUs", "8 GiB", "Example GPU (CUDA 13.0)", "PyTorch 2.11.0", "at 0123abc"):
        assert part in text


def test_head_has_the_numbers_that_a_reader_wants_first():
    found = {fact.name: fact for fact in build(example(), (), 0.9).facts}
    assert found["Training step, cpu"].value == "900 µs"
    assert found["Epoch in memory, cpu"].value == "600 ms"
    assert "60,000" not in found["Training step, cpu"].note
    assert "digits, batch 100" in found["Epoch in memory, cpu"].note
    assert found["Same seed, repeat"].value == "equal bits"
    assert found["Same seed, threads"].value == "bits differ"
    assert "step 0 gradient layers.0.weight" in found["Same seed, threads"].note
    assert found["Best test accuracy"].value == "0.9200"


def test_suite_on_two_workloads_has_a_section_for_each():
    made = build(
        results(
            session(),
            timed("m", [1.0], suite="epochs", operation="epoch"),
            timed("n", [2.0], suite="epochs", operation="epoch", config=RunConfig(batch_size=10)),
        ),
        (),
        0.9,
    ).sections
    assert [(s.name, s.title) for s in made[:2]] == [
        ("epochs", "Epoch: batch_size=100"),
        ("epochs-2", "Epoch: batch_size=10"),
    ]


def test_tutorial_section_is_for_the_tutorials_workload_alone():
    reached = build(results(session(), trained((0.8,), dataset="mnist", loader="dataloader", seed=3)), (), 0.9).sections
    other = build(results(session(), trained((0.8,), dataset="mnist", lr=0.1)), (), 0.9).sections
    assert "tutorial" in [section.name for section in reached]
    assert "tutorial" not in [section.name for section in other]


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
    "in turns, one round": [
        *timed("m", [1.0], suite="time", group="g"),
        *timed("n", [1.0], suite="time", group="g", config=RunConfig(seed=1)),
    ],
    "in turns, killed in a round": [
        measurement("m", suite="time", group="g"),
        measurement("n", suite="time", group="g", config=RunConfig(seed=1)),
        *blocks("m", [1.0]),
    ],
    "measurement without blocks": [measurement("m")],
    "evaluate alone": timed("m", [1.0], operation="evaluate"),
    "two devices": [*timed("m", [1.0]), *timed("n", [0.5], config=RunConfig(device="cuda"))],
    "checks": [check(), check("threads", first_difference="step 0 loss")],
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
    made = report.sections
    page = write_report(report, tmp_path).read_text(encoding="utf-8")
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert Elements(page).text_of("h2") == [section.title for section in made]
    assert len(tables_of(markdown)) == sum(section.frame is not None for section in made)


def test_no_figure_is_empty():
    (section, *_) = build(results(session(), timed("m", [1.0], operation="evaluate")), (), 0.9).sections
    assert section.name == "operations"
    assert section.figure is None


def test_text_that_utf8_cannot_hold_does_not_stop_the_report(tmp_path):
    path_of_bytes = b"no file \xff".decode(errors="surrogateescape")
    page, _ = write(results(session(), skip(path_of_bytes)), tmp_path)
    assert "no file" in page


# --- the terminal -----------------------------------------------------------------------------------------------------


def printed(show, *arguments) -> str:
    output = io.StringIO()
    console = Console(file=output, width=terminal.PIPE_WIDTH, force_terminal=False, highlight=False, soft_wrap=True)
    show(*(console if argument is Console else argument for argument in arguments))
    return output.getvalue()


def test_terminal_gets_every_table(made):
    text = printed(terminal.show, build(example(), (), 0.9), Console)
    for section in made:
        if section.frame is not None:
            assert section.title in text
            assert all(cell.text in text for row in formatting.table(section.frame).rows for cell in row)


def test_training_shows_its_first_and_last_epochs_and_draws_two_plots(tmp_path):
    run = results(session(), trained(tuple(epoch / 20 for epoch in range(20))))
    text = printed(terminal.show_training, run, Console, tmp_path)
    first_words = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert [word for word in first_words if word.isdecimal()] == ["1", "2", "3", "4", "17", "18", "19", "20"]
    assert {path.name for path in tmp_path.iterdir()} == {"loss.png", "accuracy.png"}


def test_study_shows_accuracies_and_how_many_seeds_reached_the_target():
    runs = results(session(), trained((0.5, 0.95)), trained((0.5, 0.6), seed=1))
    text = printed(terminal.show_study, runs, Console, 0.9)
    assert "Time to 90% test accuracy" in text
    assert "0.7750" in text
    assert re.search(r"\b2 +1 +", text)


def test_timings_show_ratios_only_where_something_ran_in_turns():
    alone = printed(terminal.show_timings, results(session(), timed("m", [1.0], suite="time")), Console)
    both = [timed("m", [1.0] * 2, group="g"), timed("n", [2.0] * 2, group="g", config=RunConfig(seed=1))]
    in_turns = printed(terminal.show_timings, results(session(), *both), Console)
    assert "Ratios" not in alone
    assert "2.00×" in in_turns


# --- imports ----------------------------------------------------------------------------------------------------------

HEAVY = {"torch", "torchvision", "sklearn", "pandas", "matplotlib", "seaborn"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("mlpbench", HEAVY | {"numpy", "scipy", "rich"}),
        ("mlpbench.records.kinds", HEAVY | {"numpy", "scipy"}),
        ("mlpbench.records.store", HEAVY | {"numpy", "scipy"}),
        ("mlpbench.cli.main", HEAVY),
        ("mlpbench.judging.statistics", {"torch", "torchvision", "sklearn", "pandas"}),
        ("mlpbench.reporting.page", {"torch", "torchvision", "sklearn"}),
        ("mlpbench.training.trainer", {"pandas", "matplotlib", "seaborn"}),
    ],
)
def test_importing_a_module_loads_nothing_that_it_does_not_need(module, unwanted):
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert module in done.stdout.split()
    assert unwanted & set(done.stdout.split()) == set()
