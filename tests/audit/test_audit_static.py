"""What the static test warns of, and what it must not."""

# ruff: noqa: E501

from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlglot

from hindcast.audit.static import Model


def checks(sql):
    """The names of the checks that a feature view of this SQL sets off, reading one model `m`."""
    other = SimpleNamespace(name="m", relation_name='"d"."s"."m"')
    node = SimpleNamespace(
        name="view",
        unique_id="view",
        raw_code=sql,
        compiled_code=sql,
        original_file_path="models/features/view.sql",
        relation_name='"d"."s"."view"',
        depends_on=SimpleNamespace(nodes=["m"]),
    )
    model = Model(
        node, sqlglot.parse_one(sql, dialect="duckdb"), Path(), ["known_at", "_loaded_at"]
    )
    model.check_lineage()
    model.check_feature({"m": other})
    model.check_readers()
    return {finding.check: finding.at.line for finding in model.findings}


WARNED = [
    ("clock", "select k, known_at,\nnow() - x as age from d.s.m"),
    ("clock", "select k, known_at from d.s.m\nwhere day < current_date"),
    ("clock", "select k, known_at,\n'{{ run_started_at }}' as built from d.s.m"),
    ("chance", "select k, known_at,\nrandom() as x from d.s.m"),
    ("chance", "select k, known_at,\nany_value(x) as x from d.s.m group by all"),
    ("chance", "select k, known_at from d.s.m\nlimit 10"),
    ("chance", "select k, known_at,\nrow_number() over (partition by k) as n from d.s.m"),
    (
        "forward window",
        "select k, known_at,\nlead(x) over (partition by k order by known_at) from d.s.m",
    ),
    (
        "forward window",
        "select k, known_at, sum(x) over (order by known_at\n"
        "rows between 1 preceding and 1 following) from d.s.m",
    ),
    (
        "forward window",
        "select k, known_at, sum(x) over w from d.s.m window w as (order by known_at\n"
        "rows between current row and unbounded following)",
    ),
    ("forward window", "select k, known_at,\navg(x) over (partition by k) from d.s.m"),
    ("forward window", "select k, known_at,\nsum(x) over (order by known_at desc) from d.s.m"),
    (
        "forward window",
        "select k, known_at from d.s.m\n"
        "qualify row_number() over (partition by k order by _loaded_at desc) = 1",
    ),
    (
        "forward window",
        "select k, min(known_at) as known_at,\narg_max(x, known_at) from d.s.m group by k",
    ),
    (
        "join without time",
        "select a.k, a.known_at, b.x from d.s.m as a\njoin d.s.m as b on a.k = b.k",
    ),
    (
        "calendar",
        "select k, sum(x) as x,\ndate_trunc('day', known_at) as known_at from d.s.m group by all",
    ),
    ("known_at", "select k,\nevent_at as known_at from d.s.m"),
    ("known_at", "select k,\nknown_at - interval 1 hour as known_at from d.s.m"),
    ("unaudited", "select k, known_at from\nread_csv('x.csv')"),
]

FINE = [
    "select k, known_at, lead(known_at) over (partition by k order by known_at) as until from d.s.m",
    "select k, known_at, sum(x) over (partition by k order by known_at) as x from d.s.m",
    "select k, known_at, sum(x) over w from d.s.m "
    "window w as (partition by k order by t range between interval 3 hours preceding and current row)",
    "select k, known_at from d.s.m "
    "qualify row_number() over (partition by k order by _loaded_at) = 1",
    "select k, known_at from d.s.m "
    "qualify row_number() over (partition by k, known_at order by left_at desc) = 1",
    "select k, arg_min(x, _loaded_at) as x, min(_loaded_at) as known_at from d.s.m group by k",
    "select a.k, greatest(a.known_at, b.known_at) as known_at from d.s.m as a "
    "join d.s.m as b on a.k = b.k",
    "select a.k, a.known_at, b.x from d.s.m as a "
    "asof left join d.s.m as b on a.k = b.k and a.known_at >= b.known_at",
    "select k, date_trunc('day', event_at) as day, max(known_at) as known_at from d.s.m group by all",
    "select k, time_bucket(interval 15 minutes, known_at + interval 15 minutes "
    "- interval 1 microsecond) as known_at, sum(x) as x from d.s.m group by all",
    "select k, known_at, first(x order by known_at) as x from d.s.m group by all",
    "select k, known_at from d.s.m order by known_at limit 10",
]


@pytest.mark.parametrize(("check", "sql"), WARNED)
def test_what_could_let_the_future_in_is_named_with_its_line(check, sql):
    lines = sql.split("\n")
    found = checks(sql)
    assert check in found
    assert found[check] == len(lines)


@pytest.mark.parametrize("sql", FINE)
def test_what_looks_back_only_is_not_warned_of(sql):
    assert checks(sql) == {}
