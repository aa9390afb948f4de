"""The page in a real browser, against a real service: what people see, and with which keys."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser_look import look
from page_browser import DESKTOP, Running, Tab, running, tabs
from playwright.sync_api import Browser, Page, expect
from training_project import STANDS_AT

PHONE = {"width": 360, "height": 740}
ASKED = ("carrier", "flight", "origin", "dest", "tailnum", "sched_dep_at")


def board(service: Running, hours: int = 3) -> dict[str, Any]:
    answer = httpx.get(f"{service.address}/v1/board", params={"hours": hours})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def percent(p: float) -> str:
    return f"{p * 100:.0f}\u202f%"


def rows(page: Page) -> list[str]:
    """The names of the flights in the list, from the top."""
    return page.locator(".row .name").all_inner_texts()


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.dataset.id ?? document.activeElement.id"))


def sideways(page: Page) -> int:
    """Pixels by which the page is wider than the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def name(flight: dict[str, Any]) -> str:
    return f"{flight['carrier']} {flight['flight']}"


def test_the_board_shows_the_flights_of_the_next_hours_by_risk(tab: Tab, service: Running) -> None:
    page, told = tab.open(), board(service)
    flights = told["flights"]
    assert rows(page) == [name(flight) for flight in flights]
    shown = page.locator(".row .p").all_inner_texts()
    assert shown == [percent(flight["probability"]) for flight in flights]
    flagged = [name(f) for f in flights if f["flag"]]
    assert 0 < len(flagged) < len(flights)
    assert page.locator(".row.flag .name").all_inner_texts() == flagged
    expect(page.locator(".row.flag .mark").first).to_have_text("flag")
    expect(page.locator("#summary")).to_contain_text(
        f"{len(flights)} flights predicted from 10:00 to 13:00 EST, {len(flagged)} flagged"
    )
    expect(page.locator(".swarm circle")).to_have_count(len(flights))
    first = page.locator(".row time").first
    assert re.fullmatch(r"2013-12-20 \d\d:00 UTC", first.get_attribute("title") or "")
    look(page, "Find a departure", "Departures by risk", regions=(".flights", ".swarm"))


def test_more_hours_show_more_flights(tab: Tab, service: Running) -> None:
    page = tab.open()
    page.select_option("#hours", "6")
    expect(page.locator(".row")).to_have_count(len(board(service, 6)["flights"]))
    assert len(board(service, 6)["flights"]) > len(board(service, 3)["flights"])


@pytest.mark.parametrize("by", ["flight", "route", "time"])
def test_a_search_finds_a_flight(tab: Tab, service: Running, by: str) -> None:
    page, wanted = tab.open(), board(service)["flights"][0]
    hour = int(wanted["sched_dep_at"][11:13]) - 5  # EST
    page.fill(
        "#q",
        {
            "flight": name(wanted).lower(),
            "route": f"{wanted['origin']} {wanted['dest']}",
            "time": f"{hour}:00",
        }[by],
    )
    expect(page.locator("#flights-title")).to_have_text("Departures found")
    expect(page.locator(f"[data-id='{wanted['flight_id']}'] .p")).to_have_text(
        percent(wanted["probability"])
    )
    assert page.locator(".lane.none").count() == 0
    for row in page.locator(".row").all_inner_texts():
        text = {"flight": name(wanted), "route": f"{wanted['origin']}\u2192{wanted['dest']}"}
        assert text.get(by, f"{hour}:00") in row


