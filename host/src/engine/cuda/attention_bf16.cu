// Multi-head self-attention by tensor cores: operands in bf16, sums, softmax and results in f32. The algorithm and the
// tensors are those of attention.cu.
//
// A block of 128 threads works on 64 rows of one head against 64 others at a time; each of its 4 warps owns 16 rows, for
// which two lanes share one. DP is dim rounded up to 32, 64 or 128. Rows in shared memory are padded by 16 bytes, so
// that neighbouring rows lie in different banks.
#include "kernel.cuh"

using namespace nvcuda;

#define TILE 64
#define STEP 16
// Numbers from one row of scores to the next: in f32 and in bf16.
#define SCORES (TILE + 4)
#define SHARES (TILE + 8)

typedef wmma::fragment<wmma::matrix_a, 16, 16, 16, bf16, wmma::row_major> Left;
typedef wmma::fragment<wmma::matrix_b, 16, 16, 16, bf16, wmma::row_major> Right;
typedef wmma::fragment<wmma::matrix_b, 16, 16, 16, bf16, wmma::col_major> RightTransposed;
typedef wmma::fragment<wmma::accumulator, 16, 16, 16, float> Sum;

// 64 rows from `start` of one head, rounded, with zeros around them.
template <int DP>
__device__ void load(bf16 *tile, const float *from, int start, int tokens, int dim, int stride) {
  for (int i = threadIdx.x; i < TILE * DP; i += blockDim.x) {
    int row = i / DP, d = i % DP, token = start + row;
    float x = token < tokens && d < dim ? from[(size_t)token * stride + d] : 0.0f;
    tile[row * (DP + 8) + d] = __float2bfloat16(x);
  }
}

// scores[16, 64] = a[16, DP] b[64, DP]^T, by one warp.
template <int DP>
__device__ void scores_of(const bf16 *a, const bf16 *b, float *scores) {
  for (int n = 0; n < TILE; n += STEP) {
    Sum sum;
    wmma::fill_fragment(sum, 0.0f);
    for (int k = 0; k < DP; k += STEP) {
      Left left;
      RightTransposed right;
      wmma::load_matrix_sync(left, a + k, DP + 8);
      wmma::load_matrix_sync(right, b + n * (DP + 8) + k, DP + 8);
      wmma::mma_sync(sum, left, right, sum);
    }
    wmma::store_matrix_sync(scores + n, sum, SCORES, wmma::mem_row_major);
  }
}

// sum += shares[16, 64] b[64, 16 of DP], by one warp.
template <int DP>
__device__ void add_product(Sum &sum, const bf16 *shares, const bf16 *b) {
  for (int k = 0; k < TILE; k += STEP) {
    Left left;
    Right right;
    wmma::load_matrix_sync(left, shares + k, SHARES);
    wmma::load_matrix_sync(right, b + k * (DP + 8), DP + 8);
    wmma::mma_sync(sum, left, right, sum);
  }
}

