"""Incremental builds equal full rebuilds, bit for bit, however records arrive."""

import os
import random

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from incremental_lab import Lab

from hindcast import dbt_plugin

EXAMPLES = int(os.environ.get("HINDCAST_INCREMENTAL_EXAMPLES", "2"))
STEPS = 3
START = "2013-01-02T00:00:00Z"
UNTIL = "2013-01-03T03:00:00Z"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    before = os.getcwd()
    made = Lab(tmp_path_factory.mktemp("incremental"))
    os.chdir(made.root)
    lines = made.land(UNTIL)
    made.pool = some_of(made, lines)
    deliver_start(made)
    made.start()
    yield made
    made.stop()
    os.chdir(before)


def some_of(lab, lines):
    """Few enough to be quick: six aircraft and a few routes, with all that was told of them."""
    flights = [(lab.fields("flights", line), line) for line in lines["flights"]]
    told = [field for field, _ in flights if field["record"] == "arrived"]
    tails = sorted({field["tailnum"] for field in told})[:6]
    chosen = {name(field) for field in told if field["tailnum"] in tails}
    chosen |= {name(field) for field, _ in flights if field["record"] == "closed"}
    chosen |= set(sorted({name(field) for field, _ in flights})[:15])
    kept = [line for field, line in flights if name(field) in chosen]
    airports = [line for line in lines["airports"] if line.startswith(("EWR", "JFK", "LGA"))]
    dests = {field["dest"] for field, line in flights if name(field) in chosen}
    airports += [line for line in lines["airports"] if line[:3] in dests and line not in airports]
    planes = [line for line in lines["planes"] if line.split(",")[0] in tails]
    return {
        "flights": kept,
        "weather": [line for line in lines["weather"] if line.startswith(("JFK", "LGA"))],
        "airports": airports,
        "planes": planes,
        "airlines": lines["airlines"],
    }


def name(field):
    return tuple(field[key] for key in ("year", "month", "day", "carrier", "flight", "origin"))


def deliver_start(lab):
    """The small tables, and the feed but for its last day and a quarter."""
    for source in ("airports", "planes", "airlines"):
        lab.write(source, f"{source}_1.csv", lab.pool[source])
    lab.held = lab.pool["airports"][-1]
    lab.write("airports", "airports_1.csv", lab.pool["airports"][:-1])
    lab.files = {}
    for source in ("flights", "weather"):
        first = started(lab.pool[source])
        lab.files[source, "5.csv"] = first
        lab.write(source, "5.csv", first)


def begin(lab, *which, publish=False):
    """From nothing: the start of the feed, and a first run of it."""
    lab.forget()
    deliver_start(lab)
    lab.dbt("run", *which, publish=publish)


def started(lines):
    return [line for line in lines if line.rsplit(",", 1)[1] < START]


