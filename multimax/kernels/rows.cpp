// The operators of operators.py on the CPU; the schemas and what holds for all of them are there.
//
// Through torch's stable ABI: built once, the library serves every torch that is not older than TORCH_TARGET_VERSION.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "entmax_rows.h"
#include "multimax_rows.h"
#include "rows.h"

namespace {

using namespace multimax;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Calls f with a null pointer to the scores' type and one to the type that they are computed in.
template <class F>
void by_type(const Tensor& scores, const F& f) {
  switch (scores.scalar_type()) {
    case ScalarType::Float: return f((float*)nullptr, (float*)nullptr);
    case ScalarType::Double: return f((double*)nullptr, (double*)nullptr);
    case ScalarType::BFloat16: return f((c10::BFloat16*)nullptr, (float*)nullptr);
    case ScalarType::Half: return f((c10::Half*)nullptr, (float*)nullptr);
    default: STD_TORCH_CHECK(false, "scores must be float16, bfloat16, float32 or float64");
  }
}

template <class S>
const S* data(const Tensor& t) {
  return static_cast<const S*>(t.data_ptr());
}

template <class S>
S* mutable_data(const Tensor& t) {
  return static_cast<S*>(t.data_ptr());
}

ScalarType compute_type(const Tensor& scores) {
  return scores.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

Tensor like(const Tensor& scores) { return torch::stable::new_empty(scores, scores.sizes()); }

int64_t row_length(const Tensor& scores) { return scores.size(scores.dim() - 1); }

Chunks chunks_of(const Tensor& scores, int64_t heads) {
  const int64_t n = row_length(scores), dims = scores.dim();
  STD_TORCH_CHECK(heads == 1 || (dims > 2 && scores.size(dims - 3) == heads), "as many heads as parameters have");
  return Chunks(n == 0 ? 0 : scores.numel() / n, n, heads == 1 ? 1 : scores.size(dims - 2), heads);
}

// The mask with its last dimension dense, and its strides; `held` keeps the memory.
RowMask row_mask(const std::optional<Tensor>& mask, const Tensor& scores, std::optional<Tensor>& held) {
  RowMask rows;
  if (!mask || scores.numel() == 0) return rows;
  const int64_t last = scores.dim() - 1;
  STD_TORCH_CHECK(mask->dim() == scores.dim(), "mask must have as many dimensions as scores");
  const bool dense = mask->size(last) == 1 || mask->stride(last) == 0 || mask->stride(last) == 1;
  held = dense ? *mask : torch::stable::contiguous(*mask);
  rows.data = data<bool>(*held);
  rows.last_stride = held->size(last) == 1 ? 0 : held->stride(last);
  for (int64_t k = 0; k < last; ++k) {
    rows.sizes.push_back(scores.size(k));
    rows.strides.push_back(held->size(k) == 1 ? 0 : held->stride(k));
  }
  return rows;
}

// Calls f(begin, end) for chunks [begin, end), in parallel where there is enough to do.
template <class F>
void in_parallel(const Chunks& chunks, int64_t n, const F& f) {
  const int64_t entries = std::min(chunks.rows_per_chunk, chunks.rows_per_group) * n;
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, entries));
  torch::stable::parallel_for(0, chunks.count(), grain, f);
}

// Calls row(r, head, live) for every row, with what make_row() makes for each thread.
template <class MakeRow>
void for_each_row(const Chunks& chunks, int64_t n, const RowMask& mask, const MakeRow& make_row) {
  in_parallel(chunks, n, [&](int64_t begin, int64_t end) {
    auto row = make_row();
    LiveEntries live(mask, n);
    for (int64_t chunk = begin; chunk < end; ++chunk)
      for (int64_t r = chunks.begin(chunk); r < chunks.end(chunk); ++r) row(r, chunks.head(chunk), live(r));
  });
}

template <class T>
std::vector<SegluParameters<T>> seglu_parameters(const Tensor& ranges, const Tensor& ts, bool first) {
  const int64_t heads = ranges.size(0), k = ranges.size(1);
  std::vector<SegluParameters<T>> parameters(heads);
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t i = 0; i < k; ++i) {
      parameters[head].ranges[first ? i : i + 2] = data<T>(ranges)[head * k + i];
      parameters[head].ts[first ? i : i + 2] = data<T>(ts)[head * k + i];
    }
    parameters[head].near = nearness(parameters[head]);
  }
  return parameters;
}

