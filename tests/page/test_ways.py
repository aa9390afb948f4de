"""The other ways in: linked from the page where they are there, and shown as they are now."""

from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from browser_look import look
from page_browser import DESKTOP, running, tabs
from playwright.sync_api import Browser, expect

FEATURES = "http://127.0.0.1:9/p/shop"


def test_a_page_is_linked_once_it_is_there_and_shown_as_it_is_now(
    browser: Browser, run_dir: Path
) -> None:
    watched = run_dir.parent / "monitor" / "index.html"
    lineage = run_dir.parents[1] / "target" / "static_index.html"
    with (
        running(run_dir, features=FEATURES) as service,
        tabs(browser, service.address, viewport=DESKTOP) as tab,
    ):
        page = tab.open()
        links = page.get_by_role("navigation", name="More")
        expect(links).to_have_text("Model report Model card Features API", use_inner_text=True)
        assert links.get_by_role("link", name="Features").get_attribute("href") == FEATURES
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"{service.address}/monitoring")

        watched.parent.mkdir()
        watched.write_text("<title>m</title><h1>All is well</h1>")
        lineage.parent.mkdir()
        script = "document.querySelector('h1').textContent = eval('\"graph\"')"
        lineage.write_text(f"<title>l</title><h1>no script</h1><script>{script}</script>")
        try:
            page = tab.open()
            page.get_by_role("link", name="Monitoring").click()
            expect(page.locator("h1")).to_have_text("All is well")
            watched.write_text("<title>m</title><h1>Wind is new</h1>")
            page.reload()
            expect(page.locator("h1")).to_have_text("Wind is new")
            tab.open().get_by_role("link", name="Lineage").click()
            expect(page.locator("h1")).to_have_text("graph")
            tab.open().get_by_role("link", name="Model card").click()
            expect(page.locator("body")).to_contain_text("late")
            look(page, "Late arrivals", regions=("pre",))
        finally:
            watched.unlink()
            lineage.unlink()


def test_a_service_that_asks_for_keys_shows_none_of_them(run_dir: Path) -> None:
    with running(run_dir, keys=(b"secret",), features=FEATURES) as service:
        with urlopen(service.address) as answer:
            said = answer.read().decode()
        assert "Model report" not in said
        assert FEATURES not in said
        for path in ("report", "card", "monitoring", "lineage"):
            with pytest.raises(HTTPError, match="404"):
                urlopen(f"{service.address}/{path}")
