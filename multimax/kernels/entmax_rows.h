// Sparsemax, 1.5-entmax and alpha-entmax of one row, and their gradients; ev-softmax of one row.
//
// A row is n live scores; its padding to whole vectors is -infinity in scores and zero in weights and gradients.

#pragma once

#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace multimax {

constexpr int kMaxSteps = 32;  // of Newton's method; up to 14 were seen

// The largest score, or NaN where the row has none that is finite or has a NaN in it.
template <class T>
INLINE T finite_max(const T* x, int64_t end) {
  Vec<T> top = splat<T>(-std::numeric_limits<T>::infinity());
  Mask<T> is_nan{};
  for (int64_t i = 0; i < end; i += kLanes<T>) {
    Vec<T> v = load(x + i);
    is_nan |= v != v;
    top = max(v, top);
  }
  T largest = horizontal_max<T>(top);
  return any<T>(is_nan) || std::isinf(largest) ? std::numeric_limits<T>::quiet_NaN() : largest;
}

// z = (x - largest) * scale of the vectors that have an entry above `bound`, one after the other; returns their extent.
template <class T>
INLINE int64_t candidates(const T* x, int64_t end, T largest, T scale, T bound, T* z) {
  int64_t kept = 0;
  for (int64_t i = 0; i < end; i += kLanes<T>) {
    Vec<T> v = (load(x + i) - largest) * scale;
    store(z + kept, v);
    kept += any<T>(v > bound) ? kLanes<T> : 0;
  }
  return kept;
}

// Each form: the scale and bound of the candidates z, the weight of an entry at the normaliser a, and a step down to the
// root of its total, which is convex and increasing in a; a first is above the root. `step` also gives the total at a.

// p = relu(z + a), z = x - max x, a the largest weight.
template <class T>
struct SparsemaxForm {
  static constexpr T scale = 1, bound = -1, start = 1;

  INLINE Vec<T> weight(Vec<T> z, Vec<T> a) const { return max(z + a, Vec<T>{}); }

  T solve(const T* z, int64_t end, T& total) const {
    T a = start;
    int64_t support = -1;
    for (int step = 0;; ++step) {
      Mask<T> count{};
      const Vec<T> offset = splat(a);
      T totals[1];
      add_up(end, totals, [&](int64_t i, auto& sums) INLINED {
        Vec<T> p = weight(load(z + i), offset);
        sums[0] += p;
        count -= p > Vec<T>{};  // true is -1
      });
      int64_t positive = 0;
      for (int64_t i = 0; i < kLanes<T>; ++i) positive += count[i];
      total = totals[0];
      T next = a - (total - 1) / positive;
      // On the same support the step before was exact.
      if (positive == support || !(next < a) || step == kMaxSteps) return a;
      support = positive;
      a = next;
    }
  }
};

// p = relu(y + a)^2, y = (x - max x) / 2; Newton on the Euclidean norm of relu(y + a), less 1.
template <class T>
struct Entmax15Form {
  static constexpr T scale = T(0.5), bound = -1, start = 1;

  INLINE Vec<T> weight(Vec<T> y, Vec<T> a) const {
    Vec<T> root = max(y + a, Vec<T>{});
    return root * root;
  }

  T solve(const T* y, int64_t end, T& total) const {
    const T nearly = std::sqrt(std::numeric_limits<T>::epsilon()) / 4;
    T a = start;
    bool last = false;
    for (int step = 0;; ++step) {
      const Vec<T> offset = splat(a);
      T totals[2];
      add_up(end, totals, [&](int64_t i, auto& sums) INLINED {
        Vec<T> root = max(load(y + i) + offset, Vec<T>{});
        sums[0] += root * root;
        sums[1] += root;
      });
      total = totals[0];
      T next = a - (total - std::sqrt(total)) / totals[1];
      if (last || !(next < a) || step == kMaxSteps) return a;
      last = a - next < nearly * a;  // the error is squared with each step
      a = next;
    }
  }
};

// p = exp(m + log1p(d z / e^(d m)) / d), z = x - max x, d = alpha - 1, m the logarithm of the largest weight: sound down
// to the limit d = 0. Newton on the (1/d)-norm of relu(d z + e^(d m)), less 1.
template <class T>
struct AlphaEntmaxForm {
  T d, inverse, bound;
  static constexpr T scale = 1, start = 0;

  explicit AlphaEntmaxForm(T d) : d(d), inverse(1 / d), bound(-1 / d) {}

  // The weight, and its base u = d z / e^(d m) + 1.
  INLINE Vec<T> weight(Vec<T> z, Vec<T> m, T shrunk, Vec<T>& base) const {
    Vec<T> w = z * shrunk;
    base = w + T(1);
    // log1p: what rounding took from the base is added to its logarithm.
    Vec<T> l = logarithm<T>(base) + (w - (base - T(1))) * (T(2) - base);
    Vec<T> p = exponential<T>(m + l * inverse);
    return base > Vec<T>{} ? p : Vec<T>{};
  }

  T shrunk(T m) const { return d / std::exp(d * m); }

  T solve(const T* z, int64_t end, T& total) const {
    const T nearly = std::sqrt(std::numeric_limits<T>::epsilon()) / 4;
    T m = start;
    bool last = false;
    for (int step = 0;; ++step) {
      const Vec<T> offset = splat(m);
      const T factor = shrunk(m);
      T totals[2];
      add_up(end, totals, [&](int64_t i, auto& sums) INLINED {
        Vec<T> base, p = weight(load(z + i), offset, factor, base);
        sums[0] += p;
        sums[1] += p > Vec<T>{} ? p / base : Vec<T>{};
      });
      total = totals[0];
      // totals[1] is e^(d m) sum p^(1 - d).
      T share = -total * std::expm1(-d * std::log(total)) / totals[1];
      T next = m + std::log1p(-share) / d;
      if (last || !(next < m) || step == kMaxSteps) return m;
      last = m - next < nearly;
      m = next;
    }
  }
};