// Calls f with the orders that the powers mean as constants: (first, second).
template <class F>
void by_order(const std::vector<int64_t>& powers, const F& f) {
  const bool first = powers[0] == 1, second = powers.back() == 2;
  if (first && second)
    f(std::true_type{}, std::true_type{});
  else if (first)
    f(std::true_type{}, std::false_type{});
  else
    f(std::false_type{}, std::true_type{});
}

std::tuple<Tensor, Tensor> multimax_forward(Tensor scores, std::optional<Tensor> mask, Tensor ranges, Tensor ts,
                                            std::vector<int64_t> powers) {
  scores = torch::stable::contiguous(scores);
  ranges = torch::stable::contiguous(ranges);
  ts = torch::stable::contiguous(ts);
  std::vector<int64_t> shape{2};
  for (int64_t k = 0; k + 1 < scores.dim(); ++k) shape.push_back(scores.size(k));
  Tensor weights = like(scores), statistics = torch::stable::new_empty(scores, shape, compute_type(scores));
  const int64_t n = row_length(scores);
  const Chunks chunks = chunks_of(scores, ranges.size(0));
  std::optional<Tensor> held;
  const RowMask rows = row_mask(mask, scores, held);
  by_type(scores, [&]<class S, class T>(S*, T*) {
    const auto parameters = seglu_parameters<T>(ranges, ts, powers[0] == 1);
    const S* x = data<S>(scores);
    S* p = mutable_data<S>(weights);
    T *m = mutable_data<T>(statistics), *s = m + statistics.numel() / 2;
    by_order(powers, [&]<class First, class Second>(First, Second) {
      for_each_row(chunks, n, rows, [&] {
        return [&, of_x = Scratch<T>(n), of_p = Scratch<T>(n)](int64_t r, int64_t head, const Live& live) mutable {
          const Row<T> out = of_p.destination(p + r * n, live);
          m[r] = s[r] = 0;
          if (live.count > 0) {
            const Row<const T> in = of_x.fetch(x + r * n, live);
            multimax_forward_row<T, First::value, Second::value>(in, live.count, parameters[head], out, m[r], s[r]);
          }
          deliver(out, live, n, p + r * n);
        };
      });
    });
  });
  return {weights, statistics};
}

std::tuple<Tensor, Tensor, Tensor> multimax_backward(Tensor grad, Tensor scores, std::optional<Tensor> mask,
                                                     Tensor statistics, Tensor ranges, Tensor ts,
                                                     std::vector<int64_t> powers, std::optional<Tensor> weights) {
  scores = torch::stable::contiguous(scores);
  grad = torch::stable::contiguous(grad);
  ranges = torch::stable::contiguous(ranges);
  ts = torch::stable::contiguous(ts);
  statistics = torch::stable::contiguous(statistics);
  if (weights) weights = torch::stable::contiguous(*weights);
  Tensor by_scores = like(scores), by_ranges = like(ranges), by_ts = like(ts);
  const int64_t n = row_length(scores), heads = ranges.size(0), k = ranges.size(1);
  const Chunks chunks = chunks_of(scores, heads);
  std::optional<Tensor> held;
  const RowMask rows = row_mask(mask, scores, held);
  std::vector<double> totals(8 * chunks.count());
  by_type(scores, [&]<class S, class T>(S*, T*) {
    const auto parameters = seglu_parameters<T>(ranges, ts, powers[0] == 1);
    const S *x = data<S>(scores), *g = data<S>(grad);
    const T* p = weights ? data<T>(*weights) : nullptr;
    S* dx = mutable_data<S>(by_scores);
    const T *m = data<T>(statistics), *s = m + statistics.numel() / 2;
    by_order(powers, [&]<class First, class Second>(First, Second) {
      in_parallel(chunks, n, [&](int64_t begin, int64_t end) {
        LiveEntries live_entries(rows, n);
        Scratch<T> of_x(n), of_g(n), of_p(p ? n : 0), of_dx(n);
        SegluSums<T> sums;
        for (int64_t chunk = begin; chunk < end; ++chunk) {
          const auto& of_head = parameters[chunks.head(chunk)];
          for (int64_t r = chunks.begin(chunk); r < chunks.end(chunk); ++r) {
            const Live& live = live_entries(r);
            const Row<T> out = of_dx.destination(dx + r * n, live);
            if (live.count > 0) {
              const Row<const T> in = of_x.fetch(x + r * n, live);
              const Row<const T> incoming = of_g.fetch(g + r * n, live);
              Row<const T> weight;
              if (p) weight = of_p.fetch(p + r * n, live);
              multimax_backward_row<T, First::value, Second::value>(in, incoming, p ? &weight : nullptr, live.count,
                                                                    of_head, m[r], s[r], out, sums);
            }
            deliver(out, live, n, dx + r * n);
          }
          collect(sums, of_head, &totals[8 * chunk]);
        }
      });
    });
    const int64_t offset = powers[0] == 1 ? 0 : 2;
    for (int64_t head = 0; head < heads; ++head)
      for (int64_t i = 0; i < k; ++i) {
        double range = 0, t = 0;
        for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
          if (chunks.head(chunk) != head) continue;
          range += totals[8 * chunk + offset + i];
          t += totals[8 * chunk + 4 + offset + i];
        }
        mutable_data<T>(by_ranges)[head * k + i] = static_cast<T>(range);
        mutable_data<T>(by_ts)[head * k + i] = static_cast<T>(t);
      }
  });
  return {by_scores, by_ranges, by_ts};
}

