"""Step graphs: 50 consecutive steps in ONNX Runtime against the same method in eager PyTorch, for each method and
kind of model; and their speed and memory against plain PyTorch: `python -m benchmarks.steps [KIND ...]`.

Parity: `theta` is the relative difference of the parameter vector after the last step, `same` the share of equal
predictions over all steps. Where they part, `exact` gives the difference of either from the method in float64 (graph,
eager): who is nearer to the truth. Speed: medians of runs that took turns, each in a process of its own, at batch 64,
on one thread and on all cores; the floor is one plain forward pass. Memory: the greatest resident memory of those
processes, and what of it the imports alone take.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.models import plain_onnx
from benchmarks.networks import MotionNet, ResNet20
from benchmarks.report import write
from benchmarks.step_models import KINDS, Clouds, trained
from benchmarks.step_worker import PLAIN, WEIGHTS, X
from trimtab.adapters.steps import load
from trimtab.exporters import export
from trimtab.exporters.assembly import lower_all
from trimtab.exporters.inputs import DEFAULT, describe_inputs
from trimtab.exporters.methods import METHODS
from trimtab.exporters.steps.compiler import hyperparameters, run
from trimtab.exporters.steps.export import MethodChoice, Settled, ready, relative, settle
from trimtab.exporters.steps.model import build
from trimtab.exporters.steps.source import Sample
from trimtab.exporters.survey import survey
from trimtab.exporters.trace import prepare, trace
from trimtab.runtime.errors import ExportError

STEPS, BATCH = 50, 32
CHOICES: list[str | MethodChoice] = [*METHODS, "tent+label_shift", MethodChoice("tent", "tent-muon", "all", "muon")]
LOOSER: dict[str, dict[str, float]] = {
    "eata": {"margin": 0.9, "redundancy": 0.95},
    "sar": {"margin": 0.9},
    "cotta": {"augmentations": 4},
    "petal": {"augmentations": 4},
}
"""For parity: models that were trained for a moment are not sure enough of drifted data for the filters' defaults, and
more augmentations are more of the same."""
TARGETS = {"theta": 1e-3, "same": 0.999, "times faster": 2.0, "memory share": 0.5}
PART = 1e-4
"""Of theta: from here on, float64 judges."""
PLAIN_TOO = ("tent", "eata")
"""Methods that there are in plain PyTorch, too."""
TIMED_BATCH, ROUNDS = 64, 5


def main(kinds: Sequence[str]) -> None:
    """Each kind's figures are written as soon as they are there."""
    parity: list[dict[str, Any]] = []
    speed: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    for kind in kinds or KINDS:
        model, clouds = trained(kind)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = [clouds.draw(64) for _ in range(8)]
            choices, refused = exported(model, data, folder, [str(k) for k in range(len(clouds.patterns))])
            parity += [{"model": kind, "method": name, "theta": why} for name, why in refused.items()]
            eager = Eager(model, data)
            stream = [clouds.draw(BATCH, drifted=True)[0] for _ in range(STEPS)]
            for choice in settle(choices):
                parity.append({"model": kind, "method": choice.name, **compare(folder, choice, eager, stream)})
                print(parity[-1], flush=True)
            if isinstance(model, (ResNet20, MotionNet)):
                for threads in dict.fromkeys((1, os.cpu_count() or 1)):
                    fast, small = timed(kind, model, [c.name for c in settle(choices)], Path(folder), clouds, threads)
                    speed += fast
                    memory += small
        write("steps", parity, targets=TARGETS, steps=STEPS, batch=BATCH)
        if speed:
            write("steps_speed", speed, batch=TIMED_BATCH)
            write("steps_memory", memory, batch=TIMED_BATCH)


def exported(
    model: nn.Module, data: list[tuple[Tensor, Tensor]], folder: str, classes: list[str]
) -> tuple[list[str | MethodChoice], dict[str, str]]:
    """What of CHOICES the bundle in `folder` has now; and, by name, why the model cannot have the others."""
    choices, refused = list(CHOICES), dict[str, str]()
    while True:
        try:
            export(model, data[0][0][:2], data, folder, name="m", classes=classes, methods=choices)
        except ExportError as error:
            name = str(error).partition(":")[0].removeprefix("method ")
            left = [c for c in choices if settle([c])[0].name != name]
            if len(left) == len(choices):
                raise
            choices, refused[name] = left, str(error)
        else:
            return choices, refused


