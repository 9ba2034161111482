// From tensors to rows of live scores: masks, half precision and the division of the work.

#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "row_loops.h"

namespace multimax {

// Where a row's live entries are: in a contiguous run or, if they are scattered, at `index`.
struct Live {
  int64_t first, count;
  const uint32_t* index;

  int64_t operator[](int64_t i) const { return index ? index[i] : first + i; }
};

// A mask that broadcasts to the scores: its strides for their leading dimensions and for the last one (0 or 1). The
// stride of a dimension of size 1 is 0.
struct RowMask {
  const bool* data = nullptr;  // null if all is live
  int64_t last_stride = 0;
  std::vector<int64_t> sizes, strides;

  bool is_of_each_query() const { return data && strides.back() != 0; }

  const bool* row(int64_t r) const {
    const bool* at = data;
    for (size_t k = sizes.size(); k-- > 0; r /= sizes[k]) at += r % sizes[k] * strides[k];
    return at;
  }
};

// The live entries of successive rows; a part of the mask that rows share is read once.
class LiveEntries {
 public:
  LiveEntries(const RowMask& mask, int64_t n) : mask_(mask), n_(n), live_{0, n, nullptr} {}

  const Live& operator()(int64_t r) {
    if (mask_.data == nullptr) return live_;
    const bool* row = mask_.row(r);
    if (row == seen_) return live_;
    seen_ = row;
    if (mask_.last_stride == 0)
      live_ = {0, *row ? n_ : 0, nullptr};
    else
      look(row);
    return live_;
  }

  // The live entries and one more: the one after a contiguous run of live entries or, if they are scattered, `end`,
  // which is after all entries of the row.
  Live with(int64_t r, int64_t end) {
    Live live = (*this)(r);
    if (live.index) index_[live.count] = static_cast<uint32_t>(end);
    ++live.count;
    return live;
  }

  // One past the last entry that is live in any row of [begin, end).
  int64_t reach(int64_t begin, int64_t end) const {
    if (mask_.data == nullptr) return n_;
    int64_t reach = 0;
    const bool* seen = nullptr;
    for (int64_t r = end; r-- > begin && reach < n_;) {
      const bool* row = mask_.row(r);
      if (row == std::exchange(seen, row)) continue;
      int64_t i = n_;
      while (i > reach && !row[mask_.last_stride * (i - 1)]) --i;
      reach = i;
    }
    return reach;
  }

 private:
  void look(const bool* row) {
    int64_t count = 0;
    for (int64_t i = 0; i < n_; ++i) count += row[i];
    if (count == 0 || count == n_) {
      live_ = {0, count, nullptr};
      return;
    }
    int64_t first = static_cast<const bool*>(std::memchr(row, 1, n_)) - row, last = n_ - 1;
    while (!row[last]) --last;
    live_ = {first, count, nullptr};
    if (last - first + 1 == count) return;
    index_.resize(n_ + 1);
    int64_t k = 0;
    for (int64_t i = first; i <= last; ++i) {
      index_[k] = static_cast<uint32_t>(i);
      k += row[i];
    }
    live_.index = index_.data();
  }

  const RowMask& mask_;
  const int64_t n_;
  const bool* seen_ = nullptr;
  Live live_;
  std::vector<uint32_t> index_;
};

// Memory for a row's live entries if they cannot be used in place because they are scattered or of another type.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t n) : entries_(new T[n]) {}

  // A row's live entries, contiguous.
  template <class S>
  Row<const T> fetch(const S* row, const Live& live) {
    if constexpr (std::is_same_v<S, T>)
      if (live.index == nullptr) return {row + live.first};
    for (int64_t i = 0; i < live.count; ++i) entries_[i] = static_cast<T>(row[live[i]]);
    return {entries_.get()};
  }

  // Where the kernels write what `deliver` then copies to `row`.
  template <class S>
  Row<T> destination(S* row, const Live& live) {
    if constexpr (std::is_same_v<S, T>)
      if (live.index == nullptr) return {row + live.first};
    return {entries_.get()};
  }

 private:
  std::unique_ptr<T[]> entries_;
};

// Sets the live entries of `row` from `values`, and the others to zero.
template <class S, class T>
void deliver(const Row<T>& values, const Live& live, int64_t n, S* row) {
  if (live.count < n) {
    if (live.index) {
      std::fill(row, row + n, S(0));
    } else {
      std::fill(row, row + live.first, S(0));
      std::fill(row + live.first + live.count, row + n, S(0));
    }
  }
  if constexpr (std::is_same_v<S, T>)
    if (values.data == row + live.first) return;
  for (int64_t i = 0; i < live.count; ++i) row[live[i]] = static_cast<S>(values.data[i]);
}

// Rows in chunks that depend only on the shape, each within one head, so that sums per chunk, added in order, have the
// same bits for any number of threads.
struct Chunks {
  static constexpr int64_t kEntries = 16384;
  int64_t rows, rows_per_group, heads, rows_per_chunk, chunks_per_group;

  // `queries`: consecutive rows of one head.
  Chunks(int64_t rows, int64_t n, int64_t queries, int64_t heads)
      : rows(rows), rows_per_group(heads == 1 ? rows : queries), heads(heads) {
    rows_per_chunk = std::max<int64_t>(1, kEntries / std::max<int64_t>(1, n));
    chunks_per_group = (rows_per_group + rows_per_chunk - 1) / rows_per_chunk;
  }

  int64_t count() const { return rows == 0 ? 0 : rows / rows_per_group * chunks_per_group; }
  int64_t head(int64_t chunk) const { return chunk / chunks_per_group % heads; }
  int64_t begin(int64_t chunk) const {
    return chunk / chunks_per_group * rows_per_group + chunk % chunks_per_group * rows_per_chunk;
  }
  int64_t end(int64_t chunk) const {
    return std::min(begin(chunk) + rows_per_chunk, (chunk / chunks_per_group + 1) * rows_per_group);
  }
};

}  // namespace multimax
