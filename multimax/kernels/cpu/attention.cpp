// The operators of multimax/kernels/attention.py on the CPU.
//
// A thread takes a block of queries of one head, small enough that its scores and weights stay in the core's cache
// between the matrix products, which are torch's; the backward recomputes them. Keys after a block's last live one
// cost nothing: with a causal mask these are about half of all keys.
//
// The score of a sink is written after those of a row's live keys: over the next key, which is dead, if the live keys
// are contiguous, and otherwise after all keys. Its weight is then set to zero, since the sink has no value.

#include <algorithm>
#include <string>
#include <tuple>

#include "kernel_arguments.h"
#include "matrices.h"

namespace {

using namespace multimax;

// Queries in a block: as many as have kBlockScores scores, within bounds. Fewer if every query has its own mask, since
// a block computes all keys up to the last that is live for any of its queries.
constexpr int64_t kBlockScores = 1 << 17, kFewestQueries = 64, kMostQueries = 256, kMostMasked = 128;
// If a batch has fewer heads than this, they are cut into about this many parts.
constexpr int64_t kParts = 32;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Each unit's queries in blocks, and the blocks in parts, on which the threads work. They depend only on the shapes and
// on whether queries share a mask, and so do the bits of sums over them.
struct Parts {
  int64_t units, queries, keys, per_block, per_part = 1, of_unit = 0, at_once;

  // `in_turn`: a thread takes the same part of a head in all batch elements in turn, so it may add to what these share.
  Parts(const Tensor& query, const Tensor& key, const RowMask& mask, bool in_turn = false)
      : units(query.size(0) * query.size(1)),
        queries(query.size(2)),
        keys(key.size(2)),
        at_once(in_turn ? query.size(1) : units) {
    const int64_t fitting = kBlockScores / std::max<int64_t>(1, keys);
    const int64_t most = mask.is_of_each_query() ? kMostMasked : kMostQueries;
    const int64_t blocks = ceil_div(queries, std::clamp(fitting, kFewestQueries, most));
    if (blocks == 0 || units == 0) return;
    per_block = ceil_div(queries, blocks);
    per_part = ceil_div(blocks, ceil_div(kParts, at_once)) * per_block;
    of_unit = ceil_div(queries, per_part);
  }

  // Calls block(part, first query, queries) for every block; make() makes each thread's block().
  template <class Make>
  void for_each_block(const Make& make) const {
    torch::stable::parallel_for(0, at_once * of_unit, 1, [&](int64_t begin, int64_t end) {
      auto block = make();
      for (int64_t begun = begin; begun < end; ++begun)
        for (int64_t part = begun; part < units * of_unit; part += at_once * of_unit) {
          const int64_t first = part % of_unit * per_part, last = std::min(queries, first + per_part);
          for (int64_t i = first; i < last; i += per_block) block(part, i, std::min(per_block, last - i));
        }
    });
  }
};

// The scores of a block and of its sink, or as many other numbers.
template <class T>
class Buffer {
 public:
  explicit Buffer(const Parts& parts)
      : stride_(whole_vectors<T>(parts.keys + 1)), data_(new (kAlignment) T[parts.per_block * stride_]) {}

  Matrix<T> matrix(int64_t rows, int64_t columns) const { return {data_.get(), rows, columns, stride_, 1}; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* data) const { operator delete[](data, kAlignment); }
  };

  int64_t stride_;
  std::unique_ptr<T[], Free> data_;
};

// The m and s of all rows, in a tensor [2, batch, heads, queries].
template <class T>
class RowStatistics {
 public:
  explicit RowStatistics(const Tensor& t) : m_(mutable_data<T>(t)), s_(m_ + t.numel() / 2) {}

  Statistics<T> operator[](int64_t row) const { return {m_[row], s_[row]}; }
  void set(int64_t row, const Statistics<T>& of_row) const { m_[row] = of_row.m, s_[row] = of_row.s; }

 private:
  T *m_, *s_;
};

// What turns products of queries and keys into scores, as in attention.py.
template <class T>
struct Extras {
  double softcap;                // 0 for none
  std::optional<Units<T>> bias;  // with as many units as the scores, or one per head
  const T* sinks;                // one for each head, or null
  int64_t heads, biases;

  Extras(const std::optional<Tensor>& of_keys, const std::optional<Tensor>& sink, double softcap, int64_t heads)
      : softcap(softcap),
        sinks(sink ? data<T>(*sink) : nullptr),
        heads(heads),
        biases(of_keys ? of_keys->size(0) * of_keys->size(1) : 1) {
    if (of_keys) bias.emplace(*of_keys);
  }
};

