// The operators torch.ops.sapag_fast.*: checks, tables from tensors, launches. The only file with torch.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <Python.h>
#include <torch/library.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "sapag.h"

namespace {

using at::IntArrayRef;
using at::Tensor;
using at::TensorList;

const sapag::Parallel parallel_of_torch() {
  const auto run = [](int64_t count, void (*body)(void*, int64_t), void* context) {
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(context, i);
    });
  };
  return {run, at::in_parallel_region() ? 1 : at::get_num_threads()};
}

sapag::Scalar scalar_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return sapag::Scalar::f32;
    case at::kDouble:
      return sapag::Scalar::f64;
    case at::kBFloat16:
      return sapag::Scalar::bf16;
    case at::kHalf:
      return sapag::Scalar::f16;
    default:
      TORCH_CHECK_TYPE(false, name, "[0]: expected float32, float64, bfloat16 or float16, found ",
                       tensor.scalar_type());
  }
}

Tensor empty_double(IntArrayRef shape) {
  return at::empty(shape, at::TensorOptions().dtype(at::kDouble));
}

// A fresh V of many megabytes is paid for page by page when it is written: ask for large pages first.
void prefer_large_pages(const Tensor& tensor) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 4096, kLarge = 2 << 20;
  if (tensor.nbytes() < 2 * kLarge) return;
  const auto begin = (reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr()) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr()) + tensor.nbytes()) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice: a refusal changes nothing
#endif
}

// Elements of one recovery lie side by side, and so do recoveries, unless all share one.
bool dense(const Tensor& tensor, bool batched) {
  if (tensor.is_contiguous()) return true;
  return batched && tensor.dim() > 0 && tensor.size(0) > 0 && tensor.stride(0) == 0 &&
         tensor.select(0, 0).is_contiguous();
}

// Both in the same order without gaps (channels_last, say): their elements pair up as they lie.
bool same_order(const Tensor& a, const Tensor& b) {
  return a.strides() == b.strides() && a.is_non_overlapping_and_dense();
}

// A table over the tensors' memory, and the copies it needed to make.
class Tables {
 public:
  Tables(std::optional<TensorList> dummy, TensorList target, IntArrayRef layer_of, int64_t layers,
         bool batched) {
    const TensorList shapes = dummy ? *dummy : target;
    TORCH_CHECK_VALUE(!target.empty(), "target: expected at least one tensor, found none");
    TORCH_CHECK_VALUE(shapes.size() == target.size(),
                      "dummy, target: expected the same number of gradients, found ", shapes.size(), " and ",
                      target.size());
    TORCH_CHECK_VALUE(layer_of.size() == target.size(), "layers: expected one layer number for each of ",
                      target.size(), " tensors, found ", layer_of.size());
    const Tensor& first = shapes[0];
    table_.scalar = scalar_of(first, dummy ? "dummy" : "target");
    table_.layers = layers;
    table_.entries.reserve(target.size());
    held_.reserve(2 * target.size());
    TORCH_CHECK_VALUE(!batched || first.dim() > 0,
                      "dummy[0]: batched=True needs a leading recoveries' dimension");
    table_.recoveries = batched ? first.size(0) : 1;
    table_.target_recoveries = batched ? target[0].size(0) : 1;
    for (size_t i = 0; i < target.size(); ++i) {
      if (dummy)
        check_pair(shapes[i], target[i], first, i, batched);
      else
        check_alike("target", target[i], first, i, batched, table_.recoveries);
      TORCH_CHECK_VALUE(layer_of[i] >= 0 && layer_of[i] < layers, "layers: found layer ", layer_of[i], " of ",
                        layers);
      add(dummy ? &shapes[i] : nullptr, target[i], layer_of[i], batched);
    }
  }

