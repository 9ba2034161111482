// A row kernel's description, for operators that take every kind.

#pragma once

#include "tensors.h"

namespace multimax {
namespace {  // like torch's tensors, not visible outside the library

// Calls f with a null pointer to the compute type.
template <class F>
void with_type(const Tensor& query, const F& f) {
  if (query.scalar_type() == ScalarType::Double) return f((double*)nullptr);
  f((float*)nullptr);
}

// As KernelArguments in kernels/attention.py.
struct RowKernelArguments {
  std::string kind;
  std::optional<Tensor> first, second;
  std::vector<int64_t> powers;
  double number;

  void check_parameters(int64_t heads) const {
    STD_TORCH_CHECK(kind == "multimax" || kind == "alpha_entmax" || kind == "entmax" || kind == "evsoftmax",
                    "kind must be multimax, alpha_entmax, entmax or evsoftmax, got ", kind);
    STD_TORCH_CHECK(first.has_value() == (kind == "multimax" || kind == "alpha_entmax") &&
                        second.has_value() == (kind == "multimax"),
                    "multimax takes two tensors, alpha_entmax one, the others none");
    if (first) check_heads("first", *first, heads);
  }

  template <class T, class F>
  void with_kernel(int64_t keys, const F& f) const {
    if (kind == "multimax")
      with_multimax<T>(*first, *second, powers, f);
    else if (kind == "alpha_entmax")
      f(EntmaxKernel<T>(alphas_of<T>(*first), true, keys));
    else if (kind == "entmax")
      f(EntmaxKernel<T>({checked_alpha(number)}, false, keys));
    else
      f(EvsoftmaxKernel<T>(number));
  }

  // Memory for the gradients of first and second, empty if there are none.
  std::pair<Tensor, Tensor> gradients(const Tensor& scores) const {
    auto like = [&](const std::optional<Tensor>& parameter) {
      return parameter ? torch::stable::new_empty(*parameter, parameter->sizes())
                       : torch::stable::new_empty(scores, {0});
    };
    return {like(first), like(second)};
  }

  // Sets the gradients from the kernel's totals for each head.
  template <class T>
  void set_gradients(const std::vector<double>& sums, const Tensor& grad_first, const Tensor& grad_second) const {
    if (second)
      set_multimax_gradients<T>(sums, powers, grad_first, grad_second);
    else if (first)
      set_alpha_gradients<T>(sums, grad_first);
  }
};

}  // namespace
}  // namespace multimax
