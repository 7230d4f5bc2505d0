"""The report in a real browser: Chromium from the distribution, driven by Selenium.

Skipped where either is missing. ``MOSAICVI_REPORT`` names a report to test instead of one made here,
``MOSAICVI_AXE`` the file axe.min.js of axe-core, ``MOSAICVI_SCREENSHOTS`` a folder to put pictures into.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip(
        "needs Chromium and its driver: apt-get install chromium chromium-driver", allow_module_level=True
    )

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --force-prefers-reduced-motion"
)
COPY = """
    const seen = document.getElementById(arguments[0]);
    const copy = Object.assign(document.createElement('canvas'), {width: seen.width, height: seen.height});
    const pen = copy.getContext('2d', {willReadFrequently: true});
    pen.drawImage(seen, 0, 0);
    const d = pen.getImageData(0, 0, copy.width, copy.height).data;
"""
PIXELS = """
    let n = 0, s = 0;
    for (let i = 0; i < d.length; i += 4) {
      if (d[i] + d[i + 1] + d[i + 2] === 765) continue;
      n++;
      s = (s * 31 + d[i] + 7 * d[i + 1] + 13 * d[i + 2] + i) % 1000003;
    }
    return [n, s];
"""
RING = """
    let x = 0, y = 0, n = 0;
    for (let p = 0; p < d.length / 4; p++) {
      if (d[4 * p + 3]) { x += p % copy.width; y += p / copy.width | 0; n++; }
    }
    document.getElementById('points').dispatchEvent(new PointerEvent('pointerleave'));
    return [x / n, y / n];
"""
POINT = """
    const c = document.getElementById('points'), b = c.getBoundingClientRect();
    const [x, y] = arguments;
    c.dispatchEvent(new PointerEvent('pointermove', {clientX: b.x + x, clientY: b.y + y}));
"""
WHEEL = """
    const c = document.getElementById('points'), b = c.getBoundingClientRect();
    const at = {clientX: b.x + 90, clientY: b.y + 90};
    const e = new WheelEvent('wheel', {deltaY: -200, cancelable: true, ...at});
    c.dispatchEvent(e);
    return e.defaultPrevented;
"""
TEN_FRAMES = """
    const done = arguments[0], nearer = document.getElementById('in'), start = performance.now();
    let k = 0;
    const step = () => {
      if (++k <= 10) { nearer.click(); requestAnimationFrame(step); return; }
      document.getElementById('all').click();
      done((performance.now() - start) / 1000);
    };
    step();
