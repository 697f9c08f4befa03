/* The kernels at the ABI's baseline: SSE2 on x86-64, NEON on arm64. */
#define ISA_NAME base
#include "kernels_all.inc"
