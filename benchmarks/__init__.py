"""Measurements; see CONTRIBUTING."""

import os

# As the command line does, before NumPy is imported: see `trimtab.runtime.cli.main`.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
