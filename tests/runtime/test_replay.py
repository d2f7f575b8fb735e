"""Replays through the command line: the same decisions every time, at every speed, from every format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from tests.runtime.conftest import Tiny
from trimtab.examples.watch import BUNDLE, stream
from trimtab.runtime.bundle import load_bundle
from trimtab.runtime.cli import cli
from trimtab.runtime.config import Batch, Config
from trimtab.runtime.decisions import Step
from trimtab.runtime.errors import TrimtabError
from trimtab.runtime.recordings import Recording
from trimtab.runtime.replay import replay, static


def trimtab(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def printed(*arguments: object) -> str:
    result = trimtab(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def sentence(*arguments: object) -> str:
    result = trimtab(*arguments)
    assert isinstance(result.exception, TrimtabError), result.output
    return str(result.exception)


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One person's watch: on the right arm, then the left, then the right again."""
    pytest.importorskip("seglearn")
    watch = stream.build(people=(8,))
    path = tmp_path_factory.mktemp("moved") / "moved.npz"
    np.savez(
        path,
        allow_pickle=False,
        x=watch.values,
        time=watch.time,
        label=np.array(watch.label),
        segment=np.array(watch.segment),
    )
    return path


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds for the tiny bundle: 128 rows at 64 times their pace."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("short") / "short.csv"
    lines = [f"{100 + i / 16},{a},{b},{c},yes" for i, (a, b, c) in enumerate(rng.normal(0, 2, (128, 3)))]
    path.write_text("\n".join(["time,a,b,c,label", *lines]))
    return path


@pytest.mark.parametrize("delay", [0, 40])
def test_errors_in_a_recording_are_real_drift(tiny: Tiny, tmp_path: Path, delay: int) -> None:
    """Labels are what the model says, until most turn round while the input stays as it is."""
    count, turn, file, out = 500, 300, tmp_path / "errors.npz", tmp_path / "decisions.jsonl"
    rng = np.random.default_rng(3)
    values = rng.normal(0, 2, (8 * count + 8, 3)).astype(np.float32)
    labels = np.full(len(values), "", "<U3")

    def write() -> None:
        np.savez(file, allow_pickle=False, x=values, time=1000 + np.arange(len(values)) / 16, label=labels)

    write()
    printed("replay", file, "--bundle", tiny.bundle.path, "--out", out)
    said = [json.loads(line)["label"] for line in out.read_text().splitlines()]
    assert len(said) == count
    wrong = rng.random(count) < np.where(np.arange(count) < turn, 0.1, 0.7)
    labels[15::8] = [{"yes": "no", "no": "yes"}[s] if w else s for s, w in zip(said, wrong, strict=True)]
    write()
    config = tmp_path / "config.yaml"
    text = {"bundle": str(tiny.bundle.path), "drift": {"errors": "sprt_bernoulli", "false_alarms": {"every": 10000}}}
    config.write_text(yaml.safe_dump(text))
    asked = ("replay", file, "--config", config, "--label-delay", delay, "--out", out)
    document = json.loads(printed(*asked, "--json"))
    first = out.read_bytes()
    real = [e for e in document["events"] if e["topic"].startswith("drift/") and e["kind"] == "real"]
    assert turn <= real[0]["sequence"] < turn + 30
    assert document["adapted"]["total"]["alarms_real"] == len(real)
    # A label is known `delay` windows later, in a batch of any size: then the stream is drifted.
    states = [json.loads(line)["state"] for line in first.splitlines()]
    assert "drifted" not in states[real[0]["sequence"] - 20 : real[0]["sequence"] + delay]
    assert states[real[0]["sequence"] + delay] == "drifted"
    config.write_text(yaml.safe_dump({**text, "batch": {"size": 7}}))
    assert "  real" in printed(*asked)
    assert out.read_bytes() == first


def test_errors_without_labels_are_said_not_to_be_watched(tiny: Tiny, short: Path, tmp_path: Path) -> None:
    bare, config = tmp_path / "bare.csv", tmp_path / "config.yaml"
    bare.write_text("\n".join(line.rpartition(",")[0] for line in short.read_text().splitlines()))
    config.write_text(yaml.safe_dump({"bundle": str(tiny.bundle.path), "drift": {"errors": "ddm"}}))
    result = trimtab("replay", bare, "--config", config)
    assert result.exit_code == 0
    assert f"drift.errors: {bare} has no labels, so that no errors were watched" in result.stderr


def test_two_replays_are_the_same_bit_for_bit(moved: Path, tmp_path: Path) -> None:
    outputs = []
    for name in ("one", "two"):
        out = tmp_path / f"{name}.jsonl"
        document = json.loads(printed("replay", moved, "--bundle", BUNDLE, "--out", out, "--json"))
        outputs.append((out.read_bytes(), document["events"], document["adapted"]["segments"]))
    assert outputs[0] == outputs[1]
    decisions, events, segments = outputs[0]
    assert len(decisions.splitlines()) == sum(s["windows"] for s in segments)
    # It is worth comparing only if something happened.
    assert {e["topic"].partition("/")[0] for e in events} == {"drift", "adaptation"}


def test_speed_changes_no_decision(tiny: Tiny, short: Path, tmp_path: Path) -> None:
    out = {speed: tmp_path / f"{speed}.jsonl" for speed in ("max", "1000", "16")}
    for speed, file in out.items():
        printed("replay", short, "--bundle", tiny.bundle.path, "--speed", speed, "--out", file)
    assert out["max"].read_bytes() == out["1000"].read_bytes() == out["16"].read_bytes()
    assert len(out["max"].read_text().splitlines()) == 15


def test_speed_one_takes_the_recordings_time(tiny: Tiny, short: Path) -> None:
    document = json.loads(printed("replay", short, "--bundle", tiny.bundle.path, "--speed", "16", "--json"))
    assert document["adapted"]["seconds"] >= (127 - 7) / 16 / 16


def test_the_moved_watch_beside_the_static_run(moved: Path, tmp_path: Path) -> None:
    picture = tmp_path / "moved.png"
    options = ("--compare", "static", "--plot", picture, "--json")
    document = json.loads(printed("replay", moved, "--bundle", BUNDLE, *options))
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    before, after = (document[k]["segments"] for k in ("static", "adapted"))
    assert [s["segment"] for s in after] == ["right", "left", "back"]
    assert before[0] == after[0]
    assert before[1]["accuracy"] < 0.5
    assert document["static"]["total"]["adaptations"] == 0
    assert document["static"]["total"]["alarms"] > 0


def test_the_closing_table_of_a_fixed_recording(tiny: Tiny, short: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "d.jsonl", tmp_path / "p.png"
    text = printed("replay", short, "--bundle", tiny.bundle.path, "--out", out, "--plot", picture)
    alarms = json.loads(printed("replay", short, "--bundle", tiny.bundle.path, "--json"))["adapted"]["total"]["alarms"]
    decided = [line["label"] for line in _decisions(tiny, short)]
    share = f"{100 * decided.count('yes') / 15:.1f} %"
    assert text.splitlines()[:3] == [
        "segment  windows  accuracy  after 256 windows  alarms  delay  adaptations  rolled back",
        "───────  ───────  ────────  ─────────────────  ──────  ─────  ───────────  ───────────",
        f"all           15  {share:>8}                  -  {alarms:>6}      -            0            0",
    ]
    assert text.splitlines()[3].startswith("latency of a window: p50 ")
    assert text.splitlines()[4:] == [f"written: {out}", f"written: {picture}"]


def _decisions(tiny: Tiny, recording: Path) -> list[dict[str, object]]:
    found = []

    class Keep:
        def take(self, step: Step, seconds: float) -> None:
            found.extend(d.payload() for d in step.decisions)

    blocks = Recording(recording, tiny.bundle.manifest).blocks()
    replay(tiny.bundle, Config(bundle=tiny.bundle.path), blocks, [Keep()])
    return found


def test_decisions_are_the_models(tiny: Tiny, short: Path) -> None:
    rows = np.loadtxt(short, delimiter=",", skiprows=1, usecols=(1, 2, 3), dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(rows, 16, axis=0)[::8]
    y, _, _ = tiny.reference(tiny.source, windows)
    labels = [["no", "yes"][k] for k in y.argmax(axis=1)]
    decisions = _decisions(tiny, short)
    assert [d["label"] for d in decisions] == labels
    assert [d["time"] for d in decisions] == [100 + (15 + 8 * i) / 16 for i in range(15)]


def test_many_streams_share_batches(tiny: Tiny, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    lines = ["time,stream,a,b,c"]
    for i in range(64):
        for name in ("p", "q", "r"):
            lines.append(f"{i / 16},{name}," + ",".join(f"{v:.3f}" for v in rng.normal(0, 2, 3)))
    (tmp_path / "many.csv").write_text("\n".join(lines))
    sizes = []

    class Sizes:
        def take(self, step: Step, seconds: float) -> None:
            sizes.append(len(step.decisions))

    config = Config(bundle=tiny.bundle.path)
    replay(tiny.bundle, config, Recording(tmp_path / "many.csv", tiny.bundle.manifest).blocks(), [Sizes()])
    assert sizes == [21]


def test_where_batches_are_cut_makes_no_difference(moved: Path) -> None:
    """To the last bit, over alarms and switches of the vector."""
    bundle = load_bundle(BUNDLE)
    said = []

    class Notes:
        def take(self, step: Step, seconds: float) -> None:
            for decision in step.decisions:
                said[-1].setdefault(decision.stream, []).append(decision)
            for event in step.events:
                said[-1].setdefault(event.topic, []).append(event.payload)

    blocks = list(Recording(moved, bundle.manifest).blocks())[300:600]
    for size in (1, 7, 64):
        said.append({})
        replay(bundle, Config(bundle=BUNDLE, batch=Batch(size=size)), blocks, [Notes()])
    assert said[0] == said[1] == said[2]
    assert {topic.partition("/")[0] for topic in said[0]} >= {"drift", "adaptation", "state"}


def test_static_turns_adaptation_off_and_nothing_else(tiny: Tiny) -> None:
    config = Config(bundle=tiny.bundle.path)
    assert static(config).adaptation.policy == "off"
    assert static(config).model_copy(update={"adaptation": config.adaptation}) == config


def test_the_configuration_is_taken_from_its_file(tiny: Tiny, short: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"bundle": str(tiny.bundle.path), "batch": {"size": 4, "deadline": 1000}}))
    assert json.loads(printed("replay", short, "--config", file, "--json"))["adapted"]["total"]["windows"] == 15


def test_what_is_wrong_is_one_sentence(tiny: Tiny, short: Path, tmp_path: Path) -> None:
    bundle = tiny.bundle.path
    assert "--bundle: is missing" in sentence("replay", short)
    assert "none.csv: no such file" in sentence("replay", tmp_path / "none.csv", "--bundle", bundle)
    assert "no such folder" in sentence("replay", short, "--bundle", tmp_path / "none")
    assert "cannot be written" in sentence("replay", short, "--bundle", bundle, "--out", tmp_path / "no" / "d.jsonl")
    assert "cannot be written" in sentence("replay", short, "--bundle", bundle, "--plot", tmp_path / "no" / "d.png")
    assert "cannot be written" in sentence("replay", short, "--bundle", bundle, "--plot", tmp_path / "d.mp3")
    assert "--publish: the broker and the topic" in sentence("replay", short, "--bundle", bundle, "--publish")
    (tmp_path / "few.csv").write_text("a,b,c\n1,2,3\n")
    assert sentence("replay", tmp_path / "few.csv", "--bundle", bundle) == (
        f"{tmp_path / 'few.csv'}: gave no window: the bundle takes 16 rows at 16 rows a second without a gap; "
        "give a longer recording, or mend its times"
    )
    result = trimtab("replay", short, "--bundle", bundle, "--speed", "fast")
    assert result.exit_code == 2
    assert "'fast' is no speed; give max, or a number such as 1 or 20" in result.output


def test_the_shipped_bundle_serves() -> None:
    assert load_bundle(BUNDLE).manifest.window is not None
