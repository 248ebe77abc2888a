// Multi-head self-attention in f32 without the N x N tensor: scores are made a tile at a time in shared memory,
// with a running softmax on the way forward (Milakov and Gimelshein 2018; Dao et al. 2022, algorithm 1), and made again
// from the log sum exp of each row on the way back. No sum depends on the order in which blocks run.
//
// qkv [B, N, 3, heads, dim]; out [B, N, heads, dim]; lse and delta [B heads, N]; lengths [B], or null where all tokens
// count: of the others nothing is read, and their results and gradients are 0. A length above N makes NaN. DP is dim rounded up to 32, 64 or
// 128. A block works on ROWS rows (64, or 32 where DP is 128) of one head against COLUMNS others at a time, with
// 4 ROWS threads: 16 neighbouring lanes share 4 rows, each with 2 of the columns and every 16th number of dim.
#include "kernel.cuh"

#define COLUMNS 32

// The rows from `start` of one head's queries (part 0), keys (1) or values (2), or of out, with zeros around them.
template <int DP>
__device__ void load(float *tile, const float *from, int rows, int start, int tokens, int dim, int stride) {
  for (int i = threadIdx.x; i < rows * DP; i += blockDim.x) {
    int row = i / DP, d = i % DP, token = start + row;
    tile[row * (DP + 1) + d] = token < tokens && d < dim ? from[(size_t)token * stride + d] : 0.0f;
  }
}

// Of 4 rows of a and 2 of b the products.
template <int DP>
__device__ void products(const float *a, const float *b, float (&made)[4][2]) {
  for (int i = 0; i < 4; ++i) made[i][0] = made[i][1] = 0.0f;
  for (int d = 0; d < DP; ++d) {
    float left[4], right[2];
    for (int i = 0; i < 4; ++i) left[i] = a[i * (DP + 1) + d];
    for (int j = 0; j < 2; ++j) right[j] = b[j * (DP + 1) + d];
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 2; ++j) made[i][j] += left[i] * right[j];
  }
}

// Adds to 4 rows the weighted sums of the rows of b; every 16th number from `lane` on.
template <int DP>
__device__ void accumulate(const float *weights, const float *b, int lane, float (&sums)[4][DP / 16]) {
  for (int j = 0; j < COLUMNS; ++j) {
    float weight[4];
    for (int i = 0; i < 4; ++i) weight[i] = weights[i * (COLUMNS + 1) + j];
    for (int k = 0; k < DP / 16; ++k) {
      float x = b[j * (DP + 1) + lane + 16 * k];
      for (int i = 0; i < 4; ++i) sums[i][k] += weight[i] * x;
    }
  }
}

