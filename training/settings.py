"""Every setting of a training run, with its default and the reason for it.

Nothing else decides what a run does: the manifest of a run is these settings, the snapshot
they were applied to and the versions of the packages. Not for the command line itself: that
makes its options from these fields.
"""

from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime, time
from typing import Any
from zoneinfo import ZoneInfo, available_timezones


def setting(default: Any, why: str) -> Any:
    """A field with its default and the reason for it, which is also its --help."""
    return field(default=default, metadata={"why": why})


@dataclass(frozen=True)
class Settings:
    """The settings of a run. Dates are days in `zone`; a period ends where the next begins."""

    # What is asked of Feast
    repo: str = setting("feature_repo", "The Feast repository, seen from where you stand.")
    service: str = setting("late_arrival", "The feature service: it decides the model's features.")
    snapshot: str = setting("current", "The published snapshot to read: its id, or the newest.")
    spine: str = setting("flight_spine", "The published table with one row per flight to predict.")
    records: str = setting(
        "raw_records", "The published table that counts the raw records, if any."
    )
    keys: tuple[str, ...] = setting(
        ("origin", "carrier", "dest"),
        "Keys that are features too. Not tailnum or flight: too many values to learn from.",
    )

    # Time: the past teaches, the future judges
    zone: str = setting("America/New_York", "Whose calendar the dates below and the hours are in.")
    fit_from: str = setting("2013-01-01", "First day the trees are fitted on.")
    tune_from: str = setting(
        "2013-09-01", "First day kept for choosing rounds, calibration and threshold."
    )
    test_from: str = setting("2013-11-01", "First day of the test, untouched by all of the above.")
    test_until: str = setting("2014-01-01", "The day after the last day of the test.")
    known_by: str = setting(
        "",
        "Use only outcomes known by this instant, and before the test only those known by its "
        "first: what a training at that instant would have had. Empty: all that is published.",
    )

    # The model
    learning_rate: float = setting(
        0.06, "Half of it needs twice the rounds and gains almost nothing."
    )
    max_rounds: int = setting(
        360, "Most rounds tried; the number used is the best on the tuning days."
    )
    round_step: int = setting(20, "Rounds are counted in steps of this many while choosing.")
    leaves: tuple[int, ...] = setting(
        (31,), "Leaves per tree; give several to choose among them on the tuning days too."
    )
    bins: tuple[int, ...] = setting(
        (255,),
        "Values of a feature that splits may fall between, 255 at most. Give several for one model "
        "of each, averaged: they err on different flights. Below 251 texts are split by alphabet.",
    )
    min_leaf: int = setting(100, "Fewest flights in a leaf: less would learn single bad days.")
    l2: float = setting(5.0, "Pulls leaf values to zero; late flights come in correlated bunches.")
    column_share: float = setting(
        0.3, "Share of the features a split may choose from: varied trees."
    )
    refit: bool = setting(
        False, "Fit again on the tuning days too once all is chosen: nearer to the days to come."
    )
    threads: int = setting(2, "Fixed, since sums over another number of threads round differently.")
    seed: int = setting(2013, "Of every random draw; with it a run repeats bit for bit.")

    # The baselines
    timetable_view: str = setting(
        "flight_calendar", "With the keys, all that the schedule-only baseline sees."
    )
    schedule_rounds: int = setting(120, "Most rounds tried for it: it has little to learn.")
    lookup_prior: float = setting(50.0, "Flights at the base rate added to each cell of the table.")

    # The evaluation
    resamples: int = setting(400, "Bootstrap resamples of whole days, for every 95 % interval.")
    calibration_bins: int = setting(10, "Bins of equal size for the calibration error.")
    min_slice: int = setting(300, "A slice with fewer labelled flights is counted, not judged.")
    false_discovery: float = setting(
        0.05, "Of all slices called worse or better, the share that may be so by chance."
    )
    importance_rows: int = setting(3_000, "Test flights drawn for permutation importance.")
    dependence_rows: int = setting(500, "Test flights drawn for partial dependence.")
    dependence_top: int = setting(6, "Features whose partial dependence is drawn: the first ones.")

    # What an error costs
    flag_cost: float = setting(200.0, "What acting on one flagged flight costs.")
    late_benefit: float = setting(800.0, "What it saves if that flight would have been late.")
    cpu_hour_price: float = setting(0.05, "Price of one CPU for an hour, as clouds ask about.")

    # Where it goes
    artifacts: str = setting("artifacts", "Folder of the runs; `latest` in it is the newest one.")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before any work is done.

        Raises:
            ValueError: naming the setting.
        """
        days = [self.fit_from, self.tune_from, self.test_from, self.test_until]
        if sorted({date.fromisoformat(day) for day in days}) != list(map(date.fromisoformat, days)):
            raise ValueError(
                "fit_from, tune_from, test_from, test_until must be in this order, "
                f"found {', '.join(days)}"
            )
        if not 0 < self.flag_cost < self.late_benefit:
            raise ValueError(
                "flag_cost must be above 0 and below late_benefit, "
                f"found {self.flag_cost:g} and {self.late_benefit:g}"
            )
        if not 0 < self.round_step <= min(self.max_rounds, self.schedule_rounds):
            raise ValueError(
                f"round_step must be from 1 to max_rounds and schedule_rounds, "
                f"found {self.round_step}, {self.max_rounds} and {self.schedule_rounds}"
            )
        if not self.bins or not all(2 <= bins <= 255 for bins in self.bins):
            raise ValueError(f"bins must be from 2 to 255, found {', '.join(map(str, self.bins))}")
        if self.zone not in available_timezones():
            raise ValueError(f"zone must be one like America/New_York, found {self.zone}")
        if self.known_by and datetime.fromisoformat(self.known_by).tzinfo is None:
            raise ValueError(f"known_by has no zone; write {self.known_by}Z if it is UTC")

    def instant(self, day: str) -> datetime:
        """The first instant of a day of this calendar."""
        return datetime.combine(date.fromisoformat(day), time(), ZoneInfo(self.zone))

    @property
    def fitted_until(self) -> str:
        """The day after the last one that the trees are fitted on."""
        return self.test_from if self.refit else self.tune_from

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Settings":
        """The reverse of `as_dict`."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**fields)

    def but(self, **changes: Any) -> "Settings":
        """A copy with other values."""
        return replace(self, **changes)
