"""Trains the network that combines the scores of HTM columns (`trimtab.drift.combiner`) on labelled anomalies.

A record's window, the columns' scores of the newest `history` records, goes through one hidden layer to the log-odds
that there is an anomaly.

- *One event, one decision.* Early in an anomaly a record may look as any harmless one does; what counts is that some
  record of it does not. So the recording is cut into pieces, each anomaly one (with AVERAGED records more, in which the
  columns' means still hold it), and normal records each `hold` of them, and the network learns to tell pieces by
  their highest output (multiple-instance learning; Maron and Lozano-Perez 1998; Sultani, Chen and Shah 2018, for
  anomalies). Normal and anomalous pieces weigh the same in the loss, cross-entropy, with weight decay. Records soon
  after an anomaly, whose windows still hold it, belong to no piece.
- *What is said of it is held back.* Pieces are split into FOLDS parts of the recording with as many anomalies each,
  and each part's outputs are those of a network that was trained on the others (cross-fitting). On these the chance is
  calibrated (Platt 1999), the threshold taken, and what is found and what is falsely alarmed counted. The network
  that is written is trained on all parts.
- *Threshold.* The height that normal pieces reach once in `every` records; beyond what was seen, by an exponential
  tail of the log-odds (`trimtab.drift.reference.height`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import minimize
from torch import nn

from trimtab.drift.combiner import INPUT, KEY, OUTPUT, Recipe
from trimtab.drift.htm_score import CALIBRATE
from trimtab.drift.reference import height
from trimtab.drift.score_baseline import AVERAGED
from trimtab.runtime.errors import ExportError

Array = NDArray[np.float64]
Piece = NDArray[np.int64]
"""Places of the records of one piece."""

HIDDEN = 16
FOLDS = 5
PIECES = 400
"""Normal pieces of a training, at most."""
STEPS, RATE, DECAY = 300, 0.02, 0.1
OPSET, IR = 18, 8


@dataclass(frozen=True, slots=True)
class Trained:
    """A combiner, and what it does on parts of the recording that were held back from it."""

    model: onnx.ModelProto
    recipe: Recipe
    normal: int
    """Normal records that were counted."""
    anomalies: int
    """Labelled anomalies: runs of anomalous records."""
    found: int
    false: int
    """Alarms in normal records."""


def train(
    scores: Array,
    labels: NDArray[np.bool_],
    columns: Sequence[str],
    *,
    every: float,
    history: int,
    hold: int,
    options: Mapping[str, int],
) -> Trained:
    """A combiner by the columns' `scores [n, D]` and `labels [n]`, True where a record is anomalous.

    every, history, hold, options: see `Recipe`. Raises ExportError where there are fewer than two labelled anomalies,
    where scores do not tell them apart, or no false alarm could be as rare or as frequent as asked.
    """
    check_every(every, hold)
    # Until then an HTM may have to begin anew; an anomaly that has begun before is left out as a whole.
    begin = CALIBRATE[-1] + int(np.argmin(np.append(labels[CALIBRATE[-1] :], False)))
    events = [run for run in runs(labels) if run[0] >= begin]
    if len(events) < 2:
        raise ExportError(
            f"labels: {len(events)} anomalies are labelled after the first {begin} records, which HTMs need; two are "
            "the least, and twenty better"
        )
    anomalous = [np.arange(first, min(end + AVERAGED, len(scores))) for first, end in events]
    normal = _normal(events, begin, len(scores), history, hold)
    if len(normal) < FOLDS:
        raise ExportError(f"labels: {len(normal) * hold} records are normal; {FOLDS * hold} are the least")
    windows = sliding(scores, history)
    cuts = _cuts(events)
    usual, rare = (np.array([np.searchsorted(cuts, piece[0], "right") for piece in p]) for p in (normal, anomalous))
    odds = np.zeros(len(scores))
    for part in range(len(cuts) + 1):
        others = [[p for p, i in zip(*of, strict=True) if i != part] for of in ((normal, usual), (anomalous, rare))]
        if not others[0]:
            raise ExportError(
                "labels: there are normal records in one stretch alone; label anomalies apart from others"
            )
        here = slice(cuts[part - 1] if part else 0, cuts[part] if part < len(cuts) else None)
        odds[here] = _log_odds(_fit(windows, *others), windows[here])
    highest = np.array([odds[piece].max() for piece in normal])
    slope, offset = _platt(highest, np.array([odds[piece].max() for piece in anomalous]))
    if not slope > 0:
        raise ExportError(
            "labels: on parts of the recording that were held back, the columns' scores do not tell the labelled "
            "anomalies from normal records; label more of them, or watch other columns"
        )
    limit = slope * height(highest, highest.size * hold / every) + offset
    recipe = Recipe(tuple(columns), history, every, 1 / (1 + math.exp(-limit)), hold, dict(options))
    alarms = np.array(spaced(slope * odds + offset >= limit, hold), int)
    return Trained(
        model=_model(_fit(windows, normal, anomalous), slope, offset, recipe),
        recipe=recipe,
        normal=len(normal) * hold,
        anomalies=len(events),
        found=sum(bool(np.isin(alarms, piece).any()) for piece in anomalous),
        false=int(np.isin(alarms, np.concatenate(normal)).sum()),
    )


def check_every(every: float, hold: int) -> None:
    """Raises ExportError where `every` records between false alarms are not more than the `hold` of one event."""
    if not hold < every < math.inf:
        raise ExportError(f"every: is {every:g} records between false alarms; give more than the {hold} of one event")


def sliding(scores: Array, history: int) -> NDArray[np.float32]:
    """Windows `[n, history, D]` of `scores [n, D]`: each record's and those before, zeros before the first."""
    padded = np.concatenate([np.zeros((history - 1, scores.shape[1])), scores]).astype(np.float32)
    return np.lib.stride_tricks.sliding_window_view(padded, history, axis=0).transpose(0, 2, 1)


