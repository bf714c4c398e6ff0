"""A person with a browser: from the first page to the card, and to a green, a yellow and a red code; axe looks on."""

from __future__ import annotations

import os
import re
import shutil
import time

import nights
import pytest
from axe_playwright_python.sync_playwright import Axe
from nights import LAST
from playwright.sync_api import Page, sync_playwright
from served import Site, identity, numbers

from travelcard.errors import mask

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

SHOTS = os.environ.get("TRAVELCARD_SCREENSHOTS")  # a folder: docs/screenshots, when the pages are to be shown anew
SHOWN = {"first", "number", "code", "card", "apply", "green", "yellow", "red", "appeal", "desk"}
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync"]  # fmt: skip
PHONE = {"width": 320, "height": 640}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Site(nights.country(tmp_path_factory.mktemp("site") / "country", run=3))
    yield made
    assert made.stop() == 0


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(params=["zh", "en"])
def page(request, chromium, site):
    """A small phone without JavaScript for pages: axe brings its own."""
    context = chromium.new_context(
        viewport=PHONE, locale={"zh": "zh-CN", "en": "en-GB"}[request.param], bypass_csp=True
    )
    made = context.new_page()
    asked: list[str] = []
    made.on("request", lambda one: asked.append(one.url))
    made.language = request.param
    yield made
    assert {url for url in asked if not url.startswith((site.url, "data:"))} == set(), "no third party is asked"
    context.close()


def sound(page: Page, name: str) -> None:
    """No violation of accessibility, nothing wider than the phone; a picture is kept where one is asked for."""
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    if SHOTS and name in SHOWN:
        page.screenshot(path=f"{SHOTS}/{name}-{page.language}.png", full_page=True)


def press(page: Page, zh: str, en: str, role: str = "button") -> None:
    page.get_by_role(role, name=zh if page.language == "zh" else en, exact=True).first.click()


def signed_in(page: Page, site: Site, number: int, what: tuple[str, str]) -> None:
    page.goto(site.url)
    sound(page, "first")
    press(page, *what, role="link")
    sound(page, "number")
    page.locator("#number").fill(str(number))
    before = site.log.read_text().count("验证码")
    press(page, "获取验证码", "Send me a code")
    while site.log.read_text().count("验证码") == before:
        time.sleep(0.05)
    sound(page, "code")
    assert str(number) not in page.content()
    page.locator("#code").fill(site.code())
    page.locator("#agreed").check()
    press(page, "下一步", "Go on")


CARD, CODE = ("查询行程卡", "See my travel card"), ("申领或出示健康码", "Apply for or show a health code")


def test_from_the_first_page_to_the_card(page, site):
    number = numbers(site.store, "yellow")[["zh", "en"].index(page.language)]
    signed_in(page, site, number, CARD)
    sound(page, "card")
    text = page.inner_text("main")
    now = next(line for line in text.splitlines() if re.search(r"(更新于：|Updated: )", line))
    for line in site.store.card(number).text(page.language).splitlines():
        if not re.search(r"(更新于：|Updated: )", line):
            assert line in text, line
    assert now
    assert str(number) not in page.content()
    assert mask(number) in text
    assert page.locator("svg.arrow circle").get_attribute("fill") == "#f2b800"
    link = page.locator(".qr svg")
    assert link.count() == 1
    for zh, en, name in (
        ("为什么是这样", "Why it is so", "why"),
        ("历史记录", "Earlier cards", "history"),
        ("有误？申请更正", "Wrong? Have it corrected", "correct"),
        ("谁查看过", "Who looked at it", "seen"),
        ("删除我的数据", "Delete my data", "erase"),
    ):
        page.goto(site.url + "/card")
        press(page, zh, en, role="link")
        sound(page, name)
        assert str(number) not in page.content()
    page.goto(site.url + "/card")
    press(page, "退出", "Sign out")
    page.goto(site.url + "/card")
    assert page.locator("[data-reason=session]").count() == 1
    sound(page, "refused")


def colour(page: Page, site: Site) -> str:
    page.goto(site.url + "/health")
    return str(page.locator("[data-colour]").get_attribute("data-colour"))


def test_from_the_first_page_to_a_green_a_yellow_and_a_red_code(page, site, chromium):
    n = 1 + ["zh", "en"].index(page.language)
    signed_in(page, site, numbers(site.store, "green")[n], CODE)
    sound(page, "apply")
    page.locator("#name").fill("张三")
    page.locator("#identity").fill(identity(n))
    page.locator("#agreed").check()
    press(page, "申领", "Apply")
    assert colour(page, site) == "green"
    sound(page, "green")
    press(page, "更新信息", "Update what I said", role="link")
    sound(page, "update")
    page.locator("#fever").check()
    press(page, "提交", "Send")
    assert colour(page, site) == "yellow"
    sound(page, "yellow")
    desk = chromium.new_context(viewport=PHONE, locale=page.evaluate("navigator.language"), bypass_csp=True).new_page()
    desk.language = page.language
    desk.goto(site.url + "/desk/sign-in")
    sound(desk, "desk-sign-in")
    desk.locator("#token").fill(site.token)
    press(desk, "登录", "Sign in")
    desk.locator("#identity").fill(identity(n))
    desk.locator("#status").select_option("confirmed")
    desk.locator("#from").fill(str(LAST))
    desk.locator("#source").fill("list 17")
    press(desk, "登记", "Enter")
    assert colour(page, site) == "red"
    sound(page, "red")
    press(page, "对颜色有异议", "The colour is wrong", role="link")
    page.locator("#text").fill("<b>It was somebody else</b>")
    press(page, "提交", "Send")
    sound(page, "appeal")
    assert "<b>It was somebody else</b>" in page.inner_text("main")
    desk.goto(site.url + "/desk")
    sound(desk, "desk")
    desk.locator("input[name=note]").first.fill("so it was")
    press(desk, "同意", "Approve")
    desk.context.close()
    assert colour(page, site) == "yellow"
    press(page, "颜色历史", "Earlier colours", role="link")
    sound(page, "colours")
    assert page.locator("tbody tr").count() == 4


def test_the_other_language_is_one_step_away_from_every_page(page, site):
    other = {"zh": "en", "en": "zh"}[page.language]
    signed_in(page, site, numbers(site.store, "green")[6 + ["zh", "en"].index(page.language)], CARD)
    for path in ("/", "/sign-in?next=health", "/card", "/why", "/nowhere"):
        page.goto(site.url + path)
        page.locator("header a[hreflang]").click()
        assert page.locator("html").get_attribute("lang") == {"zh": "zh-CN", "en": "en"}[other]
        assert page.url.startswith(site.url + path.split("?")[0])
        page.locator("header a[hreflang]").click()
    page.goto(site.url + "/sign-in?next=health&lang=" + other)
    assert page.locator("input[name=next]").get_attribute("value") == "health"


def test_a_form_that_is_not_ours_is_refused(page, site):
    page.goto(site.url + "/sign-in")
    page.locator("input[name=form]").evaluate("node => node.value = 'x'")
    page.locator("#number").fill("13900000009")
    press(page, "获取验证码", "Send me a code")
    assert page.locator("[data-reason=no_form]").count() == 1
