"""The page in a real browser, before the real service over a small real run."""

import re
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest

pytest.importorskip("fastapi", reason="the service's libraries are not installed")
pytest.importorskip("playwright", reason="Playwright is not installed")

import llm_tail.service
from llm_tail.neighbors.filters import Filter
from tests import shop
from tests.service.browser import chromium, find_chromium, serving

PAGE = Path(llm_tail.service.__file__).parent / "page"
AXE = Path(__file__).parent / "axe" / "axe.min.js"
LONG = "An endless title " * 60
HOSTILE = {
    "x0": "<img src=x onerror=\"alert('title')\">",
    "x1": LONG,
    "x2": "كتاب الحيوان \u202eevil reversed",
    "x3": "🦔🌶️👩‍👩‍👧‍👦 \"quotes' & <b>bold</b>",
    "x4": "Unbroken" * 40,
    "x/5 ?#%": "An id to escape",
}
VIEWS = {
    "home": "#/",
    "search": "#/search?q=garden",
    "item": "#/item/k0",
    "cold item": "#/item/x0",
    "map": "#/map",
    "exposure": "#/exposure",
    "tray": "#/tray",
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A finished run of the shop, hostile items among the others."""
    from llm_tail.workspace import Workspace

    find_chromium()  # skips before anything is fitted
    more = pd.DataFrame(
        [(key, title, title, "music", "Halcyon") for key, title in HOSTILE.items()],
        columns=shop.items().columns,
    )
    path = shop.write(
        tmp_path_factory.mktemp("page"),
        item_frame=pd.concat([shop.items(), more]),
        extra="[serve]\nrate = 0\ncompare_base = true\n",
    )
    Workspace.open(path).run(until="fit")
    return path


@pytest.fixture(scope="module")
def site(config):
    from llm_tail.workspace import Workspace

    with serving(Workspace.open(config)) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def visit(browser, site):
    """Open the page somewhere; at the end nothing may have gone wrong in it, and nobody else been asked."""
    contexts, troubles = [], []

    def go(place="#/", *, at=site, forgive=("the server responded with a status of 400",), ready=True, **how):
        options = {"viewport": {"width": 1200, "height": 820}, "locale": "en-US", "reduced_motion": "reduce", **how}
        context = browser.new_context(**options)
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()

        def note(what, words):
            if not any(part in words for part in forgive):
                troubles.append(f"{what}: {words}")

        page.on("pageerror", lambda error: note("error", str(error)))
        page.on("console", lambda said: said.type in ("error", "warning") and note("console", said.text))
        page.on("request", lambda asked: asked.url.startswith(at) or note("outside", asked.url))
        page.on("dialog", lambda dialog: (note("dialog", dialog.message), dialog.dismiss()))
        page.goto(at + place)
        if ready:
            settled(page)
        return page

    yield go
    for context in contexts:
        context.close()
    assert troubles == []


def settled(page):
    """Wait until the view is there and nothing in it waits."""
    page.wait_for_selector("main h1, main [role=alert]")
    page.wait_for_function("() => !document.querySelector('main .wait, main [aria-busy]')")


def turn(page, place):
    """Go on to another view of a page that is open."""
    page.evaluate("place => { location.hash = place }", place)
    page.wait_for_function("place => document.querySelector('main').dataset.place === place", arg=place)
    settled(page)


# ---- what it is made of


def test_files_fetch_nothing_from_elsewhere_and_hold_no_inline_code():
    index = (PAGE / "index.html").read_text()
    for name in re.findall(r'(?:src|href)="(page/[^"]+)"', index):
        assert (PAGE.parent / name).is_file(), name
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", index)
    for path in PAGE.rglob("*.*"):
        words = path.read_text()
        assert not re.search(r"""["'(](?:https?:)?//(?!www\.w3\.org)""", words), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function", words), path
        assert len(words.splitlines()) < 400, path


def test_every_word_is_there_in_both_languages():
    table = (PAGE / "js" / "i18n.js").read_text()
    words = {key: pair for key, *pair in re.findall(r'^  "([\w.]+)": \["(.+?)", "(.+?)"\],$', table, re.M)}
    assert len(words) > 150
    others = [path.read_text() for path in PAGE.rglob("*.js") if path.name != "i18n.js"]
    asked = {key for text in others for key in re.findall(r'\bt\("([\w.]+)"', text)}
    assert not asked - set(words)
    for key, (english, chinese) in words.items():
        named, counted = (set(re.findall(end, english)) for end in (r"\{(\w+)[%}]", r"\{(\w+)\|"))
        assert set(re.findall(r"\{(\w+)[%}]", chinese)) <= named | counted, key


# ---- every view


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_any_view(visit, theme, tmp_path):
    page = visit(color_scheme=theme)
    page.evaluate(AXE.read_text())
    found = {}
    for name, place in VIEWS.items():
        turn(page, place)
        assert page.title().endswith("llm_tail")
        assert page.locator("main h1").count() == 1
        page.screenshot(path=tmp_path / f"{name}-{theme}.png", full_page=True)
        told = page.evaluate("axe.run({ resultTypes: ['violations'] }).then(r => r.violations.map(v => "
                             "[v.impact, v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200))]))")  # fmt: skip
        found |= {f"{name}: {one[1]}": one for one in told if one[0] in ("serious", "critical")}
    assert found == {}


def test_on_a_phone_nothing_stands_out_to_the_side(visit, tmp_path):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    for name, place in {**VIEWS, "long": "#/item/x1", "unbroken": "#/item/x4"}.items():
        turn(page, place)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, name
        page.screenshot(path=tmp_path / f"{name}-phone.png")


def test_chinese_is_spoken_to_those_who_read_it_and_can_be_left(visit):
    page = visit("#/tray", locale="zh-CN")
    assert page.locator("h1").inner_text() == "你会看到什么？"
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    page.get_by_role("button", name="English").click()
    page.get_by_role("heading", name="What would you be shown?").wait_for()
    page.reload()
    page.get_by_role("heading", name="What would you be shown?").wait_for()


def test_the_theme_can_be_chosen_and_stays(visit):
    page = visit(color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.locator("#theme").click()
    page.locator("#theme").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    settled(page)
    assert page.evaluate(ground) == dark


def test_nothing_moves_for_those_who_ask_for_calm(visit):
    page = visit("#/item/k0")
    assert page.evaluate("document.getAnimations().length") == 0
    before = page.locator(".graph .star").first.get_attribute("transform")
    page.wait_for_timeout(150)
    assert page.locator(".graph .star").first.get_attribute("transform") == before


# ---- finding


def test_suggestions_by_keyboard_lead_to_an_item(visit):
    page = visit()
    page.keyboard.press("/")
    box = page.get_by_role("combobox", name="Search the catalogue")
    assert box.evaluate("box => box === document.activeElement")
    page.keyboard.type("pan")
    page.get_by_role("option").first.wait_for()
    assert box.get_attribute("aria-expanded") == "true"
    page.keyboard.press("ArrowDown")
    chosen = page.locator(f"#{box.get_attribute('aria-activedescendant')}")
    assert chosen.get_attribute("aria-selected") == "true"
    assert "pan" in chosen.inner_text().lower()
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name="Frying pan").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("pan")
    page.get_by_role("option").first.wait_for()
    page.keyboard.press("Escape")
    assert box.get_attribute("aria-expanded") == "false"
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name="Results for “pan”").wait_for()


