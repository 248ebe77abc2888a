// Cross-entropy of rows, with distributions or classes as targets.
#include "kernel.cuh"

// What a pass over part of a row gathers, everything relative to the largest so far.
struct Part {
  float max;    // the largest x
  float sum;    // sum exp((x - max) / t)
  float total;  // sum of targets
  float dot;    // sum target (x - max) / t
};

__device__ inline Part join(Part a, Part b, float scale) {
  Part c;
  c.max = fmaxf(a.max, b.max);
  // A part that saw nothing has max = -inf: its sums are 0 and stay so.
  float down_a = a.max == c.max ? 0.0f : (a.max - c.max) * scale, down_b = b.max == c.max ? 0.0f : (b.max - c.max) * scale;
  c.sum = a.sum * expf(down_a) + b.sum * expf(down_b);
  c.total = a.total + b.total;
  c.dot = a.dot + (a.total == 0.0f ? 0.0f : a.total * down_a) + b.dot + (b.total == 0.0f ? 0.0f : b.total * down_b);
  return c;
}

__device__ inline Part warp_join(Part part, float scale) {
  for (int lane = WARP / 2; lane > 0; lane /= 2) {
    Part other;
    other.max = __shfl_xor_sync(0xffffffffu, part.max, lane);
    other.sum = __shfl_xor_sync(0xffffffffu, part.sum, lane);
    other.total = __shfl_xor_sync(0xffffffffu, part.total, lane);
    other.dot = __shfl_xor_sync(0xffffffffu, part.dot, lane);
    part = join(part, other, scale);
  }
  return part;
}

// loss = total log(sum) - dot of every row of x [rows, width] with scale = 1 / temperature. Targets are
// t [rows, width], or, where t is null, a class per row; a class out of range makes NaN.
// One block per row: grid rows, 256 threads.
extern "C" __global__ void cross_entropy_forward(const float *x, const float *t, const unsigned *classes, float *loss,
                                                 float *max, float *sum, float *total, int width, float scale) {
  __shared__ Part parts[8];
  int row = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  x += (size_t)row * width;
  if (t) t += (size_t)row * width;
  int target = t ? -1 : (int)classes[row];
  Part part = {-INFINITY, 0.0f, 0.0f, 0.0f};
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    float share = t ? t[i] : (i == target ? 1.0f : 0.0f);
    Part one = {x[i], 1.0f, share, 0.0f};
    part = join(part, one, scale);
  }
  part = warp_join(part, scale);
  if (lane == 0) parts[warp] = part;
  __syncthreads();
  if (warp == 0) {
    Part none = {-INFINITY, 0.0f, 0.0f, 0.0f};
    part = warp_join(lane < (int)blockDim.x / WARP ? parts[lane] : none, scale);
    if (lane == 0) {
      int wrong = !t && classes[row] >= (unsigned)width;
      loss[row] = wrong ? NAN : part.total * logf(part.sum) - part.dot;
      max[row] = part.max;
      sum[row] = part.sum;
      total[row] = wrong ? NAN : part.total;
    }
  }
}

// dx = dloss scale (total exp((x - max) scale) / sum - target). Grid (rows, ceil(width / 1024)), 256 threads, 4
// numbers each.
extern "C" __global__ void cross_entropy_backward(const float *x, const float *t, const unsigned *classes,
                                                  const float *dloss, const float *max, const float *sum,
                                                  const float *total, float *dx, int width, float scale) {
  int row = blockIdx.x;
  size_t first = (size_t)row * width;
  float share = total[row] / sum[row], top = max[row], slope = dloss[row] * scale;
  for (int k = 0; k < 4; ++k) {
    int i = (blockIdx.y * 4 + k) * blockDim.x + threadIdx.x;
    if (i >= width) return;
    float target = t ? t[first + i] : (i == (int)classes[row] ? 1.0f : 0.0f);
    dx[first + i] = slope * (share * expf((x[first + i] - top) * scale) - target);
  }
}