// See attention.cu. Grid (B heads, ceil(N / 64)), 128 threads, shared memory for 3 x 64 rows of DP + 8 and 64 of 72 numbers
// in bf16, and 64 rows of 68 and of DP + 4 numbers in f32.
template <int DP>
__device__ void forward_bf16(const float *qkv, const unsigned *lengths, float *out, float *lse, int all, int heads, int dim,
                             float scale) {
  DYNAMIC_SHARED(float, memory);
  float *s = memory, *o = s + TILE * SCORES;
  bf16 *q = (bf16 *)(o + TILE * (DP + 4)), *k = q + TILE * (DP + 8), *v = k + TILE * (DP + 8), *p = v + TILE * (DP + 8);
  int batch = blockIdx.x / heads, head = blockIdx.x % heads, start = blockIdx.y * TILE;
  int width = heads * dim, stride = 3 * width, lane = threadIdx.x % WARP, first_row = threadIdx.x / WARP * 16;
  int row = first_row + lane / 2, half = lane % 2, tokens = counted(lengths, batch, all);
  qkv += (size_t)batch * all * stride + head * dim;
  load<DP>(q, qkv, start, tokens, dim, stride);
  for (int d = half; d < DP; d += 2) o[row * (DP + 4) + d] = 0.0f;
  float top = -INFINITY, total = 0.0f;
  for (int first = 0; first < tokens; first += TILE) {
    __syncthreads();
    load<DP>(k, qkv + width, first, tokens, dim, stride);
    load<DP>(v, qkv + 2 * width, first, tokens, dim, stride);
    __syncthreads();
    scores_of<DP>(q + first_row * (DP + 8), k, s + first_row * SCORES);
    __syncwarp();
    float most = top, share = 0.0f;
    for (int j = half; j < TILE; j += 2)
      if (first + j < tokens) most = fmaxf(most, s[row * SCORES + j] * scale);
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
    for (int j = half; j < TILE; j += 2) {
      float power = first + j < tokens ? expf(s[row * SCORES + j] * scale - most) : 0.0f;
      p[row * SHARES + j] = __float2bfloat16(power);
      share += power;
    }
    share += __shfl_xor_sync(0xffffffffu, share, 1);
    float keep = expf(top - most);
    total = total * keep + share;
    top = most;
    for (int d = half; d < DP; d += 2) o[row * (DP + 4) + d] *= keep;
    __syncwarp();
    for (int d = 0; d < DP; d += STEP) {
      Sum sum;
      float *to = o + first_row * (DP + 4) + d;
      wmma::load_matrix_sync(sum, to, DP + 4, wmma::mem_row_major);
      add_product<DP>(sum, p + first_row * SHARES, v + d);
      wmma::store_matrix_sync(to, sum, DP + 4, wmma::mem_row_major);
    }
    __syncwarp();
  }
  int token = start + row;
  if (token >= all) return;
  float wrong = too_long(lengths, batch, all);
  for (int d = half; d < dim; d += 2) {
    float made = token < tokens ? o[row * (DP + 4) + d] / total + wrong : 0.0f;
    out[((size_t)batch * all + token) * width + head * dim + d] = made;
  }
  if (half == 0) lse[(size_t)blockIdx.x * all + token] = token < tokens ? top + logf(total) : 0.0f;
}

// Writes a warp's 16 rows of sums to a gradient.
template <int DP>
__device__ void write(float *scratch, Sum (&sums)[DP / STEP], float *to, int start, int first_row, int tokens, int dim, int stride) {
  float *rows = scratch + first_row * (DP + 4);
  for (int n = 0; n < DP / STEP; ++n) wmma::store_matrix_sync(rows + n * STEP, sums[n], DP + 4, wmma::mem_row_major);
  __syncwarp();
  int lane = threadIdx.x % WARP, row = lane / 2, token = start + first_row + row;
  if (token < tokens)
    for (int d = lane % 2; d < dim; d += 2) to[(size_t)token * stride + d] = rows[row * (DP + 4) + d];
  __syncwarp();
}