def test_addresses_lead_back_and_forth(visit):
    page = visit("#/search?q=telescope&how=vectors")
    first = page.locator("main .items a").first
    name = first.inner_text()
    first.click()
    page.get_by_role("heading", level=1, name=name, exact=True).wait_for()
    settled(page)
    page.evaluate("scrollTo(0, 900)")
    page.evaluate("document.querySelector('.three .items a').click()")
    page.wait_for_function("() => scrollY === 0")
    page.go_back()
    page.wait_for_function("() => Math.abs(scrollY - 900) < 3")  # where it was left, although the neighbours come later
    page.go_back()
    page.get_by_role("heading", level=1, name="Results for").wait_for()
    assert page.locator("#find").input_value() == "telescope"
    page.go_forward()
    page.get_by_role("heading", level=1, name=name, exact=True).wait_for()


def test_by_keyboard_alone_from_the_skip_link_to_a_travel_through_the_graph(visit):
    page = visit("#/item/k0")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert "I took this" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    assert page.locator("#taken").inner_text().startswith("1")
    page.locator(".graph .star.centre").focus()
    assert page.locator(".graph .star[tabindex='0']").count() == 1
    for key in ("ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    page.evaluate("document.querySelectorAll('.graph .star')[1].focus()")
    assert page.locator(".graph .star[tabindex='0']").count() == 1
    name = page.evaluate("document.activeElement.querySelector('title').textContent")
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name=name, exact=True).wait_for()
    page.wait_for_function("() => document.activeElement.classList.contains('centre')")


