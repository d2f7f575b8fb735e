"""`trimtab versions`, over journals that real pipelines made."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.runtime.conftest import CHANNELS, ROWS, Tiny
from trimtab.runtime.blocks import Block
from trimtab.runtime.cli import main
from trimtab.runtime.clock import SimulatedClock
from trimtab.runtime.config import load_config
from trimtab.runtime.executors import InlineExecutor
from trimtab.runtime.journal import Journal, Turn
from trimtab.runtime.pipeline import Pipeline
from trimtab.runtime.sessions import Engine

MORNING = 1_790_000_000.0


@pytest.fixture
def file(tiny: Tiny, tmp_path: Path) -> Path:
    """A configuration."""
    path = tmp_path / "box.yaml"
    path.write_text(yaml.safe_dump({"bundle": str(tiny.bundle.path), "node": "box", "streams": [{"topic": "in/+"}]}))
    return path


@pytest.fixture
def pipeline(file: Path, tiny: Tiny) -> Pipeline:
    """Two streams that have decided windows; `in/a` has had three versions and is pinned, `in/b` is paused."""
    config, clock, executor = load_config(file), SimulatedClock(MORNING), InlineExecutor()
    engine = Engine(tiny.bundle, config.sessions, executor)
    pipeline = Pipeline(tiny.bundle, config, engine, clock, executor, resumable=True)
    for name in ("in/b", "in/a"):
        rows = np.random.default_rng(0).normal(0, 2, (ROWS, CHANNELS)).astype(np.float32)
        pipeline.offer(Block(name, clock.now(), rows))
    while (due := pipeline.due()) is not None:
        clock.advance_to(due)
        pipeline.step()
    versions = pipeline.streams["in/a"].adaptation.versions
    evidence = {"gain": 3.21478, "chance": 0.00123456, "held": 64.0, "classes": 1.9, "runs": math.inf}
    versions.add(tiny.theta(1), "input_calibration", evidence, MORNING + 90)
    versions.add(tiny.theta(2), "norm_statistics+bias_vector", {"accuracy": 0.9, "accuracy_now": 0.75}, MORNING + 180)
    clock.advance_to(MORNING + 270)
    pipeline.command("rollback", "in/a")
    pipeline.command("pin", "in/a")
    pipeline.command("pause", "in/b")
    return pipeline


def journalled(pipeline: Pipeline, file: Path, bundle: str) -> Journal:
    """As the daemon writes it."""
    journal = Journal(file.with_suffix(".journal.db"), bundle)
    streams = {name: pipeline.snapshot(name) for name in pipeline.streams}
    adaptations = {name: stream.adaptation for name, stream in pipeline.streams.items()}
    versions = {n: (a.versions.state(), a.versions.to_rows()) for n, a in adaptations.items() if a.changed}
    journal.write(Turn(streams=streams, versions=versions))
    return journal


class Trimtab:
    """The console script, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: str | Path) -> tuple[object, str, str]:
        """Exit status, stdout and stderr."""
        self._monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        return ended.value.code, said.out, said.err


@pytest.fixture
def trimtab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Trimtab:
    return Trimtab(monkeypatch, capsys)


A = """\
in/a: stable, version 1 since 2026-09-21T14:17:50Z, pinned
   version  when                  parent  method                       evidence
   0        -                     -       source                       -
*  1        2026-09-21T14:14:50Z  0       input_calibration            gain 3.21, chance 0.00123, held 64
   2        2026-09-21T14:16:20Z  1       norm_statistics+bias_vector  accuracy 0.9, accuracy_now 0.75
"""
B = """\
in/b: stable, version 0, not pinned, paused
   version  when  parent  method  evidence
*  0        -     -       source  -
"""


def test_the_tables_while_the_journal_is_written_and_afterwards(
    pipeline: Pipeline, file: Path, tiny: Tiny, trimtab: Trimtab
) -> None:
    journal = journalled(pipeline, file, tiny.bundle.digest)
    assert trimtab("versions", file) == (0, f"{A}\n{B}", "")
    journal.close()
    assert trimtab("versions", file) == (0, f"{A}\n{B}", "")
    assert trimtab("versions", file, "--stream", "in/b") == (0, B, "")


def test_json_has_all_evidence(pipeline: Pipeline, file: Path, tiny: Tiny, trimtab: Trimtab) -> None:
    journalled(pipeline, file, tiny.bundle.digest).close()
    status, text, _ = trimtab("versions", file, "--json", "--stream", "in/a")
    assert status == 0
    assert json.loads(text) == {
        "node": "box",
        "streams": [
            {
                "stream": "in/a",
                "state": "stable",
                "decided": 1,
                "paused": False,
                "version": 1,
                "since": MORNING + 270,
                "pinned": True,
                "versions": [
                    {"version": 0, "time": None, "parent": None, "method": "source", "evidence": {}},
                    {
                        "version": 1,
                        "time": MORNING + 90,
                        "parent": 0,
                        "method": "input_calibration",
                        "evidence": {
                            "gain": 3.21478, "chance": 0.00123456, "held": 64.0, "classes": 1.9, "runs": None
                        },
                    },
                    {
                        "version": 2,
                        "time": MORNING + 180,
                        "parent": 1,
                        "method": "norm_statistics+bias_vector",
                        "evidence": {"accuracy": 0.9, "accuracy_now": 0.75},
                    },
                ],
            }
        ],
    }  # fmt: skip


def test_what_is_not_there_is_one_sentence(pipeline: Pipeline, file: Path, tiny: Tiny, trimtab: Trimtab) -> None:
    journal = file.with_suffix(".journal.db")
    assert trimtab("versions", file) == (
        2,
        "",
        f"trimtab: {journal}: no such journal; a daemon makes it when it first starts, with `trimtab run`\n",
    )
    Journal(journal, tiny.bundle.digest).close()
    assert trimtab("versions", file) == (0, f"{journal}: no stream has sent anything yet\n", "")
    journalled(pipeline, file, tiny.bundle.digest).close()
    assert trimtab("versions", file, "--stream", "in/c") == (
        2,
        "",
        f"trimtab: {journal}: knows no stream 'in/c'; there are in/a, in/b\n",
    )
    Journal(journal, "another").close()
    status, out, err = trimtab("versions", file)
    assert (status, out) == (2, "")
    assert err.startswith(f"trimtab: {journal}: is of another bundle than the configuration's; ")
    assert err.count("\n") == 1
