// The row operators of operators.py on the CPU; the schemas and what holds for all of them are there.

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <tuple>

#include "tensors.h"

namespace {

using namespace multimax;

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

// For the chunks of contiguous scores, some to each thread, calls row(rows, r, head, live) for every row with the
// thread's kernel, a copy of `kernel`, and after(rows, chunk, head) behind every chunk.
template <class S, class Kernel, class Row, class After>
void for_each_row(const Tensor& scores, const std::optional<Tensor>& mask, const Chunks& chunks, const Kernel& kernel,
                  const Row& row, const After& after) {
  const int64_t n = row_length(scores);
  std::optional<Tensor> held;
  const RowMask row_masks = row_mask(mask, sizes_of(scores), held);
  const int64_t entries = std::min(chunks.rows_per_chunk, chunks.rows_per_group) * n;
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, entries));
  torch::stable::parallel_for(0, chunks.count(), grain, [&](int64_t begin, int64_t end) {
    LiveEntries live(row_masks, n);
    TensorRows<S, Kernel> rows(kernel, n);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t head = chunks.head(chunk);
      for (int64_t r = chunks.begin(chunk); r < chunks.end(chunk); ++r) row(rows, r, head, live(r));
      after(rows, chunk, head);
    }
  });
}

// The weights, and into `statistics` unless it is null those of all rows: every m, then every s.
template <class S, class Kernel>
void weigh(const Tensor& scores, const std::optional<Tensor>& mask, const Kernel& kernel, const Tensor& weights,
           typename Kernel::Number* statistics) {
  const int64_t n = row_length(scores);
  const Chunks chunks = chunks_of(scores, kernel.heads());
  const S* x = data<S>(scores);
  S* p = mutable_data<S>(weights);
  auto row = [&](auto& rows, int64_t r, int64_t head, const Live& live) {
    const auto of_row = rows.forward(x + r * n, n, head, live, p + r * n);
    if (statistics) statistics[r] = of_row.m, statistics[chunks.rows + r] = of_row.s;
  };
  for_each_row<S>(scores, mask, chunks, kernel, row, [](auto&, int64_t, int64_t) {});
}

// The gradient by the scores from that by the weights, or, where these are null, from the statistics; returns kTotals
// sums for each head.
template <class S, class P, class Kernel>
std::vector<double> differentiate(const Tensor& grad, const S* scores, const std::optional<Tensor>& mask,
                                  const P* weights, const typename Kernel::Number* statistics, const Kernel& kernel,
                                  const Tensor& by_scores) {
  const int64_t n = row_length(grad);
  const Chunks chunks = chunks_of(grad, kernel.heads());
  std::vector<double> totals(Kernel::kTotals * chunks.count());
  const S* g = data<S>(grad);
  S* dx = mutable_data<S>(by_scores);
  auto row = [&](auto& rows, int64_t r, int64_t head, const Live& live) {
    const int64_t i = r * n;
    if (weights)
      rows.backward(scores ? scores + i : nullptr, weights + i, g + i, n, head, live, dx + i);
    else
      rows.backward_anew(scores + i, g + i, n, head, live, {statistics[r], statistics[chunks.rows + r]}, dx + i,
                         dx + i);
  };
  auto collect = [&](auto& rows, int64_t chunk, int64_t head) {
    rows.kernel.collect(head, totals.data() + Kernel::kTotals * chunk);
  };
  for_each_row<S>(grad, mask, chunks, kernel, row, collect);
  return sums_by_head(totals, Kernel::kTotals, kernel.heads(), [&](int64_t chunk) { return chunks.head(chunk); });
}