def test_filters_narrow_a_search_and_can_be_taken_out(visit):
    page = visit("#/search?q=garden&how=vectors")
    before = page.locator("main .items li").count()
    page.get_by_text("Filter", exact=True).click()
    page.get_by_label("Column").select_option("brand")
    page.get_by_label("Value").fill("Halcyon")
    page.get_by_role("button", name="Add").first.click()
    chip = page.get_by_role("button", name='Remove brand = "Halcyon"')
    chip.wait_for()
    settled(page)
    assert 0 < page.locator("main .items li").count() < before
    page.get_by_role("radio", name="words").check(force=True)
    page.wait_for_function("() => location.hash.includes('how=words')")
    chip.click()
    page.wait_for_function("() => !location.hash.includes('where')")
    page.get_by_text("Filter", exact=True).click()
    page.get_by_label("A condition in your own words").fill("brand is wrong")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()


def test_conditions_are_written_as_the_index_reads_them(visit):
    page = visit()
    for column, kind, sign, value in (
        ("brand", "text", "=", 'say "hi" \\ there'),
        ("in", "list", "!=", "or"),
        ("page count", "number", "<=", "1.5"),
    ):
        words = page.evaluate(
            "async given => (await import('./page/js/parts/filter.js')).condition(...given)",
            [{"name": column, "kind": kind}, sign, value],
        )
        check = Filter.parse(words)._node
        assert (check.column, check.how, check.values) == (column, sign, (value,))


# ---- an item


def test_an_item_shows_its_neighbours_its_reasons_and_its_ties(visit, site):
    page = visit()
    known = (i for i in shop.items().item_id if page.request.get(f"{site}items/{i}/together").json()["items"])
    turn(page, f"#/item/{next(known)}")
    for column in ("By text", "By graph", "By people"):
        assert page.get_by_role("list", name=column).locator("li").count() > 0
    assert page.locator(".shares i").count() > 0
    shown = page.locator(".tie:not([hidden])").count()
    page.get_by_role("group", name="Ties").get_by_text("similar text").click()
    assert page.locator(".tie:not([hidden])").count() < shown
    page.get_by_text("The same as a list").click()
    assert page.locator("details[open] .items li").count() == page.locator(".star").count() - 1


def test_an_item_can_be_dragged_and_the_graph_moved_and_zoomed(visit):
    page = visit("#/item/g1")
    star = page.locator(".graph .star").nth(2)
    star.scroll_into_view_if_needed()
    before, box = star.get_attribute("transform"), star.locator("circle").bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + 4)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 44, steps=4)
    page.mouse.up()
    assert star.get_attribute("transform") != before
    assert "#/item/g1" in page.url, "a drag is no click"
    page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Show all").click()


def test_two_encoders_are_shown_side_by_side(visit):
    page = visit("#/item/k0?compare=1")
    page.get_by_text("Both see the same").wait_for()  # the shop is not fine-tuned
    assert page.get_by_role("list", name="Base").locator("li").count() == 10


