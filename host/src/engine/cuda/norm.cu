// Layer norm and RMS norm of rows, forward and backward, and sums of columns.
#include "kernel.cuh"

// y = (x - mean) rstd w + b per row of x [rows, width]; without `centred`, mean is 0. w and b may be null.
// One warp per row: grid ceil(rows / 8), 256 threads.
template <class T>
__device__ void norm_forward(const float *x, const float *w, const float *b, T *y, float *mean, float *rstd,
                             int rows, int width, float eps, int centred) {
  int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
  if (row >= rows) return;
  x += (size_t)row * width;
  y += (size_t)row * width;
  float centre = 0.0f;
  if (centred) {
    float sum = 0.0f;
    for (int i = lane; i < width; i += WARP) sum += x[i];
    centre = warp_sum(sum) / width;
  }
  float squares = 0.0f;
  for (int i = lane; i < width; i += WARP) squares += (x[i] - centre) * (x[i] - centre);
  float scale = rsqrtf(warp_sum(squares) / width + eps);
  for (int i = lane; i < width; i += WARP) {
    float n = (x[i] - centre) * scale;
    if (w) n *= w[i];
    if (b) n += b[i];
    store(y + i, n);
  }
  if (lane == 0) {
    mean[row] = centre;
    rstd[row] = scale;
  }
}

extern "C" __global__ void norm_forward_f32(const float *x, const float *w, const float *b, float *y, float *mean,
                                            float *rstd, int rows, int width, float eps, int centred) {
  norm_forward(x, w, b, y, mean, rstd, rows, width, eps, centred);
}

// The same with a result in bf16: the operand of a product.
extern "C" __global__ void norm_forward_bf16(const float *x, const float *w, const float *b, bf16 *y, float *mean,
                                             float *rstd, int rows, int width, float eps, int centred) {
  norm_forward(x, w, b, y, mean, rstd, rows, width, eps, centred);
}

// With n = (x - mean) rstd and d = dy w: dx = rstd (d - mean(d) - n mean(d n)), the middle term only where
// `centred`. One warp per row: grid ceil(rows / 8), 256 threads.
extern "C" __global__ void norm_backward(const float *x, const float *w, const float *mean, const float *rstd,
                                         const float *dy, float *dx, int rows, int width, int centred) {
  int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
  if (row >= rows) return;
  x += (size_t)row * width;
  dy += (size_t)row * width;
  dx += (size_t)row * width;
  float centre = mean[row], scale = rstd[row], along = 0.0f, sum = 0.0f;
  for (int i = lane; i < width; i += WARP) {
    float d = w ? dy[i] * w[i] : dy[i];
    along += d * (x[i] - centre) * scale;
    sum += d;
  }
  along = warp_sum(along) / width;
  sum = centred ? warp_sum(sum) / width : 0.0f;
  for (int i = lane; i < width; i += WARP) {
    float d = w ? dy[i] * w[i] : dy[i];
    dx[i] = scale * (d - sum - (x[i] - centre) * scale * along);
  }
}

// Partial sums over `span` rows each of dy n (into dw) and of dy (into db), [parts, width]; n as above.
// One thread per column: grid (ceil(width / 128), parts), 128 threads.
extern "C" __global__ void norm_weight_parts(const float *x, const float *mean, const float *rstd, const float *dy,
                                             float *dw, float *db, int rows, int width, int span) {
  int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= width) return;
  int end = min(rows, (int)(blockIdx.y + 1) * span);
  float weight = 0.0f, bias = 0.0f;
  for (int row = blockIdx.y * span; row < end; ++row) {
    float d = dy[(size_t)row * width + column];
    weight += d * (x[(size_t)row * width + column] - mean[row]) * rstd[row];
    bias += d;
  }
  dw[(size_t)blockIdx.y * width + column] = weight;
  db[(size_t)blockIdx.y * width + column] = bias;
}

// Sums over `span` rows each of x [rows, width]: [parts, width]; run again with span = rows for the whole.
// One thread per column: grid (ceil(width / 128), parts), 128 threads.
extern "C" __global__ void column_sums(const float *x, float *sums, int rows, int width, int span) {
  int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= width) return;
  int end = min(rows, (int)(blockIdx.y + 1) * span);
  float sum = 0.0f;
  for (int row = blockIdx.y * span; row < end; ++row) sum += x[(size_t)row * width + column];
  sums[(size_t)blockIdx.y * width + column] = sum;
}
