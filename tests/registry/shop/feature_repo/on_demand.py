"""A feature that needs a view and the request."""

from pathlib import Path

import pandas as pd
from feast import Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64

from hindcast.registry import load

repo = load(Path(__file__).parent.parent)


@on_demand_feature_view(
    sources=[
        repo.views["store_sales"],
        RequestSource(name="offer", schema=[Field(name="price", dtype=Float64)]),
    ],
    schema=[Field(name="price_gap", dtype=Float64)],
)
def price_gap(inputs: pd.DataFrame) -> pd.DataFrame:
    """What is asked now against what was paid lately."""
    return pd.DataFrame({"price_gap": inputs["price"] - inputs["mean_price"]})


ON_DEMAND = {"price_gap": price_gap}