std::tuple<Tensor, Tensor> multimax_forward(Tensor scores, std::optional<Tensor> mask, Tensor ranges, Tensor ts,
                                            std::vector<int64_t> powers) {
  scores = torch::stable::contiguous(scores);
  std::vector<int64_t> shape{2};
  for (int64_t k = 0; k + 1 < scores.dim(); ++k) shape.push_back(scores.size(k));
  Tensor weights = like(scores), statistics = torch::stable::new_empty(scores, shape, compute_type(scores));
  by_type(scores, [&]<class S, class T>(S*, T*) {
    with_multimax<T>(ranges, ts, powers,
                     [&](const auto& kernel) { weigh<S>(scores, mask, kernel, weights, mutable_data<T>(statistics)); });
  });
  return {weights, statistics};
}

std::tuple<Tensor, Tensor, Tensor> multimax_backward(Tensor grad, Tensor scores, std::optional<Tensor> mask,
                                                     Tensor statistics, Tensor ranges, Tensor ts,
                                                     std::vector<int64_t> powers, std::optional<Tensor> weights) {
  scores = torch::stable::contiguous(scores);
  grad = torch::stable::contiguous(grad);
  statistics = torch::stable::contiguous(statistics);
  if (weights) weights = torch::stable::contiguous(*weights);
  Tensor by_scores = like(scores), by_ranges = like(ranges), by_ts = like(ts);
  by_type(scores, [&]<class S, class T>(S*, T*) {
    with_multimax<T>(ranges, ts, powers, [&](const auto& kernel) {
      const auto sums = differentiate(grad, data<S>(scores), mask, weights ? data<T>(*weights) : nullptr,
                                      data<T>(statistics), kernel, by_scores);
      set_multimax_gradients<T>(sums, powers, by_ranges, by_ts);
    });
  });
  return {by_scores, by_ranges, by_ts};
}

Tensor entmax_forward(Tensor scores, std::optional<Tensor> mask, double alpha) {
  scores = torch::stable::contiguous(scores);
  Tensor weights = like(scores);
  by_type(scores, [&]<class S, class T>(S*, T*) {
    weigh<S>(scores, mask, EntmaxKernel<T>({alpha}, false, row_length(scores)), weights, nullptr);
  });
  return weights;
}

Tensor entmax_backward(Tensor grad, Tensor weights, double alpha) {
  grad = torch::stable::contiguous(grad);
  weights = torch::stable::contiguous(weights);
  Tensor by_scores = like(weights);
  by_type(weights, [&]<class S, class T>(S*, T*) {
    const EntmaxKernel<T> kernel({alpha}, false, row_length(weights));
    differentiate<S>(grad, nullptr, std::nullopt, data<S>(weights), nullptr, kernel, by_scores);
  });
  return by_scores;
}

Tensor alpha_entmax_forward(Tensor scores, std::optional<Tensor> mask, Tensor alpha) {
  scores = torch::stable::contiguous(scores);
  Tensor weights = like(scores);
  by_type(scores, [&]<class S, class T>(S*, T*) {
    const EntmaxKernel<T> kernel(alphas_of<T>(alpha), true, row_length(scores));
    weigh<S>(scores, mask, kernel, weights, nullptr);
  });
  return weights;
}

std::tuple<Tensor, Tensor> alpha_entmax_backward(Tensor grad, Tensor weights, Tensor alpha) {
  grad = torch::stable::contiguous(grad);
  weights = torch::stable::contiguous(weights);
  Tensor by_scores = like(weights), by_alpha = like(alpha);
  by_type(weights, [&]<class S, class T>(S*, T*) {
    const EntmaxKernel<T> kernel(alphas_of<T>(alpha), true, row_length(weights));
    const auto sums = differentiate<S>(grad, nullptr, std::nullopt, data<S>(weights), nullptr, kernel, by_scores);
    set_alpha_gradients<T>(sums, by_alpha);
  });
  return {by_scores, by_alpha};
}

Tensor evsoftmax_forward(Tensor scores, std::optional<Tensor> mask, double epsilon) {
  scores = torch::stable::contiguous(scores);
  Tensor weights = like(scores);
  by_type(scores,
          [&]<class S, class T>(S*, T*) { weigh<S>(scores, mask, EvsoftmaxKernel<T>(epsilon), weights, nullptr); });
  return weights;
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
