"""Test 3, static: what in the SQL of the features could let the future in.

Reads the compiled SQL of every feature view and of what it is made of, with sqlglot. It sees what
may be wrong where the data at hand does not show it (no correction has come yet, no clock has
changed), and names the line. It cannot see everything, so it never replaces `replay` and
`scramble`. A *knowledge time* is a column that says when something was known: `known_at`, a
source's `loaded_at_field`, or a name that ends with either. Not for running any SQL.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp

from hindcast.audit.reach import ancestors
from hindcast.audit.workshop import Workshop
from hindcast.dbt import KNOWN_AT, Location

CLOCKS = {
    "now",
    "today",
    "get_current_timestamp",
    "transaction_timestamp",
    "current_localtimestamp",
}
CHANCES = {"random", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "setseed", "nextval"}
READERS = (
    "read_csv",
    "read_csv_auto",
    "read_parquet",
    "read_json",
    "read_json_auto",
    "read_text",
    "read_blob",
)
RANKINGS = (exp.RowNumber, exp.Rank, exp.DenseRank, exp.FirstValue, exp.LastValue, exp.NthValue)
NEEDS_ORDER = (*RANKINGS, exp.Lag, exp.Lead)
CLOCK_IN_JINJA = re.compile(
    r"\b(run_started_at|datetime\.(now|utcnow|today)|date\.today|time\.time)\b"
)


@dataclass(frozen=True, order=True)
class Finding:
    """A place in a model's SQL that could let the future in."""

    at: Location
    model: str
    check: str
    message: str


@dataclass(frozen=True)
class Read:
    """What the static test looked at, and found."""

    models: int
    findings: tuple[Finding, ...]
    unread: tuple[str, ...]
    """Models whose SQL sqlglot cannot read."""


def read(workshop: Workshop, labels: Collection[str]) -> Read:
    """Check every feature view and what it is made of; `labels` are columns of the spine."""
    nodes = workshop.nodes
    views = {view.name for view in workshop.spec.views}
    models = {n.unique_id: n for n in nodes.values() if n.resource_type == "model"}
    features = {unique_id for unique_id, node in models.items() if node.name in views}
    lineage = set(features)
    for unique_id in features:
        lineage |= ancestors(nodes, unique_id) & set(models)
    known = {KNOWN_AT, *(s.loaded_at.lower() for s in workshop.sources if s.loaded_at)}

    trees: dict[str, exp.Expr] = {}
    unread = []
    spine = next(unique_id for unique_id, n in models.items() if n.name == workshop.spine)
    for unique_id in sorted(lineage | {spine}):
        try:
            trees[unique_id] = sqlglot.parse_one(models[unique_id].compiled_code, dialect="duckdb")
        except sqlglot.errors.SqlglotError:
            unread.append(models[unique_id].name)

    outcomes = _label_models(trees.get(spine), labels, models) if labels else set()
    used = {
        _bare(table.sql("duckdb", comments=False).split(" AS ")[0])
        for tree in trees.values()
        for table in tree.find_all(exp.Table)
    }
    found: list[Finding] = []
    for unique_id in sorted(lineage & set(trees)):
        model = Model(models[unique_id], trees[unique_id], workshop.project_dir, known)
        model.check_lineage()
        if unique_id in features:
            model.check_feature(models)
        model.check_spine(models, spine, outcomes)
        if unique_id in features or _bare(model.relation) in used:
            model.check_readers()
        found += model.findings
    return Read(len(lineage), tuple(sorted(set(found))), tuple(unread))


