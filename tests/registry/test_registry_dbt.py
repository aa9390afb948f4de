"""What a dbt project declares is read as it stands, or refused where it stands."""

import copy
import os
from datetime import timedelta
from itertools import chain

import pytest
from registry_projects import copy_project, dbt, edit, edit_manifest

from hindcast.dbt import Location, load_project, parse_ttl
from hindcast.errors import DefinitionError, MissingInputError
from hindcast.types import FeastType


def faults_of(project_dir):
    with pytest.raises(DefinitionError) as refused:
        load_project(project_dir)
    return refused.value.faults


def faults_marked_in(project_dir):
    """The `# fault: one & another` beside each line that has any."""
    for file in chain(project_dir.rglob("*.yml"), project_dir.rglob("models/**/*.sql")):
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            _, _, faults = line.partition("# fault: ")
            for fault in filter(None, faults.split(" & ")):
                yield f"{file.relative_to(project_dir).as_posix()}:{number}: ", fault


def test_every_fault_is_found_in_one_run_at_its_file_and_line(tmp_path):
    project_dir = copy_project("faulty", tmp_path / "faulty")
    dbt(project_dir, "parse")
    unexpected, missed = faults_of(project_dir), []
    for place, message in faults_marked_in(project_dir):
        found = [text for text in unexpected if text.startswith(place) and message in text]
        if found:
            unexpected.remove(found[0])
        else:
            missed.append(place + message)
    assert (missed, unexpected) == ([], [])


def test_a_feature_view_is_read_as_it_is_declared(built_shop):
    spec = load_project(built_shop)
    views = {view.name: view for view in spec.views}
    sales = views["store_sales"]

    assert spec.name == "shop"
    assert sales.ttl == timedelta(hours=36)
    assert sales.owner == "sales-team"
    assert sales.description.startswith("One row per store and known_at.")
    assert sales.tags == {"tier": "gold"}
    assert sales.created_timestamp == "loaded_at"
    assert sales.online
    assert sales.at == Location("models/features/store_sales.yml", 2)
    assert [entity.name for entity in sales.entities] == ["store"]
    assert [key.name for key in sales.keys] == ["store_id"]
    (count, mean) = sales.features
    assert (count.name, count.data_type, count.feast_type) == (
        "sales_24h",
        "bigint",
        FeastType("Int64"),
    )
    assert mean.description == "Their mean price. NULL: nothing was sold."
    assert mean.at == Location("models/features/store_sales.yml", 18)


def test_keys_keep_the_order_of_the_entities_and_times_are_no_features(built_shop):
    stock = next(view for view in load_project(built_shop).views if view.name == "item_stock")
    assert [key.name for key in stock.keys] == ["store_id", "item_id"]
    assert [feature.name for feature in stock.features] == ["left_over"]
    assert stock.ttl == timedelta(0)
    assert not stock.online


def test_an_ml_exposure_is_a_service_of_the_views_it_depends_on(built_shop):
    (service,) = load_project(built_shop).services
    assert service.name == "basket_size"
    assert service.views == ("store_sales", "item_stock")  # and not the spine
    assert service.on_demand == ("price_gap",)
    assert service.log == "data/log/baskets"
    assert service.owner == "pricing@shop.example"
    assert service.tags == {"tier": "gold"}
    assert service.at == Location("models/consumers.yml", 2)


def test_entities_are_those_of_the_project_file(built_shop):
    store, item = load_project(built_shop).entities
    assert (store.name, store.join_key, store.data_type) == ("store", "store_id", "varchar")
    assert (item.description, item.at) == ("A thing that is sold.", Location("dbt_project.yml", 11))


def test_views_of_one_name_are_refused_even_from_two_packages(shop):
    def repeat(manifest):
        for name, new in (("store_sales", "store_sales"), ("item_stock", "Item_Stock")):
            twin = copy.deepcopy(manifest["nodes"][f"model.shop.{name}"])
            twin |= {"name": new, "package_name": "other", "unique_id": f"model.other.{name}"}
            twin["patch_path"] = twin["patch_path"].replace("item_stock", "other/item_stock")
            manifest["nodes"][twin["unique_id"]] = twin

    edit_manifest(shop, repeat)
    twice, case = faults_of(shop)
    assert "feature view store_sales is there twice (models/features/store_sales.yml:2)" in case
    assert "feature view Item_Stock differs from item_stock" in twice


