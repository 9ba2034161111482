// Vectors as wide as the processor's, with the exponential and the logarithm that the row kernels need.
//
// GCC's and Clang's vector extension: one source for AVX2, AVX-512 and NEON. The extension has nothing for lanes that
// move by a mask; AVX-512 has.

#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__AVX__)
#include <immintrin.h>
#endif

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
constexpr int64_t whole_vectors(int64_t n) {
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

#if defined(__AVX512F__)
INLINE __mmask16 bits(Mask<float> mask) { return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask); }
INLINE __mmask8 bits(Mask<double> mask) { return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask); }
INLINE Vec<float> compressed(__mmask16 chosen, Vec<float> v) { return _mm512_maskz_compress_ps(chosen, v); }
INLINE Vec<double> compressed(__mmask8 chosen, Vec<double> v) { return _mm512_maskz_compress_pd(chosen, v); }
INLINE Vec<float> expanded(__mmask16 chosen, Vec<float> v) { return _mm512_maskz_expand_ps(chosen, v); }
INLINE Vec<double> expanded(__mmask8 chosen, Vec<double> v) { return _mm512_maskz_expand_pd(chosen, v); }
INLINE Vec<float> chosen_from(__mmask16 chosen, const float* from) { return _mm512_maskz_loadu_ps(chosen, from); }
INLINE Vec<double> chosen_from(__mmask8 chosen, const double* from) { return _mm512_maskz_loadu_pd(chosen, from); }
INLINE void chosen_to(__mmask16 chosen, float* to, Vec<float> v) { _mm512_mask_storeu_ps(to, chosen, v); }
INLINE void chosen_to(__mmask8 chosen, double* to, Vec<double> v) { _mm512_mask_storeu_pd(to, chosen, v); }
#endif

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

// `count` entries, fewer than a vector has, and zeros. A copy of single entries would stall the next load of them all.
template <class T>
INLINE Vec<T> load_some(const T* from, int64_t count) {
#if defined(__AVX512F__)
  return chosen_from(bits(first<T>(count)), from);
#else
  Vec<T> v{};
  std::memcpy(&v, from, count * sizeof(T));
  return v;
#endif
}

template <class T>
INLINE void store_some(T* to, int64_t count, Vec<T> v) {
#if defined(__AVX512F__)
  chosen_to(bits(first<T>(count)), to, v);
#else
  std::memcpy(to, &v, count * sizeof(T));
#endif
}

// A vector's place in a row: a whole one from entry i, or its last `count` entries, fewer than a vector has.
struct Whole {
  int64_t i;
};
struct Part {
  int64_t i, count;
};

// A row of entries as vectors; those of a part have zeros in their other lanes. A part is loaded where its turn comes,
// not before: the processor foresees only accesses in order.
template <class Entry>
struct Row {
  using T = std::remove_const_t<Entry>;

  Entry* data;

  INLINE Vec<T> operator[](Whole at) const { return load<T>(data + at.i); }
  INLINE Vec<T> operator[](Part at) const { return load_some<T>(data + at.i, at.count); }
  INLINE void set(Whole at, Vec<T> v) const { store(data + at.i, v); }
  INLINE void set(Part at, Vec<T> v) const { store_some(data + at.i, at.count, v); }
};

// v, with `padding` in the lanes that hold no entry.
template <class T>
INLINE Vec<T> padded(Whole, Vec<T> v, T) {
  return v;
}

template <class T>
INLINE Vec<T> padded(Part at, Vec<T> v, T padding) {
  return first<T>(at.count) ? v : splat(padding);
}

// Sets what lies behind n entries, up to a whole vector.
template <class T>
INLINE void pad(T* row, int64_t n, T padding) {
  T* last = row + n / kLanes<T> * kLanes<T>;
  if (n % kLanes<T> != 0) store(last, padded<T>(Part{0, n % kLanes<T>}, load(last), padding));
}

