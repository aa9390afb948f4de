"""From where on a check warns and fails: defaults, and what stands in YAML beside the feature.

`meta: {monitor: {psi: [0.5, 1.0]}}` of a feature view's model holds for its features, of a column
for that one, and of the spine's columns for the keys. An exposure's `meta: monitor` holds for the
model's own checks, and under `features:` for on-demand views and their features, which have no
model in dbt. `off` switches a check off, `null` one of its two limits.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hindcast.config import Limits, Monitor
from hindcast.dbt import Declared, declared
from hindcast.errors import DefinitionError

DEFAULTS: dict[str, Limits] = {
    "psi": (0.2, 0.5),
    "ks": (0.15, 0.3),
    "js": (0.1, 0.2),
    "nulls": (0.05, 0.2),
    "range": (0.01, 0.1),
    "unseen": (0.01, 0.1),
    "volume": (0.3, 0.7),
    "freshness": (0.5, 1.0),
    "roc_auc": (0.02, 0.05),
    "log_loss": (0.03, 0.08),
    "calibration": (0.03, 0.08),
    "cost": (0.05, 0.15),
}
"""What each check's value is: `drift`, `performance` and `freshness` tell. The later ones are
losses against the model's first days; calibration is the gap itself."""

OFF: Limits = (None, None)


@dataclass(frozen=True)
class Thresholds:
    """The limits of every check of a project."""

    defaults: Mapping[str, Limits]
    declared: Mapping[str, Mapping[str, Limits]]
    """By view, `view.feature`, or name of the model."""

    @classmethod
    def of(cls, project_dir: Path, config: Monitor, manifest: Path | None = None) -> Thresholds:
        """Read what the project declares.

        Raises:
            DefinitionError: every threshold that cannot be read, with file and line.
        """
        faults: list[str] = []
        defaults = dict(DEFAULTS)
        for name, value in config.thresholds.items():
            defaults |= _read(f"hindcast.yml: monitor.thresholds.{name}", name, value, faults)
        found: dict[str, dict[str, Limits]] = {}
        for one in declared(project_dir, "monitor", manifest):
            for subject, limits in _subjects(one, faults).items():
                found.setdefault(subject, {}).update(limits)
        if faults:
            raise DefinitionError(faults)
        return cls(defaults, found)

    def __call__(self, subject: str, name: str) -> Limits:
        """The limits of a check of `view.feature`, of a view, or of the model."""
        for place in (subject, subject.partition(".")[0]):
            limits = self.declared.get(place, {}).get(name)
            if limits is not None:
                return limits
        return self.defaults[name]


def _subjects(one: Declared, faults: list[str]) -> dict[str, dict[str, Limits]]:
    """What one place in the YAML says, by subject."""
    if not isinstance(one.value, dict):
        faults.append(
            f"{one.at}: meta.monitor of {one.name} is {one.value!r}; expected checks and their "
            "limits, such as {psi: [0.2, 0.5], nulls: off}"
        )
        return {}
    own = dict(one.value)
    below: Any = own.pop("features", {}) if one.kind == "exposures" else {}
    subject = f"{one.name}.{one.column}" if one.column else one.name
    found = {subject: _limits(one, own, faults)}
    if not isinstance(below, dict) or not all(isinstance(it, dict) for it in below.values()):
        faults.append(
            f"{one.at}: meta.monitor.features of {one.name} is {below!r}; expected on-demand "
            "views or `view.feature`, each with checks and their limits"
        )
        return found
    return found | {str(name): _limits(one, limits, faults) for name, limits in below.items()}


def _limits(one: Declared, said: Mapping[str, Any], faults: list[str]) -> dict[str, Limits]:
    found: dict[str, Limits] = {}
    for name, value in said.items():
        found |= _read(f"{one.at}: monitor.{name} of {one.name}", str(name), value, faults)
    return found


def _read(what: str, name: str, value: Any, faults: list[str]) -> dict[str, Limits]:
    """One check's limits; a fault is noted and gives none."""
    if name not in DEFAULTS:
        near = difflib.get_close_matches(name, DEFAULTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        faults.append(f"{what}: no such check; there are {', '.join(DEFAULTS)}{hint}")
        return {}
    if value == "off" or value is False:  # YAML 1.1 reads a bare off as false
        return {name: OFF}
    pair = value if isinstance(value, list | tuple) else ()
    numbers = [it for it in pair if it is not None]
    is_pair = len(pair) == 2 and all(
        isinstance(it, int | float) and not isinstance(it, bool) and it > 0 for it in numbers
    )
    if not is_pair or sorted(numbers) != numbers:
        faults.append(
            f"{what} is {value!r}; expected [warn from, fail from], two rising numbers above 0, "
            "null for never, or off"
        )
        return {}
    return {name: (pair[0], pair[1])}
