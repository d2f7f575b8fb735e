"""The demo, from the recording to the picture, with a real broker and a real daemon process."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.runtime.conftest import Tiny
from trimtab.runtime.cli import cli
from trimtab.runtime.cli.demo import NEEDED
from trimtab.runtime.decisions import Decision, Event
from trimtab.runtime.demo import demo, windows_of
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.live_view import LiveView, describe
from trimtab.runtime.recordings import Recording


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 seconds of the tiny bundle's sensor: its second half is upside down."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("demo") / "moved.npz"
    x = rng.normal(0, 2, (480, 3))
    x[240:] *= -1
    np.savez(
        path,
        allow_pickle=False,
        x=x,
        time=500 + np.arange(480) / 16,
        stream=np.full(480, "sensors/tiny"),
        label=np.where(rng.random(480) < 0.5, "yes", "no"),
        segment=np.repeat(["up", "down"], 240),
    )
    return path


def test_the_daemon_decides_on_every_window_of_the_recording(tiny: Tiny, moved: Path, tmp_path: Path) -> None:
    screen = io.StringIO()
    outcome = demo(tiny.bundle, moved, tmp_path / "out", 1.0, screen, "A test")
    assert outcome.adapted.total.windows == outcome.static.total.windows == 59
    assert [p.name for p in outcome.adapted.parts] == ["up", "down"]
    # In so short a stream nothing can be adapted, so that the daemon must say what the replay says.
    assert outcome.adapted.total.score == outcome.static.total.score
    assert all(file.stat().st_size > 0 for file in outcome.files)
    decisions = [json.loads(line) for line in (tmp_path / "out" / "decisions.jsonl").read_text().splitlines()]
    assert [d["sequence"] for d in decisions] == list(range(59))
    assert "59 / 59  down: accuracy" in screen.getvalue()
    log = (tmp_path / "out" / "daemon.log").read_text()
    assert "stopped after 59 decisions" in log


def test_a_daemon_that_cannot_start_is_quoted(tiny: Tiny, moved: Path, tmp_path: Path) -> None:
    (tmp_path / "journal.db").mkdir()  # the journal cannot be written where a folder is
    with pytest.raises(ConfigError, match=r"the daemon has ended: .*journal.* \(its log: .*daemon\.log\)"):
        demo(tiny.bundle, moved, tmp_path, 1.0, io.StringIO(), "A test")


def test_only_one_labelled_stream_can_be_played(tiny: Tiny, moved: Path) -> None:
    blocks = list(Recording(moved, tiny.bundle.manifest).blocks())
    assert len(windows_of(blocks, tiny.bundle)) == 59
    blocks[0].stream = "another"
    with pytest.raises(ConfigError, match="plays one stream"):
        windows_of(blocks, tiny.bundle)


@pytest.mark.parametrize(
    ("number", "status", "words"), [(signal.SIGINT, 130, "stopped\n"), (signal.SIGTERM, 143, "")], ids=["int", "term"]
)
def test_a_signal_stops_everything(number: signal.Signals, status: int, words: str, tmp_path: Path) -> None:
    pytest.importorskip("seglearn")
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from trimtab.runtime.cli import main; main()", "demo", "--out", str(out)]
    process = subprocess.Popen([*command, "--seconds", "600"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    log = out / "daemon.log"
    deadline = time.monotonic() + 60
    while not (log.is_file() and "connected to" in log.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.decode()) == (status, words)
    assert "stopped after" in log.read_text()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "seglearn" else found(name))
    result = CliRunner().invoke(cli, ["demo"])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "the demo needs seglearn; pip install 'trimtab[demo]'"
    assert "torch" not in NEEDED


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


HEADING = "a watch moves (a broker on 127.0.0.1:1883)"


@pytest.mark.parametrize(("columns", "heading"), [("100", HEADING), ("45", "a watch moves")])
def test_the_heading_is_cut_where_its_brackets_begin(
    monkeypatch: pytest.MonkeyPatch, columns: str, heading: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    screen = Terminal()
    LiveView(screen, ["right"] * 10, HEADING).close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", screen.getvalue())
    assert text.splitlines()[0] == f"trimtab  {heading}"


def test_the_live_view_draws_the_whole_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    screen = Terminal()
    segments = ["right"] * 100 + ["left"] * 100
    view = LiveView(screen, segments, "a heading")
    for i, segment in enumerate(segments):
        output = "yes" if segment == "right" or i > 150 else "no"
        state = "drifted" if 110 < i < 150 else "stable"
        version = int(i > 150)
        view.decided(Decision("s", i, i, output, 0.9, version, state, None, "yes", segment), segment == "right")
    view.happened(Event("drift/s", {"sequence": 107, "signal": "distance", "statistic": 9.0, "threshold": 7.0}))
    view.happened(
        Event("adaptation/s", {"sequence": 150, "from": 0, "to": 1, "accepted": True, "methods": ["bias_vector"]})
    )
    view.happened(Event("state/s", {"sequence": 150, "state": "stable"}))
    view.close()
    text = screen.getvalue()
    assert text.startswith("\x1b[?25l")
    assert text.endswith("\x1b[?25h")
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text[text.rindex("A\r\x1b[2K") + 1 :]).splitlines()
    assert all(len(line) <= 90 for line in last)
    assert last[0] == "trimtab  a heading"
    assert last[2].split() == ["right", "│left"]
    assert last[3].endswith(" 49 % now")
    assert last[4].endswith("  0 % now")
    assert last[5].endswith("stable")
    assert re.fullmatch(r"window 200 of 200 \([\d,]+/s\)   left   parameters: version 1", last[7])
    assert last[9] == "    107  drift       alarm on distance: 9 passes 7"
    assert last[10] == "    150  adapted     version 0 -> 1 by bias vector"


def test_events_as_sentences() -> None:
    def said(**payload: object) -> tuple[str, str] | None:
        return describe(Event("adaptation/s", {"sequence": 1, "from": 2, "to": 1, "methods": [], **payload}))

    assert said(accepted=False, rolled_back=True) == ("rolled back", "version 2 was worse after all; back to 1")
    assert said(accepted=False) == ("declined", "nothing tried was clearly better; the model stays as it is")
