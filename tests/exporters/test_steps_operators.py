"""Layers' forward and backward passes as ONNX, against PyTorch's own, at another number of samples than was traced."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from torch import Tensor, nn
from torch.func import functional_call

from trimtab.exporters.drafting import Draft, ending
from trimtab.exporters.steps import operators  # noqa: F401 - registers them
from trimtab.exporters.steps.losses import entropy
from trimtab.exporters.steps.primitives import LONG, batch_norm, moments, scale_shift
from trimtab.exporters.steps.tracing import record
from trimtab.exporters.steps.translation import TYPES, Translation
from trimtab.exporters.survey import session
from trimtab.runtime.errors import ExportError

torch.set_num_threads(1)


def through_onnx(step: Any, values: dict[str, Tensor], root: nn.Module, samples: int) -> dict[str, np.ndarray]:
    """`step` recorded with 4 samples of `values["x"]` and run on the first `samples`."""
    recorded = record(step, {**values, "x": values["x"][:4]}, {"x"}, root)
    draft = Draft()
    for name, end in zip(recorded.outputs, Translation(recorded, draft, {}, {}).run(), strict=True):
        draft.node("Identity", end, out=name)
    graph = helper.make_graph(
        draft.nodes,
        "test",
        [helper.make_tensor_value_info(n, TYPES[v.dtype], [None] * v.dim()) for n, v in values.items()],
        [onnx.ValueInfoProto(name=n) for n in recorded.outputs],
        list(draft.initializers.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    feed = {n: v.numpy() for n, v in values.items()}
    out = session(model.SerializeToString()).run(recorded.outputs, {**feed, "x": values["x"][:samples].numpy()})
    return dict(zip(recorded.outputs, out, strict=True))


class Tokens(nn.Module):
    """An embedding of whole numbers that are made of the input, many of them the same; one has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3, padding_idx=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding((2.0 * x.abs()).clamp(max=4).to(torch.int64))


