"""The table of mistakes: wrong configurations, bundles, payloads and recordings, and what must be said of each.

`test_mistakes.py` tries them all; `python -m benchmarks.mistakes` counts how many get their sentence.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from onnx import TensorProto, helper, numpy_helper

from trimtab.runtime.bundle import Bundle, load_bundle
from trimtab.runtime.clock import SimulatedClock
from trimtab.runtime.config import Config, Sessions, Stream
from trimtab.runtime.errors import (
    BundleError,
    ConfigError,
    JournalError,
    PayloadError,
    ProviderError,
    RecordingError,
    TrimtabError,
)
from trimtab.runtime.executors import InlineExecutor
from trimtab.runtime.intake import dead_letter
from trimtab.runtime.journal import Journal
from trimtab.runtime.loading import load
from trimtab.runtime.mqtt import Delivery
from trimtab.runtime.payloads import MAX_BYTES, MAX_ROWS, Form, decode
from trimtab.runtime.pipeline import Pipeline
from trimtab.runtime.recordings import Recording
from trimtab.runtime.sessions import Engine

LONGEST = 300
"""Characters of a sentence, the folder's path not counted."""

VERBS = (
    "add|begin|choose|convert|copy|did you mean|drop|export|give|indent|install|leave|let|make|mend|move|name|narrow|"
    "put|raise|record|rename|run|save|see|send|set|shorten|sort|store|unpack|update|use|write"
)
"""What a mend begins with."""

JARGON = re.compile(
    r"Traceback|[a-z]Error\b|Exception|<class|<function|object at 0x|Input should|validation error|NoneType|Errno|"
    r"allow_pickle|pydantic|strict_map|recursion|ONNXRuntime|\\n"
)
"""Words of the library that noticed, not of the user who is to mend it."""

TOPIC = "sensors/s/imu"


@dataclass(frozen=True)
class Case:
    """One mistake."""

    kind: str
    """`config`, `bundle`, `payload` or `recording`."""
    name: str
    attempt: Callable[[Path, Bundle], str]
    """Makes the wrong thing in an empty folder, and uses it as trimtab does; returns the name that the sentence must
    begin with (for a payload: its topic), should it get so far."""
    place: str
    """Regular expression for the key, row or column that the sentence must tell; empty where there is none."""
    mend: str
    """Regular expression for what the sentence must tell the user to do."""
    error: type[TrimtabError]
    file: str
    """Regular expression for the file's name (for a payload: its topic) that must be told."""
    payload: Payload | None = None


@dataclass(frozen=True)
class Payload:
    """A wrong payload, and the stream that it is sent to."""

    data: bytes
    format: str = "json"
    live: bool = True
    """Whether it can be sent to a daemon with the tiny bundle: it is not meant for another one, and not too large."""


@dataclass(frozen=True)
class Verdict:
    """What came of a case."""

    sentence: str
    faults: list[str] = field(default_factory=list)
    """Why the sentence is none; empty where it is a good one."""


