"""report.html in a browser, opened from the disk."""

import re
import shutil

import pytest

from mlpbench.config import RunConfig
from mlpbench.reporting.build import build
from mlpbench.reporting.page import html, markdown, write
from mlpbench.reporting.section import ReportData
from mlpbench.reporting.sections import history, verdicts
from tests.strategies import ENVIRONMENT, HOSTILE_REASON, changed, example, plan, replicated, results, session, timed

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
UNITS = {"µs": 1e-6, "ms": 1e-3, "s": 1.0}


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"needs a Chromium on the PATH: {', '.join(names)}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        return write(build(example(), (), 0.9), tmp_path_factory.mktemp("page")).as_uri()


class Visit:
    """Open a page, and record its errors and its requests."""

    def __init__(self, browser, url, size="desktop", theme="light"):
        self.context = browser.new_context(viewport=SIZES[size], color_scheme=theme)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)

    def colour(self, selector: str, name: str) -> tuple[int, ...]:
        """Return a colour of the first element that matches, as red, green, blue."""
        style = f"getComputedStyle(document.querySelector({selector!r})).{name}"
        return tuple(map(int, re.findall(r"\d+", self.page.evaluate(style))[:3]))

    def column(self, section: str, heading: str) -> list[str]:
        """Return the cells under a heading, from the top."""
        headings = self.page.locator(f"#{section} th").all_inner_texts()
        index = [text.strip(" ↑↓") for text in headings].index(heading)
        return [row.locator("td").nth(index).inner_text() for row in self.page.locator(f"#{section} tbody tr").all()]

    def button(self, section: str, heading: str):
        return self.page.locator(f"#{section} th button", has_text=re.compile(f"^{re.escape(heading)}$"))


@pytest.fixture
def visit(browser):
    visits = []

    def go(url, **options):
        visits.append(Visit(browser, url, **options))
        return visits[-1]

    yield go
    for one in visits:
        one.context.close()


@pytest.fixture(params=["light", "dark"])
def theme(request):
    return request.param


@pytest.fixture(params=SIZES)
def size(request):
    return request.param


def num_seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * UNITS[unit]