class Expert(nn.Module):
    """One of three linear layers for each sample, chosen by `one_hot`, which checks its argument."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(5, 3), nn.Parameter(torch.randn(3, 5, 4))

    def forward(self, x: Tensor) -> Tensor:
        p = torch.softmax(self.router(x), 1)
        chosen = nn.functional.one_hot(p.argmax(1), 3).to(x.dtype) * p
        return torch.einsum("nd,edf,ne->nf", x, self.experts, chosen)


class Calls(nn.Module):
    """What some functions make of one value, side by side."""

    def __init__(self, *functions: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([function(x).reshape(x.shape[0], -1) for function in self.functions], 1)


def halved(x: Tensor) -> Tensor:
    """Every second value of the last axis becomes zero, and those that are negative."""
    y = x.clone()
    y[..., ::2] = 0.0
    y[y < 0] = 0.0
    return y


def merged(x: Tensor) -> Tensor:
    """As Swin makes one patch of four."""
    return torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)


def pooled_where_channels_lie_last(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d((2.0 * x.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2), 1)


def kept(x: Tensor) -> Tensor:
    """As SegNet puts values back to where a pooling found them."""
    return F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)


def turned(x: Tensor) -> Tensor:
    """As a spatial transformer looks at an image."""
    theta = torch.tensor([[0.8, -0.3, 0.1], [0.2, 0.9, -0.2]]).to(x.dtype).expand(x.shape[0], 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, [*x.shape], align_corners=False), align_corners=False)


FIRST, SECOND = torch.tensor([1, 0, 3]), torch.tensor([2, 2, 0])


def filtered(x: Tensor) -> Tensor:
    """Some frequencies weakened and turned, in place."""
    z = torch.fft.rfft(x, norm="ortho")
    z[..., 2:] *= 0.5
    z = z * torch.polar(torch.ones(4), torch.arange(4.0)) + (0.3 - 0.2j) * z.conj()
    return torch.fft.irfft(z, n=x.shape[-1])


def spectrogram(x: Tensor) -> Tensor:
    z = torch.stft(x.flatten(1), 8, 4, window=torch.hann_window(8, dtype=x.dtype), return_complex=True)
    return z.abs()


def conjugated(x: Tensor) -> Tensor:
    z = torch.complex(x, x * x)
    return (z * z.conj()).real + z.conj().imag + (1 - z).abs() + (z / (z.conj() + 2)).imag


def beside_real_ones(x: Tensor) -> Tensor:
    """Real values among complex ones have no imaginary part."""
    z = torch.complex(x, 0.5 * x)
    filled = torch.where(x > 0, z, 2 * z).masked_fill(x > 1, 1.0)
    return torch.view_as_real(torch.cat([F.pad(filled, (1, 0), value=1.0), x, z + x], -1)).flatten(2)


def marked(x: Tensor) -> Tensor:
    mask = x > 0
    mask[x > 1] = False
    return x * mask.masked_fill(x < -1, True)


STATISTICS = torch.tensor([[1.0, 0.0, -1.0, 2.0], [0.5, 2.0, 1.0, 3.0]])
FUNCTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "padding at the edges": (
        Calls(
            *(partial(F.pad, pad=(2, 1, 0, 3), mode=mode) for mode in ("reflect", "replicate", "circular")),
            lambda x: F.pad(x[:, 0], (3, 1), mode="reflect"),
        ),
        (2, 4, 5),
    ),
    "windows": (
        Calls(
            lambda x: x.unfold(3, 3, 2).amax(4),
            lambda x: x.unfold(2, 2, 2),
            lambda x: F.unfold(x, (2, 3), padding=1, stride=2, dilation=(1, 2)),
            lambda x: F.fold(F.unfold(x, 3, stride=2, padding=1) ** 2, (6, 7), 3, stride=2, padding=1),
        ),
        (2, 6, 7),
    ),
    "adaptive poolings": (
        Calls(
            *(partial(F.adaptive_max_pool2d, output_size=size) for size in ((2, 2), (4, 3), (1, 1))),
            lambda x: F.adaptive_max_pool1d(x[:, 0], 4),
            lambda x: F.adaptive_avg_pool3d(x, (2, 4, 3)),
            lambda x: F.avg_pool2d(x, 2, divisor_override=3),
            lambda x: F.avg_pool2d(x, (3, 4), 2, 1, ceil_mode=True, divisor_override=5),
            pooled_where_channels_lie_last,
            kept,
        ),
        (3, 6, 6),
    ),
    "indexing": (
        Calls(
            lambda x: x[:, FIRST],
            lambda x: x[:, :, FIRST, SECOND],
            lambda x: x[:, FIRST, :, SECOND].movedim(0, 1),
            lambda x: x[:, FIRST[:, None], SECOND],
            lambda x: torch.zeros_like(x).index_add(1, FIRST, x[:, :3]),
            lambda x: x.index_copy(2, FIRST, x[:, :, :3] ** 2).index_fill(1, FIRST[:1], 0.3),
            lambda x: torch.diagonal(x, 1, 2, 3),
            lambda x: torch.cat([torch.empty(0), x], -2),  # as caches of attention begin
            lambda x: torch.diag_embed(x[:, 0, 0]),
            merged,
            halved,
        ),
        (4, 4, 6),
    ),
    "orders": (
        Calls(
            lambda x: x.kthvalue(2, 1)[0],
            lambda x: x.median(1, keepdim=True)[0],
            lambda x: x.quantile(0.3, 1),
            lambda x: torch.tanh(x).cumprod(1),
            lambda x: x.logcumsumexp(1),
            lambda x: torch.tanh(x).prod(1),
            lambda x: x * torch.bucketize(x, torch.tensor([-0.5, 0.3])),
        ),
        (4,),
    ),
    "functions": (
        Calls(
            lambda x: torch.atan2(x, x.roll(1, 1)),
            lambda x: torch.hypot(x, x.roll(1, 1)),
            lambda x: torch.fmod(x, 0.7) + x % 0.7 + x.trunc() * x + x.frac(),
            lambda x: (x.abs() + 1).log2() + (x.abs() + 1).log10() + torch.exp2(x) + (x.abs() + 2).acosh(),
            lambda x: x.asinh() + (x.tanh() * 0.9).atanh() + torch.logaddexp(x, 0.5 * x) + torch.nan_to_num(x),
            F.rrelu,
            lambda x: x * (~(3 * x).int()).to(x.dtype),
            marked,
        ),
        (6,),
    ),
    "complex values": (
        Calls(
            filtered,
            spectrogram,
            lambda x: torch.fft.fft2(torch.complex(x, x * x)).angle() * 0.1,
            lambda x: torch.view_as_real(
                torch.einsum("ncs,nds->ncd", *[torch.view_as_complex(x.unflatten(2, (3, 2)))] * 2)
            ),
            lambda x: (1.0 / torch.complex(x, torch.ones_like(x))).real,
            conjugated,
            beside_real_ones,
        ),
        (4, 6),
    ),
    "bicubic": (nn.Upsample(scale_factor=1.6, mode="bicubic"), (2, 5, 6)),
    "bicubic by corners": (nn.Upsample((9, 4), mode="bicubic", align_corners=True), (2, 5, 6)),
    "spatial transformer": (Calls(turned), (2, 5, 6)),
    "batch norm of fixed statistics, not affine": (Calls(lambda x: F.batch_norm(x, *STATISTICS.to(x.dtype))), (4, 5)),
}

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    **FUNCTIONS,
    "embedding": (Tokens(), (6,)),
    "mixture of experts": (Expert(), (5,)),
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1), (4, 11)),
    "conv1d strided with a rest": (nn.Conv1d(4, 6, 3, stride=4), (4, 13)),
    "conv1d dilated": (nn.Conv1d(4, 6, 3, dilation=3, padding=2), (4, 15)),
    "conv1d strided and dilated": (nn.Conv1d(4, 6, 3, stride=2, dilation=2, padding=1), (4, 15)),
    "conv1d wide padding": (nn.Conv1d(4, 6, 3, padding=4), (4, 7)),
    "conv2d in groups": (nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(1, 2), groups=2), (4, 7, 9)),
    "conv2d depthwise": (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4), (4, 8, 8)),
    "conv2d same": (nn.Conv2d(4, 4, 3, padding="same"), (4, 6, 6)),
    "conv3d": (nn.Conv3d(2, 4, 3, stride=2, padding=1), (2, 5, 6, 5)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 4, stride=2, padding=1), (4, 7)),
    "transposed 2d in groups": (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2), (4, 5, 5)),
    "linear": (nn.Linear(5, 3), (4, 5)),
    "layer norm": (nn.LayerNorm(5), (4, 5)),
    "layer norm over two axes": (nn.LayerNorm((4, 5)), (4, 5)),
    "group norm": (nn.GroupNorm(2, 4), (4, 5, 5)),
    "instance norm": (nn.InstanceNorm1d(4, affine=True), (4, 9)),
    "max pool 1d": (nn.MaxPool1d(3, 2, padding=1), (4, 9)),
    "max pool 2d overlapping": (nn.MaxPool2d(3, 2, padding=1), (4, 9, 8)),
    "max pool 3d": (nn.MaxPool3d(2), (2, 4, 5, 4)),
    "average pool 1d": (nn.AvgPool1d(3, 2), (4, 10)),
    "average pool 2d": (nn.AvgPool2d(3, 2, padding=1), (4, 8, 9)),
    "average pool 2d without padding": (nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), (4, 8, 9)),
    "average pool 2d with a rest": (nn.AvgPool2d(3, 2, ceil_mode=True), (4, 8, 8)),
    "max pool 2d with a rest": (nn.MaxPool2d(3, 2, ceil_mode=True), (4, 8, 8)),
    "weight norm": (nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3)), (4, 9)),
    "adaptive to one": (nn.AdaptiveAvgPool2d(1), (4, 5, 6)),
    "adaptive to some": (nn.AdaptiveAvgPool2d((3, 2)), (4, 7, 5)),
    "adaptive 1d": (nn.AdaptiveAvgPool1d(3), (4, 7)),
    "upsampling": (nn.Upsample(scale_factor=2), (4, 5, 6)),
    "upsampling by a fraction": (nn.Upsample(scale_factor=(1.7, 0.6)), (4, 7, 9)),
    "upsampling to a size": (nn.Upsample((7, 11)), (4, 3, 5)),
    "upsampling exactly": (nn.Upsample(11, mode="nearest-exact"), (4, 4)),
    "upsampling 3d": (nn.Upsample(scale_factor=2), (2, 3, 2, 4)),
    "upsampling linear": (nn.Upsample(scale_factor=3, mode="linear"), (4, 5)),
    "upsampling bilinear": (nn.Upsample(scale_factor=1.6, mode="bilinear"), (4, 5, 6)),
    "upsampling bilinear by corners": (nn.Upsample((9, 4), mode="bilinear", align_corners=True), (4, 5, 6)),
    "upsampling trilinear": (nn.Upsample((3, 5, 4), mode="trilinear"), (2, 2, 3, 5)),
    "attention": (nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True), (6, 8)),
    "gru": (nn.Sequential(nn.GRU(3, 4, batch_first=True)), (5, 3)),
    "lstm": (nn.Sequential(nn.LSTM(3, 4, batch_first=True)), (5, 3)),
    **{
        name: (layer, (4, 7))
        for name, layer in {
            "relu": nn.ReLU(),
            "relu in place": nn.Sequential(nn.Linear(7, 7), nn.ReLU(inplace=True)),
            "relu6": nn.ReLU6(),
            "leaky relu": nn.LeakyReLU(0.1),
            "elu": nn.ELU(),
            "selu": nn.SELU(),
            "gelu": nn.GELU(),
            "gelu tanh": nn.GELU("tanh"),
            "silu": nn.SiLU(),
            "mish": nn.Mish(),
            "hardswish": nn.Hardswish(),
            "hardsigmoid": nn.Hardsigmoid(),
            "hardtanh": nn.Hardtanh(-0.5, 0.7),
            "softplus": nn.Softplus(),
            "softmax": nn.Softmax(1),
            "tanh": nn.Tanh(),
            "sigmoid": nn.Sigmoid(),
            "prelu": nn.PReLU(4),
            "glu": nn.GLU(1),
        }.items()
    },
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_their_gradients(name: str) -> None:
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    layer = layer.eval()
    parameters = {n: p.detach().clone() for n, p in layer.named_parameters()}

    def step(values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Output, and gradients of a loss that weighs every value of it otherwise."""
        with torch.enable_grad():
            given = {n: v.detach().clone().requires_grad_() for n, v in values.items()}
            y = functional_call(layer, {n: given[n] for n in parameters}, given["x"])
            y = y[0] if isinstance(y, tuple) else y
            grads = torch.autograd.grad((torch.sin(y) * y).sum(), list(given.values()), allow_unused=True)
        found = {f"d {n}": g for n, g in zip(given, grads, strict=True) if g is not None}
        return {"y": y.detach(), **found}

    x = torch.randn(7, *shape)
    values = {"x": x, **parameters}
    with torch.backends.mkldnn.flags(enabled=False):
        wanted = step({n: v.double() for n, v in values.items()})
    found = through_onnx(step, values, layer, 7)
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value.numpy(), rtol=1e-4, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("size", [5, LONG])
def test_norm_primitives_are_a_batch_norm(size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3, size, dtype=torch.float64) * 2 + 3
    weight, bias, g = torch.rand(3).double(), torch.rand(3).double(), torch.randn(6, 3, size).double()

    def from_moments(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean, var, _ = moments(x)
        scale = weight * torch.rsqrt(var + 1e-5)
        return scale_shift(x, scale, bias - mean * scale)

    def grads(function: Any) -> tuple[Tensor, ...]:
        given = [v.clone().requires_grad_() for v in (x, weight, bias)]
        return torch.autograd.grad((function(*given) * g).sum(), given)

    wanted = grads(lambda x, w, b: torch.nn.functional.batch_norm(x, None, None, w, b, True, 0.0, 1e-5))
    for function in (from_moments, lambda x, w, b: batch_norm(x, w, b, 1e-5)[0]):
        for found, value in zip(grads(function), wanted, strict=True):
            torch.testing.assert_close(found, value)


@pytest.mark.parametrize("size", [5, LONG])
def test_a_batch_norm_keeps_its_digits_far_from_zero(size: int) -> None:
    """A mean of squares less the square of the mean would have none left of the variance."""
    torch.manual_seed(0)
    values = {"x": torch.randn(8, 3, size) + 5000.0, "weight": torch.rand(3), "bias": torch.rand(3)}
    g = torch.randn(8, 3, size)

    def step(values: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.enable_grad():
            given = {n: v.detach().clone().requires_grad_() for n, v in values.items()}
            y = batch_norm(given["x"], given["weight"], given["bias"], 1e-5)[0]
            grads = torch.autograd.grad((g[: y.shape[0]].to(y.dtype) * y).sum(), list(given.values()))
        return {"y": y.detach(), **{f"d {n}": d for n, d in zip(given, grads, strict=True)}}

    found, wanted = through_onnx(step, values, nn.Identity(), 4), step({n: v[:4].double() for n, v in values.items()})
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value.numpy(), rtol=1e-2, atol=1e-3, err_msg=key)


def test_the_gradient_of_an_entropy_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    y = (torch.randn(5, 4, dtype=torch.float64) * 4).requires_grad_()
    torch.testing.assert_close(entropy(y), -(y.softmax(1) * y.log_softmax(1)).sum(1))
    assert torch.autograd.gradcheck(entropy, y)


def test_what_no_output_needs_is_not_written() -> None:
    draft = Draft()
    one, two = draft.node("Neg", "x"), draft.node("Abs", "x")
    draft.node("Exp", two)
    nodes = ending(draft, {"first": one, "again": one, "given": "x"})
    assert [(n.op_type, *n.input, *n.output) for n in nodes] == [
        ("Neg", "x", "first"),
        ("Identity", "first", "again"),
        ("Identity", "x", "given"),
    ]


def test_an_expanded_value_is_broadcast_or_written_out() -> None:
    def step(values: dict[str, Tensor]) -> dict[str, Tensor]:
        x = values["x"]
        wide = x.mean(1, keepdim=True).expand(x.shape) / 3.0
        return {
            "product": -wide * x,
            "sum": wide.sum(1),
            "both": wide * (1.0 - wide).exp(),
            "wider": wide + x[:, None],
            "unlike": 1.0 * (wide != 2.0),
        }

    x = torch.randn(5, 4)
    for key, value in step({"x": x}).items():
        np.testing.assert_allclose(through_onnx(step, {"x": x}, nn.Identity(), 5)[key], value.numpy(), rtol=1e-5)


class Inverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x)


