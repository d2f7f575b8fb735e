"""What the pipeline adds to the model in a replay: `python -m benchmarks.replay`.

The same windows once through the pipeline as a replay runs it (windows cut, signals watched by detectors, decisions
made), and through bare loops of `session.run`: one call a window on the observe graph, one call a window on the serve
graph, and the pipeline's own micro-batches on the observe graph. All on one thread, in turns; medians. `ratio` is the
first loop's time over the pipeline's. The smartwatch's network is tiny, so that it shows the pipeline at its worst.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.models import bundle_of, random_model
from benchmarks.networks import ResNet20
from benchmarks.report import write
from trimtab.examples.watch import BUNDLE, stream
from trimtab.runtime.blocks import Block, Sample
from trimtab.runtime.bundle import Bundle, load_bundle
from trimtab.runtime.config import Batch, Config
from trimtab.runtime.decisions import Step
from trimtab.runtime.folding import Template
from trimtab.runtime.providers import session_options
from trimtab.runtime.recordings import Recording
from trimtab.runtime.replay import replay, static
from trimtab.runtime.windows import Windower

ROUNDS = 7
TARGET = 0.8
FILL = 1e9
"""A deadline, seconds, that no micro-batch meets: each is full."""


class Counter:
    """Counts decisions and alarms, and remembers when the first micro-batch was done.

    What a stream's first window costs (its detectors are calibrated then) is not what a window costs.
    """

    def __init__(self) -> None:
        self.decisions = 0
        self.alarms = 0
        self.begun = 0.0

    def take(self, step: Step, seconds: float) -> None:
        if not self.decisions:
            self.begun = time.perf_counter()
        self.decisions += len(step.decisions)
        self.alarms += sum(e.topic.startswith("drift/") for e in step.events)


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        watch = load_bundle(BUNDLE)
        blocks, reading = watch_blocks(Path(folder), watch)
        images = bundle_of(random_model(ResNet20), Path(folder) / "resnet")
        cases = [
            ("watch", watch, blocks, 64, FILL),
            ("watch", watch, blocks, 16, FILL),
            ("ResNet-20-like", images, list(image_blocks(images, 512)), 64, FILL),
        ]
        for name, bundle, given, size, deadline in cases:
            rows.append({"model": name, **compare(bundle, given, size, deadline)})
    write("replay", rows, target=TARGET, **reading)


def compare(bundle: Bundle, blocks: list[Block], size: int, deadline: float) -> dict[str, Any]:
    """Pipeline against bare loops; see above."""
    # Tries to adapt are left out: random images are drift, and what a method costs is not the pipeline's.
    config = static(Config(bundle=bundle.path, batch=Batch(size=size, deadline=deadline)))
    batches = micro_batches(bundle, blocks, size)[1:]
    singles = [{k: v[i : i + 1] for k, v in feed.items()} for feed in batches for i in range(len(_first(feed)))]
    observe, serve = bare_session(bundle, "observe"), bare_session(bundle, "serve")
    loops: dict[str, tuple[Any, list[dict[str, np.ndarray]]]] = {
        "one by one": (observe, singles),
        "one by one, served": (serve, singles),
        "in batches": (observe, batches),
    }
    spent: dict[str, list[float]] = {name: [] for name in (*loops, "pipeline")}
    counter = Counter()
    for turn in range(ROUNDS + 1):
        for name, (session, feeds) in loops.items():
            names = [o.name for o in session.get_outputs()]
            begun = time.perf_counter()
            for feed in feeds:
                session.run(names, feed)
            spent[name].append(time.perf_counter() - begun)
        counter = Counter()
        replay(bundle, config, blocks, [counter])
        spent["pipeline"].append(time.perf_counter() - counter.begun)
        if not turn:  # the first round warms up
            for times in spent.values():
                times.clear()
    windows = len(singles)
    if counter.decisions != windows + size:
        raise RuntimeError(f"{counter.decisions} decisions on {windows + size} windows")
    each = {name: 1e6 * median(times) / windows for name, times in spent.items()}
    return {
        "batch": size,
        "windows": windows,
        **{f"{name}, us": round(value, 1) for name, value in each.items()},
        "ratio": round(each["one by one"] / each["pipeline"], 3),
        "ratio, served": round(each["one by one, served"] / each["pipeline"], 3),
        "ratio, in batches": round(each["in batches"] / each["pipeline"], 3),
        "alarms": counter.alarms,
    }


def bare_session(bundle: Bundle, graph: str) -> Any:
    return onnxruntime.InferenceSession(
        Template(bundle.graph(graph), bundle.layout, f"{graph}.onnx").patched(bundle.source.theta),
        session_options(1),
        providers=["CPUExecutionProvider"],
    )


def _first(feed: dict[str, np.ndarray]) -> np.ndarray:
    return next(iter(feed.values()))


def micro_batches(bundle: Bundle, blocks: list[Block], size: int) -> list[dict[str, np.ndarray]]:
    """The windows of `blocks`, `size` to a feed."""
    manifest = bundle.manifest
    samples: list[list[np.ndarray]] = []
    if manifest.window is not None:
        windower = Windower(blocks[0].stream, manifest.inputs[0].shape[0], manifest.window)
        found: list[Sample] = [sample for block in blocks for sample in windower.push(block)]
        samples = [s.inputs for s in found]
    else:
        samples = [[b.values[i.name] for i in manifest.inputs] for b in blocks]  # type: ignore[call-overload,index]
    return [
        {i.name: np.stack([s[k] for s in samples[begin : begin + size]]) for k, i in enumerate(manifest.inputs)}
        for begin in range(0, len(samples), size)
    ]


def watch_blocks(folder: Path, bundle: Bundle) -> tuple[list[Block], dict[str, Any]]:
    """The right arm's part of the demo's stream, three times over, by way of files; how fast each is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = stream.build()
    n = whole.segment.index("left")
    columns = {k: np.concatenate([np.asarray(v[:n])] * 3) for k, v in whole.columns().items()}
    columns["time"] = np.arange(3 * n) / 50.0
    table = pa.table(columns)
    pq.write_table(table, folder / "watch.parquet")
    names = list(columns)
    lines = zip(*(column.tolist() for column in columns.values()), strict=True)
    text = "\n".join([",".join(names), *(",".join(map(str, line)) for line in lines)])
    (folder / "watch.csv").write_text(text + "\n", encoding="utf-8")
    channels = bundle.manifest.inputs[0].channels
    others = {k: v for k, v in columns.items() if k not in channels}
    np.savez(folder / "watch.npz", allow_pickle=False, x=np.stack([columns[c] for c in channels], axis=1), **others)
    speeds: dict[str, Any] = {}
    blocks: list[Block] = []
    for suffix in ("csv", "parquet", "npz"):
        begun = time.perf_counter()
        blocks = list(Recording(folder / f"watch.{suffix}", bundle.manifest).blocks())
        speeds[f"{suffix} rows read a second"] = round(3 * n / (time.perf_counter() - begun))
    return blocks, speeds


def image_blocks(bundle: Bundle, count: int) -> Iterator[Block]:
    rng = np.random.default_rng(0)
    for i in range(count):
        values = {s.name: rng.standard_normal(s.shape, np.float32) for s in bundle.manifest.inputs}
        yield Block("camera", float(i), values)


if __name__ == "__main__":
    main()
