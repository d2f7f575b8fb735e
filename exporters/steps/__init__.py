"""Step graphs: one adaptation step (forward, loss, backward, filters, optimiser, resets) as one ONNX file.

`model` is the exported model as a method sees it, `optimisers`, `losses` and `chance` are what methods are written
with, `tracing` records a whole step as ATen operators, `translation` writes them in ONNX, `compiler` joins these.
"""
