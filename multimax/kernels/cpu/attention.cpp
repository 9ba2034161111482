// The operators of multimax/kernels/attention.py on the CPU.
//
// A thread takes a block of the queries of one head, small enough that its scores and weights stay in the core's cache
// between the matrix products, which are torch's; the backward recomputes them. Keys behind a block's last live one
// cost nothing: with a causal mask that is about half of them.

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <string>
#include <tuple>

#include "tensors.h"

namespace {

using namespace multimax;

// Queries of a block: as many as have kBlockScores scores, within bounds. Fewer if every query has a mask of its own,
// since a block needs all keys up to the last live one of any of them.
constexpr int64_t kBlockScores = 1 << 17, kFewestQueries = 64, kMostQueries = 256, kMostMasked = 128;
// Fewer heads than this in a batch are cut into about this many parts.
constexpr int64_t kParts = 32;

template <class T>
struct Matrix {
  T* data;
  int64_t rows, columns, row_stride, column_stride;

  Matrix t() const { return {data, columns, rows, column_stride, row_stride}; }
  Matrix from(int64_t first, int64_t count) const { return {row(first), count, columns, row_stride, column_stride}; }

  T* row(int64_t i) const { return data + i * row_stride; }

  Tensor tensor() const {
    const auto type = std::is_same_v<T, float> ? ScalarType::Float : ScalarType::Double;
    const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
    return torch::stable::from_blob(data, {rows, columns}, {row_stride, column_stride}, cpu, type);
  }
};

// c = scale a b, or c += scale a b
template <class T>
void multiply(const Matrix<T>& a, const Matrix<T>& b, const Matrix<T>& c, double scale = 1, bool adds = false) {
  const Tensor left = a.tensor(), right = b.tensor(), product = c.tensor();
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(product.get(), product.get(), left.get(), right.get(), adds, scale));
}

template <class T>
void clear(const Matrix<T>& m) {
  for (int64_t i = 0; i < m.rows; ++i)
    for (int64_t j = 0; j < m.columns; ++j) m.data[i * m.row_stride + j * m.column_stride] = 0;
}

template <class T>
void add(const Matrix<T>& m, const Matrix<T>& to) {
  for (int64_t i = 0; i < m.rows; ++i)
    for (int64_t j = 0; j < m.columns; ++j)
      to.data[i * to.row_stride + j * to.column_stride] += m.data[i * m.row_stride + j * m.column_stride];
}

// The matrices of a tensor [batch, heads, length, dim]. A unit is one head of one element of the batch.
template <class T>
class Units {
 public:
  explicit Units(const Tensor& t) : t_(t), data_(mutable_data<T>(t)) {}

  Matrix<T> operator[](int64_t unit) const {
    T* data = data_ + unit / t_.size(1) * t_.stride(0) + unit % t_.size(1) * t_.stride(1);
    return {data, t_.size(2), t_.size(3), t_.stride(2), t_.stride(3)};
  }

 private:
  const Tensor t_;
  T* data_;
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Each unit's queries in blocks, and these in parts, which are what threads work on. They depend on nothing but the
// shapes and whether queries share a mask, and so do the bits of sums over them.
struct Parts {
  int64_t units, queries, keys, per_block, per_part = 1, of_unit = 0;

  Parts(const Tensor& query, const Tensor& key, const RowMask& mask)
      : units(query.size(0) * query.size(1)), queries(query.size(2)), keys(key.size(2)) {
    const int64_t fitting = kBlockScores / std::max<int64_t>(1, keys);
    const int64_t most = mask.is_of_each_query() ? kMostMasked : kMostQueries;
    const int64_t blocks = ceil_div(queries, std::clamp(fitting, kFewestQueries, most));
    if (blocks == 0 || units == 0) return;
    per_block = ceil_div(queries, blocks);
    per_part = ceil_div(blocks, ceil_div(kParts, units)) * per_block;
    of_unit = ceil_div(queries, per_part);
  }

