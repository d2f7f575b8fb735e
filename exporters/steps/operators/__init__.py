"""The ATen operators that step graphs know, each as ONNX nodes (opset 18). To import it registers them."""

from trimtab.exporters.steps.operators import (  # noqa: F401
    binary,
    choosing,
    filling,
    looping,
    norms,
    pooling,
    products,
    reductions,
    shapes,
    sizes,
    unary,
)
