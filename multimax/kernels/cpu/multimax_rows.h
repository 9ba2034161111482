// MultiMax of one row, y_i = SegLU(x_i), p_i = exp(y_i - m) s, and its gradients.

#pragma once

#include <algorithm>
#include <cmath>

#include "row_loops.h"

namespace multimax {

// Ranges and ts of one head: first-order hinges at 0 (left) and 1 (right), second-order ones at 2 and 3.
template <class T>
struct SegluParameters {
  T ranges[4] = {}, ts[4] = {};
  T near = 0;  // the largest |x| at which no limit of SegLU is reached
};

// Hinges are clamped where their squares times any sensible t are still finite, as in the eager form.
template <class T>
const T kHingeLimit = std::pow(std::numeric_limits<T>::max(), T(0.4));

// SegLU on vectors. The `limited` form is for any score; the other gives the same bits for scores up to `near`.
template <class T, bool first, bool second, bool limited>
struct Seglu {
  Vec<T> r[4], t[4];
  T near;

  INLINE explicit Seglu(const SegluParameters<T>& p) : near(p.near) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) r[k] = splat<T>(p.ranges[k]), t[k] = splat<T>(p.ts[k]);
  }

  INLINE bool all_near(Vec<T> far) const { return !any<T>(~(far <= near)); }

  INLINE Vec<T> hinge(int k, Vec<T> x) const {
    Vec<T> h = k % 2 == 0 ? r[k] - x : x - r[k];
    if constexpr (!limited) return max(h, Vec<T>{});
    h = h < Vec<T>{} ? Vec<T>{} : h;  // keeps the NaN of a range
    return h > kHingeLimit<T> ? splat<T>(kHingeLimit<T>) : h;
  }

  INLINE Vec<T> operator()(Vec<T> x) const {
    Vec<T> y = x;
    if constexpr (first) y = y + t[0] * hinge(0, x) + t[1] * hinge(1, x);
    if constexpr (second) {
      Vec<T> left = hinge(2, x), right = hinge(3, x);
      y = y + t[2] * left * left + t[3] * right * right;
    }
    if constexpr (limited) {
      const Vec<T> largest = splat<T>(std::numeric_limits<T>::max());
      y = y > largest ? largest : y;
      y = y < -largest ? -largest : y;
    }
    return y;
  }
};

// The largest |x| at which no hinge reaches its limit; not positive, or NaN, if there is none.
template <class T>
T nearness(const SegluParameters<T>& p) {
  T range = 0, t = 1;
  for (int k = 0; k < 4; ++k) range += std::abs(p.ranges[k]), t += std::abs(p.ts[k]);
  T reach = std::min(kHingeLimit<T>, std::sqrt(std::numeric_limits<T>::max() / t) / 4);
  return reach / 2 - range;
}

// y = SegLU(x) and its maximum; false if a score is not near, in which case y is not valid.
template <class T, class Form>
INLINE bool modulate(Row<const T> x, int64_t n, const Form& seglu, Row<T> y, T& largest) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  Vec<T> top = splat(none), far{};
  each<T>(n, [&](auto at) INLINED {
    Vec<T> v = x[at], modulated = seglu(v);
    y.set(at, modulated);
    top = max(padded(at, modulated, none), top);
    far = max(abs<T>(v), far);
  });
  largest = horizontal_max<T>(top);
  return seglu.all_near(far);
}

// Weights of the n scores x into p, with m and s.
template <class T, bool first, bool second>
void multimax_forward_row(Row<const T> x, int64_t n, const SegluParameters<T>& parameters, Row<T> p, T& m, T& s) {
  if (!modulate(x, n, Seglu<T, first, second, false>(parameters), p, m))
    modulate(x, n, Seglu<T, first, second, true>(parameters), p, m);
  const Vec<T> largest = splat(m);
  T total[1];
  add_up(n, total, [&](auto at, auto& sums) INLINED {
    Vec<T> e = exponential<T>(p[at] - largest);
    p.set(at, e);
    sums[0] += padded(at, e, T(0));
  });
  s = 1 / total[0];
  const Vec<T> scale = splat(s);
  each<T>(n, [&](auto at) INLINED { p.set(at, p[at] * scale); });
}

// Sums for the gradients of the parameters, lane by lane.
template <class T>
struct SegluSums {
  Vec<T> ranges[4] = {}, ts[4] = {};

  INLINE void add(const SegluSums& other) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) ranges[k] += other.ranges[k], ts[k] += other.ts[k];
  }
};

