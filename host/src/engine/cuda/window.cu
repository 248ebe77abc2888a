// Windows of pictures whose channels lie last, [B, H, W, C]: laid side by side, so that a convolution is a product, put
// back again, and the largest of each. A frame of a sound is a pixel of a picture of one row.
#include "kernel.cuh"

// The sizes of a walk over windows; `Windows` of window.rs has the same fields.
struct Windows {
  int height, width, channels, groups;
  int to_height, to_width;
  int kernel_height, kernel_width;
  int stride, padding_height, padding_width;
};

// columns [groups, B H' W', kh kw, C / groups] = the pixels under each window, zeros outside; n numbers in all, from
// `batch` pictures. Grid ceil(n / 1024), 256 threads, 4 numbers each.
template <class T>
__device__ void unfold(const float *x, T *columns, Windows s, int batch, long long n) {
  long long start = (long long)blockIdx.x * 4 * blockDim.x + threadIdx.x;
  int part = s.channels / s.groups, taps = s.kernel_height * s.kernel_width;
  long long rows = (long long)batch * s.to_height * s.to_width;
  for (int k = 0; k < 4; ++k) {
    long long i = start + (long long)k * blockDim.x;
    if (i >= n) return;
    int c = i % part, tap = i / part % taps;
    long long row = i / ((long long)part * taps) % rows;
    int group = i / ((long long)part * taps * rows);
    int to_x = row % s.to_width, to_y = row / s.to_width % s.to_height, b = row / ((long long)s.to_width * s.to_height);
    int y = to_y * s.stride + tap / s.kernel_width - s.padding_height;
    int x_at = to_x * s.stride + tap % s.kernel_width - s.padding_width;
    int inside = y >= 0 && y < s.height && x_at >= 0 && x_at < s.width;
    long long from = (((long long)b * s.height + y) * s.width + x_at) * s.channels + group * part + c;
    store(columns + i, inside ? x[from] : 0.0f);
  }
}

extern "C" __global__ void unfold_f32(const float *x, float *columns, Windows sizes, int batch, long long n) {
  unfold(x, columns, sizes, batch, n);
}

// The same as the operand of a product.
extern "C" __global__ void unfold_bf16(const float *x, bf16 *columns, Windows sizes, int batch, long long n) {
  unfold(x, columns, sizes, batch, n);
}

// The first and the last of `count` windows that cover `at`, which lies `padding` after the first window's start.
__device__ inline int first_over(int at, int kernel, int stride) {
  return at < kernel ? 0 : (at - kernel) / stride + 1;
}
__device__ inline int last_over(int at, int count, int stride) { return min(at / stride, count - 1); }

// x [B, H, W, C] = for each pixel the sum of what columns, as unfold lays them, hold of it; n numbers of x. Grid
// ceil(n / 1024), 256 threads, 4 numbers each.
extern "C" __global__ void fold(const float *columns, float *x, Windows s, int batch, long long n) {
  long long start = (long long)blockIdx.x * 4 * blockDim.x + threadIdx.x;
  int part = s.channels / s.groups, taps = s.kernel_height * s.kernel_width;
  long long rows = (long long)batch * s.to_height * s.to_width;
  for (int k = 0; k < 4; ++k) {
    long long i = start + (long long)k * blockDim.x;
    if (i >= n) return;
    int c = i % s.channels;
    long long pixel = i / s.channels;
    int at_x = pixel % s.width + s.padding_width, at_y = pixel / s.width % s.height + s.padding_height;
    long long b = pixel / ((long long)s.width * s.height);
    float sum = 0.0f;
    for (int to_y = first_over(at_y, s.kernel_height, s.stride); to_y <= last_over(at_y, s.to_height, s.stride); ++to_y)
      for (int to_x = first_over(at_x, s.kernel_width, s.stride); to_x <= last_over(at_x, s.to_width, s.stride); ++to_x) {
        int tap = (at_y - to_y * s.stride) * s.kernel_width + at_x - to_x * s.stride;
        long long row = (b * s.to_height + to_y) * s.to_width + to_x + c / part * rows;
        sum += columns[(row * taps + tap) * part + c % part];
      }
    x[i] = sum;
  }
}

// y [B, H', W', C] = the largest under each window, the first of equals, NaN above all; places: where it stands in its
// picture. n numbers of y. Grid ceil(n / 1024), 256 threads, 4 numbers each.
extern "C" __global__ void pool_forward(const float *x, float *y, unsigned *places, Windows s, long long n) {
  long long start = (long long)blockIdx.x * 4 * blockDim.x + threadIdx.x;
  for (int k = 0; k < 4; ++k) {
    long long i = start + (long long)k * blockDim.x;
    if (i >= n) return;
    int c = i % s.channels;
    long long pixel = i / s.channels;
    int to_x = pixel % s.to_width, to_y = pixel / s.to_width % s.to_height;
    long long b = pixel / ((long long)s.to_width * s.to_height);
    int top = to_y * s.stride - s.padding_height, left = to_x * s.stride - s.padding_width;
    float most = 0.0f;
    int place = -1;
    for (int at_y = max(top, 0); at_y < min(top + s.kernel_height, s.height); ++at_y)
      for (int at_x = max(left, 0); at_x < min(left + s.kernel_width, s.width); ++at_x) {
        float value = x[((b * s.height + at_y) * s.width + at_x) * s.channels + c];
        if (place < 0 || value > most || (value != value && most == most)) {
          most = value;
          place = at_y * s.width + at_x;
        }
      }
    y[i] = most;
    places[i] = place;
  }
}

// dx = for each pixel the sum of dy of the windows whose largest it is; n numbers of dx. Grid ceil(n / 1024), 256
// threads, 4 numbers each.
extern "C" __global__ void pool_backward(const float *dy, const unsigned *places, float *dx, Windows s, long long n) {
  long long start = (long long)blockIdx.x * 4 * blockDim.x + threadIdx.x;
  for (int k = 0; k < 4; ++k) {
    long long i = start + (long long)k * blockDim.x;
    if (i >= n) return;
    int c = i % s.channels;
    long long pixel = i / s.channels;
    int own_x = pixel % s.width, own_y = pixel / s.width % s.height;
    int at_x = own_x + s.padding_width, at_y = own_y + s.padding_height;
    long long b = pixel / ((long long)s.width * s.height);
    float sum = 0.0f;
    for (int to_y = first_over(at_y, s.kernel_height, s.stride); to_y <= last_over(at_y, s.to_height, s.stride); ++to_y)
      for (int to_x = first_over(at_x, s.kernel_width, s.stride); to_x <= last_over(at_x, s.to_width, s.stride); ++to_x) {
        long long from = ((b * s.to_height + to_y) * s.to_width + to_x) * s.channels + c;
        if (places[from] == (unsigned)(own_y * s.width + own_x)) sum += dy[from];
      }
    dx[i] = sum;
  }
}
