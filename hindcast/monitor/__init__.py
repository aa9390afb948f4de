"""`hindcast monitor`: does what the model sees and says still look as when it was trained?

Feast computes and keeps statistics of features; here they are given a verdict, and so are the
model's scores and, as outcomes arrive, its performance. A difference counts when it is both large
enough to matter (thresholds in YAML) and larger than chance makes it (resampled days). Not for
correctness of single values: that is `hindcast audit` and `hindcast parity`.
"""

from hindcast.monitor.checks import Check, Verdict
from hindcast.monitor.history import Latest, latest

__all__ = ["Check", "Latest", "Verdict", "latest"]
