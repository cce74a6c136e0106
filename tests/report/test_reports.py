from nanbeige_core.contract import Gain, Outcome, Plot, Section
from nanbeige_core.report.drawing import draw
from nanbeige_core.report.stage_report import describe_gain, html_table, markdown_report
from nanbeige_core.stages import STAGES

HOSTILE = "<script>alert(1)</script> | [x](javascript:1)"


def test_text_from_documents_is_escaped_in_html() -> None:
    assert "<script>" not in html_table([{"text": HOSTILE}])


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
