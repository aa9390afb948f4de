"""Score the flights to be predicted in the hour from T, with the features the online store serves.

    feast -c feature_repo materialize-incremental 2013-12-30T15:00:00Z
    python -m training.score --at 2013-12-30T15:00:00Z

It is a hindcast: the outcomes are known by now, so they stand beside the predictions. What was said
is kept, one file for each T, so that `hindcast monitor` can judge it as outcomes arrive. Not a
service, and not for judging the model: that is `evaluate`.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hindcast import champion
from hindcast.errors import MissingInputError
from training.console import PLAIN_HELP, console, run, step

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("origin", "dest", "carrier", "flight", "tailnum")
"""The join keys of the service's views, as the spine has them."""

REQUEST = ("predict_at", "sched_dep_at", "distance_mi", "block_min")
"""What the on-demand views take from the request."""


KEPT = Path("data/predictions")
"""What was said, in `<run>/<T>.parquet`; `monitor.predictions` of hindcast.yml reads it."""


class QuietHourError(MissingInputError):
    """No flight is to be predicted in the hour, though there are some that day: it is night."""


app = typer.Typer(add_completion=False, context_settings=PLAIN_HELP)


@app.command()
def main(
    at: Annotated[
        str | None,
        typer.Option(
            help="T, an ISO time with its zone. The online store must stand at T or before. "
            "Left out: the instant it stands at."
        ),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run", help="The training run whose model scores (default: the one in use)."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(help="Flights to print; all are in upcoming.csv.")] = 20,
) -> None:
    """Print the flights of the hour from T by risk, with what became of them."""
    try:
        instant = datetime.fromisoformat(at) if at else None
    except ValueError:
        raise typer.BadParameter(f"--at {at} is not an ISO time like 2013-12-30T15:00Z") from None
    if instant is not None and instant.tzinfo is None:
        raise typer.BadParameter(f"--at {at} has no zone; write {at}Z if it is UTC")

    run_dir = run_dir or champion.in_use(Path("artifacts"))
    try:
        with step("Scores of the hour, from the online store") as tell:
            flights, instant, threshold, zone = score(run_dir, instant)
            tell(f"{len(flights)} flights")
    except QuietHourError as quiet:
        console.print(f"Nothing to score: {quiet}")
        return
    keep(flights, run_dir, instant)
    flights.to_csv(run_dir / "upcoming.csv", index=False)
    show(flights.head(rows), threshold, zone)
    flagged = flights[flights["flag"]]
    console.print(
        f"{len(flagged)} of {len(flights)} flights flagged (from {threshold:.2f} on); "
        f"{int((flagged['is_late'] == True).sum())} of them were late, "  # noqa: E712
        f"of {int((flights['is_late'] == True).sum())} late in all. "  # noqa: E712
        f"All of them: {run_dir / 'upcoming.csv'}"
    )


def score(run_dir: Path, at: datetime | None) -> "tuple[pd.DataFrame, datetime, float, str]":
    """The flights of the hour from T by falling risk, T, the threshold, and the local zone.

    T is `at`, or the instant at which the online store stands.

    Raises:
        QuietHourError: no flight in this hour, but some within a day of it.
        MissingInputError: no model, no flights, or an online store that does not stand at `at`.
    """
    from hindcast.offline_store import query
    from training import model
    from training.dataset import feature_service, open_store
    from training.settings import Settings

    scoring = model.load(run_dir)
    settings = Settings.from_dict(scoring.manifest["settings"]).but(snapshot="current")
    store = open_store(settings)
    service = feature_service(store, settings)
    at = stands_at(store, service, at)

    def between(start: datetime, end: datetime) -> Any:
        return query(
            store.config,
            f"select * from {settings.spine} where predict_at >= timestamptz '{start.isoformat()}' "
            f"and predict_at < timestamptz '{end.isoformat()}' order by predict_at, flight_id",
        )

    upcoming = between(at, at + timedelta(hours=1))
    if upcoming.num_rows == 0:
        day = timedelta(days=1)
        kind = QuietHourError if between(at - day, at + day).num_rows else MissingInputError
        raise kind(
            f"{settings.spine} has no flight to predict in the hour from {at.isoformat()}; "
            "give another --at, or land that day (`python -m landing`) and run `dbt build`"
        )
    features = store.get_online_features(
        features=service,
        entity_rows=upcoming.select([*KEYS, *REQUEST]).to_pylist(),
    ).to_df()
    flights: pd.DataFrame = upcoming.to_pandas()
    served = [name for name in features if name not in flights]
    flights["p"] = scoring.predict_proba(flights.join(features[served]))
    flights["flag"] = flights["p"] >= scoring.threshold
    by_risk = flights.sort_values("p", ascending=False, kind="stable", ignore_index=True)
    return by_risk, at, scoring.threshold, settings.zone


def keep(flights: "pd.DataFrame", run_dir: Path, at: datetime) -> Path:
    """Keep what a model said at an instant, whole or not at all; said again, it is replaced."""
    run = run_dir.resolve().name
    file = KEPT / run / f"{at:%Y%m%dT%H%M%SZ}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    said = flights[["flight_id", "predict_at", "p"]].assign(model=run, said_at=at)
    said.to_parquet(unfinished, index=False)
    os.replace(unfinished, file)
    return file


def stands_at(store: Any, service: Any, at: datetime | None) -> datetime:
    """The instant to score at, once it is clear that the online store knows nothing later.

    Raises:
        MissingInputError: the store is empty, behind, or ahead: then it would know the future.
    """
    on_demand = {view.name for view in store.list_on_demand_feature_views()}
    ends = {
        projection.name: store.get_feature_view(projection.name).most_recent_end_time
        for projection in service.feature_view_projections
        if projection.name not in on_demand
    }
    latest = max((end for end in ends.values() if end), default=None)
    wanted = (at or latest or datetime.now(UTC)).astimezone(UTC)
    command = f"`feast -c feature_repo materialize-incremental {wanted:%Y-%m-%dT%H:%M:%SZ}`"
    for view, end in ends.items():
        if end is None:
            raise MissingInputError(f"{view} was never materialized; run {command}")
        if end > wanted:
            raise MissingInputError(
                f"the online store knows {view} up to {end.isoformat()}, which is after "
                f"{wanted.isoformat()}: scores would know the future. Give a later --at, or "
                f"delete data/online and data/registry.db, then run "
                f"`feast -c feature_repo apply` and {command}"
            )
        if end < wanted - timedelta(hours=1):
            raise MissingInputError(
                f"{view} was materialized only up to {end.isoformat()}; run {command}"
            )
    return wanted


def show(flights: "pd.DataFrame", threshold: float, zone: str) -> None:
    """The flights as a table."""
    from rich.table import Table

    table = Table(title="By risk of arriving 15 minutes or more late", title_justify="left")
    for column in ("flight", "route", "departs", "P(late)", "decision", "what became of it"):
        table.add_column(column, justify="right" if column == "P(late)" else "left")
    for _, row in flights.iterrows():
        departs = row["sched_dep_at"].tz_convert(zone)
        table.add_row(
            f"{row['carrier']} {row['flight']}",
            f"{row['origin']} → {row['dest']}",
            f"{departs:%H:%M}",
            f"{row['p']:.2f}",
            "[bold]flag[/bold]" if row["flag"] else "",
            outcome(row),
        )
    console.print(table)


def outcome(row: Any) -> str:
    """What became of a flight, in a few words."""
    if row["outcome"] != "completed":
        return f"[magenta]{row['outcome']}[/magenta]"
    minutes = f"{row['arrival_delay_min']:+.0f} min"
    return f"[red]late, {minutes}[/red]" if row["is_late"] else f"[green]on time, {minutes}[/green]"


if __name__ == "__main__":
    run(app)
