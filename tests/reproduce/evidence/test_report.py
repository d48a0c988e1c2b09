"""The report: what its page shows, and how it behaves in a real browser."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from reproduce.evidence import report, tables
from reproduce.evidence.temporal import ORDERS, diagnose, partners, predicted
from reproduce.evidence.verify import VerifyError, verify
from reproduce.records import load_all, predictions
from reproduce.studies import growth
from reproduce.suites import SUITES
from reproduce.whole_files import write_json
from tests.reproduce.made import make

RESULTS = Path(__file__).parents[3] / "results"
SUITE = "ssv2-quick"
SHOWN = (SUITE, "kinetics", "kinetics-native")
ENTRIES = ("slowfast", "tsm", "mvit", "auto_tsnet_random", "auto_tsnet_random-a1", "auto_tsnet_random-a2", "auto_tsnet")
HOSTILE = "</script><b>bold</b><script>document.title = 'taken'</script>"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Results with records of one suite, tables without records, a diagnosis and a search; and their report."""
    folder = tmp_path_factory.mktemp("report")
    records = folder / "results" / "records" / SUITE
    make(folder / "results", *(f"{entry}-s{seed}" for entry in ENTRIES for seed in (0, 1, 2)), suite=SUITES[SUITE])
    make(folder / "results", "tsm-s0", suite=SUITES[SUITE], note=HOSTILE)
    (folder / "results" / "tables").mkdir()
    for name in (*SHOWN[1:], "natives"):
        for suffix in (".md", ".csv"):
            shutil.copy(RESULTS / "tables" / f"{name}{suffix}", folder / "results" / "tables")
    record = next(r for r in load_all(records) if r.entry == "tsm")
    table = predicted(dict.fromkeys(ORDERS, predictions(record, records)))
    table = table.assign(shuffled=0, frozen=-1)  # played backwards, all stays
    found = diagnose(table, report.class_names(SUITES[SUITE]), partners(SUITES[SUITE]))
    path = folder / "results" / "temporal" / SUITE / f"tsm-s{record.seed}.json"
    write_json(path, found | dict(run=record.run))
    table.to_parquet(path.with_suffix(".parquet"))
    search = folder / "runs" / SUITE / "search-fpnas-s0-1a2b3c4d"
    search.mkdir(parents=True)
    stale = folder / "results" / "pictures" / f"{SUITE}-gmacs.svg"  # of a version that drew one
    stale.parent.mkdir()
    for path in (search / "search.svg", stale):
        path.write_text('<svg viewBox="0 0 9 9"><g id="figure_1"><path style="fill: #000000"/></g></svg>')
    with pytest.MonkeyPatch.context() as patch:  # all suites would take twice as long
        patch.setattr(report, "SUITES", {name: s for name, s in SUITES.items() if name in SHOWN})
        report.report(folder / "results", folder / "runs")
    return folder / "results"


@pytest.fixture(scope="module")
def rows(results) -> list[tables.Row]:
    return tables.rows(SUITES[SUITE], results)


def test_everything_found_is_drawn_and_shown(results):
    drawn = {p.stem.removeprefix(f"{SUITE}-") for p in (results / "pictures").glob(f"{SUITE}-*.svg")}
    assert drawn == {*report.KINDS, "search-fpnas-s0-1a2b3c4d"} - {"gmacs"}  # of one budget it would show nothing
    assert {p.stem for p in (results / "pictures").glob("kinetics*")} == {"kinetics-native-gmacs"}
    assert {p.stem for p in (results / "pictures").glob("*.png")} >= {f"{SUITE}-network", "kinetics-native-gmacs"}
    page = (results / report.PAGE).read_text()
    figures = re.findall(
        r'<figure class="(?!forest)[\w-]+"><h4>([^<]+)</h4>.*?<figcaption>([^<]+)</figcaption>', page, re.S
    )
    assert [title for title, _ in figures] == [
        *(title for kind, (title, _) in report.KINDS.items() if kind != "gmacs"),
        "The course of a search: fpnas, seed 0",
        "Accuracy and cost",
    ]
    assert all(caption.endswith(".") and caption.count(". ") == 0 for _, caption in figures)