// Weights of all rows by weigh(x, count, head, scratch, p).
template <class Weigh>
Tensor forward(Tensor scores, const std::optional<Tensor>& mask, int64_t heads, const Weigh& weigh) {
  scores = torch::stable::contiguous(scores);
  Tensor weights = like(scores);
  const int64_t n = row_length(scores);
  const Chunks chunks = chunks_of(scores, heads);
  std::optional<Tensor> held;
  const RowMask rows = row_mask(mask, scores, held);
  by_type(scores, [&]<class S, class T>(S*, T*) {
    const S* x = data<S>(scores);
    S* p = mutable_data<S>(weights);
    for_each_row(chunks, n, rows, [&] {
      return [&, of_x = Scratch<T>(n), of_p = Scratch<T>(n),
              scratch = std::vector<T>(whole_vectors<T>(n))](int64_t r, int64_t head, const Live& live) mutable {
        const Row<T> out = of_p.destination(p + r * n, live);
        if (live.count > 0) {
          const Row<const T> in = of_x.fetch(x + r * n, live);
          weigh(in, live.count, head, scratch.data(), out);
        }
        deliver(out, live, n, p + r * n);
      };
    });
  });
  return weights;
}

// Alpha less one, kept above 0 as in the eager form: the formula goes to its limit.
template <class T>
T distance_from_one(double alpha) {
  return static_cast<T>(std::min(std::max(alpha - 1, 1e-20), 1.0));
}

Tensor entmax_forward(Tensor scores, std::optional<Tensor> mask, double alpha) {
  return forward(scores, mask, 1, [&]<class T>(Row<const T> x, int64_t n, int64_t, T* scratch, Row<T> p) {
    if (alpha == 2)
      entmax_forward_row(x, n, SparsemaxForm<T>{}, scratch, p);
    else if (alpha == 1.5)
      entmax_forward_row(x, n, Entmax15Form<T>{}, scratch, p);
    else
      entmax_forward_row(x, n, AlphaEntmaxForm<T>(distance_from_one<T>(alpha)), scratch, p);
  });
}

Tensor alpha_entmax_forward(Tensor scores, std::optional<Tensor> mask, Tensor alpha) {
  alpha = torch::stable::contiguous(alpha);
  auto weigh = [&]<class T>(Row<const T> x, int64_t n, int64_t head, T* scratch, Row<T> p) {
    const T d = distance_from_one<T>(data<T>(alpha)[head]);
    entmax_forward_row(x, n, AlphaEntmaxForm<T>(d), scratch, p);
  };
  return forward(scores, mask, alpha.numel(), weigh);
}

Tensor evsoftmax_forward(Tensor scores, std::optional<Tensor> mask, double epsilon) {
  return forward(scores, mask, 1, [&]<class T>(Row<const T> x, int64_t n, int64_t, T*, Row<T> p) {
    evsoftmax_forward_row(x, n, static_cast<T>(epsilon / (1 + epsilon)), p);
  });
}

