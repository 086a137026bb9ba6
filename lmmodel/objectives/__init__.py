"""What a model learns: view x corruption x head. Nothing else names one.

Needs no torch until an objective's parts are asked for. To add one: an entry in `OBJECTIVES`.
"""

from lmmodel.objectives.denoising import BART, T5
from lmmodel.objectives.objective import (
    OBJECTIVES,
    Definition,
    Objective,
    ObjectiveConfig,
    Part,
    Term,
    check_fits,
    make_objective,
    modules_of,
    num_parameters,
)
from lmmodel.objectives.tokens import CLM, HYBRID, MLM, MLM_NSP, MLM_SOP

OBJECTIVES |= {
    "mlm": MLM, "mlm+nsp": MLM_NSP, "mlm+sop": MLM_SOP, "clm": CLM, "hybrid": HYBRID,
    "t5": T5, "bart": BART,
}  # fmt: skip

__all__ = [
    "OBJECTIVES", "Definition", "Objective", "ObjectiveConfig", "Part", "Term", "check_fits",
    "make_objective", "modules_of", "num_parameters",
]  # fmt: skip
