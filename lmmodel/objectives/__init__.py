"""What a model learns: view x corruption x head. One file for each kind; nothing else names one.

Needs no torch until an objective's parts are asked for. To add one: an entry in `OBJECTIVES`.
"""

from lmmodel.objectives.causal import CLM
from lmmodel.objectives.hybrid import HYBRID
from lmmodel.objectives.masked import MLM, MLM_NSP, MLM_SOP
from lmmodel.objectives.objective import (
    OBJECTIVES,
    Definition,
    Objective,
    ObjectiveConfig,
    Part,
    Term,
    make_objective,
)

OBJECTIVES |= {
    "mlm": MLM, "mlm+nsp": MLM_NSP, "mlm+sop": MLM_SOP, "clm": CLM, "hybrid": HYBRID,
}  # fmt: skip

__all__ = [
    "OBJECTIVES", "Definition", "Objective", "ObjectiveConfig", "Part", "Term", "make_objective",
]  # fmt: skip
