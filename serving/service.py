"""One running service: its model, its features, its log, and whether it may answer now.

Puts the parts together and keeps them current: a new champion takes the old one's place, a new
snapshot brings a new schedule, a changed registry is compared with the model again. Not for HTTP:
`app` asks this.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from feast import FeatureStore

from hindcast import champion
from hindcast.errors import HindcastError, OnlineStoreUnavailableError
from hindcast.online import OnlineReader
from serving import bundle as bundles
from serving import schedule as schedules
from serving.answers import AnswerLog, LogClosedError
from serving.bundle import Bundle, MisfitError
from serving.guard import Guard
from serving.intime import micros
from serving.metrics import Metrics
from serving.requests import Asked, Flight, RowError
from serving.schedule import Schedule
from serving.scorer import Clock, Scored, Scorer, StoreAwayError
from serving.words import Explainer
from training.dataset import open_store

WATCH_EVERY = 5.0  # seconds


UNREADABLE = (
    "the registry of features cannot be read now (the service's own log has the details); it is "
    "tried again"
)


class MisfittedError(HindcastError):
    """What was registered since the start does not fit the model; nothing is answered."""


@dataclass(frozen=True)
class Options:
    """How a service is run."""

    run: Path | None = None
    """The run whose model answers; None: the champion, and the next one once there is another."""
    artifacts: Path = Path("artifacts")
    """Where the champion is; without one it is the newest run, as it stands at the start."""
    repo: Path | None = None
    """The Feast repository; None: the one the model was trained on."""
    stands_at: datetime | None = None
    """The clock stands at this instant; None: it is the machine's."""
    guard: Guard = field(default_factory=Guard)
    log: bool = True
    features: str | None = None
    """Where Feast's own page answers, for people to go on to."""


@dataclass(frozen=True)
class _Answering:
    """What answers now. Replaced as a whole: a log has the columns of its reader."""

    scorer: Scorer
    reader: OnlineReader
    log: AnswerLog | None