"""
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


def make_report(folder: Path) -> Path:
    import mudata
    import numpy as np

    from mosaicvi import MosaicVI
    from mosaicvi.datasets import simulated_mosaic
    from mosaicvi.report.page import write_report

    pytest.importorskip("jinja2")
    mudata.set_options(pull_on_update=False)
    mdata = simulated_mosaic(600, n_genes=80, n_proteins=12, n_peaks=100).mdata
    MosaicVI.setup_mudata(mdata, batch_key="batch")
    model = MosaicVI(mdata).train(5, progress=False)
    latent = np.asarray(model.get_latent_representation(), float)
    mdata.obsm["X_umap"] = np.linalg.svd(latent - latent.mean(0), full_matrices=False)[0][:, :2]
    return write_report(model, mdata, folder / "report.html", label_key="cell_type")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("MOSAICVI_REPORT")
    return Path(given).resolve() if given else make_report(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module", params=list(SIZES))
def page(request: pytest.FixtureRequest, report: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        width, height = SIZES[request.param]
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": request.param == "phone"},
        )
        driver.size_name = request.param
        driver.get(report.as_uri())
        wait(lambda: driver.execute_script("return document.documentElement.dataset.ready") == "yes")
        yield driver
    finally:
        driver.quit()


def wait(ready: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.05)


def shown(page: Any) -> str:
    return str(page.execute_script("return document.documentElement.dataset.shown"))


def pixels(page: Any) -> list[int]:
    """How many pixels of the picture are coloured, and a sum that any change of it changes."""
    found: list[int] = page.execute_script(COPY + PIXELS, "points")
    return found


def settled(page: Any) -> list[int]:
    page.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));"
    )
    return pixels(page)


def choose(page: Any, name: str) -> None:
    page.execute_script(
        "const s = document.getElementById('by');"
        "s.value = [...s.options].find((o) => o.textContent === arguments[0]).value;"
        "s.dispatchEvent(new Event('change'));",
        name,
    )
    wait(lambda: shown(page) == name)


def data(page: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        page.execute_script("return document.getElementById('data').textContent")
    )
    return found


def test_cells_are_drawn_and_nothing_is_wider_than_the_screen(page: Any) -> None:
    assert settled(page)[0] > 1000
    width = page.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1]


def test_zoom_and_back(page: Any) -> None:
    whole = settled(page)
    page.find_element("id", "in").click()
    page.find_element("id", "in").click()
    nearer = settled(page)
    assert nearer != whole
    page.find_element("id", "all").click()
    assert settled(page) == whole


def test_the_wheel_zooms_only_once_the_picture_was_clicked(page: Any) -> None:
    whole = settled(page)
    page.execute_script("document.activeElement.blur()")
    assert page.execute_script(WHEEL) is False
    assert settled(page) == whole
    page.execute_script("document.getElementById('points').focus({preventScroll: true})")
    assert page.execute_script(WHEEL) is True
    assert settled(page) != whole
    page.find_element("id", "all").click()


def test_keys_move_zoom_and_describe(page: Any) -> None:
    whole = settled(page)
    canvas = page.find_element("id", "points")
    seen = [whole]
    for key in ("+", "\ue014", "\ue013", "-"):
        canvas.send_keys(key)
        seen.append(settled(page))
        assert seen[-1] != seen[-2]
    canvas.send_keys("0")
    assert settled(page) == whole
    canvas.send_keys("\ue007")
    assert "batch: " in page.find_element("id", "said").text
    assert page.find_element("id", "tip").is_displayed()
    canvas.send_keys("0")


def test_hover_tells_the_cell(page: Any) -> None:
    page.find_element("id", "points").send_keys("\ue007")
    tip = page.find_element("id", "tip")
    wait(tip.is_displayed)
    _, *rest = tip.text.split("\n")
    assert any(line.startswith("batch: ") for line in rest)
    # Where the cell in the middle lies, the pointer finds one.
    at = page.execute_script(COPY + RING, "over")
    wait(lambda: not tip.is_displayed())
    page.execute_script(POINT, *at)
    wait(tip.is_displayed)
    assert tip.text.split("\n")[0]
    # in a crowd another cell may be as near
    assert page.execute_script(COPY + RING, "over") == pytest.approx(at, abs=3)


def test_recolour_by_a_column_and_single_out(page: Any) -> None:
    by_batch = settled(page)
    choose(page, "modalities")
    column = next(c for c in data(page)["columns"] if c["name"] == "modalities")
    buttons = page.find_elements("css selector", "#key button")
    assert [b.text.split("\n")[0] for b in buttons] == column["names"]
    by_pattern = settled(page)
    assert by_pattern != by_batch
    page.execute_script("arguments[0].click()", buttons[0])
    assert buttons[0].get_attribute("aria-pressed") == "true"
    assert settled(page) != by_pattern
    choose(page, "batch")
    assert settled(page) == by_batch


def test_recolour_by_typing_a_feature(page: Any) -> None:
    before = settled(page)
    feature = data(page)["features"][3]
    box = page.find_element("id", "feature")
    box.clear()
    box.send_keys(feature["name"].lower(), "\ue007")
    wait(lambda: shown(page) == f"{feature['modality']}:{feature['name']}")
    assert settled(page) != before
    assert feature["name"] in page.find_element("id", "key").text
    assert data(page)["scales"][feature["modality"]] in page.find_element("id", "key").text
    assert feature["name"] in page.find_element("id", "said").text
    box.clear()
    box.send_keys("no such gene", "\ue007")
    wait(lambda: "No feature" in page.find_element("id", "said").text)
    choose(page, "batch")
    assert settled(page) == before


def test_drawing_is_quick(page: Any) -> None:
    seconds = page.execute_async_script(TEN_FRAMES)
    assert seconds < 5


def test_axe_finds_nothing(page: Any) -> None:
    path = axe_core()
    if path is None:
        pytest.skip("needs axe-core: npm install axe-core, or MOSAICVI_AXE=.../axe.min.js")
    page.execute_script(path.read_text(encoding="utf-8"))
    found = page.execute_async_script("const done = arguments[0]; axe.run().then(done)")
    assert [(v["id"], [n["target"] for n in v["nodes"]]) for v in found["violations"]] == []
    assert len(found["passes"]) > 20


def axe_core() -> Path | None:
    given = os.environ.get("MOSAICVI_AXE")
    roots = [Path.cwd(), *Path(__file__).resolve().parents]
    places = [Path(given)] if given else [r / "node_modules/axe-core/axe.min.js" for r in roots]
    return next((p for p in places if p.is_file()), None)


def test_it_prints(page: Any) -> None:
    wait(lambda: page.execute_script("return document.getElementById('paper').naturalWidth") > 0)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert page.find_element("id", "paper").is_displayed()
    assert not page.find_element("id", "points").is_displayed()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    wait(page.find_element("id", "points").is_displayed)
    pdf = page.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(pdf) > 20_000


def test_pictures_for_the_documentation(page: Any) -> None:
    folder = os.environ.get("MOSAICVI_SCREENSHOTS")
    if folder is None:
        pytest.skip("asked for by MOSAICVI_SCREENSHOTS")
    page.execute_script("document.activeElement.blur(); document.getElementById('cells').scrollIntoView()")
    time.sleep(1)
    page.save_screenshot(str(Path(folder) / f"report-{page.size_name}.png"))


def test_the_console_is_silent_and_no_request_left_the_page(page: Any) -> None:
    assert page.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked, "requests are not being watched"
    assert [u for u in asked if not u.startswith(("file:", "data:", "blob:"))] == []
    assert len([u for u in asked if u.startswith("file:")]) == 1
