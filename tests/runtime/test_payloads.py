from __future__ import annotations

import contextlib
import json
import math
import struct

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trimtab.runtime.config import Stream
from trimtab.runtime.errors import PayloadError
from trimtab.runtime.payloads import MAX_ROWS, Form, decode, encode

ROWS = Form(3, {"x": (3, 8)})
IMAGE = Form(None, {"x": (2, 2, 2)})
TWO = Form(None, {"x": (2, 3), "y": (4,)})
NOW = 1_750_000_000.25
JSON, MSGPACK, RAW = (Stream(topic="s", payload=kind) for kind in ("json", "msgpack", "raw"))
FLOATS = st.floats(width=32)


def read(payload: object, stream: Stream = JSON, form: Form = ROWS):
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return decode(data, "s", stream, form, NOW)


@pytest.mark.parametrize("stream", [JSON, MSGPACK, RAW], ids=lambda s: s.payload)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_rows_round_trip(stream: Stream, data: st.DataObject) -> None:
    rows = data.draw(arrays(np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=FLOATS))
    time = data.draw(st.floats(0, 1e10))
    sequence = data.draw(st.integers(0, 2**63 - 1))
    label = data.draw(st.one_of(st.none(), st.text(max_size=5), st.floats(allow_nan=False)))
    block = read(encode(rows, stream.payload, time=time, sequence=sequence, label=label), stream)
    assert isinstance(block.values, np.ndarray)
    np.testing.assert_array_equal(block.values, rows)
    if stream.payload != "raw":
        assert (block.time, block.sequence) == (time, sequence)
        assert block.labels == (None if label is None else [label] * len(rows))
    else:
        assert (block.time, block.sequence, block.labels) == (NOW, None, None)


@pytest.mark.parametrize("kind", ["json", "msgpack", "raw"])
def test_whole_samples_round_trip(kind: str) -> None:
    rng = np.random.default_rng(1)
    sample = {"x": rng.normal(size=(2, 3)).astype(np.float32), "y": rng.normal(size=4).astype(np.float32)}
    block = read(encode(sample, kind), Stream(topic="s", payload=kind), TWO)  # type: ignore[arg-type]
    assert isinstance(block.values, dict)
    for name, part in sample.items():
        np.testing.assert_array_equal(block.values[name], part)
    image = rng.normal(size=(2, 2, 2)).astype(np.float32)
    block = read(encode(image, kind), Stream(topic="s", payload=kind), IMAGE)  # type: ignore[arg-type]
    np.testing.assert_array_equal(block.values["x"], image)  # type: ignore[call-overload]


@settings(max_examples=40, deadline=None)
@given(
    rows=arrays(np.int64, st.tuples(st.integers(1, 9), st.just(3)), elements=st.integers(-(2**15), 2**15 - 1)),
    dtype=st.sampled_from(["int16", "int32", "float64"]),
    kind=st.sampled_from(["raw", "msgpack"]),
)
def test_wire_types_round_trip(rows: np.ndarray, dtype: str, kind: str) -> None:
    stream = Stream(topic="s", payload=kind, dtype=dtype)  # type: ignore[arg-type]
    block = read(encode(rows.astype(np.float32), kind, dtype=dtype), stream)  # type: ignore[arg-type]
    np.testing.assert_array_equal(block.values, rows)  # type: ignore[arg-type]


def test_raw_is_little_endian_row_by_row() -> None:
    block = read(struct.pack("<6h", 1, 2, 3, -4, -5, -6), Stream(topic="s", payload="raw", dtype="int16"))
    assert block.values.tolist() == [[1, 2, 3], [-4, -5, -6]]  # type: ignore[union-attr]


def test_raw_takes_time_and_sequence_from_user_properties() -> None:
    block = decode(bytes(12), "s", RAW, ROWS, NOW, {"time": "12.5", "sequence": "7", "unit": "g"})
    assert (block.time, block.sequence) == (12.5, 7)


