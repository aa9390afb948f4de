"""Score past flights with what the point-in-time join gives for each one's own T.

    python -m training.backcast --start 2013-11-01T00:00Z --until 2013-11-15T00:00Z --out p.parquet

The offline figure that a live one is held against: `hindcast replay` asks for it. Not for judging
a model (`evaluate`), and not for what the online store serves (`score`).
"""

from pathlib import Path
from typing import Annotated

import typer

from hindcast import champion
from training.console import PLAIN_HELP, console, instant, run

app = typer.Typer(add_completion=False, context_settings=PLAIN_HELP)


@app.command()
def main(
    start: Annotated[str, typer.Option(help="First T, an ISO time with its zone.")],
    until: Annotated[str, typer.Option(help="The T from which on flights are left out.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run", help="The training run whose model scores (default: the one in use)."
        ),
    ] = None,
) -> None:
    """Write the flights of a period with the score the model gives at each one's own T."""
    from training import model
    from training.dataset import feature_service, open_store
    from training.settings import Settings

    scoring = model.load(run_dir or champion.in_use(Path("artifacts")))
    settings = Settings.from_dict(scoring.manifest["settings"]).but(snapshot="current")
    store = open_store(settings)
    spine = (
        f"select *, predict_at as event_timestamp from {settings.spine} "
        f"where predict_at >= timestamptz '{instant(start).isoformat()}' "
        f"and predict_at < timestamptz '{instant(until).isoformat()}' "
        "order by predict_at, flight_id"
    )
    service = feature_service(store, settings)
    frame = store.get_historical_features(entity_df=spine, features=service).to_arrow().to_pandas()
    flights = frame[["flight_id", "carrier", "flight", "origin", "predict_at"]]
    flights.assign(score=scoring.predict_proba(frame)).to_parquet(out, index=False)
    console.print(f"{len(flights):,} flights scored: {out}")


if __name__ == "__main__":
    run(app)
