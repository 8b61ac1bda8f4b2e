// Neighbour sums and graph attention over compressed rows, for XLA's CPU backend; __init__.py says what they compute.
//
// The edges of row r are indptr[r] to indptr[r + 1]. The sums of a block of the width stay in registers over all edges of
// a row, and the slice of the senders' table that a block reads stays in the cache over all rows. One accumulator per
// lane and a fixed order of edges: the result does not depend on the number of threads.

#include "blocks.h"

namespace {
constexpr Index kAhead = 12;  // edges between the prefetch of a sender's row and its use

// out[r] = sum over the edges of r of weight * vectors[sender]; columns [at, at + left) of tables `stride` wide.
template <int N, typename T>
void sum_row(Index begin, Index end, Index num_edges, const std::int32_t* senders, const float* weights,
             const T* vectors, Index stride, Index left, Vector* sums) {
  for (Index i = begin; i < end; ++i) {
    fetch<N>(vectors + senders[std::min(i + kAhead, num_edges - 1)] * stride);
    const T* row = vectors + senders[i] * stride;
    for (int v = 0; v < N; ++v) sums[v] += weights[i - begin] * load(row + offset<N>(v, left));
  }
}

ffi::Error Sum(ffi::ThreadPool pool, Ints indptr, Ints senders, Floats weights, ffi::AnyBuffer vectors,
               ffi::Result<ffi::AnyBuffer> out) {
  Index width = vectors.dimensions()[1], num_edges = senders.element_count();
  const std::int32_t *starts = indptr.typed_data(), *ids = senders.typed_data();
  return with_type(vectors.element_type(), [&](auto zero) {
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
  return with_type(vectors.element_type(), [&](auto zero) {
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

// Attention's logits by head: [heads, nodes]; the vectors of a node hold one head after the other.
ffi::Error Attend(ffi::ThreadPool pool, float slope, Ints indptr, Ints senders, Floats values, Floats own_logits,
                  Floats sender_logits, Floats loop_logits, ffi::AnyBuffer receivers, ffi::AnyBuffer vectors,
                  ffi::Result<ffi::AnyBuffer> out, ffi::Result<Floats> log_total) {
  Index heads = own_logits.dimensions()[0], rows = own_logits.dimensions()[1], nodes = sender_logits.dimensions()[1];
  Index stride = vectors.dimensions()[1], width = stride / heads, num_edges = senders.element_count();
  const std::int32_t *starts = indptr.typed_data(), *ids = senders.typed_data();
  bool has_loops = loop_logits.element_count() > 0;
  return with_type(vectors.element_type(), [&](auto zero) {
    using T = decltype(zero);
    const T *own = static_cast<const T*>(receivers.untyped_data()), *table = static_cast<const T*>(vectors.untyped_data());
    T* result = static_cast<T*>(out->untyped_data());
    over_rows(pool, indptr, [&](Index first, Index last) {
      std::vector<float> weights;
      for (Index head = 0; head < heads; ++head) {
        Columns<T> slice(table, nodes, stride, head * width, width);
        const float *own_logit = own_logits.typed_data() + head * rows, *logit = sender_logits.typed_data() + head * nodes;
        for (Index r = first; r < last; ++r) {
          Index begin = starts[r], count = starts[r + 1] - begin;
          weights.resize(count);
          float loop = has_loops ? loop_logits.typed_data()[head * rows + r] : -INFINITY, largest = loop, sum = 0.0f;
          for (Index i = 0; i < count; ++i) {
            float x = own_logit[r] + logit[ids[begin + i]];
            weights[i] = values.typed_data()[begin + i] != 0.0f ? std::max(x, slope * x) : -INFINITY;
          }
          for (Index i = 0; i < count; ++i) largest = std::max(largest, weights[i]);
          float shift = largest == -INFINITY ? 0.0f : largest;
          for (Index i = 0; i < count; ++i) weights[i] = exponential(weights[i] - shift);
          for (Index i = 0; i < count; ++i) sum += weights[i];
          float loop_weight = has_loops ? exponential(loop - shift) : 0.0f;
          sum += loop_weight;
          float scale = sum > 0.0f ? 1.0f / sum : 0.0f;
          for (Index i = 0; i < count; ++i) weights[i] *= scale;
          log_total->typed_data()[head * rows + r] = sum > 0.0f ? shift + std::log(sum) : 0.0f;
          over_width(width, [&](auto n, Index at) {
            constexpr int N = decltype(n)::value;
            Vector sums[N] = {};
            Index column = head * width + at;
            if (has_loops) load_row<N>(sums, own + r * stride + column, width - at, false);
            for (int v = 0; v < N; ++v) sums[v] *= loop_weight * scale;
            sum_row<N>(begin, begin + count, num_edges, ids, weights.data(), slice.row(0) + at, width, width - at, sums);
            store_row<N>(result + r * stride + column, sums, width - at);
          });
        }
      }
    });
  });
}

// The gradients of Attend, without its loops, over the senders' rows (`receivers` are their edges' other ends): one read
// of the receivers' cotangents gives both the gradient of an edge's weight and that of its sender. `means` are the
// receivers' means of the weights' gradients. A head's receivers are written to by many rows: a thread takes a head.
ffi::Error AttendBackward(ffi::ThreadPool pool, float slope, Ints indptr, Ints receivers, Floats values,
                          Floats own_logits, Floats sender_logits, Floats log_total, Floats means,
                          ffi::AnyBuffer cotangents, ffi::AnyBuffer vectors, ffi::Result<Floats> to_own_logits,
                          ffi::Result<Floats> to_sender_logits, ffi::Result<ffi::AnyBuffer> to_vectors) {
  Index heads = own_logits.dimensions()[0], rows = own_logits.dimensions()[1], nodes = sender_logits.dimensions()[1];
  Index stride = vectors.dimensions()[1], width = stride / heads, num_edges = receivers.element_count();
  const std::int32_t *starts = indptr.typed_data(), *ids = receivers.typed_data();
  return with_type(vectors.element_type(), [&](auto zero) {
    using T = decltype(zero);
    const T *table = static_cast<const T*>(vectors.untyped_data()), *arrived = static_cast<const T*>(cotangents.untyped_data());
    T* result = static_cast<T*>(to_vectors->untyped_data());
    in_parallel(pool, heads, [&](Index head) {
      const float *own_logit = own_logits.typed_data() + head * rows, *logit = sender_logits.typed_data() + head * nodes;
      const float *log_sum = log_total.typed_data() + head * rows, *mean = means.typed_data() + head * rows;
      float* to_own = to_own_logits->typed_data() + head * rows;
      std::fill(to_own, to_own + rows, 0.0f);
      Columns<T> slice(arrived, rows, stride, head * width, width);
      std::vector<float> weights, slopes, gradients;
      for (Index s = 0; s < nodes; ++s) {
        Index begin = starts[s], count = starts[s + 1] - begin;
        weights.resize(count), slopes.resize(count), gradients.assign(count, 0.0f);
        for (Index i = 0; i < count; ++i) {
          Index r = ids[begin + i];
          float x = own_logit[r] + logit[s];
          slopes[i] = x > 0.0f ? 1.0f : slope;
          weights[i] = values.typed_data()[begin + i] != 0.0f ? x * slopes[i] - log_sum[r] : -INFINITY;
        }
        for (Index i = 0; i < count; ++i) weights[i] = exponential(weights[i]);
        over_width(width, [&](auto n, Index at) {
          constexpr int N = decltype(n)::value;
          Vector held[N], sums[N] = {};
          Index column = head * width + at;
          load_row<N>(held, table + s * stride + column, width - at, true);
          for (Index i = 0; i < count; ++i) {
            fetch<N>(slice.row(ids[std::min(begin + i + kAhead, num_edges - 1)]) + at);
            const T* row = slice.row(ids[begin + i]) + at;
            Vector products = {};
            for (int v = 0; v < N; ++v) {
              Vector cotangent = load(row + offset<N>(v, width - at));
              products += held[v] * cotangent;
              sums[v] += weights[i] * cotangent;
            }
            gradients[i] += total(products);
          }
          store_row<N>(result + s * stride + column, sums, width - at);
        });
        float sum = 0.0f;
        for (Index i = 0; i < count; ++i) {
          float gradient = weights[i] * (gradients[i] - mean[ids[begin + i]]) * slopes[i];
          to_own[ids[begin + i]] += gradient;
          sum += gradient;
        }
        to_sender_logits->typed_data()[head * nodes + s] = sum;
      }
    });
  });
}
}  // namespace

#define OPERANDS_3 .Arg<Ints>().Arg<Ints>().Arg<Floats>()
XLA_FFI_DEFINE_HANDLER_SYMBOL(lsec_sum, Sum, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() OPERANDS_3
    .Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lsec_dot, Dot, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
    .Arg<Ints>().Arg<Ints>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lsec_attend, Attend, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<float>("slope") OPERANDS_3
    .Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>()
    .Ret<ffi::AnyBuffer>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lsec_attend_backward, AttendBackward,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<float>("slope") OPERANDS_3.Arg<Floats>().Arg<Floats>().Arg<Floats>()
    .Arg<Floats>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Ret<Floats>().Ret<Floats>().Ret<ffi::AnyBuffer>());
