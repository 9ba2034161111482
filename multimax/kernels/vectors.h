// Vectors as wide as the processor's, with the exponential and the logarithm that the row kernels need.
//
// GCC's and Clang's vector extension: one source for AVX2, AVX-512 and NEON, and no other header.

#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace multimax {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
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
using Bits = typename Simd<T>::U;  // they may overflow

template <class T>
constexpr int64_t kLanes = kVectorBytes / sizeof(T);

template <class T>
constexpr int64_t kBlock = 32 * kLanes<T>;

template <class T>
constexpr int64_t padded(int64_t n) {
  return (n + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

#define INLINE inline __attribute__((always_inline))
#define INLINED __attribute__((always_inline))  // of a lambda

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

// A row as vectors: the whole ones where it lies, the padded rest in `tail`.
template <class Entry>
struct Row {
  using T = std::remove_const_t<Entry>;

  Entry* data;
  Entry* tail;
  int64_t whole;  // entries in whole vectors at `data`

  INLINE Entry* at(int64_t i) const { return i < whole ? data + i : tail; }
  INLINE Vec<T> operator[](int64_t i) const { return load<T>(at(i)); }
  INLINE void set(int64_t i, Vec<T> v) const { store(at(i), v); }

  // Sets the padding behind n entries.
  INLINE void pad(int64_t n, T value) const {
    Entry* last = at(n / kLanes<T> * kLanes<T>);
    if (n % kLanes<T> != 0)
      for (int64_t i = n % kLanes<T>; i < kLanes<T>; ++i) last[i] = value;
  }
};

template <class T>
INLINE Vec<T> splat(T value) {
  Vec<T> v;
  for (int64_t i = 0; i < kLanes<T>; ++i) v[i] = value;
  return v;
}

// The larger lanes; `b` where `a` is NaN.
template <class V>
INLINE V max(V a, V b) {
  return a > b ? a : b;
}

template <class V>
INLINE V min(V a, V b) {
  return a < b ? a : b;
}

template <class T>
INLINE Vec<T> abs(Vec<T> v) {
  using Integer = std::remove_reference_t<decltype(Mask<T>{}[0])>;
  return (Vec<T>)((Mask<T>)v & std::numeric_limits<Integer>::max());
}

// Lanes folded in halves, an order that does not depend on the data.
template <int64_t width, class T, class Fold>
INLINE T folded(T* lanes, Fold fold) {
  if constexpr (width > 1) {
    for (int64_t i = 0; i < width / 2; ++i) lanes[i] = fold(lanes[i], lanes[i + width / 2]);
    return folded<width / 2>(lanes, fold);
  }
  return lanes[0];
}

template <class T>
INLINE T horizontal_max(Vec<T> v) {
  T lanes[kLanes<T>];
  store(lanes, v);
  return folded<kLanes<T>>(lanes, [](T a, T b) { return a > b ? a : b; });
}

template <class T>
INLINE T horizontal_sum(Vec<T> v) {
  T lanes[kLanes<T>];
  store(lanes, v);
  return folded<kLanes<T>>(lanes, [](T a, T b) { return a + b; });
}

// Totals of k quantities over the vectors of a row, or those `apart` entries from each other: add(i, sums) adds what
// the vector at i has to sums[0..k). In blocks, so that a long row's small terms are not rounded to a large sum.
template <class T, int k, class Add>
INLINE void add_up(int64_t end, T (&totals)[k], const Add& add, int64_t apart = kLanes<T>) {
  Vec<T> outer[k] = {};
  for (int64_t block = 0; block < end; block += kBlock<T>) {
    const int64_t stop = block + kBlock<T> < end ? block + kBlock<T> : end;
    Vec<T> sums[k] = {};
    for (int64_t i = block; i < stop; i += apart) add(i, sums);
    for (int j = 0; j < k; ++j) outer[j] += sums[j];
  }
  for (int j = 0; j < k; ++j) totals[j] = horizontal_sum<T>(outer[j]);
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
  static constexpr float round = 12582912.0f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f, smallest = -87.0f;
  static constexpr uint32_t bias = 127;
  static constexpr int bits = 23;
  // (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2, interpolated at Chebyshev's points: e^r to 1e-8.
  static constexpr float exponential[] = {1.3932533e-3f, 8.3631815e-3f, 4.1666465e-2f, 0.16666577f, 0.5f};
  static constexpr int logarithm_terms = 5;
};

template <>
struct Constants<double> {
  static constexpr double round = 6755399441055744.0, ln2_high = 6.93145751953125e-1,
                          ln2_low = 1.42860682030941723212e-6, smallest = -708.0;
  static constexpr uint64_t bias = 1023;
  static constexpr int bits = 52;
  // Taylor's, to 4e-18.
  static constexpr double exponential[] = {1.6059043836821613e-10, 2.08767569878681e-9, 2.505210838544172e-8,
                                           2.755731922398589e-7,   2.7557319223985893e-6, 2.48015873015873e-5,
                                           1.984126984126984e-4,   1.388888888888889e-3,  8.333333333333333e-3,
                                           4.1666666666666664e-2,  0.16666666666666666,   0.5};
  static constexpr int logarithm_terms = 12;
};

// e^x for x from -infinity to about 80; zero where the result would be subnormal; NaN for NaN.
template <class T>
INLINE Vec<T> exponential(Vec<T> x) {
  using C = Constants<T>;
  Vec<T> n = x * T(1.4426950408889634) + C::round;
  Bits<T> power = ((Bits<T>)n + C::bias) << C::bits;
  n -= C::round;
  Vec<T> r = x - n * C::ln2_high;
  r = r - n * C::ln2_low;
  Vec<T> q = splat<T>(C::exponential[0]);
#pragma GCC unroll 16
  for (size_t i = 1; i < sizeof C::exponential / sizeof(T); ++i) q = q * r + C::exponential[i];
  Vec<T> y = (q * r * r + r) + T(1);
  return x < C::smallest ? Vec<T>{} : y * (Vec<T>)power;
}

// log u for normal u > 0, exact to rounding near u = 1 too.
template <class T>
INLINE Vec<T> logarithm(Vec<T> u) {
  using C = Constants<T>;
  const Bits<T> half = (Bits<T>)splat<T>(T(0.70710678118654752));
  Mask<T> steps = (Mask<T>)((Bits<T>)u - half) >> C::bits;  // of the exponent, above that of sqrt(1/2)
  Vec<T> f = (Vec<T>)((Bits<T>)u - ((Bits<T>)steps << C::bits)) - T(1);
  // Small integers to floating point, by adding them to a number with its last bit worth one.
  Vec<T> n = (Vec<T>)(steps + (Mask<T>)splat<T>(C::round)) - C::round;
  Vec<T> s = f / (f + T(2)), square = s * s;
  Vec<T> q = splat<T>(T(2) / (2 * C::logarithm_terms - 1));
#pragma GCC unroll 16
  for (int i = C::logarithm_terms - 2; i > 0; --i) q = q * square + T(2) / (2 * i + 1);
  // 2 s = f - s f keeps the leading term exact.
  return n * C::ln2_high + (f - (s * (f - q * square) - n * C::ln2_low));
}

}  // namespace multimax
