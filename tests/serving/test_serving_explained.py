"""What serving adds to a run's report and card: reasons as served, and what answers cost."""

import json
import math
import shutil
from pathlib import Path

import pytest
from serving_client import Client
from training_project import STANDS_AT

from hindcast.errors import MissingInputError
from serving import demo, explained
from training.score import score


@pytest.fixture
def run_copy(run_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


def test_the_report_and_the_card_show_reasons_as_they_were_served(
    client: Client, run_copy: Path
) -> None:
    flights, _, threshold, zone = score(run_copy, STANDS_AT)
    answers = demo.ask(client.address, flights)
    example = explained.example(flights.iloc[0], answers[0], zone)

    assert example.probability == pytest.approx(flights["p"].iloc[0])
    odds = example.base_probability / (1 - example.base_probability) * math.exp(example.rest)
    for reason in example.reasons:
        odds *= reason.odds
    assert odds / (1 + odds) == pytest.approx(example.probability)

    asked = [demo.request_of(row) for _, row in flights.iterrows()]
    cost = explained.cost(run_copy, STANDS_AT, asked)
    assert 0 < cost.in_lists < cost.one_by_one

    for _ in range(2):  # a second time replaces the first
        explained.write(run_copy, [example], cost, threshold)
    for name in ("report.html", "model_card.md", "model_card.html"):
        text = (run_copy / name).read_text()
        assert text.count(example.departs) == 1, name
        assert all(reason.title in text for reason in example.reasons)
        assert f"{cost.in_lists:.2g}" in text
    stored = json.loads((run_copy / "served.json").read_text())
    assert stored["cost"]["in_lists"] == cost.in_lists
    assert [r["title"] for r in stored["examples"][0]["reasons"]] == [
        reason.title for reason in example.reasons
    ]


def test_a_run_of_an_earlier_version_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(MissingInputError, match=r"no `computing`.* Train again"):
        explained.write(tmp_path, [], explained.Cost(0.1, 0.2, 500, 200), 0.25)