def test_an_open_flight_tells_what_the_service_answers(tab: Tab, service: Running) -> None:
    page, told = tab.open(), board(service)
    flight = told["flights"][0]
    page.locator(".row").first.click()
    asked = {"flights": [{field: flight[field] for field in ASKED}], "features": True}
    answer = httpx.post(f"{service.address}/v1/score", json=asked | {"reasons": True}).json()
    (scored,) = answer["results"]

    opened = page.locator(".flight")
    expect(opened.locator(".big b")).to_have_text(percent(scored["probability"]))
    expect(opened.locator(".scale")).to_have_attribute(
        "aria-label",
        re.compile(f"base rate {told['base_rate'] * 100:.0f} percent, decision threshold "),
    )
    expect(opened.locator(".decision")).to_contain_text("Flag it: above")
    reasons = [reason for reason in scored["reasons"]["top"] if abs(reason["contribution"]) > 0.005]
    shown = opened.locator(".reasons li:not(.rest)")
    expect(shown).to_have_count(len(reasons))
    for row, reason in zip(shown.all(), reasons, strict=True):
        plain = row.locator("p").inner_text().replace("\u00a0", " ").lower()
        assert reason["text"].lower() in plain
        assert ("up" in (row.get_attribute("class") or "")) == (reason["contribution"] > 0)
        width = row.locator(".pull i").bounding_box()
        assert width is not None and width["width"] > 0

    opened.get_by_role("button", name="Open all").click()
    for feature, value in scored["features"].items():
        if feature != "observed_at":  # an instant that the model does not read
            shown = opened.locator("dl > div", has=page.get_by_text(feature, exact=True))
            expect(shown.locator("dd")).to_contain_text(
                str(value) if isinstance(value, str) else f"{value:,.0f}"[:2]
            )
    weather = opened.locator("details", has_text="Origin weather")
    expect(weather.locator(".age")).to_have_text(re.compile("old"))


def test_the_keyboard_alone_is_enough(tab: Tab, service: Running) -> None:
    page, flights = tab.open(), board(service)["flights"]
    ids = [flight["flight_id"] for flight in flights]
    press = page.keyboard.press

    press("Tab")
    assert focused(page) == "skip"
    press("Enter")
    assert focused(page) == ids[0]
    press("ArrowDown")
    press("ArrowDown")
    press("ArrowUp")
    assert focused(page) == ids[1]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press("End")
    assert focused(page) == ids[-1]
    press("Home")
    press("Enter")
    expect(page.locator(".flight h2")).to_be_focused()
    expect(page.locator(".big b")).to_be_visible()
    expect(page.locator(".flight h2")).to_be_focused()
    press("/")
    assert focused(page) == "q"
    expect(page.locator(".flight")).to_have_count(1)
    press("Escape")
    expect(page.locator(".flight")).to_have_count(0)
    assert focused(page) == ids[0]
    press("/")
    assert focused(page) == "q"
    page.keyboard.type(name(flights[2]))
    expect(page.locator("#flights-title")).to_have_text("Departures found")
    expect(page.locator("#say")).to_contain_text("found")
    press("ArrowDown")
    assert focused(page) == ids[2]
    press("ArrowUp")
    press("Escape")
    expect(page.locator(".row")).to_have_count(len(flights))


def test_a_link_opens_a_flight_and_back_closes_it(tab: Tab, service: Running) -> None:
    flights = board(service)["flights"]
    page = tab.open(f"#/flight/{flights[1]['flight_id']}")
    expect(page.locator(".flight h2")).to_contain_text(name(flights[1]))
    expect(page).to_have_title(re.compile(name(flights[1])))
    expect(page.locator(".row[aria-current]")).to_have_count(1)
    expect(page.locator(".features details")).to_have_count(3)
    page.locator(".close").click()
    expect(page.locator(".flight")).to_have_count(0)

    page.locator(".row").nth(0).click()
    page.locator(".row").nth(2).click()  # another one: still one step of history
    expect(page.locator(".flight h2")).to_contain_text(name(flights[2]))
    page.go_back()
    expect(page.locator(".flight")).to_have_count(0)
    page.go_forward()
    expect(page.locator(".flight h2")).to_contain_text(name(flights[2]))


@pytest.fixture
def phone(browser: Browser, service: Running) -> Iterator[Tab]:
    with tabs(browser, service.address, viewport=PHONE, is_mobile=True, has_touch=True) as made:
        yield made


