"""Which promises each Feast offline store keeps: `python tests/offline_store/compare_stores.py`.

Runs every promise and many generated cases against Hindcast's store and Feast's own `duckdb` and
`dask` stores, and writes the table to `docs/offline-stores.md`. `make conformance` runs it after
the long version of the same tests for our store. Not a test: other stores may fail.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from conformance import PROMISES, WORLDS, Case, Store, cells, generated
from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.progress import track

STORES = {
    "Hindcast": "hindcast.offline_store.DuckDBOfflineStore",
    "Feast `duckdb`": "duckdb",
    "Feast `dask`": "dask",
}
PAGE = Path(__file__).parents[2] / "docs" / "offline-stores.md"
INTRODUCTION = """# What each offline store promises

Made by `make conformance` with Feast {feast}; the promises are the functions of that name in
`tests/offline_store/conformance.py`, each a few lines to read. *ok*: kept. Otherwise what came
instead.

"""


def main() -> None:
    """Run, print a summary, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=700, help="generated cases for each store")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    results: dict[str, dict[str, str]] = {}
    generated_results = {}
    with tempfile.TemporaryDirectory() as directory:
        for name, type_ in STORES.items():
            store = Store(type_, Path(directory) / name.replace("`", ""))
            for promise in track(PROMISES, f"{name}: promises"):
                results.setdefault(promise.__name__, {})[name] = outcome(promise, store)
            generated_results[name] = compare(store, options.cases)
            print(f"{name}: {generated_results[name]}")
    PAGE.write_text(page(results, generated_results, options.cases))
    kept = {name: sum(row[name] == "ok" for row in results.values()) for name in STORES}
    print(", ".join(f"{name} keeps {n} of {len(PROMISES)}" for name, n in kept.items()))
    print(f"Written: {PAGE}")


def outcome(promise: Any, store: Store) -> str:
    """`ok`, or in a few words what happened instead."""
    try:
        promise(store)
    except AssertionError as error:
        return f"wrong: {shortened(error)}"
    except Exception as error:
        return f"{type(error).__name__}: {shortened(error)}"
    return "ok"


def shortened(error: Exception) -> str:
    """The first line of a message, fit for a table."""
    line = (str(error).strip() or "no message").splitlines()[0].replace("|", "/")
    return line if len(line) <= 70 else line[:67] + "..."


def compare(store: Store, cases: int) -> str:
    """How many generated cases came back equal to the oracle, and what was wrong in the others."""
    counts: Counter[str] = Counter()

    @seed(1)
    @settings(
        max_examples=max(1, cases // WORLDS),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=generated())
    def run(case: Case) -> None:
        counts.update(check(store, case))

    run()
    total = counts.total()
    return ", ".join(f"{what} {n} of {total}" for what, n in sorted(counts.items()))


def check(store: Store, case: Case) -> Counter[str]:
    """What became of each world of a case."""
    frame = case.frame()
    spine = frame.to_pandas(
        types_mapper={t: pd.Int64Dtype() for t in frame.schema.types if str(t) == "int64"}.get
    )
    worlds = [world for world, spine_rows in enumerate(case.spines) if spine_rows]
    try:
        result = store.join(
            spine, *case.declare(store), filter_by_created_timestamp=case.cutoff
        ).sort_values("place")
        places = [int(place) for place in result["place"]]
        found = [cells(result[f"value_{number}"]) for number in range(len(case.views))]
    except Exception:
        return Counter({"error": len(worlds)})
    world_of = [world for world, _, _ in case.rows] * case.repeat
    verdicts = dict.fromkeys(worlds, "equal")
    for world, n in Counter(world_of).items():
        if n != sum(world_of[place] == world for place in places):
            verdicts[world] = "rows lost or added"
    for number in range(len(case.views)):
        answers = case.answers(number)
        for place, value in zip(places, found[number], strict=True):
            if value != answers[place] and verdicts[world_of[place]] == "equal":
                verdicts[world_of[place]] = "wrong value"
    return Counter(verdicts.values())


def page(results: dict[str, dict[str, str]], generated_results: dict[str, str], cases: int) -> str:
    """The table in Markdown."""
    from importlib.metadata import version

    lines = [f"| promise | {' | '.join(STORES)} |", f"|---|{'---|' * len(STORES)}"]
    for promise, row in results.items():
        lines.append(f"| {promise.replace('_', ' ')} | {' | '.join(row[n] for n in STORES)} |")
    kept = [f"{sum(row[n] == 'ok' for row in results.values())} of {len(results)}" for n in STORES]
    lines.append(f"| **kept** | {' | '.join(kept)} |")
    text = [INTRODUCTION.format(feast=version("feast")), *(f"{line}\n" for line in lines)]
    text.append(
        f"\n## Generated cases\n\nAbout {cases} cases (one to three keys with NULLs, "
        "tied times, TTLs at the\nboundary, created timestamps on both sides, one or two views), "
        "compared row by row with a\nbrute-force oracle:\n\n"
    )
    text += [f"- {name}: {result}\n" for name, result in generated_results.items()]
    return "".join(text)


if __name__ == "__main__":
    main()
