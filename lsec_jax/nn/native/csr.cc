// Neighbour sums and inner products over compressed rows, for XLA's CPU backend; kernels.py says what they compute.
//
// The edges of row r are indptr[r] to indptr[r + 1]. The sums of a block of the width stay in registers over all edges of
// a row, and the slice of the senders' table that a block reads stays in the cache over all rows. One accumulator per
// lane and a fixed order of edges: the result does not depend on the number of threads.

#include "blocks.h"

namespace {
// out[r] = sum over the edges of r of weight * vectors[sender].
ffi::Error Sum(ffi::ThreadPool pool, Ints indptr, Ints senders, Floats weights, ffi::AnyBuffer vectors,
               ffi::Result<ffi::AnyBuffer> out) {
  Index width = vectors.dimensions()[1], num_edges = senders.element_count();
  const std::int32_t *starts = indptr.typed_data(), *ids = senders.typed_data();
  return with_type({vectors.element_type(), out->element_type()}, [&](auto zero) {
    using T = decltype(zero);
    const T* table = static_cast<const T*>(vectors.untyped_data());
    T* result = static_cast<T*>(out->untyped_data());
    over_rows(pool, indptr, [&](Index first, Index last) {
      over_width(width, [&](auto n, Index at) {
        constexpr int N = decltype(n)::value;
        for (Index r = first; r < last; ++r) {
          Vector sums[N] = {};
          sum_row<N>(starts[r], starts[r + 1], num_edges, ids, weights.typed_data() + starts[r], table + at, width,
                     width - at, sums);
          store_row<N>(result + r * width + at, sums, width - at);
        }
      });
    });
  });
}

// out[edge of r] = <receivers[r], vectors[sender]>.
ffi::Error Dot(ffi::ThreadPool pool, Ints indptr, Ints senders, ffi::AnyBuffer receivers, ffi::AnyBuffer vectors,
               ffi::Result<Floats> out) {
  Index width = vectors.dimensions()[1], num_edges = senders.element_count();
  const std::int32_t *starts = indptr.typed_data(), *ids = senders.typed_data();
  float* result = out->typed_data();
  return with_type({vectors.element_type(), receivers.element_type()}, [&](auto zero) {
    using T = decltype(zero);
    const T *own = static_cast<const T*>(receivers.untyped_data()), *table = static_cast<const T*>(vectors.untyped_data());
    over_rows(pool, indptr, [&](Index first, Index last) {
      over_width(width, [&](auto n, Index at) {
        constexpr int N = decltype(n)::value;
        for (Index r = first; r < last; ++r) {
          Vector held[N];
          load_row<N>(held, own + r * width + at, width - at, true);
          for (Index i = starts[r]; i < starts[r + 1]; ++i) {
            fetch<N>(table + ids[std::min(i + kAhead, num_edges - 1)] * width + at);
            Vector products = {};
            for (int v = 0; v < N; ++v) products += held[v] * load(table + ids[i] * width + at + offset<N>(v, width - at));
            result[i] = (at == 0 ? 0.0f : result[i]) + total(products);
          }
        }
      });
    });
  });
}
}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(lsec_sum, Sum, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
    .Arg<Ints>().Arg<Ints>().Arg<Floats>().Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lsec_dot, Dot, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
    .Arg<Ints>().Arg<Ints>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Ret<Floats>());
