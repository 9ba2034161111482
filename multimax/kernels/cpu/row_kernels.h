// One interface for all functions, through which a thread weighs rows and differentiates the weights.
//
//   heads()                                   the heads of its parameters: 1, or those of the scores
//   forward(x, n, head, p)                    the weights p of the n > 0 scores x of a head
//   backward(x, p, g, n, head, dx)            the gradient dx of the scores from g, that of the weights
//   backward_anew(x, g, n, head, row, p, dx)  the same with the weights recomputed, into p; dx may be g
//   collect(head, totals)                     adds the gradients of its parameters from the rows since the last call to
//                                             the kTotals totals of a head
// `row` is the result of the forward. Only MultiMax, whose normaliser has a closed form, uses it, and only there may p
// and dx be the same.

#pragma once

#include <utility>
#include <vector>

#include "entmax_rows.h"
#include "multimax_rows.h"
#include "rows.h"

namespace multimax {

// The m and s of multimax_rows.h; zero for a row without a live entry.
template <class T>
struct Statistics {
  T m = 0, s = 0;
};

template <class T, bool first, bool second>
class MultimaxKernel {
 public:
  using Number = T;
  static constexpr int kTotals = 8;  // for the ranges and ts of SegluParameters

  explicit MultimaxKernel(std::vector<SegluParameters<T>> of_heads) : of_heads_(std::move(of_heads)) {}

  int64_t heads() const { return of_heads_.size(); }

  Statistics<T> forward(Row<const T> x, int64_t n, int64_t head, Row<T> p) {
    Statistics<T> row;
    multimax_forward_row<T, first, second>(x, n, of_heads_[head], p, row.m, row.s);
    return row;
  }

  void backward(Row<const T> x, Row<const T> p, Row<const T> g, int64_t n, int64_t head, Row<T> dx) {
    multimax_backward_row<T, first, second>(x, p, g, n, of_heads_[head], dx, sums_);
  }

  void backward_anew(Row<const T> x, Row<const T> g, int64_t n, int64_t head, const Statistics<T>& row, Row<T> p,
                     Row<T> dx) {
    multimax_backward_row_anew<T, first, second>(x, g, n, of_heads_[head], row.m, row.s, p, dx, sums_);
  }

  void collect(int64_t head, double* totals) { multimax::collect(sums_, of_heads_[head], totals); }

 private:
  std::vector<SegluParameters<T>> of_heads_;
  SegluSums<T> sums_;
};

// Alpha-entmax, with one alpha for all heads or one for each. A learned alpha needs the general form, since the others
// have no gradient for it.
template <class T>
class EntmaxKernel {
 public:
  using Number = T;
  static constexpr int kTotals = 1;  // for alpha

  EntmaxKernel(std::vector<double> alphas, bool is_learned, int64_t n)
      : alphas_(std::move(alphas)), is_learned_(is_learned), scratch_(3 * whole_vectors<T>(n)) {}

  int64_t heads() const { return alphas_.size(); }

  Statistics<T> forward(Row<const T> x, int64_t n, int64_t head, Row<T> p) {
    const double alpha = alphas_[head];
    if (alpha == 2 && !is_learned_)
      entmax_forward_row(x, n, SparsemaxForm<T>{}, scratch_.data(), p);
    else if (alpha == 1.5 && !is_learned_)
      entmax_forward_row(x, n, Entmax15Form<T>{}, scratch_.data(), p);
    else
      entmax_forward_row(x, n, AlphaEntmaxForm<T>(distance_from_one(alpha)), scratch_.data(), p);
    return {};
  }

  void backward(Row<const T>, Row<const T> p, Row<const T> g, int64_t n, int64_t head, Row<T> dx) {
    const double alpha = alphas_[head];
    if (alpha == 2 && !is_learned_)
      entmax_backward_row(p, g, n, SparsemaxSlope<T>{}, dx);
    else if (alpha == 1.5 && !is_learned_)
      entmax_backward_row(p, g, n, Entmax15Slope<T>{}, dx);
    else if (alpha == 1 && !is_learned_)
      entmax_backward_row(p, g, n, SoftmaxSlope<T>{}, dx);
    else
      grad_alpha_ -= alpha_entmax_backward_row(p, g, n, distance_from_one(alpha), scratch_.data(), dx);
  }

