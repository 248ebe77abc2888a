// Rows scaled to length 1, or to a gain.
#include "kernel.cuh"

// y = gain x / max(norm, eps) per row of x [rows, width]; gain may be null. Keeps the norms.
// One warp per row: grid ceil(rows / 8), 256 threads.
extern "C" __global__ void unit_forward(const float *x, const float *gain, float *y, float *norms, int rows,
                                        int width, float eps) {
  int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
  if (row >= rows) return;
  x += (size_t)row * width;
  y += (size_t)row * width;
  float squares = 0.0f;
  for (int i = lane; i < width; i += WARP) squares += x[i] * x[i];
  float norm = sqrtf(warp_sum(squares));
  float scale = (gain ? gain[row] : 1.0f) / (norm < eps ? eps : norm);
  for (int i = lane; i < width; i += WARP) y[i] = x[i] * scale;
  if (lane == 0) norms[row] = norm;
}

// With n = x / max(norm, eps): dgain = n . dy, dx = gain (dy - n (n . dy)) / norm, or gain dy / eps where the row
// is shorter than eps. gain and dgain may be null. One warp per row: grid ceil(rows / 8), 256 threads.
extern "C" __global__ void unit_backward(const float *x, const float *gain, const float *norms, const float *dy,
                                         float *dx, float *dgain, int rows, int width, float eps) {
  int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
  if (row >= rows) return;
  x += (size_t)row * width;
  dy += (size_t)row * width;
  dx += (size_t)row * width;
  int shorter = norms[row] < eps;
  float length = shorter ? eps : norms[row], along = 0.0f;
  for (int i = lane; i < width; i += WARP) along += x[i] / length * dy[i];
  along = warp_sum(along);
  if (dgain && lane == 0) dgain[row] = along;
  float scale = (gain ? gain[row] : 1.0f) / length;
  if (shorter) along = 0.0f;
  for (int i = lane; i < width; i += WARP) dx[i] = scale * (dy[i] - x[i] / length * along);
}
