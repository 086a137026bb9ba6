"""Training examples to a model.

tokens/ or shards/ --train--> runs/NAME/ --evaluate, fill-mask, export--> figures, a folder
"""

from __future__ import annotations