// See attention.cu. Grid (B heads, ceil(N / 64)), 128 threads, shared memory for 4 x 64 rows of DP + 8 and 2 x 64 of 72 numbers
// in bf16, 2 x 64 rows of 68 numbers in f32, and 128 more.
template <int DP>
__device__ void backward_bf16(const float *qkv, const unsigned *lengths, const float *dout, const float *lse,
                              const float *delta, float *dqkv, int all, int heads, int dim, float scale, int queries) {
  DYNAMIC_SHARED(float, memory);
  float *s = memory, *dp = s + TILE * SCORES, *lses = dp + TILE * SCORES, *deltas = lses + TILE;
  bf16 *own_a = (bf16 *)(deltas + TILE), *own_b = own_a + TILE * (DP + 8), *a = own_b + TILE * (DP + 8), *b = a + TILE * (DP + 8);
  bf16 *p = b + TILE * (DP + 8), *ds = p + TILE * SHARES;
  int batch = blockIdx.x / heads, head = blockIdx.x % heads, start = blockIdx.y * TILE;
  int width = heads * dim, stride = 3 * width, lane = threadIdx.x % WARP, first_row = threadIdx.x / WARP * 16;
  int row = first_row + lane / 2, half = lane % 2, mine = start + row, tokens = counted(lengths, batch, all);
  qkv += (size_t)batch * all * stride + head * dim;
  dqkv += (size_t)batch * all * stride + head * dim;
  dout += (size_t)batch * all * width + head * dim;
  lse += (size_t)blockIdx.x * all;
  delta += (size_t)blockIdx.x * all;
  load<DP>(own_a, queries ? qkv : qkv + width, start, tokens, dim, stride);
  if (queries) load<DP>(own_b, dout, start, tokens, dim, width);
  else load<DP>(own_b, qkv + 2 * width, start, tokens, dim, stride);
  Sum firsts[DP / STEP], seconds[DP / STEP];
  for (int n = 0; n < DP / STEP; ++n) {
    wmma::fill_fragment(firsts[n], 0.0f);
    wmma::fill_fragment(seconds[n], 0.0f);
  }
  for (int first = 0; first < tokens; first += TILE) {
    __syncthreads();
    load<DP>(a, queries ? qkv + width : qkv, first, tokens, dim, stride);
    if (queries) load<DP>(b, qkv + 2 * width, first, tokens, dim, stride);
    else load<DP>(b, dout, first, tokens, dim, width);
    if (threadIdx.x < TILE) {
      int token = first + threadIdx.x;
      lses[threadIdx.x] = token < tokens ? lse[token] : 0.0f;
      deltas[threadIdx.x] = token < tokens ? delta[token] : 0.0f;
    }
    __syncthreads();
    scores_of<DP>(own_a + first_row * (DP + 8), a, s + first_row * SCORES);
    scores_of<DP>(own_b + first_row * (DP + 8), b, dp + first_row * SCORES);
    __syncwarp();
    for (int j = half; j < TILE; j += 2) {
      int within = mine < tokens && first + j < tokens;
      float l = !within ? 0.0f : queries ? lse[mine] : lses[j];
      float d = !within ? 0.0f : queries ? delta[mine] : deltas[j];
      float power = within ? expf(s[row * SCORES + j] * scale - l) : 0.0f;
      p[row * SHARES + j] = __float2bfloat16(power);
      ds[row * SHARES + j] = __float2bfloat16(scale * power * (dp[row * SCORES + j] - d));
    }
    __syncwarp();
    for (int n = 0; n < DP / STEP; ++n) {
      add_product<DP>(firsts[n], ds + first_row * SHARES, a + n * STEP);
      if (!queries) add_product<DP>(seconds[n], p + first_row * SHARES, b + n * STEP);
    }
  }
  // Every warp is done with the scores, whose room the gradients take.
  __syncthreads();
  write<DP>(memory, firsts, queries ? dqkv : dqkv + width, start, first_row, all, dim, stride);
  if (!queries) write<DP>(memory, seconds, dqkv + 2 * width, start, first_row, all, dim, stride);
}

#define ATTENTION_BF16(DP)                                                                                             \
  extern "C" __global__ void attention_forward_bf16_##DP(const float *qkv, const unsigned *lengths, float *out,        \
                                                         float *lse, int tokens, int heads, int dim, float scale) {    \
    forward_bf16<DP>(qkv, lengths, out, lse, tokens, heads, dim, scale);                                               \
  }                                                                                                                    \
  extern "C" __global__ void attention_backward_bf16_##DP(const float *qkv, const unsigned *lengths,                   \
                                                          const float *dout, const float *lse, const float *delta,     \
                                                          float *dqkv, int tokens, int heads, int dim, float scale,    \
                                                          int queries) {                                               \
    backward_bf16<DP>(qkv, lengths, dout, lse, delta, dqkv, tokens, heads, dim, scale, queries);                       \
  }

ATTENTION_BF16(32)
ATTENTION_BF16(64)
ATTENTION_BF16(128)
