"""Figures as people say them: `47 (42 to 52)` of 100, money, days, and which slices stand out.

Not for computing: every number comes from the evaluation or the explanation.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from training.evaluate import Estimate, Evaluation
from training.slices import Comparison, Slice

SEASONS = ("winter", "spring", "summer", "autumn")
MARKS = {"worse": "▼ ", "better": "▲ ", "": ""}


def interval(estimate: Estimate | None, digits: int = 3) -> str:
    """`0.775 [0.746, 0.795]`, or a dash where there is no figure."""
    if estimate is None or np.isnan(estimate.value):
        return "-"
    value, low, high = (f"{x:,.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return value if low == high == value else f"{value} [{low}, {high}]"


def percent(value: float) -> str:
    """`48 %`, or a dash."""
    return "-" if np.isnan(value) else f"{100 * value:.0f} %"


def thousands(value: float) -> str:
    """`12,345`, or a dash."""
    return "-" if np.isnan(value) else f"{value:,.0f}"


def thousands_of(estimate: Estimate) -> str:
    """A figure without its interval, where that stands beside it already."""
    return thousands(estimate.value)


def span(estimate: Estimate) -> str:
    """`171 (133 to 212)`, with its 95 % interval; a dash where there is no figure."""
    if np.isnan(estimate.value):
        return "-"
    return f"{estimate.value:,.0f} ({estimate.low:,.0f} to {estimate.high:,.0f})"


def of_100(share: Estimate) -> str:
    """A share as so many of 100: `47 (42 to 52)`."""
    return span(Estimate(100 * share.value, 100 * share.low, 100 * share.high))


def small_money(amount: float) -> str:
    """Money that may be far below one: two digits that say something, `0.00069`."""
    digits = 2 if amount == 0 or amount >= 1 else 1 - int(np.floor(np.log10(amount)))
    return f"{amount:,.{min(digits, 12)}f}"


def p_value(p: float) -> str:
    """`0.03`, or `below 0.001`."""
    return "below 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def day(instant: str | pd.Timestamp) -> str:
    """`1 November 2013`."""
    return f"{pd.Timestamp(instant):%d %B %Y}".lstrip("0")


def untested_seasons(instants: pd.Series) -> list[str]:
    """The northern seasons, by months, that no local instant falls into."""
    there = set(instants.dt.month % 12 // 3)
    return [name for i, name in enumerate(SEASONS) if i not in there]


def cell(compared: Mapping[str, Comparison], measure: str, digits: int) -> str:
    """A measure of a slice for a table: `▼ 0.742 [0.712, 0.770]`; shares as so many of 100."""
    if measure not in compared:
        return "-"
    told, scale = compared[measure], 1 if measure == "ranking" else 100
    here = Estimate(*(scale * x for x in (told.here.value, told.here.low, told.here.high)))
    return MARKS[told.verdict] + interval(here, digits)


def headline(judged: Evaluation) -> str:
    """What the model does and how good it is, in words anyone understands."""
    model = next(iter(judged.decisions))
    decision, auc = judged.decisions[model], judged.metrics[model]["roc_auc"]
    return (
        "Two hours before departure this model says how likely a flight from New York is to "
        "arrive 15 minutes or more late. "
        f"On {judged.test_flights:,} flights of {judged.test_days} days it had never seen, "
        f"{round(100 * decision.precision.value)} of 100 flights it flagged were late, against "
        f"{round(100 * judged.late_share)} of 100 of all flights, and it found "
        f"{round(100 * decision.recall.value)} of 100 late ones. Of a late and a punctual flight "
        f"it gives the late one the higher risk {round(100 * auc.value)} times in 100."
    )


def standing_out(
    slices: Mapping[str, Sequence[Slice]], measures: Sequence[str], verdict: str
) -> list[tuple[str, Slice, str, Comparison]]:
    """Grouping, slice, measure and comparison of all with this verdict, the largest gap first."""
    found = [
        (group, each, measure, each.compared[measure])
        for group, rows in slices.items()
        for each in rows
        for measure in measures
        if measure in each.compared and each.compared[measure].verdict == verdict
    ]
    return sorted(found, key=lambda item: -abs(item[3].difference.value))


def sentence(group: str, each: Slice, measure: str, told: Comparison) -> str:
    """What stands out in a slice: `Carrier DL (7,905 flights): …`."""
    here = Estimate(*(100 * x for x in (told.here.value, told.here.low, told.here.high)))
    who = f"{group} {each.name} ({each.n:,} flights, {each.late:,} of them late)"
    elsewhere = round(100 * told.elsewhere)
    if measure == "ranking":
        said = (
            "of a late and a punctual flight it gives the late one the higher risk "
            f"{span(here)} times in 100; elsewhere {elsewhere}"
        )
    elif measure == "bias":
        said = (
            f"it expected {100 * each.mean_p:.0f} of 100 to be late, and "
            f"{100 * each.late_share.value:.0f} were: its probabilities are "
            f"{abs(here.value):.1f} points too {'high' if here.value > 0 else 'low'} "
            f"({here.low:+.1f} to {here.high:+.1f}); elsewhere {100 * told.elsewhere:+.1f}"
        )
    else:
        of = "100 late flights it misses" if measure == "misses" else "100 punctual ones it flags"
        said = (
            f"of {of} {span(here)}; elsewhere {elsewhere}; "
            f"its risks alone make it {100 * each.foretold[measure]:.0f}"
        )
    return f"{who}: {said}."