// Gradients of all rows by kernel(p, g, n, d, scratch, dx), and for each head the sum of what it returns.
template <class D, class Kernel>
std::tuple<Tensor, std::vector<double>> backward(Tensor grad, Tensor weights, int64_t heads, const D& distance,
                                                 const Kernel& kernel) {
  grad = torch::stable::contiguous(grad);
  weights = torch::stable::contiguous(weights);
  Tensor by_scores = like(weights);
  const int64_t n = row_length(weights);
  const Chunks chunks = chunks_of(weights, heads);
  std::vector<double> totals(chunks.count()), by_head(heads);
  by_type(weights, [&]<class S, class T>(S*, T*) {
    const S *p = data<S>(weights), *g = data<S>(grad);
    S* dx = mutable_data<S>(by_scores);
    in_parallel(chunks, n, [&](int64_t begin, int64_t end) {
      const Live all{0, n, nullptr};
      Scratch<T> of_p(n), of_g(n), of_dx(n);
      std::vector<T> scratch(3 * whole_vectors<T>(n));
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        const T d = distance_from_one<T>(distance(chunks.head(chunk)));
        for (int64_t r = chunks.begin(chunk); r < chunks.end(chunk); ++r) {
          const Row<T> out = of_dx.destination(dx + r * n, all);
          const Row<const T> weights_of_row = of_p.fetch(p + r * n, all);
          const Row<const T> incoming = of_g.fetch(g + r * n, all);
          totals[chunk] += kernel(weights_of_row, incoming, n, d, scratch.data(), out);
          deliver(out, all, n, dx + r * n);
        }
      }
    });
  });
  for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) by_head[chunks.head(chunk)] += totals[chunk];
  return {by_scores, by_head};
}

Tensor entmax_backward(Tensor grad, Tensor weights, double alpha) {
  auto kernel = [&]<class T>(Row<const T> p, Row<const T> g, int64_t n, T d, T* scratch, Row<T> dx) {
    if (alpha == 2)
      entmax_backward_row(p, g, n, SparsemaxSlope<T>{}, dx);
    else if (alpha == 1.5)
      entmax_backward_row(p, g, n, Entmax15Slope<T>{}, dx);
    else if (alpha == 1)
      entmax_backward_row(p, g, n, SoftmaxSlope<T>{}, dx);
    else
      alpha_entmax_backward_row(p, g, n, d, scratch, dx);
    return 0;
  };
  return std::get<0>(backward(grad, weights, 1, [&](int64_t) { return alpha; }, kernel));
}

std::tuple<Tensor, Tensor> alpha_entmax_backward(Tensor grad, Tensor weights, Tensor alpha) {
  alpha = torch::stable::contiguous(alpha);
  const bool is_double = alpha.scalar_type() == ScalarType::Double;
  auto value = [&](int64_t head) { return is_double ? data<double>(alpha)[head] : data<float>(alpha)[head]; };
  auto [by_scores, by_head] =
      backward(grad, weights, alpha.numel(), value,
               []<class T>(Row<const T> p, Row<const T> g, int64_t n, T d, T* scratch, Row<T> dx) {
                 return alpha_entmax_backward_row(p, g, n, d, scratch, dx);
               });
  Tensor by_alpha = like(alpha);
  for (int64_t head = 0; head < alpha.numel(); ++head) {
    if (is_double)
      mutable_data<double>(by_alpha)[head] = -by_head[head];
    else
      mutable_data<float>(by_alpha)[head] = static_cast<float>(-by_head[head]);
  }
  return {by_scores, by_alpha};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(multimax, CPU, library) {
  library.impl("multimax_forward", TORCH_BOX(&multimax_forward));
  library.impl("multimax_backward", TORCH_BOX(&multimax_backward));
  library.impl("entmax_forward", TORCH_BOX(&entmax_forward));
  library.impl("entmax_backward", TORCH_BOX(&entmax_backward));
  library.impl("alpha_entmax_forward", TORCH_BOX(&alpha_entmax_forward));
  library.impl("alpha_entmax_backward", TORCH_BOX(&alpha_entmax_backward));
  library.impl("evsoftmax_forward", TORCH_BOX(&evsoftmax_forward));
}
