// A row of entries as vectors: positions, loops and sums.

#pragma once

#include "lanes.h"

namespace multimax {

// The position of a vector in a row: a whole one from entry i on, or the last `count` entries, fewer than a vector.
struct Whole {
  int64_t i;
};
struct Part {
  int64_t i, count;
};

// The longest row that is prefetched: several such rows stay in a core's cache until they are used.
template <class T>
constexpr int64_t kFetched = 32768 / sizeof(T);

// A row of entries as vectors; a partial one has zeros in its other lanes. It is loaded in order and not
// in advance, since the processor prefetches only what is accessed in order.
template <class Entry>
struct Row {
  using T = std::remove_const_t<Entry>;

  Entry* data;

  INLINE Vec<T> operator[](Whole at) const { return load<T>(data + at.i); }
  INLINE Vec<T> operator[](Part at) const { return Lanes<T>::first(at.count).loaded(data + at.i); }
  INLINE void set(Whole at, Vec<T> v) const { store(data + at.i, v); }
  INLINE void set(Part at, Vec<T> v) const { Lanes<T>::first(at.count).store(data + at.i, v); }

  // Prefetches what is `ahead` entries after a position, which may be outside the tensor. A processor by itself only
  // prefetches within a page, and a row of an attention map is shorter than that.
  template <class Place>
  INLINE void fetch(Place at, int64_t ahead) const {
    if (ahead <= kFetched<T>) __builtin_prefetch(data + at.i + ahead);
  }
};

// n rounded up to whole vectors.
template <class T>
constexpr int64_t whole_vectors(int64_t n) {
  return (n + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// v with `padding` in the lanes without an entry.
template <class T>
INLINE Vec<T> padded(Whole, Vec<T> v, T) {
  return v;
}

template <class T>
INLINE Vec<T> padded(Part at, Vec<T> v, T padding) {
  return first<T>(at.count) ? v : splat(padding);
}

// Sets what follows n entries, up to a whole vector.
template <class T>
INLINE void pad(T* row, int64_t n, T padding) {
  T* last = row + n / kLanes<T> * kLanes<T>;
  if (n % kLanes<T> != 0) store(last, padded<T>(Part{0, n % kLanes<T>}, load(last), padding));
}

template <class T>
constexpr int64_t kBlock = 32 * kLanes<T>;

// Calls body(at) for each vector of a row of n entries, and after_block() after every kBlock of them and at the end.
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

// Totals of k quantities over a row of n entries: add(at, sums) adds those of the vector at a position to sums[0..k).
// The sums of blocks are added with Kahan's correction, so a long row is as exact as a short one. A row of one block,
// where the kernels wait for each total, does without.
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

}  // namespace multimax
