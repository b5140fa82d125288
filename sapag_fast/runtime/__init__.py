"""Memory, random numbers, CUDA graphs and the processor's modes."""