def test_one_row_nulls_and_non_numbers_of_ieee_are_values() -> None:
    assert read(b'{"values": [1, 2.5, null]}').values.shape == (1, 3)  # type: ignore[union-attr]
    row = read(b'{"values": [[NaN, Infinity, -Infinity]]}').values[0]  # type: ignore[index]
    assert math.isnan(row[0])
    assert list(row[1:]) == [math.inf, -math.inf]
    assert math.isnan(read(b'{"values": [[1, null, 3]]}').values[0][1])  # type: ignore[index]
    assert read({"values": [10**400, 1e300, 1]}).values[0].tolist() == [math.inf, math.inf, 1]  # type: ignore[index]


def test_one_channel_takes_a_flat_list_of_rows() -> None:
    assert read({"values": [1, 2, 3, 4]}, form=Form(1, {"x": (1, 8)})).values.shape == (4, 1)  # type: ignore[union-attr]


def test_keys_that_are_the_senders_own_are_passed_over() -> None:
    assert read({"values": [1, 2, 3], "battery": 3.7}).labels is None


WRONG: list[tuple[object, Stream, Form, str]] = [
    (b"", JSON, ROWS, "is empty"),
    (b"\xff\xfe\x00", JSON, ROWS, "not"),
    (b"{", JSON, ROWS, "not JSON"),
    (b"[" * 100_000, JSON, ROWS, "nested too deeply"),
    (b'{"values": ' + b"1" * 5000 + b"}", JSON, ROWS, "not JSON"),
    (b"[1,2,3]", JSON, ROWS, "is a list"),
    (b"null", JSON, ROWS, "is a null"),
    ({"value": [1, 2, 3]}, JSON, ROWS, "`values` is missing"),
    ({"values": None}, JSON, ROWS, "is a null"),
    ({"values": 3}, JSON, ROWS, "is a number"),
    ({"values": "1,2,3"}, JSON, ROWS, "is a text"),
    ({"values": []}, JSON, ROWS, "no row"),
    ({"values": [[]]}, JSON, ROWS, "no row"),
    ({"values": [1, 2]}, JSON, ROWS, "3 channels"),
    ({"values": [[1, 2], [3, 4]]}, JSON, ROWS, "has 2 values a row where the bundle's input has 3 channels"),
    ({"values": [[1, 2, 3], [4, 5]]}, JSON, ROWS, "differ in length"),
    ({"values": [[[1, 2, 3]]]}, JSON, ROWS, "3 channels"),
    ({"values": ["1", "2", "3"]}, JSON, ROWS, "no number"),
    ({"values": [1, "2", None]}, JSON, ROWS, "no number"),
    ({"values": [True, False, True]}, JSON, ROWS, "no number"),
    ({"values": [[1, 2, {}]]}, JSON, ROWS, "no number"),
    ({"values": {"x": [1, 2, 3]}}, JSON, ROWS, "takes rows"),
    ({"values": [[0, 0, 0]] * (MAX_ROWS + 1)}, JSON, ROWS, "at most"),
    ({"values": [1, 2, 3], "time": "now"}, JSON, ROWS, "time: is a text"),
    ({"values": [1, 2, 3], "time": True}, JSON, ROWS, "time: is a truth value"),
    ({"values": [1, 2, 3], "time": 1_750_000_000_000}, JSON, ROWS, "not milliseconds"),
    ({"values": [1, 2, 3], "time": -1}, JSON, ROWS, "no time"),
    (b'{"values": [1, 2, 3], "time": NaN}', JSON, ROWS, "no time"),
    ({"values": [1, 2, 3], "time": 10**400}, JSON, ROWS, "no time"),
    ({"values": [1, 2, 3], "sequence": -1}, JSON, ROWS, "sequence: -1"),
    ({"values": [1, 2, 3], "sequence": 1.5}, JSON, ROWS, "sequence: 1.5"),
    ({"values": [1, 2, 3], "sequence": 2**63}, JSON, ROWS, "no message number"),
    ({"values": [1, 2, 3], "sequence": True}, JSON, ROWS, "sequence: True"),
    ({"values": [1, 2, 3], "label": ["walk"]}, JSON, ROWS, "label: is a list"),
    ({"values": [1, 2, 3], "label": 10**400}, JSON, ROWS, "beyond any number"),
    (b"\xc1", MSGPACK, ROWS, "not MessagePack"),
    (b"", MSGPACK, ROWS, "is empty"),
    (b"\x81\xa6values", MSGPACK, ROWS, "not MessagePack"),
    (b"\x91" * 5000, MSGPACK, ROWS, "not MessagePack"),
    (b"\xdf\xff\xff\xff\xff", MSGPACK, ROWS, "not MessagePack"),
    (msgpack.packb({"values": [1, 2, 3]}) + b"\x01", MSGPACK, ROWS, "not MessagePack"),
    (msgpack.packb({"values": msgpack.Timestamp(1)}), MSGPACK, ROWS, "is a Timestamp"),
    (msgpack.packb({"values": [1, 2, 3], "time": msgpack.Timestamp(1)}), MSGPACK, ROWS, "time: is a Timestamp"),
    (msgpack.packb({"values": b"abc"}), MSGPACK, ROWS, "no whole number of float32"),
    (msgpack.packb({"values": bytes(12), "shape": [2, 3]}), MSGPACK, ROWS, "does not fit"),
    (msgpack.packb({"values": bytes(12), "shape": "3"}), MSGPACK, ROWS, "no list of whole numbers"),
    (msgpack.packb({"values": bytes(12), "shape": [-1, -3]}), MSGPACK, ROWS, "no list of whole numbers"),
    (b"", RAW, ROWS, "no row"),
    (bytes(13), RAW, ROWS, "no whole number of float32"),
    (bytes(16), RAW, ROWS, "3 channels"),
    (bytes(4), RAW, IMAGE, "one sample of the bundle has 8"),
    ({"values": [1, 2]}, JSON, IMAGE, "takes [2, 2, 2]"),
    ({"values": {"z": [1]}}, JSON, IMAGE, "has the inputs z where the bundle has x"),
    ({"values": [1]}, JSON, TWO, "several inputs"),
    ({"values": {"x": [[1, 2, 3], [4, 5, 6]]}}, JSON, TWO, "the bundle has x, y"),
    ({"values": {"x": [[1, 2, 3], [4, 5, 6]], "y": [1, 2]}}, JSON, TWO, "the input 'y' takes [4]"),
]