// out = softmax(scale q k^T) v and lse = log sum exp of each row. Grid (B heads, ceil(N / ROWS)), 4 ROWS threads,
// shared memory for ROWS + 2 COLUMNS rows of DP + 1 numbers and ROWS of COLUMNS + 1.
template <int DP, int ROWS>
__device__ void forward(const float *qkv, const unsigned *lengths, float *out, float *lse, int all, int heads, int dim,
                        float scale) {
  DYNAMIC_SHARED(float, memory);
  float *q = memory, *k = q + ROWS * (DP + 1), *v = k + COLUMNS * (DP + 1), *p = v + COLUMNS * (DP + 1);
  int batch = blockIdx.x / heads, head = blockIdx.x % heads, start = blockIdx.y * ROWS;
  int width = heads * dim, stride = 3 * width, lane = threadIdx.x % 16, row = threadIdx.x / 16 * 4;
  int tokens = counted(lengths, batch, all);
  qkv += (size_t)batch * all * stride + head * dim;
  load<DP>(q, qkv, ROWS, start, tokens, dim, stride);
  float top[4], sum[4], sums[4][DP / 16];
  for (int i = 0; i < 4; ++i) {
    top[i] = -INFINITY;
    sum[i] = 0.0f;
    for (int n = 0; n < DP / 16; ++n) sums[i][n] = 0.0f;
  }
  for (int first = 0; first < tokens; first += COLUMNS) {
    __syncthreads();
    load<DP>(k, qkv + width, COLUMNS, first, tokens, dim, stride);
    load<DP>(v, qkv + 2 * width, COLUMNS, first, tokens, dim, stride);
    __syncthreads();
    float s[4][2];
    products<DP>(q + row * (DP + 1), k + 2 * lane * (DP + 1), s);
    for (int i = 0; i < 4; ++i) {
      float most = top[i], share = 0.0f;
      for (int j = 0; j < 2; ++j) {
        s[i][j] = first + 2 * lane + j < tokens ? s[i][j] * scale : -INFINITY;
        most = fmaxf(most, s[i][j]);
      }
      for (int other = 8; other > 0; other /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, other));
      for (int j = 0; j < 2; ++j) {
        float power = expf(s[i][j] - most);
        p[(row + i) * (COLUMNS + 1) + 2 * lane + j] = power;
        share += power;
      }
      for (int other = 8; other > 0; other /= 2) share += __shfl_xor_sync(0xffffffffu, share, other);
      float keep = expf(top[i] - most);
      sum[i] = sum[i] * keep + share;
      top[i] = most;
      for (int n = 0; n < DP / 16; ++n) sums[i][n] *= keep;
    }
    // The 16 lanes that wrote these rows of p are the ones that read them.
    __syncwarp();
    accumulate<DP>(p + row * (COLUMNS + 1), v, lane, sums);
  }
  for (int i = 0; i < 4; ++i) {
    int token = start + row + i;
    if (token >= all) continue;
    float wrong = too_long(lengths, batch, all);
    for (int n = 0; n < DP / 16; ++n) {
      int d = lane + 16 * n;
      float *to = out + ((size_t)batch * all + token) * width + head * dim + d;
      if (d < dim) *to = token < tokens ? sums[i][n] / sum[i] + wrong : 0.0f;
    }
    if (lane == 0) lse[(size_t)blockIdx.x * all + token] = token < tokens ? top[i] + logf(sum[i]) : 0.0f;
  }
}

// delta = the sum of out dout over dim, [B heads, N]. One warp per row: grid ceil(B N heads / 8), 256 threads.
extern "C" __global__ void attention_delta(const float *out, const float *dout, float *delta, int rows, int tokens,
                                           int heads, int dim) {
  int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
  if (row >= rows) return;
  float sum = 0.0f;
  for (int d = lane; d < dim; d += WARP) sum += out[(size_t)row * dim + d] * dout[(size_t)row * dim + d];
  sum = warp_sum(sum);
  int head = row % heads, token = row / heads % tokens, batch = row / heads / tokens;
  if (lane == 0) delta[((size_t)batch * heads + head) * tokens + token] = sum;
}

