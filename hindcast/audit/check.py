"""The audit as a whole: which tests run, in which order, and whether the project passes.

Not for how a test works, nor for showing what it found: see `replay`, `scramble`, `static`,
`model`, `show`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random

from hindcast.audit.model import Modelled, model_test
from hindcast.audit.points import Compared, Difference
from hindcast.audit.published import Published
from hindcast.audit.reach import Source, ancestors
from hindcast.audit.replay import Replayed, replay
from hindcast.audit.scramble import Scrambled, scramble
from hindcast.audit.static import Read, read
from hindcast.audit.trace import Trace, trace
from hindcast.audit.workshop import Workshop
from hindcast.config import ProjectConfig
from hindcast.dbt import FeatureViewSpec
from hindcast.errors import HindcastError

TESTS = ("replay", "scramble", "static", "model")
TRACED = 3
"""Of how many views, those that differ most, one difference is traced to its records. Each takes
a few to a few dozen rebuilds of that view."""


@dataclass(frozen=True)
class Audit:
    """What the audit looked at, and what it found. A test that did not run is None."""

    views: tuple[FeatureViewSpec, ...]
    sources: tuple[Source, ...]
    seeds: tuple[str, ...]
    replayed: tuple[Replayed, ...] | None
    scrambled: Scrambled | None
    read: Read | None
    modelled: Modelled | None
    traces: tuple[Trace, ...]
    seconds: float

    @property
    def unaudited(self) -> tuple[str, ...]:
        """Sources that nothing limits: what they hold may be of any time."""
        return tuple(source.name for source in self.sources if source.loaded_at is None)

    @property
    def values(self) -> int:
        """How many values were compared."""
        replayed = sum(one.values for one in self.replayed or ())
        return replayed + (self.scrambled.values if self.scrambled else 0)

    @property
    def differ(self) -> int:
        """How many values differ. Any is a leak, or a build that is not the same twice."""
        replayed = sum(one.differ for one in self.replayed or ())
        return replayed + (self.scrambled.differ if self.scrambled else 0)

    @property
    def passed(self) -> bool:
        """No value differs, and the scramble, if it ran, moved what came after its cut."""
        powerless = self.scrambled is not None and self.scrambled.moved_after == 0
        return self.differ == 0 and not powerless


def audit(
    project_dir: Path,
    config: ProjectConfig,
    *,
    count: int,
    seed: int,
    at: Sequence[datetime] = (),
    only: Collection[str] = TESTS,
    traced: int = TRACED,
    tell: Callable[[str], None],
) -> Audit:
    """Run the tests in `only`; `at` are instants to replay instead of `count` by chance.

    Raises HindcastError where there is nothing to audit, or a rebuild fails.
    """
    started = time.perf_counter()
    target = config.audit.target
    if set(only) == {"model"} and target is None:
        raise HindcastError(
            "the model test needs to know what is predicted: name a true-or-false column of the "
            "spine as `audit: target` in hindcast.yml"
        )
    rebuilding = bool({"replay", "scramble"} & set(only))
    replayed: list[Replayed] | None = None
    scrambled: Scrambled | None = None
    found: Read | None = None
    modelled: Modelled | None = None
    traces: list[Trace] = []
    tell("parsing the project, copying its sources" if rebuilding else "parsing the project")
    with Workshop(project_dir, config.spine).opened(sources=rebuilding) as workshop:
        if "static" in only:
            tell("reading the compiled SQL")
            workshop.compile()
            found = read(workshop, config.audit.labels)
        if rebuilding or "model" in only:
            published = Published.of(workshop.project_dir, config, workshop.spec)
        if "model" in only and target is not None:
            modelled = model_test(published, target, seed, tell)
        if rebuilding:
            zone, last = config.audit.time_zone, workshop.last_loaded()
            instants = sorted(at) or published.instants(count, seed, zone, last)
            if "replay" in only:
                replayed = replay(workshop, published, instants, tell)
                if sum(one.rows for one in replayed) == 0:
                    raise HindcastError(
                        "nothing was compared: no row of the spine is predicted in the day up to "
                        f"{', '.join(map(str, instants))}"
                    )
                traces = [trace(workshop, one, tell) for one in _worst(replayed)[:traced]]
            if "scramble" in only:
                # not the last: something has to come after the cut
                cut = Random(seed).choice(instants[:-1] or instants)
                scrambled = scramble(workshop, published, cut, seed, tell)
        return Audit(
            workshop.spec.views,
            workshop.sources,
            _seeds(workshop),
            None if replayed is None else tuple(replayed),
            scrambled,
            found,
            modelled,
            tuple(traces),
            time.perf_counter() - started,
        )


def _worst(replayed: Sequence[Replayed]) -> list[Difference]:
    """One difference of each of the views that differ most."""
    by_view: dict[str, list[Compared]] = {}
    for one in replayed:
        for view in one.views:
            if view.examples:
                by_view.setdefault(view.view, []).append(view)
    worst = sorted(by_view.values(), key=lambda found: -sum(view.differ for view in found))
    return [max(found, key=lambda view: view.differ).examples[0] for found in worst]


def _seeds(workshop: Workshop) -> tuple[str, ...]:
    nodes, names = workshop.nodes, {view.name for view in workshop.spec.views}
    made_of = {
        name
        for node in nodes.values()
        if node.resource_type == "model" and node.name in (*names, workshop.spine)
        for name in ancestors(nodes, node.unique_id)
    }
    return tuple(
        sorted(
            n.name for n in nodes.values() if n.resource_type == "seed" and n.unique_id in made_of
        )
    )