def test_a_phone_shows_one_thing_at_a_time_and_never_scrolls_sideways(phone: Tab) -> None:
    page = phone.open()
    assert sideways(page) <= 0
    page.locator(".row").first.tap()
    expect(page.locator(".reasons li").first).to_be_visible()
    expect(page.locator(".flights")).to_be_hidden()
    page.get_by_role("button", name="Open all").tap()
    assert sideways(page) <= 0
    page.get_by_role("link", name="All flights").tap()
    expect(page.locator(".row").first).to_be_visible()
    page.fill("#q", "ZZ 9999")
    expect(page.locator(".state")).to_contain_text("No departure fits")
    assert sideways(page) <= 0
    small = page.locator(".row, button:visible, select:visible, input:visible")
    for box in [element.bounding_box() for element in small.all()]:
        assert box is None or box["height"] >= 28


def test_a_search_that_finds_nothing_says_what_can_be_searched(tab: Tab) -> None:
    page = tab.open()
    page.fill("#q", "ZZ 9999")
    expect(page.locator(".state h3")).to_have_text("No departure fits \u201cZZ 9999\u201d")
    page.get_by_role("button", name="Back to the board").click()
    expect(page.locator("#flights-title")).to_have_text("Departures by risk")
    assert focused(page) == "q"


def test_nothing_that_is_typed_or_linked_becomes_markup(browser: Browser, service: Running) -> None:
    with tabs(browser, service.address, quiet=False, viewport=DESKTOP) as tab:
        page = tab.open("#/flight/%3Cimg src=x onerror=alert(1)%3E")
        expect(page.locator(".flight .state")).to_be_visible()
        page.goto(f"{service.address}/#/flight/%E0%A4%A")
        expect(page.locator(".flight .state")).to_be_visible()
        page.fill("#q", "<img src=x>")
        expect(page.locator(".flights .state")).to_contain_text("is no part of a flight")
        assert page.locator("img").count() == 0
        assert all("Failed to load resource" in complaint for complaint in tab.complaints)


def test_no_script_runs_that_the_page_did_not_bring(browser: Browser, service: Running) -> None:
    with tabs(browser, service.address, quiet=False, viewport=DESKTOP) as tab:
        page = tab.open()
        page.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
            " document.head.append(s); }"
        )
        assert page.evaluate("window.ran") is None
        assert any("Content Security Policy" in complaint for complaint in tab.complaints)


def test_an_empty_board_says_when_the_next_flight_is_due_and_what_is_too_old(
    browser: Browser, run_dir: Path
) -> None:
    evening = STANDS_AT + timedelta(hours=7)  # 17:00: the day's last flight leaves at 18:00
    with running(run_dir, evening) as late:
        told = board(late, 3)
        assert told["flights"] == [] and told["next_due_at"] == "2013-12-21T09:00:00+00:00"
        with tabs(browser, late.address, viewport=DESKTOP) as tab:
            page = tab.open()
            expect(page.locator(".state")).to_contain_text("No flight is due for its prediction")
            expect(page.locator(".state")).to_contain_text("due at 04:00 EST on Sat 21 Dec")
            expect(page.get_by_role("alert")).to_contain_text("too old to be used: Origin weather")
            page.get_by_role("button", name="Look 12 hours ahead").click()
            expect(page.locator(".row").first).to_be_visible()
            expect(page.locator("#hours")).to_have_value("12")


def test_a_service_that_stops_is_told_of_and_comes_back_by_itself(
    browser: Browser, service: Running
) -> None:
    with tabs(browser, service.address, quiet=False, viewport=DESKTOP) as tab:
        tab.page.clock.install()
        page = tab.open()
        shown = rows(page)
        service.stop()
        try:
            page.locator(".row").first.click()
            expect(page.locator(".flight .state")).to_contain_text("The service does not answer")
            page.select_option("#hours", "6")
            expect(page.get_by_role("alert")).to_contain_text("What you see is its last answer")
            expect(page.locator("#hours")).to_have_value("3")
            assert rows(page) == shown
        finally:
            service.start()
        page.clock.fast_forward(11_000)
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.locator(".big b")).to_be_visible()


