"""How the project's own pages are started: with each other's addresses, where these are there."""

from datetime import datetime

from running_projects import AT, ROOT

from hindcast.config import load_config
from hindcast.ui import command


def test_the_projects_own_pages_have_each_others_addresses_or_none():
    config = load_config(ROOT)
    named = {ui.name: ui for ui in config.ui}
    assert {"Departures by risk", "Monitoring", "Lineage (dbt docs)"} <= {*named["scoring"].pages}
    here, features = "http://127.0.0.1:7", "http://127.0.0.1:8"

    def arguments(name, addresses):
        return command(named[name], config, datetime.fromisoformat(AT), 7, addresses)

    both = arguments("scoring", {"scoring": here, "features": features})
    assert both[both.index("--features") + 1] == features
    assert both[both.index("--port") + 1] == "7"
    assert both[both.index("--at") + 1] == AT
    alone = arguments("scoring", {"scoring": here})
    assert alone == ["" if word == features else word for word in both]
    assert arguments("features", {"features": features})[-1] == "7"
