"""Text to training examples.

corpus/ --train-tokenizer--> tokenizer/ --tokenize--> tokens/ --mask--> shards/
"""

from __future__ import annotations

from pathlib import Path

from lmdata.kernel_cache import forget_stale_kernels

__version__ = "0.1.0"

forget_stale_kernels(Path(__file__).parent)
