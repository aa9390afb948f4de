"""`hindcast.yml`: what the library must know of a project, and cannot read from dbt or Feast.

Not for settings of dbt (`dbt_project.yml`), Feast (`feature_store.yaml`) or the training.
"""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

import yaml
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from hindcast.errors import HindcastError, MissingInputError

FILE = "hindcast.yml"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Step(_Strict):
    """One command of the loop; `{at}` in it stands for the instant of the run."""

    name: str
    run: str
    unless: Path | None = None
    """Left out where this file is there: for what is made once, such as the first model."""
    verdict: bool = False
    """Exit code 1 is what it found, and no accident: the loop notes it and goes on."""


class Result(_Strict):
    """A file that the loop leaves for people to open."""

    what: str
    path: Path


class Audit(_Strict):
    """What `hindcast audit` must know."""

    labels: tuple[str, ...] = ()
    """The spine's columns that tell the outcome."""
    target: str | None = None
    """The one that is predicted, true or false: for the model test."""
    time_zone: str | None = None
    """Where local clocks run: the nights they change are always among the replayed instants."""


class Doctor(_Strict):
    """What `hindcast doctor` must know."""

    free_gb: float = 1.0
    """How much room there must be on the disk beside that for the next build."""


class Ui(_Strict):
    """A page of the project's, and the command that serves it on loopback.

    `{port}` in the command stands for a free port, `{at}` for the instant, and `{<name>}` for the
    address of another one of these, or for nothing where that one is not started.
    """

    name: str
    run: str
    ready: str = "/"
    """The path that answers as soon as it serves."""
    pages: dict[str, str]
    """What people look at: a title and its path."""


class Retrain(_Strict):
    """What `hindcast retrain` must know: two commands, and the rule.

    `train` leaves a run in `artifacts` and points `latest` at it; in it stand {fit_from},
    {tune_from}, {test_from} and {until} (days), {at} and {artifacts}. `score` writes a model's
    scores of some days as Parquet; in it stand {run}, {first} and {until} (days), {at} and {out}.
    """

    train: str
    score: str
    time_zone: str
    """Whose days the days are."""
    first_day: date
    """The first day of history to train on."""
    window_days: int | None = Field(None, ge=1)
    """Train on so many days only, the last ones; None: on all since `first_day`."""
    tune_days: int = Field(28, ge=1)
    """The last of the training days: they choose and calibrate."""
    judge_days: int = Field(28, ge=2)
    """Days before `at` that champion and challenger are judged on; no training sees them."""
    least_days: int = Field(7, ge=2)
    """Fewer days that neither has trained on judge nobody."""
    every_days: int = Field(28, ge=1)
    """A champion trained on nothing newer than so many days is due for a challenger."""
    decay: float = Field(0.02, ge=0)
    """A champion has decayed whose ROC AUC is lower by more than this, beyond noise, than on the
    days it was chosen on."""
    act_cost: float = 1.0
    """What acting on one row costs,"""
    act_benefit: float = 2.0
    """and what it saves if the row's label is true."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples of whole days, for every interval."""


class ModelFacts(_Strict):
    """The model in use: where its training wrote down what the monitor must know of it.

    `manifest` is a JSON file, every other field a dotted name in it.
    """

    manifest: Path
    id: str
    snapshot: str
    """The id of the published snapshot it was trained on."""
    trained_from: str
    trained_until: str
    """A day, or an instant with its zone; a day begins in `time_zone`."""
    time_zone: str | None = None
    threshold: str
    """From which score on a prediction is acted on."""
    flag_cost: str
    flag_benefit: str
    """What acting costs, and what it saves where the outcome comes true."""


class Outcome(_Strict):
    """The spine's columns that tell what came true, and from when on that was known."""

    label: str
    known_at: str


class Predictions(_Strict):
    """A file or folder (Parquet, CSV) of what the model said."""

    path: Path
    score: str
    """The column of the score."""
    keys: tuple[str, ...]
    """The columns by which a row of it finds its row of the spine, named as there."""
    model: str | None = None
    """The column that names the model; rows of others are left out."""
    at: str | None = None
    """The column that tells when it was said; of several for one row the last counts."""


Limits = tuple[float | None, float | None]


