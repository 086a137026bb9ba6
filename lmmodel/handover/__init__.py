"""Folders that stock transformers classes open, ONNX files, and their proofs."""
