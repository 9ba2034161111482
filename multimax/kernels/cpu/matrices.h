// Matrices in tensors, with any strides, and the algebra that attention needs; the products are torch's.

#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "tensors.h"

namespace multimax {
namespace {  // like torch's tensors, not visible outside the library

template <class T>
struct Matrix {
  T* data;
  int64_t rows, columns, row_stride, column_stride;

  Matrix t() const { return {data, columns, rows, column_stride, row_stride}; }
  Matrix from(int64_t first, int64_t count) const { return {row(first), count, columns, row_stride, column_stride}; }
  Matrix before(int64_t column) const { return {data, rows, column, row_stride, column_stride}; }

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
  if (m.column_stride == 1 && to.column_stride == 1)  // which the compiler vectorises
    for (int64_t i = 0; i < m.rows; ++i) {
      const T* from = m.row(i);
      T* row = to.row(i);
      for (int64_t j = 0; j < m.columns; ++j) row[j] += from[j];
    }
  else
    for (int64_t i = 0; i < m.rows; ++i)
      for (int64_t j = 0; j < m.columns; ++j)
        to.data[i * to.row_stride + j * to.column_stride] += m.data[i * m.row_stride + j * m.column_stride];
}

// to *= m, entry by entry; the rows of both are dense.
template <class T>
void multiply_entries(const Matrix<T>& m, const Matrix<T>& to) {
  for (int64_t i = 0; i < m.rows; ++i) {
    const T* from = m.row(i);
    T* row = to.row(i);
    for (int64_t j = 0; j < m.columns; ++j) row[j] *= from[j];
  }
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

}  // namespace
}  // namespace multimax
