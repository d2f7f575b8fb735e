"""Providers: what is asked for and what becomes of it. The boxes that run these tests have no GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from trimtab.runtime import providers
from trimtab.runtime.config import Provider, Sessions
from trimtab.runtime.errors import ProviderError
from trimtab.runtime.executors import InlineExecutor
from trimtab.runtime.providers import Opener, Range, provider_options, why_not
from trimtab.runtime.sessions import Engine

without_cuda = pytest.mark.skipif(
    why_not("cuda") is None, reason="this machine has what the test expects to be missing"
)


def test_the_cpu_works_and_is_the_last_resort_without_being_named(tmp_path: Path, tiny: Any) -> None:
    assert why_not("cpu") is None
    opener = Opener(Sessions(), tmp_path)
    assert opener.names == ["cpu"]
    assert opener.device == ("cpu", 0)
    session = opener.open(tiny.bundle.graph("serve"), {}, keep=True)
    assert session.get_providers() == ["CPUExecutionProvider"]


@without_cuda
@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_a_required_provider_that_does_not_work_is_an_error_that_names_the_key_and_the_mend(
    name: Any, tiny: Any
) -> None:
    sessions = Sessions(providers=[Provider(name="cpu"), Provider(name=name, required=True)])
    expected = (
        rf"^sessions\.providers\.1: {name} is required and does not work \(.+\); .*(trimtab\[gpu\]|onnxruntime-gpu).+$"
    )
    with pytest.raises(ProviderError, match=expected) as caught:
        Engine(tiny.bundle, sessions, InlineExecutor())
    assert "\n" not in str(caught.value)


@without_cuda
def test_an_optional_provider_that_does_not_work_is_left_out_with_a_log_line(
    tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = Sessions(providers=[Provider(name="tensorrt"), Provider(name="cuda")])
    engine = Engine(tiny.bundle, sessions, InlineExecutor())
    assert engine.providers() == ["CPUExecutionProvider"]
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["sessions.providers.0", "sessions.providers.1"]


def test_a_provider_that_is_listed_and_falls_back_in_silence_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As onnxruntime-gpu does where CUDA's libraries are missing: listed, opened without an error, not in use."""
    listed = [*onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build has the provider that the test pretends to have")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr("onnxruntime.capi.onnxruntime_inference_collection.C.get_available_providers", lambda: listed)
    reason = why_not("cuda")
    assert reason is not None
    with pytest.raises(ProviderError, match=r"^sessions\.providers\.0: cuda is required and does not work"):
        Opener(Sessions(providers=[Provider(name="cuda", required=True)]), Path("unused"))


def test_what_the_library_prints_becomes_the_reason() -> None:
    # Printed by onnxruntime-gpu 1.31.1 on a machine without CUDA.
    printed = (
        "\x1b[1;31m2026-11-24 03:19:59.98 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] "
        "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& "
        "onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library "
        "/x/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file: No such "
        "file or directory\n\x1b[m\n\x1b[0;93m2026-11-24 [W:onnxruntime:Default] Failed to create "
        "CUDAExecutionProvider. Require cuDNN 9.* and CUDA 13.*.\x1b[m\n"
    )
    first = "libcublasLt.so.13: cannot open shared object file: No such file or directory"
    assert providers._reason(printed, "nothing") == first
    later = printed.partition("\x1b[m\n")[2]
    assert providers._reason(later, "nothing").startswith("Failed to create CUDAExecutionProvider. Require cuDNN 9.*")
    raised = (
        "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:729 void onnxruntime::python::"
        "RegisterTensorRTPluginsAsCustomOps(PySessionOptions&, const onnxruntime::ProviderOptions&) Please install "
        "TensorRT libraries as mentioned in the GPU requirements page.\n"
    )
    assert providers._reason("", raised) == (
        "Please install TensorRT libraries as mentioned in the GPU requirements page"
    )


def test_what_is_printed_while_a_provider_is_tried_is_given_back_to_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with providers._native_stderr() as printed:
        print("inside", file=sys.__stderr__, flush=True)
    print("after", file=sys.__stderr__, flush=True)
    assert printed == ["inside\n"]
    assert capfd.readouterr().err == "after\n"


RANGES = {"x": Range((1, 3, 16), (64, 3, 16), (1024, 3, 16)), "slot": Range((1,), (64,), (1024,))}


def test_tensorrt_is_given_one_profile_over_all_inputs_and_its_caches(tmp_path: Path) -> None:
    options = provider_options(Provider(name="tensorrt"), b"graph", RANGES, tmp_path, keep=True)
    assert options == {
        "trt_profile_min_shapes": "x:1x3x16,slot:1",
        "trt_profile_opt_shapes": "x:64x3x16,slot:64",
        "trt_profile_max_shapes": "x:1024x3x16,slot:1024",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(tmp_path),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(tmp_path),
        # sha256 of b"graph", from `printf graph | sha256sum`
        "trt_engine_cache_prefix": "trimtab-" + PREFIX,
    }


PREFIX = "eef93e1d14482804"


def test_a_cached_engine_is_never_used_for_other_weights(tmp_path: Path) -> None:
    """ONNX Runtime names an engine by the graph's shape, so the prefix must tell weights apart, and a patched graph's
    engine must not be kept at all."""
    kept = [provider_options(Provider(name="tensorrt"), g, RANGES, tmp_path, keep=True) for g in (b"one", b"two")]
    assert kept[0]["trt_engine_cache_prefix"] != kept[1]["trt_engine_cache_prefix"]
    patched = provider_options(Provider(name="tensorrt"), b"one", RANGES, tmp_path, keep=False)
    assert patched["trt_engine_cache_enable"] == "False"
    assert patched["trt_timing_cache_enable"] == "True"
    assert "trt_engine_cache_path" not in patched


def test_the_configurations_options_win(tmp_path: Path) -> None:
    given = Provider(name="tensorrt", options={"trt_engine_cache_path": "/var/cache", "trt_fp16_enable": True})
    options = provider_options(given, b"graph", RANGES, tmp_path, keep=True)
    assert options["trt_engine_cache_path"] == "/var/cache"
    assert options["trt_fp16_enable"] == "True"
    cuda = Provider(name="cuda", options={"device_id": 1, "gpu_mem_limit": 1 << 30})
    assert provider_options(cuda, b"graph", RANGES, tmp_path, keep=True) == {
        "device_id": "1",
        "gpu_mem_limit": "1073741824",
    }


def test_a_graph_that_cannot_be_run_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"^sessions\.providers: the bundle's graph cannot be run on cpu \(") as e:
        Opener(Sessions(), tmp_path).open(b"no graph", {}, keep=True)
    assert "\n" not in str(e.value)


def test_without_onnxruntime_the_error_says_what_to_install(without_onnxruntime: None) -> None:
    with pytest.raises(ProviderError, match=r"pip install 'trimtab\[cpu\]', or 'trimtab\[gpu\]'"):
        providers.library()


def test_the_module_can_be_imported_without_onnxruntime() -> None:
    """So that the sentence above is what a user sees, and not a traceback from an import."""
    for module in (providers, sys.modules["trimtab.runtime.sessions"]):
        assert "onnxruntime" not in vars(module)


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_thread_counts_are_passed_on(threads: int, tiny: Any, tmp_path: Path) -> None:
    session = Opener(Sessions(threads=threads), tmp_path).open(tiny.bundle.graph("serve"), {}, keep=True)
    options = session.get_session_options()
    assert options.intra_op_num_threads == threads
    assert options.inter_op_num_threads == 1
    x = tiny.x(2)
    np.testing.assert_allclose(session.run(["y"], {"x": x})[0], tiny.reference(tiny.source, x)[0], rtol=1e-4, atol=1e-4)
