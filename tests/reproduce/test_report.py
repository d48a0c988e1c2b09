"""The report: what its page shows, and how it behaves in a real browser."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from reproduce import report
from reproduce.files import write_json
from reproduce.measure.temporal import ORDERS, diagnose, partners, predicted
from reproduce.records import load_all, predictions
from reproduce.suites import SUITES
from reproduce.verify import VerifyError, verify

RESULTS = Path(__file__).parents[2] / "results"
SUITE = "ssv2-quick"
SHOWN = (SUITE, "kinetics", "kinetics-native", "natives")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Results with records of one suite, a table without records, a diagnosis and a search; and their report."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(RESULTS / "records" / SUITE, folder / "results" / "records" / SUITE)
    (folder / "results" / "tables").mkdir()
    for name in SHOWN:
        shutil.copy(RESULTS / "tables" / f"{name}.md", folder / "results" / "tables")
    record = next(r for r in load_all(RESULTS / "records" / SUITE) if r.entry == "tsm")
    table = predictions(record, RESULTS / "records" / SUITE)
    table = predicted(dict.fromkeys(ORDERS, table)).assign(shuffled=0, frozen=-1)  # played backwards, all stays
    found = diagnose(table, report.class_names(SUITES[SUITE]), partners(SUITES[SUITE]))
    path = folder / "results" / "temporal" / SUITE / "tsm-s0.json"
    write_json(path, found | dict(run=record.run))
    table.to_parquet(path.with_suffix(".parquet"))
    search = folder / "runs" / SUITE / "search-fpnas-s0-1a2b3c4d"
    search.mkdir(parents=True)
    for suffix in (".png", ".svg"):
        shutil.copy(RESULTS / "pictures" / f"{SUITE}-gmacs{suffix}", search / f"search{suffix}")
    with pytest.MonkeyPatch.context() as patch:  # all suites would take twice as long
        patch.setattr(report, "SUITES", {name: s for name, s in SUITES.items() if name in SHOWN})
        report.report(folder / "results", folder / "runs")
    return folder / "results"


def test_everything_found_is_drawn_and_shown(results):
    drawn = {p.stem.removeprefix(f"{SUITE}-") for p in (results / "pictures").glob(f"{SUITE}-*.png")}
    assert drawn == {*report.KINDS, "search-fpnas-s0-1a2b3c4d"}
    assert {p.stem for p in (results / "pictures").glob("kinetics*")} == {"kinetics-gmacs", "kinetics-native-gmacs"}
    page = (results / report.PAGE).read_text()
    assert page.count("<svg") == len(report.KINDS) + 3  # and the search, the literature of two tables of real data
    sections = {s["name"]: s for s in report.sections(results)}
    assert list(sections) == list(SHOWN)
    for row in sections[SUITE]["rows"]:
        assert re.search(
            r"records/ssv2-quick/: [\w-]+-s0\.json.*\ncommit: \w{12}\b.*\n(.*\n)+seeds: 0", row["provenance"]
        )
    assert {row["provenance"] for row in sections["kinetics"]["rows"]} == {
        "no record: nothing in this row was trained here"
    }
    assert sections[SUITE]["title"].startswith("synthetic-ssv2 quick at 0.016 GMACs/view")
    assert all(len(row["cells"]) == len(s["columns"]) for s in sections.values() for row in s["rows"])


def test_the_page_needs_nothing_else(results):
    page = (results / report.PAGE).read_text()
    assert "_JSON" not in page
    assert re.findall(r'(?:src|href)="(?!data:|#)', re.sub(r'xlink:href="#', 'href="#', page)) == []
    assert "@import" not in page
    ids = re.findall(r'\bid=\\?"([\w-]+)', page)
    assert len([i for i in ids if i.endswith("-figure_1")]) == page.count("<svg")


def test_written_again_it_is_the_same(results, monkeypatch):
    before = {p: p.read_bytes() for p in [results / report.PAGE, *(results / "pictures").iterdir()]}
    found = report.sections(results)
    monkeypatch.setattr(report, "sections", lambda results: found)
    monkeypatch.setattr(report, "SUITES", {SUITE: SUITES[SUITE]})  # its pictures are of all kinds
    (results / "pictures" / f"{SUITE}-confusion.svg").unlink()
    report.report(results, results / "no runs")
    assert {p: p.read_bytes() for p in [results / report.PAGE, *(results / "pictures").iterdir()]} == before


def test_verify_reads_diagnoses_and_the_page(results, tmp_path):
    copy = tmp_path / "results"
    shutil.copytree(results, copy, ignore=shutil.ignore_patterns("pictures"))
    for name in SHOWN[1:]:
        (copy / "tables" / f"{name}.md").unlink()
    shutil.copy(RESULTS / "tables" / f"{SUITE}.csv", copy / "tables")
    with pytest.raises(VerifyError, match=r"report\.html does not show the tables beside it; .*reproduce report"):
        verify(copy)
    (copy / report.PAGE).unlink()
    assert "agree" in verify(copy)
    path = copy / "temporal" / SUITE / "tsm-s0.json"
    found = json.loads(path.read_text())
    for changes, reason in (
        (dict(run="12345678"), r"run 12345678 is not the record's \w+; diagnose the run"),
        (dict(n=7), "n is 7, recomputed it is 400"),
        (dict(top1=found["top1"] | dict(frozen=25)), "top1.frozen is 25, recomputed it is 0"),
        (dict(order_matters=found["order_matters"] | dict(p=1e-9)), r"order_matters\.p is 1e-09, recomputed it is"),
        (dict(classes=found["classes"][1:]), r"(classes\.\S+ is .*\n.*)+classes\.7\.to_partner is None, recomputed"),
    ):
        path.write_text(json.dumps(found | changes))
        with pytest.raises(VerifyError, match=rf"^{path}: {reason}"):
            verify(copy)
    path.write_text(json.dumps(found))
    table = pd.read_parquet(path.with_suffix(".parquet"))
    table.assign(natural=(table.natural + 1) % 8).to_parquet(path.with_suffix(".parquet"))
    with pytest.raises(VerifyError, match=r"tsm-s0\.parquet: labels, or what is right in natural order, are not the"):
        verify(copy)
    path.with_suffix(".parquet").unlink()
    with pytest.raises(VerifyError, match=r"tsm-s0\.parquet is missing; diagnose the run"):
        verify(copy)
    path.rename(path.with_name("tsm-s7.json"))
    with pytest.raises(VerifyError, match=r"tsm-s7\.json: belongs to no record"):
        verify(copy)
    path.with_name("tsm-s7.json").rename(path.with_suffix(".parquet"))
    with pytest.raises(VerifyError, match=r"tsm-s0\.parquet: belongs to no diagnosis; remove it"):
        verify(copy)


def chromium() -> Path:
    """The browser: CHROMIUM, one in PATH, or what `make chromium` installs."""
    own = Path(sys.prefix) / "chromium" / "chromium"
    named = (os.environ.get("CHROMIUM"), *map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    found = next((Path(p) for p in named if p), own)
    if not found.exists():
        pytest.skip(f"no Chromium: {found} is not there; `make chromium`, or set CHROMIUM")
    return found


@pytest.fixture
def page(results):
    """The report in a headless Chromium, without network, on a phone in the dark."""
    from playwright.sync_api import sync_playwright

    browser = chromium()
    libraries = browser.parent / "al2023" / "lib"  # what the packaged browser needs and a bare machine lacks
    with sync_playwright() as driver:
        running = driver.chromium.launch(
            executable_path=browser,
            args=["--no-sandbox", "--disable-gpu"],
            env={**os.environ, "LD_LIBRARY_PATH": str(libraries)} if libraries.exists() else None,
        )
        context = running.new_context(viewport=dict(width=390, height=844), color_scheme="dark", offline=True)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.troubles = []
        page.on("console", lambda message: page.troubles.append(message.text))
        page.on("pageerror", lambda error: page.troubles.append(str(error)))
        outside = re.compile("(?!file:|data:)")
        page.on("request", lambda request: outside.match(request.url) and page.troubles.append(request.url))
        page.goto((results / report.PAGE).as_uri())
        yield page
        running.close()
        assert page.troubles == []


def test_in_a_browser_it_sorts_filters_and_tells(page, results):
    section = page.locator("section", has=page.locator(f"#{SUITE}"))
    rows, column = section.locator("tr.row"), "top-1 % [95 %]"
    (shown,) = (s for s in report.sections(results) if s["name"] == SUITE)
    place = shown["columns"].index(column)
    cells = {row["cells"][0]: row["cells"][place] for row in shown["rows"]}
    accuracy = [float(cell.split()[0]) for cell in cells.values()]

    def read(place: int) -> list[str]:
        return [row.locator("td").nth(place).inner_text() for row in rows.all() if row.is_visible()]

    assert dict(zip(read(0), read(place), strict=True)) == cells
    head = section.get_by_role("button", name=column, exact=True)
    head.click()
    assert [float(c.split()[0]) for c in read(place)] == sorted(accuracy)
    head.click()
    assert [float(c.split()[0]) for c in read(place)] == sorted(accuracy, reverse=True)
    assert section.locator("th[aria-sort=descending]").inner_text() == column

    page.select_option("#family", "auto_tsnet")
    assert sorted(c.split()[0] for c in read(0)) == ["auto_tsnet", "auto_tsnet_random", "auto_tsnet_uniform"]
    page.fill("#text", "searched uniform")
    assert [c.split()[0] for c in read(0)] == ["auto_tsnet_uniform"]
    page.fill("#text", "")
    page.select_option("#family", "tsm")
    assert read(0) == ["tsm"]
    assert read(place) == [cells["tsm"]]
    (row,) = (r for r in rows.all() if r.is_visible())
    assert row.get_attribute("title").startswith(f"records/{SUITE}/: tsm-s0.json")
    row.click()
    assert "commit: " in section.locator("tr.from").inner_text()

    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    light = "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light
    assert page.locator("figure svg").first.bounding_box()["width"] >= 600  # scrolls in its frame instead of shrinking


def test_what_was_not_run_is_last_however_it_is_sorted(page):
    section = page.locator("section", has=page.locator("#kinetics"))
    head = section.get_by_role("button", name="GMACs/view", exact=True)
    for _ in range(2):
        head.click()
        cells = [row.locator("td").nth(3).inner_text() for row in section.locator("tr.row").all()]
        missing = [c == "not run" for c in cells]
        assert missing == sorted(missing)
        assert any(missing)
        assert not all(missing)
