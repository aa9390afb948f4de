"""The `hindcast` command: one verb per capability, each in a module of its own.

The order here is the order of `hindcast --help`.
"""

from hindcast.cli import run  # isort: skip
from hindcast.cli import status  # isort: skip
from hindcast.cli import ui  # isort: skip
from hindcast.cli import doctor  # isort: skip
from hindcast.cli import parity  # isort: skip
from hindcast.cli import audit  # isort: skip
from hindcast.cli import replay  # isort: skip
from hindcast.cli import retrain  # isort: skip
from hindcast.cli import monitor  # isort: skip
from hindcast.cli.app import app

__all__ = [
    "app",
    "audit",
    "doctor",
    "monitor",
    "parity",
    "replay",
    "retrain",
    "run",
    "status",
    "ui",
]
