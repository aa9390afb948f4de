"""How far back a source's records matter: what a rebuild at an instant has to read.

A feature that holds at T was set within its view's TTL before T, by a window no longer than the
TTL (a row must outlive its window: see docs/windows.md), so by records of the last two TTLs. To
that comes what the source itself says: `meta.carries`, how long after its loading a record can
still belong to something new (a timetable is published weeks ahead). A source that does not say
is read from its beginning. None of this is trusted: where a replay differs, it is repeated with
everything. Not for reading any data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hindcast.dbt import FeatureViewSpec, ProjectSpec, parse_ttl
from hindcast.errors import HindcastError


@dataclass(frozen=True)
class Source:
    """A dbt source that features are made of.

    `loaded_at` is None where it declares no `loaded_at_field`: then nothing limits it.
    `lookback` is None where it is read from the beginning.
    """

    name: str
    loaded_at: str | None
    lookback: timedelta | None
    views: frozenset[str]
    """The feature views made of it."""


def lookback(view: FeatureViewSpec) -> timedelta | None:
    """How long before T an event can be to matter to a view at T. None: however long."""
    return 2 * view.ttl if view.ttl else None


def since(sources: tuple[Source, ...], instant: datetime) -> dict[str, datetime]:
    """From when on each source has to be read to give what holds at an instant."""
    return {s.name: instant - s.lookback for s in sources if s.lookback is not None}


def sources_of(manifest: Any, spec: ProjectSpec, spine: str) -> tuple[Source, ...]:
    """Every source that a feature view or the spine is made of, in the order of their names."""
    views = {view.name: view for view in spec.views}
    reached: dict[str, set[str]] = {}
    for node in manifest.nodes.values():
        if node.resource_type == "model" and node.name in (*views, spine):
            for name in ancestors(manifest.nodes, node.unique_id):
                if name.startswith("source."):
                    reached.setdefault(name, set()).add(node.name)
    found = []
    for unique_id, models in reached.items():
        source = manifest.sources[unique_id]
        name = f"{source.source_name}.{source.name}"
        config = source.config
        loaded_at = getattr(config, "loaded_at_field", None) or source.loaded_at_field
        carries = _carries(name, {**source.meta, **(config.meta or {})})
        spans = [lookback(views[model]) for model in models if model in views]
        known = [span for span in spans if span is not None]
        limited = loaded_at and carries is not None and len(known) == len(spans)
        found.append(
            Source(
                name,
                loaded_at,
                carries + max(known, default=timedelta(0))
                if limited and carries is not None
                else None,
                frozenset(models & set(views)),
            )
        )
    return tuple(sorted(found, key=lambda source: source.name))


def ancestors(nodes: Mapping[str, Any], unique_id: str) -> set[str]:
    """Everything a node is made of, by unique id, itself left out."""
    found: set[str] = set()
    waiting = [unique_id]
    while waiting:
        for name in parents(nodes.get(waiting.pop())):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def parents(node: Any) -> list[str]:
    """What a node is made of directly, by unique id; a seed or source of nothing."""
    return list(getattr(getattr(node, "depends_on", None), "nodes", ()))


def _carries(name: str, meta: Mapping[str, Any]) -> timedelta | None:
    if "carries" not in meta:
        return None
    try:
        return parse_ttl(meta["carries"])
    except ValueError:
        raise HindcastError(
            f"source {name} has meta carries: {meta['carries']!r}; expected how long a record "
            "matters beyond every window, such as `20 days`"
        ) from None
