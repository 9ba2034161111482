// Vectors as wide as the processor's, with the exponential and the logarithm that the row kernels need.
//
// GCC's and Clang's vector extension: one source for AVX2, AVX-512 and NEON.

#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace multimax {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Simd;

template <>
struct Simd<float> {
  typedef float V __attribute__((vector_size(kVectorBytes)));
  typedef int32_t I __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t U __attribute__((vector_size(kVectorBytes)));
};

template <>
struct Simd<double> {
  typedef double V __attribute__((vector_size(kVectorBytes)));
  typedef int64_t I __attribute__((vector_size(kVectorBytes)));
  typedef uint64_t U __attribute__((vector_size(kVectorBytes)));
};

template <class T>
using Vec = typename Simd<T>::V;
template <class T>
using Mask = typename Simd<T>::I;  // all bits of a lane set: true
template <class T>
using Bits = typename Simd<T>::U; // these may overflow

template <class T>
constexpr int64_t kLanes = kVectorBytes / sizeof(T);

#define INLINE inline __attribute__((always_inline))
#define INLINED __attribute__((always_inline))  // for a lambda

template <class T>
INLINE Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class T>
INLINE void store(T* to, Vec<T> v) {
  std::memcpy(to, &v, sizeof v);
}

template <class T>
INLINE Vec<T> splat(T value) {
  Vec<T> v;
  for (int64_t i = 0; i < kLanes<T>; ++i) v[i] = value;
  return v;
}

// The first `count` lanes.
template <class T>
INLINE Mask<T> first(int64_t count) {
  Mask<T> lane;
  for (int64_t i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return lane < (Mask<T>{} + static_cast<std::remove_reference_t<decltype(lane[0])>>(count));
}

// The lanewise maximum; `b` where one is NaN. GCC does not find the single instruction for this.
template <class V>
INLINE V max(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<V, Vec<float>>) return _mm512_max_ps(a, b);
  if constexpr (std::is_same_v<V, Vec<double>>) return _mm512_max_pd(a, b);
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<V, Vec<float>>) return _mm256_max_ps(a, b);
  if constexpr (std::is_same_v<V, Vec<double>>) return _mm256_max_pd(a, b);
#endif
  return a > b ? a : b;
}

template <class T>
INLINE Vec<T> abs(Vec<T> v) {
  using Integer = std::remove_reference_t<decltype(Mask<T>{}[0])>;
  return (Vec<T>)((Mask<T>)v & std::numeric_limits<Integer>::max());
}

// Folds the lanes half by half, in an order that does not depend on the data. They stay vectors to the end, since GCC
// turns loops over single lanes into single additions as soon as there are two such loops.
template <int64_t width, class T, class Fold>
INLINE T folded(const T* lanes, const Fold& fold) {
  if constexpr (width == 1) {
    return *lanes;
  } else {
    typedef T Half __attribute__((vector_size(width / 2 * sizeof(T))));
    Half halves[2];
    std::memcpy(halves, lanes, sizeof halves);
    const Half half = fold(halves[0], halves[1]);
    T rest[width / 2];
    std::memcpy(rest, &half, sizeof half);
    return folded<width / 2>(rest, fold);
  }
}

template <class T>
INLINE T horizontal_max(Vec<T> v) {
  T lanes[kLanes<T>];
  store(lanes, v);
  return folded<kLanes<T>>(lanes, [](auto a, auto b) INLINED { return a > b ? a : b; });
}

template <class T>
INLINE T horizontal_sum(Vec<T> v) {
  T lanes[kLanes<T>];
  store(lanes, v);
  return folded<kLanes<T>>(lanes, [](auto a, auto b) INLINED { return a + b; });
}

template <class T>
INLINE bool any(Mask<T> mask) {
  uint64_t words[kVectorBytes / 8], all = 0;
  std::memcpy(words, &mask, sizeof mask);
  for (uint64_t word : words) all |= word;
  return all != 0;
}

template <class T>
struct Constants;

