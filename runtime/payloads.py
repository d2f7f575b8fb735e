"""Messages on sensor topics: JSON, MessagePack or raw arrays, to blocks and back.

Whatever a sender may have got wrong ends in a PayloadError of one sentence; nothing else is raised. Sizes are bounded
before anything is built from a message.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import msgpack
import numpy as np
from numpy.typing import NDArray

from trimtab.runtime.blocks import Block, Label
from trimtab.runtime.bundle import Manifest
from trimtab.runtime.config import Stream
from trimtab.runtime.errors import PayloadError
from trimtab.runtime.validation import shortened

MAX_BYTES = 16 * 2**20
"""Longest payload that is decoded."""
MAX_ROWS = 65536
"""Most rows in one message of a windowed stream."""
LATEST = 1e11
"""Unix seconds; a time beyond it (year 5138) is in milliseconds."""
MAX_SEQUENCE = 2**63 - 1

Kind = Literal["json", "msgpack", "raw"]
Values = NDArray[np.float32] | dict[str, NDArray[np.float32]]
"""Rows `[rows, C]`, or one whole sample by input name."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a message must hold for a bundle: rows of `channels` values, or one whole sample."""

    channels: int | None
    """C where the bundle has a window; None where a message is one whole sample."""
    inputs: dict[str, tuple[int, ...]]
    """Shape of one sample of each model input."""

    @classmethod
    def of(cls, manifest: Manifest) -> Form:
        inputs = {i.name: tuple(i.shape) for i in manifest.inputs}
        return cls(manifest.inputs[0].shape[0] if manifest.window else None, inputs)


def decode(
    payload: bytes,
    stream: str,
    settings: Stream,
    form: Form,
    arrival: float,
    properties: Mapping[str, str] | None = None,
) -> Block:
    """The block in a message of `stream` that came at `arrival` (Unix seconds).

    `properties` are the message's MQTT 5 user properties; raw payloads may have their `time` and `sequence` there.
    NaN, infinite values and nulls are values (NaN for null); what becomes of them is the pipeline's to say.
    Raises PayloadError with one sentence where the message is not what `settings` and the bundle ask for.
    """
    if len(payload) > MAX_BYTES:
        raise PayloadError(f"the payload has {len(payload)} bytes; send at most {MAX_BYTES}")
    if settings.payload == "raw":
        values = _raw(payload, settings.dtype, form)
        facts: Mapping[str, Any] = {
            k: _number(k, v) for k, v in (properties or {}).items() if k in ("time", "sequence")
        }
    else:
        facts = _json(payload) if settings.payload == "json" else _msgpack(payload)
        if "values" not in facts:
            raise PayloadError("the key `values` is missing; send {time, sequence, values}")
        # NumPy makes 1 of a truth value among numbers. In JSON a search, which costs next to nothing, finds them.
        if settings.payload == "json" and (b"true" in payload or b"false" in payload) and _holds_truth(facts["values"]):
            raise PayloadError("values: holds something that is no number; send numbers or null")
        values = _values(facts["values"], facts.get("shape"), settings.dtype, form)
    label = _label(facts.get("label"))
    return Block(
        stream,
        _time(facts.get("time"), arrival),
        values,
        _sequence(facts.get("sequence")),
        None if label is None else [label] * (len(values) if form.channels is not None else 1),
    )


def encode(
    values: Values,
    kind: Kind,
    *,
    dtype: str = "float32",
    time: float | None = None,
    sequence: int | None = None,
    label: Label | None = None,
) -> bytes:
    """A payload that `decode` reads back to the same values (exactly, for a dtype that holds them).

    `raw` has no place for time, sequence and label; with MQTT 5 the first two go into user properties. MessagePack
    carries the values as little-endian bytes and their shape.
    """
    wire = np.dtype(dtype).newbyteorder("<")
    if kind == "raw":
        parts = values.values() if isinstance(values, dict) else [values]
        return b"".join(np.ascontiguousarray(part, wire).tobytes() for part in parts)
    message: dict[str, Any] = {}
    if time is not None:
        message["time"] = time
    if sequence is not None:
        message["sequence"] = sequence
    if label is not None:
        message["label"] = label
    if kind == "json":
        if isinstance(values, dict):
            message["values"] = {name: part.tolist() for name, part in values.items()}
        else:
            message["values"] = values.tolist()
        return json.dumps(message, separators=(",", ":")).encode()
    if isinstance(values, dict):
        message["values"] = {k: np.ascontiguousarray(part, wire).tobytes() for k, part in values.items()}
    else:
        message["values"] = np.ascontiguousarray(values, wire).tobytes()
        message["shape"] = list(values.shape)
    packed: bytes = msgpack.packb(message)
    return packed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    facts = dict(pairs)
    if len(facts) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise PayloadError(f"the key {shortened(twice)} is there twice; send it once")
    return facts