  // Calls block(part, first query, queries) for all of them with the block() that make() makes for each thread.
  template <class Make>
  void for_each_block(const Make& make) const {
    torch::stable::parallel_for(0, units * of_unit, 1, [&](int64_t begin, int64_t end) {
      auto block = make();
      for (int64_t part = begin; part < end; ++part) {
        const int64_t first = part % of_unit * per_part, last = std::min(queries, first + per_part);
        for (int64_t i = first; i < last; i += per_block) block(part, i, std::min(per_block, last - i));
      }
    });
  }
};

// Scores of a block, or what is as many.
template <class T>
class Buffer {
 public:
  explicit Buffer(const Parts& parts)
      : stride_(whole_vectors<T>(parts.keys)), data_(new (kAlignment) T[parts.per_block * stride_]) {}

  Matrix<T> matrix(int64_t rows, int64_t columns) const { return {data_.get(), rows, columns, stride_, 1}; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* data) const { operator delete[](data, kAlignment); }
  };

  int64_t stride_;
  std::unique_ptr<T[], Free> data_;
};

// The m and s of all rows in a tensor [2, batch, heads, queries].
template <class T>
class RowStatistics {
 public:
  explicit RowStatistics(const Tensor& t) : m_(mutable_data<T>(t)), s_(m_ + t.numel() / 2) {}

  Statistics<T> operator[](int64_t row) const { return {m_[row], s_[row]}; }
  void set(int64_t row, const Statistics<T>& of_row) const { m_[row] = of_row.m, s_[row] = of_row.s; }

 private:
  T *m_, *s_;
};

// The scores and weights of some queries of a unit, for the keys up to the last live one. A thread has one of them and
// fills it for one block after another.
template <class Kernel>
class Block {
  using T = typename Kernel::Number;

 public:
  Block(const Parts& parts, const RowMask& mask, const Kernel& kernel)
      : queries_(parts.queries),
        heads_(kernel.heads()),
        rows_(kernel, parts.keys),
        live_(mask, parts.keys),
        x_(parts),
        p_(parts) {}

  Matrix<T> weights;

  // The scores, and place for the weights.
  void make(int64_t unit, int64_t first, const Matrix<T>& query, const Matrix<T>& key, double scale) {
    head_ = unit % heads_;
    row_ = unit * queries_ + first;
    const int64_t reach = live_.reach(row_, row_ + query.rows);
    scores_ = x_.matrix(query.rows, reach);
    weights = p_.matrix(query.rows, reach);
    multiply(query, key.from(0, reach).t(), scores_, scale);
  }

  void weigh(const RowStatistics<T>& statistics) {
    for (int64_t i = 0; i < weights.rows; ++i) {
      const auto of_row = rows_.forward(scores_.row(i), weights.columns, head_, live_(row_ + i), weights.row(i));
      statistics.set(row_ + i, of_row);
    }
  }

  // Makes the weights, and in the place of the weights' gradient that of the scores.
  void differentiate(const RowStatistics<T>& statistics, const Matrix<T>& grad) {
    for (int64_t i = 0; i < weights.rows; ++i)
      rows_.backward_anew(scores_.row(i), grad.row(i), weights.columns, head_, live_(row_ + i), statistics[row_ + i],
                          weights.row(i), grad.row(i));
  }

  void collect(double* totals) { rows_.kernel.collect(head_, totals); }

 private:
  const int64_t queries_, heads_;
  TensorRows<T, Kernel> rows_;
  LiveEntries live_;
  Buffer<T> x_, p_;
  int64_t head_, row_;
  Matrix<T> scores_;
};

template <class Kernel>
void attend(const Tensor& query, const Tensor& key, const Tensor& value, const RowMask& mask, const Kernel& kernel,
            double scale, const Tensor& output, const Tensor& statistics) {
  using T = typename Kernel::Number;
  const Parts parts(query, key, mask);
  const Units<T> q(query), k(key), v(value), out(output);
  const RowStatistics<T> of_rows(statistics);
  parts.for_each_block([&] {
    return [&, block = Block<Kernel>(parts, mask, kernel)](int64_t part, int64_t first, int64_t count) mutable {
      const int64_t unit = part / parts.of_unit;
      block.make(unit, first, q[unit].from(first, count), k[unit], scale);
      block.weigh(of_rows);
      multiply(block.weights, v[unit].from(0, block.weights.columns), out[unit].from(first, count));
    };
  });
}

