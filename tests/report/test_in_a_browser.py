"""The reports in a real browser: sliders, switches, sorting, keyboard, dark, phone, and no request to anywhere."""

from itertools import pairwise

import pytest

from tests.report.conftest import Visit

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}


def texts(page, selector):
    return page.eval_on_selector_all(selector, "all => all.map((one) => one.textContent.trim())")


def move(page, selector, value):
    page.eval_on_selector(
        selector,
        "(one, value) => { one.value = value; one.dispatchEvent(new Event('input', {bubbles: true})); }",
        value,
    )


def test_the_fraction_and_the_removal_choose_the_photograph(visit, audit_page):
    page = visit(audit_page)
    picture = page.locator("[data-picture]")
    first = picture.get_attribute("src")
    assert page.locator("#example-1-fraction + output").text_content() == "30 %"
    move(page, "#example-1-fraction", 2)
    assert page.locator("#example-1-fraction + output").text_content() == "60 %"
    assert page.locator("#example-1-fraction").get_attribute("aria-valuetext") == "60 %"
    more = picture.get_attribute("src")
    page.get_by_role("radio", name="layer_masking").first.check()
    other = picture.get_attribute("src")
    move(page, "#example-1-fraction", 0)
    whole = picture.get_attribute("src")
    assert len({first, more, other, whole}) == 4
    assert page.locator("[data-says]").text_content().startswith("Whole: ")
    assert picture.evaluate("one => one.complete && one.naturalWidth") == 32


def test_the_opacity_lays_the_whole_photograph_over_it(visit, audit_page):
    page = visit(audit_page)
    over = page.locator("[data-over]")
    assert over.evaluate("one => getComputedStyle(one).opacity") == "0"
    move(page, "#example-1-opacity", 40)
    assert over.evaluate("one => getComputedStyle(one).opacity") == "0.4"


def test_sliders_and_switches_by_keyboard(visit, audit_page):
    page = visit(audit_page)
    page.locator("#example-1-fraction").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#example-1-fraction + output").text_content() == "60 %"
    page.get_by_role("radio", name="grey").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.get_by_role("radio", name="layer_masking").first.is_checked()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "example-1-fraction"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_one_chart_at_a_time_with_the_lines_that_are_ticked(visit, audit_page):
    page = visit(audit_page)
    charts = page.locator("figure.chart")
    assert charts.count() == 2
    assert [charts.nth(i).is_visible() for i in range(2)].count(True) == 1
    options = texts(page, "[data-chart] option")
    page.locator("[data-chart]").select_option(label=options[1])
    assert page.locator("figure.chart:visible figcaption strong").text_content() in options[1]
    line = page.locator("figure.chart:visible g[data-removal=grey]")
    assert line.is_visible()
    page.get_by_role("checkbox", name="grey").uncheck()
    assert not line.is_visible()
    assert page.locator("figure.chart:visible g[data-removal=layer_masking]").is_visible()


def test_tables_sort_by_number_and_by_text_both_ways(visit, audit_page):
    page = visit(audit_page)
    table = "table.sortable >> nth=0"
    names = page.locator(table).locator("tbody th")
    before = names.all_text_contents()
    score = page.locator(table).get_by_role("button", name="Score")
    score.click()
    assert page.locator(table).locator("thead th").nth(1).get_attribute("aria-sort") == "ascending"
    assert names.all_text_contents() == before[::-1]
    score.focus()
    page.keyboard.press("Enter")
    assert page.locator(table).locator("thead th").nth(1).get_attribute("aria-sort") == "descending"
    assert names.all_text_contents() == before
    page.locator(table).get_by_role("button", name="Removal").click()
    assert names.all_text_contents() == sorted(before)
    assert page.locator(table).locator("thead th[aria-sort]").count() == 1


def test_numbers_sort_as_numbers(visit, audit_page):
    page = visit(audit_page)
    page.locator("figure.chart:visible summary").click()
    table = page.locator("figure.chart:visible table")
    table.get_by_role("button", name="Mean").click()
    values = table.locator("tbody td:nth-child(3)").evaluate_all("all => all.map((one) => Number(one.dataset.value))")
    assert values == sorted(values)
    assert len(values) == 6


