"""The model test, on shops in which how much a leak would show is known beforehand."""

import json
import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.leaks import ROOT, run
from hindcast.cli import app

SHOP = Path(__file__).parent / "shop"
START = datetime(2024, 3, 1, tzinfo=UTC)
LAST_HOUR = """
select
    store,
    time_bucket(interval 1 hour, loaded_at) + interval 1 hour as known_at,
    max(amount)::bigint as largest_sale,
    count(*)::bigint as sales,
from {{ source('till', 'sales') }}
group by all
"""
SPINE = """
with hours as (
    select
        store,
        time_bucket(interval 1 hour, loaded_at) as hour_at,
        count(*) > 10 as is_busy,
    from {{ source('till', 'sales') }}
    group by all
)

select
    store,
    hour_at as predict_at,
    is_busy,
    lag(is_busy) over (partition by store order by hour_at) as was_busy,
from hours
"""


def make_shop(root):
    """A shop in which every hour's sales are drawn anew: nothing but the hour itself tells them."""
    shutil.copytree(SHOP, root)
    (root / "macros").mkdir()
    for name in ("as_of", "generate_schema_name", "publish"):
        shutil.copy(ROOT / "macros" / f"{name}.sql", root / "macros")
    (root / "models" / "features" / "store_sales.sql").write_text(LAST_HOUR)
    (root / "models" / "training" / "hours.sql").write_text(SPINE)
    settings = (root / "hindcast.yml").read_text()
    wanted = "{labels: [is_busy], target: is_busy}"
    (root / "hindcast.yml").write_text(settings.replace("{labels: [sold_next_hour]}", wanted))

    chance = random.Random(1)
    lines, sale = ["sale_id,store,amount,loaded_at"], 0
    for hour in range(24 * 40):
        for store in "NS":
            for _ in range(chance.randrange(1, 21)):
                at = START + timedelta(hours=hour, seconds=chance.randrange(3600))
                lines.append(f"{sale},{store},{chance.randrange(900)},{at:%Y-%m-%dT%H:%M:%SZ}")
                sale += 1
    raw = root / "data" / "raw"
    raw.mkdir(parents=True)
    (raw / "sales.csv").write_text("\n".join([*lines, ""]))
    (raw / "opening_hours.csv").write_text("store,opens_at_hour\nN,9\nS,10\n")
    run(root, "dbt run --quiet --profiles-dir .")
    run(root, "feast -c feature_repo apply")


def copy_with_target(shop, folder, target):
    root = folder / "shop"
    shutil.copytree(shop, root, symlinks=True)
    settings = root / "hindcast.yml"
    settings.write_text(settings.read_text().replace("target: is_busy", f"target: {target}"))
    return root


def audited(root):
    done = CliRunner().invoke(
        app, ["audit", "--project", str(root), "--only", "model", "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["model"]


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    root = tmp_path_factory.mktemp("model") / "shop"
    make_shop(root)
    return root


@pytest.fixture(scope="module")
def found(honest):
    return audited(honest)


def test_honest_features_that_tell_nothing_give_a_figure_of_one_half(found):
    value, low, high = found["roc_auc"]
    assert low <= 0.5 <= high or abs(value - 0.5) < 0.05
    assert not any(one["suspicious"] for one in found["lone"])


def test_the_smallest_leak_that_shows_is_the_hour_after_which_the_view_tells_the_outcome(found):
    views = {one["view"]: one for one in found["views"]}
    assert views["store_sales"]["leak_that_shows_s"] == 3600
    gain, low, high = views["store_sales"]["gain"]
    assert low <= gain <= high
    assert gain > 0.4


def test_a_view_that_never_changes_shows_no_leak_of_any_size(found):
    views = {one["view"]: one for one in found["views"]}
    assert views["store_hours"]["leak_that_shows_s"] is None
    assert views["store_hours"]["gain"][0] == 0


def test_a_feature_that_tells_the_outcome_alone_is_named(tmp_path, honest):
    root = copy_with_target(honest, tmp_path, "was_busy")  # of the hour that the view tells of
    lone = audited(root)["lone"]
    assert (lone[0]["feature"], lone[0]["suspicious"]) == ("sales", True)
    assert lone[0]["roc_auc"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("null", "name a true-or-false column of the spine as `audit: target` in hindcast.yml"),
        ("will_be", "needs a BOOLEAN column will_be in the spine hours; it is not there"),
    ],
)
def test_a_target_that_is_not_there_is_asked_for(tmp_path, honest, target, says):
    root = copy_with_target(honest, tmp_path, target)
    done = CliRunner().invoke(app, ["audit", "--project", str(root), "--only", "model"])
    assert done.exit_code == 1
    assert says in done.stderr
