"""A small network that combines the scores of several HTM columns into one: an ONNX file, run by ONNX Runtime.

It takes `scores [N, history, D]`, the newest last, and gives `chance [N]`, the chance from 0 to 1 that the newest
record is anomalous. Its metadata holds, as JSON under KEY, what it was trained for (`Recipe`): scores of other columns,
or of an HTM of other sizes, mean something else. `trimtab drift train-combiner` makes one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KEY, VERSION = "trimtab.combiner", 1
INPUT, OUTPUT = "scores", "chance"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a combiner was trained for."""

    columns: tuple[str, ...]
    """Names of the dimensions, in order."""
    history: int
    """Records that it looks at, the newest included."""
    every: float
    """Records between false alarms at `threshold`, by the normal part of its recording."""
    threshold: float
    """An output that reaches it is an alarm."""
    hold: int
    """Records after an alarm without another."""
    options: Mapping[str, int] = field(default_factory=dict)
    """The HTM's, as in the catalogue; those that are left out are the defaults."""

    def text(self) -> str:
        """As JSON."""
        return json.dumps({"version": VERSION, **asdict(self)})

    @staticmethod
    def read(text: str) -> Recipe:
        """Raises ValueError, KeyError or TypeError where it is not one."""
        given = json.loads(text)
        if given.pop("version") != VERSION:
            raise ValueError("another version")
        recipe = Recipe(**{**given, "columns": tuple(given["columns"])})
        if not (recipe.columns and recipe.history >= 1 and 0 < recipe.threshold <= 1 and recipe.hold >= 0):
            raise ValueError("a number is out of range")
        return recipe


class Combiner:
    """A combiner from the ONNX file `path`.

    Raises ValueError where the file is not one, ModuleNotFoundError where ONNX Runtime is not installed; each in one
    sentence.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "a combiner needs ONNX Runtime, which is not installed; install trimtab[cpu]", name="onnxruntime"
            ) from None
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1  # some microseconds of work
        try:
            self._session = onnxruntime.InferenceSession(
                Path(path).read_bytes(), settings, providers=["CPUExecutionProvider"]
            )
            self.recipe = Recipe.read(self._session.get_modelmeta().custom_metadata_map[KEY])
            width = self._session.get_inputs()[0].shape[1:]
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
        except (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.InvalidArgument):
            raise ValueError(f"{path}: is not an ONNX file that ONNX Runtime can run") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: is not a combiner of this version ({error}); make one by `trimtab drift train-combiner`"
            ) from None
        if width != [self.recipe.history, len(self.recipe.columns)]:
            raise ValueError(f"{path}: takes {width}, which is not what its own metadata say; train it again")

    def __call__(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """The chance `[N]` of an anomaly, by `scores [N, history, D]` of the newest records, oldest first."""
        return np.asarray(self._session.run([OUTPUT], {INPUT: scores})[0])
