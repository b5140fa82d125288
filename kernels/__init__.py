"""Triton kernels of sapag_fast, installed as ``sapag_fast.kernels``."""
