"""The page in a real browser: no errors, nothing loaded, views that are linked, and controls that work."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from isovi.report.summarise import Report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
SPOTS = "const spots = Bokeh.documents[0].get_model_by_name('spots');"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests; skipped where none is installed."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    chromedriver = shutil.which("chromedriver")
    if browser is None or chromedriver is None:
        pytest.skip("neither Chromium nor chromedriver is installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, "--window-size=1280,1000"):
        options.add_argument(flag)
    kept = tmp_path_factory.mktemp("downloads")
    asked = "profile.default_content_setting_values.automatic_downloads"
    checked = "safebrowsing.enabled"  # it asks a server about the kinds of files it takes for dangerous: SVG
    options.add_experimental_option("prefs", {asked: 1, checked: False})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    opened.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(kept)})
    opened.downloads = kept  # type: ignore[attr-defined]
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def opened(driver: webdriver.Chrome, written: Report, folder: Path) -> webdriver.Chrome:  # noqa: ARG001  # written first
    load(driver, folder)
    return driver


@pytest.fixture
def page(opened: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """The page, as it was when it opened."""
    yield opened
    for chooser in ("color", "section"):
        Select(opened.find_element(By.ID, chooser)).select_by_index(0)
    press(opened, "clear")
    press(opened, "reset")
    opened.execute_script("document.querySelector('input[value=lasso]').click()")


def load(driver: webdriver.Chrome, folder: Path) -> None:
    driver.get((folder / "report.html").as_uri())
    wait_for(driver, "return document.documentElement.dataset.state === 'ready'")


def wait_for(driver: webdriver.Chrome, condition: str) -> None:
    WebDriverWait(driver, 60).until(lambda page: page.execute_script(condition))


def press(page: webdriver.Chrome, name: str) -> None:
    page.execute_script("document.getElementById(arguments[0]).click()", name)


def chosen(page: webdriver.Chrome) -> list[int]:
    return page.execute_script(f"{SPOTS} return [...spots.selected.indices]")


def pixels(page: webdriver.Chrome, view: str) -> str:
    """What a view shows, as a picture."""
    page.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 100))")
    return page.find_element(By.ID, f"plot-{view}").screenshot_as_base64


def wait_for_change(page: webdriver.Chrome, before: dict[str, str]) -> None:
    """Wait until views look otherwise than they did: a busy machine paints late."""
    WebDriverWait(page, 20).until(lambda now: all(pixels(now, view) != old for view, old in before.items()))


def drag(page: webdriver.Chrome, view: str, corners: list[tuple[float, float]]) -> list[int]:
    """The spots chosen by dragging over a view through points that are shares of its width and height."""
    element = page.find_element(By.ID, f"plot-{view}")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    points = [at(element, *corner) for corner in corners]
    action = ActionChains(page, duration=20).move_to_element_with_offset(element, *points[0]).click_and_hold()
    for point in points[1:]:
        action.move_to_element_with_offset(element, *point)
    action.release().perform()
    wait_for(page, f"{SPOTS} return spots.selected.indices.length > 0")
    return chosen(page)


def at(element: WebElement, right: float, down: float) -> tuple[int, int]:
    """Offset from the middle of an element."""
    return int((right - 0.5) * element.size["width"]), int((down - 0.5) * element.size["height"])


# ---------------------------------------------------------------------------- opening


def test_it_opens_without_errors_and_asks_for_nothing(opened: webdriver.Chrome) -> None:
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert any(url.startswith("file:") for url in asked)  # or nothing was watched
    assert [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_all_plots_are_drawn(opened: webdriver.Chrome, written: Report) -> None:
    plots, n_parts = opened.find_elements(By.CSS_SELECTOR, ".plot"), len(written.spots.parts)
    assert (n_parts, len(plots)) == (2, 12)
    for plot in plots:
        assert plot.size["width"] > 200 and plot.size["height"] > 150
        assert plot.get_attribute("aria-label")
    drawn = opened.execute_script("return Bokeh.documents.map((one) => one.roots().length)")
    assert drawn == [3 + n_parts, 8]  # the views with the values of their colours, and eight charts


# ---------------------------------------------------------------------------- linked views


def test_spots_chosen_in_one_view_stand_out_in_the_other(page: webdriver.Chrome) -> None:
    before = {"latent": pixels(page, "latent")}
    found = drag(page, "tissue", [(0.05, 0.05), (0.3, 0.05), (0.3, 0.95), (0.05, 0.95), (0.05, 0.1)])
    assert 0 < len(found) < 300
    wait_for_change(page, before)
    assert page.find_element(By.ID, "chosen").text.startswith(f"{len(found)} of 300 spots selected: domain")


def test_the_lasso_takes_the_spots_inside_it_and_no_others(page: webdriver.Chrome) -> None:
    found = drag(page, "tissue", [(0.02, 0.02), (0.5, 0.02), (0.5, 0.98), (0.02, 0.98), (0.02, 0.04)])
    inside = page.execute_script(
        f"{SPOTS} const {{start, end}} = Bokeh.documents[0].get_model_by_name('tissue').x_range;"
        "return [...spots.data.x.keys()].filter((i) => spots.data.x[i] < (start + end) / 2)"
    )
    assert 0 < len(inside) < 300
    assert set(found) == set(inside)


def test_a_box_in_the_latent_chooses_in_tissue(page: webdriver.Chrome) -> None:
    before = {"tissue": pixels(page, "tissue")}
    page.find_element(By.CSS_SELECTOR, "input[value=box]").click()
    assert len(drag(page, "latent", [(0.02, 0.02), (0.5, 0.98)])) < 300
    wait_for_change(page, before)
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
    assert chosen(page) == []
    assert page.find_element(By.ID, "chosen").text == ""


def test_pointing_at_a_spot_marks_it_in_both_views(page: webdriver.Chrome, written: Report) -> None:
    page.execute_script("document.getElementById('plot-tissue').scrollIntoView({block: 'center'})")
    target = page.execute_script(
        f"{SPOTS} const {{x_range, y_range}} = Bokeh.documents[0].get_model_by_name('tissue');"
        "return [(spots.data.x[7] - x_range.start) / (x_range.end - x_range.start),"
        "(spots.data.y[7] - y_range.end) / (y_range.start - y_range.end)]"  # y runs down
    )
    element = page.find_element(By.ID, "plot-tissue")
    before = {"latent": pixels(page, "latent")}
    ActionChains(page).move_to_element_with_offset(element, *at(element, *target)).perform()
    note = page.find_element(By.ID, "pointed")
    WebDriverWait(page, 10).until(lambda _: note.text)
    assert note.text.startswith(f"{written.spots.names[7]}\ndomain: ")
    wait_for_change(page, before)
    ActionChains(page).move_to_element(page.find_element(By.ID, "color")).perform()
    WebDriverWait(page, 10).until(lambda _: not note.text)


# ---------------------------------------------------------------------------- controls


def test_colours_follow_the_choice(page: webdriver.Chrome, written: Report) -> None:
    before = {view: pixels(page, view) for view in ("tissue", "latent")}
    offered = Select(page.find_element(By.ID, "color"))
    labels = [channel.label for channel in written.spots.channels]
    assert [option.text for option in offered.options] == labels
    offered.select_by_visible_text("latent 1")
    wait_for_change(page, before)
    shown: Any = page.execute_script(f"{SPOTS} return [...spots.data.value]")
    assert shown == pytest.approx(written.spots.channels[labels.index("latent 1")].values.tolist())
    assert page.find_elements(By.CSS_SELECTOR, "#legend .ramp")
    offered.select_by_index(0)
    shown = page.execute_script(f"{SPOTS} return [...spots.data.value]")
    assert shown == written.spots.channels[0].values.tolist()


def test_a_category_is_chosen_by_keyboard(page: webdriver.Chrome, written: Report) -> None:
    domain = written.spots.channels[0]
    chip = page.find_elements(By.CSS_SELECTOR, "#legend button")[1]
    assert chip.text == domain.categories[1]
    chip.send_keys(Keys.ENTER)
    assert chip.get_attribute("aria-pressed") == "true"
    assert chosen(page) == [i for i, code in enumerate(domain.values) if code == 1]
    chip.send_keys(Keys.SPACE)
    assert chosen(page) == []


def test_zoom_and_reset(page: webdriver.Chrome) -> None:
    ends = "const {start, end} = Bokeh.documents[0].get_model_by_name('latent').x_range; return end - start"
    before = page.execute_script(ends)
    page.find_element(By.ID, "zoom-in").send_keys(Keys.ENTER)
    assert page.execute_script(ends) == pytest.approx(before / 1.5)
    page.find_element(By.ID, "reset").send_keys(Keys.ENTER)
    assert page.execute_script(ends) == pytest.approx(before)


def test_the_first_stop_of_the_keyboard_skips_to_the_views(opened: webdriver.Chrome, folder: Path) -> None:
    load(opened, folder)
    stops = []
    for _ in range(3):
        ActionChains(opened).send_keys(Keys.TAB).perform()
        stops.append(opened.switch_to.active_element)
    assert stops[0].get_attribute("class") == "skip"
    assert stops[1].get_attribute("id") == "color"
    assert stops[2].get_attribute("id") == "gene"


# ---------------------------------------------------------------------------- genes, sections, image, files


def search(page: webdriver.Chrome, gene: str) -> str:
    """What the page says after a gene was typed."""
    field = page.find_element(By.ID, "gene")
    page.execute_script("document.getElementById('found').textContent = ''")
    field.clear()
    field.send_keys(gene, Keys.ENTER)
    WebDriverWait(page, 20).until(lambda now: now.find_element(By.ID, "found").text)
    return page.find_element(By.ID, "found").text


def test_any_gene_is_found_by_its_name(page: webdriver.Chrome, written: Report) -> None:
    assert written.genes is not None
    offered = {channel.label for channel in written.spots.channels}
    number, gene = next((i, name) for i, name in enumerate(written.genes.names) if name not in offered)
    assert search(page, f" {gene.upper()} ") == f"Gene {gene}"
    shown = page.execute_script(f"{SPOTS} return [...spots.data.value]")
    expected = written.genes.matrix[:, [number]].toarray().ravel()
    assert shown == pytest.approx(expected.tolist(), abs=float(expected.max()) / 63)
    assert expected.std() > 0
    assert page.find_elements(By.CSS_SELECTOR, "#legend .ramp")
    Select(page.find_element(By.ID, "color")).select_by_index(0)
    assert page.find_element(By.ID, "gene").get_attribute("value") == ""


def test_an_unknown_gene_is_said_with_those_like_it(page: webdriver.Chrome, written: Report) -> None:
    assert written.genes is not None
    said = search(page, "gene_0")
    assert said.startswith("No gene of the model is called gene_0; like it: ")
    assert written.genes.names[0] in said


def test_a_marker_is_shown_by_a_click(page: webdriver.Chrome, written: Report) -> None:
    marker = written.summary.domains.markers[0]
    page.find_element(By.CSS_SELECTOR, "#table-markers button.gene").send_keys(Keys.ENTER)
    WebDriverWait(page, 20).until(lambda now: now.find_element(By.ID, "found").text == f"Gene {marker.gene}")


def test_one_section_is_shown_alone(page: webdriver.Chrome, written: Report) -> None:
    sections, ends = (
        written.spots.section,
        "const {start, end} = Bokeh.documents[0].get_model_by_name('tissue').x_range;",
    )
    assert sections is not None
    chooser = Select(page.find_element(By.ID, "section"))
    assert [option.text for option in chooser.options] == ["all 2", *written.spots.section_names]
    before = {view: pixels(page, view) for view in ("tissue", "latent")}
    chooser.select_by_index(2)
    wait_for_change(page, before)
    start, end = page.execute_script(f"{ends} return [start, end]")
    x = written.spots.tissue[:, 0]
    assert start < x[sections == 1].min() and x[sections == 1].max() < end
    assert not ((x[sections == 0] > start) & (x[sections == 0] < end)).all()
    page.find_element(By.CSS_SELECTOR, "#legend button").click()
    assert {sections[i] for i in chosen(page)} <= {1}
    chooser.select_by_index(0)
    assert page.execute_script("return Bokeh.documents[0].get_model_by_name('section').booleans") is None


def test_the_titles_of_sections_are_inside_the_view(page: webdriver.Chrome, written: Report) -> None:
    top = page.execute_script("return Bokeh.documents[0].get_model_by_name('tissue').y_range.end")
    bottom = page.execute_script("return Bokeh.documents[0].get_model_by_name('tissue').y_range.start")
    line = 16 * (bottom - top) / page.find_element(By.ID, "plot-tissue").size["height"]
    assert all(y - line >= top for _, _, y in written.spots.sections)
    assert all(bar.y + line <= bottom for bar in written.spots.bars)


def test_the_image_is_seen_through_the_spots(page: webdriver.Chrome) -> None:
    slider = page.find_element(By.ID, "opacity")
    before = {"tissue": pixels(page, "tissue")}
    slider.send_keys(Keys.HOME)
    wait_for_change(page, before)
    alpha = "return Bokeh.documents[0].get_model_by_name('tissue-spots').glyph.fill_alpha"
    assert page.execute_script(f"{alpha}.value ?? {alpha.removeprefix('return ')}") == 0
    slider.send_keys(Keys.END)
    assert slider.get_attribute("value") == "100"


SAVED = """
const [selector, done] = arguments, click = HTMLAnchorElement.prototype.click;
HTMLAnchorElement.prototype.click = function () {
  HTMLAnchorElement.prototype.click = click;
  fetch(this.href).then((file) => file.text()).then((text) => done([this.download, text]));
};
document.querySelector(selector).click();
"""


def downloaded(page: webdriver.Chrome, selector: str, name: str) -> str:
    """The text of the file that a button hands to the browser, which itself saves ten files and then asks."""
    page.set_script_timeout(60)
    saved, text = page.execute_async_script(SAVED, selector)
    assert saved == name
    return text


def test_a_file_is_saved(page: webdriver.Chrome) -> None:
    page.execute_script("document.querySelector('[data-csv=metrics]').click()")
    file = page.downloads / "metrics.csv"  # type: ignore[attr-defined]
    WebDriverWait(page, 60).until(lambda _: file.exists() and file.stat().st_size)
    assert file.read_text(encoding="utf-8") == downloaded(page, "[data-csv=metrics]", "metrics.csv").replace(
        "\r\n", "\n"
    )


def test_every_table_is_downloaded_as_csv(page: webdriver.Chrome, written: Report) -> None:
    names = [one.get_attribute("data-csv") for one in page.find_elements(By.CSS_SELECTOR, "[data-csv]")]
    tables = [one.get_attribute("id") for one in page.find_elements(By.TAG_NAME, "table")]
    assert sorted(f"table-{name}" for name in names) == sorted(tables) and len(tables) >= 5
    for name in names:
        table = pd.read_csv(io.StringIO(downloaded(page, f"[data-csv='{name}']", f"{name}.csv")))
        assert len(table) > 0 and not table.columns.str.contains("Unnamed").any()
    metrics = pd.read_csv(io.StringIO(downloaded(page, "[data-csv=metrics]", "metrics.csv")))
    assert metrics["held out"].tolist() == pytest.approx([row.heldout for row in written.summary.metrics])
    Select(page.find_element(By.ID, "color")).select_by_index(0)
    spots = pd.read_csv(io.StringIO(downloaded(page, "#spots-csv", "spots.csv")))
    assert spots["spot"].tolist() == written.spots.names.tolist()
    domain = written.spots.channels[0]
    assert spots["domain"].astype(str).tolist() == [domain.categories[code] for code in domain.values]


def test_every_plot_is_downloaded_as_svg(page: webdriver.Chrome) -> None:
    buttons = page.find_elements(By.CSS_SELECTOR, "[data-svg]")
    assert len(buttons) == len(page.find_elements(By.CSS_SELECTOR, ".plot, #plot-dots"))
    for name in [button.get_attribute("data-svg") for button in buttons]:
        root = ElementTree.fromstring(downloaded(page, f"[data-svg='{name}']", f"{name}.svg"))
        assert root.tag.endswith("svg") and len(list(root.iter())) > 10


# ---------------------------------------------------------------------------- other screens and sizes


def test_a_page_of_20000_spots_holds_them_all(
    opened: webdriver.Chrome, page_of: Callable[[int], str], tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text(page_of(20_000))
    load(opened, tmp_path)
    assert opened.execute_script(f"{SPOTS} return spots.get_length()") == 20_000


def test_on_a_phone_views_stack_and_nothing_runs_out_of_the_page(
    opened: webdriver.Chrome, folder: Path
) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        load(opened, folder)
        tissue, latent = (opened.find_element(By.ID, f"plot-{view}").rect for view in ("tissue", "latent"))
        assert latent["y"] >= tissue["y"] + tissue["height"]
        assert 300 < tissue["width"] < 390
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_text_can_be_read_in_light_and_dark(opened: webdriver.Chrome, folder: Path) -> None:
    load(opened, folder)
    seen = set()
    for scheme in ("dark", "light"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        page, ink, soft = opened.execute_script(
            "const style = getComputedStyle(document.documentElement);"
            "return ['--page', '--ink', '--soft'].map((name) => style.getPropertyValue(name).trim())"
        )
        axis = "return Bokeh.documents[1].get_model_by_name('elbo').below[0].axis_label_text_color"
        wait_for(opened, f"{axis} === '{ink}'")
        assert contrast(ink, page) > 7 and contrast(soft, page) > 4.5
        seen.add(page)
    assert len(seen) == 2


def contrast(first: str, second: str) -> float:
    """Contrast of two colours by the Web Content Accessibility Guidelines, 1 to 21."""
    light, dark = sorted(map(luminance, (first, second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    shares = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
