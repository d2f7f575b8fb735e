"""Vectors added to the outputs of named modules, per channel, and the directions in which they may move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.exporters.marked import Marked
from trimtab.exporters.steps.model import Model, cut, source_statistics
from trimtab.exporters.steps.source import Sample
from trimtab.runtime.errors import ExportError

RANK = 16
"""Most directions."""
SAMPLES = 512
"""Most source samples whose principal components are computed."""
CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)


def added(base: Model, changes: str | Sequence[str], marked: Marked, sample: Sample) -> Model:
    """The model with a part `bias.<module>` for each named module ("norms": for each norm), zero as yet, that is added
    to its output; and `source.basis [Q, R]`, the directions of all parts together (see `directions`).

    Where a module gives several values, it is added to the first. Raises ExportError where a module is not there, is
    not run by itself, or gives nothing that has channels.
    """
    if changes == "norms":
        names = [layer.name for layer in base.layers]
        if not names:
            raise ExportError("the model has no norm; name modules to whose outputs vectors are added: changes=[...]")
    elif isinstance(changes, str):
        raise ExportError(f"changes: {changes!r} is no list of modules; give their names, or 'norms'")
    else:
        names = list(dict.fromkeys(changes))
    modules = dict(base.whole.model.named_modules())
    if unknown := [name for name in names if name not in modules]:
        raise ExportError(f"changes: the model has no module named {unknown[0]!r}; give names of named_modules()")
    seen = _outputs(base, {name: modules[name] for name in names}, marked, sample)
    zeros = {f"bias.{name}": torch.zeros(means.shape[1]) for name, (_, means) in seen.items()}
    basis = directions(torch.cat([means for _, means in seen.values()], 1))
    model = base.bound({**base.constants, **zeros, "source.basis": basis})
    for name in names:
        if name not in base.taken.adding:  # a base is shared by all methods: what is no part of theirs adds nothing
            base.taken.adding.add(name)
            modules[name].register_forward_hook(_add(base, name, seen[name][0]))
    return cut(model, list(zeros))


def _add(base: Model, name: str, axis: int) -> Any:
    taken = base.taken

    def add(module: nn.Module, args: Any, output: Any) -> Any:
        bias = taken.values.get(f"bias.{name}")
        if bias is None:
            return None
        first = output[0] if isinstance(output, tuple) else output
        moved = first + bias.reshape([-1 if a == axis else 1 for a in range(first.dim())])
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    return add


def channel_axis(module: nn.Module, output: Tensor) -> int:
    """The axis of `output [N, ...]` on which the channels lie: that of as many values as the module's last layer with
    weights gives; where that leaves both, 1 after a convolution or a norm of channels, else the last."""
    last = output.dim() - 1
    leaves = [m for m in module.modules() if isinstance(m, (*CHANNELS_FIRST, nn.Linear, nn.LayerNorm))]
    if not leaves:
        return 1
    leaf = leaves[-1]
    found = (_channels(leaf) == output.shape[1], _channels(leaf) == output.shape[last])
    if found[0] != found[1]:
        return 1 if found[0] else last
    return 1 if isinstance(leaf, CHANNELS_FIRST) else last


def _channels(leaf: Any) -> int:
    if isinstance(leaf, nn.LayerNorm):
        return int(leaf.normalized_shape[-1])
    for attribute in ("out_channels", "out_features", "num_features", "num_channels"):
        if hasattr(leaf, attribute):
            return int(getattr(leaf, attribute))
    return 0


def _outputs(
    base: Model, modules: dict[str, nn.Module], marked: Marked, sample: Sample
) -> dict[str, tuple[int, Tensor]]:
    """Of each module's outputs: the channels' axis, and the mean over all axes but that and the samples', `[n, C]`."""
    axes: dict[str, int] = {}
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}

    def watch(name: str) -> Any:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if not isinstance(first, Tensor) or not first.is_floating_point() or first.dim() < 2:
                raise ExportError(f"{name} ({type(module).__name__}): gives no [N, channels, ...] to add a vector to")
            axis = axes.setdefault(name, channel_axis(module, first))
            rest = [a for a in range(1, first.dim()) if a != axis]
            seen[name].append(first.mean(rest) if rest else first)

        return look

    hooks = [module.register_forward_hook(watch(name)) for name, module in modules.items()]
    try:
        for batch, _ in sample.batches():
            with torch.no_grad():
                base(base.theta, base.standardised(batch, marked), source_statistics)
    finally:
        for hook in hooks:
            hook.remove()
    for name, means in seen.items():
        if not means:
            kind = type(modules[name]).__name__
            raise ExportError(f"{name} ({kind}): is never run by itself, so that no vector can be added to its output")
    least = min(sum(map(len, means)) for means in seen.values())
    return {name: (axes[name], torch.cat(means)[:least]) for name, means in seen.items()}


def directions(values: Tensor) -> Tensor:
    """`[Q, R]`, R = min(RANK, Q): the principal components of `values [n, Q]`, each channel in units of its deviation,
    as moves of one deviation along each; columns of zeros beyond the rank of `values`. Of many samples some are taken,
    evenly spaced."""
    values = values[:: -(-len(values) // SAMPLES)]
    centred = (values - values.mean(0)).double()
    deviation = torch.sqrt((centred**2).mean(0))
    scaled = centred / torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    _, spread, right = torch.linalg.svd(scaled, full_matrices=False)
    count = min(RANK, values.shape[1])
    spread = torch.where(spread > 1e-6 * spread[:1].clamp(min=1e-12), spread, torch.zeros_like(spread))
    columns = (right * spread[:, None] / len(values) ** 0.5)[:count].T * deviation[:, None]
    peaks = columns.gather(0, columns.abs().argmax(0, keepdim=True))
    columns = columns * torch.where(peaks < 0, -1.0, 1.0)  # a component has no sign of its own
    return torch.nn.functional.pad(columns, (0, count - columns.shape[1])).float()
