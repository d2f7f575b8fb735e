"""What `export` takes: kinds of norms, shapes and heads; and what it refuses, with one sentence.

`export` itself proves parity with the eager module, for every graph, before it writes. These tests hold that it does so
for each kind of model, that the proof can fail, and what the manifest says.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trimtab.exporters import export
from trimtab.exporters.parity import BATCHES, Comparison, difference, patched, refuse
from trimtab.exporters.survey import session
from trimtab.runtime.bundle import Calibration, Window, load_bundle
from trimtab.runtime.errors import ExportError


class Model(nn.Module):
    """Modules by name and what to do with them."""

    def __init__(self, run: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


class Pair(Model):
    def forward(self, signal: Tensor, tokens: Tensor) -> Any:
        return self.run(self, signal, tokens)


def random(shape: tuple[int, ...], whole: bool = False) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 9, shape) if whole else rng.standard_normal(shape).astype(np.float32)


@pytest.fixture
def bundle_of(tmp_path: Path, settle: Callable[[nn.Module], nn.Module]) -> Callable[..., Any]:
    """Exports a model of float inputs of those shapes, and checks what must hold for every bundle."""

    def run(model: nn.Module, *shapes: tuple[int, ...], **options: Any) -> Any:
        torch.manual_seed(0)
        inputs = [random((40, *s)) for s in shapes]
        options = {"classes": ["a", "b", "c"], **options}
        exported = export(settle(model), inputs, [(inputs, None)], tmp_path, name="test", **options)
        assert max(c.difference for c in exported.parity) < 5e-5
        assert {(c.graph, c.batch, c.inputs) for c in exported.parity} == {
            (g, b, i) for g in ("serve", "observe", "banked", "probe") for b in BATCHES for i in ("random", "source")
        }
        return exported

    return run


def norms(exported: Any) -> list[tuple[str, str, int]]:
    return [(n.name, n.kind, n.channels) for n in exported.bundle.manifest.norms]


def test_norms_of_images(bundle_of: Any) -> None:
    model = Model(
        lambda m, x: m.fc(m.i3(m.i2(m.i1(m.g(m.b(m.conv(m.pre(x))))))).mean((2, 3))),
        pre=nn.BatchNorm2d(3),  # before any convolution: nothing to fold into
        conv=nn.Conv2d(3, 8, 3),
        b=nn.BatchNorm2d(8, affine=False),
        g=nn.GroupNorm(2, 8),
        i1=nn.InstanceNorm2d(8, affine=True),
        i2=nn.InstanceNorm2d(8),
        i3=nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        fc=nn.Linear(8, 3),
    )
    exported = bundle_of(model, (3, 8, 8), calibration=None)
    kinds = ["batch", "batch", "group", "instance", "instance", "batch"]
    assert norms(exported) == [
        (n, k, 3 if n == "pre" else 8) for n, k in zip(("pre", "b", "g", "i1", "i2", "i3"), kinds, strict=True)
    ]
    parameters = [p.name for p in exported.bundle.layout]
    assert parameters[:6] == [
        "norm.pre.mean",
        "norm.pre.var",
        "norm.pre.weight",
        "norm.pre.bias",
        "norm.b.mean",
        "norm.b.var",
    ]
    assert parameters[-3:] == ["norm.i3.bias", "feature.shift", "output.shift"]


def test_norms_of_series(bundle_of: Any) -> None:
    """Batch norm of [N, C, T] and of [N, C], and layer norms in a transformer."""
    model = Model(
        lambda m, x: m.fc(m.flat(m.encoder(torch.relu(m.bn(m.conv(x))).transpose(1, 2)).mean(1))),
        conv=nn.Conv1d(3, 8, 3),
        bn=nn.BatchNorm1d(8),
        encoder=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        flat=nn.BatchNorm1d(8),
        fc=nn.Linear(8, 3),
    )
    exported = bundle_of(model, (3, 20), window=Window(rows=20, hop=5, rate=50.0))
    names = ("bn", "encoder.norm1", "encoder.norm2", "flat")
    assert norms(exported) == [(n, k, 8) for n, k in zip(names, ("batch", "layer", "layer", "batch"), strict=True)]
    source = exported.bundle.source
    assert source.moments_mean.shape == (32,)
    assert exported.bundle.manifest.window == Window(rows=20, hop=5, rate=50.0)


def test_samples_on_the_second_axis_or_folded_into_rows(bundle_of: Any) -> None:
    model = Model(
        lambda m, x: m.fc(m.rows(m.second(x.permute(2, 0, 1)).permute(1, 0, 2).reshape(-1, 3)).reshape(x.shape[0], -1)),
        second=nn.LayerNorm(3),
        rows=nn.BatchNorm1d(3),
        fc=nn.Linear(15, 3),
    )
    assert norms(bundle_of(model, (3, 5))) == [("second", "layer", 3), ("rows", "batch", 3)]


def test_regression_of_volumes(tmp_path: Path, settle: Any) -> None:
    model = Model(
        lambda m, x: m.fc(torch.relu(m.bn(m.conv(x))).mean((2, 3, 4))).squeeze(1),
        conv=nn.Conv3d(1, 4, 3),
        bn=nn.BatchNorm3d(4),
        fc=nn.Linear(4, 1),
    )
    x = random((30, 1, 5, 5, 5))
    y = np.arange(30.0)
    exported = export(settle(model), x, [(x, y)], tmp_path, name="volumes", targets=["load"])
    manifest, source = exported.bundle.manifest, exported.bundle.source
    assert (manifest.task, manifest.outputs) == ("regression", ["load"])
    np.testing.assert_allclose(source.class_prior, [y.mean()])
    assert source.class_feature_mean.shape == (0, 4)
    assert set(source.reference) == {"divergence", "distance"}  # too few samples for `departure`


def test_two_inputs_by_name_one_of_them_whole_numbers(tmp_path: Path, settle: Any) -> None:
    torch.manual_seed(0)
    model = Pair(
        lambda m, s, t: m.fc(torch.cat([m.bn(m.conv(s)).mean(2), m.ln(m.embed(t)).mean(1)], 1)),
        conv=nn.Conv1d(3, 8, 3),
        bn=nn.BatchNorm1d(8),
        embed=nn.Embedding(9, 4),
        ln=nn.LayerNorm(4),
        fc=nn.Linear(12, 3),
    )
    batch = {"tokens": random((20, 7), whole=True), "signal": random((20, 3, 20))}
    exported = export(
        settle(model), dict(reversed(batch.items())), [(batch, None)], tmp_path, name="pair", classes=["a", "b", "c"]
    )
    signal, tokens = exported.bundle.manifest.inputs
    assert (signal.name, signal.shape, signal.calibration) == ("signal", [3, 20], Calibration(gain=True))
    assert (tokens.name, tokens.shape, tokens.calibration) == ("tokens", [7], None)


def test_a_norm_that_is_used_twice(bundle_of: Any, tmp_path: Path) -> None:
    model = Model(
        lambda m, a, b: m.fc(torch.relu(m.bn(m.conv(a))).mean(2) - torch.relu(m.bn(m.conv(b))).mean(2)),
        conv=nn.Conv1d(3, 8, 3),
        bn=nn.BatchNorm1d(8),
        fc=nn.Linear(8, 3),
    )
    exported = bundle_of(model, (3, 20), (3, 20), calibration={"x0": Calibration(signs=[1], orders=[[2, 0, 1]])})
    assert norms(exported) == [("bn", "batch", 8)]
    assert [p.name for p in exported.bundle.layout][:3] == ["input.x0.order", "input.x0.gain", "input.x0.offset"]


def test_no_norm_and_no_head(bundle_of: Any, tmp_path: Path) -> None:
    """Outputs alone can be adapted then; reserved names inside the model do no harm."""
    exported = bundle_of(Model(lambda m, x: torch.tanh(m.y(x)).mean(2) * 2, y=nn.ReLU()), (3, 9), calibration=None)
    bundle = exported.bundle
    assert (bundle.manifest.norms, bundle.manifest.features, bundle.layout.size) == ([], 0, 3)
    assert set(bundle.source.reference) == {"entropy"}
    assert load_bundle(tmp_path).source.theta.shape == (3,)


def test_a_convolution_as_head(bundle_of: Any) -> None:
    model = Model(
        lambda m, x: m.head(torch.relu(m.up(x))).mean((2, 3)),
        up=nn.ConvTranspose2d(3, 6, 3, 2),
        head=nn.Conv2d(6, 3, 1),
    )
    exported = bundle_of(model, (3, 5, 5))
    assert exported.bundle.manifest.features == 6
    assert exported.bundle.manifest.provenance["head"] == "head"


def test_frozen_norms_and_norms_with_a_forward_of_their_own(bundle_of: Any) -> None:
    class ByHand(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.mean(1, keepdim=True)) * self.weight[:, None]

    stem = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(), nn.BatchNorm1d(3))
    model = Model(
        lambda m, x: m.fc(m.last(m.bn(m.stem(x))).mean(2)),
        stem=stem,
        bn=nn.BatchNorm1d(3),
        last=ByHand(3),
        unused=nn.BatchNorm1d(3),
        fc=nn.Linear(3, 3),
    )
    exported = bundle_of(model, (3, 9), frozen=["stem"])
    assert norms(exported) == [("bn", "batch", 3)]
    assert exported.notes == [
        "last (ByHand) is a norm and more; the norm in it is last.norm",
        "last.norm: is never run, so it is left out",
        "unused: is never run, so it is left out",
    ]


class NormAct(nn.BatchNorm1d):
    """A norm and an activation in one, as libraries of image models have it."""

    def forward(self, x: Tensor) -> Tensor:
        training = self.training or not self.track_running_stats
        return F.silu(
            F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training, 0.1, self.eps)
        )


class ChannelsLast(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.transpose(1, 2), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.transpose(1, 2)


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x + 0.1


def test_norms_inside_of_norms_and_parametrised_ones(bundle_of: Any) -> None:
    class Rectified(nn.GroupNorm):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(super().forward(x))

    model = Model(
        lambda m, x: m.fc(m.g(m.ln(m.act(m.conv(m.plain(x.to(m.fc.weight.dtype)))))).mean(2)),
        plain=parametrize.register_parametrization(nn.BatchNorm1d(3), "weight", Squared()),
        conv=nn.Conv1d(3, 4, 3),
        act=NormAct(4),
        ln=ChannelsLast(4),
        g=Rectified(2, 4),
        fc=nn.Linear(4, 3),  # its weight's type is looked at from outside
    )
    exported = bundle_of(nn.DataParallel(model), (3, 9))
    assert norms(exported) == [
        ("plain", "batch", 3),
        ("act.norm", "batch", 4),
        ("ln.norm", "layer", 4),
        ("g.norm", "group", 4),
    ]
    layout, theta = exported.bundle.layout, exported.bundle.source.theta
    np.testing.assert_array_equal(layout.view(theta, "norm.plain.weight"), model.plain.weight.detach())  # still works
    np.testing.assert_array_equal(layout.view(theta, "norm.act.norm.var"), model.act.running_var)

    x = torch.from_numpy(random((5, 3, 9)))
    changed = theta.copy()
    with torch.no_grad():  # by hand in the caller's model, which knows nothing of inner norms
        for name, part, attribute in (
            ("act.norm", "mean", model.act.running_mean),
            ("act.norm", "weight", model.act.weight),
            ("ln.norm", "bias", model.ln.bias),
            ("g.norm", "weight", model.g.weight),
        ):
            value = layout.view(changed, f"norm.{name}.{part}")
            value += 0.5
            attribute.copy_(torch.from_numpy(value.copy()))
        wanted = model(x).numpy()
    run = session(patched(exported.bundle.graph("serve"), layout, changed))
    np.testing.assert_allclose(run.run(["y"], {"x0": x.numpy()})[0], wanted, rtol=1e-4, atol=1e-5)


def test_many_classes_share_a_covariance(tmp_path: Path, settle: Any) -> None:
    model = Model(lambda m, x: m.fc(x), fc=nn.Linear(4, 70))
    x, labels = random((300, 4)), np.arange(300) % 69
    source = export(model, x, [(x, labels)], tmp_path, name="many", classes=[str(k) for k in range(70)]).bundle.source
    assert source.class_feature_mean.shape == (70, 4)
    centred = x - np.stack([x[labels == k].mean(0) for k in range(69)])[labels]
    np.testing.assert_allclose(source.class_feature_cov, (centred.T @ centred / 300)[None], rtol=1e-4, atol=1e-6)


def test_other_precisions_become_float32(bundle_of: Any) -> None:
    model = Model(lambda m, x: m.fc(m.bn(x).mean(2)), bn=nn.BatchNorm1d(3), fc=nn.Linear(3, 3)).bfloat16()
    exported = bundle_of(model, (3, 9))
    assert exported.notes == ["the model's bfloat16 values were converted to float32"]
    assert next(model.parameters()).dtype == torch.bfloat16  # the caller's model is left as it was
    assert exported.bundle.manifest.provenance["notes"] == exported.notes


FC = {"fc": nn.Linear(3, 3)}
REFUSED: dict[str, tuple[nn.Module, dict[str, Any], str]] = {
    "batch statistics": (
        Model(lambda m, x: m.fc(m.bn(x).mean(2)), bn=nn.BatchNorm1d(3, track_running_stats=False), **FC),
        {},
        "bn: this BatchNorm1d keeps no running statistics",
    ),
    "scattered samples": (
        Model(
            lambda m, x: m.fc(m.bn(x.permute(2, 0, 1).reshape(-1, 3)).reshape(9, -1, 3).mean(0)),
            bn=nn.BatchNorm1d(3),
            **FC,
        ),
        {},
        "frozen=['bn']",
    ),
    "several outputs": (Model(lambda m, x: (m.fc(x.mean(2)), x), **FC), {}, "the model returns a tuple"),
    "an output of rank 3": (Model(lambda m, x: x), {}, "the model gives [1, 3, 9] (float32) for a batch of 1"),
    "a fixed batch": (Model(lambda m, x: m.fc(x.reshape(40, 3, 9).mean(2)), **FC), {}, "does not run on x0 [1, 3, 9]"),
    "len": (
        Model(lambda m, x: m.fc(x.reshape(-1, 3).reshape(len(x), 9, 3).mean(1)), **FC),
        {},
        "use x.shape[0]",
    ),
    "lazy": (Model(lambda m, x: m.fc(m.l(x).mean(2)), l=nn.LazyBatchNorm1d(), **FC), {}, "l.weight has no values yet"),
    "TorchScript": (torch.jit.trace(nn.Linear(9, 3), torch.zeros(1, 3, 9)), {}, "the model is TorchScript"),
    "mixed samples": (
        Model(lambda m, x: m.fc(x.mean(2) - x.mean((0, 2))), **FC),
        {},
        "another output beside other samples than alone",
    ),
    "squeezed": (Model(lambda m, x: m.fc(x.mean(2)).squeeze(), **FC), {}, "the model gives [3, 1] (float32)"),
    "a branch on values": (
        Model(lambda m, x: m.fc(x.mean(2)) if x.sum() > -1e9 else m.fc(x.amax(2)), **FC),
        {},
        "cannot export the model with a free number of samples",
    ),
    "probabilities": (Model(lambda m, x: torch.softmax(m.fc(x.mean(2)), 1), **FC), {}, "leave the Softmax out"),
    "no such head": (Model(lambda m, x: m.fc(x.mean(2)), **FC), {"head": "nope"}, "no module named 'nope'"),
    "no such norm": (Model(lambda m, x: m.fc(x.mean(2)), **FC), {"frozen": ["nope"]}, "no module named 'nope'"),
    "a head that is none": (
        Model(lambda m, x: m.fc(x.mean(2)), r=nn.ReLU(), **FC),
        {"head": "r"},
        "not a linear layer",
    ),
    "names": (Model(lambda m, x: m.fc(x.mean(2)), **FC), {"classes": ["a", "b"]}, "2 names for the model's 3 outputs"),
    "names twice": (Model(lambda m, x: m.fc(x.mean(2)), **FC), {"classes": ["a", "b", "a"]}, "same name"),
    "window": (Model(lambda m, x: m.fc(x.mean(2)), **FC), {"window": Window(rows=8, hop=1)}, "window: rows is 8"),
    "channels": (Model(lambda m, x: m.fc(x.mean(2)), **FC), {"std": [1.0]}, "std: x0 has 3 channels"),
    "a deviation of 0": (Model(lambda m, x: m.fc(x.mean(2)), **FC), {"std": [1.0, 0.0, 1.0]}, "greater than 0"),
    "an input": (Model(lambda m, x: m.fc(x.mean(2)), **FC), {"mean": {"z": [1.0]}}, "there is no input 'z'"),
    "an order": (
        Model(lambda m, x: m.fc(x.mean(2)), **FC),
        {"calibration": Calibration(orders=[[0, 0, 1]])},
        "[0, 0, 1] is not an order",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    model, options, message = REFUSED[case]
    x = random((40, 3, 9))
    options = {"classes": ["a", "b", "c"], **options}
    with pytest.raises(ExportError) as caught:
        export(model, [x], [(x, None)], tmp_path / "out", name="test", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_exported_differently_fails_the_proof(tmp_path: Path) -> None:
    model = Model(lambda m, x: m.fc(x.mean(2)) + (0.0 if torch.onnx.is_in_onnx_export() else 1.0), **FC)
    x = random((8, 3, 9))
    with pytest.raises(
        ExportError, match=r"serve graph: y differs from the model's by .* batch of \d+ .*nothing was written"
    ):
        export(model, x, [(x, None)], tmp_path / "out", name="test", classes=["a", "b", "c"])
    assert not (tmp_path / "out").exists()


def test_difference_and_refusal() -> None:
    a = np.array([[1.0, 200.0]])
    assert difference("y", a, a + 2.0) == pytest.approx(2 / 202)
    assert difference("y", a, a.T) == np.inf
    assert difference("y", a * np.nan, a) == np.inf
    refuse([Comparison("serve", "source", "random", 1, "y", 1e-4)], 1e-4)
    for bad in (2e-4, np.nan):
        with pytest.raises(ExportError, match="batch of 7 with source parameters"):
            refuse([Comparison("serve", "source", "random", 7, "y", bad)], 1e-4)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, trimtab.exporters, trimtab.exporters.from_onnx; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
