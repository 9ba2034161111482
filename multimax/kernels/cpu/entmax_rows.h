// Sparsemax, 1.5-entmax and alpha-entmax of one row, and their gradients; ev-softmax of one row.

#pragma once

#include <algorithm>
#include <cmath>

#include "row_loops.h"

namespace multimax {

constexpr int kMaxSteps = 32;  // of Newton's method; up to 14 were needed

// A Newton step this small is the last, since each step squares the error.
template <class T>
INLINE T nearly() {
  return std::sqrt(std::numeric_limits<T>::epsilon()) / 4;
}

// The largest score, or NaN if the row has no finite score or a NaN.
template <class T>
INLINE T finite_max(Row<const T> x, int64_t n) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  Vec<T> top = splat(none);
  Mask<T> is_nan{};
  each<T>(n, [&](auto at) INLINED {
    Vec<T> v = x[at];
    is_nan |= v != v;
    top = max(padded(at, v, none), top);
  });
  T largest = horizontal_max<T>(top);
  return any<T>(is_nan) || std::isinf(largest) ? std::numeric_limits<T>::quiet_NaN() : largest;
}

// (x - largest) * form.scale for the vector at a place, and its candidates: the lanes where that is above form.bound.
template <class T, class Place, class Form>
INLINE Lanes<T> candidates_at(Row<const T> x, Place at, T largest, const Form& form, Vec<T>& z) {
  z = padded(at, (x[at] - largest) * form.scale, -std::numeric_limits<T>::infinity());
  return Lanes<T>::above(z, form.bound);
}

// Writes the candidates to z, padded with -infinity, which every form weighs as zero; returns their number and the
// result of form.measure() for all z at form.start.
template <class T, class Form>
INLINE int64_t candidates(Row<const T> x, int64_t n, T largest, const Form& form, T* z, T (&totals)[2]) {
  int64_t kept = 0;
  const Vec<T> start = splat(form.start);
  add_up(n, totals, [&](auto at, auto& sums) INLINED {
    Vec<T> v;
    const Lanes<T> chosen = candidates_at(x, at, largest, form, v);
    kept += compress(chosen, v, z + kept);
    form.measure(v, start, sums);
  });
  pad(z, kept, -std::numeric_limits<T>::infinity());
  return kept;
}

// Each form has the scale and bound of the candidates z, the weights as a function of z and the normaliser a, and
// Newton's method for the a at which their total is one, until the remaining error is below rounding. That total, or a
// power of it, is convex and increasing in a: from any start, the first step leads to the root or above it, and the
// others down to it. The sums at the start are computed along with the candidates.

// p = relu(z + a), z = x - max x, a the largest weight.
template <class T>
struct SparsemaxForm {
  static constexpr T scale = 1, bound = -1, start = T(0.5);

  INLINE auto weights(T a) const {
    return [a = splat(a)](Vec<T> z) INLINED { return max(z + a, Vec<T>{}); };
  }

  INLINE void measure(Vec<T> z, Vec<T> a, Vec<T> (&sums)[2]) const {
    const Vec<T> p = max(z + a, Vec<T>{}), one = splat<T>(1);
    sums[0] += p;
    sums[1] += p > Vec<T>{} ? one : Vec<T>{};
  }

  T solve(const T* z, int64_t end, T (&totals)[2]) const {
    T a = start, support = 0;
    for (int step = 0; step < kMaxSteps; ++step) {
      const T next = a - (totals[0] - 1) / totals[1];
      // If the support is the same, the step before was exact.
      if (totals[1] == support || (step > 0 && !(next < a))) break;
      support = totals[1];
      a = next;
      const Vec<T> offset = splat(a);
      add_up(end, totals, [&](auto at, auto& sums) INLINED { measure(load(z + at.i), offset, sums); });
    }
    return a;
  }
};

// p = relu(y + a)^2, y = (x - max x) / 2; Newton's method on the Euclidean norm of relu(y + a), less 1.
template <class T>
struct Entmax15Form {
  static constexpr T scale = T(0.5), bound = -1, start = T(0.6);

  INLINE auto weights(T a) const {
    return [a = splat(a)](Vec<T> y) INLINED {
      const Vec<T> root = max(y + a, Vec<T>{});
      return root * root;
    };
  }

  INLINE void measure(Vec<T> y, Vec<T> a, Vec<T> (&sums)[2]) const {
    const Vec<T> root = max(y + a, Vec<T>{});
    sums[0] += root * root;
    sums[1] += root;
  }

  static T step(const T (&totals)[2]) { return (totals[0] - std::sqrt(totals[0])) / totals[1]; }

