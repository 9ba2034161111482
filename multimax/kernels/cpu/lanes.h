// Operations on some lanes of a vector: masked loads and stores, compress and expand.
//
// The compiler's vector extension lacks them; AVX-512 has them all, AVX2 most.

#pragma once

#include "vectors.h"

namespace multimax {

#if defined(__AVX512F__)
template <class T>
struct Lanes;

template <>
struct Lanes<float> {
  __mmask16 bits;

  static INLINE Lanes first(int64_t count) { return {static_cast<__mmask16>((1u << count) - 1)}; }
  static INLINE Lanes above(Vec<float> v, float bound) {
    return {_mm512_cmp_ps_mask(v, _mm512_set1_ps(bound), _CMP_GT_OQ)};
  }
  static INLINE Lanes not_zero(Vec<float> v) { return {_mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ)}; }

  INLINE int64_t count() const { return __builtin_popcount(bits); }
  INLINE Vec<float> loaded(const float* from) const { return _mm512_maskz_loadu_ps(bits, from); }
  INLINE void store(float* to, Vec<float> v) const { _mm512_mask_storeu_ps(to, bits, v); }
  INLINE Vec<float> compressed(Vec<float> v) const { return _mm512_maskz_compress_ps(bits, v); }
  INLINE Vec<float> expanded(Vec<float> v) const { return _mm512_maskz_expand_ps(bits, v); }
};

template <>
struct Lanes<double> {
  __mmask8 bits;

  static INLINE Lanes first(int64_t count) { return {static_cast<__mmask8>((1u << count) - 1)}; }
  static INLINE Lanes above(Vec<double> v, double bound) {
    return {_mm512_cmp_pd_mask(v, _mm512_set1_pd(bound), _CMP_GT_OQ)};
  }
  static INLINE Lanes not_zero(Vec<double> v) { return {_mm512_cmp_pd_mask(v, _mm512_setzero_pd(), _CMP_NEQ_UQ)}; }

  INLINE int64_t count() const { return __builtin_popcount(bits); }
  INLINE Vec<double> loaded(const double* from) const { return _mm512_maskz_loadu_pd(bits, from); }
  INLINE void store(double* to, Vec<double> v) const { _mm512_mask_storeu_pd(to, bits, v); }
  INLINE Vec<double> compressed(Vec<double> v) const { return _mm512_maskz_compress_pd(bits, v); }
  INLINE Vec<double> expanded(Vec<double> v) const { return _mm512_maskz_expand_pd(bits, v); }
};

#else

#if defined(__AVX2__)
// For each choice of eight lanes: the indices of the chosen ones, and for each lane its index among them.
struct LaneTable {
  uint8_t chosen[256][8] = {}, place[256][8] = {};

  constexpr LaneTable() {
    for (int choice = 0; choice < 256; ++choice)
      for (int lane = 0, count = 0; lane < 8; ++lane) {
        place[choice][lane] = count;
        if (choice >> lane & 1) chosen[choice][count++] = lane;
      }
  }
};
inline constexpr LaneTable kLaneTable;

template <class V>
INLINE V permuted(V v, const uint8_t (&lanes)[8]) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(lanes));
  return (V)_mm256_permutevar8x32_ps((__m256)v, _mm256_cvtepu8_epi32(bytes));
}
#endif

template <class T>
struct Lanes {
  Mask<T> mask;

  static INLINE Lanes first(int64_t count) { return {multimax::first<T>(count)}; }
  static INLINE Lanes above(Vec<T> v, T bound) { return {v > bound}; }
  static INLINE Lanes not_zero(Vec<T> v) { return {v != Vec<T>{}}; }

#if defined(__AVX2__)
  // Eight lanes of float: a double takes two of them, and both or neither are chosen.
  INLINE int choice() const { return _mm256_movemask_ps((__m256)mask); }
  INLINE int64_t count() const { return __builtin_popcount(choice()) * sizeof(float) / sizeof(T); }
  INLINE Vec<T> loaded(const T* from) const {
    if constexpr (std::is_same_v<T, float>)
      return _mm256_maskload_ps(from, (__m256i)mask);
    else
      return _mm256_maskload_pd(from, (__m256i)mask);
  }
  INLINE void store(T* to, Vec<T> v) const {
    if constexpr (std::is_same_v<T, float>)
      _mm256_maskstore_ps(to, (__m256i)mask, v);
    else
      _mm256_maskstore_pd(to, (__m256i)mask, v);
  }
  INLINE Vec<T> compressed(Vec<T> v) const { return permuted(v, kLaneTable.chosen[choice()]); }
  INLINE Vec<T> expanded(Vec<T> v) const { return mask ? permuted(v, kLaneTable.place[choice()]) : Vec<T>{}; }
#else
  // All lanes stay where they are, since moving them one by one would cost more than it saves.
  INLINE int64_t count() const { return kLanes<T>; }
  INLINE Vec<T> loaded(const T* from) const {
    T entries[kLanes<T>] = {};
    for (int64_t i = 0; i < kLanes<T>; ++i)
      if (mask[i]) entries[i] = from[i];
    return load(entries);
  }
  INLINE void store(T* to, Vec<T> v) const {
    for (int64_t i = 0; i < kLanes<T>; ++i)
      if (mask[i]) to[i] = v[i];
  }
  INLINE Vec<T> compressed(Vec<T> v) const { return v; }
  INLINE Vec<T> expanded(Vec<T> v) const { return mask ? v : Vec<T>{}; }
#endif
};
#endif

// Writes the chosen lanes of v to `to`, or all lanes if they cannot be moved, and returns their number. Memory after
// them, up to a whole vector, is overwritten.
template <class T>
INLINE int64_t compress(Lanes<T> lanes, Vec<T> v, T* to) {
  store<T>(to, lanes.compressed(v));
  return lanes.count();
}

// The reverse: a vector with the chosen lanes from `from`, of which a whole vector can be read, and zeros elsewhere;
// `from` is moved past them.
template <class T>
INLINE Vec<T> expand(Lanes<T> lanes, const T*& from) {
  const Vec<T> v = lanes.expanded(load(from));
  from += lanes.count();
  return v;
}

}  // namespace multimax
