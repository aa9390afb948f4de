"""What a run's report and card say of serving: reasons as they were served, and their cost.

Training knows nothing of the service, so it leaves room in its report, and this fills it. Not
for making reasons: that is `words` and `trees`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from hindcast.errors import MissingInputError
from serving.requests import decode
from serving.service import Options, Service
from serving.words import lateness
from training import report
from training.console import console

MANY, SINGLE = 500, 200
"""Flights of a list, and requests of one flight, that the cost is measured on."""


@dataclass(frozen=True)
class Reason:
    """One reason as it was served. `odds`: what it multiplies the odds of being late by."""

    title: str
    text: str
    contribution: float
    odds: float


@dataclass(frozen=True)
class Example:
    """An answer of the service for one flight, and what became of the flight."""

    flight: str
    departs: str
    probability: float
    flag: bool
    became: str
    base_probability: float
    reasons: list[Reason]
    rest: float


@dataclass(frozen=True)
class Cost:
    """CPU seconds for 1,000 answers, from the request's bytes to the answer's, without HTTP."""

    in_lists: float
    one_by_one: float
    list_length: int
    requests: int


def example(row: Any, answer: dict[str, Any], zone: str) -> Example:
    """From a row of the spine and the answer for it."""
    told = answer["reasons"]
    minutes = row["arrival_delay_min"]
    return Example(
        flight=f"{row['carrier']} {row['flight']}, {row['origin']} to {row['dest']}",
        departs=f"{row['sched_dep_at'].tz_convert(zone):%d %B %Y, %H:%M}".lstrip("0"),
        probability=answer["probability"],
        flag=answer["flag"],
        became=f"arrived {lateness(minutes)}" if row["outcome"] == "completed" else row["outcome"],
        base_probability=1 / (1 + math.exp(-told["base"])),
        reasons=[
            Reason(
                each["title"], each["text"], each["contribution"], math.exp(each["contribution"])
            )
            for each in told["top"]
        ],
        rest=told["rest"],
    )


def cost(run_dir: Path, at: datetime | None, requests: Sequence[dict[str, Any]]) -> Cost:
    """Let a service of this process answer requests (without its log), and measure its CPU time."""
    service = Service(Options(run_dir, stands_at=at, log=False), console.print)

    def answer(body: bytes) -> None:
        orjson.dumps(service.answer(decode(body, MANY), "cost"))

    def seconds(bodies: list[bytes]) -> float:
        answer(bodies[0])  # what is done once is not the cost of a thousand
        before = time.process_time()
        for body in bodies:
            answer(body)
        return time.process_time() - before

    try:
        flights = [requests[i % len(requests)] for i in range(2 * MANY)]
        lists = [flights[:MANY], flights[MANY:]]
        in_lists = seconds([orjson.dumps({"flights": each}) for each in lists])
        singles = seconds(
            [orjson.dumps({"flights": each, "reasons": True}) for each in flights[:SINGLE]]
        )
    finally:
        service.close()
    return Cost(1000 * in_lists / len(flights), 1000 * singles / SINGLE, MANY, SINGLE)


def write(run_dir: Path, examples: list[Example], measured: Cost, threshold: float) -> None:
    """Write served.json, and put it into the report and the card of the run.

    Raises:
        MissingInputError: the run is of an earlier version, which wrote no price of computing.
    """
    run = run_dir.resolve()
    metrics = json.loads((run / "metrics.json").read_text())
    if "computing" not in metrics:
        raise MissingInputError(
            f"{run / 'metrics.json'} has no `computing`, which training writes now: "
            "the run is of an earlier one. Train again with `python -m training`, or put a newer "
            "one in use with `hindcast rollback --to <run>`"
        )
    price = metrics["computing"]["cpu_hour_price"]
    facts = {
        "examples": examples,
        "cost": measured,
        "threshold": threshold,
        "most": max(abs(r.contribution) for each in examples for r in each.reasons),
        "price": price,
    }
    content = {"examples": [asdict(each) for each in examples], "cost": asdict(measured)}
    (run / "served.json").write_text(json.dumps(content, indent=2) + "\n")
    for page, kind in (("report.html", "html"), ("model_card.md", "md")):
        for section in ("served", "served_cost"):
            report.fill(run / page, section, report.render(f"{section}.{kind}", facts).strip())
    report.write_card_page(run)