  void backward_anew(Row<const T> x, Row<const T> g, int64_t n, int64_t head, const Statistics<T>&, Row<T> p,
                     Row<T> dx) {
    forward(x, n, head, p);
    backward(x, {p.data}, g, n, head, dx);
  }

  void collect(int64_t, double* totals) { totals[0] += std::exchange(grad_alpha_, 0); }

 private:
  // Kept above 0, as in the eager form, where the formula approaches its limit.
  static T distance_from_one(double alpha) { return static_cast<T>(std::min(std::max(alpha - 1, 1e-20), 1.0)); }

  std::vector<double> alphas_;
  bool is_learned_;
  std::vector<T> scratch_;
  double grad_alpha_ = 0;
};

template <class T>
class EvsoftmaxKernel {
 public:
  using Number = T;
  static constexpr int kTotals = 0;

  explicit EvsoftmaxKernel(double epsilon) : rest_(static_cast<T>(epsilon / (1 + epsilon))) {}

  int64_t heads() const { return 1; }

  Statistics<T> forward(Row<const T> x, int64_t n, int64_t, Row<T> p) {
    evsoftmax_forward_row(x, n, rest_, p);
    return {};
  }

  void backward(Row<const T>, Row<const T> p, Row<const T> g, int64_t n, int64_t, Row<T> dx) {
    entmax_backward_row(p, g, n, SoftmaxSlope<T>{}, dx);
  }

  void backward_anew(Row<const T> x, Row<const T> g, int64_t n, int64_t head, const Statistics<T>&, Row<T> p,
                     Row<T> dx) {
    forward(x, n, head, p);
    backward(x, {p.data}, g, n, head, dx);
  }

  void collect(int64_t, double*) {}

 private:
  T rest_;
};

// A kernel on the rows of tensors, which are masked and have a type S that may differ from the compute type. Dead
// entries get zero.
template <class S, class Kernel>
class TensorRows {
  using T = typename Kernel::Number;

 public:
  TensorRows(Kernel kernel, int64_t n) : kernel(std::move(kernel)), of_x_(n), of_p_(n), of_g_(n), of_dx_(n) {}

  Kernel kernel;

  Statistics<T> forward(const S* x, int64_t n, int64_t head, const Live& live, S* p) {
    Statistics<T> row;
    const Row<T> out = of_p_.destination(p, live);
    if (live.count > 0) row = kernel.forward(of_x_.fetch(x, live), live.count, head, out);
    deliver(out, live, n, p);
    return row;
  }

  template <class P>
  void backward(const S* x, const P* p, const S* g, int64_t n, int64_t head, const Live& live, S* dx) {
    const Row<T> out = of_dx_.destination(dx, live);
    if (live.count > 0)
      kernel.backward(x ? of_x_.fetch(x, live) : Row<const T>{}, of_p_.fetch(p, live), of_g_.fetch(g, live), live.count,
                      head, out);
    deliver(out, live, n, dx);
  }

  void backward_anew(const S* x, const S* g, int64_t n, int64_t head, const Live& live, const Statistics<T>& row, S* p,
                     S* dx) {
    const Row<T> out = of_dx_.destination(dx, live), weights = p == dx ? out : of_p_.destination(p, live);
    if (live.count > 0)
      kernel.backward_anew(of_x_.fetch(x, live), of_g_.fetch(g, live), live.count, head, row, weights, out);
    if (p != dx) deliver(weights, live, n, p);
    deliver(out, live, n, dx);
  }

 private:
  Scratch<T> of_x_, of_p_, of_g_, of_dx_;
};

}  // namespace multimax