class Feed:
    """What may happen to a feed between two runs. Each act changes files, and says what it did."""

    def __init__(self, lab, seed):
        self.lab = lab
        self.dice = random.Random(seed)
        self.left = {
            source: lab.pool[source][len(started(lab.pool[source])) :]
            for source in ("flights", "weather")
        }
        self.files = {key: list(lines) for key, lines in lab.files.items()}

    def acts(self):
        return [
            self.next_hour,
            self.late,
            self.repeated,
            self.corrected,
            self.gone,
            self.spoiled,
            self.moved,
            self.another_airport,
        ]

    def put(self, source, file, lines):
        self.files[source, file] = lines
        self.lab.write(source, file, lines)

    def any_file(self):
        source = self.dice.choice(["flights", "flights", "weather"])
        file = self.dice.choice([name for kind, name in self.files if kind == source])
        return source, file, list(self.files[source, file])

    def a_name(self):
        return f"{self.dice.randrange(1000):03}.csv"  # sorts before or after those there are

    def next_hour(self):
        for source in ("flights", "weather"):
            number = self.dice.randrange(1, 12)
            new, self.left[source] = self.left[source][:number], self.left[source][number:]
            self.put(source, "5.csv", self.files[source, "5.csv"] + new)

    def late(self):
        """Records that should have come long ago, or only tomorrow, in a file of their own."""
        new = self.dice.sample(self.left["flights"], min(6, len(self.left["flights"])))
        self.left["flights"] = [line for line in self.left["flights"] if line not in new]
        self.put("flights", self.a_name(), new)

    def repeated(self):
        """Records delivered twice, some with another value under the same key."""
        source, _, lines = self.any_file()
        again = self.dice.sample(lines, min(4, len(lines)))
        if source == "flights":
            again = [line if self.dice.random() < 0.5 else self.other(line) for line in again]
        self.put(source, self.a_name(), again)

    def corrected(self):
        """A record told once more later, with other values, at the end of its file or in place."""
        source, file, lines = "flights", "5.csv", list(self.files["flights", "5.csv"])
        place = self.dice.randrange(len(lines))
        if self.dice.random() < 0.5:
            lines[place] = self.other(lines[place])
        else:
            fields = self.other(lines[place]).split(",")
            fields[-1] = self.dice.choice(lines).split(",")[-1]
            lines.insert(self.dice.randrange(len(lines)), ",".join(fields))
        self.put(source, file, lines)

    def other(self, line):
        fields = line.split(",")
        header = self.lab.headers["flights"].split(",")
        for column in ("dep_delay", "arr_delay", "distance", "sched_dep_time", "tailnum"):
            at = header.index(column)
            if fields[at] != "NA" and self.dice.random() < 0.5:
                other = self.dice.choice(self.lab.pool["flights"]).split(",")[at]
                fields[at] = other if other != "NA" else fields[at]
        return ",".join(fields)

    def gone(self):
        source, file, lines = self.any_file()
        del lines[self.dice.randrange(len(lines))]
        if lines:
            self.put(source, file, lines)

    def spoiled(self):
        source, _, lines = self.any_file()
        line = self.dice.choice(lines)
        bad = [line[: self.dice.randrange(len(line))], line + ",1", line.replace("2013", "2o13")]
        self.put(source, self.a_name(), bad)

    def moved(self):
        source, file, lines = self.any_file()
        (self.lab.raw / source / file).rename(self.lab.raw / source / (new := self.a_name()))
        del self.files[source, file]
        self.files[source, new] = lines
        if file == "5.csv":
            self.put(source, "5.csv", lines[:1])

    def another_airport(self):
        """Without it, flights to it had no time zone, and were left out however old they are."""
        self.lab.write("airports", "airports_2.csv", [self.lab.held])


PARTS = [
    None,
    None,
    "base_flights",
    "stg_flights+",
    "int_flights int_departures",
    "airport_state",
    "path:models/staging",
    "flight_spine int_outcomes",
]


@settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES <= 2,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 7), min_size=1, max_size=3),
            st.sampled_from(PARTS),
            st.booleans(),
        ),
        min_size=STEPS,
        max_size=STEPS,
    ),
    st.integers(0, 2**32),
)
def test_an_incremental_build_equals_a_full_rebuild_in_any_order_of_arrival(lab, steps, seed):
    begin(lab, publish=True)
    assert lab.differences() == []
    feed = Feed(lab, seed)
    for acts, part, publish in steps:
        done = [feed.acts()[act] for act in acts]
        for act in done:
            act()
        said = f"{[act.__name__ for act in done]}, first a run of {part}"
        if part:  # a run of some models leaves what a killed one leaves
            lab.dbt("run", "--select", *part.split())
            feed.next_hour()
        lab.dbt("run", publish=publish)  # False: as where a data test failed
        assert lab.differences() == [], said
        assert lab.noted() == [], said
        assert not publish or lab.unlike_published() == [], said
    lab.dbt("run", publish=True)
    assert lab.unlike_published() == []


def test_a_build_that_takes_in_nothing_but_bad_lines_publishes_their_number(lab):
    begin(lab, publish=True)
    feed = Feed(lab, 0)
    for act in (feed.spoiled, feed.repeated):
        act()
        lab.dbt("run", publish=True)
        assert (lab.noted(), lab.unlike_published()) == ([], [])


def test_a_full_refresh_gives_what_an_increment_gives_and_increments_go_on_from_it(lab):
    begin(lab, publish=True)
    feed = Feed(lab, 7)
    for act in (feed.next_hour, feed.corrected):
        act()
        lab.dbt("run", "--full-refresh", publish=True)
        assert (lab.differences(), lab.noted(), lab.unlike_published()) == ([], [], [])
    feed.late()
    feed.next_hour()
    lab.dbt("run", publish=True)
    assert (lab.differences(), lab.noted(), lab.unlike_published()) == ([], [], [])