// Sets the gradients of query, key and value; returns the kernel's sums for each of its heads.
template <class Kernel>
std::vector<double> differentiate(const Tensor& grad, const Tensor& query, const Tensor& key, const Tensor& value,
                                  const RowMask& mask, const Tensor& statistics, const Kernel& kernel, double scale,
                                  const Tensor& grad_query, const Tensor& grad_key, const Tensor& grad_value) {
  using T = typename Kernel::Number;
  const Parts parts(query, key, mask);
  // A unit's first part adds up in the gradients themselves, each other one in a place of its own.
  auto places = [&](const Tensor& t) {
    const int64_t others = std::max<int64_t>(0, parts.of_unit - 1);
    return torch::stable::new_empty(t, {others, parts.units, t.size(2), t.size(3)});
  };
  const Units<T> q(query), k(key), v(value), g(grad), dq(grad_query), dk(grad_key), dv(grad_value);
  const Units<T> other_dk(places(key)), other_dv(places(value));
  const RowStatistics<T> of_rows(statistics);
  std::vector<double> totals(Kernel::kTotals * parts.units * parts.of_unit);
  parts.for_each_block([&] {
    return [&, block = Block<Kernel>(parts, mask, kernel), buffer = Buffer<T>(parts)](int64_t part, int64_t first,
                                                                                      int64_t count) mutable {
      const int64_t unit = part / parts.of_unit, other = part % parts.of_unit - 1;
      const auto place = [&](const Units<T>& own, const Units<T>& others) {
        return other < 0 ? own[unit] : others[other * parts.units + unit];
      };
      const auto q_block = q[unit].from(first, count), g_block = g[unit].from(first, count);
      const auto to_dk = place(dk, other_dk), to_dv = place(dv, other_dv);
      block.make(unit, first, q_block, k[unit], scale);
      const int64_t reach = block.weights.columns;
      const auto grad_scores = buffer.matrix(count, reach);
      multiply(g_block, v[unit].from(0, reach).t(), grad_scores);
      block.differentiate(of_rows, grad_scores);
      block.collect(totals.data() + Kernel::kTotals * part);
      const bool adds = first % parts.per_part > 0;
      if (!adds)
        for (const auto& to : {to_dk, to_dv}) clear(to.from(reach, parts.keys - reach));
      multiply(block.weights.t(), g_block, to_dv.from(0, reach), 1, adds);
      multiply(grad_scores.t(), q_block, to_dk.from(0, reach), scale, adds);
      multiply(grad_scores, k[unit].from(0, reach), dq[unit].from(first, count), scale);
    };
  });
  torch::stable::parallel_for(0, parts.units, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      if (parts.queries == 0) clear(dk[unit]), clear(dv[unit]);
      for (int64_t other = 0; other + 1 < parts.of_unit; ++other) {
        add(other_dk[other * parts.units + unit], dk[unit]);
        add(other_dv[other * parts.units + unit], dv[unit]);
      }
    }
  });
  const int64_t heads = kernel.heads();
  return sums_by_head(totals, Kernel::kTotals, heads, [&](int64_t part) { return part / parts.of_unit % heads; });
}

// Calls f with a null pointer to the type of the computation.
template <class F>
void with_type(const Tensor& query, const F& f) {
  if (query.scalar_type() == ScalarType::Double) return f((double*)nullptr);
  f((float*)nullptr);
}

// How the scores are weighed: as attention.py has it.
struct RowKernelArguments {
  std::string kind;
  std::optional<Tensor> first, second;
  std::vector<int64_t> powers;
  double number;

  void check_parameters(int64_t heads) const {
    STD_TORCH_CHECK(kind == "multimax" || kind == "alpha_entmax" || kind == "entmax" || kind == "evsoftmax",
                    "kind must be multimax, alpha_entmax, entmax or evsoftmax, got ", kind);
    STD_TORCH_CHECK(first.has_value() == (kind == "multimax" || kind == "alpha_entmax") &&
                        second.has_value() == (kind == "multimax"),
                    "multimax takes two tensors, alpha_entmax one, the others none");
    if (first) check_heads("first", *first, heads);
  }

