"""Everything Feast registers: read from dbt, plus the on-demand views beside this file.

Feast collects what stands at the top level of a module, so the objects are put there by name.
Nothing is described here; to change a feature, change its model in `models/features/`.
"""

from pathlib import Path

from on_demand import ON_DEMAND_VIEWS

from hindcast.registry import load

globals().update(load(Path(__file__).parent.parent).objects(on_demand=ON_DEMAND_VIEWS))