class Monitor(_Strict):
    """What `hindcast monitor` must know."""

    model: ModelFacts
    outcome: Outcome
    predictions: tuple[Predictions, ...]
    """Where two speak of one row, the later named counts."""
    page: Path = Path("artifacts/monitor/index.html")
    days: int = Field(default=28, ge=1)
    """The days before the instant of the run that are judged."""
    reference_days: int = Field(default=28, ge=14)
    """Scores and performance are held against those of the model's first days."""
    false_alarms: float = Field(default=0.05, gt=0, lt=1)
    """In what share of runs on stable data any check at all may speak up."""
    thresholds: dict[str, Limits | Literal["off"]] = {}
    """From where on each check warns and fails, where `meta: monitor` says nothing else."""


class Faults(_Strict):
    """The worst day: what `hindcast replay --faults` must know beside `replay`."""

    start: AwareDatetime
    """Where a run with faults begins, unless told otherwise."""
    ticks: int = 200
    prepare: tuple[Step, ...] = ()
    """Instead of `replay.prepare`: such a run begins with less history."""
    quarantine: str
    """The table of refused records, with its schema: file_path, line_number and reason."""
    stamps: dict[str, tuple[str, ...]] = {}
    """Columns, by table, that hold the time or inode of a file: never equal in two runs."""
    log: Path
    """Where the service's log is written."""
    disk_mb: int = 2_000
    """What the small disk holds that is filled up on purpose."""


class Replay(_Strict):
    """What `hindcast replay` must know.

    In a command `{at}` stands for the tick, `{previous}` and `{next}` for those beside it,
    `{start}` and `{end}` for the whole replay, `{day-30}` for the day 30 days before `start`,
    `{out}` for a file to write.
    """

    start: AwareDatetime
    days: int = 14
    tick: str = "1 hour"
    own: tuple[str, ...]
    """Folders of the project that its commands write: a replay has others of that name."""
    raw: Path
    """Where the feed is landed."""
    prepare: tuple[Step, ...]
    """What is done once, as of `start`."""
    steps: tuple[Step, ...]
    """What is done at every tick: land, build, materialize and score, by these names. The last one
    logs what it served."""
    offline: str
    """Writes {out}, a Parquet file: the columns of `row`, and `score` by the point-in-time join."""
    row: tuple[str, ...]
    """Columns of the log, of the spine and of {out} that tell one prediction from another."""
    label: str
    """The spine's column that says what came true."""
    known_at: str
    """The spine's column that says when that was known."""
    score: str = "score"
    faults: Faults | None = None


class ProjectConfig(_Strict):
    """The whole of `hindcast.yml`; paths are relative to the directory it is in."""

    feature_repo: Path
    feature_service: str
    spine: str
    at: AwareDatetime
    """The instant a command stands at where none is given; `now` is the machine's clock."""
    steps: tuple[Step, ...]
    model: Path | None = None
    """The folder of the model in use, whose `manifest.json` says its `run` and `snapshot`."""
    artifacts: Path = Path("artifacts")
    """The folder of the training runs, `champion` and `latest` among them."""
    audit: Audit = Audit()
    doctor: Doctor = Doctor()
    ui: tuple[Ui, ...] = ()
    retrain: Retrain | None = None
    monitor: Monitor | None = None
    replay: Replay | None = None
    summary: str | None = None
    results: tuple[Result, ...] = ()
    next: tuple[str, ...] = ()

    @field_validator("at", mode="before")
    @classmethod
    def _clock(cls, at: object) -> object:
        return datetime.now(UTC).replace(microsecond=0) if at == "now" else at


def load_config(project_dir: Path) -> ProjectConfig:
    """Read and check `hindcast.yml`.

    Raises:
        MissingInputError: there is none in the directory.
        HindcastError: something in it does not fit; every fault is named.
    """
    file = project_dir / FILE
    if not file.exists():
        raise MissingInputError(
            f"no {FILE} in {project_dir.resolve()}: run this at a project's root"
        )
    try:
        return ProjectConfig.model_validate(yaml.safe_load(file.read_text()))
    except yaml.YAMLError as error:
        raise HindcastError(f"{FILE} is not valid YAML: {error}") from error
    except ValidationError as error:
        faults = "\n".join(
            f"  {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
        )
        raise HindcastError(f"{FILE} does not fit:\n{faults}") from error


def utc_text(instant: datetime) -> str:
    """An instant as every command here takes it: `2013-12-30T15:00:00Z`."""
    return instant.isoformat().replace("+00:00", "Z")