def test_the_network_is_the_trained_one(results):
    record = min((r for r in load_all(results / "records" / SUITE) if r.entry == "auto_tsnet"), key=lambda r: r.seed)
    said = (results / "pictures" / f"{SUITE}-network.svg").read_text()
    assert f"Found on Synthetic Something-Something (quick), seed {record.seed}, as trained" in said
    assert f"{record.model.gmacs:.3g} GMACs per view" in said
    width = record.model.net["architecture"]["slow"][0]["channels"] * record.model.net.get("width", 1.0)
    assert f">{round(width)} ch<" in said


def test_the_page_needs_nothing_else_and_takes_no_orders(results):
    page = (results / report.PAGE).read_text()
    assert "BODY" not in page
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert "@import" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert HOSTILE not in page
    assert "&lt;/script&gt;&lt;b&gt;bold" in page
    assert page.count("<script") == 1


def test_all_text_is_escaped_once():
    made = report.tag("td", "a < b & c", report.tag("b", '"'), title='"<', hidden=True, data_v=None)
    assert made == '<td title="&quot;&lt;" hidden="">a &lt; b &amp; c<b>&quot;</b></td>'


def test_pictures_take_the_palette_of_the_page(results):
    page = (results / report.PAGE).read_text()
    svgs = "".join(re.findall(r"<svg viewBox.*?</svg>", page, re.S))
    bare = {c.lower() for c in re.findall(r"(?<!light-dark\()(?<!,)#[0-9a-fA-F]{6}\b", svgs)}
    assert not bare & report.DARK.keys()
    for light, dark in report.DARK.items():
        ours, theirs = (sum(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in (light, dark))
        assert (ours < 384) <= (theirs > ours), (light, dark)  # what is dark becomes lighter


def test_titles_are_for_people():
    titles = {name: report.human(s) for name, s in SUITES.items()}
    assert titles["kinetics-quick"] == "Synthetic Kinetics (quick)"
    assert titles["ssv2"] == "Something-Something-V2"
    assert report.human(report.named("ssv2-quick@0.03")) == "Synthetic Something-Something (quick) at 0.03 GMACs"
    assert len(set(titles.values())) == len(titles)


def test_tf32_is_not_called_fp32():
    assert report._mode("fp32, contiguous", True) == "fp32 (TF32 convolutions), contiguous"
    assert report._mode("fp32, contiguous", False) == "fp32, contiguous"
    assert report._mode("bf16, contiguous", True) == "bf16, contiguous"


def test_written_again_it_is_the_same(results, rows, monkeypatch):
    before = {p: p.read_bytes() for p in [results / report.PAGE, *(results / "pictures").iterdir()]}
    monkeypatch.setattr(report, "SUITES", {SUITE: SUITES[SUITE]})  # its pictures are of all kinds
    monkeypatch.setattr(tables, "rows", lambda suite, results: rows)
    (results / "pictures" / f"{SUITE}-confusion.svg").unlink()
    report.report(results, results / "no runs")
    assert {p: p.read_bytes() for p in [results / report.PAGE, *(results / "pictures").iterdir()]} == before


def test_a_page_of_other_results_is_told(results, rows, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "rows", lambda suite, results: rows)
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    assert report.disagreement(copy) is None
    path = copy / report.PAGE
    path.write_text(path.read_text().replace(f"{rows[0].top1:.1f}", "99.9", 1))
    assert "is not the page of what lies beside it; write it anew: python -m reproduce report" in report.disagreement(
        copy
    )
    path.unlink()
    assert report.disagreement(copy) is None


def test_verify_reads_diagnoses_and_the_page(results, tmp_path):
    copy = tmp_path / "results"
    shutil.copytree(results, copy, ignore=shutil.ignore_patterns("pictures"))
    for path in (copy / "tables").iterdir():
        if path.stem != SUITE:
            path.unlink()
    with pytest.raises(VerifyError, match=r"report\.html is not the page of what lies beside it; .*reproduce report"):
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


def test_in_a_browser_the_question_is_answered_above_the_fold(page, results, rows):
    said = page.locator(".verdict")
    assert said.all_inner_texts() == [tables.verdict_sentence(SUITES[SUITE], rows)]
    box = said.bounding_box()
    assert box["y"] + box["height"] < 844
    assert page.title() == "Auto-TSNet benchmark: results"
    assert page.locator("dd b").count() == 0
    lines = page.locator(".forest li:not(.axis)")
    ran = sorted((r for r in rows if r.records), key=lambda r: r.rank)
    assert [t.split("\n")[0] for t in lines.locator(".who").all_inner_texts()] == [r.title for r in ran]
    for line, row in zip(lines.all(), ran, strict=True):
        assert line.locator("circle.run").count() == len(row.records)
        assert line.locator("line.chance").count() == line.locator("line.control").count() == 1
        left, right = (line.locator(what).bounding_box() for what in (".interval", ".mean"))
        middle = right["x"] + right["width"] / 2
        assert left["x"] - 3 <= middle <= left["x"] + left["width"] + 3
        if row.difference:
            assert (
                line.locator(".difference").inner_text().startswith(f"{row.difference.points:+.1f}".replace("-", "−"))
            )
        assert row.verdict in line.inner_text()


def test_in_a_browser_it_sorts_and_finds(page, results, rows):
    section = page.locator("section", has=page.locator(f"h2#{SUITE}"))
    table = section.locator("table").first
    assert table.locator("thead button").all_inner_texts() == [
        "rank", "model", "top-1 % [95 %]", "difference, points [95 %]", "how sure", "clips/s", "search cost"
    ]  # fmt: skip

    def read(place: int) -> list[str]:
        return [row.locator("td, th").nth(place).inner_text() for row in table.locator("tbody tr:not([hidden])").all()]

    ranks = [str(r) for r in sorted(r.rank for r in rows if r.rank)]
    assert read(0)[: len(ranks)] == ranks
    assert all(text == "–" for text in read(0)[len(ranks) :])  # what was not run is last
    head = table.get_by_role("button", name="clips/s", exact=True)
    speeds = sorted(float(f"{r.speed.clips_per_s:.3g}") for r in rows if r.speed)
    for expected, order in ((speeds[::-1], "descending"), (speeds, "ascending")):
        head.press("Enter")  # the first sorts descending
        assert [float(c.split()[0]) for c in read(5) if c != "–"] == expected
        assert read(5)[len(expected) :] == ["–"] * (len(rows) - len(expected))
        assert table.locator(f"th[aria-sort={order}]").inner_text() == "clips/s"
    assert table.locator("th[aria-sort]").count() == 1

    page.fill("#find", "tsm")
    assert [c for c in read(1) if not c.startswith("TSM")] == []
    page.fill("#find", "x3d_m")  # is folded away
    assert page.locator("details#natives").get_attribute("open") is not None
    page.fill("#find", "")
    assert len(read(1)) == len(rows)


def test_in_a_browser_it_fits_a_phone_in_the_dark(page):
    for part in page.locator("details").all():
        part.evaluate("part => part.open = true")
    for width in (390, 1440):
        page.set_viewport_size(dict(width=width, height=844))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        inside = "e => { const b = e.getBoundingClientRect(); return b.left >= 0 && b.right <= innerWidth }"
        for figure in page.locator("figure").all():
            assert figure.evaluate(inside)
        for svg in page.locator(".svg > svg").all():
            assert svg.evaluate(inside)
    light, shade = "rgb(255, 255, 255)", "rgb(28, 31, 35)"
    ground = page.locator(f"figure.confusion .svg #{SUITE}-confusion-patch_1 path").first
    for colour in (shade, light):
        assert ground.evaluate("e => getComputedStyle(e).fill") == colour
        assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == light) == (colour == light)
        page.click("#theme")
    page.set_viewport_size(dict(width=390, height=844))
    page.locator(".zoom").first.click()
    assert page.locator(".svg > svg").first.bounding_box()["width"] == 900  # scrolls in its frame
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_in_a_browser_what_was_not_run_is_folded_away(page):
    folded = page.locator("details.suite > summary").all_inner_texts()
    assert "Kinetics-400: not run yet" in folded
    assert page.locator("details[open]").count() == 0
    assert page.locator("section > h2").all_inner_texts() == ["Synthetic Something-Something (quick)"]
    page.goto(page.url + "#kinetics")
    assert "KINETICS_ROOT=/path python -m reproduce run kinetics" in page.locator("details#kinetics").inner_text()


def test_a_model_of_somebodys_own_beside_random_architectures(tmp_path):
    growth.of_models(2, tmp_path, seeds=2)
    tables.render(SUITES[SUITE], tmp_path)
    page = report.page(tmp_path)
    assert re.search(r'class="verdict">Auto-TSNet&#x27;s space (beats|loses to|is not shown to beat) own[01] ', page)
    assert page.count('class="who">own') == 2