  // V in fresh tensors, or in the caller's own.
  std::vector<Tensor> make_outputs(TensorList dummy) {
    std::vector<Tensor> outputs;
    outputs.reserve(dummy.size());
    for (size_t i = 0; i < dummy.size(); ++i) {
      outputs.push_back(ordered_[i] ? at::empty_like(dummy[i])
                                    : at::empty(dummy[i].sizes(), dummy[i].options()));
      prefer_large_pages(outputs[i]);
      set_output(i, outputs[i]);
    }
    return outputs;
  }
  void take_outputs(TensorList dummy, TensorList out) {
    TORCH_CHECK_VALUE(out.size() == dummy.size(), "out: expected ", dummy.size(), " tensors, found ",
                      out.size());
    for (size_t i = 0; i < out.size(); ++i) {
      TORCH_CHECK_VALUE(out[i].sizes() == dummy[i].sizes() &&
                            out[i].scalar_type() == dummy[i].scalar_type() &&
                            out[i].device() == dummy[i].device(),
                        "out[", i, "]: expected shape ", dummy[i].sizes(), " and ", dummy[i].scalar_type(),
                        " on ", dummy[i].device(), ", found ", out[i].sizes(), " and ", out[i].scalar_type(),
                        " on ", out[i].device());
      TORCH_CHECK_VALUE(ordered_[i] ? out[i].strides() == dummy[i].strides() : out[i].is_contiguous(), "out[",
                        i,
                        "]: must lie in memory as dummy does (or contiguous where dummy and target differ)");
      set_output(i, out[i]);
    }
  }

  const sapag::Table& table() const { return table_; }

 private:
  static void check_alike(const char* name, const Tensor& tensor, const Tensor& first, size_t i, bool batched,
                          int64_t recoveries) {
    TORCH_CHECK_VALUE(tensor.device().is_cpu(), name, "[", i, "]: expected a tensor on the CPU, found ",
                      tensor.device());
    TORCH_CHECK_TYPE(tensor.scalar_type() == first.scalar_type(), name, "[", i, "]: expected ",
                     first.scalar_type(), " as in the first tensor, found ", tensor.scalar_type());
    TORCH_CHECK_VALUE(!batched || (tensor.dim() > 0 && tensor.size(0) == recoveries), name, "[", i,
                      "]: expected ", recoveries, " recoveries in the leading dimension, found shape ",
                      tensor.sizes());
  }

  void check_pair(const Tensor& dummy, const Tensor& target, const Tensor& first, size_t i,
                  bool batched) const {
    check_alike("dummy", dummy, first, i, batched, table_.recoveries);
    check_alike("target", target, first, i, batched, table_.target_recoveries);
    const bool shared = table_.target_recoveries == 1;
    TORCH_CHECK_VALUE(shared || table_.target_recoveries == table_.recoveries, "target[", i, "]: expected ",
                      table_.recoveries,
                      " recoveries (or 1, shared by all) in the leading dimension, found shape ",
                      target.sizes());
    const int64_t lead = batched ? 1 : 0;
    TORCH_CHECK_VALUE(dummy.sizes().slice(lead) == target.sizes().slice(lead), "target[", i,
                      "]: expected shape ", dummy.sizes(), " as in dummy[", i, "], found ", target.sizes());
  }

  void add(const Tensor* dummy, const Tensor& target, int64_t layer, bool batched) {
    const bool ordered = !batched && dummy && same_order(*dummy, target);
    const auto flat = [&](const Tensor& t) { return ordered || dense(t, batched) ? t : t.contiguous(); };
    const auto stride = [&](const Tensor& t) { return batched && t.size(0) > 1 ? t.stride(0) : int64_t{0}; };
    ordered_.push_back(ordered);
    held_.push_back(flat(target));
    const Tensor& theirs = held_.back();
    const int64_t size = batched ? (target.size(0) ? target.numel() / target.size(0) : 0) : target.numel();
    sapag::Entry entry{nullptr, theirs.const_data_ptr(), nullptr, 0, stride(theirs), 0, size, layer};
    if (dummy) {
      held_.push_back(flat(*dummy));
      entry.dummy = held_.back().const_data_ptr();
      entry.dummy_stride = stride(held_.back());
    }
    table_.entries.push_back(entry);
  }

  void set_output(size_t i, const Tensor& out) {
    table_.entries[i].out = out.mutable_data_ptr();
    table_.entries[i].out_stride = table_.entries[i].size;
  }

