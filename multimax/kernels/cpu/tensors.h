// What the operators share: torch's tensors in the form that the row kernels take. It uses torch's stable ABI: built
// once, the library works with every torch from TORCH_TARGET_VERSION on.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <string>

#include "row_kernels.h"

namespace multimax {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class S>
const S* data(const Tensor& t) {
  return static_cast<const S*>(t.data_ptr());
}

template <class S>
S* mutable_data(const Tensor& t) {
  return static_cast<S*>(t.data_ptr());
}

template <class T>
constexpr ScalarType type_of = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;

inline std::vector<int64_t> sizes_of(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

inline std::string text(const std::vector<int64_t>& shape) {
  std::string listed;
  for (int64_t size : shape) listed += (listed.empty() ? "" : ", ") + std::to_string(size);
  return "[" + listed + "]";
}

// Raises, in one line, unless t is a CPU tensor of this dtype and shape.
inline void check(const char* name, const Tensor& t, ScalarType type, const std::vector<int64_t>& shape) {
  using torch::headeronly::toString;
  STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == type && sizes_of(t) == shape, name, " must be ", toString(type), " ",
                  text(shape), " on the CPU, got ", toString(t.scalar_type()), " ", text(sizes_of(t)));
}

// The mask for scores of these sizes, with a dense last dimension; `held` owns its memory.
inline RowMask row_mask(const std::optional<Tensor>& mask, const std::vector<int64_t>& sizes,
                        std::optional<Tensor>& held) {
  RowMask rows;
  if (!mask) return rows;
  const int64_t last = static_cast<int64_t>(sizes.size()) - 1;
  std::vector<int64_t> shape = sizes_of(*mask);
  if (shape.size() == sizes.size())
    for (int64_t k = 0; k <= last; ++k)
      if (shape[k] == 1) shape[k] = sizes[k];
  STD_TORCH_CHECK(shape == sizes, "mask must broadcast to the scores, with as many dimensions: got ",
                  text(sizes_of(*mask)), " for ", text(sizes));
  check("mask", *mask, ScalarType::Bool, sizes_of(*mask));
  STD_TORCH_CHECK(sizes[last] <= std::numeric_limits<uint32_t>::max(), "masked rows must be shorter than 2^32");
  for (int64_t size : sizes)
    if (size == 0) return rows;
  const bool dense = mask->size(last) == 1 || mask->stride(last) == 0 || mask->stride(last) == 1;
  held = dense ? *mask : torch::stable::contiguous(*mask);
  rows.data = data<bool>(*held);
  rows.last_stride = held->size(last) == 1 ? 0 : held->stride(last);
  for (int64_t k = 0; k < last; ++k) {
    rows.sizes.push_back(sizes[k]);
    rows.strides.push_back(held->size(k) == 1 ? 0 : held->stride(k));
  }
  return rows;
}

// Raises unless the parameters are for one head or for all `heads`.
inline void check_heads(const char* name, const Tensor& parameters, int64_t heads) {
  const int64_t found = parameters.dim() == 0 ? 0 : parameters.size(0);
  STD_TORCH_CHECK(found == 1 || found == heads, name, " must be of 1 head or of ", heads, ", got ", found);
}

// Calls f with MultiMax's kernel for ranges and ts [heads, k] of T and the hinges' powers.
template <class T, class F>
void with_multimax(Tensor ranges, Tensor ts, const std::vector<int64_t>& powers, const F& f) {
  using Powers = std::vector<int64_t>;
  STD_TORCH_CHECK(powers == Powers({1, 1}) || powers == Powers({2, 2}) || powers == Powers({1, 1, 2, 2}),
                  "powers must be [1, 1], [2, 2] or [1, 1, 2, 2], got ", text(powers));
  const int64_t heads = ranges.dim() == 0 ? 1 : ranges.size(0);
  for (const auto& [name, parameter] : {std::pair("ranges", ranges), std::pair("ts", ts)})
    check(name, parameter, type_of<T>, {heads, static_cast<int64_t>(powers.size())});
  ranges = torch::stable::contiguous(ranges);
  ts = torch::stable::contiguous(ts);
  const bool first = powers[0] == 1, second = powers.back() == 2;
  const int64_t k = ranges.size(1);
  std::vector<SegluParameters<T>> of_heads(ranges.size(0));
  for (size_t head = 0; head < of_heads.size(); ++head) {
    auto& of_head = of_heads[head];
    for (int64_t i = 0; i < k; ++i) {
      of_head.ranges[first ? i : i + 2] = data<T>(ranges)[head * k + i];
      of_head.ts[first ? i : i + 2] = data<T>(ts)[head * k + i];
    }
    of_head.near = nearness(of_head);
  }
  if (first && second)
    f(MultimaxKernel<T, true, true>(of_heads));
  else if (first)
    f(MultimaxKernel<T, true, false>(of_heads));
  else
    f(MultimaxKernel<T, false, true>(of_heads));
}

// NaN is allowed and gives NaN weights.
inline double checked_alpha(double alpha) {
  STD_TORCH_CHECK(!(alpha < 1 || alpha > 2), "alpha must be from 1 to 2, got ", alpha);
  return alpha;
}

// Alpha [heads] as numbers.
template <class T>
std::vector<double> alphas_of(const Tensor& alpha) {
  check("alpha", alpha, type_of<T>, {alpha.numel()});
  const Tensor dense = torch::stable::contiguous(alpha);
  std::vector<double> alphas(data<T>(dense), data<T>(dense) + dense.numel());
  for (double alpha : alphas) checked_alpha(alpha);
  return alphas;
}

// The k totals of each unit of work, summed per head.
template <class HeadOf>
std::vector<double> sums_by_head(const std::vector<double>& totals, int k, int64_t heads, const HeadOf& head_of) {
  std::vector<double> sums(k * heads);
  for (size_t i = 0; i < totals.size(); ++i) sums[head_of(i / k) * k + i % k] += totals[i];
  return sums;
}

// Gradients of ranges and ts from the totals of MultiMax's kernel for each head.
template <class T>
void set_multimax_gradients(const std::vector<double>& sums, const std::vector<int64_t>& powers,
                            const Tensor& grad_ranges, const Tensor& grad_ts) {
  const int64_t offset = powers[0] == 1 ? 0 : 2, k = grad_ranges.size(1);
  for (int64_t i = 0; i < grad_ranges.numel(); ++i) {
    const double* of_head = &sums[i / k * 8];
    mutable_data<T>(grad_ranges)[i] = static_cast<T>(of_head[offset + i % k]);
    mutable_data<T>(grad_ts)[i] = static_cast<T>(of_head[4 + offset + i % k]);
  }
}

template <class T>
void set_alpha_gradients(const std::vector<double>& sums, const Tensor& grad_alpha) {
  std::copy(sums.begin(), sums.end(), mutable_data<T>(grad_alpha));
}

}  // namespace multimax
