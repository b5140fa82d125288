// From the tensors of V, and what they are multiplied by, to the plain table of sapag.h.
#pragma once

#include "tensor_tables.h"

namespace sapag {

// Elements of one recovery side by side, and no two in one place.
inline bool dense_rows(const Tensor& tensor, bool batched) {
  if (!batched) return tensor.is_non_overlapping_and_dense();
  return tensor.is_contiguous() || (tensor.size(0) > 0 && tensor.select(0, 0).is_contiguous() &&
                                    tensor.stride(0) >= tensor.numel() / tensor.size(0));
}

// factor: float32 or float64, a scalar, or one for each recovery.
inline SlopeTable slope_table(at::DeviceType kind, TensorList slopes, const Tensor& factor, bool batched) {
  TORCH_CHECK_VALUE(!slopes.empty(), "slopes: expected at least one tensor, found none");
  const Tensor& first = slopes[0];
  TORCH_CHECK_VALUE(first.device().type() == kind, "slopes[0]: expected a tensor on ", kind, ", found ",
                    first.device());
  SlopeTable table;
  table.scalar = scalar_of(first, "slopes");
  TORCH_CHECK_VALUE(!batched || first.dim() > 0,
                    "slopes[0]: batched=True needs a leading recoveries' dimension");
  table.recoveries = batched ? first.size(0) : 1;
  table.slopes.reserve(slopes.size());
  for (size_t i = 0; i < slopes.size(); ++i) {
    const Tensor& slope = slopes[i];
    check_alike("slopes", slope, first, i, batched, table.recoveries);
    TORCH_CHECK_VALUE(dense_rows(slope, batched), "slopes[", i,
                      "]: expected contiguous recoveries, found strides ", slope.strides());
    const bool one = !batched || table.recoveries <= 1;
    const int64_t size = table.recoveries == 0 ? 0 : slope.numel() / table.recoveries;
    table.slopes.push_back({slope.mutable_data_ptr(), one ? 0 : slope.stride(0), size});
  }
  TORCH_CHECK_TYPE(factor.scalar_type() == at::kFloat || factor.scalar_type() == at::kDouble,
                   "grad: expected float32 or float64, found ", factor.scalar_type());
  TORCH_CHECK_VALUE(factor.device() == first.device(), "grad: expected a tensor on ", first.device(),
                    " as slopes[0], found ", factor.device());
  TORCH_CHECK_VALUE(factor.dim() == 0 || (batched && factor.dim() == 1 && factor.size(0) == table.recoveries),
                    "grad: expected shape []",
                    batched ? " or [" + std::to_string(table.recoveries) + "]" : "", ", found ",
                    factor.sizes());
  table.factor = factor.const_data_ptr();
  table.factor_stride = factor.dim() == 0 ? 0 : factor.stride(0);
  table.wide = factor.scalar_type() == at::kDouble;
  return table;
}

}  // namespace sapag
