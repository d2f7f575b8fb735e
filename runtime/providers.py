"""Execution providers: from the names in a configuration to working ONNX Runtime sessions.

ONNX Runtime falls back to the CPU in silence where a provider cannot be loaded. Here each provider is tried
before it is used: one that is required and does not work is an error, one that is not is left out with a log line.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import TensorProto, helper

from trimtab.runtime.config import Provider, Sessions
from trimtab.runtime.errors import ProviderError

log = logging.getLogger(__name__)

Name = Literal["cpu", "cuda", "tensorrt"]
NAMES: dict[Name, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""The configuration's names and ONNX Runtime's."""

IR_VERSION = 10
"""Of graphs made here: old enough for every ONNX Runtime that trimtab installs with."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Which shapes an input can have: the TensorRT profile of that input."""

    smallest: Shape
    usual: Shape
    largest: Shape


def library() -> Any:
    """The module `onnxruntime`. Raises ProviderError where it is not installed."""
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise ProviderError(
            f"onnxruntime cannot be imported ({one_line(error)}); "
            "run pip install 'trimtab[cpu]', or 'trimtab[gpu]' on a box with an NVIDIA GPU"
        ) from error


@cache
def library_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: classes of its own that share no base but Exception, and RuntimeError, ValueError."""
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*own, RuntimeError, ValueError)


def distributions() -> dict[str, str]:
    """Installed distributions that provide the module `onnxruntime`, with their versions. More than one is a fault:
    they write the same files, and which library runs depends on the order of installation."""
    names = metadata.packages_distributions().get("onnxruntime", [])
    return {name: metadata.version(name) for name in sorted(set(names))}


def why_not(name: Name, options: Mapping[str, Any] | None = None) -> str | None:
    """Try a provider on a graph of one node. None where it works, else the reason, in the library's words."""
    ort = library()
    full = NAMES[name]
    if full not in ort.get_available_providers():
        installed = ", ".join(distributions()) or "onnxruntime"
        return f"the installed {installed} {ort.__version__} was built without it"
    opened, result, raised = False, np.empty(0), "ONNX Runtime left it out without saying why"
    with _native_stderr() as printed:
        try:
            session = ort.InferenceSession(
                _trial_graph(), session_options(1), providers=[(full, dict(options or {}))], enable_fallback=0
            )
            opened = full in session.get_providers()
            result = session.run(["y"], {"x": np.array([[-1.0, 2.0]], np.float32)})[0]
        except library_errors() as error:
            opened, raised = False, str(error)
    if not opened:
        return _reason("".join(printed), raised)
    if not np.array_equal(result, [[0.0, 2.0]]):
        return f"it computed a ReLU wrongly ({result.tolist()})"
    return None


def session_options(threads: int) -> Any:
    """Options of every session: `threads` within an operator (0: ONNX Runtime's choice), one operator at a time."""
    ort = library()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # A bundle's many sessions have a pool each: idle pools must sleep, not spin, or they take the cores from the
    # one at work and from the daemon's other threads.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Errors only: warnings about the placement of nodes are of no use to an operator.
    options.log_severity_level = 3
    return options


class Opener:
    """Opens sessions on the providers of a configuration, the CPU implicitly the last.

    `cache` is the folder for TensorRT's engines and timings where the options name none. Raises ProviderError where
    a required provider does not work.
    """

    def __init__(self, sessions: Sessions, cache: Path) -> None:
        self._sessions = sessions
        self._cache = cache
        self._chosen = [p for i, p in enumerate(sessions.providers) if self._works(i, p)]

    @property
    def names(self) -> list[Name]:
        """The providers in use, in order; `cpu` is always among them."""
        names = [p.name for p in self._chosen]
        return names if "cpu" in names else [*names, "cpu"]

    @property
    def device(self) -> tuple[str, int]:
        """Where inputs and outputs lie, as ONNX Runtime names it: `("cpu", 0)` or `("cuda", NUMBER)`."""
        for provider in self._chosen:
            if provider.name in ("cuda", "tensorrt"):
                return "cuda", int(provider.options.get("device_id", 0))
        return "cpu", 0

    def open(self, graph: bytes, ranges: Mapping[str, Range], *, keep: bool) -> Any:
        """An `onnxruntime.InferenceSession` of a serialised graph.

        `ranges` are the shapes of its inputs; `keep` says whether TensorRT's engine is worth keeping on disk (a
        graph of the bundle) or is one of many to come (a patched one). Raises ProviderError where a provider that
        works by itself cannot run this graph.
        """
        providers = [(NAMES[p.name], provider_options(p, graph, ranges, self._cache, keep=keep)) for p in self._chosen]
        if "cpu" not in [p.name for p in self._chosen]:
            providers.append((NAMES["cpu"], {}))
        if "tensorrt" in self.names:
            self._cache.mkdir(parents=True, exist_ok=True)
        try:
            session = library().InferenceSession(
                graph, session_options(self._sessions.threads), providers=providers, enable_fallback=0
            )
        except library_errors() as error:
            raise ProviderError(
                f"sessions.providers: the bundle's graph cannot be run on {', '.join(self.names)} "
                f"({one_line(error)}); choose other providers or export the bundle again"
            ) from error
        opened = session.get_providers()
        for index, provider in enumerate(self._sessions.providers):
            if provider.required and NAMES[provider.name] not in opened:
                raise ProviderError(_refusal(index, provider, "ONNX Runtime left it out for this graph"))
        return session

    def _works(self, index: int, provider: Provider) -> bool:
        # The CPU is in every build.
        if provider.name == "cpu":
            return True
        reason = why_not(provider.name, provider.options)
        if reason is None:
            return True
        if provider.required:
            raise ProviderError(_refusal(index, provider, reason))
        log.warning("sessions.providers.%d: %s is left out: %s", index, provider.name, reason)
        return False