class Eager:
    """The methods in eager PyTorch, on a model in float32 or float64."""

    def __init__(self, model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> None:
        copied, notes = prepare(model)
        shape = list(data[0][0].shape[1:])
        inputs = describe_inputs({"x": shape}, set(), channels=(), mean=(), std=(), calibration=DEFAULT)
        self.marked, head = trace(copied, [data[0][0][:2]], inputs, by_name=False, head=None, frozen=(), notes=notes)
        self.sample = Sample(self.marked)
        batches = self.sample.passing(data)
        surveyed = survey(lower_all(self.marked)["observe"], self.marked, "classification", batches)
        self.survey = {**surveyed.source, **surveyed.examples}
        self.base = build(copied, self.marked, head, False)

    def stepper(
        self, choice: Settled, dtype: torch.dtype
    ) -> tuple[dict[str, Tensor], Callable[..., dict[str, Tensor]]]:
        """The first state, and a function (x, state) -> what the step graph gives."""
        method, optimiser = choice.found, choice.optimiser
        model = ready(choice, self.base, self.marked, self.survey, self.sample)
        model = model.bound({n: v.to(dtype) if v.is_floating_point() else v for n, v in model.constants.items()})
        hyper = {n: h.default for n, h in hyperparameters(method, optimiser).items()}
        hyper |= LOOSER.get(choice.name, {})
        values = {f"hyper.{n}": torch.tensor(v, dtype=dtype) for n, v in hyper.items()}

        def step(x: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
            with torch.no_grad():
                return run(method, model, self.marked, {"x": x.to(dtype), **state, **values})

        start = {f"state.{n}": v.to(dtype) if v.is_floating_point() else v for n, v in method.init_state(model).items()}
        return start, step


def compare(folder: str, choice: Settled, eager: Eager, stream: list[Tensor]) -> dict[str, Any]:
    adapter = load(folder, choice.name, threads=1, **LOOSER.get(choice.name, {}))
    ys, kept = [], []
    for x in stream:
        ys.append(adapter.step(x.numpy()))
        kept.append(adapter.metrics.get("kept", float("nan")))
    single, wanted = followed(eager, choice, stream, torch.float32)
    same = float(np.mean([y.argmax(1) == w.argmax(1) for y, w in zip(ys, wanted, strict=True)]))
    row: dict[str, Any] = {"theta": "-", "same": same, "exact": "-", "kept": "-"}
    if adapter.theta.size:
        row["theta"] = relative(adapter.theta, single)
        if row["theta"] > PART or same < 1.0:
            truth, _ = followed(eager, choice, stream, torch.float64)
            row["exact"] = f"{relative(adapter.theta, truth):.0e}, {relative(single, truth):.0e}"
    if not np.isnan(kept).any():
        row["kept"] = float(np.mean(kept))
    return row


def followed(
    eager: Eager, choice: Settled, stream: list[Tensor], dtype: torch.dtype
) -> tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]:
    """Theta after all steps in PyTorch, and what each step predicted."""
    state, step = eager.stepper(choice, dtype)
    ys = []
    for x in stream:
        out = step(x, state)
        state = {n.replace("next.", "state."): v for n, v in out.items() if n.startswith("next.")}
        ys.append(out["y"].numpy())
    return state.get("state.theta", torch.zeros(0)).numpy(), ys


def timed(
    kind: str, model: ResNet20 | MotionNet, names: Sequence[str], folder: Path, clouds: Clouds, threads: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows on speed and on memory: every contender in a process of its own, a few steps at a time in turns."""
    np.save(folder / X, clouds.draw(TIMED_BATCH)[0].numpy())
    np.savez(folder / WEIGHTS, **{n: v.numpy() for n, v in model.state_dict().items()})
    (folder / PLAIN).write_bytes(plain_onnx(model))
    steps = 3 if isinstance(model, ResNet20) else 30
    plain = {name: f"{name}-PyTorch" for name in PLAIN_TOO if name in names}
    workers = {what: Worker(what, kind, threads, folder) for what in ("forward", *names, *plain.values())}
    for turn in range(ROUNDS + 1):
        for worker in workers.values():
            worker.run(steps, counts=turn > 0)
    for worker in workers.values():
        worker.end()
    forward = median(workers["forward"].seconds)
    speed, memory = [], []
    for name in names:
        mine, row = workers[name], {"model": kind, "method": name, "threads": threads}
        theirs = workers.get(plain.get(name, ""))
        spent = median(mine.seconds)
        more: dict[str, Any] = {"PyTorch ms": "-", "times faster": "-"}
        if theirs is not None:
            more = {"PyTorch ms": median(theirs.seconds) * 1e3, "times faster": median(theirs.seconds) / spent}
        speed.append({**row, "ms": spent * 1e3, **more, "forwards": spent / forward})
        more = {"PyTorch MiB": "-", "its imports": "-", "share": "-", "without imports": "-"}
        if theirs is not None:
            more = {
                "PyTorch MiB": theirs.peak,
                "its imports": theirs.imports,
                "share": mine.peak / theirs.peak,
                "without imports": (mine.peak - mine.imports) / (theirs.peak - theirs.imports),
            }
        memory.append({**row, "MiB": mine.peak, "imports": mine.imports, **more})
    return speed, memory


class Worker:
    """A process of `benchmarks.step_worker`."""

    def __init__(self, what: str, kind: str, threads: int, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.step_worker", what, kind, str(threads), str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.imports: float = self._said()["imports"]
        self.peak = 0.0
        self.seconds: list[float] = []

    def run(self, steps: int, counts: bool) -> None:
        print(steps, file=self.process.stdin, flush=True)
        said = self._said()
        self.peak = said["peak"]
        self.seconds += said["seconds"] if counts else []

    def end(self) -> None:
        self.process.communicate()

    def _said(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError(f"{self.process.args!r} has ended")
        found: dict[str, Any] = json.loads(line)
        return found


if __name__ == "__main__":
    main(sys.argv[1:])
