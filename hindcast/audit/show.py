"""What the audit found, for people and for scripts. Not for finding anything."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hindcast.audit.check import Audit
from hindcast.audit.model import CONFIDENCE, LEAKS, Modelled
from hindcast.audit.points import Compared, Difference, span_text
from hindcast.audit.reach import lookback
from hindcast.audit.scramble import Scrambled
from hindcast.audit.trace import Trace
from hindcast.config import utc_text

SHOWN = 12
"""Differences of one test that are listed; all are counted."""


def show(audit: Audit, console: Console) -> None:
    """Print everything, the summary line last."""
    if audit.replayed is not None:
        _show_reach(audit, console)
        table = Table("as of", title="replay: the features rebuilt from the world as it stood at T")
        for name in ("spine rows", "values", "differ", "seconds"):
            table.add_column(name, justify="right")
        for one in audit.replayed:
            table.add_row(
                utc_text(one.at),
                f"{one.rows:,}",
                f"{one.values:,}",
                _count(one.differ),
                f"{one.seconds:.1f}",
            )
        console.print(table)
        for one in audit.replayed:
            if one.too_short:
                console.print(
                    f"[yellow]As of {utc_text(one.at)} the lookback above left out records that "
                    "matter; everything was read instead. Say more in `meta: carries` of a source.",
                    soft_wrap=True,
                )
        _show_differences(
            [view for one in audit.replayed for view in one.views], console, "rebuilt"
        )
        for trace in audit.traces:
            _show_trace(trace, console)
    if audit.scrambled is not None:
        _show_scrambled(audit.scrambled, console)
    if audit.read is not None:
        _show_read(audit, console)
    if audit.modelled is not None:
        _show_modelled(audit.modelled, console)
    _show_unaudited(audit, console)
    console.print()
    console.print(summary(audit), style="bold", soft_wrap=True, highlight=False)


def summary(audit: Audit) -> str:
    """The audit in one line."""
    parts = []
    if audit.replayed is not None:
        values = sum(one.values for one in audit.replayed)
        differ = sum(one.differ for one in audit.replayed)
        parts.append(
            f"{len(audit.replayed)} instants, {values:,} values compared, {differ:,} differ"
        )
    if audit.scrambled is not None:
        cut = audit.scrambled
        parts.append(
            f"{cut.records:,} later records scrambled, {cut.differ:,} of {cut.values:,} moved"
        )
    if audit.read is not None:
        parts.append(f"{audit.read.models} models read, {len(audit.read.findings)} warnings")
    if audit.modelled is not None:
        parts.append(f"{len(audit.modelled.suspicious)} features suspiciously strong alone")
    if audit.unaudited:
        noun = "source" if len(audit.unaudited) == 1 else "sources"
        parts.append(f"{len(audit.unaudited)} {noun} UNAUDITED")
    verdict = "passed" if audit.passed else "FAILED"
    return f"Audit {verdict}: {'; '.join(parts)} ({audit.seconds:.0f} s)."


def as_json(audit: Audit) -> dict[str, Any]:
    """The audit as a script would read it."""
    return {
        "passed": audit.passed,
        "values": audit.values,
        "differ": audit.differ,
        "unaudited": list(audit.unaudited),
        "seeds": list(audit.seeds),
        "seconds": round(audit.seconds, 1),
        "replay": None
        if audit.replayed is None
        else [
            {
                "as_of": utc_text(one.at),
                "rows": one.rows,
                "values": one.values,
                "differ": one.differ,
                "lookback_too_short": one.too_short,
                "views": [_view_json(view) for view in one.views],
            }
            for one in audit.replayed
        ],
        "traces": [
            {
                "view": trace.difference.view,
                "feature": trace.difference.feature,
                "loaded_at": trace.loaded_at and utc_text(trace.loaded_at),
                "records": [list(record) for record in trace.records],
            }
            for trace in audit.traces
        ],
        "scramble": None
        if audit.scrambled is None
        else {
            "cut": utc_text(audit.scrambled.at),
            "records": audit.scrambled.records,
            "values": audit.scrambled.values,
            "differ": audit.scrambled.differ,
            "moved_after": audit.scrambled.moved_after,
            "unmoved": list(audit.scrambled.unmoved),
            "views": [_view_json(view) for view in audit.scrambled.views],
        },
        "static": None
        if audit.read is None
        else {
            "models": audit.read.models,
            "unread": list(audit.read.unread),
            "findings": [
                {"at": str(f.at), "model": f.model, "check": f.check, "message": f.message}
                for f in audit.read.findings
            ],
        },
        "model": None if audit.modelled is None else _model_json(audit.modelled),
    }


def _model_json(found: Modelled) -> dict[str, Any]:
    return {
        "target": found.target,
        "fitted": found.fitted,
        "judged": found.judged,
        "days": found.days,
        "roc_auc": [found.honest.value, found.honest.low, found.honest.high],
        "views": [
            {
                "view": one.view,
                "roc_auc_without": one.without,
                "leak_that_shows_s": one.shown and one.shown.total_seconds(),
                "gain": [one.gain.value, one.gain.low, one.gain.high],
            }
            for one in found.views
        ],
        "lone": [
            {
                "view": one.view,
                "feature": one.feature,
                "roc_auc": one.auc,
                "suspicious": one.suspicious,
            }
            for one in found.lone
        ],
    }


def _view_json(view: Compared) -> dict[str, Any]:
    return {
        "view": view.view,
        "values": view.values,
        "differ": dict(view.counts),
        "examples": [
            {
                "feature": one.feature,
                "keys": {name: str(value) for name, value in one.keys.items()},
                "at": utc_text(one.at),
                "as_of": utc_text(one.as_of),
                "full": repr(one.full),
                "rebuilt": repr(one.rebuilt),
            }
            for one in view.examples
        ],
    }


def _show_reach(audit: Audit, console: Console) -> None:
    sources = Table(
        "source", "limited by", "read back", "views made of it", title="what is replayed"
    )
    for source in audit.sources:
        limit = source.loaded_at or "[bold red]nothing: UNAUDITED"
        views = f"{len(source.views)} of {len(audit.views)}"
        sources.add_row(source.name, limit, span_text(source.lookback), views)
    console.print(sources)
    spans = ", ".join(f"{view.name} {span_text(lookback(view))}" for view in audit.views)
    console.print(f"lookback by view, two TTLs: {spans}", soft_wrap=True, highlight=False)


def _show_differences(views: Any, console: Console, other: str) -> None:
    examples = [example for view in views for example in view.examples]
    if not examples:
        return
    counts: dict[tuple[str, str], int] = {}
    first: dict[tuple[str, str], Difference] = {}
    for view in views:
        for name, number in view.counts.items():
            counts[view.view, name] = counts.get((view.view, name), 0) + number
        for example in view.examples:
            first.setdefault((example.view, example.feature), example)
    table = Table("view", "feature", "differ", "for example", "T", "training", other)
    worst = sorted(counts, key=lambda place: -counts[place])
    for place in worst[:SHOWN]:
        one = first[place]
        keys = ", ".join(str(value) for value in one.keys.values())
        table.add_row(
            *place,
            f"{counts[place]:,}",
            escape(keys),
            utc_text(one.at),
            escape(_value(one.full)),
            escape(_value(one.rebuilt)),
        )
    console.print(table)
    if len(worst) > SHOWN:
        console.print(f"and {len(worst) - SHOWN} features more; --json lists all")


def _show_scrambled(one: Scrambled, console: Console) -> None:
    console.print(
        f"\nscramble: {one.records:,} records loaded after {utc_text(one.at)} changed. Before "
        f"it {one.values:,} values compared, {_count(one.differ)} moved; after it "
        f"{one.moved_after:,} moved.",
        soft_wrap=True,
    )
    if one.unmoved:
        console.print(
            f"Nothing moved after it in {', '.join(one.unmoved)}: no record loaded then "
            "reaches that, so here the test shows nothing of it.",
            soft_wrap=True,
        )
    _show_differences(one.views, console, "scrambled")


def _show_trace(trace: Trace, console: Console) -> None:
    one = trace.difference
    keys = ", ".join(map(str, one.keys.values()))
    named = f"{one.view}.{one.feature} of {keys} at {utc_text(one.at)}"
    if trace.loaded_at is None:
        console.print(
            f"{named}: no record loaded later gives that value. The build is not the same twice, "
            "or what is published is not what the models give now (`dbt build`).",
            soft_wrap=True,
            markup=False,
        )
        return
    console.print(
        f"{named} comes from what was loaded at {utc_text(trace.loaded_at)}, "
        f"{trace.loaded_at - one.at} later ({_records(trace.count)}):",
        soft_wrap=True,
        markup=False,
    )
    for source, text in trace.records:
        console.print(f"  {source}  {text}", markup=False, soft_wrap=True, highlight=False)


def _show_read(audit: Audit, console: Console) -> None:
    read = audit.read
    assert read is not None
    if read.unread:
        console.print(f"[yellow]sqlglot cannot read {', '.join(read.unread)}: not checked")
    if not read.findings:
        console.print(f"\nstatic: {read.models} models read, nothing to warn of.")
        return
    table = Table("where", "model", "check", "what", title="static: warnings")
    for finding in read.findings:
        table.add_row(str(finding.at), finding.model, finding.check, escape(finding.message))
    console.print(table)


def _show_modelled(found: Modelled, console: Console) -> None:
    auc = found.honest
    console.print(
        f"\nmodel: {found.target} of {found.judged:,} rows on {found.days} later days, learned "
        f"from {found.fitted:,}: ROC AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}] with "
        "honest features.",
        soft_wrap=True,
    )
    longest = span_text(LEAKS[-1])
    table = Table(
        title=f"how much later, up to {longest}, a view must be joined to show in ROC AUC"
    )
    table.add_column("view", no_wrap=True)
    for name in ("without", "shows at", "gain", f"{CONFIDENCE:.0%} interval"):
        table.add_column(name, justify="right")
    for one in found.views:
        shown = "never" if one.shown is None else span_text(one.shown)
        gain = one.gain
        interval = f"{gain.low:+.3f} {gain.high:+.3f}"
        table.add_row(one.view, f"{one.without:.3f}", shown, f"{gain.value:+.3f}", interval)
    console.print(table)
    best = found.lone[0]
    console.print(
        f"The strongest feature alone is {best.view}.{best.feature}: {best.auc:.3f}.",
        soft_wrap=True,
    )
    for lone in found.suspicious:
        console.print(
            f"[yellow]Suspicious: {lone.view}.{lone.feature} alone has ROC AUC {lone.auc:.3f}, "
            "nearly what all other views have together. See that it is known by then.",
            soft_wrap=True,
        )


def _show_unaudited(audit: Audit, console: Console) -> None:
    if audit.seeds:
        console.print(
            f"Seeds are part of the project, so known at any time: {', '.join(audit.seeds)}."
        )
    for name in audit.unaudited:
        console.print(
            f"[bold red]UNAUDITED: source {name} declares no loaded_at_field, so nobody can say "
            "what it held at an instant. Whatever comes from it is not covered by this audit.",
            soft_wrap=True,
        )


def _count(number: int) -> str:
    return f"[bold red]{number:,}[/]" if number else "[green]0[/]"


def _records(number: int) -> str:
    return "1 record" if number == 1 else f"{number:,} records"


def _value(value: object) -> str:
    return "NULL" if value is None else str(value)
