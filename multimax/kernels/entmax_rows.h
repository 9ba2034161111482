// Sparsemax, 1.5-entmax and alpha-entmax of one row, and their gradients; ev-softmax of one row.
//
// A row is n live scores; its padding to whole vectors is -infinity in scores and zero in weights and gradients.

#pragma once

#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace multimax {

constexpr int kMaxSteps = 32;  // of Newton's method; up to 14 were seen

// A step of Newton's method this small is the last: the error is squared with each.
template <class T>
INLINE T nearly() {
  return std::sqrt(std::numeric_limits<T>::epsilon()) / 4;
}

// The largest score, or NaN where the row has none that is finite or has a NaN in it.
template <class T>
INLINE T finite_max(Row<const T> x, int64_t end) {
  Vec<T> top = splat<T>(-std::numeric_limits<T>::infinity());
  Mask<T> is_nan{};
  for (int64_t i = 0; i < end; i += kLanes<T>) {
    Vec<T> v = x[i];
    is_nan |= v != v;
    top = max(v, top);
  }
  T largest = horizontal_max<T>(top);
  return any<T>(is_nan) || std::isinf(largest) ? std::numeric_limits<T>::quiet_NaN() : largest;
}

// z = (x - largest) * scale of the vectors that have an entry above `bound`, one after the other; returns their extent.
template <class T>
INLINE int64_t candidates(Row<const T> x, int64_t end, T largest, T scale, T bound, T* z) {
  int64_t kept = 0;
  for (int64_t i = 0; i < end; i += kLanes<T>) {
    Vec<T> v = (x[i] - largest) * scale;
    store(z + kept, v);
    kept += any<T>(v > bound) ? kLanes<T> : 0;
  }
  return kept;
}

// Each form: the scale and bound of the candidates z, the weight of an entry at the normaliser a, and Newton's way to
// the root of its total, which is convex and increasing in a, until the rest of the way is below rounding.

// p = relu(z + a), z = x - max x, a the largest weight.
template <class T>
struct SparsemaxForm {
  static constexpr T scale = 1, bound = -1;

  INLINE Vec<T> weight(Vec<T> z, Vec<T> a) const { return max(z + a, Vec<T>{}); }

  T solve(const T* z, int64_t end) const {
    T a = 1, support = -1;
    for (int step = 0; step < kMaxSteps; ++step) {
      const Vec<T> offset = splat(a), one = splat<T>(1);
      T totals[2];
      add_up(end, totals, [&](int64_t i, auto& sums) INLINED {
        Vec<T> p = weight(load(z + i), offset);
        sums[0] += p;
        sums[1] += p > Vec<T>{} ? one : Vec<T>{};
      });
      T next = a - (totals[0] - 1) / totals[1];
      // On the same support the step before was exact.
      if (totals[1] == support || !(next < a)) break;
      support = totals[1];
      a = next;
    }
    return a;
  }
};

// p = relu(y + a)^2, y = (x - max x) / 2; Newton on the Euclidean norm of relu(y + a), less 1.
template <class T>
struct Entmax15Form {
  static constexpr T scale = T(0.5), bound = -1;

  INLINE Vec<T> weight(Vec<T> y, Vec<T> a) const {
    Vec<T> root = max(y + a, Vec<T>{});
    return root * root;
  }

  T solve(const T* y, int64_t end) const {
    T a = 1;
    for (int step = 0; step < kMaxSteps; ++step) {
      const Vec<T> offset = splat(a);
      T totals[2];
      add_up(end, totals, [&](int64_t i, auto& sums) INLINED {
        Vec<T> root = max(load(y + i) + offset, Vec<T>{});
        sums[0] += root * root;
        sums[1] += root;
      });
      T next = a - (totals[0] - std::sqrt(totals[0])) / totals[1];
      if (!(next < a)) break;
      const bool last = a - next < nearly<T>() * a;
      a = next;
      if (last) break;
    }
    return a;
  }
};