def provider_options(
    provider: Provider, graph: bytes, ranges: Mapping[str, Range], cache: Path, *, keep: bool
) -> dict[str, str]:
    """What ONNX Runtime is given for one provider: the configuration's options over the defaults made here.

    TensorRT (https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html): one explicit
    profile over all inputs, a timing cache, and an engine cache. ONNX Runtime names a cached engine by the shape of
    the graph, not by its weights, and would load another vector's engine for a patched graph; so the name is
    given the hash of the graph as a prefix, and engines of patched graphs are not kept.
    """
    defaults: dict[str, Any] = {}
    if provider.name == "tensorrt":
        defaults = {
            "trt_engine_cache_enable": keep,
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(cache),
            "trt_profile_min_shapes": _profile({name: r.smallest for name, r in ranges.items()}),
            "trt_profile_opt_shapes": _profile({name: r.usual for name, r in ranges.items()}),
            "trt_profile_max_shapes": _profile({name: r.largest for name, r in ranges.items()}),
        }
        if keep:
            defaults["trt_engine_cache_path"] = str(cache)
            defaults["trt_engine_cache_prefix"] = f"trimtab-{hashlib.sha256(graph).hexdigest()[:16]}"
    return {key: str(value) for key, value in {**defaults, **provider.options}.items()}


def _profile(shapes: Mapping[str, Shape]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _refusal(index: int, provider: Provider, reason: str) -> str:
    return (
        f"sessions.providers.{index}: {provider.name} is required and does not work ({reason}); "
        f"{mend(provider.name)}, or set required: false"
    )


def mend(name: Name) -> str:
    """What to do where a provider does not work."""
    if name == "cpu":
        return "install onnxruntime again"
    libraries = {"cuda": "CUDA and cuDNN", "tensorrt": "CUDA and TensorRT"}[name]
    installed = distributions()
    if "onnxruntime-gpu" in installed:
        return f"install the {libraries} libraries that onnxruntime-gpu {installed['onnxruntime-gpu']} asks for"
    # The two write the same files, so the one must go before the other comes.
    removed = f"pip uninstall {' '.join(installed)}, then " if installed else ""
    return f"run {removed}pip install 'trimtab[gpu]', and install the {libraries} libraries that it asks for"


def _trial_graph() -> bytes:
    def value(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2])

    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "trial", [value("x")], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=IR_VERSION)
    data: bytes = model.SerializeToString()
    return data


@contextlib.contextmanager
def _native_stderr() -> Iterator[list[str]]:
    """Catch what is written to file descriptor 2; the list that it yields holds the text once the block has ended.

    ONNX Runtime says why a provider cannot be loaded there and nowhere else.
    """
    printed: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield printed
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            printed.append(file.read().decode("utf-8", "replace"))


def _reason(printed: str, raised: str) -> str:
    """The most telling part of what the library printed or raised, as one line."""
    missing: Sequence[str] = re.findall(r"with error: (.+)", printed)
    if missing:
        return one_line(missing[0])
    failed = re.findall(r"(Failed to create .+)", printed)
    return one_line(failed[0] if failed else raised)


def one_line(text: object, limit: int = 240) -> str:
    """Without colours, source paths of the library's own and line breaks; cut at `limit` characters."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(text))
    plain = re.sub(r"/onnxruntime_src/\S+ .*?\)\s", "", plain)
    joined = " ".join(plain.split()).rstrip(".")
    return joined if len(joined) <= limit else joined[: limit - 3] + "..."
