"""Scores what was predicted when its outcome arrives: at each tick, the outcomes known since.

An outcome counts as it is first told; one that is corrected later is counted, and stays as it was.
Not for what the scores say in the end: that is `figures`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from hindcast import records
from hindcast.config import ProjectConfig
from hindcast.errors import HindcastError
from hindcast.parity import LOG_TIME
from hindcast.replay.room import Plan, Room
from hindcast.sources import absolute
from hindcast.sql import quote

_TABLE = """
create table if not exists replay_outcomes (
    row_key varchar primary key, predict_at timestamptz, tick_at timestamptz, score double,
    label double
)
"""


class Outcomes:
    """The predictions of a replay that were served, and what came true of them."""

    def __init__(self, room: Room, plan: Plan) -> None:
        """Make the table where it is not there yet."""
        assert room.config.replay is not None
        self.room, self.plan, self.section = room, plan, room.config.replay
        self._read: dict[Path, pd.DataFrame] = {}
        self._waiting: list[pd.DataFrame] = []
        """Of those read, what has no outcome yet: all that a tick has to look at."""
        with records.opened(room.folder) as connection:
            connection.execute(_TABLE)
            known = connection.execute("select row_key from replay_outcomes").df()
        self._known = set(known["row_key"])

    def arrive(self, store: Any, at: datetime) -> int:
        """Score the predictions served so far whose outcome is known at `at`, and was not before.

        Returns how many.
        """
        self._read_log(store)
        if not self._waiting:
            return 0
        waiting = self._once(self._waiting)
        waiting = waiting[~waiting["row_key"].isin(self._known)]
        new = self._told(store, waiting, at)
        if len(new):
            with records.opened(self.room.folder) as connection:
                connection.register("new_outcomes", new)
                connection.execute(
                    "insert into replay_outcomes "
                    "select row_key, predict_at, $at, score, label::double from new_outcomes",
                    {"at": at},
                )
        self._known.update(new["row_key"])
        self._waiting = [waiting]
        return len(new)

    def frame(self) -> pd.DataFrame:
        """All that arrived: `row_key`, `predict_at`, `tick_at`, `score`, `label` (1 or 0)."""
        with records.opened(self.room.folder) as connection:
            return connection.execute("from replay_outcomes order by tick_at, row_key").df()

    def corrected(self, store: Any, at: datetime) -> int:
        """How many outcomes have become others by `at`."""
        told = self._told(store, self.served(store), at)
        now = told.set_index("row_key")["label"].astype("float64")
        first = self.frame().set_index("row_key")["label"]
        return int((now.reindex(first.index) != first).sum())

    def keyed(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame with `row_key`: the values of `replay.row` as text."""
        values = zip(*(frame[name] for name in self.section.row), strict=True)
        return frame.assign(row_key=["|".join(map(str, each)) for each in values])

    def _told(self, store: Any, served: pd.DataFrame, at: datetime) -> pd.DataFrame:
        """Of what was served, that whose outcome is known at `at`, with its `label`."""
        from hindcast.offline_store import query

        names = [*self.section.row, self.section.label]
        rows = query(
            store.config,
            f"select {', '.join(map(quote, names))} from {self.room.config.spine} "
            f"where {quote(self.section.label)} is not null "
            f"and {quote(self.section.known_at)} <= timestamptz '{at.isoformat()}' "
            f"and predict_at >= timestamptz '{self.plan.start.isoformat()}'",
        ).to_pandas()
        rows = rows.rename(columns={self.section.label: "label"})
        return served.merge(rows, on=[*self.section.row], validate="one_to_one")

    def served(self, store: Any) -> pd.DataFrame:
        """What was served, one row a prediction: one served again is the same again.

        Raises HindcastError if the log has no such columns.
        """
        self._read_log(store)
        if not self._read:
            return pd.DataFrame(columns=[*self._columns(), "score", "row_key"])
        return self._once([*self._read.values()])

    def _read_log(self, store: Any) -> None:
        try:
            for file in log_files(store, self.room.config):
                if file not in self._read:  # a file is written once
                    rows = pq.read_table(file, columns=self._columns()).to_pandas()
                    in_plan = (rows[LOG_TIME] >= self.plan.start) & (rows[LOG_TIME] < self.plan.end)
                    rows = rows[in_plan].rename(columns={self.section.score: "score"})
                    self._read[file] = self.keyed(rows)
                    self._waiting.append(self._read[file])
        except ValueError as error:
            raise HindcastError(f"the log of what was served: {error}") from error

    def _columns(self) -> list[str]:
        return [*dict.fromkeys([*self.section.row, "predict_at", self.section.score, LOG_TIME])]

    def _once(self, frames: list[pd.DataFrame]) -> pd.DataFrame:
        rows = pd.concat(frames, ignore_index=True)
        return rows.drop_duplicates([*self.section.row], keep="last")


def log_files(store: Any, config: ProjectConfig) -> list[Path]:
    """The files of the service's log. Raises HindcastError if it has none by its definition."""
    service = store.get_feature_service(config.feature_service)
    if service.logging_config is None:
        raise HindcastError(
            f"feature service {config.feature_service} has no log, so nothing shows what was "
            "served: give its exposure `log: <folder>` under meta.feature_service"
        )
    folder = Path(absolute(service.logging_config.destination.path, store.config))
    return sorted(file for file in folder.rglob("*.parquet") if not _is_hidden(file, folder))


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
