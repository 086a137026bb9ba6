"""How n-grams are counted, smoothed, kept and looked up; `lmmodel.ngrams` is the room."""
