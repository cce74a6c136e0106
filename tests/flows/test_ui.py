"""Drive the real Prefect UI with a headless browser, as a person would: forms, runs, results, schedules."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.flows.service import Service, wait_for

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
PATIENCE = 60_000  # milliseconds; pages are slow while stages use both cores


@pytest.fixture(scope="module")
def browser_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if BROWSER is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield page
        browser.close()


@pytest.fixture
def page(browser_page: Page, up: Service, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Offer a page; with SCREENSHOTS set to a folder, what it shows at the end of each test is kept there."""
    yield browser_page
    if folder := os.environ.get("SCREENSHOTS"):
        browser_page.screenshot(path=Path(folder) / f"{request.node.name}.png", full_page=True)


def open_form(page: Page, up: Service, deployment: str) -> None:
    page.goto(f"{up.url}/v2/deployments/deployment/{up.deployment(deployment)['id']}/run")
    expect(page.get_by_text("Overrides")).to_be_visible()


def submit(page: Page, up: Service) -> str:
    """Press Submit and return the id of the run it created; the sweep's many scheduled runs do not count."""
    question = {"deployments": {"name": {"any_": ["full", "stage"]}}}

    def runs() -> set[str]:
        return {run["id"] for run in up.ask("/flow_runs/filter", question)}

    before = runs()
    for _ in range(3):  # the form redraws while it takes a value over, and a click at that moment is lost
        page.get_by_role("button", name="Submit").click()
        with suppress(AssertionError):
            wait_for(lambda: runs() - before, 20)
            break
    return (runs() - before).pop()


def open_run(page: Page, up: Service, run: str, tab: str) -> None:
    page.goto(f"{up.url}/v2/runs/flow-run/{run}")
    page.get_by_role("tab", name=tab).click()


def test_the_form_lists_what_the_recipe_has(page: Page, up: Service) -> None:
    open_form(page, up, "full")
    for title in ("Profile", "From stage", "Until stage", "Only stage", "Make again", "Plan only", "Seed", "Overrides"):
        expect(page.get_by_text(f"{title} (Optional)")).to_be_visible()
    page.get_by_role("button", name="Select Only stage").click()
    for name in ("(all)", "ingest", "quality_tagging"):
        expect(page.get_by_role("option", name=name)).to_be_visible()
    page.keyboard.press("Escape")


def test_a_full_run_from_the_form_shows_every_stage_and_its_results(page: Page, up: Service) -> None:
    open_form(page, up, "full")
    run = up.ended(submit(page, up))
    assert run["state_type"] == "COMPLETED", run["state"]
    assert run["name"] == "laptop · all stages"
    open_run(page, up, run["id"], "Task Runs")
    for name in ("ingest", "quality_tagging"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    open_run(page, up, run["id"], "Artifacts")
    for key in ("plan", "summary", "run-report"):
        expect(page.get_by_text(key, exact=True)).to_be_visible()
    assert list(up.store.glob("quality_tagging/*/.artifact.json"))


def test_a_stage_publishes_report_numbers_progress_and_a_link_that_opens(page: Page, up: Service) -> None:
    kinds = {a["key"]: a for a in up.ask("/artifacts/latest/filter", {}) if (a["key"] or "").endswith("-ingest")}
    assert {k: a["type"] for k, a in kinds.items()} == {
        "report-ingest": "markdown",
        "numbers-ingest": "table",
        "progress-ingest": "progress",
        "page-ingest": "markdown",
    }
    page.goto(f"{up.url}/v2/artifacts/artifact/{kinds['page-ingest']['latest_id']}")
    address = page.get_by_role("link", name="Report of ingest").get_attribute("href")
    assert address is not None
    page.goto(address)
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_one_stage_from_the_form_runs_alone(page: Page, up: Service) -> None:
    open_form(page, up, "stage")
    page.get_by_role("button", name="Select Stage").click()
    page.get_by_role("option", name="ingest").click()
    run = up.ended(submit(page, up))
    assert run["state_type"] == "COMPLETED", run["state"]
    assert run["name"] == "laptop · stage ingest"
    open_run(page, up, run["id"], "Task Runs")
    expect(page.get_by_role("link", name="ingest", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="quality_tagging", exact=True)).to_have_count(0)


def test_a_plan_only_run_draws_the_plan_and_executes_nothing(page: Page, up: Service) -> None:
    open_form(page, up, "full")
    page.get_by_label("Plan only").click()
    page.get_by_label("Overrides").fill("quality_tagging.ridge=0.7")
    run = up.ended(submit(page, up))
    assert run["name"] == "laptop · all stages · plan only"
    assert up.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}}) == []
    open_run(page, up, run["id"], "Artifacts")
    page.get_by_text("plan", exact=True).click()
    newest = up.ask("/artifacts/latest/filter", {"artifacts": {"key": {"any_": ["plan"]}}})[0]["latest_id"]
    page.get_by_role("link", name=newest[:8]).click()
    expect(page.locator("svg[aria-roledescription='flowchart-v2']")).to_be_visible()
    expect(page.get_by_text("ridge: 0.5 -> 0.7")).to_be_visible()


@pytest.mark.parametrize(
    ("deployment", "text", "words"),
    [
        ("full", "ingest.sed=3", "did you mean 'seed'"),
        ("full", "junk", "is not of the form stage.field=value"),
        ("stage", "ingest.seed=99", "nanbeige run --until ingest --profile laptop --set ingest.seed=99"),
    ],
)
def test_a_wrong_request_fails_at_once_with_its_reason(
    page: Page, up: Service, deployment: str, text: str, words: str
) -> None:
    open_form(page, up, deployment)
    if deployment == "stage":
        page.get_by_role("button", name="Select Stage").click()
        page.get_by_role("option", name="quality_tagging").click()
    page.get_by_label("Overrides").fill(text)
    run = up.ended(submit(page, up))
    assert run["state_type"] == "FAILED"
    assert words in run["state"]["message"]
    open_run(page, up, run["id"], "Logs")
    expect(page.get_by_text(words).first).to_be_visible()


def test_a_required_field_left_empty_is_refused_in_the_form(page: Page, up: Service) -> None:
    open_form(page, up, "stage")
    before = up.ask("/flow_runs/count", {})
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("required").first).to_be_visible()
    assert up.ask("/flow_runs/count", {}) == before


def test_a_schedule_is_shown_and_can_be_paused(page: Page, up: Service) -> None:
    page.goto(f"{up.url}/v2/deployments/deployment/{up.deployment('sweep')['id']}")
    expect(page.get_by_text("At 02:00 AM")).to_be_visible()
    active = up.deployment("sweep")["schedules"][0]["active"]
    page.get_by_role("switch").first.click()
    wait_for(lambda: up.deployment("sweep")["schedules"][0]["active"] != active, 20)
