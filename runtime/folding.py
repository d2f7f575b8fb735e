"""Patch a parameter vector into a graph, so that the provider folds it as it would fold any constant.

The values are written into the graph itself, never handed over with `SessionOptions.add_initializer`: ONNX Runtime
fuses Conv and BatchNormalization from the values in the file and leaves such an override out, without a warning.
"""

from __future__ import annotations

import threading

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from trimtab.adapters.parameters import Parameter, ParameterLayout
from trimtab.runtime.errors import BundleError


class Template:
    """A parsed graph whose parameters can be replaced again and again.

    `name` (a file, say) begins the sentences of BundleError, which is raised where `graph` is no ONNX model or
    where a part of the layout is no float32 initializer of its size in it.
    """

    def __init__(self, graph: bytes, layout: ParameterLayout, name: str) -> None:
        try:
            self._model = onnx.load_model_from_string(graph)
        except DecodeError as error:
            raise BundleError(f"{name}: is not an ONNX model; export the bundle again") from error
        found = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._targets: list[tuple[Parameter, onnx.TensorProto]] = []
        for parameter in layout:
            tensor = found.get(parameter.name)
            if tensor is None:
                raise BundleError(f"{name}: there is no initializer {parameter.name}; export the bundle again")
            if tensor.data_type != onnx.TensorProto.FLOAT or int(np.prod(tensor.dims)) != parameter.size:
                raise BundleError(
                    f"{name}: initializer {parameter.name} is not float32 of size {parameter.size}; "
                    "export the bundle again"
                )
            self._targets.append((parameter, tensor))
        self._size = layout.size
        self._lock = threading.Lock()

    def patched(self, theta: NDArray[np.float32]) -> bytes:
        """The graph with `theta [P]` in its initializers, serialised. Equal vectors give equal bytes.

        Raises ValueError where `theta` has another shape.
        """
        if theta.shape != (self._size,):
            raise ValueError(f"theta has shape {theta.shape}, expected ({self._size},)")
        little = np.ascontiguousarray(theta, "<f4")
        with self._lock:
            for parameter, tensor in self._targets:
                # An initializer holds its values in one of two fields; the other must be empty.
                tensor.ClearField("float_data")
                tensor.raw_data = little[parameter.slice].tobytes()
            patched: bytes = self._model.SerializeToString(deterministic=True)
        return patched
