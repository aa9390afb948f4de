"""Score the flights that come up before the next tick, once, and log what was served.

    python -m serving.upcoming --at 2013-11-01T15:00:00Z --until 2013-11-01T16:00:00Z

Every flight of the published schedule whose T lies in the period gets a score by the features the
online store serves now, which must stand at `--at` for every view: nothing older is passed off as
fresh, nothing later is used. What was served goes to the log of the feature service, as the
service's own answers do, so `hindcast parity --log` judges both. Not a service: that is
`python -m serving`.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import typer

from hindcast import champion
from hindcast.errors import HindcastError
from serving.bundle import KEYS, Bundle, load
from serving.requests import Flight
from serving.scorer import Answered
from training.console import PLAIN_HELP, console, instant, run

app = typer.Typer(add_completion=False, context_settings=PLAIN_HELP)


class NotAtTheInstantError(HindcastError):
    """The online store stands at another instant than it is asked for, or at several."""


@app.command()
def main(
    at: Annotated[str, typer.Option(help="The instant of this tick, with its zone.")],
    until: Annotated[str, typer.Option(help="The next tick: flights with T before it are scored.")],
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run", help="The training run whose model scores (default: the one in use)."
        ),
    ] = None,
) -> None:
    """Score the flights with a T from `--at` on and before `--until`, and log what was served."""
    run_dir = run_dir or champion.in_use(Path("artifacts"))
    scored = score(run_dir, instant(at), instant(until))
    console.print(f"{len(scored.flights)} flights scored and logged, {sum(scored.flags)} flagged.")


def score(run_dir: Path, at: datetime, until: datetime) -> Answered:
    """Score the flights, and log them under the instant `at`.

    Raises:
        MissingInputError: no model, or nothing published or registered.
        NotAtTheInstantError: the online store does not stand at `at`.
        HindcastError: the answers could not be logged.
    """
    from feast import FeatureStore

    from hindcast.offline_store import query
    from hindcast.online import OnlineReader
    from serving.answers import AnswerLog

    bundle = _bundle(run_dir.resolve())
    store: FeatureStore = FeatureStore(repo_path=bundle.settings.repo)
    asked = Flight.__struct_fields__
    rows = query(
        store.config,
        f"select {', '.join(asked)} from {bundle.settings.spine} "
        f"where predict_at >= timestamptz '{at.isoformat()}' "
        f"and predict_at < timestamptz '{until.isoformat()}' order by predict_at, flight_id",
    )
    flights = [Flight(**row) for row in rows.to_pylist()]
    reader = OnlineReader(store, bundle.service)
    bundle.refuse_misfit(reader)
    inputs = (*reader.keys, *reader.request)
    served = reader.read({name: [getattr(f, name) for f in flights] for name in inputs})
    others = {view: stands for view, stands in served.as_of.items() if stands != at}
    if others:
        view, stands = next(iter(others.items()))
        raise NotAtTheInstantError(
            f"the online store stands at {stands and stands.isoformat()} for {view}, not at "
            f"{at.isoformat()}: run `feast -c {bundle.settings.repo} materialize-incremental "
            f"{at:%Y-%m-%dT%H:%M:%SZ}` first"
        )
    keys = {
        column.name: [getattr(f, column.name) for f in flights]
        for column in bundle.columns
        if column.view == KEYS
    }
    if not flights:
        return Answered([], served, [], [], bundle.id)
    scores = bundle.trees.score(keys | served.values)
    flags = (scores.p >= bundle.threshold).tolist()
    answered = Answered(flights, served, scores.p.tolist(), flags, bundle.id)
    told: list[str] = []
    service = store.get_feature_service(bundle.service)
    log = AnswerLog(store, service, reader, told.append)
    log.append(answered, f"tick-{at:%Y%m%dT%H%M%SZ}", at)
    log.close()
    if log.written != len(flights):
        raise HindcastError(
            f"{len(flights) - log.written} of {len(flights)} answers could not be logged "
            f"({'; '.join(told)}): see that the log can be written, and score again"
        )
    return answered


@lru_cache(maxsize=2)
def _bundle(run: Path) -> Bundle:
    """A run is never changed once it is there, so a model is loaded once in a process."""
    return load(run)


if __name__ == "__main__":
    run(app)
