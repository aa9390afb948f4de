"""Figures of predictions on days drawn anew, for every interval of this project.

Rows of one day share its weather and its queues, so a day is drawn whole, and counts once. Every
function takes `position`, the place of each row's day, and `weights`, how often each resample has
drawn each day: (resamples, days), the first row being the data as it is; it returns the figure
for all resamples at once. Not for intervals: what spread says is up to whoever asks.
"""

import numpy as np


def day_weights(day: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each day is drawn: (1 + resamples, days), first row all ones; and row → day."""
    days, position = np.unique(day, return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(
        len(days), np.full(len(days), 1 / len(days)), size=resamples
    )
    return np.vstack([np.ones((1, len(days))), draws]), position


def day_sums(position: np.ndarray, days: int, *values: np.ndarray) -> np.ndarray:
    """The sum of each value over each day: (days, values)."""
    return np.column_stack([np.bincount(position, v, minlength=days) for v in values])


def pairs_by_day(late: np.ndarray, p: np.ndarray, position: np.ndarray, days: int) -> np.ndarray:
    """Pairs (true row of day i, false row of day j) that p ranks right; ties count half.

    With it the ROC AUC of any weighting w of the days is w'Uw / (late · punctual), so a
    bootstrap never sorts again.
    """
    score, tie = np.unique(p, return_inverse=True)
    right = np.zeros((days, days))
    is_late = late == 1
    for j in range(days):
        punctual = np.bincount(tie[(position == j) & ~is_late], minlength=len(score))
        below = np.cumsum(punctual) - 0.5 * punctual
        right[:, j] = np.bincount(position[is_late], below[tie[is_late]], minlength=days)
    return right


def roc_auc(
    late: np.ndarray, p: np.ndarray, position: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """ROC AUC per resample; NaN where one holds only one class."""
    days = weights.shape[1]
    right = pairs_by_day(late, p, position, days)
    n, n_late = (weights @ day_sums(position, days, np.ones_like(p), late)).T
    with np.errstate(invalid="ignore", divide="ignore"):
        area: np.ndarray = ((weights @ right) * weights).sum(axis=1) / (n_late * (n - n_late))
    return area


def means(position: np.ndarray, weights: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """The mean of each value over flights, per resample."""
    sums = weights @ day_sums(position, weights.shape[1], *values, np.ones(len(position)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return tuple((sums[:, :-1] / sums[:, -1:]).T)


def log_losses(late: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Log loss of each flight."""
    sure = np.clip(p, np.finfo(float).eps, 1 - np.finfo(float).eps)
    loss: np.ndarray = -np.where(late == 1, np.log(sure), np.log1p(-sure))
    return loss


def bins_of_equal_size(p: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each flight: as many flights in each as ties allow."""
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1]))
    placed: np.ndarray = np.searchsorted(edges, p, side="right")
    return placed


def calibration_error(
    late: np.ndarray, p: np.ndarray, position: np.ndarray, weights: np.ndarray, bins: int
) -> np.ndarray:
    """Mean over flights of |late share - mean p| of the flight's bin, per resample."""
    days = weights.shape[1]
    error, total = np.zeros(len(weights)), np.zeros(len(weights))
    place = bins_of_equal_size(p, bins)
    for b in np.unique(place):
        here = place == b
        sums = day_sums(position[here], days, late[here] - p[here], np.ones(here.sum()))
        gap, n = (weights @ sums).T
        error, total = error + np.abs(gap), total + n
    result: np.ndarray = error / total
    return result