  sapag::Table table_;
  std::vector<Tensor> held_;
  std::vector<bool> ordered_;
};

// [L] or [R or 1, L] doubles that live as long as this does.
class LayerOption {
 public:
  LayerOption(const char* name, const std::optional<Tensor>& given, const sapag::Table& table) {
    if (!given) return;
    values_ = given->to(at::kDouble).contiguous();
    const bool rows = values_.dim() == 2 && (values_.size(0) == table.recoveries || values_.size(0) == 1);
    TORCH_CHECK_VALUE((values_.dim() == 1 || rows) && values_.size(-1) == table.layers, name,
                      ": expected shape [", table.layers, "] or [", table.recoveries, ", ", table.layers,
                      "], found ", values_.sizes());
    stride = rows && values_.size(0) > 1 ? table.layers : 0;
    data = values_.const_data_ptr<double>();
  }
  const double* data = nullptr;
  int64_t stride = 0;

 private:
  Tensor values_;
};

static_assert(sizeof(sapag::TargetSums) == 3 * sizeof(double));
static_assert(sizeof(sapag::DifferenceSums) == 6 * sizeof(double));
static_assert(sizeof(sapag::Coefficients) == 5 * sizeof(double));

Tensor target_sums(TensorList target, IntArrayRef layer_of, int64_t layers, bool batched) {
  const Tables tables(std::nullopt, target, layer_of, layers, batched);
  Tensor sums = empty_double({tables.table().target_recoveries, layers, 3});
  sapag::cpu::target_sums(tables.table(), static_cast<sapag::TargetSums*>(sums.mutable_data_ptr()),
                          parallel_of_torch());
  return sums;
}

Tensor difference_sums(TensorList dummy, TensorList target, IntArrayRef layer_of, int64_t layers,
                       bool batched) {
  const Tables tables(dummy, target, layer_of, layers, batched);
  Tensor sums = empty_double({tables.table().recoveries, layers, 6});
  sapag::cpu::difference_sums(tables.table(), static_cast<sapag::DifferenceSums*>(sums.mutable_data_ptr()),
                              parallel_of_torch());
  return sums;
}

std::vector<Tensor> apply(TensorList dummy, TensorList target, IntArrayRef layer_of, int64_t layers,
                          bool batched, const Tensor& coefficients) {
  Tables tables(dummy, target, layer_of, layers, batched);
  const Tensor plain = coefficients.to(at::kDouble).contiguous();
  const std::vector<int64_t> shape{tables.table().recoveries, layers, 5};
  TORCH_CHECK_VALUE(plain.sizes() == IntArrayRef(shape), "coefficients: expected shape ", IntArrayRef(shape),
                    ", found ", coefficients.sizes());
  std::vector<Tensor> outputs = tables.make_outputs(dummy);
  sapag::cpu::apply(tables.table(), static_cast<const sapag::Coefficients*>(plain.const_data_ptr()),
                    parallel_of_torch());
  return outputs;
}

std::tuple<Tensor, Tensor> run_distance(const Tables& tables, const Tensor& first, bool batched, int64_t kind,
                                        double bandwidth, double l1_weight,
                                        const std::optional<Tensor>& weights,
                                        const std::optional<Tensor>& variance,
                                        const std::optional<Tensor>& cached) {
  const sapag::Table& table = tables.table();
  TORCH_CHECK_VALUE(kind >= 0 && kind < static_cast<int64_t>(sapag::Kind::count), "kind: unknown number ",
                    kind);
  const LayerOption weight("layer_weights", weights, table), spread("variance", variance, table);
  const sapag::DistanceOptions options{static_cast<sapag::Kind>(kind),
                                       bandwidth,
                                       l1_weight,
                                       weight.data,
                                       weight.stride,
                                       spread.data,
                                       spread.stride};
  const std::vector<int64_t> shape{table.target_recoveries, table.layers, 3};
  TORCH_CHECK_VALUE(!cached || (cached->sizes() == IntArrayRef(shape) &&
                                cached->scalar_type() == at::kDouble && cached->is_contiguous()),
                    "target_sums: expected contiguous float64 of shape ", IntArrayRef(shape), ", found ",
                    cached ? cached->sizes() : IntArrayRef());
  Tensor sums = cached ? *cached : empty_double(shape);
  Tensor value = batched ? empty_double({table.recoveries}) : empty_double({});
  sapag::cpu::distance(table, options, value.mutable_data_ptr<double>(),
                       static_cast<sapag::TargetSums*>(const_cast<void*>(sums.const_data_ptr())),
                       cached.has_value(), parallel_of_torch());
  if (first.scalar_type() != at::kDouble) value = value.to(at::kFloat);
  return {value, cached ? empty_double({0, table.layers, 3}) : sums};
}

