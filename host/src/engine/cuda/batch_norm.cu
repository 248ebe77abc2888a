// Batch norm of rows [R, C], each column over all rows, with what stands behind it: an addition and max(x, 0).
#include "kernel.cuh"

// Sums over `span` rows each of (x - mean)^2: [parts, width]. One thread per column: grid (ceil(width / 128), parts), 128
// threads.
extern "C" __global__ void column_squares(const float *x, const float *mean, float *sums, int rows, int width, int span) {
  int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= width) return;
  int end = min(rows, (int)(blockIdx.y + 1) * span);
  float centre = mean[column], sum = 0.0f;
  for (int row = blockIdx.y * span; row < end; ++row) {
    float away = x[(size_t)row * width + column] - centre;
    sum += away * away;
  }
  sums[(size_t)blockIdx.y * width + column] = sum;
}

// y = (x - mean) rstd w + b + added, and max(y, 0) where `relu`; w, b and added may be null. n numbers. Grid
// ceil(n / 1024), 256 threads, 4 numbers each.
extern "C" __global__ void batch_norm_forward(const float *x, const float *mean, const float *rstd, const float *w,
                                              const float *b, const float *added, float *y, long long n, int width,
                                              int relu) {
  long long start = (long long)blockIdx.x * 4 * blockDim.x + threadIdx.x;
  for (int k = 0; k < 4; ++k) {
    long long i = start + (long long)k * blockDim.x;
    if (i >= n) return;
    int c = i % width;
    float made = (x[i] - mean[c]) * rstd[c];
    if (w) made *= w[c];
    if (b) made += b[c];
    if (added) made += added[i];
    // NaN stays.
    y[i] = relu && made < 0.0f ? 0.0f : made;
  }
}

// Sums over `span` rows each of d (into db) and of d (x - mean) rstd (into dw), [parts, width]; d is dy, but 0 where y,
// unless that is null, is not above 0. Grid (ceil(width / 128), parts), 128 threads.
extern "C" __global__ void batch_norm_sums(const float *x, const float *y, const float *dy, const float *mean,
                                           const float *rstd, float *db, float *dw, int rows, int width, int span) {
  int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= width) return;
  int end = min(rows, (int)(blockIdx.y + 1) * span);
  float centre = mean[column], scale = rstd[column], bias = 0.0f, weight = 0.0f;
  for (int row = blockIdx.y * span; row < end; ++row) {
    size_t i = (size_t)row * width + column;
    float d = y && !(y[i] > 0.0f) ? 0.0f : dy[i];
    bias += d;
    weight += d * (x[i] - centre) * scale;
  }
  db[(size_t)blockIdx.y * width + column] = bias;
  dw[(size_t)blockIdx.y * width + column] = weight;
}

// With d as above and db, dw of all rows: dx = w rstd (d - share (db + (x - mean) rstd dw)), and passed = d unless that is
// null. n numbers. Grid ceil(n / 1024), 256 threads, 4 numbers each.
extern "C" __global__ void batch_norm_backward(const float *x, const float *y, const float *dy, const float *mean,
                                               const float *rstd, const float *w, const float *db, const float *dw,
                                               float *dx, float *passed, long long n, int width, float share) {
  long long start = (long long)blockIdx.x * 4 * blockDim.x + threadIdx.x;
  for (int k = 0; k < 4; ++k) {
    long long i = start + (long long)k * blockDim.x;
    if (i >= n) return;
    int c = i % width;
    float d = y && !(y[i] > 0.0f) ? 0.0f : dy[i];
    float normed = (x[i] - mean[c]) * rstd[c];
    float made = rstd[c] * (d - share * (db[c] + normed * dw[c]));
    dx[i] = w ? made * w[c] : made;
    if (passed) passed[i] = d;
  }
}
