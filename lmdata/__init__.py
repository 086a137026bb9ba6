"""Text to training examples.

corpus/ --train-tokenizer--> tokenizer/ --tokenize--> tokens/ --mask--> shards/
"""

from __future__ import annotations

__version__ = "0.1.0"
