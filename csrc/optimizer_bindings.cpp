// The optimisers' operators, torch.ops.sapag_fast.lbfgs_step and adam_step: checks and launches.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/adam.h"
#include "cpu/lbfgs.h"
#include "parallel_of_torch.h"

namespace {

using at::IntArrayRef;
using at::Tensor;

void expect(const char* name, const Tensor& found, at::ScalarType type, IntArrayRef shape) {
  TORCH_CHECK_VALUE(found.device().is_cpu() && found.scalar_type() == type && found.sizes() == shape &&
                        found.is_contiguous(),
                    name, ": expected a contiguous CPU tensor of ", type, " and shape ", shape, ", found ",
                    found.is_contiguous() ? "" : "strided ", found.scalar_type(), " ", found.sizes(), " on ",
                    found.device());
}

sapag::Scalar scalar_of(const Tensor& gradient) {
  const at::ScalarType type = gradient.scalar_type();
  TORCH_CHECK_VALUE(type == at::kFloat || type == at::kDouble,
                    "gradient: expected float32 or float64, found ", type);
  TORCH_CHECK_VALUE(gradient.dim() == 2, "gradient: expected shape [R, N], found ", gradient.sizes());
  return type == at::kDouble ? sapag::Scalar::f64 : sapag::Scalar::f32;
}

template <class T>
T* data_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

using MaybeTensor = std::optional<Tensor>;

std::tuple<Tensor, Tensor> lbfgs_step(const Tensor& given, const Tensor& steps, const Tensor& changes,
                                      const Tensor& products, const Tensor& slot, const Tensor& pairs,
                                      const Tensor& calls, const Tensor& scale, const Tensor& previous_step,
                                      const Tensor& previous_gradient, double lr, const MaybeTensor& action,
                                      const MaybeTensor& length, const MaybeTensor& next_length) {
  const sapag::Scalar scalar = scalar_of(given);
  const Tensor gradient = given.contiguous();
  const at::ScalarType type = gradient.scalar_type();
  const int64_t R = gradient.size(0), N = gradient.size(1);
  constexpr int64_t kPadding = sapag::cpu::kLbfgsPadding;
  TORCH_CHECK_VALUE(
      steps.dim() == 3 && steps.size(1) >= 1 && steps.size(2) >= N && steps.size(2) % kPadding == 0,
      "steps: expected shape [R, history, N rounded up to a multiple of ", kPadding, "], found ",
      steps.sizes());
  const int64_t history = steps.size(1), stride = steps.size(2);
  TORCH_CHECK_VALUE(
      products.dim() == 3 && products.size(2) >= history && products.size(2) % (kPadding / 2) == 0,
      "products: expected shape [R, history, history rounded up to a multiple of ", kPadding / 2, "], found ",
      products.sizes());
  expect("steps", steps, type, {R, history, stride});
  expect("changes", changes, type, {R, history, stride});
  expect("products", products, at::kDouble, {R, history, products.size(2)});
  expect("slot", slot, at::kLong, {R});
  expect("pairs", pairs, at::kLong, {R});
  expect("calls", calls, at::kLong, {R});
  expect("scale", scale, at::kDouble, {R});
  expect("previous_step", previous_step, type, {R, N});
  expect("previous_gradient", previous_gradient, type, {R, N});
  TORCH_CHECK_VALUE(action.has_value() == length.has_value() && action.has_value() == next_length.has_value(),
                    "action, length, next_length: expected all of them or none");
  if (action) {
    expect("action", *action, at::kChar, {R});
    expect("length", *length, at::kDouble, {R});
    expect("next_length", *next_length, at::kDouble, {R});
  }
  for (int64_t r = 0; r < R; ++r) {
    const int64_t at = slot.const_data_ptr<int64_t>()[r], held = pairs.const_data_ptr<int64_t>()[r];
    TORCH_CHECK_VALUE(
        held >= 0 && held <= history && at >= 0 && at < history && (held == history || at == held),
        "slot, pairs: expected a ring of ", history, " filled from its start, found ", at, " and ", held,
        " in recovery ", r);
  }
  Tensor change = at::empty_like(gradient);
  Tensor slope = action ? at::empty_like(scale) : at::empty({0}, scale.options());
  sapag::cpu::LbfgsTable table{};
  table.scalar = scalar;
  table.recoveries = R;
  table.size = N;
  table.history = history;
  table.stride = stride;
  table.product_stride = products.size(2);
  table.lr = lr;
  table.steps = data_of<void>(steps);
  table.changes = data_of<void>(changes);
  table.products = data_of<double>(products);
  table.slot = data_of<int64_t>(slot);
  table.pairs = data_of<int64_t>(pairs);
  table.calls = data_of<int64_t>(calls);
  table.scale = data_of<double>(scale);
  table.previous_step = data_of<void>(previous_step);
  table.previous_gradient = data_of<void>(previous_gradient);
  table.gradient = gradient.const_data_ptr();
  table.change = data_of<void>(change);
  if (action) {
    table.action = static_cast<const sapag::cpu::LbfgsAction*>(action->const_data_ptr());
    table.length = length->const_data_ptr<double>();
    table.next_length = next_length->const_data_ptr<double>();
    table.slope = slope.mutable_data_ptr<double>();
  }
  sapag::cpu::lbfgs_step(table, sapag::parallel_of_torch());
  return {change, slope};
}

Tensor adam_step(const Tensor& given, const Tensor& mean, const Tensor& square, const Tensor& calls,
                 double lr, IntArrayRef milestones, double decay, double beta1, double beta2, double eps,
                 bool signs) {
  const sapag::Scalar scalar = scalar_of(given);
  const Tensor gradient = given.contiguous();
  expect("mean", mean, gradient.scalar_type(), gradient.sizes());
  expect("square", square, gradient.scalar_type(), gradient.sizes());
  expect("calls", calls, at::kLong, {gradient.size(0)});
  Tensor change = at::empty_like(gradient);
  sapag::cpu::AdamTable table{scalar,
                              gradient.size(0),
                              gradient.size(1),
                              lr,
                              decay,
                              beta1,
                              beta2,
                              eps,
                              signs,
                              milestones.vec(),
                              data_of<void>(mean),
                              data_of<void>(square),
                              data_of<int64_t>(calls),
                              gradient.const_data_ptr(),
                              data_of<void>(change)};
  sapag::cpu::adam_step(table, sapag::parallel_of_torch());
  return change;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(sapag_fast, m) {
  m.def(
      "lbfgs_step(Tensor gradient, Tensor(a!) steps, Tensor(b!) changes, Tensor(c!) products, Tensor(d!) "
      "slot, "
      "Tensor(e!) pairs, Tensor(f!) calls, Tensor(g!) scale, Tensor(h!) previous_step, Tensor(i!) "
      "previous_gradient, float lr, Tensor? action, Tensor? length, Tensor? next_length) -> (Tensor, "
      "Tensor)");
  m.def(
      "adam_step(Tensor gradient, Tensor(a!) mean, Tensor(b!) square, Tensor(c!) calls, float lr, int[] "
      "milestones, float decay, float beta1, float beta2, float eps, bool signs) -> Tensor");
}

TORCH_LIBRARY_IMPL(sapag_fast, CPU, m) {
  m.impl("lbfgs_step", &lbfgs_step);
  m.impl("adam_step", &adam_step);
}
