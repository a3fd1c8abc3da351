"""The illustrated page: whole, offline, true to the arrays, and alive in a real browser."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import swindow
from helpers import definition
from swindow import explain
from swindow.explain import panels, report
from swindow.explain.cost import Count, Point
from swindow.explain.findings import Findings

SIZES = {"v1": (32, 48), "v2": (31, 27)}


def model_of(kind, **fields):
    fields = {"embed_dim": 8, "num_heads": (1, 2, 4), "num_classes": 7, **fields}
    fields |= definition.V2 if kind == "v2" else {}
    fields |= {"mask_padding": False, "patch_remainder": "drop"} if kind == "v2" else {}
    return definition.randomise(swindow.create("swin_nano", **fields)).eval()


def pair(height, width):
    display = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return torch.from_numpy(display).permute(2, 0, 1).float() / 255, display


@pytest.fixture(scope="module", params=["v1", pytest.param("v2", marks=pytest.mark.slow)])
def written(request, tmp_path_factory):
    torch.manual_seed(0)
    model, (image, display) = model_of(request.param), pair(*SIZES[request.param])
    folder, steps = tmp_path_factory.mktemp("page"), []
    names = ("a <model>", "a photo & more.jpg")
    paths = explain.explain(
        model, image, display, folder / "page.html", trained=True, png=request.param == "v1", names=names,
        on_progress=lambda *step: steps.append(step),
    )  # fmt: skip
    return request.param, model, image, display, paths, steps


class Elements(HTMLParser):
    """The tags of a page, with their attributes, and its words."""

    def __init__(self):
        super().__init__()
        self.found, self.words = [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def read(path):
    parser = Elements()
    parser.feed(path.read_text())
    return parser.found, " ".join(" ".join(parser.words).split())


def test_the_page_is_one_small_file_that_asks_for_nothing(written):
    kind, _, _, _, paths, _ = written
    text = paths[0].read_text()
    elements, _ = read(paths[0])
    assert len(text) < 10_000_000
    for tag, attributes in elements:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.findall(r"url\((?!#)", text)
    assert "default-src 'none'" in text
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = {a["href"][1:] for t, a in elements if t == "a"}
    assert links <= set(ids)
    pictures = sorted(p.stem for p in paths[1:])
    assert pictures == (sorted(Findings(*written[1:4], True).figures()) if kind == "v1" else [])


def test_every_figure_of_the_page_has_words_for_those_who_cannot_see_it(written):
    elements, _ = read(written[4][0])
    panels_ = [a for t, a in elements if a.get("class") == "panels"]
    assert len(panels_) == len(written[5])
    assert all(a["role"] == "img" and len(a["aria-label"]) > 60 for a in panels_)
    assert all("aria-label" in a for t, a in elements if t == "canvas")
    assert all(a.get("alt") for t, a in elements if t == "img")


def test_the_page_says_what_the_model_is(written):
    kind, model, _, display, paths, _ = written
    _, words = read(paths[0])
    assert "a <model> on a photo & more.jpg" in words
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in words
    assert f"{display.shape[0]}x{display.shape[1]} pixels" in words
    assert "Untrained" not in words
    assert ("small network maps an offset" in words) == (kind == "v2")
    for chapter in range(1, 8):
        assert re.search(rf"\b{chapter} [A-Z]", words)


def test_progress_counts_every_picture(written):
    names, done, totals = zip(*written[5])
    assert len(set(names)) == len(names) == totals[0]
    assert list(done) == list(range(1, len(names) + 1))
    assert len(set(totals)) == 1


def test_a_page_of_one_untrained_block():
    """It has nothing that shifts and nothing that merges, and a backbone has no classes."""
    model = swindow.create("swin_nano", embed_dim=8, depths=(1,), num_heads=(1,), num_classes=0).eval()
    text = explain.page(Findings(model, *pair(8, 8), trained=False), "swin_nano", "x.png", lambda *_: None)
    assert "Untrained." in text
    assert "It says:" not in text
    assert "No stage shifts here." in text
    assert 'id="02b_merging"' not in text
    assert 'id="06c_grad_cam"' not in text


def test_words_fit_models_that_merge_one_axis_and_maps_that_are_padded():
    model = swindow.create("swin_nano", embed_dim=8, num_heads=(1, 2, 4), merge_axes=(1,), window_size=7).eval()
    found = Findings(model, *pair(64, 128), trained=True)
    assert report._merging(found) == {"step": "1x2", "halved": "columns", "order": "00, 01", "wrong": ""}
    assert report._mask_words(found).startswith("Only windows at the bottom and right, or with padding, need one: in")


@pytest.mark.parametrize("fitted", [True, False])
def test_the_cost_chapter_counts_first_and_says_where_times_fit_no_power(fitted):
    model = swindow.create("swin_nano", embed_dim=8, depths=(1,), num_heads=(1,), window_size=4).eval()
    found, sides = Findings(model, *pair(8, 8), trained=True), (56, 112, 224)
    windowed = [Point(side, 1e-6 * side**2, side**2) for side in sides]
    if not fitted:
        windowed[2] = windowed[2]._replace(seconds=windowed[1].seconds)
    square = tuple(Point(side, 1e-9 * side**4, side**4) for side in sides)
    counts = tuple(Count(side, 10 * side**2, side**4) for side in sides)
    found.__dict__["costs"] = explain.Costs(tuple(windowed), square, counts)
    parser = Elements()
    parser.feed(explain.page(found, "model", "image", lambda *_: None).split('<section id="cost">')[1])
    said = " ".join(" ".join(parser.words).split("Made by")[0].split())
    time = "pixels^1.00" if fitted else "not fitted"
    parts = [
        "56 31,360 9,834,496 313.6 112 125,440 157,351,936 1254.4 224 501,760 2,517,630,976 5017.6",
        "multiplications grow as pixels^1.00 with windows and as pixels^2.00 globally",
        "on this machine, on one thread",
        f"windows of 4x4 {time} pixels^1.00 global pixels^2.00 pixels^2.00",
    ]
    assert sorted(map(said.index, parts)) == [said.index(part) for part in parts]
    assert (
        "Not fitted: one of the three times lies more than 15 % off the fitted power, or that power is below 0.75"
        in said
    ) != fitted
    assert ("not fitted" in said) != fitted


def test_a_single_class_has_no_probability():
    assert report._words(Findings(model_of("v1", num_classes=1), *pair(16, 16), True))["says"] == ""


def test_photos_become_small_and_keep_their_look():
    picture = np.asarray(Image.effect_noise((300, 200), 60).convert("RGB"))
    figure = explain.patch_figure(explain.record(model_of("v1"), *[pair(200, 300)[0]]), picture)
    svgs = panels.svg_panels(figure, "name")
    assert len(svgs) == 3
    assert 'href="data:image/jpeg' in svgs[0]
    assert all('id="name-' in svg and panels.INK not in svg for svg in svgs)


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync.sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=found)
        except sync.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


SCREENS = {"desktop": (1280, 900, "light"), "phone": (390, 844, "dark")}


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) for name in SCREENS])
def tab(browser, request, written):
    width, height, scheme = SCREENS[request.param]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.complaints, page.asked = [], []
    page.on("console", lambda m: page.complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: page.complaints.append(str(e)))
    page.on("request", lambda r: page.asked.append(r.url) if not r.url.startswith("data:") else None)
    page.goto(written[4][0].as_uri())
    page.wait_for_selector("html[data-ready=yes]", timeout=20_000)
    yield page
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith("file:")] == []
    page.close()


def pixels(tab, id_):
    return tab.eval_on_selector(f"#{id_}", "canvas => canvas.toDataURL()")


def test_nothing_is_wider_than_the_screen(tab):
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    drawn = "[...document.querySelectorAll('.panels svg, canvas')]"
    assert tab.evaluate(f"{drawn}.every(e => e.getBoundingClientRect().right <= window.innerWidth + 1)")


def test_a_click_moves_the_overlay_and_shows_the_models_attention(tab, written):
    _, model, image, _, _, _ = written
    before = pixels(tab, "attention")
    box = tab.locator("#attention").bounding_box()
    height, width = image.shape[1:]
    at = (height - 3, width - 2)
    place = {"x": (at[1] + 0.5) / width * box["width"], "y": (at[0] + 0.5) / height * box["height"]}
    tab.locator("#attention").click(position=place)
    assert f"row {at[0]}, column {at[1]}" in tab.locator("#attention-says").inner_text()
    assert pixels(tab, "attention") != before
    with torch.no_grad(), explain.capture(model) as seen:
        model(image[None])
    for i, block in enumerate(seen.blocks):
        token = [p // t for p, t in zip(at, block.token)]
        heads = block.module.num_heads
        shown = tab.evaluate(f"attention(DATA.blocks[{i}], {heads - 1}, {token})")
        every = tuple(slice(0, n * t, t) for n, t in zip(block.geometry.grid, block.token))
        expected = explain.attention_maps(seen, at, block.name)[heads - 1][every].ravel()
        np.testing.assert_allclose(list(shown.values()) if isinstance(shown, dict) else shown, expected, atol=0.01)
        flow, of = tab.evaluate(
            f"(() => {{ const [f, b] = rollout({i}, {token}); return [Array.from(f), b.name]; }})()"
        )
        assert of == "stages.0.blocks.0"
        first = seen.blocks[0]
        patches = tuple(slice(0, n * t, t) for n, t in zip(first.geometry.grid, first.token))
        np.testing.assert_allclose(flow, explain.rollout(seen, at, block.name)[patches].ravel(), atol=0.01)


def test_controls_change_what_is_shown(tab):
    said, shown = tab.locator("#attention-says").inner_text(), pixels(tab, "attention")
    tab.locator("#block").fill("5")
    assert "stage 3, block 2" in tab.locator("#block-says").inner_text()
    assert tab.locator("#attention-says").inner_text() != said
    assert tab.locator("#head option").count() == 5
    one = pixels(tab, "attention")
    assert one != shown
    tab.locator("#head").select_option("2")
    assert pixels(tab, "attention") != one
    tab.locator("#mode").select_option("rollout")
    assert tab.locator("#head").is_disabled()
    tab.locator("#attention").focus()
    said = tab.locator("#attention-says").inner_text()
    tab.keyboard.press("ArrowUp")
    assert tab.locator("#attention-says").inner_text() != said


def test_blocks_too_large_for_the_page_are_left_out(tab):
    said = tab.locator("#attention-says")
    tab.evaluate("(DATA.blocks[0].attention = DATA.blocks[1].attention = null, drawAttention())")
    assert "too large for this page" in said.inner_text()  # the second block is shown first
    tab.locator("#mode").select_option("rollout")
    assert "too large for this page" in said.inner_text()
    tab.locator("#block").fill("3")
    assert "back to stage 2, block 1; largest weight 0." in said.inner_text()


def test_the_slider_rolls_the_image_by_the_shift(tab, written):
    before = pixels(tab, "shift")
    most = int(tab.locator("#shift-by").get_attribute("max"))
    tab.locator("#shift-by").fill(str(most))
    assert pixels(tab, "shift") != before
    assert f"rolled {most} of {most} tokens up" in tab.locator("#shift-says").inner_text()


def test_the_index_and_the_bias_answer(tab, written):
    cells = tab.locator("#index-window button")
    wide = 2 * 3 - 1
    assert f"× {wide} + 3 = row {4 * wide + 3}" in tab.locator("#index-says").inner_text()  # (2, 1) - (0, 0)
    cells.nth(5).click()  # the query becomes (1, 2)
    assert f"3 × {wide} + 4 = row {3 * wide + 4}" in tab.locator("#index-says").inner_text()
    tab.locator("#bias-block").select_option(index=5)
    assert tab.locator("#bias canvas").count() == 4
    biases = explain.bias_pictures(written[1].stages[2].blocks[1])
    assert f"bright {biases.max():.3f}" in tab.locator("#bias-says").inner_text()
