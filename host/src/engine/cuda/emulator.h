// CUDA's kernels on the processor, for tests: every block's threads run in turn as fibers, and wait for each other
// where CUDA says so. Slow, exact about who waits for whom, and the same arithmetic as C's.
//
// Compiled in front of a .cu file by the engine's tests; see `emulated.rs`.
#pragma once
#define PRETEXT_EMULATED

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

using std::max;
using std::min;

#define __global__
#define __device__
#define __host__
#define __restrict__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct Place {
  unsigned x, y, z;
};

namespace emulator {

const size_t STACK = 128 * 1024;
const int LANES = 32;

struct Barrier {
  int arrived = 0, generation = 0;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  Place place;
  bool done = false;
};

inline ucontext_t scheduler;
inline std::vector<Fiber> fibers;
inline int current;
inline Place block, block_size, grid_size;
inline Barrier block_barrier, warp_barriers[64];
inline uint64_t slots[64][LANES];
inline std::vector<char> dynamic_shared;
inline void (*body)(void *);
inline void *body_data;

inline int alive(int from, int to) {
  int count = 0;
  for (int i = from; i < to && i < (int)fibers.size(); ++i) count += !fibers[i].done;
  return count;
}

inline void pause() { swapcontext(&fibers[current].context, &scheduler); }

// Waits until every thread from `from` to `to` that has not ended has come here.
inline void wait(Barrier &barrier, int from, int to) {
  int generation = barrier.generation;
  ++barrier.arrived;
  while (barrier.generation == generation) {
    if (barrier.arrived >= alive(from, to)) {
      barrier.arrived = 0;
      ++barrier.generation;
      break;
    }
    pause();
  }
}

inline void wait_warp() {
  int warp = current / LANES;
  wait(warp_barriers[warp], warp * LANES, warp * LANES + LANES);
}

inline void start() {
  body(body_data);
  fibers[current].done = true;
}

inline void run_block() {
  for (Fiber &fiber : fibers) {
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, start, 0);
  }
  while (alive(0, fibers.size())) {
    for (current = 0; current < (int)fibers.size(); ++current)
      if (!fibers[current].done) swapcontext(&scheduler, &fibers[current].context);
  }
}

template <class... A>
struct Call {
  void (*kernel)(A...);
  std::tuple<A...> arguments;
  static void run(void *data) {
    Call *call = (Call *)data;
    std::apply(call->kernel, call->arguments);
  }
};

template <class... A, size_t... I>
void unpack(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
  // As CUDA's driver: an array of addresses of arguments.
  Call<A...> call = {kernel, std::tuple<A...>(*(std::remove_const_t<A> *)arguments[I]...)};
  body = Call<A...>::run;
  body_data = &call;
  for (block.z = 0; block.z < grid_size.z; ++block.z)
    for (block.y = 0; block.y < grid_size.y; ++block.y)
      for (block.x = 0; block.x < grid_size.x; ++block.x) run_block();
}

// Runs `kernel` on a grid of blocks of `threads` threads.
template <class... A>
void launch(void (*kernel)(A...), const unsigned *grid, unsigned threads, unsigned shared, void **arguments) {
  grid_size = {grid[0], grid[1], grid[2]};
  block_size = {threads, 1, 1};
  fibers.resize(threads);
  for (unsigned i = 0; i < threads; ++i) {
    fibers[i].stack.resize(STACK);
    fibers[i].place = {i, 0, 0};
  }
  // What a kernel did not write must not look like zeros.
  dynamic_shared.assign(shared + 64, (char)0xff);
  unpack(kernel, arguments, std::index_sequence_for<A...>());
}

inline char *aligned_shared() { return (char *)(((uintptr_t)dynamic_shared.data() + 63) / 64 * 64); }

template <class T>
T shuffle(T x, int lane) {
  uint64_t bits = 0;
  memcpy(&bits, &x, sizeof x);
  int warp = current / LANES;
  slots[warp][current % LANES] = bits;
  wait_warp();
  memcpy(&x, &slots[warp][lane], sizeof x);
  wait_warp();
  return x;
}

}  // namespace emulator

#define threadIdx (emulator::fibers[emulator::current].place)
#define blockIdx (emulator::block)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)
#define DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(emulator::aligned_shared())

inline void __syncthreads() { emulator::wait(emulator::block_barrier, 0, emulator::fibers.size()); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulator::wait_warp(); }

template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  return emulator::shuffle(x, (emulator::current % emulator::LANES) ^ mask);
}

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

struct __nv_bfloat16 {
  uint16_t bits;
};

inline __nv_bfloat16 __float2bfloat16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return {(uint16_t)0x7fff};
  // To the nearest, ties to even.
  return {(uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

inline float __bfloat162float(__nv_bfloat16 x) {
  uint32_t bits = (uint32_t)x.bits << 16;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}

// Tensor cores: every lane holds the whole tile, so that what all lanes do alike is what the warp does.
namespace nvcuda {
namespace wmma {
struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
  static const int num_elements = 256;
  float x[256];
};

template <class F>
void fill_fragment(F &tile, float value) {
  for (float &x : tile.x) x = value;
}

template <class Use, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, __nv_bfloat16, Layout> &tile, const __nv_bfloat16 *from, unsigned stride) {
  emulator::wait_warp();
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 16; ++column) {
      bool by_row = std::is_same<Layout, row_major>::value;
      tile.x[row * 16 + column] = __bfloat162float(by_row ? from[row * stride + column] : from[column * stride + row]);
    }
}

inline void load_matrix_sync(fragment<accumulator, 16, 16, 16, float> &tile, const float *from, unsigned stride, layout_t) {
  emulator::wait_warp();
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 16; ++column) tile.x[row * 16 + column] = from[row * stride + column];
  emulator::wait_warp();
}

template <class A, class B>
void mma_sync(fragment<accumulator, 16, 16, 16, float> &d, const A &a, const B &b, const fragment<accumulator, 16, 16, 16, float> &c) {
  float made[256];
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 16; ++column) {
      float sum = c.x[row * 16 + column];
      for (int k = 0; k < 16; ++k) sum += a.x[row * 16 + k] * b.x[k * 16 + column];
      made[row * 16 + column] = sum;
    }
  memcpy(d.x, made, sizeof made);
}

inline void store_matrix_sync(float *to, const fragment<accumulator, 16, 16, 16, float> &tile, unsigned stride, layout_t) {
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 16; ++column) to[row * stride + column] = tile.x[row * 16 + column];
  emulator::wait_warp();
}
}  // namespace wmma
}  // namespace nvcuda

// Makes the entry by which a test launches a kernel.
#define EMULATED(kernel)                                                                                        \
  extern "C" void kernel##_emulated(const unsigned *grid, unsigned threads, unsigned shared, void **arguments) { \
    emulator::launch(&kernel, grid, threads, shared, arguments);                                                 \
  }