_decode_json = json.JSONDecoder(object_pairs_hook=_unique).decode


def _json(payload: bytes) -> Mapping[str, Any]:
    try:
        facts = _decode_json(payload.decode())
    except PayloadError:
        raise
    except RecursionError:
        raise PayloadError("the payload is nested too deeply; send rows as lists of numbers") from None
    except UnicodeDecodeError:
        raise PayloadError("the payload is not UTF-8; send JSON, or set `payload: msgpack` or `raw`") from None
    except ValueError as error:
        _not_empty(payload, "JSON")
        found = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else None
        reason = found or "a number has too many digits"
        raise PayloadError(f"the payload is not JSON ({reason}); send JSON, or set the stream's `payload`") from None
    return _mapping(facts)


def _not_empty(payload: bytes, form: str) -> None:
    if not payload.strip():
        raise PayloadError(f"the payload is empty; send {form} with the key `values`")


def _msgpack(payload: bytes) -> Mapping[str, Any]:
    try:
        facts = msgpack.unpackb(payload)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        _not_empty(payload, "MessagePack")
        reason = " ".join(str(error).split(" when ")[0].split()).rstrip(".") or "it is nested too deeply"
        raise PayloadError(
            f"the payload is not MessagePack ({reason}); send MessagePack, or set the stream's `payload`"
        ) from None
    return _mapping(facts)


def _mapping(facts: object) -> Mapping[str, Any]:
    if not isinstance(facts, dict):
        raise PayloadError(f"the payload is a {_kind(facts)}; send a mapping with the key `values`")
    return facts


def _raw(payload: bytes, dtype: str, form: Form) -> Values:
    if form.channels is not None:
        return _rows(_bytes(payload, dtype), form.channels)
    flat = _bytes(payload, dtype)
    wanted = sum(prod(shape) for shape in form.inputs.values())
    if flat.size != wanted:
        raise PayloadError(
            f"the payload has {flat.size} values of {dtype} where one sample of the bundle has {wanted}; send those"
        )
    parts: dict[str, NDArray[np.float32]] = {}
    offset = 0
    for name, shape in form.inputs.items():
        parts[name] = flat[offset : offset + prod(shape)].reshape(shape)
        offset += prod(shape)
    return parts


def _values(values: object, shape: object, dtype: str, form: Form) -> Values:
    if form.channels is not None:
        if isinstance(values, dict):
            raise PayloadError("values: is a mapping, but the bundle takes rows; send lists of numbers")
        return _rows(_array(values, shape, dtype), form.channels)
    if isinstance(values, dict):
        if set(values) != set(form.inputs):
            raise PayloadError(
                f"values: has the inputs {_names(values)} where the bundle has {_names(form.inputs)}; send these"
            )
        return {name: _sample(values[name], None, dtype, wanted, name) for name, wanted in form.inputs.items()}
    if len(form.inputs) > 1:
        raise PayloadError(f"values: the bundle has several inputs; send a mapping of {_names(form.inputs)}")
    name, wanted = next(iter(form.inputs.items()))
    return {name: _sample(values, shape, dtype, wanted, name)}


def _sample(values: object, shape: object, dtype: str, wanted: tuple[int, ...], name: str) -> NDArray[np.float32]:
    array = _array(values, shape, dtype)
    if isinstance(values, bytes) and shape is None and array.size == prod(wanted):
        array = array.reshape(wanted)
    if array.shape != wanted:
        raise PayloadError(
            f"values: has the shape {_shape(array)} where the input {name!r} takes {list(wanted)}; send that"
        )
    return array


