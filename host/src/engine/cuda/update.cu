// Norms, steps of AdamW and SGD, and averages of many tensors in one launch.
//
// A launch takes up to TENSORS tensors by value. Every block works on SPAN numbers of one of them; `first_block`
// says where each begins. Nothing changes where the gate (1 byte) is 0.
#include "kernel.cuh"

#define TENSORS 36
#define SPAN 4096

struct Tensors {
  unsigned long long value[TENSORS], gradient[TENSORS], first[TENSORS], second[TENSORS];
  int length[TENSORS], first_block[TENSORS + 1];
  float keep[TENSORS], step[TENSORS], second_scale[TENSORS];
  int count;
};

// The tensor that this block works on.
__device__ inline int tensor_of(const Tensors &all) {
  int tensor = 0;
  while (tensor + 1 < all.count && (int)blockIdx.x >= all.first_block[tensor + 1]) ++tensor;
  return tensor;
}

// parts[block] = the sum of squares of the block's part of its gradient. Grid: blocks in all, 256 threads.
extern "C" __global__ void square_parts(Tensors all, float *parts) {
  __shared__ float sums[8];
  int tensor = tensor_of(all), start = (blockIdx.x - all.first_block[tensor]) * SPAN;
  int end = min(all.length[tensor], start + SPAN);
  const float *g = (const float *)all.gradient[tensor];
  float sum = 0.0f;
  for (int i = start + threadIdx.x; i < end; i += blockDim.x) sum += g[i] * g[i];
  sum = warp_sum(sum);
  if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < (int)blockDim.x / WARP; ++i) sum += sums[i];
    parts[blockIdx.x] = sum;
  }
}

// squares[tensor] = the sum of its parts, in f64. Grid: tensors, 32 threads.
extern "C" __global__ void square_sums(Tensors all, const float *parts, float *squares) {
  int tensor = blockIdx.x;
  double sum = 0.0;
  if (threadIdx.x == 0) {
    for (int i = all.first_block[tensor]; i < all.first_block[tensor + 1]; ++i) sum += parts[i];
    squares[tensor] = (float)sum;
  }
}

// m += (1 - beta1)(g - m), v = beta2 v + (1 - beta2) g^2, p = keep p - step m / (sqrt(v) second_scale + eps), with
// g = factor gradient. Grid: blocks in all, 256 threads.
extern "C" __global__ void adamw(Tensors all, const float *factors, const unsigned char *gate, float beta1, float beta2,
                                 float eps) {
  if (!*gate) return;
  int tensor = tensor_of(all), start = (blockIdx.x - all.first_block[tensor]) * SPAN;
  int end = min(all.length[tensor], start + SPAN);
  const float *gradient = (const float *)all.gradient[tensor];
  float *p = (float *)all.value[tensor], *m = (float *)all.first[tensor], *v = (float *)all.second[tensor];
  float factor = factors[tensor], keep = all.keep[tensor], step = all.step[tensor], scale = all.second_scale[tensor];
  for (int i = start + threadIdx.x; i < end; i += blockDim.x) {
    float g = factor * gradient[i];
    float first = m[i] + (1.0f - beta1) * (g - m[i]);
    float second = beta2 * v[i] + (1.0f - beta2) * g * g;
    m[i] = first;
    v[i] = second;
    p[i] = p[i] * keep - step * first / (sqrtf(second) * scale + eps);
  }
}

// m = momentum m + scale (factor gradient + decay p), p -= lr m; `keep` holds decay, `step` lr and `second_scale` momentum of
// each tensor; scales may be null. Grid: blocks in all, 256 threads.
extern "C" __global__ void sgd(Tensors all, const float *factors, const float *scales, const unsigned char *gate) {
  if (!*gate) return;
  int tensor = tensor_of(all), start = (blockIdx.x - all.first_block[tensor]) * SPAN;
  int end = min(all.length[tensor], start + SPAN);
  const float *gradient = (const float *)all.gradient[tensor];
  float *p = (float *)all.value[tensor], *m = (float *)all.first[tensor];
  float factor = factors[tensor], decay = all.keep[tensor], lr = all.step[tensor], momentum = all.second_scale[tensor];
  float scale = scales ? scales[tensor] : 1.0f;
  for (int i = start + threadIdx.x; i < end; i += blockDim.x) {
    float velocity = momentum * m[i] + scale * (factor * gradient[i] + decay * p[i]);
    m[i] = velocity;
    p[i] -= lr * velocity;
  }
}

// value = keep value + (1 - keep) gradient, where the teacher is the value and the student stands in the gradient's
// place. Grid: blocks in all, 256 threads.
extern "C" __global__ void average(Tensors all, const unsigned char *gate, float keep, float take) {
  if (!*gate) return;
  int tensor = tensor_of(all), start = (blockIdx.x - all.first_block[tensor]) * SPAN;
  int end = min(all.length[tensor], start + SPAN);
  const float *student = (const float *)all.gradient[tensor];
  float *teacher = (float *)all.value[tensor];
  for (int i = start + threadIdx.x; i < end; i += blockDim.x) teacher[i] = keep * teacher[i] + take * student[i];
}
