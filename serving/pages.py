"""The other ways in that the service shows beside its own page: files that the loop leaves.

Each is looked for when it is asked for, so a new report or a new day's monitoring is there at once.
They are found from the folder of the run, which is `artifacts/<run>` of a project.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ONE_FILE = "style-src 'unsafe-inline'; img-src data:"
"""A page with its style and pictures in it, and no script."""
PROGRAM = (
    "script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:; "
    "font-src data:"
)
"""A page that is a program with all its data in it, as dbt's catalogue is. It can ask nobody."""


@dataclass(frozen=True)
class Way:
    """One page: its path and title, the files it may be (the first that is there), its policy."""

    path: str
    title: str
    files: tuple[str, ...]
    """From the folder of the run."""
    policy: str = ONE_FILE

    def file(self, run: Path) -> Path | None:
        """The file to show, as it is now."""
        run = run.resolve()
        return next((run / name for name in self.files if (run / name).is_file()), None)

    def kind(self, file: Path) -> str:
        """Its type, for the browser."""
        return "text/html" if file.suffix == ".html" else "text/plain"


WAYS = (
    Way("report", "Model report", ("report.html",)),
    Way("card", "Model card", ("model_card.html", "model_card.md")),
    Way(
        "monitoring",
        "Monitoring",
        ("../monitor/index.html",),
        f"{ONE_FILE}; script-src 'unsafe-inline'",
    ),
    Way("lineage", "Lineage", ("../../target/static_index.html",), PROGRAM),
)
