"""How text becomes ids: the word cache, byte-level BPE, and the plain path."""