// With P = exp(scale q k^T - lse), dP = dout v^T and dS = scale P (dP - delta): dq = dS k (`queries`), or
// dk = dS^T q and dv = P^T dout (else). Grid (B heads, ceil(N / ROWS)), 4 ROWS threads, shared memory for
// 2 ROWS + 2 COLUMNS rows of DP + 1 numbers, 2 ROWS of COLUMNS + 1, and 2 COLUMNS.
template <int DP, int ROWS>
__device__ void backward(const float *qkv, const unsigned *lengths, const float *dout, const float *lse,
                         const float *delta, float *dqkv, int all, int heads, int dim, float scale, int queries) {
  DYNAMIC_SHARED(float, memory);
  // The block's own rows: queries and their dout, or keys and values; the others pass by in tiles.
  float *own_a = memory, *own_b = own_a + ROWS * (DP + 1), *a = own_b + ROWS * (DP + 1), *b = a + COLUMNS * (DP + 1);
  float *p = b + COLUMNS * (DP + 1), *ds = p + ROWS * (COLUMNS + 1), *lses = ds + ROWS * (COLUMNS + 1);
  float *deltas = lses + COLUMNS;
  int batch = blockIdx.x / heads, head = blockIdx.x % heads, start = blockIdx.y * ROWS;
  int width = heads * dim, stride = 3 * width, lane = threadIdx.x % 16, row = threadIdx.x / 16 * 4;
  int tokens = counted(lengths, batch, all);
  qkv += (size_t)batch * all * stride + head * dim;
  dqkv += (size_t)batch * all * stride + head * dim;
  dout += (size_t)batch * all * width + head * dim;
  lse += (size_t)blockIdx.x * all;
  delta += (size_t)blockIdx.x * all;
  load<DP>(own_a, queries ? qkv : qkv + width, ROWS, start, tokens, dim, stride);
  if (queries) load<DP>(own_b, dout, ROWS, start, tokens, dim, width);
  else load<DP>(own_b, qkv + 2 * width, ROWS, start, tokens, dim, stride);
  float first_sums[4][DP / 16], second_sums[4][DP / 16];
  for (int i = 0; i < 4; ++i)
    for (int n = 0; n < DP / 16; ++n) first_sums[i][n] = second_sums[i][n] = 0.0f;
  for (int first = 0; first < tokens; first += COLUMNS) {
    __syncthreads();
    load<DP>(a, queries ? qkv + width : qkv, COLUMNS, first, tokens, dim, stride);
    if (queries) load<DP>(b, qkv + 2 * width, COLUMNS, first, tokens, dim, stride);
    else load<DP>(b, dout, COLUMNS, first, tokens, dim, width);
    if (threadIdx.x < COLUMNS) {
      int token = first + threadIdx.x;
      lses[threadIdx.x] = token < tokens ? lse[token] : 0.0f;
      deltas[threadIdx.x] = token < tokens ? delta[token] : 0.0f;
    }
    __syncthreads();
    float s[4][2], dp[4][2];
    products<DP>(own_a + row * (DP + 1), a + 2 * lane * (DP + 1), s);
    products<DP>(own_b + row * (DP + 1), b + 2 * lane * (DP + 1), dp);
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 2; ++j) {
        int mine = start + row + i, other = first + 2 * lane + j;
        int within = mine < tokens && other < tokens;
        float l = !within ? 0.0f : queries ? lse[mine] : lses[2 * lane + j];
        float d = !within ? 0.0f : queries ? delta[mine] : deltas[2 * lane + j];
        float power = within ? expf(s[i][j] * scale - l) : 0.0f;
        p[(row + i) * (COLUMNS + 1) + 2 * lane + j] = power;
        ds[(row + i) * (COLUMNS + 1) + 2 * lane + j] = scale * power * (dp[i][j] - d);
      }
    __syncwarp();
    accumulate<DP>(ds + row * (COLUMNS + 1), a, lane, first_sums);
    if (!queries) accumulate<DP>(p + row * (COLUMNS + 1), b, lane, second_sums);
  }
  for (int i = 0; i < 4; ++i) {
    int token = start + row + i;
    if (token >= all) continue;
    float *to = dqkv + (size_t)token * stride;
    for (int n = 0; n < DP / 16; ++n) {
      int d = lane + 16 * n;
      if (d >= dim) continue;
      if (queries) {
        to[d] = first_sums[i][n];
      } else {
        to[width + d] = first_sums[i][n];
        to[2 * width + d] = second_sums[i][n];
      }
    }
  }
}

#define ATTENTION(DP, ROWS)                                                                                         \
  extern "C" __global__ void attention_forward_##DP(const float *qkv, const unsigned *lengths, float *out,          \
                                                    float *lse, int tokens, int heads, int dim, float scale) {      \
    forward<DP, ROWS>(qkv, lengths, out, lse, tokens, heads, dim, scale);                                           \
  }                                                                                                                 \
  extern "C" __global__ void attention_backward_##DP(const float *qkv, const unsigned *lengths, const float *dout,  \
                                                     const float *lse, const float *delta, float *dqkv, int tokens, \
                                                     int heads, int dim, float scale, int queries) {                \
    backward<DP, ROWS>(qkv, lengths, dout, lse, delta, dqkv, tokens, heads, dim, scale, queries);                   \
  }

ATTENTION(32, 64)
ATTENTION(64, 64)
ATTENTION(128, 32)