class Model:
    """One model's SQL, and what is found in it."""

    def __init__(
        self, node: Any, tree: exp.Expr, project_dir: Path, known: Collection[str]
    ) -> None:
        """Take a dbt node, its parsed SQL and the names that knowledge times end with."""
        self.findings: list[Finding] = []
        self._node = node
        self._tree = tree
        self._project_dir = project_dir
        self._known = tuple(known)

    def check_lineage(self) -> None:
        """What no model that features are made of should do."""
        for clock in CLOCK_IN_JINJA.finditer(self._node.raw_code):
            self._find("clock", f"{clock[0]} is the time of the build", clock[0])
        for node in self._tree.walk():
            if _is_call(node, CLOCKS) or isinstance(
                node, exp.CurrentTimestamp | exp.CurrentDate | exp.CurrentTime | exp.Localtimestamp
            ):
                call = node.sql("duckdb").lower()
                self._find(
                    "clock",
                    f"{call} is the time of the build, another one for training than for serving",
                    call.split("(")[0],
                    *("current_", "now(", "today("),
                )
            elif isinstance(node, exp.Rand | exp.Uuid) or _is_call(node, CHANCES):
                call = node.sql("duckdb").lower()
                self._find(
                    "chance", f"{call} gives another value in each build", call.split("(")[0]
                )
            elif isinstance(node, exp.TableSample):
                self._find("chance", "a sample has other rows in each build", "sample")
            elif isinstance(node, exp.First | exp.Last | exp.AnyValue) and not node.find(exp.Order):
                if not isinstance(node.parent, exp.Window):
                    self._find(
                        "chance",
                        "takes any of several rows; order them",
                        "any_value(",
                        "first(",
                        "last(",
                    )
            elif isinstance(node, exp.Limit) and not (
                node.parent and node.parent.args.get("order")
            ):
                self._find("chance", "limit without order by keeps any rows", "limit")
            elif isinstance(node, exp.Window) and not isinstance(node.this, exp.Identifier):
                self._check_window(node)
            elif isinstance(node, exp.ArgMax):
                self._check_arg_max(node)

    def check_feature(self, models: Mapping[str, Any]) -> None:
        """What no feature view should do."""
        joined = self._relations(models)
        for select in self._tree.find_all(exp.Select):
            self._check_joins(select, joined)
            self._check_calendar(select)
            self._check_known_at(select)

    def check_spine(self, models: Mapping[str, Any], spine: str, outcomes: Collection[str]) -> None:
        """Features must not be made of what is to be predicted."""
        if self._node.unique_id == spine:
            return
        for unique_id in self._node.depends_on.nodes:
            if unique_id == spine:
                name = models[spine].name
                self._find("label", f"is made of the spine, {name}, which has the labels", name)
            elif unique_id in outcomes:
                name = models[unique_id].name
                self._find("label", f"is made of {name}, where the spine's labels come from", name)

    def check_readers(self) -> None:
        """A file that a model reads by itself is not limited to what was loaded by an instant."""
        for name in READERS:
            if f"{name}(" in self._node.raw_code.lower():
                self._find("unaudited", "reads files itself, past source()", name)

    @property
    def relation(self) -> str:
        """The table it makes."""
        return str(self._node.relation_name)

    # Windows

    def _check_window(self, window: exp.Window) -> None:
        function = window.this
        while isinstance(function, exp.IgnoreNulls | exp.RespectNulls | exp.Filter):
            function = function.this
        named = window
        if window.args.get("alias"):
            named = self._named(window.args["alias"].name) or window
        order, frame = named.args.get("order"), named.args.get("spec")
        partition = named.args.get("partition_by") or []
        keys = [key.this for key in order.expressions] if order else []
        call = f"{function.sql_name().lower()}("
        where = (call, "over")
        if isinstance(function, exp.Lead):
            target = function.this
            if not (keys and target == keys[0] and self._is_known(target)):
                self._find("forward window", "lead() takes a value of a later row", *where)
            return
        if frame is not None and "FOLLOWING" in (
            str(frame.args.get("start_side")).upper(),
            str(frame.args.get("end_side")).upper(),
        ):
            self._find("forward window", "its frame reaches rows that follow", "following", *where)
            return
        if not order and isinstance(function, NEEDS_ORDER):
            self._find("chance", "has no order by, so any row may come first", *where)
            return
        if any(self._has_known(key) for key in partition):
            return  # rows that were known at one instant
        if not order and isinstance(function, exp.AggFunc):
            self._find("forward window", "counts the whole partition, rows known later too", *where)
        elif order and order.expressions[0].args.get("desc") and self._is_time(keys[0]):
            kind = "keeps the latest" if isinstance(function, RANKINGS) else "adds up from the end"
            self._find("forward window", f"{kind}, which a later record changes", *where)

    def _named(self, name: str) -> exp.Window | None:
        for select in self._tree.find_all(exp.Select):
            for window in select.args.get("windows") or []:
                if isinstance(window, exp.Window) and window.this.name.lower() == name.lower():
                    return window
        return None

    def _check_arg_max(self, call: exp.ArgMax) -> None:
        select = call.find_ancestor(exp.Select)
        keys = select.args["group"].expressions if select and select.args.get("group") else []
        if self._is_time(call.expression) and not any(self._has_known(key) for key in keys):
            self._find(
                "forward window",
                "keeps the latest, which a later record changes",
                *("arg_max(", "max_by(", "argmax("),
            )

    # Joins

    def _relations(self, models: Mapping[str, Any]) -> dict[str, str]:
        """CTEs that are nothing but a model, and models by their relation: their model's name."""
        by_relation = {
            _bare(models[name].relation_name): models[name].name
            for name in self._node.depends_on.nodes
            if name in models
        }
        found = dict(by_relation)
        for cte in self._tree.find_all(exp.CTE):
            tables = list(cte.this.find_all(exp.Table))
            if len(tables) == 1 and not cte.this.args.get("group"):
                model = found.get(_bare(tables[0].sql("duckdb", comments=False).split(" AS ")[0]))
                if model:
                    found[cte.alias.lower()] = model
        return found

    def _check_joins(self, select: exp.Select, joined: Mapping[str, str]) -> None:
        used = [
            (column.table.lower(), column.name.lower()) for column in select.find_all(exp.Column)
        ]
        for join in select.args.get("joins") or []:
            if str(join.args.get("method") or join.args.get("kind") or "").upper() in (
                "ASOF",
                "ANTI",
                "CROSS",
            ):
                continue
            table = join.this
            name = _bare(table.name) if isinstance(table, exp.Table) else ""
            full = _bare(table.sql("duckdb", comments=False).split(" AS ")[0])
            model = joined.get(name) or joined.get(full)
            if isinstance(table, exp.Table) and model is None and not self._is_cte(name):
                continue
            alias = (table.alias or table.name).lower()
            if any(owner == alias and self._is_known_name(column) for owner, column in used):
                continue
            self._find(
                "join without time",
                f"joins {model or alias} whatever was known of it: no knowledge time of "
                f"{alias} is looked at",
                f"join {alias}",
                f"as {alias}",
                "join",
            )

    def _is_cte(self, name: str) -> bool:
        return any(cte.alias.lower() == name for cte in self._tree.find_all(exp.CTE))

    # Times

    def _check_calendar(self, select: exp.Select) -> None:
        group = select.args.get("group")
        if group is None:
            return
        keys = group.expressions or [
            part.unalias() for part in select.expressions if not part.find(exp.AggFunc)
        ]
        latest = any(self._has_known(call) for call in select.find_all(exp.Max))
        for key in keys:
            named = [p.unalias() for p in select.expressions if p.alias_or_name == key.name]
            for part in (key, *named):
                if _is_calendar(part) and not latest:
                    self._find(
                        "calendar",
                        "groups by a calendar period, whose end is after most of its rows",
                        *("date_trunc", "::date", "as date", "group by"),
                    )
                    return

    def _check_known_at(self, select: exp.Select) -> None:
        for projection in select.expressions:
            if not isinstance(projection, exp.Alias) or projection.alias.lower() != KNOWN_AT:
                continue
            columns = list(projection.this.find_all(exp.Column))
            if columns and not any(self._is_known_name(column.name) for column in columns):
                source = projection.this.sql("duckdb")
                self._find("known_at", f"known_at is {source}: when was that known?", "as known_at")
            for back in projection.this.find_all(exp.Sub):
                inside = back.find_ancestor(exp.Anonymous, exp.Func)  # rounding up to a grid
                if isinstance(back.expression, exp.Interval) and not inside:
                    self._find("known_at", "known_at is set back in time", "as known_at")

    def _is_time(self, node: exp.Expr) -> bool:
        name = node.name.lower() if isinstance(node, exp.Column) else ""
        return self._is_known(node) or bool(re.search(r"(_at|_ts|_time|_date|^date|^ts)$", name))

    def _is_known(self, node: exp.Expr) -> bool:
        return isinstance(node, exp.Column) and self._is_known_name(node.name)

    def _has_known(self, node: exp.Expr) -> bool:
        return any(self._is_known(column) for column in node.find_all(exp.Column))

    def _is_known_name(self, name: str) -> bool:
        return name.lower().endswith(self._known)

    def _find(self, check: str, message: str, *needles: str) -> None:
        self.findings.append(Finding(self._locate(needles), self._node.name, check, message))

    def _locate(self, needles: Iterable[str]) -> Location:
        """The first line of the model that has one of the needles, the first needle first."""
        path = self._node.original_file_path
        for needle in needles:
            for number, line in enumerate(self._node.raw_code.splitlines(), 1):
                code = line.lower().split("--")[0]
                if re.search(rf"(?<![a-z0-9_]){re.escape(needle.lower())}", code):
                    return Location(path, number)
        return Location(path)


