// The row operators of multimax/kernels/operators.py on the CPU; their contract is there.

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <tuple>

#include "tensors.h"

namespace {

using namespace multimax;

// Calls f with null pointers of the scores' type and of the compute type.
template <class F>
void with_types(const Tensor& scores, const F& f) {
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

// The shape of the statistics.
std::vector<int64_t> two_for_each_row(const Tensor& scores) {
  std::vector<int64_t> shape = sizes_of(scores);
  shape.insert(shape.begin(), 2);
  shape.pop_back();
  return shape;
}

int64_t row_length(const Tensor& scores) { return scores.size(scores.dim() - 1); }

int64_t heads_of(const Tensor& scores) { return scores.dim() > 2 ? scores.size(scores.dim() - 3) : 1; }

// The scores or weights of a call, contiguous.
Tensor checked(const char* name, const Tensor& t) {
  STD_TORCH_CHECK(t.is_cpu() && t.dim() > 0, name, " must have a last dimension, and be on the CPU");
  return torch::stable::contiguous(t);
}

Chunks chunks_of(const Tensor& scores, int64_t heads) {
  const int64_t n = row_length(scores), dims = scores.dim();
  return Chunks(n == 0 ? 0 : scores.numel() / n, n, heads == 1 ? 1 : scores.size(dims - 2), heads);
}

// Divides the chunks of contiguous scores among threads, each with a copy of `kernel`, and calls
// row(rows, r, head, live) for every row and after(rows, chunk, head) after every chunk.
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

// The weights and, unless `statistics` is null, those of all rows: every m, then every s.
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

// The gradient of the scores from that of the weights p or, if p is null, with weights recomputed from the statistics;
// returns kTotals sums for each head.
template <class S, class P, class Kernel>
std::vector<double> differentiate(const Tensor& grad, const S* scores, const std::optional<Tensor>& mask,
                                  const P* weights, const typename Kernel::Number* statistics, const Kernel& kernel,
                                  const Tensor& grad_scores) {
  const int64_t n = row_length(grad);
  const Chunks chunks = chunks_of(grad, kernel.heads());
  std::vector<double> totals(Kernel::kTotals * chunks.count());
  const S* g = data<S>(grad);
  S* dx = mutable_data<S>(grad_scores);
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
  scores = checked("scores", scores);
  check_heads("ranges", ranges, heads_of(scores));
  Tensor weights = like(scores);
  Tensor statistics = torch::stable::new_empty(scores, two_for_each_row(scores), compute_type(scores));
  with_types(scores, [&]<class S, class T>(S*, T*) {
    with_multimax<T>(ranges, ts, powers,
                     [&](const auto& kernel) { weigh<S>(scores, mask, kernel, weights, mutable_data<T>(statistics)); });
  });
  return {weights, statistics};
}

std::tuple<Tensor, Tensor, Tensor> multimax_backward(Tensor grad, Tensor scores, std::optional<Tensor> mask,
                                                     Tensor statistics, Tensor ranges, Tensor ts,
                                                     std::vector<int64_t> powers, std::optional<Tensor> weights) {
  scores = checked("scores", scores);
  check_heads("ranges", ranges, heads_of(scores));
  check("grad", grad, scores.scalar_type(), sizes_of(scores));
  check("statistics", statistics, compute_type(scores), two_for_each_row(scores));
  if (weights) check("weights", *weights, compute_type(scores), sizes_of(scores));
  grad = torch::stable::contiguous(grad);
  statistics = torch::stable::contiguous(statistics);
  if (weights) weights = torch::stable::contiguous(*weights);
  Tensor grad_scores = like(scores), grad_ranges = like(ranges), grad_ts = like(ts);
  with_types(scores, [&]<class S, class T>(S*, T*) {
    with_multimax<T>(ranges, ts, powers, [&](const auto& kernel) {
      const auto sums = differentiate(grad, data<S>(scores), mask, weights ? data<T>(*weights) : nullptr,
                                      data<T>(statistics), kernel, grad_scores);
      set_multimax_gradients<T>(sums, powers, grad_ranges, grad_ts);
    });
  });
  return {grad_scores, grad_ranges, grad_ts};
}

Tensor entmax_forward(Tensor scores, std::optional<Tensor> mask, double alpha) {
  scores = checked("scores", scores);
  Tensor weights = like(scores);
  with_types(scores, [&]<class S, class T>(S*, T*) {
    const EntmaxKernel<T> kernel({checked_alpha(alpha)}, false, row_length(scores));
    weigh<S>(scores, mask, kernel, weights, nullptr);
  });
  return weights;
}

Tensor entmax_backward(Tensor grad, Tensor weights, double alpha) {
  weights = checked("weights", weights);
  check("grad", grad, weights.scalar_type(), sizes_of(weights));
  grad = torch::stable::contiguous(grad);
  Tensor grad_scores = like(weights);
  with_types(weights, [&]<class S, class T>(S*, T*) {
    const EntmaxKernel<T> kernel({checked_alpha(alpha)}, false, row_length(weights));
    differentiate<S>(grad, nullptr, std::nullopt, data<S>(weights), nullptr, kernel, grad_scores);
  });
  return grad_scores;
}

Tensor alpha_entmax_forward(Tensor scores, std::optional<Tensor> mask, Tensor alpha) {
  scores = checked("scores", scores);
  check_heads("alpha", alpha, heads_of(scores));
  Tensor weights = like(scores);
  with_types(scores, [&]<class S, class T>(S*, T*) {
    const EntmaxKernel<T> kernel(alphas_of<T>(alpha), true, row_length(scores));
    weigh<S>(scores, mask, kernel, weights, nullptr);
  });
  return weights;
}

std::tuple<Tensor, Tensor> alpha_entmax_backward(Tensor grad, Tensor weights, Tensor alpha) {
  weights = checked("weights", weights);
  check_heads("alpha", alpha, heads_of(weights));
  check("grad", grad, weights.scalar_type(), sizes_of(weights));
  grad = torch::stable::contiguous(grad);
  Tensor grad_scores = like(weights), grad_alpha = like(alpha);
  with_types(weights, [&]<class S, class T>(S*, T*) {
    const EntmaxKernel<T> kernel(alphas_of<T>(alpha), true, row_length(weights));
    const auto sums = differentiate<S>(grad, nullptr, std::nullopt, data<S>(weights), nullptr, kernel, grad_scores);
    set_alpha_gradients<T>(sums, grad_alpha);
  });
  return {grad_scores, grad_alpha};
}

Tensor evsoftmax_forward(Tensor scores, std::optional<Tensor> mask, double epsilon) {
  scores = checked("scores", scores);
  Tensor weights = like(scores);
  with_types(scores,
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