// Softcaps n products and sets the slopes there, unless these are null.
template <class T>
void cap(T* row, int64_t n, T softcap, T* slopes) {
  const Row<T> x{row}, slope{slopes};
  each<T>(n, [&](auto at) INLINED {
    const Vec<T> t = hyperbolic_tangent<T>(x[at] / softcap);
    x.set(at, t * softcap);
    if (slopes) slope.set(at, T(1) - t * t);
  });
}

// The scores and weights of some queries of a unit, for the keys up to the last live one. Each thread has one, reused
// for all of its blocks.
template <class Kernel>
class Block {
  using T = typename Kernel::Number;

 public:
  Block(const Parts& parts, const RowMask& mask, const Extras<T>& extras, const Kernel& kernel)
      : queries_(parts.queries),
        heads_(kernel.heads()),
        extras_(extras),
        rows_(kernel, parts.keys + 1),
        live_(mask, parts.keys),
        x_(parts),
        p_(parts) {}

  Matrix<T> weights;

  // Computes the scores, with memory for the weights; `slopes` is null, or memory for a softcap's slopes.
  void make(int64_t unit, int64_t first, const Matrix<T>& query, const Matrix<T>& key, double scale,
            Buffer<T>* slopes = nullptr) {
    unit_ = unit;
    head_ = unit % heads_;
    row_ = unit * queries_ + first;
    const int64_t reach = live_.reach(row_, row_ + query.rows);
    scores_ = x_.matrix(query.rows, reach);
    weights = p_.matrix(query.rows, reach);
    multiply(query, key.from(0, reach).t(), scores_, scale);
    if (extras_.softcap)
      for (int64_t i = 0; i < query.rows; ++i)
        cap<T>(scores_.row(i), reach, extras_.softcap, slopes ? slopes->matrix(query.rows, reach).row(i) : nullptr);
    if (extras_.bias) add((*extras_.bias)[unit % extras_.biases].from(first, query.rows).before(reach), scores_);
  }

  void weigh(const RowStatistics<T>& statistics) {
    for (int64_t i = 0; i < weights.rows; ++i) {
      const Live live = prepared(i);
      statistics.set(row_ + i, rows_.forward(scores_.row(i), width(), head_, live, weights.row(i)));
      if (extras_.sinks) weights.row(i)[sink_] = 0;
    }
  }

  // Computes the weights, overwrites their gradient with that of the scores, and returns the sink's.
  double differentiate(const RowStatistics<T>& statistics, const Matrix<T>& grad) {
    double of_sink = 0;
    for (int64_t i = 0; i < weights.rows; ++i) {
      const Live live = prepared(i);
      if (extras_.sinks) grad.row(i)[sink_] = 0;
      rows_.backward_anew(scores_.row(i), grad.row(i), width(), head_, live, statistics[row_ + i], weights.row(i),
                          grad.row(i));
      if (extras_.sinks) of_sink += std::exchange(grad.row(i)[sink_], 0), weights.row(i)[sink_] = 0;
    }
    return of_sink;
  }

  void collect(double* totals) { rows_.kernel.collect(head_, totals); }

 private:
  int64_t width() const { return weights.columns + (extras_.sinks != nullptr); }

  // The live entries of a row of scores, including the sink's score, which it writes.
  Live prepared(int64_t i) {
    if (extras_.sinks == nullptr) return live_(row_ + i);
    const Live live = live_.with(row_ + i, weights.columns);
    sink_ = live[live.count - 1];
    scores_.row(i)[sink_] = extras_.sinks[unit_ % extras_.heads];
    return live;
  }

  const int64_t queries_, heads_;
  const Extras<T>& extras_;
  TensorRows<T, Kernel> rows_;
  LiveEntries live_;
  Buffer<T> x_, p_;
  int64_t unit_, head_, row_, sink_;
  Matrix<T> scores_;
};

