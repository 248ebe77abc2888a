// What the kernels share: sums over a warp, rounding to bf16, and shared memory of a size given at launch.
//
// The files are compiled twice: by nvcc for a GPU, and, in the engine's tests, by a C++ compiler against
// `emulator.h`, which runs every block's threads in turn. So that both read the same text, kernels use
// only what is in here and plain CUDA.
#pragma once

#ifndef PRETEXT_EMULATED
#include <cuda_bf16.h>
#include <mma.h>
#include <stdint.h>
#define DYNAMIC_SHARED(type, name)                                     \
  extern __shared__ __align__(32) unsigned char name##_bytes[];        \
  type *name = reinterpret_cast<type *>(name##_bytes)
#endif

typedef __nv_bfloat16 bf16;

#define WARP 32

// The sum over the 32 lanes of a warp, in every lane.
__device__ inline float warp_sum(float x) {
  for (int lane = WARP / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}

// The largest over the 32 lanes of a warp, in every lane.
__device__ inline float warp_max(float x) {
  for (int lane = WARP / 2; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
  return x;
}

// How many of `all` tokens of sample `batch` attention counts.
__device__ inline int counted(const unsigned *lengths, int batch, int all) {
  return lengths ? (int)min(lengths[batch], (unsigned)all) : all;
}

// NaN where sample `batch` claims more tokens than there are, else 0.
__device__ inline float too_long(const unsigned *lengths, int batch, int all) {
  return lengths && lengths[batch] > (unsigned)all ? NAN : 0.0f;
}

__device__ inline void store(float *to, float x) { *to = x; }
__device__ inline void store(bf16 *to, float x) { *to = __float2bfloat16(x); }