def judge(case: Case, folder: Path, bundle: Bundle) -> Verdict:
    """Try `case` in the empty `folder` and judge what is said. `bundle` is the tiny bundle, as it should be."""
    try:
        case.attempt(folder, bundle)
    except TrimtabError as error:
        text = str(error)
        if type(error) is not case.error:
            return Verdict(text, [f"it is a {type(error).__name__}, not a {case.error.__name__}"])
    except Exception as error:  # noqa: BLE001  (whatever else comes is what this looks for)
        return Verdict(repr(error), [f"{type(error).__name__} is not for users"])
    else:
        return Verdict("", ["it was accepted"])
    topic, text = re.fullmatch(r"(?:\[(.*?)\] )?(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    plain = text.replace(f"{folder}/", "")
    return Verdict(plain, list(_faults(case, plain, topic)))


def _faults(case: Case, text: str, topic: str | None) -> Iterator[str]:
    if "\n" in text or not text.isprintable():
        yield "it is more than one line"
    if len(text) >= LONGEST:
        yield f"it has {len(text)} characters"
    if re.search(r"[.!?]\s+[A-Z]", text) or text.endswith("."):
        yield "it is more than one sentence, or ends in a full stop"
    if found := JARGON.search(text):
        yield f"it says {found.group()!r}"
    named = re.fullmatch(case.file, topic) if topic is not None else re.match(f"(?:{case.file}): ", text)
    if not named:
        yield f"it does not begin with {case.file}"
    if not re.search(case.place, text):
        yield f"it does not tell {case.place}"
    mends = [m for m in text.split("; ")[1:] if re.match(VERBS, m)]
    if not mends:
        yield "it does not say what to do"
    elif not any(re.search(case.mend, m) for m in mends):
        yield f"it does not say to {case.mend}"


# -- configurations ---------------------------------------------------------------------------------------------------

STREAMS = [{"topic": "sensors/+/imu"}]


def start(path: Path) -> None:
    """What `trimtab run` does with a configuration before it connects."""
    loaded = load(path, InlineExecutor())
    if loaded.config.journal is not None:
        Journal(loaded.config.journal, loaded.digest).close()


def config(
    name: str,
    content: dict[str, Any] | str | bytes | Callable[[Path], None],
    place: str,
    mend: str,
    *,
    error: type[TrimtabError] = ConfigError,
    file: str = r"config\.yaml",
    change: Callable[[Path], Any] | None = None,
) -> Case:
    """A configuration: keys to be put into a right one, a whole text, or what is done with the folder.

    `change` makes another bundle of the tiny one.
    """

    def attempt(folder: Path, bundle: Bundle) -> str:
        if change is None:
            (folder / "bundle").symlink_to(bundle.path)
        else:
            shutil.copytree(bundle.path, folder / "bundle")
            change(folder / "bundle")
        path = folder / "config.yaml"
        if callable(content):
            content(folder)
        elif isinstance(content, dict):
            path.write_text(yaml.safe_dump({"bundle": "bundle", "node": "box", "streams": STREAMS, **content}))
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        start(path)
        return "config.yaml"

    return Case("config", name, attempt, place, mend, error, file)


def _secret(text: str, **files: str) -> Callable[[Path], None]:
    """A configuration and files beside it."""

    def make(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_text(content)
        (folder / "config.yaml").write_text(f"bundle: bundle\nstreams: [{{topic: s}}]\n{text}\n")

    return make


def _regression(bundle: Path) -> None:
    _arrays(lambda a: a.update({k: a[k][:0] for k in ("class_feature_mean", "class_feature_cov")}))(bundle)
    _manifest(lambda m: m.update(task="regression", targets=m.pop("classes")))(bundle)


def _older(bundle: Path) -> None:
    """Before there were signals of the inputs."""
    _arrays(lambda a: [a.pop(name) for name in list(a) if name.startswith("usual.")])(bundle)


def _unrated(bundle: Path) -> None:
    _set("window.rate", None)(bundle)


RIGHT = "bundle: bundle\nstreams:\n  - topic: sensors/+/imu\n"

CONFIGS = [
    config("missing file", lambda folder: None, "", "give a configuration file"),
    config("folder instead of a file", lambda folder: (folder / "config.yaml").mkdir(), "", "give a configuration"),
    config("not YAML", RIGHT + "mqtt: {host: [\n", "line 5", "mend that line"),
    config("tabs", RIGHT + "mqtt:\n\thost: broker\n", "line 5: .*tab", "indent it with spaces"),
    config("key twice", RIGHT + "queue: 100\nnode: box\nqueue: 200\n", "line 6: the key 'queue'", "drop one"),
    config("inner key twice", RIGHT + "mqtt:\n  port: 1\n  port: 2\n", "line 6: the key 'port'", "drop one"),
    config("empty", "", "is empty", "give it at least `bundle: FOLDER`"),
    config("only comments", "# bundle: bundle\n", "is empty", "give it at least `bundle"),
    config("a list", "- bundle: bundle\n", "no mapping", "give it at least `bundle"),
    config("plain text", "bundle\n", "no mapping", "give it at least `bundle"),
    config("two documents", RIGHT + "---\n" + RIGHT, "line 4", "mend that line"),
    config("not UTF-8", RIGHT.encode() + "node: Küche\n".encode("latin-1"), "line 4: is not UTF-8", "save .* UTF-8"),
    config("binary", b"\x00\x01\x02bundle: bundle\n", "not YAML", "save it as plain text"),
    config("nested too deep", RIGHT + "node: " + "[" * 1000, "nested too deeply", "mend its brackets"),
    config("a date that there is not", RIGHT + "node: 2026-02-31\n", "cannot be read", "put it in quotes"),
    config("unknown key", {"colour": "blue"}, "colour: there is no such key", r"use one of bundle, node, streams"),
    config("key misspelt", {"sesions": {"slots": 2}}, "sesions: ", "did you mean 'sessions'"),
    config("inner key misspelt", {"mqtt": {"hots": "broker"}}, r"mqtt\.hots: ", "did you mean 'host'"),
    config("key of a list misspelt", {"streams": [{"topics": "s"}]}, r"streams\.0\.topic", "add it|did you mean"),
    config("key of another section", {"port": 1883}, "port: there is no such key", "use one of"),
    config("number as key", RIGHT + "1: 2\n", "1: the key is no text", "put it in quotes"),
    config("bundle missing", "streams: [{topic: s}]\n", "bundle: is missing", "add it"),
    config("bundle a number", {"bundle": 5}, "bundle: is 5", "give a path, in quotes"),
    config("bundle not there", {"bundle": "nowhere"}, "no such folder", "give the folder", error=BundleError,
           file="nowhere"),
    config("section empty", RIGHT + "mqtt:\n", "mqtt: is empty", "give a mapping .*or leave the key out"),
    config("section a text", {"mqtt": "broker:1883"}, "mqtt: is 'broker:1883'", "give a mapping"),
    config("version without quotes", {"mqtt": {"version": 5}}, r"mqtt\.version: is 5", "put it in quotes: '5'"),
    config("version unknown", {"mqtt": {"version": "4"}}, r"mqtt\.version: is '4'", r"use one of 5, 3\.1\.1"),
    config("port as text", {"mqtt": {"port": "1883"}}, r"mqtt\.port: .*'1883'", "whole number, without quotes"),
    config("port 0", {"mqtt": {"port": 0}}, r"mqtt\.port: is 0", "give at least 1"),
    config("port too large", {"mqtt": {"port": 70000}}, r"mqtt\.port: is 70000", "give at most 65535"),
    config("port a fraction", {"mqtt": {"port": 1883.5}}, r"mqtt\.port: is 1883.5", "give a whole number"),
    config("host a number", {"mqtt": {"host": 10}}, r"mqtt\.host: is 10", "give text, in quotes"),
    config("host empty", {"mqtt": {"host": ""}}, r"mqtt\.host: is empty", "give some text"),
    config("node read as true", RIGHT + "node: true\n", "node: is true", "give text, in quotes"),
    config("node with a wildcard", {"node": "box+1"}, r"node: is 'box\+1'", r"give a name without \+"),
    config("prefix with a wildcard", {"mqtt": {"prefix": "trimtab/#"}}, r"mqtt\.prefix: ", r"give a topic without \+"),
    config("prefix ends with a slash", {"mqtt": {"prefix": "t/"}}, r"mqtt\.prefix: is 't/'", "neither begins nor ends"),
    config("prefix of the broker's own", {"mqtt": {"prefix": "$SYS/box"}}, r"mqtt\.prefix: ", "does not begin with"),
    config("certificate without key", {"mqtt": {"tls": {"cert": "c.pem"}}}, r"mqtt\.tls: cert and key", "give both"),
    config("authority not there", {"mqtt": {"tls": {"ca": "nowhere.pem"}}}, r"mqtt\.tls\.ca: .*nowhere.pem",
           "PEM file"),
    config("authority no PEM", _secret("mqtt: {tls: {ca: ca.pem}}", **{"ca.pem": "hello"}), r"mqtt\.tls", "give PEM"),
    config("password file not there", {"mqtt": {"username": "u", "password_file": "nowhere"}},
           r"mqtt\.password_file: .*nowhere", "give a file with the password"),
    config("password file empty", _secret("mqtt: {username: u, password_file: p}", p="\n"),
           r"mqtt\.password_file: .*is empty", "write the password on its first line"),
    config("password without user", _secret("mqtt: {password_file: p}", p="secret\n"),
           "password_file .*username", "give both"),
    config("keepalive negative", {"mqtt": {"keepalive": -1}}, r"mqtt\.keepalive: is -1", "give at least 5"),
    config("no streams", {"streams": []}, "streams: is empty", "name at least one topic"),
    config("streams a mapping", {"streams": {"topic": "s"}}, "streams: is {'topic': 's'}", "give a list"),
    config("stream a text", {"streams": ["sensors/#"]}, r"streams\.0: is 'sensors/#'", "give a mapping"),
    config("topic empty", {"streams": [{"topic": ""}]}, r"streams\.0\.topic: is empty", "give some text"),
    config("# within a filter", {"streams": [{"topic": "sensors/#/x"}]}, r"streams\.0\.topic: 'sensors/#/x'",
           "put it there, or use +"),
    config("# in a level", {"streams": [{"topic": "sensors/a#"}]}, r"streams\.0\.topic: ", "put it there"),
    config("+ in a level", {"streams": [{"topic": "sensors/a+"}]}, r"streams\.0\.topic: ", "let it stand for a whole"),
    config("shared filter without group", {"streams": [{"topic": "$share//s"}]}, r"streams\.0\.topic", "write .share/"),
    config("labels filter wrong", {"streams": [{"topic": "s", "labels": "l/#/x"}]}, r"streams\.0\.labels: ", "put it"),
    config("labels on the topic itself", {"streams": [{"topic": "s", "labels": "s"}]}, r"streams\.0: labels",
           "their own"),
    config("streams overlap", {"streams": [{"topic": "a/+/x"}, {"topic": "a/#", "payload": "raw"}]},
           r"streams\.1\.topic: 'a/#' .*streams\.0\.topic 'a/\+/x'", "narrow one"),
    config("stream twice", {"streams": [*STREAMS, *STREAMS]}, "streams: .*twice", "drop one"),
    config("own decisions as a stream", {"streams": [{"topic": "trimtab/box/decision/#"}]},
           r"streams\.0\.topic: .*trimtab/box", "give the topic of a sensor"),
    config("payload unknown", {"streams": [{"topic": "s", "payload": "JSON"}]}, r"streams\.0\.payload: is 'JSON'",
           "did you mean 'json'"),
    config("dtype unknown", {"streams": [{"topic": "s", "dtype": "float16"}]}, r"streams\.0\.dtype",
           "did you mean 'flo"),
    config("provider unknown", {"sessions": {"providers": [{"name": "coda"}]}},
           r"sessions\.providers\.0\.name: is 'coda'",
           "did you mean 'cuda'"),
    config("provider that does not work",
           {"sessions": {"providers": [{"name": "cuda", "required": True, "options": {"device_id": 99}}]}},
           r"sessions\.providers\.0: cuda is required", "set required: false|install|run", error=ProviderError),
    config("provider's option empty", {"sessions": {"providers": [{"name": "cpu", "options": {"x": None}}]}},
           r"sessions\.providers\.0\.options\.x: is empty", "give text, a number, or true or false"),
    config("no providers", {"sessions": {"providers": []}}, r"sessions\.providers: is empty", "give at least 1"),
    config("no slots", {"sessions": {"slots": 0}}, r"sessions\.slots: is 0", "give at least 1"),
    config("slots read as true", RIGHT + "sessions: {slots: true}\n", r"sessions\.slots: is true", "give a number"),
    config("slots empty", RIGHT + "sessions: {slots: }\n", r"sessions\.slots: is empty", "give a whole number"),
    config("deadline not a number", RIGHT + "batch: {deadline: .nan}\n", r"batch\.deadline: is nan", "finite number"),
    config("deadline without end", RIGHT + "batch: {deadline: .inf}\n", r"batch\.deadline: is inf", "finite number"),
    config("deadline with a unit", {"batch": {"deadline": "20ms"}}, r"batch\.deadline: is '20ms'", "give a number"),
    config("drain negative", {"drain": -1}, "drain: is -1", "give more than 0"),
    config("several at once", {"queue": 0, "drain": 0}, "queue: is 0.*1 more to mend", "give at least 1"),
    config("journal in no folder", {"journal": "nowhere/j.db"}, "", "see that its folder", error=JournalError,
           file="nowhere/j.db"),
    config("journal a folder", {"journal": "bundle"}, "", "see that its folder", error=JournalError, file="bundle"),
    config("journal another file", _secret("journal: j.db", **{"j.db": "no database at all" * 100}), "", "move it away",
           error=JournalError, file=r"j\.db"),
    config("detector unknown", {"drift": {"detector": "nosuch"}}, r"drift\.detector: .*'nosuch'", "choose sprt"),
    config("detector's option unknown", {"drift": {"options": {"shift": 1}}}, r"drift\.options: .*'shift'",
           "use one of"),
    config("detector's option a text", {"drift": {"options": {"warmup": "long"}}}, r"drift\.options: .*warmup",
           "give a whole number from"),
    config("detector's option too small", {"drift": {"options": {"warmup": 1}}}, r"drift\.options: .*warmup",
           "give a whole number from"),
    config("false alarms too often", {"drift": {"false_alarms": {"every": 0.5}}}, r"drift\.false_alarms\.every: ",
           "give what comes to 10"),
    config("false alarms never", RIGHT + "drift: {false_alarms: {every: .inf}}\n",
           r"drift\.false_alarms\.every: is inf",
           "finite number"),
    config("false alarms in an unknown unit", {"drift": {"false_alarms": {"per": "months"}}},
           r"drift\.false_alarms\.per: is 'months'", "did you mean 'month'"),
    config("false alarms per time without a rate", {"drift": {"false_alarms": {"per": "week", "every": 1}}},
           r"drift\.false_alarms\.per: .*no rate", "use `per: windows`", change=_unrated),
    config("no signals", {"drift": {"signals": []}}, r"drift\.signals: is empty", "give at least 1"),
    config("signal twice", {"drift": {"signals": ["entropy", "entropy"]}}, r"drift\.signals: .*twice", "drop one"),
    config("signal unknown", {"drift": {"signals": ["entropie"]}}, r"drift\.signals\.0: ", "did you mean 'entropy'"),
    config("signal that an older bundle has not", {"drift": {"signals": ["raw"]}}, r"usual\.raw is missing",
           "export the bundle again, or drop raw", error=BundleError, file="bundle/source.npz",
           change=_older),
    config("bundle of another task", {"drift": {"signals": ["entropy"]}}, r"drift\.signals: .*regression",
           "name another",
           change=_regression),
    config("method unknown", {"adaptation": {"methods": ["norm_stats"]}}, r"adaptation\.methods\.0: ",
           "did you mean 'norm"),
    config("method's option unknown", {"adaptation": {"options": {"bias_vector": {"nosuch": 1}}}},
           r"adaptation\.options\.bias_vector: .*'nosuch'", "use one of"),
    config("method's option a text", {"adaptation": {"options": {"bias_vector": {"prior": "weak"}}}},
           r"adaptation\.options\.bias_vector: .*prior is 'weak'", "give a"),
    config("method's option negative", {"adaptation": {"options": {"bias_vector": {"prior": -1.0}}}},
           r"adaptation\.options\.bias_vector: .*prior is -1", "give a number"),
    config("option of a method that is not used",
           {"adaptation": {"methods": ["bias_vector"], "options": {"norm_statistics": {}}}},
           r"adaptation\.options\.norm_statistics: ", "add it there or drop this"),
    config("memory too small", {"adaptation": {"memory": 4}}, r"adaptation\.memory: is 4", "give at least 16"),
]  # fmt: skip


# -- bundles ----------------------------------------------------------------------------------------------------------

Spoil = Callable[[Path], Any]
"""Makes a right bundle in a folder a wrong one."""


def use(path: Path) -> None:
    """What is done with a bundle before the first sample."""
    bundle = load_bundle(path)
    engine = Engine(bundle, Sessions(), InlineExecutor())
    Pipeline(bundle, Config(bundle=path), engine, SimulatedClock(), InlineExecutor())


def bundle(name: str, spoil: Spoil, file: str, place: str, mend: str = "export the bundle again") -> Case:
    def attempt(folder: Path, right: Bundle) -> str:
        shutil.copytree(right.path, folder / "b")
        spoil(folder / "b")
        use(folder / "b")
        return file

    return Case("bundle", name, attempt, place, mend, BundleError, f"b/{file}" if file else "b")


def _manifest(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(path: Path) -> None:
        file = path / "manifest.yaml"
        manifest = yaml.safe_load(file.read_text())
        change(manifest)
        file.write_text(yaml.safe_dump(manifest, sort_keys=False))

    return spoil


def _set(place: str, value: Any) -> Spoil:
    """Put a value at a place such as `inputs.0.std`."""

    def change(manifest: Any) -> None:
        *way, last = place.split(".")
        for key in way:
            manifest = manifest[int(key) if isinstance(manifest, list) else key]
        manifest[int(last) if isinstance(manifest, list) else last] = value

    return _manifest(change)


def _file(name: str, data: bytes | Callable[[bytes], bytes], *, hashed: bool = True) -> Spoil:
    """Another content of a file; `hashed`: and the manifest says that it is right."""

    def spoil(path: Path) -> None:
        content = data if isinstance(data, bytes) else data((path / name).read_bytes())
        (path / name).write_bytes(content)
        if hashed:
            _manifest(lambda m: m["files"].update({name: hashlib.sha256(content).hexdigest()}))(path)

    return spoil


def _arrays(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(path: Path) -> None:
        with np.load(path / "source.npz", allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        change(arrays)
        np.savez(path / "source.npz", **arrays)
        _file("source.npz", lambda data: data)(path)

    return spoil


def _array(name: str, change: Callable[[Any], Any]) -> Spoil:
    return _arrays(lambda arrays: arrays.update({name: change(arrays[name])}))


def _spoilt(array: Any, value: float) -> Any:
    array.flat[0] = value
    return array


def _graph(which: str, change: Callable[[Any], Any]) -> Spoil:
    def spoil(path: Path) -> None:
        model = onnx.load_model(path / f"{which}.onnx")
        change(model.graph)
        _file(f"{which}.onnx", model.SerializeToString())(path)

    return spoil


def _without(kind: str, name: str) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        parts = getattr(graph, kind)
        kept = [p for p in parts if p.name != name]
        del parts[:]
        parts.extend(kept)

    return change


def _renamed(graph: Any) -> None:
    graph.input[0].name = "z"
    for node in graph.node:
        node.input[:] = ["z" if name == "x" else name for name in node.input]


SPRUNG: list[str] = []
"""Stays empty: what is unpickled of a `_Trap` leaves its trace here."""


def _spring() -> None:
    SPRUNG.append("sprung")


class _Trap:
    def __reduce__(self) -> Any:
        return _spring, ()


def _two(manifest: dict[str, Any]) -> None:
    manifest["inputs"].append({"name": "w", "shape": [2]})


def _npy(array: Any) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _resize(graph: Any) -> None:
    for tensor in graph.initializer:
        if tensor.name == "output.shift":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(3, np.float32), "output.shift"))


def _output(name: str, node: str | None) -> Callable[[Any], None]:
    """Take the output y away; give the value `node` as output `name` instead."""

    def change(graph: Any) -> None:
        for part in graph.node:
            part.output[:] = ["model's own y" if n == "y" else n for n in part.output]
        graph.node.append(helper.make_node("Identity", [node or "model's own y"], [name]))
        graph.output[0].CopyFrom(helper.make_empty_tensor_value_info(name))
        graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT

    return change


def _newer(path: Path) -> None:
    model = onnx.load_model(path / "banked.onnx")
    model.ir_version = 99
    _file("banked.onnx", model.SerializeToString())(path)


def _longer(manifest: dict[str, Any]) -> None:
    manifest["inputs"][0]["shape"] = [3, 20]
    manifest["window"]["rows"] = 20


BUNDLES = [
    bundle("no folder", lambda p: shutil.rmtree(p), "", "no such folder", "give the folder"),
    bundle("a file instead of the folder", lambda p: (shutil.rmtree(p), p.write_text("x")), "", "is a file",
           "give the folder"),
    bundle("an empty folder", lambda p: (shutil.rmtree(p), p.mkdir()), "manifest.yaml", "not found", "give the folder"),
    bundle("manifest missing", lambda p: (p / "manifest.yaml").unlink(), "manifest.yaml", "not found",
           "give the folder"),
    bundle("manifest a folder", lambda p: ((p / "manifest.yaml").unlink(), (p / "manifest.yaml").mkdir()),
           "manifest.yaml", "cannot be read", "copy the whole bundle"),
    bundle("manifest not YAML", lambda p: (p / "manifest.yaml").write_text("a: [\n"), "manifest.yaml", "line 2"),
    bundle("manifest not UTF-8", lambda p: (p / "manifest.yaml").write_bytes(b"a: \xff\n"), "manifest.yaml",
           "line 1: is not UTF-8"),
    bundle("manifest empty", lambda p: (p / "manifest.yaml").write_text(""), "manifest.yaml", "no mapping"),
    bundle("graph missing", lambda p: (p / "serve.onnx").unlink(), "serve.onnx", "not found", "copy the whole bundle"),
    bundle("statistics missing", lambda p: (p / "source.npz").unlink(), "source.npz", "not found", "copy the whole"),
    bundle("a byte altered", _file("banked.onnx", lambda d: d[:99] + bytes([d[99] ^ 1]) + d[100:], hashed=False),
           "banked.onnx", "sha256", "copy the whole bundle"),
    bundle("cut short", _file("source.npz", lambda d: d[:-9], hashed=False), "source.npz", "sha256", "copy the whole"),
    bundle("hash wrong", _manifest(lambda m: m["files"].update({"probe.onnx": "00"})), "probe.onnx", "sha256",
           "copy the whole bundle"),
    bundle("no hash", _manifest(lambda m: m["files"].pop("serve.onnx")), "manifest.yaml", "files: serve.onnx"),
    bundle("of a newer schema", _set("schema_version", 2), "manifest.yaml", "schema_version: .*2", "update trimtab"),
    bundle("without schema", _manifest(lambda m: m.pop("schema_version")), "manifest.yaml", "schema_version: "),
    bundle("schema a text", _set("schema_version", "1"), "manifest.yaml", "schema_version: .*'1'"),
    bundle("task missing", _manifest(lambda m: m.pop("task")), "manifest.yaml", "task: is missing"),
    bundle("task unknown", _set("task", "segmentation"), "manifest.yaml", "task: is 'segmentation'"),
    bundle("unknown key", _set("author", "me"), "manifest.yaml", "author: there is no such key"),
    bundle("shape a text", _set("inputs.0.shape", "3x16"), "manifest.yaml", r"inputs\.0\.shape: is '3x16'"),
    bundle("shape with 0", _set("inputs.0.shape", [3, 0]), "manifest.yaml", r"inputs\.0\.shape\.1: is 0"),
    bundle("features negative", _set("features", -1), "manifest.yaml", "features: is -1"),
    bundle("no inputs", _set("inputs", []), "manifest.yaml", "inputs: "),
    bundle("one class", _set("classes", ["no"]), "manifest.yaml", "classes: "),
    bundle("class twice", _set("classes", ["no", "no"]), "manifest.yaml", "classes: 'no' is there twice"),
    bundle("class read as false", _set("classes", [False, True]), "manifest.yaml", r"classes\.0: is false"),
    bundle("no targets", _set("task", "regression"), "manifest.yaml", "targets: "),
    bundle("channel twice", _set("inputs.0.channels", ["a", "b", "a"]), "manifest.yaml", r"inputs\.0: channels"),
    bundle("channels too few", _set("inputs.0.channels", ["a"]), "manifest.yaml", r"inputs\.0: channels"),
    bundle("std too short", _set("inputs.0.std", [1.0]), "manifest.yaml", r"inputs\.0: std"),
    bundle("std 0", _set("inputs.0.std", [1.0, 0.0, 1.0]), "manifest.yaml", r"inputs\.0: std holds 0\.0"),
    bundle("std negative", _set("inputs.0.std", [1.0, -2.0, 1.0]), "manifest.yaml", r"inputs\.0: std holds -2\.0"),
    bundle("std not a number", _set("inputs.0.std", [1.0, math.nan, 1.0]), "manifest.yaml",
           r"inputs\.0\.std\.1: is nan"),
    bundle("sign of no channel", _set("inputs.0.calibration.signs", [7]), "manifest.yaml",
           r"inputs\.0: calibration\.signs"),
    bundle("order of no channels", _set("inputs.0.calibration.orders", [[0, 0, 1]]), "manifest.yaml",
           r"inputs\.0: calibration\.orders"),
    bundle("window for another rank", _set("inputs.0.shape", [3, 4, 4]), "manifest.yaml", "window: "),
    bundle("window of other rows", _set("window.rows", 8), "manifest.yaml", r"window\.rows: "),
    bundle("window with two inputs", _manifest(_two), "manifest.yaml", "window: .*one input"),
    bundle("rate 0", _set("window.rate", 0.0), "manifest.yaml", r"window\.rate: is 0"),
    bundle("kind of norm unknown", _set("norms.0.kind", "weight"), "manifest.yaml", r"norms\.0\.kind: is 'weight'"),
    bundle("norm of other channels", _set("norms.0.channels", 5), "manifest.yaml",
           r"parameters\.2\.size: norm\.bn\.mean"),
    bundle("kind of parameter unknown", _set("parameters.0.kind", "gain"), "manifest.yaml", r"parameters\.0\.kind"),
    bundle("parameter twice", _set("parameters.1.name", "input.x.gain"), "manifest.yaml", "parameters: 'input.x.gain'"),
    bundle("parameter of another size", _set("parameters.7.size", 3), "manifest.yaml",
           r"parameters\.7\.size: output\.shift"),
    bundle("graph of an unknown kind", _set("graphs.train", "serve.onnx"), "manifest.yaml",
           r"graphs\.train: there is no such key"),
    bundle("no serve graph", _manifest(lambda m: m["graphs"].pop("serve")), "manifest.yaml", "graphs: .*serve"),
    bundle("file outside of the folder", _manifest(lambda m: m["files"].update({"../../etc/passwd": "00"})),
           "manifest.yaml", r"files: '\.\./\.\./etc/passwd'"),
    bundle("source outside of the folder", _manifest(lambda m: (m.update(source="/etc/passwd"))), "manifest.yaml",
           "files: /etc/passwd"),
    bundle("arrays of Python objects", _array("theta", lambda a: np.array([_Trap()] * len(a), object)), "source.npz",
           "Python objects"),
    bundle("statistics no NPZ", _file("source.npz", b"hello"), "source.npz", "cannot be read"),
    bundle("statistics a broken ZIP", _file("source.npz", b"PK\x03\x04 and no more"), "source.npz", "cannot be read"),
    bundle("statistics one array", _file("source.npz", lambda d: _npy(np.zeros(3))), "source.npz", "one array"),
    bundle("an array missing", _arrays(lambda a: a.pop("moments_var")), "source.npz", "moments_var"),
    bundle("part of a signal missing", _arrays(lambda a: a.pop("usual.raw.centre")), "source.npz", r"usual\.raw"),
    bundle("part of a signal too many", _arrays(lambda a: a.update({"usual.raw.x": np.zeros(2)})), "source.npz",
           r"usual\.raw\.x"),
    bundle("part of a signal misshapen", _array("usual.raw.floor", lambda a: a[1:]), "source.npz",
           r"usual\.raw\.floor"),
    bundle("signal unknown", _arrays(lambda a: a.update({"usual.smell.floor": np.zeros(2)})), "source.npz",
           r"usual\.smell"),
    bundle("an array too many", _arrays(lambda a: a.update(extra=np.zeros(2))), "source.npz", "extra"),
    bundle("theta too short", _array("theta", lambda a: a[:-1]), "source.npz", "theta has 27 values .* 28"),
    bundle("theta not finite", _array("theta", lambda a: _spoilt(a, math.inf)), "source.npz", "theta .*not finite"),
    bundle("theta a text", _array("theta", lambda a: a.astype(str)), "source.npz", "theta holds"),
    bundle("moments of other channels", _array("moments_mean", lambda a: a[:-1]), "source.npz",
           r"moments_mean .*\[4\]"),
    bundle("moments not a number", _array("moments_var", lambda a: _spoilt(a, math.nan)), "source.npz",
           "moments_var .*not finite"),
    bundle("variance negative", _array("moments_var", lambda a: _spoilt(a, -1.0)), "source.npz",
           "moments_var .*negative"),
    bundle("covariance no square", _array("feature_cov", lambda a: a[:2]), "source.npz", r"feature_cov .*\[4, 4\]"),
    bundle("covariance of nothing", _array("feature_cov", lambda a: -a), "source.npz", "feature_cov .*negative"),
    bundle("prior of other classes", _array("class_prior", lambda a: np.ones(3) / 3), "source.npz",
           r"class_prior .*\[2\]"),
    bundle("reference no row", _array("reference.entropy", lambda a: a.reshape(2, -1)), "source.npz",
           r"reference\.entropy"),
    bundle("graph no ONNX", _file("serve.onnx", b"hello, this is no graph"), "serve.onnx", "not an ONNX model"),
    bundle("banked graph no ONNX", _file("banked.onnx", b"hello, this is no graph"), "banked.onnx", "cannot be opened"),
    bundle("graph empty", _file("serve.onnx", b""), "serve.onnx", "initializer"),
    bundle("initializer missing", _graph("serve", _without("initializer", "norm.bn.mean")), "serve.onnx",
           "norm.bn.mean"),
    bundle("initializer of another size", _graph("observe", _resize), "observe.onnx",
           "output.shift"),
    bundle("no output y", _graph("serve", _output("scores", None)), "serve.onnx", "output y"),
    bundle("no moments", _graph("observe", _without("output", "moments")), "observe.onnx", "output moments"),
    bundle("graph of other inputs", _graph("serve", _renamed), "serve.onnx", "cannot be run"),
    bundle("graph of another input shape", _manifest(_longer), "banked.onnx",
           "cannot be run"),
    bundle("more outputs than classes", _graph("serve", _output("y", "features")), "serve.onnx",
           r"output y has the shape \[1, 4\] .*\[1, 2\]"),
    bundle("graph of a newer ONNX", _newer, "banked.onnx", "cannot be opened"),
]  # fmt: skip


# -- payloads ---------------------------------------------------------------------------------------------------------

IMAGE = Form(None, {"x": (2, 2)})
TWO = Form(None, {"left": (2, 3), "right": (4,)})


def payload(
    name: str,
    data: object,
    place: str,
    mend: str = "send",
    *,
    format: str = "json",
    form: Form | None = None,
    properties: dict[str, str] | None = None,
    live: bool = True,
) -> Case:
    """A payload: bytes as they are, all else in its stream's format. `form`: that of another bundle."""
    if not isinstance(data, bytes):
        data = json.dumps(data).encode() if format == "json" else msgpack.packb(data)
    wire: bytes = data

    def attempt(folder: Path, bundle: Bundle) -> str:
        settings = Stream(topic="sensors/+/imu", payload=format)  # type: ignore[arg-type]
        try:
            decode(wire, TOPIC, settings, form or Form.of(bundle.manifest), 1e9, properties)
        except PayloadError as error:
            # What an operator sees is the dead letter.
            letter = json.loads(dead_letter(Delivery(TOPIC, wire, 1, 1, False, False, {}, 1e9), str(error)))
            raise PayloadError(f"[{letter['topic']}] {letter['reason']}") from None
        return TOPIC

    sent = Payload(wire, format, live and form is None and properties is None)
    return Case("payload", name, attempt, place, mend, PayloadError, TOPIC, sent)


ROW = [1.0, 2.0, 3.0]
FLOATS = struct.pack("<6f", *range(6))

PAYLOADS = [
    payload("empty", b"", "empty", "send JSON"),
    payload("only spaces", b"  \n", "empty", "send JSON"),
    payload("not JSON", b"1.0,2.0,3.0", "not JSON", "send JSON"),
    payload("JSON cut short", b'{"values": [[1, 2, 3], [4, 5', "not JSON", "send JSON"),
    payload("single quotes", b"{'values': [[1, 2, 3]]}", "not JSON", "send JSON"),
    payload("two objects", b'{"values": [[1, 2, 3]]}\n{"values": [[1, 2, 3]]}', "not JSON", "send JSON"),
    payload("not UTF-8", b'{"values": [[1, 2, 3]], "label": "\xff"}', "UTF-8", "send JSON"),
    payload("raw bytes on a JSON stream", FLOATS, "not JSON|UTF-8", "send JSON"),
    payload("MessagePack on a JSON stream", msgpack.packb({"values": [ROW]}), "not JSON|UTF-8", "send JSON"),
    payload("a list", [ROW], "is a list", "send a mapping with the key `values`"),
    payload("a number", 5, "is a number", "send a mapping"),
    payload("a text", "hello", "is a text", "send a mapping"),
    payload("null", None, "is a null", "send a mapping"),
    payload("values missing", {"time": 1.0}, "`values` is missing", "send {time, sequence, values}"),
    payload("values misspelt", {"value": [ROW]}, "`values` is missing", "send {time, sequence, values}"),
    payload("key twice", b'{"values": [[1, 2, 3]], "values": [[4, 5, 6]]}', "'values' is there twice", "send it once"),
    payload("values null", {"values": None}, "values: is a null", "send a list"),
    payload("values a text", {"values": "1,2,3"}, "values: is a text", "send a list"),
    payload("values a number", {"values": 3}, "values: is a number", "send a list"),
    payload("values true", {"values": True}, "values: is a truth value", "send a list"),
    payload("values empty", {"values": []}, "values: holds no row", "send at least one"),
    payload("empty rows", {"values": [[], []]}, "values: holds no row", "send at least one"),
    payload("too few channels", {"values": [[1, 2]]}, "values: has 2 values a row", "send 3 a row"),
    payload("too many channels", {"values": [[1, 2, 3, 4]]}, "values: has 4 values a row", "send 3 a row"),
    payload("too many values in a row", {"values": [1, 2, 3, 4]}, r"values: has the shape \[4\]", "send 3 a row"),
    payload("rows of different lengths", {"values": [ROW, [1, 2]]}, "values: rows differ in length", "send as many"),
    payload("a row that is a number", {"values": [ROW, 4.0]}, "values: rows differ in length", "send as many"),
    payload("nested once too often", {"values": [[ROW]]}, r"values: has the shape \[1, 1, 3\]", "send 3 a row"),
    payload("text among numbers", {"values": [[1, "2", 3]]}, "values: .*no number", "send numbers or null"),
    payload("text for NaN", {"values": [[1, "NaN", 3]]}, "values: .*no number", "send numbers or null"),
    payload("truth values", {"values": [[True, False, True]]}, "values: .*no number", "send numbers or null"),
    payload("truth values among numbers", {"values": [[1, True, 3]]}, "values: .*no number", "send numbers or null"),
    payload("a mapping among numbers", {"values": [[1, {"x": 2}, 3]]}, "values: .*no number", "send numbers or null"),
    payload("a mapping for one input", {"values": {"x": [ROW]}}, "values: is a mapping", "send lists of numbers"),
    payload("rows as mappings", {"values": [{"a": 1, "b": 2, "c": 3}]}, "values: .*no number", "send numbers"),
    payload("nested too deep", b'{"values": ' + b"[" * 100_000, "nested too deeply", "send rows"),
    payload("nested deep, and closed", {"values": json.loads("[" * 40 + "1" + "]" * 40)}, "values: ", "send"),
    payload("too many rows", {"values": [[0, 0, 0]] * (MAX_ROWS + 1)}, "values: has 65537 rows", "send at most 65536"),
    payload("too large", b" " * (MAX_BYTES + 1), f"{MAX_BYTES + 1} bytes", f"send at most {MAX_BYTES}", live=False),
    payload("time negative", {"time": -1, "values": [ROW]}, "time: -1 ", "send seconds"),
    payload("time NaN", {"time": math.nan, "values": [ROW]}, "time: nan ", "send seconds"),
    payload("time infinite", {"time": math.inf, "values": [ROW]}, "time: inf ", "send seconds"),
    payload("time in milliseconds", {"time": 1780000000000, "values": [ROW]}, "time: 1780000000000",
            "not milliseconds"),
    payload("time a huge number", {"time": 10**400, "values": [ROW]}, "time: 1000", "send seconds"),
    payload("time a text", {"time": "2026-05-31T12:00:00Z", "values": [ROW]}, "time: is a text", "send Unix seconds"),
    payload("time a list", {"time": [1, 2], "values": [ROW]}, "time: is a list", "send Unix seconds"),
    payload("time true", {"time": True, "values": [ROW]}, "time: is a truth value", "send Unix seconds"),
    payload("sequence negative", {"sequence": -1, "values": [ROW]}, "sequence: -1 ", "send a whole number from 0"),
    payload("sequence a fraction", {"sequence": 1.5, "values": [ROW]}, "sequence: 1.5 ", "send a whole number"),
    payload("sequence a text", {"sequence": "7", "values": [ROW]}, "sequence: '7' ", "send a whole number"),
    payload("sequence huge", {"sequence": 2**63, "values": [ROW]}, "sequence: 9223372036854775808 ", "send a whole"),
    payload("sequence true", {"sequence": True, "values": [ROW]}, "sequence: True ", "send a whole number"),
    payload("sequence beyond printing", b'{"sequence": ' + b"9" * 5000 + b', "values": [[1, 2, 3]]}',
            "sequence|not JSON",
            "send"),
    payload("label a list", {"label": ["no"], "values": [ROW]}, "label: is a list", "send a class name or a number"),
    payload("label true", {"label": True, "values": [ROW]}, "label: is a truth value", "send a class name"),
    payload("MessagePack cut short", msgpack.packb({"values": [ROW]})[:-3], "not MessagePack", "send MessagePack",
            format="msgpack"),
    payload("JSON on a MessagePack stream", b'{"values": [[1, 2, 3]]}', "not MessagePack", "send MessagePack",
            format="msgpack"),
    payload("empty MessagePack", b"", "empty", "send MessagePack", format="msgpack"),
    payload("MessagePack of a list", [ROW], "is a list", "send a mapping", format="msgpack"),
    payload("MessagePack extension", {"values": msgpack.ExtType(5, b"x")}, "values: ", "send", format="msgpack"),
    payload("MessagePack time stamp", {"time": msgpack.Timestamp(5), "values": [ROW]}, "time: ", "send Unix seconds",
            format="msgpack"),
    payload("MessagePack with numbers as keys", {1: 2, "values": [ROW]}, "not MessagePack", "send MessagePack",
            format="msgpack"),
    payload("MessagePack bytes of a wrong length", {"values": FLOATS[:-1]}, "23 bytes", "see the stream's `dtype`|send",
            format="msgpack"),
    payload("MessagePack bytes of no whole row", {"values": FLOATS[:-4]}, r"the shape \[5\]", "send 3 a row",
            format="msgpack"),
    payload("shape that does not fit", {"values": FLOATS, "shape": [3, 3]}, r"shape: \[3, 3\]", "send",
            format="msgpack"),
    payload("shape a text", {"values": FLOATS, "shape": "2x3"}, "shape: ", "send one, or leave it out",
            format="msgpack"),
    payload("shape negative", {"values": FLOATS, "shape": [-1, 3]}, "shape: ", "send one, or leave it out",
            format="msgpack"),
    payload("raw empty", b"", "empty|no row", "send", format="raw"),
    payload("raw of a wrong length", FLOATS[:-1], "23 bytes", "see the stream's `dtype`|send", format="raw"),
    payload("raw of no whole row", FLOATS[:-4], r"the shape \[5\]", "send 3 a row", format="raw"),
    payload("raw with a time that is none", FLOATS, "time: .*'noon'", "send a number", format="raw",
            properties={"time": "noon"}),
    payload("raw with a sequence that is none", FLOATS, "sequence: .*'1.5'", "send a number", format="raw",
            properties={"sequence": "1.5"}),
    payload("raw of half a sample", FLOATS[:8], "has 2 values .* has 4", "send those", format="raw", form=IMAGE),
    payload("sample of another shape", {"values": [[1, 2], [3, 4], [5, 6]]}, r"values: has the shape \[3, 2\]",
            "send", form=IMAGE),
    payload("a list for two inputs", {"values": [ROW]}, "values: .*several inputs", "send a mapping of left, right",
            form=TWO),
    payload("an input missing", {"values": {"left": [ROW, ROW]}}, "values: has the inputs left", "send", form=TWO),
    payload("an input too many", {"values": {"left": [ROW, ROW], "right": [1] * 4, "up": 1}}, "values: .*up", "send",
            form=TWO),
    payload("an input of another shape", {"values": {"left": [ROW], "right": [1] * 4}}, "'left'", "send", form=TWO),
]  # fmt: skip


# -- recordings -------------------------------------------------------------------------------------------------------

HEADER = "time,a,b,c,label"
LINES = [HEADER, *(f"{1000 + i / 16},{i},{i % 5},{-i},{'yes' if i % 2 else 'no'}" for i in range(40))]


def recording(
    name: str,
    content: str | bytes | Callable[[Path], Any],
    place: str,
    mend: str,
    *,
    file: str = "r.csv",
    change: dict[str, Any] | None = None,
) -> Case:
    """A recording: its content, or what puts it there. `change`: what the bundle's manifest has otherwise."""

    def attempt(folder: Path, bundle: Bundle) -> str:
        path = folder / file
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        for _ in Recording(path, bundle.manifest.model_copy(update=change or {})).blocks():
            pass
        return file

    return Case("recording", name, attempt, place, mend, RecordingError, re.escape(file))


def _lines(at: int, *instead: str) -> str:
    """A right CSV file with other lines from line `at` (the header is 1) on, one for one."""
    return "\n".join([*LINES[: at - 1], *instead, *LINES[at - 1 + len(instead) :]]) + "\n"


def _jsonl(*lines: object) -> str:
    return "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)


def _npz(**arrays: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        np.savez(path, **arrays)

    return write


def _parquet(**columns: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        pq.write_table(pa.table(columns), path)

    return write


N = 40
TIME = [1000 + i / 16 for i in range(N)]
NUMBERS = [float(i) for i in range(N)]
ABC = {"a": NUMBERS, "b": NUMBERS, "c": NUMBERS}
X = np.zeros((N, 3), np.float32)
LINE = {"time": 1000.0, "a": 1, "b": 2, "c": 3}
MESSAGE = {"time": 1000.0, "values": [[1, 2, 3]]}
REGRESSION = {"task": "regression", "classes": [], "targets": ["level"]}

RECORDINGS = [
    recording("missing", lambda p: None, "no such file", "give a recording"),
    recording("a folder", lambda p: p.mkdir(), "", "give a recording"),
    recording("no extension", "\n".join(LINES), "", "name it so or convert it", file="recording"),
    recording("unknown extension", "x", "", "name it so or convert it", file="r.xlsx"),
    recording("compressed", gzip.compress("\n".join(LINES).encode()), "", "unpack it", file="r.csv.gz"),
    recording("compressed, named CSV", gzip.compress("\n".join(LINES).encode()), "compressed", "unpack it"),
    recording("empty", "", "empty", "begin it with a line of column names"),
    recording("blank", "\n\n", "empty", "begin it with a line of column names"),
    recording("only a header", HEADER + "\n", "no rows", "record some"),
    recording("no header", "\n".join(LINES[1:]), "line 1", "line of column names"),
    recording("a column missing", _lines(1, "time,a,b,label,d"), "columns c are missing", "add them"),
    recording("other columns", _lines(1, "when,p,q,r,s"), "a, b, c", "rename or drop"),
    recording("a column twice", _lines(1, "time,a,b,b,c"), "'b' is there twice", "rename one"),
    recording("text in a cell", _lines(7, "1000.5,1,oops,3,no"), "line 7: b: 'oops'", "give a number"),
    recording("decimal commas", "\n".join(LINES).replace(",", ";").replace(".", ","), "line \\d+: ", "give"),
    recording("a unit in a cell", _lines(9, "1000.5,1,2,3m,no"), "line 9: c: '3m'", "give a number"),
    recording("a cell too few", _lines(5, "1000.5,1,2,3"), "line 5: has 4 cells", "mend that line"),
    recording("a cell too many", _lines(6, "1000.5,1,2,3,no,6"), "line 6: has 6 cells", "mend that line"),
    recording("NUL bytes", _lines(4, "1000.5,1,\0,3,no"), "line 4", "mend|give|save"),
    recording("not UTF-8", _lines(8, "1000.5,1,2,3,nö").encode("latin-1"), "line 8: is not UTF-8", "save .* UTF-8"),
    recording("UTF-16", "\n".join(LINES).encode("utf-16"), "line 1: is not UTF-8", "save .* UTF-8"),
    recording("quote not closed", _lines(6, '1000.5,1,"2,3,no'), "line \\d+", "mend that line"),
    recording("time unsorted", _lines(9, "999,1,2,3,no"), "line 9: time: is earlier than in line 8",
              "sort the recording"),
    recording("time missing", _lines(9, ",1,2,3,no"), "line 9: time: is missing", "give Unix seconds"),
    recording("time no time", _lines(9, "noon,1,2,3,no"), "line 9: time: 'noon'", "give Unix seconds or ISO 8601"),
    recording("time of another format", _lines(9, "31.05.2026 12:00,1,2,3,no"), "line 9: time: ", "give Unix seconds"),
    recording("time negative", _lines(2, "-5,1,2,3,no"), "line 2: time: -5", "give Unix seconds"),
    recording("time in milliseconds", _lines(9, "1780000000000,1,2,3,no"), "line 9: time: 1780000000000",
              "Unix seconds"),
    recording("time infinite", _lines(9, "inf,1,2,3,no"), "line 9: time: inf", "give Unix seconds"),
    recording("label unknown", _lines(9, "1000.5,1,2,3,perhaps"), "line 9: label: 'perhaps'.*no, yes", "rename it"),
    recording("label no number", _lines(9, "1000.5,1,2,3,high"), "line \\d+: label: '", "give a number",
              change=REGRESSION),
    recording("one label for two targets", "\n".join(LINES), "label: ", "drop the column",
              change=REGRESSION | {"targets": ["level", "flow"]}),
    recording("no stream's name", "stream," + LINES[0] + "\n" + "\n".join("," + line for line in LINES[1:]),
              "line 2: stream: is empty", "name it in every"),
    recording("nothing but NaN", "a,b,c\n" + "nan,nan,nan\n" * 40, "a, b, c", "record them"),
    recording("a channel of nothing but NaN", "a,b,c\n" + "1,,3\n" * 40, " b", "record them"),
    recording("whole samples in columns", "\n".join(LINES), "x ", "use an NPZ file",
              change={"window": None}),
    recording("Parquet that is none", "\n".join(LINES), "not Parquet", "write it again", file="r.parquet"),
    recording("Parquet empty", b"", "not Parquet", "write it again", file="r.parquet"),
    recording("Parquet cut short", lambda p: (_parquet(time=TIME, **ABC)(p), p.write_bytes(p.read_bytes()[:-20])),
              "not Parquet", "write it again", file="r.parquet"),
    recording("Parquet altered", lambda p: (_parquet(time=TIME, **ABC)(p),
              p.write_bytes(p.read_bytes()[:4] + b"\xff" * 200 + p.read_bytes()[204:])), "", "write it again",
              file="r.parquet"),
    recording("Parquet without rows", lambda p: pq.write_table(pa.table(ABC).slice(0, 0), p), "no rows", "record some",
              file="r.parquet"),
    recording("Parquet without a column", _parquet(a=NUMBERS, b=NUMBERS), "columns c are missing", "add them",
              file="r.parquet"),
    recording("Parquet of texts", _parquet(a=NUMBERS, b=NUMBERS, c=["x"] * N), "'c'", "make it a number",
              file="r.parquet"),
    recording("Parquet of lists", _parquet(a=NUMBERS, b=NUMBERS, c=[[1.0]] * N), "'c' .*list", "make it a number",
              file="r.parquet"),
    recording("Parquet of structures", _parquet(a=NUMBERS, b=NUMBERS, c=[{"x": 1}] * N), "'c' .*struct",
              "make it a number", file="r.parquet"),
    recording("Parquet unsorted", _parquet(time=TIME[::-1], **ABC), "row 2: time: ", "sort the recording",
              file="r.parquet"),
    recording("Parquet with times that are none", _parquet(time=["noon"] * N, **ABC), "row 1: time: 'noon'",
              "give Unix seconds", file="r.parquet"),
    recording("Parquet with labels of lists", _parquet(label=[["no"]] * N, **ABC), "label", "give|rename|make",
              file="r.parquet"),
    recording("Parquet without a stream's name", _parquet(stream=[None] * N, **ABC), "row 1: stream: is empty",
              "name it in every", file="r.parquet"),
    recording("NPZ that is none", "\n".join(LINES), "cannot be read", "write it with numpy.savez", file="r.npz"),
    recording("NPZ cut short", lambda p: (_npz(x=X)(p), p.write_bytes(p.read_bytes()[:-50])), "cannot be read",
              "write it with numpy.savez", file="r.npz"),
    recording("NPZ that is one array", _npy(X), "cannot be read", "write it with numpy.savez", file="r.npz"),
    recording("NPZ of objects", lambda p: np.savez(p, x=np.array([_Trap()] * N, object)), "Python objects",
              "write it with numpy.savez", file="r.npz"),
    recording("NPZ without the input", _npz(data=X, time=TIME), "'x' is missing", "store one", file="r.npz"),
    recording("NPZ the other way round", _npz(x=X.T), r"x: has the shape \[3, 40\]", "store it as", file="r.npz"),
    recording("NPZ of windows", _npz(x=np.zeros((5, 3, 16))), r"x: has the shape \[5, 3, 16\]", "store it as",
              file="r.npz"),
    recording("NPZ of texts", _npz(x=X.astype(str)), "x: holds", "store numbers", file="r.npz"),
    recording("NPZ of complex numbers", _npz(x=X.astype(complex)), "x: holds complex", "store numbers", file="r.npz"),
    recording("NPZ with too few times", _npz(x=X, time=TIME[:-1]), r"time: has the shape \[39\]",
              "give one entry a row",
              file="r.npz"),
    recording("NPZ with labels in columns", _npz(x=X, label=np.zeros((N, 2))), r"label: has the shape",
              "give one entry",
              file="r.npz"),
    recording("NPZ unsorted", _npz(x=X, time=TIME[::-1]), "row 2: time: ", "sort the recording", file="r.npz"),
    recording("NPZ with times that are missing", _npz(x=X, time=np.array(["NaT"] * N, "datetime64[s]")),
              "row 1: time: is missing", "give Unix seconds", file="r.npz"),
    recording("NPZ with an unknown label", _npz(x=X, label=np.array(["no"] * 39 + ["perhaps"])),
              "row 40: label: 'perhaps'", "rename it", file="r.npz"),
    recording("NPZ without rows", _npz(x=X[:0]), "no rows", "record some", file="r.npz"),
    recording("JSON lines empty", "", "no rows", "record some", file="r.jsonl"),
    recording("JSON lines with a broken one", _jsonl(LINE, '{"time": 1001, "a": 1, ', LINE), "line 2: is not JSON",
              "mend that line", file="r.jsonl"),
    recording("one JSON document over lines", json.dumps([LINE, LINE], indent=1), "line 1: is not JSON",
              "mend that line", file="r.jsonl"),
    recording("JSON lines of lists", _jsonl([1, 2, 3]), "line 1: is no JSON object", "give one object a line",
              file="r.jsonl"),
    recording("JSON lines with a missing channel", _jsonl(LINE, {"time": 1001, "a": 1, "b": 2}),
              "line 2: c: is missing",
              "give every channel", file="r.jsonl"),
    recording("JSON lines with a text", _jsonl(LINE, LINE | {"b": "2"}), "line 2: b: '2' is no number", "give a number",
              file="r.jsonl"),
    recording("JSON lines with a truth value", _jsonl(LINE, LINE | {"b": True}), "line 2: b: True", "give a number",
              file="r.jsonl"),
    recording("JSON lines nested too deep", _jsonl(LINE, "[" * 100_000), "line 2: is not JSON .*nested too deeply",
              "mend that line", file="r.jsonl"),
    recording("JSON lines of other columns", _jsonl({"p": 1, "q": 2}), "a, b, c", "rename or drop", file="r.jsonl"),
    recording("messages with rows of other lengths", _jsonl(MESSAGE, {"time": 1001, "values": [[1, 2, 3], [1]]}),
              "line 2: values: rows differ", "give as many", file="r.jsonl"),
    recording("messages of other channels", _jsonl(MESSAGE, {"time": 1001, "values": [[1, 2]]}), "line 2: values: ",
              "give", file="r.jsonl"),
    recording("messages of texts", _jsonl({"values": [["1", "2", "3"]]}), "line 1: values: ", "give numbers",
              file="r.jsonl"),
    recording("messages of null", _jsonl({"values": None}), "line 1: values: ", "give", file="r.jsonl"),
    recording("messages of a mapping", _jsonl({"values": {"x": [[1, 2, 3]]}}), "line 1: values: is a mapping", "give",
              file="r.jsonl"),
    recording("messages without rows", _jsonl({"values": []}), "line 1: values: ", "give", file="r.jsonl"),
    recording("time in some lines only", _jsonl({"a": 1, "b": 2, "c": 3}, LINE), "line 2: time: ",
              "give it in every line",
              file="r.jsonl"),
    recording("time missing later", _jsonl(LINE, {"a": 1, "b": 2, "c": 3}), "line 2: time: is missing", "give",
              file="r.jsonl"),
    recording("stream in some lines only", _jsonl(LINE, LINE | {"stream": "s"}), "line 2: stream: ",
              "give it in every line",
              file="r.jsonl"),
    recording("label a list", _jsonl(LINE | {"label": ["no"]}), "line 1: label: ", "give a class name", file="r.jsonl"),
]  # fmt: skip

CASES = [*CONFIGS, *BUNDLES, *PAYLOADS, *RECORDINGS]
