"""Tensors, gradients and JSON on disk."""