def _rows(array: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """`[rows, C]` from rows, from one row `[C]`, or from all rows' values one after another (bytes; or C = 1)."""
    if array.size == 0:
        raise PayloadError("values: holds no row; send at least one")
    if array.ndim == 1 and array.size % channels == 0:
        array = array.reshape(-1, channels)
    if array.ndim != 2 or array.shape[1] != channels:
        found = f"{array.shape[1]} values a row" if array.ndim == 2 else f"the shape {_shape(array)}"
        raise PayloadError(
            f"values: has {found} where the bundle's input has {channels} channels; send {channels} a row"
        )
    if len(array) > MAX_ROWS:
        raise PayloadError(f"values: has {len(array)} rows; send at most {MAX_ROWS} in one message")
    return array


def _array(values: object, shape: object, dtype: str) -> NDArray[np.float32]:
    if isinstance(values, bytes):
        array = _bytes(values, dtype)
        if shape is None:
            return array
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise PayloadError("shape: is no list of whole numbers; send one, or leave it out")
        sizes: list[int] = shape
        if prod(sizes) != array.size:
            raise PayloadError(
                f"shape: {shortened(sizes)} does not fit the {array.size} values of {dtype} in `values`; send another"
            )
        return array.reshape(sizes)
    if not isinstance(values, list):
        raise PayloadError(f"values: is a {_kind(values)}; send a list of numbers or of rows")
    try:
        found: NDArray[Any] = np.asarray(values)
    except (ValueError, OverflowError, TypeError):
        raise PayloadError("values: rows differ in length; send as many values in each") from None
    if found.dtype.kind == "O":  # a null, or a whole number beyond 64 bits
        numbers = [_float(v) for v in found.ravel().tolist()]
        found = np.array(numbers, np.float64).reshape(found.shape)
    elif found.dtype.kind not in "fiu":
        raise PayloadError("values: holds something that is no number; send numbers or null")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which the pipeline knows
        return found.astype(np.float32)


def _holds_truth(values: object) -> bool:
    """Whether there is true or false within lists and mappings."""
    waiting: list[object] = [values] if isinstance(values, list | dict) else []
    while waiting:
        value = waiting.pop()
        if isinstance(value, bool):
            return True
        if isinstance(value, list | dict):
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return False


def _float(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PayloadError("values: holds something that is no number; send numbers or null, in rows of one length")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _bytes(payload: bytes, dtype: str) -> NDArray[np.float32]:
    wire = np.dtype(dtype).newbyteorder("<")
    if len(payload) % wire.itemsize:
        raise PayloadError(
            f"the payload's {len(payload)} bytes are no whole number of {dtype}; see the stream's `dtype`"
        )
    with np.errstate(over="ignore"):
        return np.frombuffer(payload, wire).astype(np.float32)


def _number(key: str, text: str) -> int | float:
    try:
        return int(text) if key == "sequence" else float(text)
    except ValueError:
        raise PayloadError(f"{key}: the user property is {text[:40]!r}; send a number") from None


def _time(value: object, arrival: float) -> float:
    if value is None:
        return arrival
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PayloadError(f"time: is a {_kind(value)}; send Unix seconds of the last row")
    if not 0 <= value < LATEST:  # also refuses NaN, infinite values, and integers beyond float
        raise PayloadError(f"time: {shortened(value)} is no time in Unix seconds; send seconds, not milliseconds")
    return float(value)


def _sequence(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEQUENCE:
        raise PayloadError(f"sequence: {shortened(value)} is no message number; send a whole number from 0")
    return value


def _label(value: object) -> Label | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PayloadError(f"label: is a {_kind(value)}; send a class name or a number")
    try:
        return float(value)
    except OverflowError:
        raise PayloadError(f"label: {shortened(value)} is beyond any number; send a class name or a number") from None


def _kind(value: object) -> str:
    names = {dict: "mapping", list: "list", str: "text", bytes: "byte string", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number" if isinstance(value, int | float) else type(value).__name__)


def _shape(array: NDArray[Any]) -> str:
    return shortened(list(array.shape))


def _names(names: Mapping[Any, object]) -> str:
    listed = ", ".join(str(n)[:40] for n in list(names)[:8])
    return listed + (", ..." if len(names) > 8 else "")
