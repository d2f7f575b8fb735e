"""One process that does nothing but one kind of step, so that neither its threads nor its memory are another's.

`python -m benchmarks.step_worker WHAT KIND THREADS FOLDER`, where WHAT is a method (its step graph), `METHOD-PyTorch`,
or `forward` (plain inference). It says what memory its imports take, then for each line with a number makes so many
steps and says how long each took and the greatest memory so far: MiB and seconds, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

X, WEIGHTS, PLAIN = "x.npy", "weights.npz", "plain.onnx"
"""Files in FOLDER, beside those of the bundle: a batch, the model's tensors, its plain export."""


def main(what: str, kind: str, threads: int, folder: Path) -> None:
    x: NDArray[np.float32] = np.load(folder / X)
    make = of_torch if what.endswith("PyTorch") else of_plain if what == "forward" else of_graph
    step = make(what.removesuffix("-PyTorch"), kind, threads, folder, x)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            begun = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - begun)
        say({"seconds": seconds, "peak": peak()})


def of_torch(method: str, kind: str, threads: int, folder: Path, x: NDArray[np.float32]) -> Callable[[], object]:
    import torch

    from benchmarks.plain_tent import PlainTent
    from benchmarks.step_models import KINDS

    say({"imports": peak()})
    torch.set_num_threads(threads)
    model = KINDS[kind]().eval()
    with np.load(folder / WEIGHTS) as arrays:
        model.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    tent, batch = PlainTent(model, method == "eata"), torch.from_numpy(x)
    return lambda: tent.step(batch)


def of_plain(what: str, kind: str, threads: int, folder: Path, x: NDArray[np.float32]) -> Callable[[], object]:
    import onnxruntime

    say({"imports": peak()})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / PLAIN), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def of_graph(method: str, kind: str, threads: int, folder: Path, x: NDArray[np.float32]) -> Callable[[], object]:
    import onnxruntime  # noqa: F401 - its memory is that of the imports

    from trimtab.adapters.steps import load

    say({"imports": peak()})
    adapter = load(folder, method, threads=threads)
    return lambda: adapter.step(x)


def peak() -> float:
    """The greatest resident memory of this process so far, MiB. Not `getrusage`'s, which begins with the parent's."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def say(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