// Weights of the n scores x into p; z is scratch.
template <class T, class Form>
void entmax_forward_row(const T* x, int64_t n, const Form& form, T* z, T* p) {
  const int64_t end = padded<T>(n);
  const T largest = finite_max(x, end);
  if (std::isnan(largest)) {
    std::fill(p, p + end, largest);
    return;
  }
  T total;
  const T root = form.solve(z, candidates(x, end, largest, form.scale, form.bound, z), total);
  // With many entries one unit in the last place of the normaliser shows in the sum.
  const T inverse = 1 / total;
  const Vec<T> offset = splat(root);
  for (int64_t i = 0; i < end; i += kLanes<T>) {
    Vec<T> v = (load(x + i) - largest) * form.scale;
    if constexpr (std::is_same_v<Form, AlphaEntmaxForm<T>>) {
      Vec<T> weight{}, base;
      if (any<T>(v > form.bound)) weight = form.weight(v, offset, form.shrunk(root), base);
      store(p + i, weight * inverse);
    } else {
      store(p + i, form.weight(v, offset) * inverse);
    }
  }
}

// dx_i = s_i (g_i - sum_j s_j g_j / sum_j s_j), with s the slopes of the weights p given by `slope`.
template <class T, class Slope>
INLINE void entmax_backward_row(const T* p, const T* g, int64_t n, const Slope& slope, T* dx) {
  const int64_t end = padded<T>(n);
  T totals[2];
  add_up(end, totals, [&](int64_t i, auto& sums) INLINED {
    Vec<T> s = slope(load(p + i));
    store(dx + i, s);
    sums[0] += s;
    sums[1] += s * load(g + i);
  });
  const Vec<T> mean = splat(totals[0] == 0 ? T(0) : totals[1] / totals[0]);
  for (int64_t i = 0; i < end; i += kLanes<T>) store(dx + i, load(dx + i) * (load(g + i) - mean));
}

template <class T>
struct SparsemaxSlope {
  INLINE Vec<T> operator()(Vec<T> p) const { return p > Vec<T>{} ? splat<T>(1) : p; }  // NaN stays
};

template <class T>
struct Entmax15Slope {
  INLINE Vec<T> operator()(Vec<T> p) const {
    Vec<T> root;
    for (int64_t i = 0; i < kLanes<T>; ++i) root[i] = std::sqrt(p[i]);
    return root;
  }
};

// p^(1 - d).
template <class T>
struct AlphaEntmaxSlope {
  T d;
  INLINE Vec<T> operator()(Vec<T> p) const {
    Mask<T> positive = p > Vec<T>{};
    if (!any<T>(positive)) return p;
    return positive ? exponential<T>(logarithm<T>(p) * (1 - d)) : p;
  }
};

// Sum of psi_i dx_i, psi = (1 - e^x (1 - x)) / d^2 with x = d log p, by lanes: less the gradient of alpha.
template <class T>
void add_alpha_terms(const T* p, const T* dx, int64_t n, T d, Vec<T>& terms) {
  constexpr int last = std::is_same_v<T, float> ? 11 : 19;
  Vec<T> sum = terms;
  for (int64_t i = 0; i < padded<T>(n); i += kLanes<T>) {
    Vec<T> weight = load(p + i);
    Mask<T> positive = weight > Vec<T>{};
    if (!any<T>(positive)) continue;
    Vec<T> l = logarithm<T>(positive ? weight : splat<T>(1)), x = l * d;
    Vec<T> series{};
    T factorial = 1;
    T coefficients[last + 1];
    for (int k = 2; k <= last; ++k) factorial *= k, coefficients[k] = (k - 1) / factorial;
#pragma GCC unroll 20
    for (int k = last; k > 1; --k) series = series * x + coefficients[k];
    Vec<T> closed = (T(1) - exponential<T>(x) * (T(1) - x)) / (x * x);
    sum += l * l * (x > T(-0.5) ? series : closed) * load(dx + i);
  }
  terms = sum;
}

// Softmax of the n scores x over those not below their mean, the others times `rest`, into p.
template <class T>
void evsoftmax_forward_row(const T* x, int64_t n, T rest, T* p) {
  const int64_t end = padded<T>(n);
  const T none = -std::numeric_limits<T>::infinity();
  Vec<T> top = splat(none);
  for (int64_t i = 0; i < end; i += kLanes<T>) top = max(load(x + i), top);
  const Vec<T> largest = splat(horizontal_max<T>(top));
  // Relative to the maximum all terms have one sign, and the mean is as exact as one of them.
  Mask<T> dead{};
  T sum[1], total[1];
  add_up(end, sum, [&](int64_t i, auto& sums) INLINED {
    Vec<T> v = load(x + i);
    sums[0] += v == none ? Vec<T>{} : v - largest;
    dead -= v == none;
  });
  int64_t live = end;
  for (int64_t i = 0; i < kLanes<T>; ++i) live -= dead[i];
  // An entry at the mean stays, however the mean was rounded.
  const Vec<T> mean = splat(sum[0] / live * (1 + 8 * std::numeric_limits<T>::epsilon()));
  add_up(end, total, [&](int64_t i, auto& sums) INLINED {
    Vec<T> v = load(x + i) - largest, e = exponential<T>(v);
    e = v >= mean ? e : e * rest;
    store(p + i, e);
    sums[0] += e;
  });
  const Vec<T> scale = splat(1 / total[0]);
  for (int64_t i = 0; i < end; i += kLanes<T>) store(p + i, load(p + i) * scale);
}

}  // namespace multimax
