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
    x.prefetch(i);
    Vec<T> v = x[i];
    is_nan |= v != v;
    top = max(v, top);
  }
  T largest = horizontal_max<T>(top);
  return any<T>(is_nan) || std::isinf(largest) ? std::numeric_limits<T>::quiet_NaN() : largest;
}

// z = (x - largest) * form.scale of the entries where it is above form.bound, one after the other, with a padding of
// -infinity that no form gives a weight; returns their number, and what form.measure() makes of all z at form.start.
template <class T, class Form>
INLINE int64_t candidates(Row<const T> x, int64_t end, T largest, const Form& form, T* z, T (&totals)[2]) {
  int64_t kept = 0;
  const Vec<T> start = splat(form.start);
  add_up(end, totals, [&](int64_t i, auto& sums) INLINED {
    const Vec<T> v = (x[i] - largest) * form.scale;
    kept += compress<T>(v, v > form.bound, z + kept);
    form.measure(v, start, sums);
  });
  Row<T>{z, z, padded<T>(kept)}.pad(kept, -std::numeric_limits<T>::infinity());
  return kept;
}

// Each form: the scale and bound of the candidates z, the weights at the normaliser a as a function of z, and Newton's
// way to the root of their total, until the rest of it is below rounding. That total, or a power of it, is convex and
// increasing in a: the first step, from wherever it starts, leads to the root or above it, and the others down to it.
// Where it starts, the sums come with the candidates.

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
      // On the same support the step before was exact.
      if (totals[1] == support || (step > 0 && !(next < a))) break;
      support = totals[1];
      a = next;
      const Vec<T> at = splat(a);
      add_up(end, totals, [&](int64_t i, auto& sums) INLINED { measure(load(z + i), at, sums); });
    }
    return a;
  }
};

// p = relu(y + a)^2, y = (x - max x) / 2; Newton on the Euclidean norm of relu(y + a), less 1.
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
      const Vec<T> at = splat(a);
      add_up(end, totals, [&](int64_t i, auto& sums) INLINED { measure(load(y + i), at, sums); });
    }
    return a;
  }
};

// p = exp(m + log1p(d z / e^(d m)) / d), z = x - max x, d = alpha - 1, m the logarithm of the largest weight: sound
// down to the limit d = 0. Newton on the (1/d)-norm of relu(d z + e^(d m)), less 1, from where one step for 1.5-entmax
// leads.
template <class T>
struct AlphaEntmaxForm {
  T d, inverse, bound;
  static constexpr T scale = 1, start = Entmax15Form<T>::start;

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
      add_up(end, totals, [&](int64_t i, auto& sums) INLINED {
        Vec<T> base, p = weight(load(z + i), offset, factor, base);
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
  const int64_t end = padded<T>(n);
  const T largest = finite_max(x, end);
  if (std::isnan(largest)) {
    for (int64_t i = 0; i < end; i += kLanes<T>) p.set(i, splat(largest));
    return;
  }
  T totals[2], total[1];
  const int64_t kept = padded<T>(candidates(x, end, largest, form, z, totals));
  const auto weigh = form.weights(form.solve(z, kept, totals));
  add_up(kept, total, [&](int64_t i, auto& sums) INLINED {
    const Vec<T> weight = weigh(load(z + i));
    store(z + i, weight);
    sums[0] += weight;
  });
  // With many entries one unit in the last place of the normaliser shows in the sum.
  const Vec<T> scale = splat(1 / total[0]);
  const T* weight = z;
  for (int64_t i = 0; i < end; i += kLanes<T>)
    p.set(i, expand<T>((x[i] - largest) * form.scale > form.bound, weight) * scale);
}

// dx_i = s_i (g_i - sum_j s_j g_j / sum_j s_j), with s the slopes of the weights p given by `slope`.
template <class T, class Slope>
INLINE void entmax_backward_row(Row<const T> p, Row<const T> g, int64_t n, const Slope& slope, Row<T> dx) {
  const int64_t end = padded<T>(n);
  T totals[2];
  add_up(end, totals, [&](int64_t i, auto& sums) INLINED {
    p.prefetch(i);
    g.prefetch(i);
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

// dx at alpha = 1 + d as `entmax_backward_row` has it, and the gradient of alpha but for its sign, sum psi_i dx_i.
// Of the scratch three rows are used.
template <class T>
T alpha_entmax_backward_row(Row<const T> p, Row<const T> g, int64_t n, T d, T* scratch, Row<T> dx) {
  const int64_t end = padded<T>(n);
  T *slopes = scratch, *grads = slopes + end, *psis = grads + end;
  int64_t count = 0;
  for (int64_t i = 0; i < end; i += kLanes<T>) {
    p.prefetch(i);
    g.prefetch(i);
    const Mask<T> chosen = p[i] != Vec<T>{};
    compress<T>(g[i], chosen, grads + count);
    count += compress<T>(p[i], chosen, slopes + count);
  }
  const int64_t kept = padded<T>(count);
  for (T* row : {slopes, grads}) Row<T>{row, row, kept}.pad(count, T(0));
  T totals[2];
  add_up(kept, totals, [&](int64_t i, auto& sums) INLINED {
    const Vec<T> weight = load(slopes + i), one = splat<T>(1);
    const Vec<T> l = logarithm<T>(weight > Vec<T>{} ? weight : one), exp_x = exponential<T>(l * d);
    const Vec<T> s = weight / exp_x;
    store(slopes + i, s);
    store(psis + i, psi<T>(l, l * d, exp_x));
    sums[0] += s;
    sums[1] += s * load(grads + i);
  });
  const Vec<T> mean = splat(totals[0] == 0 ? T(0) : totals[1] / totals[0]);
  T of_alpha[1];
  add_up(kept, of_alpha, [&](int64_t i, auto& sums) INLINED {
    const Vec<T> slope = load(slopes + i) * (load(grads + i) - mean);
    store(slopes + i, slope);
    sums[0] += load(psis + i) * slope;
  });
  const T* slope = slopes;
  for (int64_t i = 0; i < end; i += kLanes<T>) dx.set(i, expand<T>(p[i] != Vec<T>{}, slope));
  return of_alpha[0];
}

// Softmax of the n scores x over those not below their mean, the others times `rest`, into p.
template <class T>
void evsoftmax_forward_row(Row<const T> x, int64_t n, T rest, Row<T> p) {
  const int64_t end = padded<T>(n);
  const T none = -std::numeric_limits<T>::infinity();
  Vec<T> top = splat(none);
  for (int64_t i = 0; i < end; i += kLanes<T>) {
    x.prefetch(i);
    top = max(x[i], top);
  }
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
