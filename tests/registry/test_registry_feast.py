"""What a dbt project declares is what a real Feast registry holds, and what its stores serve."""

import math
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from feast import FeatureStore, Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float64, Int64, String
from feast.value_type import ValueType
from registry_projects import dbt, edit, feast

from hindcast.errors import DefinitionError
from hindcast.registry import load

START, END = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 2, tzinfo=UTC)


def store_of(project_dir):
    return FeatureStore(repo_path=str(project_dir / "feature_repo"))


def registered(project_dir):
    """The registry's objects, without the times it stamps on them."""
    store = store_of(project_dir)
    objects = (
        *store.list_entities(),
        *store.list_data_sources(),
        *store.list_feature_views(),
        *store.list_on_demand_feature_views(),
        *store.list_feature_services(),
    )
    return {(type(made).__name__, made.name): made for made in objects}


@pytest.fixture(scope="module")
def applied(built_shop, tmp_path_factory):
    """The shop as `feast apply` registers it from the project's root."""
    destination = tmp_path_factory.mktemp("applied") / "shop"
    project_dir = Path(shutil.copytree(built_shop, destination, symlinks=True))
    assert "Created feature view" in feast(project_dir, "apply")
    return project_dir


def test_the_registry_holds_what_dbt_declares(applied):
    store = store_of(applied)
    view = store.get_feature_view("store_sales")
    assert view.entities == ["store"]
    assert [(field.name, field.dtype) for field in view.entity_columns] == [("store_id", String)]
    assert [(field.name, field.dtype, field.description) for field in view.features] == [
        ("sales_24h", Int64, "Sales in 24 hours."),
        ("mean_price", Float64, "Their mean price. NULL: nothing was sold."),
    ]
    assert view.ttl == timedelta(hours=36)
    assert (view.owner, view.tags, view.online) == ("sales-team", {"tier": "gold"}, True)
    assert view.description == "One row per store and known_at. What the store sold lately."
    assert view.batch_source.name == "store_sales_source"
    assert view.batch_source.timestamp_field == "known_at"
    assert view.batch_source.created_timestamp_column == "loaded_at"

    item = store.get_entity("item")
    assert (item.join_key, item.value_type) == ("item_id", ValueType.INT64)
    assert item.description == "A thing that is sold."

    service = store.get_feature_service("basket_size")
    assert (service.owner, service.tags) == ("pricing@shop.example", {"tier": "gold"})
    assert {
        projection.name: [feature.name for feature in projection.features]
        for projection in service.feature_view_projections
    } == {
        "store_sales": ["sales_24h", "mean_price"],
        "item_stock": ["left_over"],
        "price_gap": ["price_gap"],
    }


def test_every_declared_object_is_registered_once_and_nothing_else(applied):
    declared = load(applied)
    assert {(kind, name) for kind, name in registered(applied) if name != "__dummy"} == {
        *(("Entity", name) for name in declared.entities),
        *(("FileSource", source.name) for source in declared.sources.values()),
        *(("FeatureView", name) for name in declared.views),
        ("OnDemandFeatureView", "price_gap"),
        ("FeatureService", "basket_size"),
    }


def test_applying_twice_changes_nothing(applied):
    before = registered(applied)
    assert "No changes to registry" in feast(applied, "plan")
    output = feast(applied, "apply")
    assert "No changes to registry" in output
    assert "Updated" not in output
    assert registered(applied) == before


def test_a_renamed_column_shows_in_the_plan(applied, tmp_path):
    shop = Path(shutil.copytree(applied, tmp_path / "shop", symlinks=True))
    edit(shop / "models/features/store_sales.yml", "mean_price", "average_price")
    edit(shop / "feature_repo/on_demand.py", '"mean_price"', '"average_price"')
    dbt(shop, "parse")
    output = feast(shop, "plan")
    assert "Updated feature view" in output
    assert 'name: "mean_price"' in output
    assert 'name: "average_price"' in output


@pytest.mark.parametrize("folder", [".", "feature_repo", "models"])
def test_sources_resolve_wherever_a_command_is_run(applied, monkeypatch, folder):
    monkeypatch.chdir(applied / folder)
    spine = pd.DataFrame({"store_id": ["north"], "event_timestamp": [END]})
    joined = store_of(applied).get_historical_features(spine, ["store_sales:sales_24h"]).to_df()
    assert joined["sales_24h"].tolist() == [3]


def test_no_source_is_tied_to_where_the_project_stood_when_it_was_applied(applied):
    source = store_of(applied).get_data_source("store_sales_source")
    assert source.path == "../data/published/current/store_sales.parquet"


def test_served_features_are_logged_in_the_project_wherever_it_stands(applied):
    service = store_of(applied).get_feature_service("basket_size")
    assert service.logging_config.destination.path == "../data/log/baskets"


