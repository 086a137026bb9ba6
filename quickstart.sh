#!/bin/sh
# Raw text to a trained model, in a folder of its own. `make quickstart` runs it; every line can be
# typed by hand.
set -eu
mkdir -p quickstart
cd quickstart

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

# The prose that this Python installation carries: docstrings and help topics, one file a module.
say lmdata sample-corpus corpus --overwrite
# 8,192 pieces are plenty for a few million words.
say lmdata train-tokenizer corpus --vocab-size 8192 --overwrite
# Every document once, as ids with sentence boundaries; one document in twenty is held out.
say lmdata tokenize corpus --set validation_ratio=0.05 --overwrite
# One frozen view of it: next-sentence pairs, 15 % masked.
say lmdata mask --rate 0.15 --set duplicates=3 --overwrite
say lmdata show --num-rows 1
# Two minutes or so on two CPU cores; the same line uses a GPU where there is one.
say lmmodel train shards --model tiny --num-steps 600 --set optimizer.lr=3e-3 \
  --output runs/quickstart --overwrite
say lmmodel evaluate runs/quickstart
say lmmodel fill-mask runs/quickstart \
  "Return the number of [MASK] in the list." \
  "This function raises an [MASK] if the file does not exist." \
  "The default [MASK] is used when the argument is not given."

cat <<'END'

What lies where, in the folder quickstart/:
  corpus/            the text, one file a module
  tokenizer/         opens with transformers.AutoTokenizer
  tokens/            the token store: every document once
  shards/            masked next-sentence examples, frozen
  runs/quickstart/   weights, metrics, checkpoints, and the picture loss.png

Next, with your own text in a folder corpus/:
  lmdata tokenize corpus/
  lmdata mask --rate 0.15
  lmmodel train shards/
END