// dx from the weights p and the incoming gradient g with sum p g = `dot`; dx may be p. If the row is `fresh` from
// memory, the next one is prefetched; if one of its scores is not near, the result is false and the sums do not change.
template <class T, bool first, bool second, bool limited, bool fresh>
INLINE bool multimax_slopes(Row<const T> x, Row<const T> g, Row<const T> p, int64_t n,
                            const SegluParameters<T>& parameters, T dot, Row<T> dx, SegluSums<T>& sums) {
  const Seglu<T, first, second, limited> seglu(parameters);
  const Vec<T> mean = splat(dot);
  Vec<T> far{};
  SegluSums<T> row, local;
  auto add = [&](auto at) INLINED {
    Vec<T> v = x[at], dy = p[at] * (g[at] - mean), slope = dy;
    if constexpr (first) {
      Vec<T> left = seglu.hinge(0, v), right = seglu.hinge(1, v);
      Vec<T> dy_left = left > Vec<T>{} ? dy : Vec<T>{}, dy_right = right > Vec<T>{} ? dy : Vec<T>{};
      local.ts[0] += dy * left;
      local.ts[1] += dy * right;
      local.ranges[0] += dy_left;
      local.ranges[1] += dy_right;
      slope = slope - seglu.t[0] * dy_left + seglu.t[1] * dy_right;
    }
    if constexpr (second) {
      Vec<T> left = seglu.hinge(2, v), right = seglu.hinge(3, v);
      Vec<T> dy_left = dy * left, dy_right = dy * right;
      local.ts[2] += dy_left * left;
      local.ts[3] += dy_right * right;
      local.ranges[2] += dy_left;
      local.ranges[3] += dy_right;
      slope = slope - (seglu.t[2] + seglu.t[2]) * dy_left + (seglu.t[3] + seglu.t[3]) * dy_right;
    }
    dx.set(at, slope);
    if constexpr (fresh) {
      far = max(abs<T>(v), far);
      x.fetch(at, n), g.fetch(at, n), p.fetch(at, n);
    }
  };
  each<T>(n, add, [&]() INLINED {
    row.add(local);
    local = {};
  });
  if (fresh && !limited && !seglu.all_near(far)) return false;
  sums.add(row);
  return true;
}

// The weights p of the n scores x from m and s, and sum p g; false if a score is not near.
template <class T, bool first, bool second, bool limited>
INLINE bool weigh_anew(Row<const T> x, Row<const T> g, int64_t n, const SegluParameters<T>& parameters,
                       T m, T s, Row<T> p, T& dot) {
  const Seglu<T, first, second, limited> seglu(parameters);
  const Vec<T> largest = splat(m), scale = splat(s);
  Vec<T> far{};
  T total[1];
  add_up(n, total, [&](auto at, auto& sums) INLINED {
    Vec<T> v = x[at], weight = exponential<T>(seglu(v) - largest, scale);
    p.set(at, weight);
    far = max(abs<T>(v), far);
    sums[0] += padded(at, weight, T(0)) * g[at];
  });
  dot = total[0];
  return seglu.all_near(far);
}

// Gradient dx of the n scores x, and additions to `sums`; g is the incoming gradient, p are the weights.
template <class T, bool first, bool second>
void multimax_backward_row(Row<const T> x, Row<const T> p, Row<const T> g, int64_t n,
                           const SegluParameters<T>& parameters, Row<T> dx, SegluSums<T>& sums) {
  T dot[1];
  add_up(n, dot, [&](auto at, auto& sums) INLINED { sums[0] += p[at] * g[at]; });
  if (!multimax_slopes<T, first, second, false, true>(x, g, p, n, parameters, dot[0], dx, sums))
    multimax_slopes<T, first, second, true, true>(x, g, p, n, parameters, dot[0], dx, sums);
}

// The same with the weights recomputed from the forward's m and s, into p. dx may be p or g.
template <class T, bool first, bool second>
void multimax_backward_row_anew(Row<const T> x, Row<const T> g, int64_t n, const SegluParameters<T>& parameters, T m,
                                T s, Row<T> p, Row<T> dx, SegluSums<T>& sums) {
  const Row<const T> made{p.data};
  T dot;
  if (weigh_anew<T, first, second, false>(x, g, n, parameters, m, s, p, dot)) {
    multimax_slopes<T, first, second, false, false>(x, g, made, n, parameters, dot, dx, sums);
  } else {
    weigh_anew<T, first, second, true>(x, g, n, parameters, m, s, p, dot);
    multimax_slopes<T, first, second, true, false>(x, g, made, n, parameters, dot, dx, sums);
  }
}

// Adds the gradients of ranges and ts, four each, to `totals`, and clears the sums.
template <class T>
INLINE void collect(SegluSums<T>& sums, const SegluParameters<T>& p, double* totals) {
  for (int k = 0; k < 4; ++k) {
    double slope = (k % 2 == 0 ? 1.0 : -1.0) * (k < 2 ? 1 : 2) * p.ts[k];
    totals[k] += slope * horizontal_sum<T>(sums.ranges[k]);
    totals[4 + k] += horizontal_sum<T>(sums.ts[k]);
  }
  sums = {};
}

}  // namespace multimax