@pytest.mark.parametrize(("payload", "stream", "form", "words"), WRONG, ids=range(len(WRONG)))
def test_wrong_payloads_get_one_sentence(payload: object, stream: Stream, form: Form, words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        read(payload, stream, form)
    text = str(caught.value)
    assert words in text
    assert "\n" not in text
    assert len(text) < 300


def test_wrong_user_properties_get_one_sentence() -> None:
    for properties in ({"time": "noon"}, {"sequence": "1.5"}, {"time": "nan"}, {"sequence": "-1"}):
        with pytest.raises(PayloadError):
            decode(bytes(12), "s", RAW, ROWS, NOW, properties)


@pytest.mark.parametrize("stream", [JSON, MSGPACK, RAW], ids=lambda s: s.payload)
@pytest.mark.parametrize("form", [ROWS, IMAGE, TWO], ids=["rows", "image", "two"])
@settings(max_examples=100, deadline=None)
@given(payload=st.binary(max_size=64))
def test_noise_never_raises_anything_else(stream: Stream, form: Form, payload: bytes) -> None:
    with contextlib.suppress(PayloadError):
        decode(payload, "s", stream, form, NOW)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("form", [ROWS, TWO], ids=["rows", "two"])
@settings(max_examples=150, deadline=None)
@given(
    message=st.fixed_dictionaries({"values": VALUES}, optional={"time": VALUES, "sequence": VALUES, "label": VALUES})
)
def test_any_json_is_read_or_refused(form: Form, message: dict[str, object]) -> None:
    with contextlib.suppress(PayloadError):
        read(message, form=form)