  T solve(const T* y, int64_t end, T (&totals)[2]) const {
    T a = start;
    for (int k = 0; k < kMaxSteps; ++k) {
      const T next = a - step(totals);
      if (k > 0 && !(next < a)) break;
      const bool last = std::abs(a - next) < nearly<T>() * a;
      a = next;
      if (last) break;
      const Vec<T> offset = splat(a);
      add_up(end, totals, [&](auto at, auto& sums) INLINED { measure(load(y + at.i), offset, sums); });
    }
    return a;
  }
};

// p = exp(m + log1p(d z / e^(d m)) / d), z = x - max x, d = alpha - 1, m the logarithm of the largest weight, which
// works down to the limit d = 0. Newton's method on the (1/d)-norm of relu(d z + e^(d m)), less 1, starting from the
// result of one step for 1.5-entmax.
template <class T>
struct AlphaEntmaxForm {
  T d, inverse, bound;
  static constexpr T scale = 1, start = Entmax15Form<T>::start;

  explicit AlphaEntmaxForm(T d) : d(d), inverse(1 / d), bound(-1 / d) {}

  // The weight, and its base u = d z / e^(d m) + 1.
  INLINE Vec<T> weight(Vec<T> z, Vec<T> m, T shrunk, Vec<T>& base) const {
    Vec<T> w = z * shrunk;
    base = w + T(1);
    // log1p: the rounding error of the base is added to its logarithm.
    Vec<T> l = logarithm<T>(base) + (w - (base - T(1))) * (T(2) - base);
    Vec<T> p = exponential<T>(m + l * inverse);
    return base > Vec<T>{} ? p : Vec<T>{};
  }

  INLINE auto weights(T m) const {
    return [*this, m = splat(m), factor = shrunk(m)](Vec<T> z) INLINED {
      Vec<T> base;
      return weight(z, m, factor, base);
    };
  }

  INLINE void measure(Vec<T> z, Vec<T> a, Vec<T> (&sums)[2]) const {
    Entmax15Form<T>{}.measure(z * T(0.5), a, sums);
  }

  T shrunk(T m) const { return d / std::exp(d * m); }

  T solve(const T* z, int64_t end, T (&totals)[2]) const {
    T m = 2 * std::log(std::min(start - Entmax15Form<T>::step(totals), T(1)));
    for (int step = 0; step < kMaxSteps; ++step) {
      const Vec<T> offset = splat(m);
      const T factor = shrunk(m);
      add_up(end, totals, [&](auto at, auto& sums) INLINED {
        Vec<T> base, p = weight(load(z + at.i), offset, factor, base);
        sums[0] += p;
        sums[1] += p > Vec<T>{} ? p / base : Vec<T>{};
      });
      // totals[1] is e^(d m) sum p^(1 - d).
      T share = -totals[0] * std::expm1(-d * std::log(totals[0])) / totals[1];
      T next = m + std::log1p(-share) / d;
      if (step > 0 && !(next < m)) break;
      const bool last = std::abs(m - next) < nearly<T>();
      m = std::min(next, T(0));
      if (last) break;
    }
    return m;
  }
};

// Weights of the n scores x into p; z is scratch.
template <class T, class Form>
void entmax_forward_row(Row<const T> x, int64_t n, const Form& form, T* z, Row<T> p) {
  const T largest = finite_max(x, n);
  if (std::isnan(largest)) return std::fill(p.data, p.data + n, largest);
  T totals[2], total[1];
  const int64_t kept = whole_vectors<T>(candidates(x, n, largest, form, z, totals));
  const auto weigh = form.weights(form.solve(z, kept, totals));
  add_up(kept, total, [&](auto at, auto& sums) INLINED {
    const Vec<T> weight = weigh(load(z + at.i));
    store(z + at.i, weight);
    sums[0] += weight;
  });
  // With many entries, one unit in the last place of the normaliser would show in the sum.
  const Vec<T> scale = splat(1 / total[0]);
  const T* weight = z;
  each<T>(n, [&](auto at) INLINED {
    Vec<T> unused;
    p.set(at, expand(candidates_at(x, at, largest, form, unused), weight) * scale);
  });
}

// dx_i = s_i (g_i - sum_j s_j g_j / sum_j s_j), with s the slopes of the weights p given by `slope`.
template <class T, class Slope>
INLINE void entmax_backward_row(Row<const T> p, Row<const T> g, int64_t n, const Slope& slope, Row<T> dx) {
  T totals[2];
  add_up(n, totals, [&](auto at, auto& sums) INLINED {
    Vec<T> s = slope(p[at]);
    sums[0] += s;
    sums[1] += s * g[at];
  });
  const Vec<T> mean = splat(totals[0] == 0 ? T(0) : totals[1] / totals[0]);
  each<T>(n, [&](auto at) INLINED { dx.set(at, slope(p[at]) * (g[at] - mean)); });
}

// The slope of softmax (alpha = 1), which is also ev-softmax's.
template <class T>
struct SoftmaxSlope {
  INLINE Vec<T> operator()(Vec<T> p) const { return p; }
};