template <class Kernel>
void attend(const Tensor& query, const Tensor& key, const Tensor& value, const RowMask& mask,
            const Extras<typename Kernel::Number>& extras, const Kernel& kernel, double scale, const Tensor& output,
            const Tensor& statistics) {
  using T = typename Kernel::Number;
  const Parts parts(query, key, mask);
  const Units<T> q(query), k(key), v(value), out(output);
  const RowStatistics<T> of_rows(statistics);
  parts.for_each_block([&] {
    return [&, block = Block<Kernel>(parts, mask, extras, kernel)](int64_t part, int64_t first, int64_t count) mutable {
      const int64_t unit = part / parts.of_unit;
      block.make(unit, first, q[unit].from(first, count), k[unit], scale);
      block.weigh(of_rows);
      multiply(block.weights, v[unit].from(0, block.weights.columns), out[unit].from(first, count));
    };
  });
}

// Sets the gradients of query, key, value and sinks, and adds the bias's if it is asked for; returns the kernel's sums
// for each of its heads.
template <class Kernel>
std::vector<double> differentiate(const Tensor& grad, const Tensor& query, const Tensor& key, const Tensor& value,
                                  const RowMask& mask, const Extras<typename Kernel::Number>& extras,
                                  const Tensor& statistics, const Kernel& kernel, double scale,
                                  const Tensor& grad_query, const Tensor& grad_key, const Tensor& grad_value,
                                  const std::optional<Tensor>& grad_bias, const Tensor& grad_sink) {
  using T = typename Kernel::Number;
  const Parts parts(query, key, mask, grad_bias && grad_bias->size(0) < query.size(0));
  // A unit's first part adds to the gradients themselves, the others to their own buffers.
  auto places = [&](const Tensor& t) {
    const int64_t others = std::max<int64_t>(0, parts.of_unit - 1);
    return torch::stable::new_empty(t, {others, parts.units, t.size(2), t.size(3)});
  };
  const Units<T> q(query), k(key), v(value), g(grad), dq(grad_query), dk(grad_key), dv(grad_value);
  const Units<T> other_dk(places(key)), other_dv(places(value));
  std::optional<Units<T>> db;
  if (grad_bias) db.emplace(*grad_bias);
  const RowStatistics<T> of_rows(statistics);
  std::vector<double> totals(Kernel::kTotals * parts.units * parts.of_unit), of_sinks(parts.units * parts.of_unit);
  parts.for_each_block([&] {
    std::optional<Buffer<T>> slopes;
    if (extras.softcap) slopes.emplace(parts);
    return [&, block = Block<Kernel>(parts, mask, extras, kernel), buffer = Buffer<T>(parts),
            slopes = std::move(slopes)](int64_t part, int64_t first, int64_t count) mutable {
      const int64_t unit = part / parts.of_unit, other = part % parts.of_unit - 1;
      const auto place = [&](const Units<T>& own, const Units<T>& others) {
        return other < 0 ? own[unit] : others[other * parts.units + unit];
      };
      const auto q_block = q[unit].from(first, count), g_block = g[unit].from(first, count);
      const auto to_dk = place(dk, other_dk), to_dv = place(dv, other_dv);
      block.make(unit, first, q_block, k[unit], scale, slopes ? &*slopes : nullptr);
      const int64_t reach = block.weights.columns;
      const auto grad_scores = buffer.matrix(count, reach);
      multiply(g_block, v[unit].from(0, reach).t(), grad_scores);
      of_sinks[part] += block.differentiate(of_rows, grad_scores);
      if (db) add(grad_scores, (*db)[unit % extras.biases].from(first, count).before(reach));
      if (slopes) multiply_entries(slopes->matrix(count, reach), grad_scores);
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
  if (extras.sinks) {
    const auto sums = sums_by_head(of_sinks, 1, extras.heads,
                                   [&](int64_t part) { return part / parts.of_unit % extras.heads; });
    std::copy(sums.begin(), sums.end(), mutable_data<T>(grad_sink));
  }
  const int64_t heads = kernel.heads();
  return sums_by_head(totals, Kernel::kTotals, heads, [&](int64_t part) { return part / parts.of_unit % heads; });
}

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

// Raises unless bias and sink fit scores of this shape and type; the sink is made contiguous.
void check_extras(const std::optional<Tensor>& bias, std::optional<Tensor>& sink, double softcap, ScalarType type,
                  const std::vector<int64_t>& shape) {
  STD_TORCH_CHECK(softcap >= 0, "softcap must not be negative, got ", softcap);
  if (bias) {
    const int64_t batch = bias->dim() == 4 && bias->size(0) == 1 ? 1 : shape[0];
    check("bias", *bias, type, {batch, shape[1], shape[2], shape[3]});
  }
  if (sink) {
    check("sink", *sink, type, {shape[1]});
    sink = torch::stable::contiguous(*sink);
  }
}

// Empty [batch, heads, queries, size] whose transpose(1, 2) is contiguous. It is no view of another tensor, since torch
// would refuse to change a view in place that a custom operator made.
Tensor empty_output(const Tensor& value, int64_t batch, int64_t heads, int64_t queries) {
  const int64_t size = value.size(3), row = std::max<int64_t>(size, 1), step = std::max<int64_t>(heads, 1) * row;
  const int64_t sizes[] = {batch, heads, queries, size};
  const int64_t strides[] = {std::max<int64_t>(queries, 1) * step, row, step, 1};
  int32_t type, device;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(value.get(), &type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(value.get(), &device));
  AtenTensorHandle output;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(4, sizes, strides, type, device, 0, &output));
  return Tensor(output);
}

std::tuple<Tensor, Tensor> attention_forward(Tensor query, Tensor key, Tensor value, std::optional<Tensor> mask,
                                             std::optional<Tensor> bias, std::optional<Tensor> sink,
                                             std::optional<Tensor> first, std::optional<Tensor> second,
                                             std::vector<int64_t> powers, double number, std::string kind,
                                             double scale, double softcap) {
  const RowKernelArguments row_kernel{kind, first, second, powers, number};
  const auto shape = scores_shape(query, key, value);
  row_kernel.check_parameters(shape[1]);
  check_extras(bias, sink, softcap, query.scalar_type(), shape);
  std::optional<Tensor> held;
  const RowMask rows = row_mask(mask, shape, held);
  Tensor output = empty_output(value, query.size(0), query.size(1), query.size(2));
  Tensor statistics = torch::stable::new_empty(query, {2, query.size(0), query.size(1), query.size(2)});
  with_type(query, [&]<class T>(T*) {
    const Extras<T> extras(bias, sink, softcap, shape[1]);
    row_kernel.with_kernel<T>(key.size(2) + 1, [&](const auto& kernel) {
      attend(query, key, value, rows, extras, kernel, scale, output, statistics);
    });
  });
  return {output, statistics};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> attention_backward(
    Tensor grad, Tensor statistics, bool of_bias, Tensor query, Tensor key, Tensor value, std::optional<Tensor> mask,
    std::optional<Tensor> bias, std::optional<Tensor> sink, std::optional<Tensor> first, std::optional<Tensor> second,
    std::vector<int64_t> powers, double number, std::string kind, double scale, double softcap) {
  const RowKernelArguments row_kernel{kind, first, second, powers, number};
  const auto shape = scores_shape(query, key, value);
  row_kernel.check_parameters(shape[1]);
  check_extras(bias, sink, softcap, query.scalar_type(), shape);
  check("grad", grad, query.scalar_type(), {shape[0], shape[1], shape[2], value.size(3)});
  check("statistics", statistics, query.scalar_type(), {2, shape[0], shape[1], shape[2]});
  Tensor grad_query = torch::stable::empty_like(query), grad_key = torch::stable::empty_like(key);
  Tensor grad_value = torch::stable::empty_like(value);
  const auto of_parameters = row_kernel.gradients(query);
  statistics = torch::stable::contiguous(statistics);
  std::optional<Tensor> grad_bias, held;
  if (bias && of_bias) grad_bias = torch::stable::new_empty(query, bias->sizes());
  const Tensor grad_sink = torch::stable::new_empty(query, {sink ? shape[1] : 0});
  const RowMask rows = row_mask(mask, shape, held);
  with_type(query, [&]<class T>(T*) {
    const Extras<T> extras(bias, sink, softcap, shape[1]);
    if (grad_bias) std::fill_n(mutable_data<T>(*grad_bias), grad_bias->numel(), T(0));
    row_kernel.with_kernel<T>(key.size(2) + 1, [&](const auto& kernel) {
      const auto sums = differentiate(grad, query, key, value, rows, extras, statistics, kernel, scale, grad_query,
                                      grad_key, grad_value, grad_bias, grad_sink);
      row_kernel.set_gradients<T>(sums, of_parameters.first, of_parameters.second);
    });
  });
  if (!grad_bias) grad_bias = torch::stable::new_empty(query, {0});
  return {grad_query, grad_key, grad_value, *grad_bias, grad_sink, of_parameters.first, of_parameters.second};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(multimax, CPU, library) {
  library.impl("attention_forward", TORCH_BOX(&attention_forward));
  library.impl("attention_backward", TORCH_BOX(&attention_backward));
}
