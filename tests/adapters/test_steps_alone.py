"""What running step graphs takes."""

from __future__ import annotations

import subprocess
import sys


def test_step_graphs_alone_need_no_scipy() -> None:
    """Which takes 20 MiB."""
    script = (
        "import sys, trimtab.adapters\n"
        "trimtab.adapters.load, trimtab.adapters.load_streams\n"
        "assert 'scipy' not in sys.modules and 'onnx' not in sys.modules\n"
        "trimtab.adapters.guarded"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
