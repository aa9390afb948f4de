"""Slices: each figure by a direct count, planted differences found, chance not called one."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from hindcast.resample import day_weights
from training import slices

GROUP = "Carrier"
N, DAYS = 3000, 40


def flights(seed: int) -> tuple[pd.Series, np.ndarray, np.ndarray, np.ndarray]:
    """Carrier, late, p and day: probabilities are right, alike for all, and move with the day."""
    draw = np.random.default_rng(seed)
    day = np.repeat(np.arange(DAYS), N // DAYS)
    weather = draw.normal(0, 0.7, DAYS)[day]
    p = 1 / (1 + np.exp(1 - weather - draw.normal(0, 1.2, N)))
    late = (draw.random(N) < p).astype(float)
    return pd.Series(draw.choice(["AA", "B6", "DL", "EV", "UA"], N)), late, p, day


def judged(
    carrier: pd.Series, late: np.ndarray, p: np.ndarray, day: np.ndarray, resamples: int = 100
) -> list[slices.Slice]:
    weights, position = day_weights(day, resamples, seed=1)
    return slices.slices({GROUP: carrier}, late, p, 0.4, position, weights, 100, 0.05)[GROUP]


def named(rows: list[slices.Slice], verdict: str) -> dict[str, list[str]]:
    found = {
        each.name: [m for m, c in each.compared.items() if c.verdict == verdict] for each in rows
    }
    return {name: measures for name, measures in found.items() if measures}


def test_every_figure_of_a_slice_is_what_a_direct_count_gives() -> None:
    carrier, late, p, day = flights(0)
    for each in judged(carrier, late, p, day):
        here = (carrier == each.name).to_numpy()
        there = ~here
        flag = p >= 0.4
        assert each.n == here.sum()
        assert each.late == late[here].sum()
        assert each.mean_p == pytest.approx(p[here].mean())
        assert each.precision.value == pytest.approx(late[here & flag].mean())
        direct = {
            "ranking": [roc_auc_score(late[of], p[of]) for of in (here, there)],
            "bias": [p[of].mean() - late[of].mean() for of in (here, there)],
            "misses": [(~flag[of & (late == 1)]).mean() for of in (here, there)],
            "false_alarms": [flag[of & (late == 0)].mean() for of in (here, there)],
        }
        assert set(each.compared) == set(direct)
        for measure, (mine, others) in direct.items():
            told = each.compared[measure]
            assert told.here.value == pytest.approx(mine)
            assert told.elsewhere == pytest.approx(others)
            assert told.difference.value == pytest.approx(mine - others)
            assert told.here.low < told.here.value < told.here.high
        missed = p[here] * ~flag[here]
        assert each.foretold["misses"] == pytest.approx(missed.sum() / p[here].sum())


def test_a_difference_is_judged_by_what_it_is_without_each_day() -> None:
    carrier, late, p, day = flights(1)
    told = next(e for e in judged(carrier, late, p, day, 300) if e.name == "DL")
    here, flag = (carrier == "DL").to_numpy(), p >= 0.4

    def gap(of_day: np.ndarray) -> float:
        """Misses of DL less those of the others, with a weight for each day."""
        w = of_day[day]
        mine, others = (
            np.average(~flag[of], weights=w[of]) for of in (here & (late == 1), ~here & (late == 1))
        )
        return float(mine - others)

    comparison = told.compared["misses"]
    whole = gap(np.ones(DAYS))
    without = np.array([gap(1.0 * (np.arange(DAYS) != d)) for d in range(DAYS)])
    t = abs(whole) / np.sqrt((DAYS - 1) / DAYS * ((without - whole) ** 2).sum())
    assert comparison.p == pytest.approx(2 * stats.t.sf(t, DAYS - 1))
    weights, _ = day_weights(day, 300, seed=1)
    low = np.percentile([gap(row) for row in weights[1:]], 2.5)
    assert comparison.difference.low == pytest.approx(low)


def test_a_slice_whose_ranking_is_noise_is_named_and_no_other_is_named_worse() -> None:
    carrier, late, p, day = flights(2)
    here = np.flatnonzero(carrier == "EV")
    spoiled = p.copy()
    spoiled[here] = np.random.default_rng(0).permutation(p[here])
    worse = named(judged(carrier, late, spoiled, day), "worse")
    assert "ranking" in worse["EV"]
    assert not any("ranking" in measures for name, measures in worse.items() if name != "EV")


def test_a_slice_whose_probabilities_are_too_low_is_named_for_it() -> None:
    carrier, late, p, day = flights(3)
    low = np.where(carrier == "AA", 0.6 * p, p)
    worse = named(judged(carrier, late, low, day), "worse")
    assert {"bias", "misses"} <= set(worse["AA"])
    assert not any("bias" in measures for name, measures in worse.items() if name != "AA")


def test_a_difference_that_no_day_varies_is_not_called_one_by_that_alone() -> None:
    """Every day the same flights: a jackknife over days has nothing to tell chance by."""
    of_day = [("AA", 0.6, 1), ("AA", 0.6, 0), ("AA", 0.1, 1), ("AA", 0.2, 0)]
    of_day += [("UA", 0.7, 1), ("UA", 0.7, 1), ("UA", 0.6, 0), ("UA", 0.1, 0), ("UA", 0.3, 1)]
    flown = pd.DataFrame(of_day * DAYS, columns=["carrier", "p", "late"])
    day = np.repeat(np.arange(DAYS), len(of_day))
    late, p = flown["late"].to_numpy(float), flown["p"].to_numpy()
    rows = judged(flown["carrier"], late, p, day)
    told = [c for each in rows for c in each.compared.values()]
    assert len(told) == 8
    assert any(abs(c.difference.value) > 0.1 for c in told)
    assert [c.p for c in told] == [1.0] * len(told)
    assert named(rows, "worse") == named(rows, "better") == {}
    tests = slices.group_tests(
        {GROUP: flown["carrier"]}, {GROUP: rows}, late, 1.0 * (p >= 0.4), day
    )
    assert [test.p for test in tests] == [1.0] * len(tests) and tests

    # one day that is not like the others, and there is something to tell by
    late[0] = 0
    told = {e.name: e.compared["bias"].p for e in judged(flown["carrier"], late, p, day)}
    assert 0 < told["AA"] < 1


def test_equal_slices_are_seldom_told_apart() -> None:
    """With everything equal, at most about 5 of 100 cards may name anything."""
    cards = [judged(*flights(seed), resamples=60) for seed in range(100, 140)]
    naming = sum(bool(named(rows, "worse") or named(rows, "better")) for rows in cards)
    assert naming <= 5, f"{naming} of {len(cards)} cards name a slice"


def test_the_family_of_comparisons_is_corrected_as_a_whole() -> None:
    rows = judged(*flights(4))
    told = [c for each in rows for c in each.compared.values()]
    expected = stats.false_discovery_control([c.p for c in told])
    np.testing.assert_allclose([c.p_adjusted for c in told], expected)


def test_too_few_flights_or_days_or_errors_are_counted_and_not_compared() -> None:
    carrier, late, p, day = flights(5)
    carrier.iloc[:60] = "HA"  # fewer than the least number of flights
    carrier[day < slices.LEAST_DAYS - 1] = "YV"  # enough flights, on too few days
    p = np.where(carrier == "B6", np.minimum(p, 0.39), p)  # never flagged
    rows = {each.name: each for each in judged(carrier, late, p, day)}
    assert rows["YV"].n > 100
    assert not rows["YV"].compared
    assert set(rows["B6"].compared) == {"ranking", "bias"}
    few = judged(pd.Series(np.where(np.arange(N) < 60, "HA", "all")), late, p, day)
    assert [each.name for each in few if each.compared] == []


def test_the_test_for_differences_of_two_slices_is_the_comparison_of_the_two() -> None:
    carrier, late, p, day = flights(6)
    two = pd.Series(np.where(carrier < "C", "one", "two"))
    rows = judged(two, late, p, day)
    tested = slices.group_tests({GROUP: two}, {GROUP: rows}, late, 1.0 * (p >= 0.4), day)
    assert [test.measure for test in tested] == ["misses", "false_alarms"]
    for test in tested:
        told = rows[0].compared[test.measure]
        assert test.gap == pytest.approx(abs(told.difference.value))
        assert test.p == pytest.approx(told.p)


def test_the_test_for_differences_finds_a_planted_one_and_seldom_one_by_chance() -> None:
    by_chance = []
    for seed in range(200, 240):
        carrier, late, p, day = flights(seed)
        rows = {GROUP: judged(carrier, late, p, day, resamples=2)}
        tested = slices.group_tests({GROUP: carrier}, rows, late, 1.0 * (p >= 0.4), day)
        by_chance += [test.p for test in tested]
    assert len(by_chance) == 80
    assert np.mean(np.array(by_chance) < 0.05) < 0.12
    flag = 1.0 * (np.where(carrier == "UA", 0.6 * p, p) >= 0.4)
    planted = slices.group_tests({GROUP: carrier}, rows, late, flag, day)
    assert all(test.p_adjusted < 0.001 for test in planted)
    assert {(test.measure, test.highest) for test in planted} >= {("misses", "UA")}


def test_destinations_are_large_medium_or_small_by_their_flights() -> None:
    flights_to = pd.Series({"ATL": 50, "BOS": 30, "CLT": 10, "DCA": 8, "EYW": 2})
    sizes = slices.destination_sizes(pd.Series(["ATL", "BOS", "DCA", "EYW", "new"]), flights_to)
    assert [size.split(",")[0] for size in sizes] == ["large", "medium", "small", "small", "small"]
    assert list(sizes.cat.categories) == [
        "large, 1 airport",
        "medium, 2 airports",
        "small, 2 airports",
    ]


def test_slices_follow_the_local_clock() -> None:
    frame = pd.DataFrame(
        {
            "origin": ["JFK"],
            "carrier": ["B6"],
            "dest": ["LAX"],
            "distance_mi": [500.0],
            "sched_dep_at": pd.to_datetime(["2013-12-01T04:30Z"]),
        }
    )
    groups = slices.slice_groups(frame, pd.Series({"LAX": 1}), "America/New_York")
    found = {name: values.iloc[0] for name, values in groups.items()}
    assert found["Hour of departure"] == "23:00"
    assert found["Month"] == "2013-11"
    assert found["Distance"] == "500-999 mi"
    assert found["Destination"].startswith("large")
