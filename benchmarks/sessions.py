"""What adapted serving costs beside a plain export: `python -m benchmarks.sessions`.

One model, one batch of 64 on the CPU, all variants in turns; the same for a small model at batch 1, where what counts
is the time that the engine adds to a call; and how long it takes from a new parameter vector to its own session.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.models import bundle_of, plain_onnx, random_model
from benchmarks.networks import MotionNet, ResNet20
from benchmarks.report import interleaved, write
from trimtab.runtime.bundle import Bundle, load_bundle
from trimtab.runtime.config import Sessions
from trimtab.runtime.executors import InlineExecutor, ThreadExecutor
from trimtab.runtime.folding import Template
from trimtab.runtime.providers import session_options
from trimtab.runtime.sessions import Engine

BATCH, SLOTS = 64, 1000
TARGETS = {"folded serve": 1.05, "banked, 1000 streams": 1.35}


def main() -> None:
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, batch, rounds, repeats in (
            (ResNet20, BATCH, 15, 1),
            (MotionNet, BATCH, 15, 10),
            (MotionNet, 1, 25, 200),
        ):
            model = random_model(kind)
            bundle = bundle_of(model, Path(folder) / kind.__name__)
            rows += compare(bundle, plain_onnx(model), batch, rounds, repeats)
        facts |= swap(Path(folder) / "ResNet20")
    write("sessions", rows, targets=TARGETS, **facts)


def thetas(bundle: Bundle, count: int) -> list[np.ndarray]:
    """Vectors near the source's, all different."""
    rng = np.random.default_rng(1)
    source = bundle.source.theta
    return [(source * rng.uniform(0.9, 1.1, source.shape)).astype(np.float32) for _ in range(count)]


def compare(bundle: Bundle, plain: bytes, batch: int, rounds: int, repeats: int) -> list[dict[str, Any]]:
    """All ways to run one batch, each at its best: `ratio` is time over that of the plain export."""
    session = onnxruntime.InferenceSession(plain, session_options(1), providers=["CPUExecutionProvider"])
    folded = Engine(bundle, Sessions(folded=4), InlineExecutor())
    # What `folded serve` runs in the end, without the engine around it.
    bare = onnxruntime.InferenceSession(
        Template(bundle.graph("serve"), bundle.layout, "serve.onnx").patched(bundle.source.theta),
        session_options(1),
        providers=["CPUExecutionProvider"],
    )
    banked = Engine(bundle, Sessions(folded=0, slots=SLOTS), InlineExecutor())
    for n, theta in enumerate(thetas(bundle, SLOTS)):
        if n < 4:
            folded.bind(f"s{n}", theta)
        banked.bind(f"s{n}", theta)
    x = np.random.default_rng(0).standard_normal((batch, *bundle.manifest.inputs[0].shape), np.float32)
    feed, names = {"x": x}, ["y"]
    one, many = ["s0"] * batch, [f"s{n * SLOTS // batch}" for n in range(batch)]
    four = [f"s{n % 4}" for n in range(batch)]
    calls = {
        "plain export": lambda: session.run(names, feed),
        "serve graph, session.run": lambda: bare.run(names, feed),
        "folded serve": lambda: folded.infer(feed, one, False),
        "folded observe": lambda: folded.infer(feed, one, True),
        "banked, 1000 streams": lambda: banked.infer(feed, many, False),
        "banked, observed": lambda: banked.infer(feed, many, True),
    }
    if batch > 1:
        calls["4 folded streams mixed"] = lambda: folded.infer(feed, four, False)
    taken = interleaved(calls, rounds, repeats)
    base = taken["plain export"]
    return [
        {
            "model": bundle.manifest.name,
            "batch": batch,
            "what": what,
            "ms": seconds * 1e3,
            "ratio": seconds / base,
            "added us": (seconds - base) * 1e6,
        }
        for what, seconds in taken.items()
    ]


def swap(path: Path) -> dict[str, float]:
    """Milliseconds to patch, to build, and from `bind` to the first call on the new session while another thread
    keeps calling the model."""
    bundle = load_bundle(path)
    vectors = thetas(bundle, 11)
    template = Template(bundle.graph("serve"), bundle.layout, "serve.onnx")
    patch, build, swapped = [], [], []
    for theta in vectors:
        start = time.perf_counter()
        graph = template.patched(theta)
        middle = time.perf_counter()
        onnxruntime.InferenceSession(graph, session_options(1), providers=["CPUExecutionProvider"])
        patch.append(middle - start)
        build.append(time.perf_counter() - middle)
    executor = ThreadExecutor()
    engine = Engine(bundle, Sessions(), executor)
    x = np.random.default_rng(0).standard_normal((1, *bundle.manifest.inputs[0].shape), np.float32)
    stop = threading.Event()
    calls = 0

    def serve() -> None:
        nonlocal calls
        while not stop.is_set():
            engine.infer({"x": x}, ["a"], True)
            calls += 1

    server = threading.Thread(target=serve)
    server.start()
    for theta in vectors:
        start = time.perf_counter()
        engine.bind("a", theta)
        while not engine.is_folded("a"):
            time.sleep(0.0005)
        swapped.append(time.perf_counter() - start)
    stop.set()
    server.join()
    executor.close()
    return {
        "patch ms": median(patch) * 1e3,
        "build one session ms": median(build) * 1e3,
        "bind to swapped ms (serve and observe, under load)": median(swapped) * 1e3,
    }


if __name__ == "__main__":
    main()
