"""Training: from a Feast feature service to a model one can read about, trust and rerun.

Read in this order: `settings`, `dataset`, `model`, `evaluate`, `report`, `__main__`; then
`score` (today's flights, from the online store) and `leaks` (what cheating would have shown).
It asks Feast for everything and never opens a DuckDB or Parquet file of the store itself.
"""

import os

# Threads of the trees that wait for each other would spin, and starve whatever else runs on the
# machine. OpenMP reads this when scikit-learn is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
