"""Step graphs: 50 consecutive steps in ONNX Runtime against the same method in eager PyTorch, for each method and
kind of model; and their speed against plain PyTorch: `python -m benchmarks.steps`.

Parity: `theta` is the relative difference of the parameter vector after the last step, `same` the share of equal
predictions over all steps, `exact` the difference of either from the method in float64 (graph, eager): who is nearer
to the truth. Speed: medians of runs that took turns, one thread each, at batch 64; the floor is one plain forward pass.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.models import MotionNet, ResNet20, plain_onnx
from benchmarks.report import interleaved, write
from benchmarks.step_models import KINDS, Clouds, trained
from trimtab.adapters.steps import StepAdapter, load
from trimtab.exporters import export
from trimtab.exporters.assembly import lower_all
from trimtab.exporters.inputs import DEFAULT, describe_inputs
from trimtab.exporters.methods import METHODS
from trimtab.exporters.steps.compiler import hyperparameters, run
from trimtab.exporters.steps.export import MethodChoice, Settled, ready, relative, settle
from trimtab.exporters.steps.model import build
from trimtab.exporters.steps.source import Sample
from trimtab.exporters.survey import session, survey
from trimtab.exporters.trace import prepare, trace

STEPS, BATCH = 50, 32
CHOICES = [*METHODS, "tent+label_shift", MethodChoice("tent", "tent-muon", "all", "muon")]
LOOSER: dict[str, dict[str, float]] = {
    "eata": {"margin": 0.9, "redundancy": 0.95},
    "sar": {"margin": 0.9},
    "cotta": {"augmentations": 4},
    "petal": {"augmentations": 4},
}
"""For parity: models that were trained for a moment are not sure enough of drifted data for the filters' defaults, and
more augmentations are more of the same."""
TARGETS = {"theta": 1e-3, "same": 0.999}


def main(kinds: Sequence[str]) -> None:
    parity: list[dict[str, Any]] = []
    speed: list[dict[str, Any]] = []
    for kind in kinds or KINDS:
        model, clouds = trained(kind)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = [clouds.draw(64) for _ in range(8)]
            classes = [str(k) for k in range(len(clouds.patterns))]
            export(model, data[0][0][:2], data, folder, name="m", classes=classes, methods=CHOICES)
            eager = Eager(model, data)
            stream = [clouds.draw(BATCH, drifted=True)[0] for _ in range(STEPS)]
            for choice in settle(CHOICES):
                name = choice.name
                parity.append(
                    {
                        "model": kind,
                        "method": name,
                        **compare(load(folder, name, threads=1, **LOOSER.get(name, {})), eager, choice, stream),
                    }
                )
                print(parity[-1], flush=True)
            if isinstance(model, (ResNet20, MotionNet)):
                speed += timed(kind, model, Path(folder), clouds)
    write("steps", parity, targets=TARGETS, steps=STEPS, batch=BATCH)
    if speed:
        write("steps_speed", speed)


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
        model = ready(method, self.base, choice.changes, optimiser, self.marked, self.survey, self.sample)
        model = model.bound({n: v.to(dtype) if v.is_floating_point() else v for n, v in model.constants.items()})
        hyper = {n: h.default for n, h in hyperparameters(method, optimiser).items()}
        hyper |= LOOSER.get(choice.name, {})
        values = {f"hyper.{n}": torch.tensor(v, dtype=dtype) for n, v in hyper.items()}

        def step(x: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
            with torch.no_grad():
                return run(method, model, self.marked, {"x": x.to(dtype), **state, **values})

        start = {f"state.{n}": v.to(dtype) if v.is_floating_point() else v for n, v in method.init_state(model).items()}
        return start, step


def compare(adapter: StepAdapter, eager: Eager, choice: Settled, stream: list[Tensor]) -> dict[str, Any]:
    same, count = 0, 0
    runs = [eager.stepper(choice, dtype) for dtype in (torch.float32, torch.float64)]
    states = [start for start, _ in runs]
    metrics: dict[str, float] = {}
    for x in stream:
        y = adapter.step(x.numpy())
        for i, (_, step) in enumerate(runs):
            out = step(x, states[i])
            states[i] = {n.replace("next.", "state."): v for n, v in out.items() if n.startswith("next.")}
            if not i:
                same += int((y.argmax(1) == out["y"].argmax(1).numpy()).sum())
                count += len(y)
        metrics = {k: metrics.get(k, 0.0) + v / len(stream) for k, v in adapter.metrics.items()}
    row: dict[str, Any] = {"theta": "-", "same": same / count, "exact": "-"}
    if adapter.theta.size:
        mine, theirs, truth = (adapter.theta, *(s["state.theta"].numpy() for s in states))
        row["theta"] = relative(mine, theirs)
        row["exact"] = f"{relative(mine, truth):.0e}, {relative(theirs, truth):.0e}"
    row["kept"] = metrics.get("kept", "-")
    return row


class PlainTent:
    """Tent, and with `filtered` EATA's filter and weights, as their authors write them: modules, hooks, an
    optimiser."""

    def __init__(self, model: nn.Module, filtered: bool) -> None:
        self.model = model
        self.parameters = []
        model.requires_grad_(False)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
                module.track_running_stats = False
                module.running_mean = module.running_var = None
                self.parameters += [module.weight.requires_grad_(), module.bias.requires_grad_()]
        self.start = [p.detach().clone() for p in self.parameters]
        self.filtered = filtered
        self.mean: Tensor | None = None
        kind: Any = torch.optim.SGD(self.parameters, lr=2.5e-4, momentum=0.9) if filtered else None
        self.optimiser = kind or torch.optim.Adam(self.parameters, lr=1e-3)

    def step(self, x: Tensor) -> Tensor:
        y = self.model(x)
        h = -(y.softmax(1) * y.log_softmax(1)).sum(1)
        loss = h.mean()
        if self.filtered:
            limit = 0.4 * float(np.log(y.shape[1]))
            kept = h < limit
            p = y.softmax(1).detach()
            if self.mean is not None:
                kept = kept & (F.cosine_similarity(self.mean[None], p, dim=1).abs() < 0.4)
            if kept.any():
                new = p[kept].mean(0)
                self.mean = new if self.mean is None else 0.9 * self.mean + 0.1 * new
            loss = (h[kept] * torch.exp(limit - h[kept].detach())).sum() / kept.sum().clamp(min=1)
            for q, q0 in zip(self.parameters, self.start, strict=True):
                loss = loss + ((q - q0) ** 2).sum()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return y.detach()


def timed(kind: str, model: ResNet20 | MotionNet, folder: Path, clouds: Clouds) -> list[dict[str, Any]]:
    x = clouds.draw(64, drifted=True)[0]
    array = x.numpy()
    plain = session(plain_onnx(model))
    calls: dict[str, Callable[[], object]] = {"forward": lambda: plain.run(None, {"x": array})}
    for name in METHODS:
        adapter = load(folder, name, threads=1)
        calls[f"{name} step graph"] = lambda adapter=adapter: adapter.step(array)  # type: ignore[misc]
    for name in ("tent", "eata"):
        eager = PlainTent(copy.deepcopy(model), name == "eata")
        calls[f"{name} PyTorch"] = lambda eager=eager: eager.step(x)  # type: ignore[misc]
    times = interleaved(calls, 15 if kind == "ResNet-20" else 60)
    rows = []
    for name in METHODS:
        graph, torch_ = times[f"{name} step graph"], times.get(f"{name} PyTorch")
        rows.append(
            {
                "model": kind,
                "method": name,
                "ms": graph * 1e3,
                "PyTorch ms": torch_ * 1e3 if torch_ else "-",
                "times faster": torch_ / graph if torch_ else "-",
                "forwards": graph / times["forward"],
            }
        )
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
