// GELU by the error function, biases, and rounding to bf16: one pass each.
#include "kernel.cuh"

// x Phi(x)
__device__ inline float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

// Phi(x) + x phi(x)
__device__ inline float gelu_slope(float x) {
  float below = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
  return below + x * 0.39894228040143268f * expf(-0.5f * x * x);
}

// y = gelu(x) of n numbers. Grid ceil(n / 1024), 256 threads, 4 numbers each.
template <class T>
__device__ void gelu_forward(const float *x, T *y, long long n) {
  long long start = (long long)blockIdx.x * 4 * blockDim.x + threadIdx.x;
  for (int k = 0; k < 4; ++k) {
    long long i = start + (long long)k * blockDim.x;
    if (i < n) store(y + i, gelu(x[i]));
  }
}

extern "C" __global__ void gelu_forward_f32(const float *x, float *y, long long n) { gelu_forward(x, y, n); }
extern "C" __global__ void gelu_forward_bf16(const float *x, bf16 *y, long long n) { gelu_forward(x, y, n); }

// dx = dy gelu'(x). Grid ceil(n / 1024), 256 threads, 4 numbers each.
extern "C" __global__ void gelu_backward(const float *x, const float *dy, float *dx, long long n) {
  long long start = (long long)blockIdx.x * 4 * blockDim.x + threadIdx.x;
  for (int k = 0; k < 4; ++k) {
    long long i = start + (long long)k * blockDim.x;
    if (i < n) dx[i] = dy[i] * gelu_slope(x[i]);
  }
}

// x += b per row of x [n / width, width].
// Grid ceil(n / 1024), 256 threads, 4 numbers each.
extern "C" __global__ void add_bias(float *x, const float *b, long long n, int width) {
  long long start = (long long)blockIdx.x * 4 * blockDim.x + threadIdx.x;
  for (int k = 0; k < 4; ++k) {
    long long i = start + (long long)k * blockDim.x;
    if (i < n) x[i] += b[i % width];
  }
}

// y = x in bf16. Grid ceil(n / 1024), 256 threads, 4 numbers each.
extern "C" __global__ void round_bf16(const float *x, bf16 *y, long long n) {
  long long start = (long long)blockIdx.x * 4 * blockDim.x + threadIdx.x;
  for (int k = 0; k < 4; ++k) {
    long long i = start + (long long)k * blockDim.x;
    if (i < n) y[i] = __float2bfloat16(x[i]);
  }
}
