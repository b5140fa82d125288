// The vector kernels for 16-byte registers: any processor.
#define SAPAG_CAPABILITY baseline
#define SAPAG_BYTES 16
#include "blocks.inl"
