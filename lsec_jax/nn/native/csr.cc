// Neighbour sums and inner products over compressed rows, for XLA's CPU backend; kernels.py says what they compute.
//
// The edges of row r are indptr[r] to indptr[r + 1]. The sums of a block of the width stay in registers over all edges of
// a row, and the slice of the senders' table that a block reads stays in the cache over all rows. One accumulator per
// lane and a fixed order of edges: the result does not depend on the number of threads.

#include <vector>

#include "blocks.h"

namespace {
constexpr Index kFiltered = 256;  // edges that are looked through at once for those that send something

inline bool is_zero(float value) { return value == 0.0f; }
inline bool is_zero(BFloat16 value) { return (value.bits & 0x7fff) == 0; }

// Which rows of a table are all zeros, if most are; else nothing.
template <typename T>
std::vector<char> zero_rows(const T* table, Index rows, Index width) {
  std::vector<char> zero(rows);
  Index count = 0;
  for (Index r = 0; r < rows; ++r) {
    const T* row = table + r * width;
    Index at = 0;
    while (at < width && is_zero(row[at])) ++at;
    count += zero[r] = at == width;
  }
  if (2 * count <= rows) zero.clear();
  return zero;
}

// sum_row without the edges from rows of zeros.
template <int N, typename T>
void sum_filtered_row(Index begin, Index end, const char* zero, const std::int32_t* senders, const float* weights,
                      const T* vectors, Index stride, Index left, Vector* sums) {
  std::int32_t ids[kFiltered];
  float values[kFiltered];
  for (Index start = begin; start < end; start += kFiltered) {
    Index kept = 0;
    for (Index i = start; i < std::min(end, start + kFiltered); ++i) {
      ids[kept] = senders[i];
      values[kept] = weights[i];
      kept += !zero[senders[i]];
    }
    sum_row<N>(0, kept, kept, ids, values, vectors, stride, left, sums);
  }
}

// out[r] = sum over the edges of r of weight * vectors[sender]; zeros where there are flags and r is not wanted.
ffi::Error Sum(ffi::ThreadPool pool, Ints indptr, Ints senders, Floats weights, ffi::Buffer<ffi::PRED> wanted,
               ffi::AnyBuffer vectors, ffi::Result<ffi::AnyBuffer> out) {
  const bool* flags = wanted.element_count() ? wanted.typed_data() : nullptr;
  Index width = vectors.dimensions()[1], num_edges = senders.element_count();
  const std::int32_t *starts = indptr.typed_data(), *ids = senders.typed_data();
  return with_type({vectors.element_type(), out->element_type()}, [&](auto zero) {
    using T = decltype(zero);
    const T* table = static_cast<const T*>(vectors.untyped_data());
    T* result = static_cast<T*>(out->untyped_data());
    const float* values = weights.typed_data();
    std::vector<char> silent = zero_rows(table, vectors.dimensions()[0], width);
    over_rows(pool, indptr, [&](Index first, Index last) {
      over_width(width, [&](auto n, Index at) {
        constexpr int N = decltype(n)::value;
        for (Index r = first; r < last; ++r) {
          Vector sums[N] = {};
          Index begin = starts[r], end = flags && !flags[r] ? begin : starts[r + 1];
          if (silent.empty()) sum_row<N>(begin, end, num_edges, ids, values + begin, table + at, width, width - at, sums);
          else sum_filtered_row<N>(begin, end, silent.data(), ids, values, table + at, width, width - at, sums);
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
    .Arg<Ints>().Arg<Ints>().Arg<Floats>().Arg<ffi::Buffer<ffi::PRED>>().Arg<ffi::AnyBuffer>()
    .Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lsec_dot, Dot, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
    .Arg<Ints>().Arg<Ints>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Ret<Floats>());
