"""The daily loop in Dagster: optional (the extra `dagster`), and never imported by the rest."""
