"""Everything Feast registers, read from dbt."""

from pathlib import Path

from hindcast.registry import load

globals().update(load(Path(__file__).parent.parent).objects())
