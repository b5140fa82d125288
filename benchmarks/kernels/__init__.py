"""The GPU kernels: speed, small cases for sanitizers, and what the compilers make of them."""
