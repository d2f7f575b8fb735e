"""The desk: a PyTorch module, or an existing ONNX file, becomes a bundle.

`export` and `ExportSpec` need PyTorch; `import_onnx` does not, and neither does importing this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.exporters.assembly import Exported
    from trimtab.exporters.aware_norm import instance_aware
    from trimtab.exporters.from_onnx import import_onnx
    from trimtab.exporters.from_torch import ExportSpec, export
    from trimtab.exporters.steps.export import MethodChoice

__all__ = ["ExportSpec", "Exported", "MethodChoice", "export", "import_onnx", "instance_aware"]

_HOMES = {
    "ExportSpec": "from_torch",
    "Exported": "assembly",
    "MethodChoice": "steps.export",
    "export": "from_torch",
    "import_onnx": "from_onnx",
    "instance_aware": "aware_norm",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
