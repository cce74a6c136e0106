from nanbeige_core.contract import Gain, Outcome, Plot, Section
from nanbeige_core.report.drawing import draw, draw_svg
from nanbeige_core.report.stage_report import describe_gain, html_report, markdown_report
from nanbeige_core.stages import STAGES
from tests.report.building import HOSTILE, Page


def test_text_from_documents_is_escaped_in_html() -> None:
    section = Section(title=HOSTILE, text=HOSTILE, table=[{HOSTILE: HOSTILE, "n": 1}])
    page = Page(html_report("ingest", Outcome(summary=HOSTILE, sections=[section]), STAGES["ingest"]))
    assert "script" not in page.tags
    assert page.outside() == []
    assert page.words.count("<script>") == 5


def test_names_in_plots_are_escaped_and_are_no_formula() -> None:
    names = [HOSTILE[:40], "$\\frac$"]
    plot = Plot(kind="bar", x=list(names), series={name: [1, 2] for name in names}, x_label="x", y_label="y")
    page = Page(draw_svg(plot))
    assert "script" not in page.tags
    assert page.outside() == []
    assert "$\\frac$" in page.words


def test_pictures_take_their_ink_from_the_page() -> None:
    svg = draw_svg(Plot(kind="line", x=[1, 2], series={"loss": [2.0, 1.0]}, x_label="step", y_label="nat"))
    assert "var(--ink)" in svg
    assert "http" not in svg
    assert {"step", "nat"} <= set(Page(svg).words.split()), "labels stay text"


def test_text_from_documents_is_escaped_in_markdown() -> None:
    outcome = Outcome(summary=HOSTILE, sections=[Section(title="Samples", text=HOSTILE, table=[{"text": HOSTILE}])])
    text = markdown_report("ingest", outcome, STAGES["ingest"], {})
    assert "<script>" not in text
    assert "[x](javascript:1)" not in text


def test_a_gain_line_carries_interval_and_count() -> None:
    line = describe_gain(Gain(metric="exact match", before=0.1, after=0.4, low=0.2, high=0.4, n=50))
    assert line == "exact match: 0.1 -> 0.4 (+0.3, 95 % interval +0.2 to +0.4, n = 50)"


def test_plots_are_png_pictures() -> None:
    line = Plot(kind="line", x=[1, 2], series={"loss": [2.0, 1.0]}, x_label="step", y_label="nat")
    bar = Plot(kind="bar", x=["a", "b"], series={"n": [1, 2], "m": [3, 4]}, x_label="source", y_label="documents")
    assert draw(line).startswith(b"\x89PNG")
    assert draw(bar).startswith(b"\x89PNG")