// p = exp(m + log1p(d z / e^(d m)) / d), z = x - max x, d = alpha - 1, m the logarithm of the largest weight: sound
// down to the limit d = 0. Newton on the (1/d)-norm of relu(d z + e^(d m)), less 1.
template <class T>
struct AlphaEntmaxForm {
  T d, inverse, bound;
  static constexpr T scale = 1;

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

  T solve(const T* z, int64_t end) const {
    // From a guess: the root for every eighth vector, as many times each.
    const int64_t apart = 8 * kLanes<T>;
    T m = end < 4 * apart ? T(0) : newton(z, end, apart, T(0));
    return newton(z, end, kLanes<T>, m);
  }

  T newton(const T* z, int64_t end, int64_t apart, T m) const {
    const T copies = static_cast<T>(apart / kLanes<T>);
    for (int step = 0; step < kMaxSteps; ++step) {
      const Vec<T> offset = splat(m);
      const T factor = shrunk(m);
      T totals[2];
      add_up(end, totals, [&](int64_t i, auto& sums) INLINED {
        Vec<T> base, p = weight(load(z + i), offset, factor, base);
        sums[0] += p;
        sums[1] += p > Vec<T>{} ? p / base : Vec<T>{};
      }, apart);
      // totals[1] is e^(d m) sum p^(1 - d).
      const T total = totals[0] * copies, slope = totals[1] * copies;
      if (total == 0) return 0;  // a guess that saw too little
      T share = -total * std::expm1(-d * std::log(total)) / slope;
      T next = m + std::log1p(-share) / d;
      if (!(next < m) && (step > 0 || !(total < 1))) break;  // from below the root one step leads above it
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
  const int64_t end = padded<T>(n);
  const T largest = finite_max(x, end);
  if (std::isnan(largest)) {
    for (int64_t i = 0; i < end; i += kLanes<T>) p.set(i, splat(largest));
    return;
  }
  const T root = form.solve(z, candidates(x, end, largest, form.scale, form.bound, z));
  const Vec<T> offset = splat(root);
  T total[1];
  add_up(end, total, [&](int64_t i, auto& sums) INLINED {
    Vec<T> v = (x[i] - largest) * form.scale, weight{};
    if constexpr (std::is_same_v<Form, AlphaEntmaxForm<T>>) {
      Vec<T> base;
      if (any<T>(v > form.bound)) weight = form.weight(v, offset, form.shrunk(root), base);
    } else {
      weight = form.weight(v, offset);
    }
    p.set(i, weight);
    sums[0] += weight;
  });
  // With many entries one unit in the last place of the normaliser shows in the sum.
  const Vec<T> scale = splat(1 / total[0]);
  for (int64_t i = 0; i < end; i += kLanes<T>) p.set(i, p[i] * scale);
}

// dx_i = s_i (g_i - sum_j s_j g_j / sum_j s_j), with s the slopes of the weights p given by `slope`.
template <class T, class Slope>
INLINE void entmax_backward_row(Row<const T> p, Row<const T> g, int64_t n, const Slope& slope, Row<T> dx) {
  const int64_t end = padded<T>(n);
  T totals[2];
  add_up(end, totals, [&](int64_t i, auto& sums) INLINED {
    Vec<T> s = slope(p[i]);
    if constexpr (!Slope::is_cheap) dx.set(i, s);
    sums[0] += s;
    sums[1] += s * g[i];
  });
  const Vec<T> mean = splat(totals[0] == 0 ? T(0) : totals[1] / totals[0]);
  for (int64_t i = 0; i < end; i += kLanes<T>) {
    Vec<T> s = Slope::is_cheap ? slope(p[i]) : dx[i];
    dx.set(i, s * (g[i] - mean));
  }
}

// Softmax's, alpha = 1, and so ev-softmax's too.
template <class T>
struct SoftmaxSlope {
  static constexpr bool is_cheap = true;  // to compute twice rather than keep
  INLINE Vec<T> operator()(Vec<T> p) const { return p; }
};

template <class T>
struct SparsemaxSlope {
  static constexpr bool is_cheap = true;
  INLINE Vec<T> operator()(Vec<T> p) const { return p > Vec<T>{} ? splat<T>(1) : p; }  // NaN stays
};

template <class T>
struct Entmax15Slope {
  static constexpr bool is_cheap = false;
  INLINE Vec<T> operator()(Vec<T> p) const {
    Vec<T> root;
    for (int64_t i = 0; i < kLanes<T>; ++i) root[i] = std::sqrt(p[i]);
    return root;
  }
};

// p^(1 - d).
template <class T>
struct AlphaEntmaxSlope {
  static constexpr bool is_cheap = false;
  T d;
  INLINE Vec<T> operator()(Vec<T> p) const {
    Mask<T> positive = p > Vec<T>{};
    if (!any<T>(positive)) return p;
    return positive ? exponential<T>(logarithm<T>(p) * (1 - d)) : p;
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

// dx at alpha = 1 + d as `entmax_backward_row` has it; sum psi_i dx_i, the gradient of alpha but for its sign, is added
// to `terms`. psis is scratch.
template <class T>
void alpha_entmax_backward_row(Row<const T> p, Row<const T> g, int64_t n, T d, T* psis, Row<T> dx, Vec<T>& terms) {
  const int64_t end = padded<T>(n);
  T totals[2];
  add_up(end, totals, [&](int64_t i, auto& sums) INLINED {
    Vec<T> weight = p[i], s = weight, of_alpha{};
    Mask<T> positive = weight > Vec<T>{};
    if (any<T>(positive)) {
      Vec<T> l = logarithm<T>(positive ? weight : splat<T>(1)), exp_x = exponential<T>(l * d);
      s = positive ? weight / exp_x : weight;
      of_alpha = psi<T>(l, l * d, exp_x);
    }
    dx.set(i, s);
    store(psis + i, of_alpha);
    sums[0] += s;
    sums[1] += s * g[i];
  });
  const Vec<T> mean = splat(totals[0] == 0 ? T(0) : totals[1] / totals[0]);
  Vec<T> outer{};
  for (int64_t block = 0; block < end; block += kBlock<T>) {
    Vec<T> sum{};
    for (int64_t i = block; i < std::min(end, block + kBlock<T>); i += kLanes<T>) {
      Vec<T> slope = dx[i] * (g[i] - mean);
      dx.set(i, slope);
      sum += load(psis + i) * slope;
    }
    outer += sum;
  }
  terms += outer;
}

// Softmax of the n scores x over those not below their mean, the others times `rest`, into p.
template <class T>
void evsoftmax_forward_row(Row<const T> x, int64_t n, T rest, Row<T> p) {
  const int64_t end = padded<T>(n);
  const T none = -std::numeric_limits<T>::infinity();
  Vec<T> top = splat(none);
  for (int64_t i = 0; i < end; i += kLanes<T>) top = max(x[i], top);
  const Vec<T> largest = splat(horizontal_max<T>(top));
  // Relative to the maximum all terms have one sign, and the mean is as exact as one of them.
  Mask<T> dead{};
  T sum[1], total[1];
  add_up(end, sum, [&](int64_t i, auto& sums) INLINED {
    Vec<T> v = x[i];
    sums[0] += v == none ? Vec<T>{} : v - largest;
    dead -= v == none;
  });
  int64_t live = end;
  for (int64_t i = 0; i < kLanes<T>; ++i) live -= dead[i];
  // An entry at the mean stays, however the mean was rounded.
  const Vec<T> mean = splat(sum[0] / live * (1 + 8 * std::numeric_limits<T>::epsilon()));
  add_up(end, total, [&](int64_t i, auto& sums) INLINED {
    Vec<T> v = x[i] - largest, e = exponential<T>(v);
    e = v >= mean ? e : e * rest;
    p.set(i, e);
    sums[0] += e;
  });
  const Vec<T> scale = splat(1 / total[0]);
  for (int64_t i = 0; i < end; i += kLanes<T>) p.set(i, p[i] * scale);
}

}  // namespace multimax