def test_materialize_and_the_service_serve_what_was_published(applied):
    feast(applied, "materialize", START.isoformat(), END.isoformat(), "-v", "store_sales")
    store = store_of(applied)
    row = {"store_id": "north", "price": 2.0}
    online = store.get_online_features(
        ["store_sales:sales_24h", "store_sales:mean_price", "price_gap:price_gap"], [row]
    ).to_dict()
    assert (online["sales_24h"], online["mean_price"], online["price_gap"]) == ([3], [1.5], [0.5])
    spine = pd.DataFrame([row | {"item_id": 7, "event_timestamp": END}])
    offline = store.get_historical_features(spine, store.get_feature_service("basket_size"))
    assert offline.to_df()[["sales_24h", "left_over", "price_gap"]].values.tolist() == [
        [3, 12, 0.5]
    ]


def plain(value):
    """A value without what Feast's own stores differ in and a user would not call different."""
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and math.isnan(value):
        return None  # pandas has NaN for NULL
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)  # dask drops the zone inside a list
    return value


@pytest.mark.parametrize("offline_store", ["dask", "duckdb"])
@pytest.mark.parametrize("table", ["every_type", "every_type_or_null"])
def test_every_type_is_the_same_in_the_table_offline_and_online(
    shop, monkeypatch, offline_store, table
):
    # Feast's own DuckDB store reads relative paths from where it is run.
    monkeypatch.chdir(shop / "feature_repo")
    edit(Path("feature_store.yaml"), "dask", offline_store)
    repo = load(shop)
    view, store = repo.views[table], store_of(shop)
    store.apply([repo.entities["store"], view])
    store.materialize(START, END, feature_views=[table])

    published = duckdb.sql(f"from '../data/published/current/{table}.parquet' order by store_id")
    rows = published.to_arrow_table().to_pylist()
    keys = [row["store_id"] for row in rows]
    names = [field.name for field in view.features]
    refs = [f"{table}:{name}" for name in names]

    spine = pd.DataFrame({"store_id": keys, "event_timestamp": [END] * len(keys)})
    joined = store.get_historical_features(spine, refs).to_arrow().to_pylist()
    offline = {row["store_id"]: row for row in joined}
    online = store.get_online_features(refs, [{"store_id": key} for key in keys]).to_dict()
    for name in names:
        expected = [plain(row[name]) for row in rows]
        assert [plain(offline[key][name]) for key in keys] == expected, f"offline {name}"
        assert [plain(value) for value in online[name]] == expected, f"online {name}"


def test_every_type_that_is_held_is_in_the_round_trip(built_shop):
    held = {field.dtype for field in load(built_shop).views["every_type"].features}
    assert {dtype.base_type for dtype in held if isinstance(dtype, Array)} == {
        dtype for dtype in held if not isinstance(dtype, Array)
    }
    assert len(held) == 18


def test_all_modules_get_the_same_objects_until_dbt_parses_again(shop):
    first = load(shop)
    assert load(shop) is first
    dbt(shop, "parse")
    assert load(shop) is not first


def test_the_published_folder_can_be_elsewhere(built_shop, tmp_path):
    def path(**where):
        return load(built_shop, **where).sources["item_stock"].path

    assert path() == "../data/published/current/item_stock.parquet"
    assert path(published=Path("lake/now")) == "../lake/now/item_stock.parquet"
    assert path(feature_repo=Path(".")) == "data/published/current/item_stock.parquet"
    assert path(published=tmp_path) == f"{tmp_path}/item_stock.parquet"


def double_sales(repo, name):
    def double(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"double": inputs["sales_24h"] * 2})

    return on_demand_feature_view(
        sources=[repo.views["store_sales"]],
        schema=[Field(name="double", dtype=Int64)],
        name=name,
    )(double)


def test_on_demand_views_can_be_given_by_name_or_one_after_another(built_shop):
    repo = load(built_shop)
    gap = double_sales(repo, "price_gap")
    for on_demand in ([gap], {"price_gap": gap}, {"any key": gap}):
        service = repo.services(on_demand)["basket_size"]
        assert [view.name for view in service.feature_view_projections] == [
            "store_sales",
            "item_stock",
            "price_gap",
        ]
        assert repo.objects(on_demand)["on_demand__price_gap"] is gap


def test_a_service_that_names_an_unknown_on_demand_view_is_refused(built_shop):
    repo = load(built_shop)
    with pytest.raises(DefinitionError) as refused:
        repo.services([double_sales(repo, "price_gab")])
    assert refused.value.faults == [
        "models/consumers.yml:2: feature service basket_size names on-demand feature view "
        "'price_gap', which is not there; known: price_gab; define it in the feature repository "
        "or drop it"
    ]


def test_an_on_demand_view_cannot_take_the_name_of_a_feature_view(built_shop):
    repo = load(built_shop)
    taken = [double_sales(repo, "price_gap"), double_sales(repo, "Store_Sales")]
    with pytest.raises(DefinitionError, match=r"store_sales\.yml:2: feature view store_sales has"):
        repo.objects(taken)
