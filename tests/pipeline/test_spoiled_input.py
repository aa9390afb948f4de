"""A bad raw file stops the build with one clear line; a bad row goes to quarantine with a reason.

Either way nothing that readers use has changed: the snapshot that was published before stays,
or a new one is published without the bad rows.
"""

import shutil

import duckdb
import pytest

FLIGHTS = "flights_2013-01-02.csv"


@pytest.fixture(scope="module", autouse=True)
def raw(project):
    """The raw files, to spoil: put back as they were afterwards."""
    kept = project.raw.with_name("raw.kept")
    shutil.copytree(project.raw, kept)
    yield project.raw
    shutil.rmtree(project.raw)
    kept.rename(project.raw)


def wrong_delimiter(file):
    file.write_text(file.read_text().replace(",", ";"))


def missing_column(file):
    lines = [line.split(",") for line in file.read_text().splitlines()]
    file.write_text("".join(",".join(line[:6] + line[7:]) + "\n" for line in lines))


def renamed_column(file):
    file.write_text(file.read_text().replace("arr_delay", "arrival_delay", 1))


def reordered_columns(file):
    file.write_text(file.read_text().replace("year,month", "month,year", 1))


def empty(file):
    file.write_text("")


def other_encoding(file):
    file.write_bytes(file.read_text().encode("utf-16"))


def one_latin_1_letter(file):
    file.write_bytes(file.read_bytes() + "2013,1,2,NA,Montréal\n".encode("latin-1"))


FAULTS = [
    (wrong_delimiter, "has no comma in its header, expected 21 columns"),
    (missing_column, "lacks column arr_time."),
    (renamed_column, "has column arrival_delay where arr_delay was expected (renamed?)."),
    (reordered_columns, "has its columns in another order"),
    (empty, "is empty; expected a header line with 21 columns."),
    (other_encoding, "is not plain UTF-8 text"),
    (one_latin_1_letter, "is not plain UTF-8 text"),
]


@pytest.fixture(scope="module")
def refused(project, raw):
    """What `dbt build` says of files of the wrong shape, one fault in each of seven, and of a
    source without files; then the files are put back."""
    online = project.root / "data" / "online" / "data.mdb"
    before = project.snapshot_id(), online.read_bytes()
    files = sorted((raw / "flights").iterdir())[: len(FAULTS)]
    kept = {file: file.read_bytes() for file in files}
    weather = {file: file.read_bytes() for file in (raw / "weather").iterdir()}
    for (spoil, _), file in zip(FAULTS, files, strict=True):
        spoil(file)
    for file in weather:
        file.unlink()
    done = project.run("dbt build")
    for file, content in (kept | weather).items():
        file.write_bytes(content)
    names = {spoil: file.name for (spoil, _), file in zip(FAULTS, files, strict=True)}
    return done, names, before, (project.snapshot_id(), online.read_bytes())


def test_files_of_the_wrong_shape_stop_the_build_and_leave_what_readers_use(refused):
    done, _, before, after = refused
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert before == after


@pytest.mark.parametrize(("spoil", "said"), FAULTS, ids=lambda x: getattr(x, "__name__", ""))
def test_each_fault_is_one_line_naming_the_file(refused, spoil, said):
    done, names, *_ = refused
    lines = [line for line in done.stdout.splitlines() if names[spoil] in line]
    assert lines
    assert all(said in line for line in lines)


def test_a_source_without_files_names_the_command_that_makes_them(refused):
    done, *_ = refused
    assert "weather/*.csv matches no file; run `python -m landing` first." in done.stdout


@pytest.fixture(scope="module")
def quarantine(project, raw, refused):
    """What quarantine holds after a build over rows spoiled in seven ways, and the last line."""
    file = raw / "flights" / FLIGHTS
    lines = file.read_text().splitlines()
    header = lines[0].split(",")

    def change(number: int, column: str, text: str) -> None:
        fields = lines[number - 1].split(",")
        fields[header.index(column)] = text
        lines[number - 1] = ",".join(fields)

    change(11, "distance", "far")
    change(12, "sched_dep_time", "1275")
    change(13, "day", "32")
    change(14, "record", "landed")
    change(15, "carrier", "NA")
    lines[15] = lines[15][: len(lines[15]) // 2]  # a line cut off in the middle
    lines[-1] = lines[-1][:-25]  # and a file cut off in its last line
    file.write_text("\n".join(lines))
    weather = raw / "weather" / "weather_2013-01-02.csv"
    shutil.copy(weather, weather.with_name("weather_2013-01-02_again.csv"))
    project.must("dbt build")
    with duckdb.connect(project.root / "data" / "warehouse.duckdb", read_only=True) as con:
        frame = con.sql("select * from staging.quarantine").df()
    return frame.assign(file=frame["file_path"].str.split("/").str[-1]), len(lines)


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        (11, "distance", 'found "far", expected a whole number'),
        (12, "sched_dep_time", 'found "1275", expected a clock time hhmm from 0 to 2400'),
        (13, "day", "found 32, expected at most 31"),
        (14, "record", 'found "landed", expected one of scheduled, assigned'),
        (15, "carrier", "is missing, and must not be"),
        (16, None, "fields, expected 21 (line cut off?)"),
    ],
)
def test_a_bad_row_is_quarantined_with_file_line_column_and_reason(
    quarantine, line, column, reason
):
    frame, _ = quarantine
    row = frame[(frame["file"] == FLIGHTS) & (frame["line_number"] == line)]
    assert len(row) == 1
    assert reason in row["reason"].item()
    found = row["column_name"].item()
    assert (found if isinstance(found, str) else None) == column


def test_a_file_cut_off_in_its_last_line_loses_only_that_line(quarantine):
    frame, last = quarantine
    row = frame[(frame["file"] == FLIGHTS) & (frame["line_number"] == last)]
    assert "line cut off?" in row["reason"].item() or row["column_name"].item() == "_loaded_at"
    assert (frame["file"] == FLIGHTS).sum() == 7


def test_a_file_delivered_twice_counts_once(quarantine):
    frame, _ = quarantine
    again = frame[frame["file"] == "weather_2013-01-02_again.csv"]
    assert len(again) > 60
    assert again["reason"].str.contains("repeats the record of").all()
    assert again["reason"].str.contains("weather_2013-01-02.csv:").all()
