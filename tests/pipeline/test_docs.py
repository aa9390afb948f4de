"""What README and docs tell people to type works, and what they point to is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
import typer

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def blocks(language):
    """(page, text) of every code block in a language."""
    found = []
    for page in PAGES:
        text = page.read_text()
        found += [
            pytest.param(block, id=f"{page.name}-{number}")
            for number, block in enumerate(re.findall(rf"```{language}\n(.*?)```", text, re.S))
        ]
    return found


COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        for block in blocks("bash")
        for line in block.values[0].splitlines()
        if line.split("#")[0].strip()
    }
)


def command_line(program):
    if program == "hindcast":
        from hindcast.cli import app

        return typer.main.get_command(app)
    if program == "feast":
        from feast.cli.cli import cli

        return cli
    from dbt.cli.main import cli as dbt

    return dbt


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_the_docs_is_one_that_its_program_knows(command):
    words = [word for word in command.split() if not re.match("[A-Z_]+=", word)]
    if words[0] == "make":
        done = subprocess.run(
            ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    elif words[:2] == ["python", "-m"]:
        done = subprocess.run(
            [sys.executable, "-m", words[2], "--help"],
            cwd=ROOT,
            env=os.environ | {"COLUMNS": "300", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert all(word in done.stdout for word in words if word.startswith("--"))
    elif words[0] in ("hindcast", "feast", "dbt"):
        known, context = command_line(words[0]), None
        for word in words[3:] if words[1] == "-c" else words[1:]:
            if word.startswith("-"):
                continue
            if hasattr(known, "get_command"):
                context = known.context_class(known, parent=context)
                known = known.get_command(context, word)
                assert known is not None, f"{words[0]} has no command {word}"
        options = {name for parameter in known.params for name in parameter.opts}
        options |= {n for p in command_line(words[0]).params for n in p.opts}
        assert {word for word in words if word.startswith("-")} <= options
    elif words[0] == "pytest":
        assert all((ROOT / word).exists() for word in words[1:] if not word.startswith("-"))
    elif words[0] == "dagster":
        from dagster._cli import create_dagster_cli

        assert words[1] in create_dagster_cli().commands
    else:
        assert words[0] in ("export", "git", "source", "pip", "cd"), (
            f"nothing here can check {command!r}"
        )


@pytest.mark.parametrize("code", blocks("python"))
def test_python_in_the_docs_runs(project, code, monkeypatch, capsys):
    monkeypatch.chdir(project.root)
    exec(compile(code, "docs", "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("query", blocks("sql"))
def test_sql_in_the_docs_runs(project, query, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dirty.csv").write_text("a\n1\nx\n")  # of docs/decisions/duckdb-version.md
    with duckdb.connect(project.root / "data" / "warehouse.duckdb", read_only=True) as con:
        assert con.sql(query).fetchone() is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page):
    named = re.findall(
        r"`((?:tests|hindcast|macros|models|benchmarks|feature_repo)/[\w./]*)`", page.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []
