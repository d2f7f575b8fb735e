"""Recordings in every format, round trips, and the sentence for each thing that can be wrong with one."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.runtime.conftest import Tiny
from trimtab.runtime.blocks import Block
from trimtab.runtime.bundle import Input, Manifest
from trimtab.runtime.errors import RecordingError
from trimtab.runtime.recordings import Recording
from trimtab.runtime.windows import Windower

RATE, ROWS, HOP = 16.0, 16, 8
Table = dict[str, list[Any]]


def write_csv(path: Path, table: Table) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(["" if v is None else v for v in row] for row in zip(*table.values(), strict=True))


def write_parquet(path: Path, table: Table) -> None:
    pq.write_table(pa.table(table), path, row_group_size=50)


def write_jsonl(path: Path, table: Table) -> None:
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_npz(path: Path, table: Table) -> None:
    x = np.array([table["a"], table["b"], table["c"]], np.float64).T
    others = {k: np.array(["" if e is None else e for e in v]) for k, v in table.items() if k not in "abc"}
    np.savez(path, allow_pickle=False, x=x, **others)


WRITERS: dict[str, Callable[[Path, Table], None]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "jsonl": write_jsonl,
    "npz": write_npz,
}


def rows(n: int, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 3, (n, 3)).astype(np.float32).astype(np.float64)
    return {
        "time": [1000.0 + i / RATE for i in range(n)],
        "a": x[:, 0].tolist(),
        "b": x[:, 1].tolist(),
        "c": x[:, 2].tolist(),
    }


def read(path: Path, tiny: Tiny) -> list[Block]:
    return list(Recording(path, tiny.bundle.manifest).blocks())


def values(blocks: list[Block]) -> NDArray[np.float32]:
    return np.concatenate([np.asarray(b.values) for b in blocks])


@pytest.mark.parametrize("suffix", WRITERS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.integers(1, 120).flatmap(
        lambda n: st.fixed_dictionaries(
            {
                "time": st.lists(st.integers(0, 5000), min_size=n, max_size=n).map(lambda v: sorted(i / 8 for i in v)),
                **{c: st.lists(st.floats(width=32, allow_nan=True), min_size=n, max_size=n) for c in ("a", "b", "c")},
                "stream": st.lists(st.sampled_from(["left", "right"]), min_size=n, max_size=n),
                "label": st.lists(st.sampled_from(["no", "yes", None]), min_size=n, max_size=n),
                "segment": st.lists(st.sampled_from(["one", "two"]), min_size=n, max_size=n),
            }
        )
    )
)
def test_what_is_written_is_read(suffix: str, table: Table, tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / f"recording.{suffix}"
    WRITERS[suffix](path, table)
    blocks = read(path, tiny)
    for stream in set(table["stream"]):
        mine = [b for b in blocks if b.stream == stream]
        which = [i for i, s in enumerate(table["stream"]) if s == stream]
        expected = np.array([[table[c][i] for c in "abc"] for i in which], np.float32)
        np.testing.assert_array_equal(values(mine), expected)
        assert [label for b in mine for label in b.labels or []] == [table["label"][i] for i in which]
        assert [b.segment for b in mine for _ in b.values] == [table["segment"][i] for i in which]
        ends = np.cumsum([len(b.values) for b in mine]) - 1
        assert [b.time for b in mine] == [table["time"][which[e]] for e in ends]


@pytest.mark.parametrize("suffix", WRITERS)
def test_blocks_end_where_windows_end(suffix: str, tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / f"wrist.{suffix}"
    WRITERS[suffix](path, rows(100))
    blocks = read(path, tiny)
    assert [len(np.asarray(b.values)) for b in blocks] == [8] * 12 + [4]
    assert {b.stream for b in blocks} == {"wrist"}
    windower = Windower("wrist", 3, tiny.bundle.manifest.window)  # type: ignore[arg-type]
    for block in blocks[:-1]:
        for sample in windower.push(block):
            assert sample.time == block.time == 1000.0 + (ROWS + sample.sequence * HOP - 1) / RATE


def test_a_gap_begins_a_new_window(tiny: Tiny, tmp_path: Path) -> None:
    table = rows(60)
    table["time"] = [t + (20.0 if i >= 29 else 0.0) for i, t in enumerate(table["time"])]
    write_csv(tmp_path / "gap.csv", table)
    blocks = read(tmp_path / "gap.csv", tiny)
    assert [len(np.asarray(b.values)) for b in blocks] == [8, 8, 8, 5, 8, 8, 8, 7]


def test_a_long_recording_is_read_in_chunks_that_leave_no_trace(tiny: Tiny, tmp_path: Path) -> None:
    n = 20_001  # more than two chunks, and no multiple of anything
    table = rows(n) | {"segment": ["a" if i < 8192 else "b" for i in range(n)]}
    write_csv(tmp_path / "long.csv", table)
    write_npz(tmp_path / "long.npz", table)
    blocks, other = read(tmp_path / "long.csv", tiny), read(tmp_path / "long.npz", tiny)
    assert [(b.time, b.segment, len(np.asarray(b.values))) for b in blocks] == [
        (b.time, b.segment, len(np.asarray(b.values))) for b in other
    ]
    np.testing.assert_array_equal(values(blocks), values(other))
    assert all(len(np.asarray(b.values)) == HOP for b in blocks[:-1])


def test_progress_ends_at_the_total(tiny: Tiny, tmp_path: Path) -> None:
    for suffix, write in WRITERS.items():
        write(tmp_path / f"r.{suffix}", rows(9000))
        recording = Recording(tmp_path / f"r.{suffix}", tiny.bundle.manifest)
        seen = [recording.done for _ in recording.blocks()]
        assert seen == sorted(seen)
        assert 0 < recording.done <= recording.total


def test_times_may_be_absent_or_iso(tiny: Tiny, tmp_path: Path) -> None:
    table = rows(40)
    iso = [datetime.fromtimestamp(t, UTC).isoformat() for t in table["time"]]
    naive = [t.removesuffix("+00:00") for t in iso]
    expected = [b.time for b in _written(tmp_path, table, tiny)]
    assert [b.time for b in _written(tmp_path, table | {"time": iso}, tiny)] == expected
    assert [b.time for b in _written(tmp_path, table | {"time": naive}, tiny)] == expected
    stamps = pa.array(np.array(naive, "datetime64[us]"))
    pq.write_table(pa.table(table | {"time": stamps}), tmp_path / "t.parquet")
    assert [b.time for b in read(tmp_path / "t.parquet", tiny)] == expected
    del table["time"]
    assert [b.time + 1000.0 for b in _written(tmp_path, table, tiny)] == expected


def _written(tmp_path: Path, table: Table, tiny: Tiny) -> list[Block]:
    write_csv(tmp_path / "times.csv", table)
    return read(tmp_path / "times.csv", tiny)


def test_columns_are_found_by_name_or_by_count(tiny: Tiny, tmp_path: Path) -> None:
    table = rows(20)
    extra = {"battery": [0.5] * 20, "c": table["c"], "note": ["x"] * 20, "a": table["a"], "b": table["b"]}
    unnamed = {"time": table["time"], "p": table["a"], "q": table["b"], "note": ["x"] * 20, "r": table["c"]}
    expected = values(_written(tmp_path, table, tiny))
    np.testing.assert_array_equal(values(_written(tmp_path, extra, tiny)), expected)
    np.testing.assert_array_equal(values(_written(tmp_path, unnamed, tiny)), expected)
    write_parquet(tmp_path / "u.parquet", unnamed)
    np.testing.assert_array_equal(values(read(tmp_path / "u.parquet", tiny)), expected)


def test_missing_cells_are_nan(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("a;b;c\n1;;3\nNaN;null;inf\n\n4;5;6\n")
    np.testing.assert_array_equal(
        values(read(tmp_path / "m.csv", tiny)), np.array([[1, np.nan, 3], [np.nan, np.nan, np.inf], [4, 5, 6]])
    )
    (tmp_path / "m.jsonl").write_text('{"a": 1, "b": null, "c": NaN}\n{"a": 1e400, "b": 2, "c": 3}\n')
    np.testing.assert_array_equal(
        values(read(tmp_path / "m.jsonl", tiny)), np.array([[1, np.nan, np.nan], [np.inf, 2, 3]])
    )


def test_recorded_messages_stay_as_they_were(tiny: Tiny, tmp_path: Path) -> None:
    lines = [
        {"time": 10.0, "stream": "one", "values": [[1, 2, 3], [4, 5, 6]]},
        {"time": 10.0, "stream": "two", "values": [7, 8, 9], "label": "yes"},
        {"time": 10.1, "stream": "one", "values": [[None, 2, 3]] * 3},
    ]
    (tmp_path / "mqtt.jsonl").write_text("\n".join(map(json.dumps, lines)))
    blocks = read(tmp_path / "mqtt.jsonl", tiny)
    assert [(b.stream, b.time, len(np.asarray(b.values))) for b in blocks] == [
        ("one", 10.0, 2),
        ("two", 10.0, 1),
        ("one", 10.1, 3),
    ]
    assert np.isnan(np.asarray(blocks[2].values)[:, 0]).all()


@pytest.fixture(scope="module")
def images(tiny: Tiny) -> Manifest:
    """Whole samples of two inputs; the bundle's graphs do not matter here."""
    inputs = [Input(name="x", shape=[2, 3]), Input(name="z", shape=[4])]
    return tiny.bundle.manifest.model_copy(update={"window": None, "inputs": inputs})


def test_whole_samples(images: Manifest, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, z = rng.random((5, 2, 3), np.float32), rng.random((5, 4), np.float32)
    np.savez(tmp_path / "s.npz", allow_pickle=False, x=x, z=z, label=np.array(["no", "yes", "", "no", "no"]))
    lines = [{"values": {"x": a.tolist(), "z": b.tolist()}} for a, b in zip(x, z, strict=True)]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for suffix in ("npz", "jsonl"):
        blocks = list(Recording(tmp_path / f"s.{suffix}", images).blocks())
        assert [b.time for b in blocks] == [0, 1, 2, 3, 4]
        for block, a, b in zip(blocks, x, z, strict=True):
            assert isinstance(block.values, dict)
            np.testing.assert_array_equal(block.values["x"], a)
            np.testing.assert_array_equal(block.values["z"], b)
    assert [b.labels for b in Recording(tmp_path / "s.npz", images).blocks()] == [
        ["no"],
        ["yes"],
        [None],
        ["no"],
        ["no"],
    ]


def test_regression_labels_are_numbers(tiny: Tiny, tmp_path: Path) -> None:
    manifest = tiny.bundle.manifest.model_copy(update={"task": "regression", "classes": [], "targets": ["speed"]})
    (tmp_path / "r.csv").write_text("a,b,c,label\n1,2,3,0.5\n1,2,3,\n")
    assert [b.labels for b in Recording(tmp_path / "r.csv", manifest).blocks()] == [[0.5, None]]
    (tmp_path / "r.csv").write_text("a,b,c,label\n1,2,3,fast\n")
    with pytest.raises(RecordingError, match=r"line 2: label: 'fast' is no number; give a number"):
        list(Recording(tmp_path / "r.csv", manifest).blocks())


WRONG: list[tuple[str, str | bytes, str]] = [
    ("r.txt", "a,b,c\n", r"r\.txt: a recording is one of \.csv, \.parquet, \.npz, \.jsonl, \.ndjson"),
    ("r.csv", "", r"is empty; begin it with a line of column names"),
    ("r.csv", "a,b,c\n", r"holds no rows; record some first"),
    ("r.csv", "1,2,3\n4,5,6\n", r"line 1: holds numbers; begin the file with a line of column names"),
    ("r.csv", "a,b\n1,2\n", r"the columns c are missing; add them"),
    ("r.csv", "p,q\n1,2\n", r"the bundle takes the columns a, b, c, the recording has p, q; rename or drop"),
    ("r.csv", "p,q,r,s\n1,2,3,4\n", r"takes the columns a, b, c, the recording has p, q, r, s"),
    ("r.csv", "a,b,c,a\n1,2,3,4\n", r"the column 'a' is there twice; rename one"),
    ("r.csv", "a,b,c\n1,2,3\n1,2\n", r"line 3: has 2 cells where the header has 3; mend that line"),
    ("r.csv", "a,b,c\n1,2,3\n1,two,3\n", r"line 3: b: 'two' is no number; give a number, or leave it empty"),
    ("r.csv", "a;b;c\n1;2,5;3\n", r"line 2: b: '2,5' is no number"),
    ("r.csv", "time,a,b,c\n2,1,1,1\n1,1,1,1\n", r"line 3: time: is earlier than in line 2; sort the recording"),
    ("r.csv", "time,a,b,c\n1,1,1,1\n,1,1,1\n", r"line 3: time: is missing; give Unix seconds or ISO 8601"),
    ("r.csv", "time,a,b,c\nnoon,1,1,1\n", r"line 2: time: 'noon' is no time; give Unix seconds or ISO 8601"),
    ("r.csv", "time,a,b,c\n1700000000000,1,1,1\n", r"line 2: time: 1700000000000 is no time in Unix seconds"),
    ("r.csv", "time,a,b,c\n-1,1,1,1\n", r"line 2: time: -1 is no time in Unix seconds"),
    ("r.csv", "a,b,c,label\n1,2,3,yes\n1,2,3,maybe\n", r"line 3: label: 'maybe' is none of the bundle's classes no, y"),
    ("r.csv", b"a,b,c\n1,2,3\n\xff\xfe,2,3\n", r"line 3: is not UTF-8; save the file as UTF-8"),
    ("r.csv", 'a,b,c\n"' + "x" * 200_000 + '",2,3\n', r"line 2: is not CSV \(field larger than field limit"),
    ("r.jsonl", "", r"holds no rows"),
    ("r.jsonl", '{"a": 1, "b": 2, "c": 3}\n{"a": 1,\n', r"line 2: is not JSON \(.*\); mend that line"),
    ("r.jsonl", "[" * 100_000, r"line 1: is not JSON"),
    ("r.jsonl", "[1, 2, 3]\n", r"line 1: is no JSON object; give one object a line"),
    ("r.jsonl", '{"a": 1, "b": 2, "c": 3}\n{"a": 1, "b": 2}\n', r"line 2: c: is missing; give every channel"),
    ("r.jsonl", '{"a": 1, "b": "2", "c": 3}\n', r"line 1: b: '2' is no number; give a number, or null"),
    ("r.jsonl", '{"values": [[1, 2, 3], [1, 2]]}\n', r"line 1: values: rows differ in length"),
    (
        "r.jsonl",
        '{"values": [[1, 2, 3]]}\n{"values": [1, 2]}\n',
        r"line 2: values: has the shape \[2\]; give rows",
    ),
    ("r.jsonl", '{"values": "abc"}\n', r"line 1: values: holds something that is no number"),
    ("r.jsonl", '{"values": [1, 2, 3]}\n{"a": 1}\n', r"line 2: values: is missing; give it in every line, or in none"),
    ("r.jsonl", '{"values": [1, 2, 3], "label": []}\n', r"line 1: label: \[\] is no label"),
    ("r.jsonl", '{"time": true, "values": [1, 2, 3]}\n', r"line 1: time: True is no time"),
    ("r.parquet", "PAR1", r"is not Parquet \(.*\); write it again"),
    ("r.npz", "nothing", r"cannot be read \(.*\); write it with numpy.savez from plain arrays"),
    ("r.npz", "", r"cannot be read \(.*\); write it with numpy.savez"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), WRONG, ids=range(len(WRONG)))
def test_each_mistake_has_its_sentence(
    name: str, content: str | bytes, sentence: str, tiny: Tiny, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecordingError, match=sentence) as found:
        read(path, tiny)
    assert str(found.value).startswith(str(path))
    assert "\n" not in str(found.value)


WRONG_ARRAYS: list[tuple[dict[str, Any], str]] = [
    ({"y": np.zeros((4, 3))}, r"the array 'x' is missing"),
    ({"x": np.zeros((4, 2))}, r"x: has the shape \[4, 2\]; store it as \[n, 3\]"),
    ({"x": np.zeros((4, 3), "U3")}, r"x: holds <U3; store numbers"),
    ({"x": np.zeros((4, 3)), "time": np.arange(3)}, r"time: has the shape \[3\] where the recording has 4 rows"),
    ({"x": np.zeros((4, 3)), "label": np.zeros((4, 2))}, r"label: has the shape \[4, 2\]"),
    ({"x": np.zeros((4, 3)), "time": np.array([1, 2, 3, np.nan])}, r"row 4: time: is missing"),
    ({"x": np.zeros((0, 3))}, r"holds no rows"),
    ({"x": np.zeros((4, 3)), "label": np.array(["yes", "no", "?", ""])}, r"row 3: label: '\?' is none of"),
]


@pytest.mark.parametrize(("arrays", "sentence"), WRONG_ARRAYS, ids=range(len(WRONG_ARRAYS)))
def test_each_wrong_array_has_its_sentence(arrays: dict[str, Any], sentence: str, tiny: Tiny, tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", allow_pickle=False, **arrays)
    with pytest.raises(RecordingError, match=sentence):
        read(tmp_path / "r.npz", tiny)


def test_objects_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", allow_pickle=True, x=np.zeros((2, 3)), label=np.array(["no", None], object))
    with pytest.raises(RecordingError, match=r"Python objects"):
        read(tmp_path / "r.npz", tiny)


def test_no_file_and_no_numbers(tiny: Tiny, images: Manifest, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"none\.csv: no such file; give a recording"):
        read(tmp_path / "none.csv", tiny)
    pq.write_table(pa.table({"a": ["x"], "b": [1.0], "c": [2]}), tmp_path / "r.parquet")
    with pytest.raises(RecordingError, match=r"the column 'a' is of type string; make it a number"):
        read(tmp_path / "r.parquet", tiny)
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RecordingError, match=r"columns cannot hold the bundle's samples .*; use an NPZ file"):
        list(Recording(tmp_path / "r.csv", images).blocks())