def test_hostile_titles_are_nothing_but_text(visit):
    page = visit()
    for item, title in HOSTILE.items():
        turn(page, f"#/item/{quote(item, safe='')}")
        page.wait_for_function("title => document.querySelector('h1')?.textContent === title", arg=title)
        assert page.locator("main img, main b, main script").count() == 0
    turn(page, f"#/search?q={quote(HOSTILE['x0'])}")
    assert HOSTILE["x0"] in page.locator("h1").inner_text()
    assert page.locator("main img, main b, main script").count() == 0


# ---- recommendations


def test_what_is_taken_leads_to_recommendations_and_their_reasons(visit):
    page = visit("#/item/m0")
    page.get_by_role("button", name="I took this").click()
    turn(page, "#/tray")
    page.get_by_role("heading", name="For what you took").wait_for()
    assert page.locator("#taken").inner_text().startswith("1")
    rows = page.locator(".aside section .items > li")
    assert rows.count() > 3
    rows.first.get_by_role("button", name=re.compile("^Why")).click()
    page.locator(".because .shares").wait_for()
    page.get_by_role("button", name="Put all back").click()
    page.get_by_role("heading", name="What most people take").wait_for()


def test_a_known_person_is_shown_other_items_after_dismissing_one(visit):
    page = visit("#/tray?user=u01")
    page.get_by_role("heading", name="For u01").wait_for()
    first = page.locator("main section .items .name").first
    name = first.inner_text()
    page.get_by_role("button", name="Not for them").first.click()
    page.wait_for_function(
        "name => document.querySelector('main section .items .name')?.textContent !== name", arg=name
    )
    settled(page)
    assert name not in page.locator("main section .items .name").all_inner_texts()


# ---- the map and exposure


def test_the_map_is_drawn_and_moved_and_opened_by_keyboard(visit):
    page = visit("#/map")
    canvas = page.locator(".canvas canvas")
    colours = "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
    page.wait_for_function(f"() => ({colours})(document.querySelector('.canvas canvas')) > 3")
    page.get_by_role("region", name="In the middle").locator("li").first.wait_for()
    canvas.focus()
    page.keyboard.press("+")
    page.wait_for_function("() => location.hash.includes('zoom=')")
    page.keyboard.press("0")
    page.wait_for_function("() => !location.hash.includes('zoom=')")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.startsWith('#/item/')")
    page.go_back()
    page.wait_for_function("() => location.hash.startsWith('#/map')")


def test_an_item_is_shown_on_the_map(visit):
    page = visit("#/item/k3")
    title = page.locator("h1").inner_text()
    page.get_by_role("link", name="Show on the map").click()
    page.wait_for_function("() => location.hash.startsWith('#/map') && location.hash.includes('zoom=')")
    nearest = page.get_by_role("region", name="In the middle").locator("li").first
    nearest.get_by_text(title, exact=True).wait_for()
    assert "row=" not in page.evaluate("location.hash")


def test_pointing_at_the_map_tells_a_title_and_a_click_opens_it(visit):
    page = visit("#/map")
    page.wait_for_function("() => document.querySelectorAll('.panel .items li').length > 0")
    box = page.locator(".canvas canvas").bounding_box()
    place = page.evaluate(
        """async () => {
        const { points } = await import('./page/js/draw/catalog.js');
        const { bounds } = await import('./page/js/draw/grid.js');
        const { x, y } = await points();
        const canvas = document.querySelector('.canvas canvas').getBoundingClientRect();
        const box = bounds(x, y);
        const scale = Math.min(canvas.width / box.width, canvas.height / box.height) * 0.92;
        return [(x[0] - box.left - box.width / 2) * scale, (y[0] - box.top - box.height / 2) * scale];
    }"""
    )
    page.mouse.move(box["x"] + box["width"] / 2 + place[0], box["y"] + box["height"] / 2 + place[1])
    page.locator(".tip").wait_for()
    name = page.locator(".tip").inner_text()
    page.mouse.down()
    page.mouse.up()
    page.get_by_role("heading", level=1, name=name, exact=True).wait_for()


