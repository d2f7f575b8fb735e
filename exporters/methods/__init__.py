"""The methods of test-time adaptation, one a file."""

from __future__ import annotations

from trimtab.exporters.methods.bbse import BBSE
from trimtab.exporters.methods.bias_vectors import BIAS_VECTORS
from trimtab.exporters.methods.cafa import CAFA
from trimtab.exporters.methods.cotta import COTTA
from trimtab.exporters.methods.eata import EATA
from trimtab.exporters.methods.feature_shift import FEATURE_SHIFT
from trimtab.exporters.methods.itta import ITTA
from trimtab.exporters.methods.label_shift import LABEL_SHIFT, combined
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
        LABEL_SHIFT,
    )
}


def method(name: str) -> Method:
    """The method of that name; or, as "tent+label_shift", with the label shift adapter. Raises ExportError where there
    is none."""
    base, plus, other = name.partition("+")
    if base not in METHODS or (plus and other != LABEL_SHIFT.name) or (plus and base == LABEL_SHIFT.name):
        raise ExportError(
            f"methods: there is no method {name!r}; there are {', '.join(METHODS)}, and each of the others with "
            f"+{LABEL_SHIFT.name}"
        )
    return combined(METHODS[base]) if plus else METHODS[base]
