// What the kernels of csr.cc share: vectors of floats, work in parallel, blocks of a width.
//
// The last vector of a width that is no multiple of kLanes overlaps the one before, so that none needs a mask; widths
// below kLanes are padded by the caller.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <mutex>
#include <type_traits>

#include "xla/ffi/api/ffi.h"

// Loops vectorise only around what is inlined, and the compiler's own limit is below the polynomials here.
#define LSEC_INLINE inline __attribute__((always_inline))

namespace {
namespace ffi = xla::ffi;
using Ints = ffi::Buffer<ffi::S32>;
using Floats = ffi::Buffer<ffi::F32>;
using Index = std::int64_t;

#ifdef __AVX512F__
constexpr int kLanes = 16, kMaxVectors = 16;
#else
constexpr int kLanes = 8, kMaxVectors = 8;
#endif
constexpr Index kAhead = 12;  // edges between the prefetch of a sender's row and its use
typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef std::uint32_t Bits __attribute__((vector_size(4 * kLanes)));
typedef std::uint16_t Halves __attribute__((vector_size(2 * kLanes)));
struct BFloat16 { std::uint16_t bits; };

LSEC_INLINE Vector load(const float* from) { Vector v; std::memcpy(&v, from, sizeof v); return v; }
LSEC_INLINE void store(float* to, Vector v) { std::memcpy(to, &v, sizeof v); }
LSEC_INLINE Vector load(const BFloat16* from) {
  Halves h; std::memcpy(&h, from, sizeof h);
  return (Vector)(__builtin_convertvector(h, Bits) << 16);
}
LSEC_INLINE void store(BFloat16* to, Vector v) {  // rounded to nearest even; NaN stays NaN
  Bits bits = (Bits)v, rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  Halves h = __builtin_convertvector((v == v) ? rounded : (bits >> 16) | 0x40u, Halves);
  std::memcpy(to, &h, sizeof h);
}

// Runs task(0) to task(count - 1) on the caller and on the pool. The caller waits only for tasks that have begun, so it
// cannot wait for a pool whose threads all wait as it does.
template <typename Task>
void in_parallel(ffi::ThreadPool& pool, Index count, const Task& task) {
  struct State { std::atomic<Index> next{0}, done{0}; std::mutex mutex; std::condition_variable all_done; };
  auto state = std::make_shared<State>();
  auto work = [state, count, &task] {  // task is alive while some index below count is not done
    for (Index i; (i = state->next++) < count;) {
      task(i);
      if (++state->done == count) { std::lock_guard lock(state->mutex); state->all_done.notify_all(); }
    }
  };
  for (Index i = 1; i < std::min<Index>(count, pool.num_threads()); ++i) pool.Schedule(std::decay_t<decltype(work)>(work));
  work();
  std::unique_lock lock(state->mutex);
  state->all_done.wait(lock, [&] { return state->done == count; });
}

// Cuts rows into ranges of about equal work (an edge or a row each) and runs task(begin, end, which range) on them.
template <typename Task>
void over_parts(ffi::ThreadPool& pool, const Ints& indptr, Index parts, const Task& task) {
  const std::int32_t* starts = indptr.typed_data();
  Index rows = indptr.element_count() - 1;
  auto cut = [&](Index part) {  // the first row before which lies at least this share of the work
    Index low = 0, high = rows, wanted = (starts[rows] + rows) * part / parts;
    while (low < high) {
      Index middle = (low + high) / 2;
      if (starts[middle] + middle < wanted) low = middle + 1; else high = middle;
    }
    return part == parts ? rows : low;
  };
  in_parallel(pool, parts, [&](Index part) { task(cut(part), cut(part + 1), part); });
}

// The same in as many ranges as keep the threads busy: for tasks that do not share sums.
template <typename Task>
void over_rows(ffi::ThreadPool& pool, const Ints& indptr, const Task& task) {
  Index parts = pool.num_threads() > 1 ? 4 * pool.num_threads() : 1;
  over_parts(pool, indptr, parts, [&](Index first, Index last, Index) { task(first, last); });
}

template <int N = 1, typename Run>
void with_count(int count, const Run& run) {
  if (count == N) run(std::integral_constant<int, N>());
  else if constexpr (N < kMaxVectors) with_count<N + 1>(count, run);
}

// Calls run(N, start) for blocks of N vectors that cover a width, N a compile-time constant.
template <typename Run>
void over_width(Index width, const Run& run) {
  for (Index start = 0; start < width; start += kMaxVectors * kLanes) {
    int count = std::min<Index>(kMaxVectors, (width - start + kLanes - 1) / kLanes);
    with_count(count, [&](auto n) { run(n, start); });
  }
}

// One row of a block: vector i of N, the last one moved back to end at the width.
template <int N> LSEC_INLINE Index offset(int i, Index left) { return i + 1 < N ? i * kLanes : std::min<Index>(i * kLanes, left - kLanes); }
template <int N, typename T> LSEC_INLINE void fetch(const T* row) {
  for (unsigned byte = 0; byte < N * kLanes * sizeof(T); byte += 64) __builtin_prefetch(reinterpret_cast<const char*>(row) + byte);
}
// Loads a row; with `once`, lanes that the last two vectors share are zero in the last.
template <int N, typename T> LSEC_INLINE void load_row(Vector* to, const T* row, Index left, bool once) {
  for (int i = 0; i < N; ++i) to[i] = load(row + offset<N>(i, left));
  for (int lane = 0; once && lane < (N - 1) * kLanes - offset<N>(N - 1, left); ++lane) to[N - 1][lane] = 0.0f;
}
template <int N, typename T> LSEC_INLINE void store_row(T* row, const Vector* from, Index left) {
  for (int i = 0; i < N; ++i) store(row + offset<N>(i, left), from[i]);
}
template <int N> struct Lanes { typedef float Type __attribute__((vector_size(4 * N))); };
// By halves: lane after lane, every addition would wait for the one before.
template <int N = kLanes> LSEC_INLINE float total(typename Lanes<N>::Type v) {
  if constexpr (N == 2) return v[0] + v[1];
  else {
    typename Lanes<N / 2>::Type half[2];
    std::memcpy(half, &v, sizeof v);
    return total<N / 2>(half[0] + half[1]);
  }
}

// Adds weight * vectors[sender] over edges to the sums of a block; `left` columns of the table remain from there.
template <int N, typename T>
void sum_row(Index begin, Index end, Index num_edges, const std::int32_t* senders, const float* weights,
             const T* vectors, Index stride, Index left, Vector* sums) {
  for (Index i = begin; i < end; ++i) {
    fetch<N>(vectors + senders[std::min(i + kAhead, num_edges - 1)] * stride);
    const T* row = vectors + senders[i] * stride;
    for (int v = 0; v < N; ++v) sums[v] += weights[i - begin] * load(row + offset<N>(v, left));
  }
}

// Calls run with a value of the type that all vectors of a call have.
template <typename Run>
ffi::Error with_type(std::initializer_list<ffi::DataType> types, const Run& run) {
  ffi::DataType type = *types.begin();
  for (ffi::DataType other : types) {
    if (other != type) return ffi::Error::InvalidArgument("vectors must be of one type");
  }
  if (type == ffi::F32) run(float());
  else if (type == ffi::BF16) run(BFloat16());
  else return ffi::Error::InvalidArgument("vectors must be float32 or bfloat16");
  return ffi::Error::Success();
}
}  // namespace