def test_an_airport_delivered_late_brings_back_the_flights_that_waited_for_it(lab):
    begin(lab)
    with lab.connected() as warehouse:
        (before,) = warehouse.execute("select count(*) from training.flight_spine").fetchone()
    Feed(lab, 0).another_airport()
    lab.dbt("run")
    with lab.connected() as warehouse:
        (after,) = warehouse.execute("select count(*) from training.flight_spine").fetchone()
    assert after > before
    assert lab.differences() == []


def test_a_good_record_is_taken_though_an_unreadable_copy_of_it_came_before(lab):
    begin(lab, "--select", "path:models/staging")
    staged = "select count(*) from staging.stg_flights"
    with lab.connected() as warehouse:
        before = warehouse.execute(staged).fetchone()
    fields = lab.files["flights", "5.csv"][0].split(",")
    fields[lab.headers["flights"].split(",").index("distance")] = "7o9"
    lab.write("flights", "000.csv", [",".join(fields)])  # sorts before the file of the good one
    lab.dbt("run", "--select", "path:models/staging")
    with lab.connected() as warehouse:
        assert warehouse.execute(staged).fetchone() == before
        refused = warehouse.execute("select column_name, file_path from staging.quarantine")
        assert [(name, file[-7:]) for name, file in refused.fetchall()] == [("distance", "000.csv")]


def test_a_refused_line_that_says_it_came_far_in_the_future_does_not_move_the_last_loading(lab):
    begin(lab, "--select", "path:models/staging")
    asked = (
        "select first_loaded_at, last_loaded_at, quarantined_count, record_count "
        "from staging.raw_records where source_name = 'flights'"
    )
    with lab.connected() as warehouse:
        *times, refused, read = warehouse.execute(asked).fetchone()
    fields = lab.files["flights", "5.csv"][0].split(",")
    fields[lab.headers["flights"].split(",").index("distance")] = "far"
    fields[-1] = "2931-01-01T00:00:00Z"
    lab.write("flights", "999.csv", [",".join(fields)])
    lab.dbt("run", "--select", "path:models/staging")
    with lab.connected() as warehouse:
        assert warehouse.execute(asked).fetchone() == (*times, refused + 1, read + 1)


def profile_with(lab, setting, value):
    """As if somebody had edited profiles.yml."""
    profile = lab.root / "profiles.yml"
    said = yaml.safe_load(profile.read_text())
    said["hindcast"]["outputs"]["dev"]["settings"][setting] = value
    profile.write_text(yaml.safe_dump(said))


def another_dbt(lab, monkeypatch):
    monkeypatch.setattr(dbt_plugin.metadata, "version", lambda name: f"of {name} another")


def another_duckdb(lab, monkeypatch):
    with lab.connected() as warehouse:
        warehouse.execute("create or replace macro version() as 'v9.9.9'")


def another_time_zone(lab, monkeypatch):
    profile_with(lab, "TimeZone", "America/New_York")


def less_memory(lab, monkeypatch):
    profile_with(lab, "memory_limit", "2GB")


@pytest.mark.parametrize(
    ("change", "rebuilds"),
    [(another_dbt, True), (another_duckdb, True), (another_time_zone, True), (less_memory, False)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_all_is_rebuilt_once_what_runs_the_sql_is_another(lab, monkeypatch, change, rebuilds):
    begin(lab, "--select", "raw_files")
    with lab.connected() as warehouse:
        warehouse.execute("delete from hindcast.pending")  # as a run of every model does
    lab.dbt("run", "--select", "raw_files")
    assert lab.noted() == []
    profile = (lab.root / "profiles.yml").read_text()
    try:
        change(lab, monkeypatch)
        lab.dbt("run", "--select", "raw_files")
    finally:
        (lab.root / "profiles.yml").write_text(profile)
        with lab.connected() as warehouse:
            warehouse.execute("drop macro if exists warehouse.main.version")
    assert [note[::2] for note in lab.noted()] == [("*", "the project changed")] * rebuilds


def test_files_are_checked_anew_when_other_columns_are_declared(lab):
    from dbt.cli.main import dbtRunner

    begin(lab, "--select", "raw_files")
    sources = lab.root / "models" / "staging" / "_sources.yml"
    declared = sources.read_text()
    try:
        sources.write_text(declared.replace("{name: air_time,", "{name: flying_time,"))
        answer = dbtRunner().invoke(["run", "--select", "raw_files", *lab._places()])
    finally:
        sources.write_text(declared)
    assert not answer.success
    said = [result.message for result in answer.result if result.node.name == "raw_files"]
    assert "has column air_time where flying_time was expected" in said[0]
