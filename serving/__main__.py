"""Serve the model of late arrivals over HTTP.

    python -m serving                                    # http://127.0.0.1:8000, docs at /docs
    python -m serving --at 2013-12-30T15:00:00Z          # the demo's day: the clock stands there
    curl -s localhost:8000/v1/score -d '{"flights": {"carrier": "EV", "flight": 6030, ...}}'

This file is the command line only.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.console import PLAIN_HELP, console, run

app = typer.Typer(add_completion=False, context_settings=PLAIN_HELP)
complaints = Console(stderr=True, highlight=False, soft_wrap=True)
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def instant(text: str | None) -> datetime | None:
    """An ISO time with its zone, from the command line."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"--at {text} is not an ISO time like 2013-12-30T15:00Z") from None
    if at.tzinfo is None:
        raise typer.BadParameter(f"--at {text} has no zone; write {text}Z if it is UTC")
    return at


def tell(text: str) -> None:
    """Tell the operator."""
    complaints.print(f"serving: {text}", markup=False)


@app.command()
def main(
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="The training run whose model answers. Left out: artifacts/champion and, without "
            "a restart, what becomes champion later; artifacts/latest if there is none.",
        ),
    ] = None,
    repo: Annotated[
        Path | None,
        typer.Option(help="The Feast repository. Left out: the one the model was trained with."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="The instant at which the service's clock stands, an ISO time with its zone: it "
            "answers as if it were then. Left out: the machine's clock."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on. Others can reach 0.0.0.0: set a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.", min=0, max=65535)] = (
        8000
    ),
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="Callers must send one of these keys, one a line, in the header X-API-Key. "
            "The variable HINDCAST_API_KEYS adds to them, separated by commas."
        ),
    ] = None,
    most_flights: Annotated[int, typer.Option(help="Flights in one request.", min=1)] = 1_000,
    most_bytes: Annotated[int, typer.Option(help="Bytes in one request.", min=1_000)] = 1_048_576,
    rate: Annotated[
        float, typer.Option(help="Requests a second of one caller; 0: no limit.", min=0)
    ] = 0.0,
    features: Annotated[
        str | None, typer.Option(help="The address of Feast's page of the features, to link to.")
    ] = None,
    log: Annotated[
        bool,
        typer.Option(help="Log every answer where the feature service says (its `log`)."),
    ] = True,
) -> None:
    """Answer on HTTP with the model of a training run and the features of the online store.

    Needs a trained model (`python -m training`) and a filled online store (`feast materialize`).
    Ends on Ctrl-C or SIGTERM, once every answer is logged.
    """
    stands_at = instant(at)
    # only now: --help should not wait for scikit-learn
    from serving.guard import Guard, Limits, api_keys
    from serving.server import Server, listen
    from serving.service import Options, Service

    keys = api_keys(api_key_file)
    if host not in LOOPBACK and not keys:
        tell(f"anybody who reaches {host} may ask: no API key is set")
    guard = Guard(Limits(most_bytes, most_flights, rate), keys)
    listening = listen(host, port)
    options = Options(
        run=run_dir,
        repo=repo,
        stands_at=stands_at,
        guard=guard,
        log=log,
        features=features or None,
    )
    service = Service(options, tell)
    for reason in service.not_ready():
        tell(f"not ready: {reason}")

    def announce(address: str) -> None:
        console.print(f"Model {service.bundle.id} answers at [bold]{address}[/bold]")

    try:
        Server(service, announce).run([listening])
    finally:
        service.close()


if __name__ == "__main__":
    run(app)