def overflow(page) -> int:
    """Return the pixels by which the document is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_page_opens_without_an_error_and_without_the_network(visit, url, size, theme):
    opened = visit(url, size=size, theme=theme)
    opened.page.evaluate("document.querySelectorAll('th button').forEach(button => button.click())")
    assert opened.errors == []
    assert {request.split(":")[0] for request in opened.requests} <= {"file", "data"}
    assert [request for request in opened.requests if request.startswith("file:")] == [url]


def test_document_is_no_wider_than_the_window(visit, url, size):
    assert overflow(visit(url, size=size).page) <= 0


def test_long_names_do_not_widen_the_document(visit, tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    long = RunConfig(activations=("custom_leaky_relu", "custom_sigmoid", "custom_leaky_relu"))
    records = results(session(), timed("m", [1.0], suite="epochs"), timed("n", [1.0], suite="epochs", config=long))
    page = visit(write(build(records, (), 0.9), tmp_path).as_uri(), size="phone").page
    assert overflow(page) <= 0


def test_pages_of_verdicts_and_history_open_at_every_size(visit, tmp_path, size, theme):
    a = [[1.0, 1.01], [1.01, 1.0], [0.99, 1.0], [1.0, 1.02]]
    dates = [f"2026-0{month}-01T00:00:00+00:00" for month in range(1, 7)]
    records = results(
        plan(pairs=4, b=("hidden_sizes=512,512,512", f"commit={'0' * 40}")),
        replicated(a, side="a", suite="ab"),
        replicated([[1.1 * t for t in times] for times in a], side="b", suite="ab"),
        *(
            replicated(
                [[level, level]], run=f"h{date}", started_at=date, environment=changed(ENVIRONMENT, commit=date[:7])
            )
            for date, level in zip(dates, [1.0, 1.01, 1.0, 1.3, 1.31, 1.3], strict=True)
        ),
    )
    data = ReportData(results=records, target=0.9)
    sections = [*verdicts.of_plans(data).sections, *history.make(data).sections]
    path = tmp_path / "page.html"
    path.write_text(html("Verdicts", "1 slower", sections), encoding="utf-8")
    opened = visit(path.as_uri(), size=size, theme=theme)
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith("file:")] == []
    assert overflow(opened.page) == 0
    assert opened.page.locator("svg[role=img]").count() == 2
    assert opened.page.locator("td", has_text=re.compile("^slower$")).count() == 1
    assert "slower" in markdown("Verdicts", "1 slower", sections)


def test_every_figure_is_visible_within_the_window(visit, url, size):
    page = visit(url, size=size).page
    boxes = [figure.bounding_box() for figure in page.locator("figure svg[role=img]").all()]
    assert len(boxes) == sum(section.figure is not None for section in build(example(), (), 0.9).sections)
    for box in boxes:
        assert box["width"] >= 250
        assert box["height"] >= 60
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= SIZES[size]["width"]


def test_figure_shows_its_lines_and_its_text(visit, url):
    page = visit(url).page
    figure = page.locator("#operations figure svg")
    for name in ("forward", "train_step", "median time, with the range of blocks (ms)"):
        text = figure.get_by_text(name, exact=True)
        assert text.bounding_box()["height"] >= 6
    assert figure.locator("path").count() > 5


def test_click_sorts_by_value_ascending_and_then_descending(visit, url):
    opened = visit(url)
    before = opened.column("operations", "median")
    assert {text.split()[1] for text in before} == {"µs", "ms"}
    in_order = sorted(before, key=num_seconds)
    # Neither sorted from the start, nor the same as sorted by text.
    assert before != in_order != sorted(before)
    button = opened.button("operations", "median")
    button.click()
    assert opened.column("operations", "median") == in_order
    button.click()
    assert opened.column("operations", "median") == in_order[::-1]
    button.click()
    assert opened.column("operations", "median") == in_order


def test_sort_keeps_rows_together_and_leaves_other_tables_alone(visit, url):
    opened = visit(url)

    def rows(section):
        return [row.inner_text() for row in opened.page.locator(f"#{section} tbody tr").all()]

    before, others = rows("operations"), rows("batch-sizes")
    opened.button("operations", "samples/s").click()
    assert rows("operations") != before
    assert sorted(rows("operations")) == sorted(before)
    assert rows("batch-sizes") == others


def test_numbers_with_separators_and_words_sort_too(visit, url):
    opened = visit(url)
    opened.button("batch-sizes", "batch size").click()
    assert opened.column("batch-sizes", "batch size") == ["1", "100", "10,000"]
    opened.button("operations", "operation").click()
    names = opened.column("operations", "operation")
    assert names == sorted(names)


def test_missing_value_sorts_after_every_number(visit, url):
    opened = visit(url)
    opened.button("determinism", "largest difference").click()
    assert opened.column("determinism", "largest difference") == ["1.5e-08", "–"]


def test_only_the_sorted_column_has_aria_sort(visit, url):
    opened = visit(url)
    opened.button("operations", "low").click()
    opened.button("operations", "median").click()
    sorts = [th.get_attribute("aria-sort") for th in opened.page.locator("#operations th").all()]
    assert [sort for sort in sorts if sort] == ["ascending"]
    assert opened.button("operations", "median").locator("..").get_attribute("aria-sort") == "ascending"


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_keyboard_sorts(visit, url, key):
    opened = visit(url)
    in_order = sorted(opened.column("operations", "median"), key=num_seconds)
    button = opened.button("operations", "median")
    button.focus()
    opened.page.keyboard.press(key)
    assert opened.column("operations", "median") == in_order
    assert button.evaluate("element => element === document.activeElement")


def test_tab_reaches_the_headings_and_outlines_them(visit, url):
    opened = visit(url)
    opened.page.locator("#operations .scroll").focus()
    opened.page.keyboard.press("Tab")
    reached = opened.page.evaluate("document.activeElement.textContent")
    outline = opened.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert (reached, outline) == ("operation", "solid")


def test_themes_change_the_paper_and_the_ink_of_figures(visit, url):
    light, dark = visit(url, theme="light"), visit(url, theme="dark")
    assert min(light.colour("body", "backgroundColor")) > 200
    assert max(dark.colour("body", "backgroundColor")) < 60
    for selector in ("figure svg text", "body"):
        name = "fill" if "svg" in selector else "color"
        assert max(light.colour(selector, name)) < 60
        assert min(dark.colour(selector, name)) > 200


def test_hostile_text_is_shown_and_not_run(visit, url):
    page = visit(url).page
    assert page.locator("#skipped td").nth(2).inner_text() == HOSTILE_REASON
    assert page.locator("#skipped b").count() == 0
