// Weighted sums over a fixed number of slots per receiver and their gradient, for XLA's CPU backend; kernels.py says what
// they compute.
//
// Slots of weight 0 are skipped: most of them are the ends of short lists. One order of additions, whatever the number
// of threads: receivers are independent of each other, and in the gradient a thread has columns of its own.

#include "blocks.h"

namespace {
constexpr Index kColumns = 64;  // of a thread, at least

// out[r] = sum over the slots of r of weight * vectors[sender].
ffi::Error SlotSum(ffi::ThreadPool pool, Ints senders, Floats weights, ffi::AnyBuffer vectors,
                   ffi::Result<ffi::AnyBuffer> out) {
  Index rows = senders.dimensions()[0], slots = senders.dimensions()[1], width = vectors.dimensions()[1];
  Index last = rows * slots - 1, parts = pool.num_threads() > 1 ? 4 * pool.num_threads() : 1;
  const std::int32_t* ids = senders.typed_data();
  const float* weight = weights.typed_data();
  return with_type({vectors.element_type(), out->element_type()}, [&](auto zero) {
    using T = decltype(zero);
    const T* table = static_cast<const T*>(vectors.untyped_data());
    T* result = static_cast<T*>(out->untyped_data());
    in_parallel(pool, parts, [&](Index part) {
      over_width(width, [&](auto n, Index at) {
        constexpr int N = decltype(n)::value;
        for (Index r = rows * part / parts; r < rows * (part + 1) / parts; ++r) {
          Vector sums[N] = {};
          for (Index i = r * slots; i < (r + 1) * slots; ++i) {
            if (weight[i] == 0.0f) continue;
            fetch<N>(table + ids[std::min(i + kAhead, last)] * width + at);
            const T* row = table + ids[i] * width + at;
            for (int v = 0; v < N; ++v) sums[v] += weight[i] * load(row + offset<N>(v, width - at));
          }
          store_row<N>(result + r * width + at, sums, width - at);
        }
      });
    });
  });
}

// out[sender] = sum over the slots that name it of weight * vectors[receiver], in float32.
ffi::Error SlotScatter(ffi::ThreadPool pool, Ints senders, Floats weights, ffi::AnyBuffer vectors,
                       ffi::Result<Floats> out) {
  Index rows = senders.dimensions()[0], slots = senders.dimensions()[1], width = vectors.dimensions()[1];
  Index num_senders = out->dimensions()[0], last = rows * slots - 1;
  Index parts = pool.num_threads() > 1 ? std::max<Index>(1, width / kColumns) : 1;
  const std::int32_t* ids = senders.typed_data();
  const float* weight = weights.typed_data();
  float* table = out->typed_data();
  return with_type({vectors.element_type()}, [&](auto zero) {
    using T = decltype(zero);
    const T* own = static_cast<const T*>(vectors.untyped_data());
    in_parallel(pool, parts, [&](Index part) {
      // The last part has the rest: a vector that is moved back must not reach into another thread's columns.
      Index first = parts == 1 ? 0 : part * kColumns, columns = (part + 1 == parts ? width : first + kColumns) - first;
      for (Index s = 0; s < num_senders; ++s) std::memset(table + s * width + first, 0, columns * sizeof(float));
      over_width(columns, [&](auto n, Index start) {
        constexpr int N = decltype(n)::value;
        Index at = first + start, left = columns - start;
        for (Index r = 0; r < rows; ++r) {
          Vector held[N];
          load_row<N>(held, own + r * width + at, left, true);
          for (Index i = r * slots; i < (r + 1) * slots; ++i) {
            if (weight[i] == 0.0f) continue;
            fetch<N>(table + ids[std::min(i + kAhead, last)] * width + at);
            float* row = table + ids[i] * width + at;
            for (int v = 0; v < N; ++v) {
              float* to = row + offset<N>(v, left);
              store(to, load(to) + weight[i] * held[v]);
            }
          }
        }
      });
    });
  });
}
}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(lsec_slot_sum, SlotSum, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
    .Arg<Ints>().Arg<Floats>().Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lsec_slot_scatter, SlotScatter, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
    .Arg<Ints>().Arg<Floats>().Arg<ffi::AnyBuffer>().Ret<Floats>());