class Cutter(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0]


class Heaviside(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.heaviside(x, torch.zeros(()))


class Counter(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * int(x.shape[0])


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Counter(), "the number of samples does not stay free"),
        (nn.Sequential(nn.ReLU(), Inverse()), r"^1 \(Inverse\): has the operator aten.linalg_inv_ex"),
        (nn.Sequential(nn.Conv2d(2, 2, 1), Cutter()), r"^1 \(Cutter\): "),
    ],
)
def test_what_cannot_be_said_names_module_and_operator(layer: nn.Module, words: str) -> None:
    def step(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": layer(values["x"])}

    with pytest.raises(ExportError, match=words):
        through_onnx(step, {"x": torch.randn(5, 2, 4, 4)}, layer, 5)


def test_what_cannot_be_differentiated_names_module_and_operator() -> None:
    layer = nn.Sequential(nn.Linear(3, 3), Heaviside(), nn.Linear(3, 3))
    weight = layer[0].weight.detach()

    def step(values: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.enable_grad():
            given = values["weight"].detach().clone().requires_grad_()
            y = functional_call(layer, {"0.weight": given}, values["x"])
            return {"d": torch.autograd.grad(y.sum(), given)[0]}

    with pytest.raises(ExportError, match=r"^1 \(Heaviside\): .*heaviside"):
        through_onnx(step, {"x": torch.randn(5, 3), "weight": weight}, layer, 5)