def test_points_are_found_as_one_by_one_search_finds_them(visit):
    page = visit()
    wrong = page.evaluate(
        """async () => {
        const { Grid } = await import('./page/js/draw/grid.js');
        const { evenOrder } = await import('./page/js/draw/points.js');
        let seed = 1;
        const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
        const wrong = [];
        for (const n of [1, 2, 9, 500]) {
            if (new Set(evenOrder(n)).size !== n) wrong.push(`order ${n}`);
            const x = Float32Array.from({ length: n }, random);
            const y = Float32Array.from({ length: n }, () => random() * 3);
            const grid = new Grid(x, y);
            for (let i = 0; i < 60; i += 1) {
                const [a, b] = [random() * 1.4 - 0.2, random() * 3.4 - 0.2];
                const all = [...x.keys()].map(r => [Math.hypot(x[r] - a, y[r] - b), r]).filter(([d]) => d <= 0.4);
                const best = all.sort((p, q) => p[0] - q[0]).slice(0, 3).map(([, r]) => r);
                if (String(grid.nearest(a, b, 0.4, 3)) !== String(best)) wrong.push([n, a, b]);
            }
        }
        return wrong;
    }"""
    )
    assert wrong == []


def test_exposure_shows_a_curve_and_the_same_in_a_table(visit):
    page = visit("#/item/a0")
    turn(page, "#/exposure?surface=similar")
    page.locator(".curve .line").wait_for()
    table = page.get_by_role("table").first
    assert table.locator("tbody tr").count() == 3
    assert "cold" in table.inner_text()


# ---- what can go wrong


def test_an_unknown_item_is_told_kindly_with_the_closest_ids(visit):
    page = visit("#/item/k00", forgive=["404"])
    assert "There is nothing under this name" in page.locator("[role=alert]").inner_text()
    page.get_by_role("link", name="k0", exact=True).click()
    page.get_by_role("heading", level=1, name="Frying pan").wait_for()
    turn(page, "#/tray?user=u011")
    page.get_by_role("link", name="u01", exact=True).click()
    page.get_by_role("heading", name="For u01").wait_for()


def test_a_service_that_is_gone_is_told_and_tried_again(visit):
    page = visit("#/exposure", forgive=["ERR_INTERNET_DISCONNECTED"])
    turn(page, "#/")
    page.context.set_offline(True)
    page.evaluate("location.hash = '#/exposure'")
    page.get_by_text("The service does not answer.").first.wait_for()
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").first.click()
    page.get_by_role("heading", level=1, name="Who gets seen").wait_for()


def test_a_view_that_is_not_there_leads_home(visit):
    page = visit("#/nowhere")
    page.get_by_role("link", name="To the start").click()
    page.get_by_role("heading", level=1, name="Find what few have found yet").wait_for()


def test_the_key_is_asked_for_and_kept_for_the_tab_only(visit, config, monkeypatch, tmp_path):
    from llm_tail.workspace import Workspace

    monkeypatch.setenv("LLM_TAIL_API_KEY", "open sesame")
    workspace = Workspace.open(config, [f"serve.state={tmp_path / 'other.sqlite'}", "serve.compare_base=false"])
    with serving(workspace) as address:
        page = visit("#/item/k0", at=address, forgive=["401"], ready=False)
        box = page.get_by_role("textbox", name="Key")
        box.fill("guess")
        page.keyboard.press("Enter")
        page.get_by_text("That key was not accepted.").wait_for()
        box.fill("open sesame")
        page.keyboard.press("Enter")
        page.get_by_role("heading", level=1, name="Frying pan").wait_for()
        settled(page)
        assert page.evaluate("JSON.stringify(localStorage)") == "{}"
        page.reload()
        page.get_by_role("heading", level=1, name="Frying pan").wait_for()
        settled(page)