using MaybeTensor = std::optional<Tensor>;

std::tuple<Tensor, Tensor> distance(TensorList dummy, TensorList target, IntArrayRef layer_of, int64_t layers,
                                    bool batched, int64_t kind, double bandwidth, double l1_weight,
                                    const MaybeTensor& weights, const MaybeTensor& variance,
                                    const MaybeTensor& cached) {
  const Tables tables(dummy, target, layer_of, layers, batched);
  return run_distance(tables, dummy[0], batched, kind, bandwidth, l1_weight, weights, variance, cached);
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> distance_and_gradient(
    TensorList dummy, TensorList target, IntArrayRef layer_of, int64_t layers, bool batched, int64_t kind,
    double bandwidth, double l1_weight, const MaybeTensor& weights, const MaybeTensor& variance,
    const MaybeTensor& cached) {
  Tables tables(dummy, target, layer_of, layers, batched);
  std::vector<Tensor> outputs = tables.make_outputs(dummy);
  auto [value, sums] =
      run_distance(tables, dummy[0], batched, kind, bandwidth, l1_weight, weights, variance, cached);
  return {value, sums, std::move(outputs)};
}

std::tuple<Tensor, Tensor> distance_and_gradient_out(TensorList dummy, TensorList target,
                                                     IntArrayRef layer_of, int64_t layers, bool batched,
                                                     int64_t kind, double bandwidth, double l1_weight,
                                                     const MaybeTensor& weights, const MaybeTensor& variance,
                                                     const MaybeTensor& cached, TensorList out) {
  Tables tables(dummy, target, layer_of, layers, batched);
  tables.take_outputs(dummy, out);
  return run_distance(tables, dummy[0], batched, kind, bandwidth, l1_weight, weights, variance, cached);
}

std::string cpu_capability() {
  return sapag::cpu::capability();
}

}  // namespace

#define SAPAG_PAIR "(Tensor[] dummy, Tensor[] target, int[] layer_of, int layers, bool batched"
#define SAPAG_OPTIONS                                                                               \
  ", int kind, float bandwidth, float l1_weight, Tensor? layer_weights, Tensor? variance, Tensor? " \
  "target_sums"

TORCH_LIBRARY(sapag_fast, m) {
  m.set_python_module("sapag_fast.ops");
  m.def("cpu_capability() -> str", &cpu_capability);
  m.def("target_sums(Tensor[] target, int[] layer_of, int layers, bool batched) -> Tensor");
  m.def("difference_sums" SAPAG_PAIR ") -> Tensor");
  m.def("apply" SAPAG_PAIR ", Tensor coefficients) -> Tensor[]");
  m.def("distance" SAPAG_PAIR SAPAG_OPTIONS ") -> (Tensor, Tensor)");
  m.def("distance_and_gradient" SAPAG_PAIR SAPAG_OPTIONS ") -> (Tensor, Tensor, Tensor[])");
  m.def("distance_and_gradient_out" SAPAG_PAIR SAPAG_OPTIONS ", Tensor(a!)[] out) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(sapag_fast, CPU, m) {
  m.impl("target_sums", &target_sums);
  m.impl("difference_sums", &difference_sums);
  m.impl("apply", &apply);
  m.impl("distance", &distance);
  m.impl("distance_and_gradient", &distance_and_gradient);
  m.impl("distance_and_gradient_out", &distance_and_gradient_out);
}

// Importing the module loads the library, which registers the operators above.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
