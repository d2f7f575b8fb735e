"""Models to measure with: random weights, norm statistics of random data. What they predict means nothing."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from benchmarks.networks import MotionNet, ResNet20
from trimtab.exporters import export
from trimtab.runtime.bundle import Bundle, Window


def random_model(kind: type[ResNet20] | type[MotionNet], seed: int = 0) -> ResNet20 | MotionNet:
    """A model in evaluation mode whose norms have seen a few batches of noise."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = kind().train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(64, *model.shape))
    return model.eval()


def plain_onnx(model: ResNet20 | MotionNet) -> bytes:
    """What `torch.onnx.export` gives by itself: input `x`, output `y`, any batch size."""
    target = io.BytesIO()
    batch = torch.export.Dim("N")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            model,
            (torch.randn(2, *model.shape),),
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=({0: batch},),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    program.save(target)
    return target.getvalue()


def bundle_of(model: ResNet20 | MotionNet, folder: Path, samples: int = 256) -> Bundle:
    """The model exported into `folder`, with noise for source data."""
    rng = np.random.default_rng(0)
    batches = [
        (rng.standard_normal((64, *model.shape), np.float32), rng.integers(0, model.head.out_features, 64))
        for _ in range(samples // 64)
    ]
    window = Window(rows=model.shape[1], hop=model.shape[1] // 2) if len(model.shape) == 2 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        exported = export(
            model,
            torch.randn(2, *model.shape),
            batches,
            folder,
            name=type(model).__name__,
            classes=[str(n) for n in range(model.head.out_features)],
            window=window,
        )
    return exported.bundle
