"""`hindcast ui`: pages on free ports of loopback, up together and down together."""

import re
import signal
import subprocess
import time
import urllib.error

import pytest
from browser_look import look
from running_web import chromium, get

FEAST = ("main", "nav")
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+\S*")


@pytest.fixture(scope="module")
def up(ours):
    """The command at work: the addresses it printed."""
    process = ours.project.start("ui")
    said = ours.project.root / "said"
    try:
        until = time.monotonic() + 200
        while "Ctrl-C" not in said.read_text():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < until, said.read_text()
            time.sleep(0.2)
        yield process, said.read_text()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(180)


def address(said, title):
    (line,) = [line for line in said.splitlines() if line.startswith(title)]
    return ADDRESS.search(line).group()


def test_feast_shows_the_views_with_features_descriptions_and_owners(up, ours):
    home = address(up[1], "Feature views")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{home}/feature-view/airport_state")
        page.get_by_role("link", name="origin_departures_1h").wait_for(timeout=60_000)
        text = page.inner_text("body")
        assert "airport-ops" in text
        assert "One row per origin and known_at" in text
        look(page, "airport-ops", "origin_departures_1h", regions=FEAST, whole=False)
        page.get_by_role("link", name="origin_departures_1h").click()
        page.get_by_text("Departures known in the last hour.").wait_for(timeout=30_000)
        look(page, "Departures known in the last hour.", regions=FEAST, whole=False)
        assert [url for url in asked if "127.0.0.1" not in url and "data:" not in url] == []


def test_feast_shows_statistics_once_they_are_computed(up, ours):
    command = "feast -c feature_repo monitor run -v airport_state"
    subprocess.run(command.split(), cwd=ours.project.root, env=ours.project.env, check=True)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        page.goto(f"{address(up[1], 'Feature views')}/monitoring")
        row = page.get_by_role("row").filter(has_text="origin_departures_1h").first
        row.wait_for(timeout=60_000)
        said = row.inner_text()
        assert "numeric" in said
        assert re.search(r"\b\d+\.\d%", said), said  # its share of NULLs
        assert row.locator("svg").count() > 0  # its distribution
        look(page, "Null Rate", "Granularity", regions=FEAST, whole=False)


def test_dbt_docs_show_the_graph_from_the_raw_file_to_the_model(up):
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        model = "#!/exposure/exposure.hindcast_flights.late_arrival?g_v=1"
        page.goto(address(up[1], "Lineage") + model)
        page.get_by_text("Late arrival model").first.wait_for(timeout=60_000)
        page.wait_for_timeout(1000)
        # the graph itself is drawn on a canvas: it must have been drawn upon
        drawn = page.evaluate(
            "[...document.querySelectorAll('canvas')].some(c => {"
            "  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "  return d.some(v => v); })"
        )
        assert drawn
        look(page, "Late arrival model", regions=("canvas",), whole=False)


def test_a_page_that_is_not_there_is_not_printed(up):
    assert "Not there" not in up[1]


def test_one_that_ends_takes_all_down_and_says_why(ours):
    file = ours.project.root / "hindcast.yml"
    before = file.read_text()
    broken = "  - {name: broken, run: 'python -m http.server no-port', pages: {Broken: /}}\n"
    file.write_text(before + broken)
    try:
        done = ours.project.hindcast("ui --only lineage --only broken")
    finally:
        file.write_text(before)
    assert done.exit_code == 1
    assert "broken has ended (exit code 2). It said:" in done.stderr
    assert "no-port" in done.stderr


def test_ctrl_c_stops_every_page(ours):
    process = ours.project.start("ui --only lineage")
    said = ours.project.root / "said"
    while "Ctrl-C" not in said.read_text():
        assert process.poll() is None, said.read_text()
        time.sleep(0.1)
    page = address(said.read_text(), "Lineage")
    assert "<html" in get(page)
    process.send_signal(signal.SIGINT)
    assert process.wait(180) == 0
    with pytest.raises(urllib.error.URLError):
        get(page)
