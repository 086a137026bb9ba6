#!/bin/sh
# Raw text to a trained model, in a folder of its own. `make quickstart` runs it; every line can be
# typed by hand.
set -eu
mkdir -p quickstart
cd quickstart

stage() { printf '\n\033[2m# %s\033[0m\n' "$*"; }
say() { printf '\033[1m$ %s\033[0m\n' "$*"; "$@"; }

echo "Raw text to a trained model. The times are those of two CPU cores; the first run of a command"
echo "compiles its kernels, ten seconds more. With the same versions on the same kind of machine the"
echo "numbers are the same."

stage "The prose that this Python installation carries, docstrings and help topics: about 15 s."
say lmdata sample-corpus corpus --overwrite
stage "8,192 pieces are plenty for a few million words, fewer where the text is small: about 10 s."
say lmdata train-tokenizer corpus --vocab-size 8192 --set allow_smaller=true --overwrite
stage "Every document once, as ids with sentence boundaries; one in twenty is held out: about 15 s."
say lmdata tokenize corpus --set validation_ratio=0.05 --overwrite
stage "BERT's view of it, next-sentence pairs with 15 % masked, frozen to look at: about 10 s."
say lmdata mask --rate 0.15 --set duplicates=3 --overwrite
say lmdata show --num-rows 1
stage "Training, masked anew in every epoch: about 2 min; the same line uses a GPU where there is one."
say lmmodel train tokens --family modern --model tiny --num-steps 1500 \
  --output runs/quickstart --overwrite
stage "What it learned, beside guessing by frequency and by n-grams of the same text: about 10 s."
say lmmodel evaluate runs/quickstart
stage "Words of sentences that it has not seen, by a rule that knows no answers: about 5 s."
say lmmodel fill-mask runs/quickstart --held-out tokens --num-texts 8 --top-k 3

cat <<'END'

What lies where, in the folder quickstart/:
  corpus/            the text, one file a module
  tokenizer/         opens with transformers.AutoTokenizer
  tokens/            the token store: every document once
  shards/            masked next-sentence examples, frozen
  runs/quickstart/   weights, metrics, checkpoints, and the picture loss.png with the levels of n-grams

Next, with your own text in a folder corpus/:
  lmdata tokenize corpus/
  lmdata mask --rate 0.15
  lmmodel train shards/
END
