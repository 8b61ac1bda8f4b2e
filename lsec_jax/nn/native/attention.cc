// Softmax attention over compressed rows and its gradients, for XLA's CPU backend; kernels.py says what they compute.
//
// One head: with the vectors of all heads side by side, rows would lie 4 KB apart, and each cost a page and a corner of
// the cache. Widths are padded to a multiple of kLanes.

#include <cstdlib>
#include <vector>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "blocks.h"

namespace {
// e^x, or e^x - 1 without its cancellation, to about 2 units in the last place; below -87 as at -87, and e^x exactly 0.
template <bool kMinusOne>
LSEC_INLINE float exponential(float x) {
  float at = std::max(x, -87.0f), k = (at * 1.44269504f + 12582912.0f) - 12582912.0f;
  float r = (at - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r +
             1.6666665459e-1f) * r + 5.0000001201e-1f;
  float part = p * r * r + r, power;
  std::int32_t bits = (static_cast<std::int32_t>(k) + 127) << 23;
  std::memcpy(&power, &bits, 4);
  return kMinusOne ? part * power + (power - 1.0f) : x < -87.0f ? 0.0f : part * power + power;
}

// log x of a positive normal number, to about 2 units in the last place.
LSEC_INLINE float logarithm(float x) {
  std::int32_t bits; std::memcpy(&bits, &x, 4);
  std::int32_t exponent = (bits - 0x3f3504f3) >> 23;
  bits -= exponent << 23;
  float f; std::memcpy(&f, &bits, 4);
  f -= 1.0f;
  float p = (((7.0376836292e-2f * f - 1.1514610310e-1f) * f + 1.1676998740e-1f) * f - 1.2420140846e-1f) * f;
  p = (((p + 1.4249322787e-1f) * f - 1.6668057665e-1f) * f + 2.0000714765e-1f) * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  float k = static_cast<float>(exponent);
  return f + (f * f * (f * p - 0.5f) - k * 2.12194440e-4f) + k * 0.693359375f;
}

LSEC_INLINE float value(float x) { return x; }
LSEC_INLINE float value(BFloat16 x) { std::uint32_t bits = x.bits << 16; float v; std::memcpy(&v, &bits, 4); return v; }
LSEC_INLINE void put(float* to, float x) { *to = x; }
LSEC_INLINE void put(BFloat16* to, float x) {
  std::uint32_t bits; std::memcpy(&bits, &x, 4);
  to->bits = x == x ? (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16 : (bits >> 16) | 0x40u;
}

// What is applied to the sums: ELU, or a line through 0 with another slope below it.
struct Activation {
  bool is_elu;
  float below;
  LSEC_INLINE float of(float x) const { return x > 0.0f ? x : is_elu ? exponential<true>(x) : below * x; }
  // From the output: the slope, and the slope times the input.
  LSEC_INLINE float slope(float y) const { return y > 0.0f ? 1.0f : is_elu ? y + 1.0f : below; }
  LSEC_INLINE float slope_times_input(float y) const {
    float positive = std::min(std::max(y + 1.0f, 1e-30f), 1.0f);
    return y > 0.0f || !is_elu ? y : (y + 1.0f) * logarithm(positive);
  }
};

// A table of its own, in large pages where there are any.
template <typename T>
class Columns {
 public:
  Columns(Index rows, Index width) : width_(width) {
    constexpr std::size_t kPage = std::size_t{1} << 21;
    std::size_t bytes = (rows * width * sizeof(T) + kPage) / kPage * kPage;
    data_.reset(static_cast<T*>(std::aligned_alloc(kPage, bytes)));
#ifdef __linux__
    madvise(data_.get(), bytes, MADV_HUGEPAGE);
#endif
  }
  T* row(Index r) const { return data_.get() + r * width_; }

 private:
  struct Free { void operator()(T* data) const { std::free(data); } };
  std::unique_ptr<T, Free> data_;
  Index width_;
};

ffi::Error Attend(ffi::ThreadPool pool, float slope, bool is_elu, float below, Ints indptr, Ints senders, Floats values,
                  Floats own_logits, Floats sender_logits, Floats loop_logits, ffi::AnyBuffer receivers,
                  ffi::AnyBuffer vectors, ffi::Result<ffi::AnyBuffer> out, ffi::Result<Floats> log_totals) {
  Index width = vectors.dimensions()[1], num_edges = senders.element_count();
  const std::int32_t *starts = indptr.typed_data(), *ids = senders.typed_data();
  const float *present = values.typed_data(), *own_logit = own_logits.typed_data(), *logit = sender_logits.typed_data();
  bool has_loops = loop_logits.element_count() > 0;
  Activation activation{is_elu, below};
  return with_type({vectors.element_type(), receivers.element_type(), out->element_type()}, [&](auto zero) {
    using T = decltype(zero);
    const T *own = static_cast<const T*>(receivers.untyped_data()), *table = static_cast<const T*>(vectors.untyped_data());
    over_rows(pool, indptr, [&](Index first, Index last) {
      std::vector<float> weights;
      for (Index r = first; r < last; ++r) {
        Index begin = starts[r], count = starts[r + 1] - begin;
        weights.resize(count);
        float* weight = weights.data();  // loops over a local pointer vectorise
        float loop = has_loops ? loop_logits.typed_data()[r] : -INFINITY, largest = loop, sum = 0.0f;
        for (Index i = 0; i < count; ++i) {
          float x = own_logit[r] + logit[ids[begin + i]];
          weight[i] = present[begin + i] != 0.0f ? std::max(x, slope * x) : -INFINITY;
        }
        for (Index i = 0; i < count; ++i) largest = std::max(largest, weight[i]);
        float shift = largest == -INFINITY ? 0.0f : largest;
        for (Index i = 0; i < count; ++i) weight[i] = exponential<false>(weight[i] - shift);
        for (Index i = 0; i < count; ++i) sum += weight[i];
        float loop_weight = has_loops ? exponential<false>(loop - shift) : 0.0f;
        sum += loop_weight;
        float scale = sum > 0.0f ? 1.0f / sum : 0.0f;
        for (Index i = 0; i < count; ++i) weight[i] *= scale;
        log_totals->typed_data()[r] = sum > 0.0f ? shift + std::log(sum) : 0.0f;
        over_width(width, [&](auto n, Index at) {
          constexpr int N = decltype(n)::value;
          Vector sums[N] = {};
          if (has_loops) load_row<N>(sums, own + r * width + at, width - at, false);
          for (int v = 0; v < N; ++v) sums[v] *= loop_weight * scale;
          sum_row<N>(begin, begin + count, num_edges, ids, weight, table + at, width, width - at, sums);
          float* lanes = reinterpret_cast<float*>(sums);
          for (int lane = 0; lane < N * kLanes; ++lane) lanes[lane] = activation.of(lanes[lane]);
          store_row<N>(static_cast<T*>(out->untyped_data()) + r * width + at, sums, width - at);
        });
      }
    });
  });
}

// What the senders' gradients read of receivers: the cotangents of their sums (before the activation), and the means of
// the gradients of their weights.
template <typename T>
struct Receivers {
  Receivers(Index rows, Index width) : cotangents(rows, width), means(rows), is_active(rows) {}
  Columns<T> cotangents;
  std::vector<float> means;
  std::vector<unsigned char> is_active;  // whether its cotangent is not all zero; else it adds nothing to any gradient
};

// Over the senders' rows (`receivers` are their edges' other ends): one read of a receiver's cotangent gives both the
// gradient of an edge's weight and that of its sender. Many rows write to a receiver: each of kParts ranges has sums of
// its own, which are added in their order, so that the result does not depend on the number of threads.
ffi::Error AttendBackward(ffi::ThreadPool pool, float slope, bool is_elu, float below, Ints indptr, Ints receivers,
                          Floats values, Floats own_logits, Floats sender_logits, Floats loop_logits,
                          ffi::AnyBuffer own_vectors, ffi::AnyBuffer vectors, Floats log_totals, ffi::AnyBuffer outputs,
                          ffi::AnyBuffer cotangents, ffi::Result<Floats> to_own_logits,
                          ffi::Result<Floats> to_sender_logits, ffi::Result<Floats> to_loop_logits,
                          ffi::Result<ffi::AnyBuffer> to_own, ffi::Result<ffi::AnyBuffer> to_vectors) {
  constexpr Index kParts = 8;
  Index rows = own_logits.element_count(), width = vectors.dimensions()[1];
  const std::int32_t *starts = indptr.typed_data(), *ids = receivers.typed_data();
  const float *present = values.typed_data(), *own_logit = own_logits.typed_data(), *logit = sender_logits.typed_data();
  const float* log_total = log_totals.typed_data();
  bool has_loops = loop_logits.element_count() > 0;
  Activation activation{is_elu, below};
  std::initializer_list<ffi::DataType> types = {vectors.element_type(), own_vectors.element_type(), outputs.element_type(),
      cotangents.element_type(), to_own->element_type(), to_vectors->element_type()};
  return with_type(types, [&](auto zero) {
    using T = decltype(zero);
    Receivers<T> of(rows, width);
    auto at_receiver = [&](Index r) {
      const T *output = static_cast<const T*>(outputs.untyped_data()) + r * width;
      const T *cotangent = static_cast<const T*>(cotangents.untyped_data()) + r * width;
      float mean[kLanes] = {}, any[kLanes] = {};
      T* copied = of.cotangents.row(r);
      for (Index at = 0; at < width; at += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
          float y = value(output[at + lane]), gradient = value(cotangent[at + lane]);
          put(copied + at + lane, gradient * activation.slope(y));
          mean[lane] += gradient * activation.slope_times_input(y);
          any[lane] = gradient != 0.0f ? 1.0f : any[lane];
        }
      }
      for (float part : mean) of.means[r] += part;
      for (float part : any) of.is_active[r] |= part != 0.0f;
      if (!has_loops) return;
      const T* own = static_cast<const T*>(own_vectors.untyped_data()) + r * width;
      T* result = static_cast<T*>(to_own->untyped_data()) + r * width;
      float weight = exponential<false>(loop_logits.typed_data()[r] - log_total[r]), dots[kLanes] = {}, dot = 0;
      for (Index at = 0; at < width; at += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
          float gradient = value(copied[at + lane]);
          dots[lane] += gradient * value(own[at + lane]);
          put(result + at + lane, weight * gradient);
        }
      }
      for (float part : dots) dot += part;
      to_loop_logits->typed_data()[r] = weight * (dot - of.means[r]);
    };
    in_parallel(pool, kParts, [&](Index part) {
      for (Index r = rows * part / kParts; r < rows * (part + 1) / kParts; ++r) at_receiver(r);
    });
    std::vector<float> to_receivers(kParts * rows);
    over_parts(pool, indptr, kParts, [&](Index first, Index last, Index part) {
      // The range's edges to active receivers, one row after the other.
      std::vector<std::int32_t> active(starts[last] - starts[first] + 1);
      std::vector<Index> begins{0};
      for (Index s = first, count = 0; s < last; ++s, begins.push_back(count)) {
        for (Index i = starts[s]; i < starts[s + 1]; ++i) {
          active[count] = ids[i];
          count += of.is_active[ids[i]] && present[i] != 0.0f;
        }
      }
      std::vector<float> buffers[3];
      for (Index s = first; s < last; ++s) {
        Index begin = begins[s - first], count = begins[s - first + 1] - begin, end = begins.back();
        const std::int32_t* edges = active.data() + begin;
        for (auto& buffer : buffers) buffer.assign(count, 0.0f);
        float *weights = buffers[0].data(), *slopes = buffers[1].data(), *gradients = buffers[2].data();
        for (Index i = 0; i < count; ++i) {
          float x = own_logit[edges[i]] + logit[s];
          slopes[i] = x > 0.0f ? 1.0f : slope;
          weights[i] = x * slopes[i] - log_total[edges[i]];
        }
        for (Index i = 0; i < count; ++i) weights[i] = exponential<false>(weights[i]);
        over_width(width, [&](auto n, Index at) {
          constexpr int N = decltype(n)::value;
          Vector held[N], sums[N] = {};
          load_row<N>(held, static_cast<const T*>(vectors.untyped_data()) + s * width + at, width - at, true);
          for (Index i = 0; i < count; ++i) {
            fetch<N>(of.cotangents.row(active[std::min(begin + i + kAhead, end - 1)]) + at);
            const T* row = of.cotangents.row(edges[i]) + at;
            Vector products = {};
            for (int v = 0; v < N; ++v) {
              Vector cotangent = load(row + offset<N>(v, width - at));
              products += held[v] * cotangent;
              sums[v] += weights[i] * cotangent;
            }
            gradients[i] += total(products);
          }
          store_row<N>(static_cast<T*>(to_vectors->untyped_data()) + s * width + at, sums, width - at);
        });
        float sum = 0.0f;
        for (Index i = 0; i < count; ++i) {
          float gradient = weights[i] * (gradients[i] - of.means[edges[i]]) * slopes[i];
          to_receivers[part * rows + edges[i]] += gradient;
          sum += gradient;
        }
        to_sender_logits->typed_data()[s] = sum;
      }
    });
    for (Index r = 0; r < rows; ++r) {
      float sum = 0.0f;
      for (Index part = 0; part < kParts; ++part) sum += to_receivers[part * rows + r];
      to_own_logits->typed_data()[r] = sum;
    }
  });
}
}  // namespace

#define LSEC_COMMON ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<float>("slope").Attr<bool>("is_elu") \
    .Attr<float>("below").Arg<Ints>().Arg<Ints>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>() \
    .Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>()
XLA_FFI_DEFINE_HANDLER_SYMBOL(lsec_attend, Attend, LSEC_COMMON.Ret<ffi::AnyBuffer>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lsec_attend_backward, AttendBackward, LSEC_COMMON.Arg<Floats>().Arg<ffi::AnyBuffer>()
    .Arg<ffi::AnyBuffer>().Ret<Floats>().Ret<Floats>().Ret<Floats>().Ret<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>());
