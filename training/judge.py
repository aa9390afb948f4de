"""Score the days of a period with a trained model, for whoever compares models.

    python -m training.judge --run artifacts/latest --from 2013-11-01 --until 2013-12-01 \\
        --out artifacts/november.parquet

Features come from Feast as of each prediction. One row per flight: its key, `predict_at`, `p`,
and `label`, which is NULL where there is none or it was not known yet. Not for deciding which
model is the better one: that is `hindcast retrain`.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from training.console import PLAIN_HELP, run, step

app = typer.Typer(add_completion=False, context_settings=PLAIN_HELP)


@app.command()
def main(
    run_dir: Annotated[Path, typer.Option("--run", help="The training run whose model scores.")],
    first: Annotated[str, typer.Option("--from", help="The first day, in the run's own zone.")],
    until: Annotated[str, typer.Option(help="The day after the last.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    known_by: Annotated[
        str, typer.Option(help="Outcomes known later than this instant are left out.")
    ] = "",
    repo: Annotated[
        str, typer.Option(help="The Feast repository; left out: the one of the training.")
    ] = "",
) -> None:
    """Write P(late) of every flight of some days, with the outcomes that were known."""
    try:
        by = datetime.fromisoformat(known_by) if known_by else None
    except ValueError:
        by = None
    if known_by and (by is None or by.tzinfo is None):
        raise typer.BadParameter(f"--known-by {known_by} is not an ISO time with its zone")
    from training import dataset, model
    from training.settings import Settings

    with step("Scores of the days to be judged") as tell:
        scoring = model.load(run_dir)
        settings = Settings.from_dict(scoring.manifest["settings"])
        settings = settings.but(snapshot="current", repo=repo or settings.repo)
        frame = dataset.days(settings, first, until)
        frame["p"] = scoring.predict_proba(frame)
        frame["label"] = frame[dataset.LABEL].astype("boolean")
        if by:
            frame.loc[~(frame["label_known_at"] <= by), "label"] = None
        frame[["flight_id", "predict_at", "p", "label"]].to_parquet(out, index=False)
        tell(f"{len(frame):,} flights from {first} to {until}")


if __name__ == "__main__":
    run(app)
