"""What drift detection adds to the observe graph's time: `python -m benchmarks.cost`.

The same windows in the same micro-batches through the observe graph alone, through the signals that the configuration
watches by default, and through the detectors of one stream with the bundle's own reference, all on one thread, in
turns; medians, in microseconds a window. `share` is signals and detectors together over the observe graph. The
smartwatch's network is tiny, so that it shows detection at its worst. By machine code, where numba can be used, and by
Python and NumPy alone. What ONNX Runtime gives, and what the signals are, is the same to the bit in every micro-batch;
the last column says whether that held here.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import bundle_of, random_model
from benchmarks.networks import ResNet20
from benchmarks.replay import bare_session, image_blocks, micro_batches, watch_blocks
from benchmarks.report import interleaved, write
from trimtab.drift.compiled import possible
from trimtab.examples.watch import BUNDLE
from trimtab.runtime.blocks import Block
from trimtab.runtime.bundle import Bundle, load_bundle
from trimtab.runtime.config import Drift
from trimtab.runtime.sessions import Outputs
from trimtab.runtime.watch import Signals, Taps, new_monitor

ROUNDS = 15
BATCHES = (1, 8, 64)
TARGET = 0.05

Window = list[float]


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        watch = load_bundle(BUNDLE)
        blocks, _ = watch_blocks(Path(folder), watch)
        images = bundle_of(random_model(ResNet20), Path(folder) / "resnet")
        for name, bundle, given, count in (
            ("watch", watch, blocks, 1024),
            ("ResNet-20-like", images, list(image_blocks(images, 128)), 128),
        ):
            for by in ("machine code", "Python") if possible() else ("Python",):
                rows += [{"model": name, "by": by, **row} for row in costs(bundle, given, count, by != "Python")]
    write("cost", rows, target=TARGET)


def costs(bundle: Bundle, blocks: list[Block], count: int, machine_code: bool) -> Iterator[dict[str, Any]]:
    """A row a micro-batch, over the first `count` windows of `blocks`."""
    whole = micro_batches(bundle, blocks, count)[0]
    session = bare_session(bundle, "observe")
    signals = Signals(bundle, Drift())
    if machine_code:
        signals.compile()
    first: list[Window] = []
    for size in BATCHES:
        feeds = [{k: v[i : i + size] for k, v in whole.items()} for i in range(0, count, size)]
        seen = [observed(session, feed) for feed in feeds]
        windows = [watched(signals, outputs) for outputs in seen]
        flat = [window for batch in windows for window in batch]
        first = first or flat
        monitor = new_monitor(bundle, Drift(), signals.names, bundle.source.reference)
        if machine_code:
            monitor.compile()
        monitor.update_many(flat)  # no warm-up is measured, nor thresholds
        times = interleaved(
            {
                "observe": lambda feeds=feeds: [observed(session, feed) for feed in feeds],  # type: ignore[misc]
                "signals": lambda seen=seen: [watched(signals, outputs) for outputs in seen],  # type: ignore[misc]
                "detectors": lambda windows=windows, monitor=monitor: [  # type: ignore[misc]
                    monitor.update_many(batch) for batch in windows
                ],
            },
            ROUNDS,
            clock=time.process_time,  # on one thread: what other processes take is left out
        )
        each = {name: 1e6 * spent / count for name, spent in times.items()}
        yield {
            "batch": size,
            **{f"{name}, us": round(value, 2) for name, value in each.items()},
            "share": round((each["signals"] + each["detectors"]) / each["observe"], 4),
            "as in other batches": flat == first,
        }


def observed(session: Any, feed: dict[str, np.ndarray]) -> Outputs:
    """What the observe graph gives."""
    return Outputs(*session.run(["y", "features", "moments"], feed))


def watched(signals: Signals, outputs: Outputs) -> list[Window]:
    """The signals of each window."""
    return signals(Taps(outputs, {}))


if __name__ == "__main__":
    main()
