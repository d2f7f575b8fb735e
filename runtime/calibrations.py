"""Files of `trimtab drift calibrate`: recordings without drift, what detectors made of them, and where all came from.

A file holds the recording itself, since a detector's thresholds are only a part of what it takes from that: mean,
deviation, how far values hang together, a cycle. A detector is made from it anew, and must come to the threshold that
the file says.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimtab.drift.calibration import Calibration
from trimtab.drift.catalogue import build, checked
from trimtab.runtime.errors import ConfigError

FORMAT = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Recorded(_Strict):
    """The recording."""

    file: str
    column: str
    sha256: str
    """Of the file."""
    values: list[float | None]
    """Of the column, in order; None where there was no number."""


class Calibrations(_Strict):
    """All of a file."""

    format: Literal[1]
    trimtab: str
    recording: Recorded
    calibrations: Annotated[list[Calibration], Field(min_length=1)]

    def reference(self) -> NDArray[np.float64]:
        """The recording `[n]`, NaN where there was no number."""
        return np.array(self.recording.values, np.float64)

    def of(self, file: Path, detector: str) -> list[Calibration]:
        """A detector's calibrations, one a rate. Raises ConfigError where there is none."""
        found = [entry for entry in self.calibrations if entry.detector == detector]
        if not found:
            held = ", ".join(dict.fromkeys(entry.detector for entry in self.calibrations))
            raise ConfigError(f"{file} holds no calibration of {detector}; it holds {held}")
        return found

    def choose(self, file: Path, detector: str, every: float | None) -> Calibration:
        """A detector's calibration, at a rate where it has several. Raises ConfigError where that names none."""
        found = self.of(file, detector)
        fitting = [entry for entry in found if every in (None, entry.every)]
        if len(fitting) == 1:
            return fitting[0]
        rates = ", ".join(f"{entry.every:g}" for entry in found)
        raise ConfigError(f"{file} holds calibrations of {detector} for one false alarm in {rates}; choose by --every")

    def fitting(self, file: Path, detector: str, every: float, options: Mapping[str, Any]) -> Calibration:
        """The calibration of a box's detector. Raises ConfigError, one sentence, where there is none, or the detector
        made from the recording now comes to another threshold."""
        again = f"calibrate again with --detector {detector} --every {every:g}"
        found = [entry for entry in self.calibrations if entry.detector == detector]
        if not found:
            held = ", ".join(dict.fromkeys(entry.detector for entry in self.calibrations))
            raise ConfigError(f"{file} is of {held} where drift.detector is {detector}; {again}")
        wanted = checked(detector, options)
        found = [entry for entry in found if checked(detector, entry.options) == wanted]
        if not found:
            said = ", ".join(f"{key} {value}" for key, value in options.items()) or "none"
            raise ConfigError(f"{file} was made with other options than drift.options ({said}); {again} and those")
        for entry in found:
            if math.isclose(entry.every, every, rel_tol=1e-9):
                self.verify(file, entry)
                return entry
        rates = ", ".join(f"{entry.every:g}" for entry in found)
        raise ConfigError(
            f"{file} is for one false alarm in {rates} values where drift.false_alarms leaves each signal one in "
            f"{every:g}; {again}, or set drift.false_alarms"
        )

    def verify(self, file: Path, entry: Calibration) -> None:
        """Raises ConfigError where a detector made from the recording comes to another threshold than the file says."""
        try:
            made = build(entry.detector, every=entry.every, options=entry.options, reference=self.reference())
        except ValueError as error:
            raise ConfigError(f"{file}: {error}; calibrate again") from None
        if not math.isclose(made.update(math.nan).threshold, entry.threshold, rel_tol=1e-6):
            raise ConfigError(
                f"{file} was written by trimtab {self.trimtab} or changed since: {entry.detector} now comes to another "
                "threshold than it says; calibrate again"
            )


def write(out: Path, recording: Path, column: str, values: NDArray[np.float64], found: Sequence[Calibration]) -> None:
    """Write `out`. Raises ConfigError where that cannot be."""
    text = json.dumps(
        {
            "format": FORMAT,
            "trimtab": version("trimtab"),
            "recording": {
                "file": recording.name,
                "column": column,
                "sha256": digest(recording),
                "values": [v if math.isfinite(v) else None for v in values.tolist()],
            },
            "calibrations": [asdict(f) for f in found],
        },
        allow_nan=False,
    )
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror})") from None


def read(file: Path) -> Calibrations:
    """Read a file of `trimtab drift calibrate`. Raises ConfigError, in one sentence, where it is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read ({error.strerror}); give a file written by `trimtab drift calibrate --out`"
        ) from None
    except ValueError:
        raise ConfigError(f"{file} is not JSON; give a file written by `trimtab drift calibrate --out`") from None
    try:
        return Calibrations.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ConfigError(
            f"{file}: {where}: {first['msg'].lower()}; give a file written by `trimtab drift calibrate --out`"
        ) from None


def digest(recording: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    return hashlib.sha256(recording.read_bytes()).hexdigest()