  template <class T, class F>
  void with_kernel(int64_t keys, const F& f) const {
    if (kind == "multimax")
      with_multimax<T>(*first, *second, powers, f);
    else if (kind == "alpha_entmax")
      f(EntmaxKernel<T>(alphas_of<T>(*first), true, keys));
    else if (kind == "entmax")
      f(EntmaxKernel<T>({checked_alpha(number)}, false, keys));
    else
      f(EvsoftmaxKernel<T>(number));
  }
};

// The shape of the scores; raises unless query, key and value fit together.
std::vector<int64_t> scores_shape(const Tensor& query, const Tensor& key, const Tensor& value) {
  for (const Tensor& t : {query, key, value})
    STD_TORCH_CHECK(t.dim() == 4, "query, key and value must be [batch, heads, length, dim]");
  const int64_t batch = query.size(0), heads = query.size(1), keys = key.size(2);
  const ScalarType type = query.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "query must be float32 or float64");
  check("query", query, type, sizes_of(query));
  check("key", key, type, {batch, heads, keys, query.size(3)});
  check("value", value, type, {batch, heads, keys, value.size(3)});
  return {batch, heads, query.size(2), keys};
}

std::tuple<Tensor, Tensor> attention_forward(Tensor query, Tensor key, Tensor value, std::optional<Tensor> mask,
                                             std::optional<Tensor> first, std::optional<Tensor> second,
                                             std::vector<int64_t> powers, double number, std::string kind,
                                             double scale) {
  const RowKernelArguments row_kernel{kind, first, second, powers, number};
  const auto shape = scores_shape(query, key, value);
  row_kernel.check_parameters(shape[1]);
  std::optional<Tensor> held;
  const RowMask rows = row_mask(mask, shape, held);
  Tensor output = torch::stable::new_empty(value, {query.size(0), query.size(2), query.size(1), value.size(3)});
  output = torch::stable::transpose(output, 1, 2);
  Tensor statistics = torch::stable::new_empty(query, {2, query.size(0), query.size(1), query.size(2)});
  with_type(query, [&]<class T>(T*) {
    row_kernel.with_kernel<T>(
        key.size(2), [&](const auto& kernel) { attend(query, key, value, rows, kernel, scale, output, statistics); });
  });
  return {output, statistics};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_backward(
    Tensor grad, Tensor statistics, Tensor query, Tensor key, Tensor value, std::optional<Tensor> mask,
    std::optional<Tensor> first, std::optional<Tensor> second, std::vector<int64_t> powers, double number,
    std::string kind, double scale) {
  const RowKernelArguments row_kernel{kind, first, second, powers, number};
  const auto shape = scores_shape(query, key, value);
  row_kernel.check_parameters(shape[1]);
  check("grad", grad, query.scalar_type(), {shape[0], shape[1], shape[2], value.size(3)});
  check("statistics", statistics, query.scalar_type(), {2, shape[0], shape[1], shape[2]});
  Tensor grad_query = torch::stable::empty_like(query), grad_key = torch::stable::empty_like(key);
  Tensor grad_value = torch::stable::empty_like(value);
  auto like = [&](const std::optional<Tensor>& parameter) {
    return parameter ? torch::stable::new_empty(*parameter, parameter->sizes()) : torch::stable::new_empty(query, {0});
  };
  Tensor grad_first = like(first), grad_second = like(second);
  statistics = torch::stable::contiguous(statistics);
  std::optional<Tensor> held;
  const RowMask rows = row_mask(mask, shape, held);
  with_type(query, [&]<class T>(T*) {
    row_kernel.with_kernel<T>(key.size(2), [&](const auto& kernel) {
      const auto sums =
          differentiate(grad, query, key, value, rows, statistics, kernel, scale, grad_query, grad_key, grad_value);
      if (second)
        set_multimax_gradients<T>(sums, powers, grad_first, grad_second);
      else if (first)
        set_alpha_gradients<T>(sums, grad_first);
    });
  });
  return {grad_query, grad_key, grad_value, grad_first, grad_second};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(multimax, CPU, library) {
  library.impl("attention_forward", TORCH_BOX(&attention_forward));
  library.impl("attention_backward", TORCH_BOX(&attention_backward));
}
