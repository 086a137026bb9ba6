"""How files become documents: finding, decompressing, decoding, cutting into records."""