def test_everything_has_a_name_for_screen_readers(visit, audit_page, explanation_page):
    for file in (audit_page, explanation_page):
        page = visit(file)
        unnamed = page.eval_on_selector_all(
            "input, select, button, img[data-picture], svg[role=img], section, article",
            """all => all.filter((one) => {
                const by = one.getAttribute("aria-labelledby");
                const named = by ? by.split(" ").every((id) => document.getElementById(id)?.textContent.trim()) : false;
                const label = one.labels && [...one.labels].some((label) => label.textContent.trim());
                const text = one.tagName === "BUTTON" && one.textContent.trim();
                return !(named || label || text || one.getAttribute("aria-label") || one.alt);
            }).map((one) => one.outerHTML.slice(0, 80))""",
        )
        assert unnamed == []
        assert page.locator("html").get_attribute("lang") == "en"
        levels = [
            int(level) for level in page.eval_on_selector_all("h1, h2, h3", "all => all.map((one) => one.tagName[1])")
        ]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        identifiers = page.eval_on_selector_all("[id]", "all => all.map((one) => one.id)")
        assert len(identifiers) == len(set(identifiers))


def luminance(colour):
    parts = [int(one) / 255 for one in colour.removeprefix("rgb(").removesuffix(")").split(", ")]
    linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_light_and_dark(visit, audit_page, scheme):
    page = visit(audit_page, color_scheme=scheme)
    back = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (back > 0.5) == (scheme == "light")
    for selector in ("body", ".brand", "summary", ".slider label", "caption"):
        text = luminance(page.locator(selector).first.evaluate("one => getComputedStyle(one).color"))
        assert (max(text, back) + 0.05) / (min(text, back) + 0.05) >= 4.5, selector  # WCAG 2.2, AA
    for selector in ("g.line.series-0", "g.line.series-1"):
        line = luminance(page.locator(selector).first.evaluate("one => getComputedStyle(one).color"))
        assert (max(line, back) + 0.05) / (min(line, back) + 0.05) >= 3, selector


def test_on_a_phone_nothing_sticks_out(visit, audit_page, explanation_page):
    for file in (audit_page, explanation_page):
        page = visit(file, **PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        heights = page.eval_on_selector_all(
            "input[type=range], select, .switch label", "all => all.map((one) => one.getBoundingClientRect().height)"
        )
        assert min(heights) >= 24  # WCAG 2.2, target size


def test_an_explanation_switches_fades_and_hides(visit, explanation_page):
    page = visit(explanation_page)
    over = page.locator("[data-over]")
    assert over.evaluate("one => getComputedStyle(one).opacity") == "0.7"
    before = over.get_attribute("src")
    page.get_by_role("radio", name="black").check()
    assert over.get_attribute("src") != before
    pixels = "one.getContext('2d').getImageData(0, 0, one.width, one.height).data"
    hidden = f"one => {pixels}.filter((value, i) => i % 4 === 3 && value).length"
    page.wait_for_function("document.querySelector('canvas').width === 32")
    assert page.locator("canvas").evaluate(hidden) == 0
    move(page, "#image-1-fraction", 1)
    assert page.locator("[data-says]").text_content() == "red: 40 % left with 50 % removed"
    assert page.locator("canvas").evaluate(hidden) == pytest.approx(32 * 32 / 2, rel=0.1)


def test_the_page_forbids_what_is_not_its_own(chromium, audit_page):
    page = Visit(chromium, audit_page)
    violated = page.page.evaluate(
        """() => new Promise((done) => {
            document.addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective));
            new Image().src = "https://example.org/tracker.png";
            setTimeout(() => done("allowed"), 2000);
        })"""
    )
    page.context.close()
    assert violated == "img-src"
    assert [url for url in page.requests if not url.startswith("data:")] == [page.url]
