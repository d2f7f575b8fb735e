"""The methods of test-time adaptation, one a file."""

from __future__ import annotations

from trimtab.exporters.methods.bbse import BBSE
from trimtab.exporters.methods.bias_vectors import BIAS_VECTORS
from trimtab.exporters.methods.cafa import CAFA
from trimtab.exporters.methods.cotta import COTTA
from trimtab.exporters.methods.eata import EATA
from trimtab.exporters.methods.feature_shift import FEATURE_SHIFT
from trimtab.exporters.methods.itta import ITTA
from trimtab.exporters.methods.lame import LAME
from trimtab.exporters.methods.nhl import NHL
from trimtab.exporters.methods.note import NOTE
from trimtab.exporters.methods.petal import PETAL
from trimtab.exporters.methods.prior_correction import PRIOR_CORRECTION
from trimtab.exporters.methods.psmt import PSMT
from trimtab.exporters.methods.rmt import RMT, RMT_SOURCE_FREE
from trimtab.exporters.methods.rotta import ROTTA
from trimtab.exporters.methods.sar import SAR
from trimtab.exporters.methods.t3a import T3A
from trimtab.exporters.methods.tent import TENT
from trimtab.exporters.steps.method import Method
from trimtab.runtime.errors import ExportError

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        TENT,
        EATA,
        SAR,
        COTTA,
        RMT,
        RMT_SOURCE_FREE,
        PETAL,
        PSMT,
        ROTTA,
        NOTE,
        NHL,
        ITTA,
        CAFA,
        BIAS_VECTORS,
        LAME,
        T3A,
        FEATURE_SHIFT,
        PRIOR_CORRECTION,
        BBSE,
    )
}


def method(name: str) -> Method:
    """The method of that name. Raises ExportError where there is none."""
    try:
        return METHODS[name]
    except KeyError:
        raise ExportError(f"methods: there is no method {name!r}; there are {', '.join(METHODS)}") from None