def runs(labels: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First place and the one past the last of each run of True in `labels [n]`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], labels, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _normal(events: Sequence[tuple[int, int]], begin: int, n: int, history: int, hold: int) -> list[Piece]:
    """Pieces of `hold` normal records from `begin` on; what is left over between two anomalies is left out."""
    found: list[Piece] = []
    start = begin
    for first, end in [*events, (n, n)]:
        found += [np.arange(i, i + hold) for i in range(start, first - hold + 1, hold)]
        start = end + AVERAGED + history
    return found


def _cuts(events: Sequence[tuple[int, int]]) -> list[int]:
    """Where the parts of the recording meet: about as many events in each, cut midway between two."""
    count = min(FOLDS, len(events))
    following = [i * len(events) // count for i in range(1, count)]
    return [(events[i - 1][1] + events[i][0]) // 2 for i in following]


def _fit(windows: NDArray[np.float32], normal: Sequence[Piece], anomalous: Sequence[Piece]) -> nn.Sequential:
    """A network from windows `[n, history, D]` to log-odds, trained on these pieces."""
    chosen = np.random.default_rng(0).permutation(len(normal))[:PIECES]
    pieces = [*(normal[i] for i in chosen), *anomalous]
    owner = torch.from_numpy(np.repeat(np.arange(len(pieces)), [piece.size for piece in pieces]))
    x = torch.from_numpy(windows[np.concatenate(pieces)]).flatten(1)
    y = torch.tensor([0.0] * len(chosen) + [1.0] * len(anomalous))
    weight = torch.where(y > 0, 0.5 / len(anomalous), 0.5 / len(chosen))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1))
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        optimiser.zero_grad()
        highest = torch.full_like(y, -math.inf).scatter_reduce(0, owner, net(x)[:, 0], "amax")
        loss = nn.functional.binary_cross_entropy_with_logits(highest, y, weight=weight, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return net


@torch.no_grad()
def _log_odds(net: nn.Sequential, windows: NDArray[np.float32]) -> Array:
    return np.asarray(net(torch.from_numpy(np.ascontiguousarray(windows)).flatten(1))[:, 0].double().numpy())


def _platt(normal: Array, anomalous: Array) -> tuple[float, float]:
    """Slope and offset with which log-odds `[n]` and `[m]` become calibrated ones (Platt 1999, with his targets)."""
    z = np.concatenate([normal, anomalous])
    n, m = normal.size, anomalous.size
    target = np.concatenate([np.full(n, 1 / (n + 2)), np.full(m, (m + 1) / (m + 2))])

    def loss(ab: Array) -> tuple[float, Array]:
        f = ab[0] * z + ab[1]
        wrong = 1 / (1 + np.exp(-f)) - target
        return float((np.logaddexp(0, f) - target * f).mean()), np.array([(wrong * z).mean(), wrong.mean()])

    slope, offset = minimize(loss, np.array([1.0, math.log((m + 1) / (n + 1))]), jac=True, method="BFGS").x
    return float(slope), float(offset)


def spaced(over: NDArray[np.bool_], hold: int) -> list[int]:
    """Places in `over [n]`, each `hold` or more after the one before: as `HtmColumns` alarms."""
    found: list[int] = []
    for i in np.flatnonzero(over):
        if not found or i >= found[-1] + hold:
            found.append(int(i))
    return found


def _model(net: nn.Sequential, slope: float, offset: float, recipe: Recipe) -> onnx.ModelProto:
    """The network as ONNX. The log-odds become a chance in double: near 1, single precision has no steps left."""
    weights = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    weights["2.weight"] = weights["2.weight"] * np.float32(slope)
    weights["2.bias"] = (weights["2.bias"] * slope + offset).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", [INPUT], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "0.weight", "0.bias"], ["sums"], transB=1),
            helper.make_node("Tanh", ["sums"], ["hidden"]),
            helper.make_node("Gemm", ["hidden", "2.weight", "2.bias"], ["odds"], transB=1),
            helper.make_node("Squeeze", ["odds", "axes"], ["odds_flat"]),
            helper.make_node("Cast", ["odds_flat"], ["odds_double"], to=TensorProto.DOUBLE),
            helper.make_node("Sigmoid", ["odds_double"], [OUTPUT]),
        ],
        "combiner",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", recipe.history, len(recipe.columns)])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.DOUBLE, ["N"])],
        [
            *(numpy_helper.from_array(values, name) for name, values in weights.items()),
            numpy_helper.from_array(np.array([1]), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    helper.set_model_props(model, {KEY: recipe.text()})
    onnx.checker.check_model(model)
    return model
