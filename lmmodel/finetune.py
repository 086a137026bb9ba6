"""What was imported from here before `lmmodel.finetune` was a call still can be.

Python puts a module in the place of the function that has its name as soon as it is imported. So
that both go on working, whoever comes first, this module can be called like the function.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import lmmodel
from lmmodel.finetuner import finetune as finetune
from lmmodel.finetuning.data import FinetuneConfig as FinetuneConfig

_call = lmmodel.finetune


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return _call(*arguments, **settings)


sys.modules[__name__].__class__ = _Callable