def _label_models(
    tree: exp.Expr | None, labels: Collection[str], models: Mapping[str, Any]
) -> set[str]:
    """The models from which the spine takes its labels and nothing that a prediction needs."""
    if tree is None:
        return set()
    ctes = {}
    for cte in tree.find_all(exp.CTE):
        tables = list(cte.this.find_all(exp.Table))
        if len(tables) == 1:
            ctes[cte.alias.lower()] = _bare(
                tables[0].sql("duckdb", comments=False).split(" AS ")[0]
            )
    wanted = {label.lower() for label in labels}
    taken: dict[str, set[bool]] = {}
    for select in tree.find_all(exp.Select):
        aliases = {
            (table.alias or table.name).lower(): table.name.lower()
            for table in [
                *(node.this for node in [select.args.get("from_")] if node is not None),
                *(join.this for join in select.args.get("joins") or []),
            ]
            if isinstance(table, exp.Table)
        }
        for projection in select.expressions:
            is_label = projection.alias_or_name.lower() in wanted
            for column in projection.find_all(exp.Column):
                source = aliases.get(column.table.lower())
                if source is not None and column.name.lower() not in ("known_at",):
                    taken.setdefault(ctes.get(source, source), set()).add(is_label)
    only = {relation for relation, kinds in taken.items() if kinds == {True}}
    return {name for name, node in models.items() if _bare(node.relation_name) in only}


def _is_calendar(node: exp.Expr) -> bool:
    to_date = any(cast.to.this == exp.DType.DATE for cast in node.find_all(exp.Cast))
    return to_date or node.find(exp.DateTrunc, exp.TimestampTrunc, exp.Date) is not None


def _is_call(node: exp.Expr, names: Collection[str]) -> bool:
    return isinstance(node, exp.Anonymous) and str(node.this).lower() in names


def _bare(relation: str | None) -> str:
    return (relation or "").replace('"', "").lower()
