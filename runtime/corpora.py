"""Real series whose changes people have marked, for `trimtab drift eval`: each kind under its own name.

What is read, by what lies at a path:

- the Numenta Anomaly Benchmark (`data/`, `labels/combined_windows.json`; Lavin and Ahmad 2015): a kind for each folder
  of `data`. A change is the first row of a labelled window.
- the Turing Change Point Dataset (`annotations.json` beside `datasets/`; van den Burg and Williams 2020): its series of
  one dimension. A change is where at least half of a series' annotators see one, within AGREED values of each other.
- the gas sensors (an `.npz` with `X [N, F]` and `batch [N]`; Vergara 2012): a change is each new batch. `distance` is
  trimtab.drift.signals' from one half of the first batch, features on a logarithmic scale, for the others; `features`
  are those themselves, every eighth: the steady state of each sensor. A batch's rows lie gas by gas, and are shuffled.

And by the name `water_flow`: river's series of that name, an hour a value, with the three losses of water and the peak
that its documentation tells of, marked here by their first rows.
"""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from trimtab.drift.evaluation import Labelled
from trimtab.drift.signals import distance, gaussian, whitening
from trimtab.runtime.errors import RecordingError
from trimtab.runtime.series import column_of, timed_column

WATER_FLOW = (93, 211, 328, 872)
"""2022-03-24 08:00, 2022-03-29 08:00, 2022-04-03 05:00 and 2022-04-27 15:00."""

AGREED = 5
"""Values, as in van den Burg and Williams 2020."""

Corpus = dict[str, list[Labelled]]


def corpus(where: str) -> Corpus:
    """The series at a path, or of a name. Raises RecordingError where there are none such."""
    if where == "water_flow":
        with as_file(files("river") / "datasets" / "water-flow.csv") as file:
            return {where: [Labelled(column_of(file, "Water flow [l/s]"), WATER_FLOW)]}
    path = Path(where)
    if (path / "labels" / "combined_windows.json").is_file():
        return numenta(path)
    if (path / "annotations.json").is_file():
        return turing(path)
    if path.suffix == ".npz" and path.is_file():
        return gas_sensors(path)
    raise RecordingError(
        f"--corpus {where} is not water_flow, a folder with labels/combined_windows.json (NAB) or annotations.json "
        "(TCPD), or an .npz file of X and batch"
    )


def numenta(folder: Path) -> Corpus:
    """See the module."""
    labels = folder / "labels" / "combined_windows.json"
    found: Corpus = {}
    for name, windows in _json(labels).items():
        file = folder / "data" / name
        if not file.is_file():
            continue  # a part of the corpus will do
        stamps, values = timed_column(file, "value")
        try:
            rows = sorted({stamps.index(begin.partition(".")[0]) for begin, _ in windows})
        except ValueError:
            raise RecordingError(f"{labels}: a window of {name} begins at no row of {file}") from None
        found.setdefault(file.parent.name, []).append(Labelled(values, tuple(rows)))
    if not found:
        raise RecordingError(f"{labels} names no file that is in {folder / 'data'}")
    return found


def turing(folder: Path) -> Corpus:
    """See the module."""
    annotations = folder / "annotations.json"
    series = []
    for name, marks in _json(annotations).items():
        file = folder / "datasets" / name / f"{name}.json"
        if not file.is_file():
            continue  # some have to be fetched from elsewhere, which is the owner's to do
        content = _json(file)
        try:
            if len(content["series"]) == 1:
                values = np.array(content["series"][0]["raw"], np.float64)
                series.append(Labelled(values, agreed(list(marks.values()))))
        except (KeyError, TypeError, ValueError):
            raise RecordingError(
                f"{file} or its annotations are not as the Turing Change Point Dataset has them"
            ) from None
    if not series:
        raise RecordingError(f"{annotations} names no series that is in {folder / 'datasets'}")
    return {"turing": series}


def agreed(marks: list[list[int]]) -> tuple[int, ...]:
    """Places that at least half of the annotators mark, each within AGREED of the first: the median of their marks."""
    ordered = sorted((place, who) for who, places in enumerate(marks) for place in places if place > 0)
    found = []
    while ordered:
        near = [(place, who) for place, who in ordered if place <= ordered[0][0] + AGREED]
        ordered = ordered[len(near) :]
        if 2 * len({who for _, who in near}) >= len(marks):
            found.append(near[len(near) // 2][0])
    return tuple(found)


def gas_sensors(file: Path) -> Corpus:
    """See the module."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            x, batch = arrays["X"].astype(np.float64), arrays["batch"]
    except (OSError, KeyError, ValueError, EOFError, BadZipFile):
        raise RecordingError(f"{file} is not an .npz file of X and batch") from None
    rng = np.random.default_rng(0)
    features = np.sign(x) * np.log1p(np.abs(x))
    order = np.concatenate([rng.permutation(np.flatnonzero(batch == b)) for b in np.unique(batch)])
    learnt = int((batch == batch.min()).sum()) // 2
    first, rest = features[order[:learnt]], features[order[learnt:]]
    changes = tuple(int(c) for c in np.flatnonzero(np.diff(batch[order[learnt:]])) + 1)
    mean, cov = gaussian(first)
    return {
        "distance": [Labelled(distance(rest, mean, whitening(cov)), changes)],
        "features": [Labelled(column, changes) for column in rest.T[::8]],
    }


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RecordingError(f"{file} is not JSON") from None
    if not isinstance(content, dict):
        raise RecordingError(f"{file} is not as expected: no object of names")
    return content