// Calls body(at) for each vector of a row of n entries, and after_block() behind every kBlock of them and at the end.
template <class T, class Body, class AfterBlock>
INLINE void each(int64_t n, const Body& body, const AfterBlock& after_block) {
  const int64_t whole = n / kLanes<T> * kLanes<T>;
  int64_t i = 0;
  do {
    const int64_t stop = whole - i > kBlock<T> ? i + kBlock<T> : whole;
    for (; i < stop; i += kLanes<T>) body(Whole{i});
    if (i == whole && whole < n) body(Part{whole, n - whole});
    after_block();
  } while (i < whole);
}

template <class T, class Body>
INLINE void each(int64_t n, const Body& body) {
  const int64_t whole = n / kLanes<T> * kLanes<T>;
  for (int64_t i = 0; i < whole; i += kLanes<T>) body(Whole{i});
  if (whole < n) body(Part{whole, n - whole});
}

// The larger lanes; `b` where one is NaN. GCC does not see that one instruction does it.
template <class V>
INLINE V max(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<V, Vec<float>>) return _mm512_max_ps(a, b);
  if constexpr (std::is_same_v<V, Vec<double>>) return _mm512_max_pd(a, b);
#elif defined(__AVX__)
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

// Totals of k quantities over a row of n entries: add(at, sums) adds what the vector at a place has to sums[0..k). In
// blocks, whose sums are added with Kahan's correction, so that a long row is as exact as a short one. A row of one
// block, of which the kernels await one total after another, goes without.
template <class T, int k, class Add>
INLINE void add_up(int64_t n, T (&totals)[k], const Add& add) {
  Vec<T> sums[k] = {};
  if (n <= kBlock<T>) {
    each<T>(n, [&](auto at) INLINED { add(at, sums); });
    for (int j = 0; j < k; ++j) totals[j] = horizontal_sum<T>(sums[j]);
    return;
  }
  Vec<T> outer[k] = {}, lost[k] = {};
  auto keep = [&]() INLINED {
    for (int j = 0; j < k; ++j) {
      const Vec<T> before = outer[j], term = sums[j] - lost[j];
      outer[j] = before + term;
      lost[j] = (outer[j] - before) - term;
      sums[j] = Vec<T>{};
    }
  };
  each<T>(n, [&](auto at) INLINED { add(at, sums); }, keep);
  for (int j = 0; j < k; ++j) totals[j] = horizontal_sum<T>(outer[j]);
}

template <class T>
INLINE bool any(Mask<T> mask) {
#if defined(__AVX512F__)
  return bits(mask) != 0;
#else
  uint64_t words[kVectorBytes / 8], all = 0;
  std::memcpy(words, &mask, sizeof mask);
  for (uint64_t word : words) all |= word;
  return all != 0;
#endif
}

// Puts the lanes of v that the mask chooses at `to`, one after the other, and returns how many they are. What lies
// behind them, up to a whole vector, is lost.
template <class T>
INLINE int64_t compress(Vec<T> v, Mask<T> mask, T* to) {
#if defined(__AVX512F__)
  const auto chosen = bits(mask);
  store<T>(to, compressed(chosen, v));
  return __builtin_popcount(chosen);
#else
  int64_t count = 0;
  if (any<T>(mask))
    for (int64_t i = 0; i < kLanes<T>; ++i) to[count] = v[i], count -= mask[i];
  return count;
#endif
}

// The reverse: a vector with the lanes that the mask chooses from `from`, where a whole vector can be read, and zero
// elsewhere; `from` is moved past them.
template <class T>
INLINE Vec<T> expand(Mask<T> mask, const T*& from) {
#if defined(__AVX512F__)
  const auto chosen = bits(mask);
  const Vec<T> v = expanded(chosen, load(from));
  from += __builtin_popcount(chosen);
  return v;
#else
  Vec<T> v{};
  if (any<T>(mask))
    for (int64_t i = 0; i < kLanes<T>; ++i) v[i] = mask[i] ? *from : T(0), from -= mask[i];
  return v;
#endif
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
