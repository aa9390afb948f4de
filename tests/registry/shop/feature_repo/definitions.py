"""Everything Feast registers, read from dbt."""

from pathlib import Path

from on_demand import ON_DEMAND

from hindcast.registry import load

globals().update(load(Path(__file__).parent.parent).objects(on_demand=ON_DEMAND))
