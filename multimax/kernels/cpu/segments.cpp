// The operators of multimax/kernels/segments.py on the CPU. A thread takes some segments, with about as many scores as
// fit in the core's cache, and gathers each segment's entries in a buffer, one column of the scores after another.

#include <numeric>
#include <string>
#include <tuple>

#include "kernel_arguments.h"

namespace {

using namespace multimax;

constexpr int64_t kScoresOfPart = 16384;

// Where the segments' entries are, and the segments divided into parts, which depend only on the lengths.
struct Segments {
  std::vector<int64_t> begins, entries, parts{0};  // `entries` is empty if the segments are contiguous
  int64_t columns, longest = 0;

  Segments(const Tensor& scores, Tensor index, int64_t count) : begins(count + 1), columns(scores.size(1)) {
    check("index", index, ScalarType::Long, {scores.size(0)});
    index = torch::stable::contiguous(index);
    const int64_t n = scores.size(0);
    const int64_t* of_entry = data<int64_t>(index);
    bool in_order = true;
    for (int64_t i = 0; i < n; ++i) {
      STD_TORCH_CHECK(of_entry[i] >= 0 && of_entry[i] < count, "index must be from 0 to ", count - 1, ", got ",
                      of_entry[i]);
      in_order = in_order && (i == 0 || of_entry[i - 1] <= of_entry[i]);
      ++begins[of_entry[i] + 1];
    }
    for (int64_t s = 0; s < count; ++s) longest = std::max(longest, begins[s + 1]);
    std::partial_sum(begins.begin(), begins.end(), begins.begin());
    if (!in_order) {
      entries.resize(n);
      std::vector<int64_t> next(begins.begin(), begins.end() - 1);
      for (int64_t i = 0; i < n; ++i) entries[next[of_entry[i]]++] = i;
    }
    for (int64_t s = 0; s < count; ++s)
      if (s + 1 == count || (begins[s + 1] - begins[parts.back()]) * columns >= kScoresOfPart) parts.push_back(s + 1);
  }

  int64_t length(int64_t s) const { return begins[s + 1] - begins[s]; }
  int64_t place(int64_t i, int64_t column) const { return (entries.empty() ? i : entries[i]) * columns + column; }

  template <class T>
  void fetch(const T* from, int64_t s, int64_t column, T* row) const {
    for (int64_t i = begins[s]; i < begins[s + 1]; ++i) *row++ = from[place(i, column)];
  }

  template <class T>
  void deliver(const T* row, int64_t s, int64_t column, T* to) const {
    for (int64_t i = begins[s]; i < begins[s + 1]; ++i) to[place(i, column)] = *row++;
  }

  // Calls row(kernel, s, column, scratch) for each column of each segment, with the thread's kernel and a buffer of
  // four rows; returns the kernel's totals for each of its heads.
  template <class Kernel, class RowOf>
  std::vector<double> for_each_row(const Kernel& kernel, const RowOf& row) const {
    using T = typename Kernel::Number;
    const int64_t heads = kernel.heads(), count = parts.size() - 1, stride = whole_vectors<T>(longest);
    std::vector<double> totals(Kernel::kTotals * heads * count);
    torch::stable::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
      Kernel own = kernel;
      std::vector<T> scratch(4 * stride);
      for (int64_t part = first; part < last; ++part)
        for (int64_t column = 0; column < columns; ++column) {
          for (int64_t s = parts[part]; s < parts[part + 1]; ++s)
            if (length(s) > 0) row(own, s, column, [&](int64_t k) { return scratch.data() + k * stride; });
          const int64_t head = column % heads;
          own.collect(head, totals.data() + Kernel::kTotals * (part * heads + head));
        }
    });
    return sums_by_head(totals, Kernel::kTotals, heads, [&](int64_t i) { return i % heads; });
  }
};

void check_scores(const Tensor& scores, int64_t count) {
  STD_TORCH_CHECK(count >= 0, "count must not be negative, got ", count);
  STD_TORCH_CHECK(scores.is_cpu() && scores.dim() == 2 &&
                      (scores.scalar_type() == ScalarType::Float || scores.scalar_type() == ScalarType::Double),
                  "scores must be float32 or float64 [n, columns], on the CPU");
}

Tensor segment_forward(Tensor scores, Tensor index, int64_t count, std::optional<Tensor> first,
                       std::optional<Tensor> second, std::vector<int64_t> powers, double number, std::string kind) {
  const RowKernelArguments row_kernel{kind, first, second, powers, number};
  check_scores(scores, count);
  row_kernel.check_parameters(scores.size(1));
  scores = torch::stable::contiguous(scores);
  const Segments segments(scores, index, count);
  Tensor weights = torch::stable::new_empty(scores, scores.sizes());
  with_type(scores, [&]<class T>(T*) {
    row_kernel.with_kernel<T>(segments.longest, [&](const auto& kernel) {
      segments.for_each_row(kernel, [&](auto& own, int64_t s, int64_t column, const auto& scratch) {
        segments.fetch(data<T>(scores), s, column, scratch(0));
        own.forward({scratch(0)}, segments.length(s), column % own.heads(), {scratch(1)});
        segments.deliver(scratch(1), s, column, mutable_data<T>(weights));
      });
    });
  });
  return weights;
}

std::tuple<Tensor, Tensor, Tensor> segment_backward(Tensor grad, Tensor weights, Tensor scores, Tensor index,
                                                    int64_t count, std::optional<Tensor> first,
                                                    std::optional<Tensor> second, std::vector<int64_t> powers,
                                                    double number, std::string kind) {
  const RowKernelArguments row_kernel{kind, first, second, powers, number};
  check_scores(scores, count);
  row_kernel.check_parameters(scores.size(1));
  for (const auto& [name, t] : {std::pair("grad", grad), std::pair("weights", weights)})
    check(name, t, scores.scalar_type(), sizes_of(scores));
  scores = torch::stable::contiguous(scores);
  grad = torch::stable::contiguous(grad);
  weights = torch::stable::contiguous(weights);
  const Segments segments(scores, index, count);
  Tensor grad_scores = torch::stable::new_empty(scores, scores.sizes());
  const auto of_parameters = row_kernel.gradients(scores);
  with_type(scores, [&]<class T>(T*) {
    row_kernel.with_kernel<T>(segments.longest, [&](const auto& kernel) {
      const auto row = [&](auto& own, int64_t s, int64_t column, const auto& scratch) {
        segments.fetch(data<T>(scores), s, column, scratch(0));
        segments.fetch(data<T>(weights), s, column, scratch(1));
        segments.fetch(data<T>(grad), s, column, scratch(2));
        own.backward({scratch(0)}, {scratch(1)}, {scratch(2)}, segments.length(s), column % own.heads(), {scratch(3)});
        segments.deliver(scratch(3), s, column, mutable_data<T>(grad_scores));
      };
      row_kernel.set_gradients<T>(segments.for_each_row(kernel, row), of_parameters.first, of_parameters.second);
    });
  });
  return {grad_scores, of_parameters.first, of_parameters.second};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(multimax, CPU, library) {
  library.impl("segment_forward", TORCH_BOX(&segment_forward));
  library.impl("segment_backward", TORCH_BOX(&segment_backward));
}