def test_services_of_one_name_are_refused(shop):
    def repeat(manifest):
        twin = copy.deepcopy(manifest["exposures"]["exposure.shop.basket_size"])
        manifest["exposures"]["exposure.other.basket_size"] = twin

    edit_manifest(shop, repeat)
    (fault,) = faults_of(shop)
    assert "feature service basket_size is there twice (models/consumers.yml:2)" in fault


def test_a_project_that_declares_nothing_is_told_what_to_declare(shop):
    def empty(manifest):
        manifest["nodes"] = manifest["exposures"] = {}

    edit(shop / "dbt_project.yml", "entities:", "entitys:")
    edit_manifest(shop, empty)
    assert [fault.partition("; ")[0] for fault in faults_of(shop)] == [
        "dbt_project.yml:1: no feature view found",
        "dbt_project.yml:8: no entities found",
    ]


def test_a_project_file_that_is_no_yaml_is_named_with_its_line(shop):
    edit(shop / "dbt_project.yml", "vars:", "vars: [")
    with pytest.raises(DefinitionError, match=r"dbt_project\.yml:10: this is not YAML"):
        load_project(shop)


def test_a_missing_manifest_names_the_command_that_makes_it(shop):
    (shop / "target/manifest.json").unlink()
    with pytest.raises(MissingInputError, match=r"manifest\.json is not there; run `dbt parse`"):
        load_project(shop)


def test_another_manifest_can_be_given(shop):
    moved = (shop / "target/manifest.json").rename(shop / "elsewhere.json")
    assert load_project(shop, moved).name == "shop"


def test_a_folder_that_is_no_dbt_project_is_refused(tmp_path):
    with pytest.raises(MissingInputError, match=r"no dbt_project\.yml; expected the root"):
        load_project(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"metadata": {}}'])
def test_a_broken_manifest_is_to_be_parsed_again(shop, content):
    (shop / "target/manifest.json").write_text(content)
    with pytest.raises(MissingInputError, match="is not a dbt manifest; run `dbt parse`"):
        load_project(shop)


def test_a_manifest_of_another_schema_is_refused(shop):
    edit(shop / "target/manifest.json", "manifest/v12.json", "manifest/v11.json")
    with pytest.raises(MissingInputError, match=r"v11\.json; Hindcast reads manifest v12"):
        load_project(shop)


@pytest.mark.parametrize("file", ["models/features/store_sales.yml", "dbt_project.yml"])
def test_definitions_changed_after_the_last_parse_are_never_read_as_they_were(shop, file):
    later = (shop / "target/manifest.json").stat().st_mtime + 1
    os.utime(shop / file, (later, later))
    with pytest.raises(MissingInputError, match=rf"{file} was changed after .* run `dbt parse`"):
        load_project(shop)


@pytest.mark.parametrize(
    ("text", "ttl"),
    [
        ("36 hours", timedelta(hours=36)),
        ("90 minutes", timedelta(minutes=90)),
        ("15 min", timedelta(minutes=15)),
        ("7 days", timedelta(days=7)),
        ("1 Day", timedelta(days=1)),
        ("2 weeks", timedelta(weeks=2)),
        ("30sec", timedelta(seconds=30)),
        ("0", timedelta(0)),
        (0, timedelta(0)),
        ("unlimited", timedelta(0)),
    ],
)
def test_a_ttl_is_a_number_and_a_unit(text, ttl):
    assert parse_ttl(text) == ttl


@pytest.mark.parametrize(
    "text",
    [
        "36",
        36,
        "0 hours",
        "1.5 hours",
        "-1 hours",
        "hours",
        "1 month",
        True,
        None,
        "9999999999 days",
    ],
)
def test_a_ttl_that_could_mean_two_things_is_refused(text):
    with pytest.raises(ValueError):
        parse_ttl(text)