template <>
struct Constants<float> {
  static constexpr float round = 12582912.0f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f, to_zero = -88.0f;
  static constexpr uint32_t bias = 127;
  static constexpr int bits = 23;
  // (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2, interpolated at Chebyshev's points: e^r to 1e-8.
  static constexpr float exponential[] = {1.3932533e-3f, 8.3631815e-3f, 4.1666465e-2f, 0.16666577f, 0.5f};
  static constexpr int logarithm_terms = 5;
};

template <>
struct Constants<double> {
  static constexpr double round = 6755399441055744.0, ln2_high = 6.93145751953125e-1,
                          ln2_low = 1.42860682030941723212e-6, to_zero = -709.0;
  static constexpr uint64_t bias = 1023;
  static constexpr int bits = 52;
  // Taylor's coefficients, to 4e-18.
  static constexpr double exponential[] = {1.6059043836821613e-10, 2.08767569878681e-9, 2.505210838544172e-8,
                                           2.755731922398589e-7,   2.7557319223985893e-6, 2.48015873015873e-5,
                                           1.984126984126984e-4,   1.388888888888889e-3,  8.333333333333333e-3,
                                           4.1666666666666664e-2,  0.16666666666666666,   0.5};
  static constexpr int logarithm_terms = 12;
};

// scale e^x for x from -infinity to about 80; zero where e^x is below 2^-126.5, or in double 2^-1022.5; NaN for NaN.
template <class T>
INLINE Vec<T> exponential(Vec<T> x, Vec<T> scale) {
  using C = Constants<T>;
  x = max(splat<T>(C::to_zero), x);
  // A number whose last bit is worth one, so its lowest bits are the exponent of the power of two.
  Vec<T> n = x * T(1.4426950408889634) + (C::round + C::bias);
  const Vec<T> power = scale * (Vec<T>)((Bits<T>)n << C::bits);
  n -= C::round + C::bias;
  Vec<T> r = x - n * C::ln2_high;
  r = r - n * C::ln2_low;
  Vec<T> q = splat<T>(C::exponential[0]);
#pragma GCC unroll 16
  for (size_t i = 1; i < sizeof C::exponential / sizeof(T); ++i) q = q * r + C::exponential[i];
  return (q * r * r + r) * power + power;
}

template <class T>
INLINE Vec<T> exponential(Vec<T> x) {
  return exponential<T>(x, splat<T>(1));
}

// log u for normal u > 0, exact up to rounding, also near u = 1.
template <class T>
INLINE Vec<T> logarithm(Vec<T> u) {
  using C = Constants<T>;
  const Bits<T> half = (Bits<T>)splat<T>(T(0.70710678118654752));
  Mask<T> steps = (Mask<T>)((Bits<T>)u - half) >> C::bits;  // of the exponent, above that of sqrt(1/2)
  Vec<T> f = (Vec<T>)((Bits<T>)u - ((Bits<T>)steps << C::bits)) - T(1);
  // Small integers to floating point, by adding them to a number whose last bit is worth one.
  Vec<T> n = (Vec<T>)(steps + (Mask<T>)splat<T>(C::round)) - C::round;
  Vec<T> s = f / (f + T(2)), square = s * s;
  Vec<T> q = splat<T>(T(2) / (2 * C::logarithm_terms - 1));
#pragma GCC unroll 16
  for (int i = C::logarithm_terms - 2; i > 0; --i) q = q * square + T(2) / (2 * i + 1);
  // 2 s = f - s f keeps the leading term exact.
  return n * C::ln2_high + (f - (s * (f - q * square) - n * C::ln2_low));
}

// tanh y with a relative error of a few roundings: near 0, where the exponentials cancel, by its continued fraction.
template <class T>
INLINE Vec<T> hyperbolic_tangent(Vec<T> y) {
  const Vec<T> size = abs<T>(y), square = size * size, e = exponential<T>(size * T(-2));
  Vec<T> near = splat(T(15)), one = splat(T(1));
  for (int k = 13; k > 0; k -= 2) near = T(k) + square / near;
  const Vec<T> far = (one - e) / (one + e), t = size < splat(T(0.35)) ? size / near : far;
  return y < Vec<T>{} ? -t : t;
}

}  // namespace multimax
