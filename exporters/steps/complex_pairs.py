"""Complex values as pairs of real ones, in what was recorded, since ONNX has no operators for them.

A Fourier transform is a product with a matrix of cosines and one of sines: so its gradient is, too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree

from trimtab.exporters.steps.decompositions import atan2, hypot

aten: Any = torch.ops.aten

LONGEST = 4096
"""Values that a Fourier transform may have: its matrices hold the square of that."""


@dataclass
class Pair:
    """`re + i im`: two tensors of one shape, or two numbers."""

    re: Any
    im: Any


def paired(target: Any, args: Any, kwargs: Any, meta: Any) -> Any:
    """What the operator `target` gives, with pairs among its arguments or results; NotImplemented where all is real.

    `meta`: a stand-in of the result. Raises NotImplementedError where there is no rule for it.
    """
    args, kwargs = _pytree.tree_map(_numbers, (args, kwargs))
    given = [a for a in _pytree.tree_leaves((args, kwargs)) if isinstance(a, Pair)]
    made = any(isinstance(v, Tensor) and v.is_complex() for v in _pytree.tree_leaves(meta))
    if (not given and not made) or target is operator.getitem:
        return NotImplemented
    name = getattr(getattr(target, "overloadpacket", target), "__name__", str(target))
    if name in NEW:
        return _made(target, args, kwargs)
    rule = RULES.get(name)
    if rule is not None:
        return rule(*args, **kwargs)
    if name.endswith("_") and name[:-1] in RULES:
        return _write(args[0], RULES[name[:-1]](*args, **kwargs))
    if name.removesuffix("_") in EACH:
        return _each(name.removesuffix("_"), target, args, kwargs)
    raise NotImplementedError(f"{target} of complex values is unknown to step graphs")


def opened(value: Any) -> Any:
    """A pair where a value is complex."""
    if isinstance(value, Tensor) and value.is_complex():
        both = torch.view_as_real(value)
        return Pair(both[..., 0], both[..., 1])
    return value


def _numbers(value: Any) -> Any:
    return Pair(value.real, value.imag) if isinstance(value, complex) else value


def _parts(value: Any) -> tuple[Any, Any]:
    if isinstance(value, Pair):
        return value.re, value.im
    return value, torch.zeros_like(value) if isinstance(value, Tensor) else 0.0


def _each(name: str, target: Any, args: Any, kwargs: Any) -> Any:
    """Of operators that move values, or add them: the real parts by themselves, and the imaginary ones."""
    args = [_paired(a) if i in VALUES.get(name, ()) else a for i, a in enumerate(args)]
    leaves, shape = _pytree.tree_flatten((args, kwargs))
    found = []
    for part in (0, 1):
        own = [v if not isinstance(v, Pair) else (v.re, v.im)[part] for v in leaves]
        a, k = _pytree.tree_unflatten(own, shape)
        found.append(target(*a, **k))
    if isinstance(found[0], (list, tuple)):
        return [Pair(re, im) for re, im in zip(*found, strict=True)]
    return Pair(*found)


def _paired(value: Any) -> Any:
    """A real value among complex ones: it has no imaginary part."""
    if isinstance(value, (list, tuple)):
        return [_paired(v) for v in value]
    return value if isinstance(value, Pair) else Pair(*_parts(value))


def _made(target: Any, args: Any, kwargs: Any) -> Pair:
    """New values: of none, or like a pair."""
    real = {torch.complex64: torch.float32, torch.complex128: torch.float64}
    kwargs = {k: real.get(v, v) for k, v in kwargs.items()}
    values = [target(*(_parts(a)[part] if isinstance(a, Pair) else a for a in args), **kwargs) for part in (0, 1)]
    filled = any(isinstance(a, Pair) and not isinstance(a.re, Tensor) for a in args)
    return Pair(values[0], values[1] if filled else torch.zeros_like(values[0]))


def _write(pair: Pair, new: Pair) -> Pair:
    pair.re.copy_(new.re)
    pair.im.copy_(new.im)
    return pair


def _copy(pair: Any, new: Any, non_blocking: bool = False) -> Any:
    if not isinstance(pair, Pair):
        return pair.copy_(new.re)
    return _write(pair, Pair(*_parts(new)))


def _converted(value: Any, *, dtype: torch.dtype | None = None, **kwargs: Any) -> Any:
    """To complex numbers, or to real ones."""
    re, im = _parts(value)
    return re if dtype is not None and not dtype.is_complex else Pair(re, im)


def _add(a: Any, b: Any, *, alpha: float = 1) -> Pair:
    (ar, ai), (br, bi) = _parts(a), _parts(b)
    return Pair(ar + alpha * br, ai + alpha * bi)


def _sub(a: Any, b: Any, *, alpha: float = 1) -> Pair:
    return _add(a, b, alpha=-alpha)


def _product(times: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Pair]:
    def product(a: Any, b: Any) -> Pair:
        if not isinstance(b, Pair):
            return Pair(times(a.re, b), times(a.im, b))
        (ar, ai), (br, bi) = _parts(a), _parts(b)
        if not isinstance(a, Pair):
            return Pair(times(ar, br), times(ar, bi))
        return Pair(times(ar, br) - times(ai, bi), times(ar, bi) + times(ai, br))

    return product


_times = _product(operator.mul)


def _conjugate(pair: Pair) -> Pair:
    return Pair(pair.re, -pair.im)


def _over(a: Any, b: Any) -> Pair:
    if not isinstance(b, Pair):
        return Pair(a.re / b, a.im / b)
    br, bi = _parts(b)
    size = br * br + bi * bi
    return _times(a, Pair(br / size, -bi / size))


def _abs(pair: Pair) -> Tensor:
    return hypot(pair.re, pair.im)


def _angle(pair: Pair) -> Tensor:
    return atan2(pair.im, pair.re)


def _sign(pair: Pair) -> Pair:
    """z / |z|, 0 where z is: of which the gradient of |z| is made."""
    size = _abs(pair)
    size = torch.where(size == 0, 1.0, size)
    return Pair(pair.re / size, pair.im / size)


def _exp(pair: Pair) -> Pair:
    return _polar(torch.exp(pair.re), pair.im)


def _polar(size: Tensor, angle: Tensor) -> Pair:
    return Pair(size * torch.cos(angle), size * torch.sin(angle))


def _equal(a: Any, b: Any) -> Tensor:
    (ar, ai), (br, bi) = _parts(a), _parts(b)
    same: Tensor = (ar == br) & (ai == bi)
    return same


def _power(pair: Pair, exponent: Any) -> Pair:
    if exponent != int(exponent) or exponent < 1:
        raise NotImplementedError(f"a power of {exponent} of complex values is unknown to step graphs")
    found = pair
    for _ in range(int(exponent) - 1):
        found = _times(found, pair)
    return found


# -- Fourier transforms ------------------------------------------------------------------------------------------
# Norms are numbered as in ATen: 0 none, 1 by the root of the number of values, 2 by that number.


def _wave(count: int, rows: int, turn: int, like: Tensor) -> Pair:
    """`[rows, count]`: exp(i turn 2 pi rows count / n), in float64 before it is rounded."""
    if count > LONGEST:
        raise NotImplementedError(
            f"it has a Fourier transform of {count} values; step graphs have them up to {LONGEST}"
        )
    angle = turn * 2.0 * torch.pi * (torch.arange(rows)[:, None] * torch.arange(count) % count).double() / count
    waves = [torch.where(w.abs() < 1e-12, 0.0, w).to(like.dtype) for w in (torch.cos(angle), torch.sin(angle))]
    return Pair(*waves)  # exact zeros where zeros belong: else the angle of what is real hangs on rounding


def _along(axis: int, x: Tensor, matrix: Tensor) -> Tensor:
    return x @ matrix.T if axis in (-1, x.dim() - 1) else (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)


def _scaled(pair: Pair, norm: int, count: int) -> Pair:
    factor = count ** -(norm / 2.0)
    return pair if norm == 0 else Pair(pair.re * factor, pair.im * factor)


def _transformed(pair: Pair, axis: int, forward: bool) -> Pair:
    count = pair.re.shape[axis]
    wave = _wave(count, count, -1 if forward else 1, pair.re)
    re, im, cos, sin = pair.re, pair.im, wave.re, wave.im
    return Pair(
        _along(axis, re, cos) - _along(axis, im, sin),
        _along(axis, re, sin) + _along(axis, im, cos),
    )


def _from_complex(pair: Pair, axes: Sequence[int], norm: int, forward: bool) -> Pair:
    """`fft` and `ifft`."""
    for axis in axes:
        pair = _transformed(pair, axis, forward)
    return _scaled(pair, norm, _count(pair.re, axes))


def _from_real(x: Tensor, axes: Sequence[int], norm: int, onesided: bool) -> Pair:
    """`rfft`: of the last of the axes only the half that is not the other's conjugate."""
    *others, last = axes
    count = x.shape[last]
    wave = _wave(count, count // 2 + 1 if onesided else count, -1, x)
    pair = Pair(_along(last, x, wave.re), _along(last, x, wave.im))
    for axis in others:
        pair = _transformed(pair, axis, True)
    return _scaled(pair, norm, _count(x, axes))


def _to_real(pair: Pair, axes: Sequence[int], norm: int, size: int) -> Tensor:
    """`irfft`, to `size` values on the last of the axes: each of the half stands for its conjugate, too."""
    *others, last = axes
    for axis in others:
        pair = _transformed(pair, axis, False)
    half = size // 2 + 1
    wave = _wave(size, half, 1, pair.re)
    twice = torch.full((half, 1), 2.0, dtype=pair.re.dtype)
    twice[0] = 1.0
    if size % 2 == 0:
        twice[-1] = 1.0
    re, im = (part.narrow(last, 0, half) for part in (pair.re, pair.im))
    x = _along(last, re, (wave.re * twice).T) - _along(last, im, (wave.im * twice).T)
    scaled: Tensor = _scaled(Pair(x, x), norm, _count(x, axes)).re
    return scaled


def _count(x: Tensor, axes: Sequence[int]) -> int:
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return count


RULES: dict[str, Callable[..., Any]] = {
    "sym_size": lambda pair, axis: pair.re.shape[axis],
    "eq": _equal,
    "_fft_r2c": _from_real,
    "_fft_c2c": _from_complex,
    "_fft_c2r": _to_real,
    "add": _add,
    "sub": _sub,
    "rsub": lambda a, b, *, alpha=1: _sub(b, a, alpha=alpha),
    "addmm": lambda c, a, b: _add(c, _product(torch.mm)(a, b)),
    "mul": _times,
    "div": _over,
    "reciprocal": lambda pair: _over(1.0, pair),
    "mm": _product(torch.mm),
    "bmm": _product(torch.bmm),
    "abs": _abs,
    "angle": _angle,
    "sgn": _sign,
    "exp": _exp,
    "pow": _power,
    "polar": _polar,
    "complex": Pair,
    "real": lambda pair: pair.re,
    "imag": lambda pair: pair.im,
    "view_as_real": lambda pair: torch.stack([pair.re, pair.im], -1),
    "view_as_complex": lambda x: Pair(x[..., 0], x[..., 1]),
    "_conj": _conjugate,
    "_conj_physical": _conjugate,
    "conj_physical": _conjugate,
    "_to_copy": _converted,
    "copy_": _copy,
}
"""By the operator's name. An operator that writes its result into its first argument follows the one that does not."""
VALUES: dict[str, tuple[int, ...]] = {
    "cat": (0,),
    "stack": (0,),
    "where": (1, 2),
    "masked_fill": (2,),
    "constant_pad_nd": (2,),
    "index_put": (2,),
    "slice_scatter": (1,),
    "select_scatter": (1,),
}
"""Which arguments of operators of EACH are values, and may be real ones among complex ones."""
NEW = {
    "scalar_tensor",
    "new_empty_strided",
    "zeros",
    "ones",
    "full",
    "empty",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "new_zeros",
    "new_empty",
}
EACH = {
    *(
        "view",
        "reshape",
        "_unsafe_view",
        "permute",
        "transpose",
        "t",
        "expand",
        "unsqueeze",
        "squeeze",
        "clone",
        "detach",
    ),
    *(
        "alias",
        "contiguous",
        "lift_fresh_copy",
        "slice",
        "select",
        "narrow",
        "split",
        "split_with_sizes",
        "unbind",
        "cat",
    ),
    *("stack", "flip", "roll", "index", "index_select", "gather", "diagonal", "unfold", "repeat", "neg", "sum", "mean"),
    *("cumsum", "constant_pad_nd", "slice_backward", "select_backward", "where", "zero", "_neg_view", "resolve_conj"),
    *("resolve_neg", "index_put", "masked_fill", "slice_scatter", "select_scatter", "unfold_backward", "_conj_copy"),
}
"""Operators that treat real and imaginary parts alike and apart."""


class Pairs(fx.Interpreter):
    """An interpreter in which complex values are pairs."""

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        return opened(super().placeholder(target, args, kwargs))

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return opened(super().get_attr(target, args, kwargs))

    def run_node(self, n: fx.Node) -> Any:
        self.now, self.meta = n, n.meta.get("val")
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        found = paired(target, args, kwargs, self.meta)
        return super().call_function(target, args, kwargs) if found is NotImplemented else found