class Service:
    """Answers with one model at a time. `close` writes what waits for the log."""

    def __init__(self, options: Options, tell: Callable[[str], None]) -> None:
        """Load and check everything. `tell` gets what the operator should see.

        Raises:
            MissingInputError: no bundle, no registered service, or nothing published.
            MisfitError: the model was trained on other features than are served.
        """
        self.options, self.tell = options, tell
        self.guard, self.clock = options.guard, Clock(options.stands_at)
        bundle = bundles.load(options.run or champion.in_use(options.artifacts))
        self.store = self._open(bundle)
        self._registered: Any = self._registry_stamp()
        reader = OnlineReader(self.store, bundle.service)
        scorer = self._scorer(bundle, reader, self._load_schedule(bundle))
        self.metrics = Metrics(list(reader.features))
        self._answering = _Answering(
            scorer, reader, self._open_log(self.store, bundle.service, reader)
        )
        self._refused: str | None = None
        """The champion that does not fit, which was told of already."""
        self.misfit: list[str] = []
        """Why nothing is answered with what is registered now; empty if all is well."""
        with contextlib.suppress(StoreAwayError):  # told already; it may come back
            self.scorer.look()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._watcher.start()

    def _scorer(self, bundle: Bundle, reader: OnlineReader, schedule: Schedule) -> Scorer:
        words = explainer(bundle, self.store, reader)
        return Scorer(bundle, reader, schedule, self.clock, words, self.tell)

    def _open(self, bundle: Bundle) -> FeatureStore:
        settings = bundle.settings.but(snapshot="current")
        return open_store(settings.but(repo=str(self.options.repo or settings.repo)))

    @property
    def scorer(self) -> Scorer:
        """What scores now."""
        return self._answering.scorer

    @property
    def bundle(self) -> Bundle:
        """The model that answers now."""
        return self._answering.scorer.bundle

    @property
    def log(self) -> AnswerLog | None:
        """Where answers are logged now."""
        return self._answering.log

    def _open_log(self, store: FeatureStore, name: str, reader: OnlineReader) -> AnswerLog | None:
        if not self.options.log:
            return None
        service = store.get_feature_service(name)
        if service.logging_config is None:
            self.tell(
                f"answers are not logged: feature service {service.name} says no place for it; "
                "give its exposure `log: <folder>` under meta.feature_service, then `dbt parse` "
                "and `feast apply`"
            )
            return None
        return AnswerLog(store, service, reader, self.tell)

    def _load_schedule(self, bundle: Bundle) -> Schedule:
        return schedules.load(self.store.config, bundle.settings.spine, self.clock.now())

    # --- answering ----------------------------------------------------------------------

    def answer(self, asked: Asked, request_id: str) -> dict[str, Any]:
        """The body of an answer: a result or an error for each flight, in order.

        Raises:
            StoreAwayError: the online store cannot be read now.
            LogFullError: the log cannot take the answer.
            MisfittedError: features were registered that the model was not trained on.
        """
        scored = self.score(asked.flights, request_id)
        answers = scored.by.results(scored, asked.features, asked.reasons)
        results: dict[int, dict[str, Any]] = dict(zip(scored.places, answers, strict=True))
        for i, error in scored.errors.items():
            results[i] = {"error": {"index": i, "code": error.code, "message": error.message}}
        return {
            "request_id": request_id,
            **scored.by.header(scored),
            "results": [results[i] for i in range(len(asked.flights))],
        }

    def score(self, asked: Sequence[Flight | RowError], request_id: str) -> Scored:
        """Score flights, count them and log them. Raises as `answer` does."""
        if self.misfit:
            raise MisfittedError(
                "the registered features do not fit the model any more; see /readyz"
            )
        answering = self._answering
        try:
            return self._score(answering, asked, request_id)
        except LogClosedError:  # other features were taken over meanwhile
            if answering is self._answering:
                raise
            return self._score(self._answering, asked, request_id)

    def _score(
        self, answering: _Answering, asked: Sequence[Flight | RowError], request_id: str
    ) -> Scored:
        if answering.log is not None:
            answering.log.require_room(len(asked))
        scored = answering.scorer.score(asked, answering.reader)
        if not scored.flights:
            return scored
        now = self.clock.now()
        if answering.log is not None:
            answering.log.append(scored.answered, request_id, now)
        self.metrics.served(scored.rows.values, scored.p, scored.rows.event_us, micros(now))
        return scored

    # --- readiness ----------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """Why it should not be asked now; empty if it may be."""
        reasons = list(self.misfit)
        try:
            self.scorer.look()
        except StoreAwayError as fault:
            reasons.append(str(fault))
        if self.log is not None and self.log.failing:
            reasons.append("the log of answers cannot be written")
        return reasons + self.stale()

    def stale(self) -> list[str]:
        """The views whose features are older than their TTL now, or were never filled.

        A view that was only ever pushed to stands at no instant; its rows are judged one by one
        when they are used.
        """
        now, found = self.clock.now(), []
        reader, as_of = self.scorer.reader, self.scorer.as_of
        known = reader.ttls
        if None in as_of.values():
            found += [f"{view} was never filled: materialize it" for view in unfilled(reader)]
        for view, at in as_of.items():
            ttl = known.get(view)  # None: another thread has just taken over another registry
            if at is not None and ttl and now - at > ttl:
                found.append(
                    f"{view} stands at {at.isoformat()}, which is {now - at} before now; its TTL "
                    f"is {ttl}: materialize it"
                )
        return found

    def card(self) -> dict[str, Any]:
        """What `GET /v1/model` tells: the model, its figures, its features and where they stand."""
        scorer = self.scorer
        bundle = scorer.bundle
        return {
            "model": bundle.id,
            "created_at": bundle.manifest.get("created_at"),
            "feature_service": bundle.service,
            "trained_on_snapshot": bundle.snapshot,
            "snapshot": scorer.stands.snapshot,
            "threshold": bundle.threshold,
            "base_rate": bundle.base_rate,
            "horizon_min": bundle.horizon / timedelta(minutes=1),
            "most_flights": self.guard.limits.rows,
            "answers_are_logged": self.log is not None,
            "as_of": scorer.as_of,
            "ttl_min": {
                view: ttl / timedelta(minutes=1) if ttl else None
                for view, ttl in scorer.reader.ttls.items()
            },
            "views": {
                view.name: " ".join(view.description.split())
                for view in (
                    *self.store.list_feature_views(),
                    *self.store.list_on_demand_feature_views(),
                )
            },
            "features": [
                {
                    "name": c.name,
                    "type": c.dtype,
                    "view": c.view,
                    "description": scorer.explainer.descriptions.get(c.name),
                }
                for c in bundle.columns
            ],
            "metrics": bundle.metrics,
            "card": bundle.card,
        }

    # --- keeping current ----------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_EVERY):
            try:
                self.refresh()
            except Exception as fault:  # told, and tried again: the service goes on as it is
                self.tell(f"cannot look for a new model, snapshot or registry: {fault!r}")

    def refresh(self) -> None:
        """Take over a changed registry, a new snapshot's schedule and a new champion, if there are.

        What is registered and cannot be answered with is tried again each time.
        """
        try:
            stamp = self._registry_stamp()
            if stamp != self._registered:
                self._reread_registry()
                self._registered, self.misfit = stamp, []
        except MisfitError as misfit:
            self._refuse(misfit.differences, str(misfit))
        except HindcastError as fault:
            self._refuse([str(fault)], str(fault))
        except Exception as fault:  # of Feast or of the registry's file: it names paths
            self._refuse([UNREADABLE], f"the registry cannot be read: {fault!r}")
        if schedules.published_snapshot(self.store.config) != self.scorer.schedule.snapshot:
            self.scorer.schedule = self._load_schedule(self.bundle)
        if not self.misfit:
            self._follow_champion()

    def _follow_champion(self) -> None:
        """Answer with the model that is champion now, unless this service was given a run.

        All is made ready beside the old model, and then put in its place in one step: a request
        is answered by the one or the other. One that does not fit is told of, and not taken.
        """
        link = self.options.artifacts / champion.CHAMPION
        if self.options.run is not None or not link.exists():
            return
        run, before = link.resolve(), self._answering
        if run.name in (before.scorer.bundle.id, self._refused):
            return
        try:
            bundle = bundles.load(run)
            reader = before.reader
            if bundle.service != before.scorer.bundle.service:
                reader = OnlineReader(self.store, bundle.service)
            scorer = self._scorer(bundle, reader, self._load_schedule(bundle))
        except HindcastError as fault:
            self.tell(f"model {before.scorer.bundle.id} goes on answering: {fault}")
            self._refused = run.name
            return
        with contextlib.suppress(StoreAwayError):
            scorer.look()
        log = before.log
        if reader is not before.reader:
            log = self._open_log(self.store, bundle.service, reader)
        self._answering, self._refused = _Answering(scorer, reader, log), None
        if before.log is not None and log is not before.log:
            before.log.close()
        self.tell(f"model {bundle.id} answers now, instead of {before.scorer.bundle.id}")

    def _refuse(self, reasons: list[str], told: str) -> None:
        """Answer nothing until what is registered is another; the operator hears it once."""
        if reasons != self.misfit:
            self.tell(told)
        self._registered, self.misfit = None, reasons

    def _reread_registry(self) -> None:
        """Read with what is registered now. The engine below the readers is one and stays."""
        before = self._answering
        bundle = before.scorer.bundle
        store = self._open(bundle)
        reader = OnlineReader(store, bundle.service)
        bundle.refuse_misfit(reader)
        is_same = reader.features == before.reader.features
        log = before.log if is_same else self._open_log(store, bundle.service, reader)
        self.store, before.scorer.reader = store, reader
        self._answering = _Answering(before.scorer, reader, log)
        if before.log is not None and log is not before.log:
            before.log.close()

    def _registry_stamp(self) -> Any:
        """What changes when something is registered or materialized."""
        self.store.refresh_registry()
        return self.store.registry.proto().last_updated.ToMicroseconds()

    def close(self) -> None:
        """Stop watching, write what waits for the log, let go of the store. Twice is once."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._watcher.join()
        if self.log is not None:
            self.log.close()
        self.scorer.reader.close()


def unfilled(reader: OnlineReader) -> list[str]:
    """The views of which nothing was ever stored; none are told if the store is away."""
    with contextlib.suppress(OnlineStoreUnavailableError):
        return reader.unfilled()
    return []


def explainer(bundle: Bundle, store: FeatureStore, reader: OnlineReader) -> Explainer:
    """Words for the columns of a model, with the descriptions that are registered."""
    descriptions = {
        field.name: " ".join(field.description.split())
        for view in store.list_feature_views()
        for field in view.schema
        if field.description
    }
    return Explainer(
        [column.name for column in bundle.columns],
        {name: spec.view for name, spec in reader.features.items()},
        descriptions,
    )
