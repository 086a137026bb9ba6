"""Attention over packed sequences: its kernels, what is seen, what is remembered."""