def test_a_page_that_gets_no_answer_shows_no_score(browser: Browser, service: Running) -> None:
    with tabs(browser, service.address, quiet=False, viewport=DESKTOP) as tab:
        tab.page.route("**/v1/**", lambda route: route.abort())
        page = tab.open()
        expect(page.locator(".state h3")).to_have_text("The service does not answer")
        expect(page.locator(".state")).to_contain_text("No score is shown rather than a guess")
        assert page.locator(".row, .bone").count() == 0
        page.unroute("**/v1/**")
        page.get_by_role("button", name="Try now").click()
        expect(page.locator(".row").first).to_be_visible()


def test_while_the_store_is_away_the_page_tells_the_services_reason(
    browser: Browser, service: Running, online_store: Path
) -> None:
    files = [file for file in online_store.iterdir() if file.is_file()]
    for file in files:
        file.rename(file.with_name(f"gone-{file.name}"))
    try:
        with tabs(browser, service.address, quiet=False, viewport=DESKTOP) as tab:
            page = tab.open()
            expect(page.locator(".state h3")).to_have_text("The service cannot score just now")
            expect(page.locator(".state")).to_contain_text("The online store cannot be read now")
            page.fill("#q", "BOS")
            expect(page.locator(".lane.none").first).to_have_text("no score")
            page.fill("#q", "")
            expect(page.get_by_role("button", name="Try now")).to_be_visible()
            for file in files:
                file.with_name(f"gone-{file.name}").rename(file)
            page.wait_for_timeout(300)  # for so long the service asks no store that failed
            page.get_by_role("button", name="Try now").click()
            expect(page.locator(".row").first).to_be_visible()
    finally:
        for file in online_store.glob("gone-*"):
            file.rename(file.with_name(file.name.removeprefix("gone-")))


def test_a_service_with_keys_asks_for_one(browser: Browser, run_dir: Path) -> None:
    key = "a-key-of-this-test"
    with (
        running(run_dir, keys=(key.encode(),)) as locked,
        tabs(browser, locked.address, quiet=False, viewport=DESKTOP) as tab,
    ):
        page = tab.open()
        expect(page.locator(".state h3")).to_have_text("This service asks for a key")
        page.get_by_label("Key").fill(key)
        page.keyboard.press("Enter")
        expect(page.locator(".row").first).to_be_visible()
        page.locator(".row").first.click()
        expect(page.locator(".big b")).to_be_visible()


CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_of_aa(browser: Browser, service: Running, scheme: str) -> None:
    with tabs(browser, service.address, viewport=DESKTOP, color_scheme=scheme) as tab:
        page = tab.open()
        assert page.evaluate(CONTRAST) == []
        page.locator(".row").first.click()
        page.get_by_role("button", name="Open all").click()
        assert page.evaluate(CONTRAST) == []
        page.fill("#q", "ZZ 9999")
        expect(page.locator(".state")).to_be_visible()
        assert page.evaluate(CONTRAST) == []


def test_the_model_report_is_a_page_of_the_service(tab: Tab) -> None:
    page = tab.open()
    page.get_by_role("link", name="Model report").click()
    expect(page.locator("h1")).to_contain_text("Late arrivals")
    assert page.evaluate("document.images.length > 0")
    look(page, "Late arrivals", regions=("h1", "img"), whole=False)  # wide tables scroll in it


def test_the_api_is_described_without_anything_from_elsewhere(tab: Tab) -> None:
    page = tab.open()
    page.get_by_role("link", name="API").click()
    score = page.locator(".opblock-summary", has_text="/v1/score")
    expect(score).to_be_visible()
    score.click()
    expect(page.locator(".opblock-body").first).to_contain_text("sched_dep_at")
