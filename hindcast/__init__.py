"""Hindcast: point-in-time-correct features from one definition, with proof.

The library that a dbt project, a Feast repository and a training module share. It knows
nothing about any one subject: no word about flights belongs in here.
"""

import os

# Feast may import MLflow wherever a store is opened; it is to tell nobody of it
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