template <class T>
struct SparsemaxSlope {
  INLINE Vec<T> operator()(Vec<T> p) const { return p > Vec<T>{} ? splat<T>(1) : p; }  // NaN stays NaN
};

template <class T>
struct Entmax15Slope {
  INLINE Vec<T> operator()(Vec<T> p) const {
    Vec<T> root;
    for (int64_t i = 0; i < kLanes<T>; ++i) root[i] = std::sqrt(p[i]);
    return root;
  }
};

// psi = (1 - e^x (1 - x)) / d^2 with x = d log p = d l and e^x given.
template <class T>
INLINE Vec<T> psi(Vec<T> l, Vec<T> x, Vec<T> exp_x) {
  constexpr int last = std::is_same_v<T, float> ? 11 : 19;
  T coefficients[last + 1], factorial = 1;  // of sum_k>=2 (k - 1) / k! x^(k - 2)
  for (int k = 2; k <= last; ++k) factorial *= k, coefficients[k] = (k - 1) / factorial;
  Vec<T> series{};
#pragma GCC unroll 20
  for (int k = last; k > 1; --k) series = series * x + coefficients[k];
  Vec<T> closed = (T(1) - exp_x * (T(1) - x)) / (x * x);
  return l * l * (x > T(-0.5) ? series : closed);
}

// dx at alpha = 1 + d as in `entmax_backward_row`, and sum psi_i dx_i, which is minus the gradient of alpha. Uses three
// rows of the scratch memory.
template <class T>
T alpha_entmax_backward_row(Row<const T> p, Row<const T> g, int64_t n, T d, T* scratch, Row<T> dx) {
  T *slopes = scratch, *grads = slopes + whole_vectors<T>(n), *psis = grads + whole_vectors<T>(n);
  int64_t count = 0;
  each<T>(n, [&](auto at) INLINED {
    const Vec<T> weight = p[at];
    const auto chosen = Lanes<T>::not_zero(weight);
    compress(chosen, g[at], grads + count);
    count += compress(chosen, weight, slopes + count);
  });
  const int64_t kept = whole_vectors<T>(count);
  for (T* row : {slopes, grads}) pad(row, count, T(0));
  T totals[2];
  add_up(kept, totals, [&](auto at, auto& sums) INLINED {
    const Vec<T> weight = load(slopes + at.i), one = splat<T>(1);
    const Vec<T> l = logarithm<T>(weight > Vec<T>{} ? weight : one), exp_x = exponential<T>(l * d);
    const Vec<T> s = weight / exp_x;
    store(slopes + at.i, s);
    store(psis + at.i, psi<T>(l, l * d, exp_x));
    sums[0] += s;
    sums[1] += s * load(grads + at.i);
  });
  const Vec<T> mean = splat(totals[0] == 0 ? T(0) : totals[1] / totals[0]);
  T of_alpha[1];
  add_up(kept, of_alpha, [&](auto at, auto& sums) INLINED {
    const Vec<T> slope = load(slopes + at.i) * (load(grads + at.i) - mean);
    store(slopes + at.i, slope);
    sums[0] += load(psis + at.i) * slope;
  });
  const T* slope = slopes;
  each<T>(n, [&](auto at) INLINED { dx.set(at, expand(Lanes<T>::not_zero(p[at]), slope)); });
  return of_alpha[0];
}

// Softmax of the n scores x into p, with the exponentials of those below the mean multiplied by `rest`.
template <class T>
void evsoftmax_forward_row(Row<const T> x, int64_t n, T rest, Row<T> p) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  Vec<T> top = splat(none);
  each<T>(n, [&](auto at) INLINED { top = max(padded(at, x[at], none), top); });
  const Vec<T> largest = splat(horizontal_max<T>(top));
  // Relative to the maximum, all terms have the same sign, so nothing cancels in the mean.
  Mask<T> dead{};
  T sum[1], total[1];
  add_up(n, sum, [&](auto at, auto& sums) INLINED {
    Vec<T> v = padded(at, x[at], none);
    sums[0] += v == none ? Vec<T>{} : v - largest;
    dead -= v == none;
  });
  int64_t live = whole_vectors<T>(n);
  for (int64_t i = 0; i < kLanes<T>; ++i) live -= dead[i];
  // An entry at the mean is kept however the mean is rounded.
  const Vec<T> mean = splat(sum[0] / live * (1 + 8 * std::numeric_limits<T>::epsilon()));
  add_up(n, total, [&](auto at, auto& sums) INLINED {
    Vec<T> v = x[at] - largest, e = exponential<T>(v);
    e = v >= mean ? e : e * rest;
    p.set(at, e);
    sums[0] += padded(at, e, T(0));
  });
  const Vec<T> scale = splat(1 / total[0]);
  each<T>(n, [&](auto at) INLINED { p.set(at, p[at] * scale); });
}

}  // namespace multimax
