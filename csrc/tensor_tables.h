// From torch's tensors to the plain tables of sapag.h: checks, copies where memory lies awkwardly, results.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <optional>
#include <vector>

#include "sapag.h"

namespace sapag {

using at::IntArrayRef;
using at::Tensor;
using at::TensorList;

inline Scalar scalar_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Scalar::f32;
    case at::kDouble:
      return Scalar::f64;
    case at::kBFloat16:
      return Scalar::bf16;
    case at::kHalf:
      return Scalar::f16;
    default:
      TORCH_CHECK_TYPE(false, name, "[0]: expected float32, float64, bfloat16 or float16, found ",
                       tensor.scalar_type());
  }
}

inline Tensor empty_double(IntArrayRef shape, at::Device device) {
  return at::empty(shape, at::TensorOptions().dtype(at::kDouble).device(device));
}

// A fresh V of many megabytes is paid for page by page when it is written: ask for large pages first.
inline void prefer_large_pages(const Tensor& tensor) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 4096, kLarge = 2 << 20;
  if (tensor.nbytes() < 2 * kLarge || !tensor.device().is_cpu()) return;
  const auto begin = (reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr()) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr()) + tensor.nbytes()) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice: a refusal changes nothing
#endif
}

// Elements of one recovery lie side by side, and so do recoveries, unless all share one.
inline bool dense(const Tensor& tensor, bool batched) {
  if (tensor.is_contiguous()) return true;
  return batched && tensor.dim() > 0 && tensor.size(0) > 0 && tensor.stride(0) == 0 &&
         tensor.select(0, 0).is_contiguous();
}

// Both in the same order without gaps (channels_last, say): their elements pair up as they lie.
inline bool same_order(const Tensor& a, const Tensor& b) {
  return a.strides() == b.strides() && a.is_non_overlapping_and_dense();
}

// tensors[i] against the first one: device, type, and the number of recoveries in front.
inline void check_alike(const char* name, const Tensor& tensor, const Tensor& first, size_t i, bool batched,
                        int64_t recoveries) {
  TORCH_CHECK_VALUE(tensor.device() == first.device(), name, "[", i, "]: expected a tensor on ",
                    first.device(), " as the first one, found ", tensor.device());
  TORCH_CHECK_TYPE(tensor.scalar_type() == first.scalar_type(), name, "[", i, "]: expected ",
                   first.scalar_type(), " as in the first tensor, found ", tensor.scalar_type());
  TORCH_CHECK_VALUE(!batched || (tensor.dim() > 0 && tensor.size(0) == recoveries), name, "[", i,
                    "]: expected ", recoveries, " recoveries in the leading dimension, found shape ",
                    tensor.sizes());
}

// A table over the tensors' memory, and the copies it needed to make.
class Tables {
 public:
  Tables(at::DeviceType kind, std::optional<TensorList> dummy, TensorList target, IntArrayRef layer_of,
         int64_t layers, bool batched) {
    const TensorList shapes = dummy ? *dummy : target;
    TORCH_CHECK_VALUE(!target.empty(), "target: expected at least one tensor, found none");
    TORCH_CHECK_VALUE(shapes.size() == target.size(),
                      "dummy, target: expected the same number of gradients, found ", shapes.size(), " and ",
                      target.size());
    TORCH_CHECK_VALUE(layer_of.size() == target.size(), "layers: expected one layer number for each of ",
                      target.size(), " tensors, found ", layer_of.size());
    const Tensor& first = shapes[0];
    TORCH_CHECK_VALUE(first.device().type() == kind, dummy ? "dummy" : "target", "[0]: expected a tensor on ",
                      kind, ", found ", first.device());
    table_.scalar = scalar_of(first, dummy ? "dummy" : "target");
    table_.layers = layers;
    table_.entries.reserve(target.size());
    held_.reserve(2 * target.size());
    TORCH_CHECK_VALUE(!batched || (first.dim() > 0 && target[0].dim() > 0),
                      "dummy[0], target[0]: batched=True needs a leading recoveries' dimension");
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
    table_.with_gradient = true;
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
    table_.with_gradient = true;
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

  const Table& table() const { return table_; }

 private:
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
    Entry entry{nullptr, theirs.const_data_ptr(), nullptr, 0, stride(theirs), 0, size, layer};
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

  Table table_;
  std::vector<Tensor> held_;
  std::vector<bool> ordered_;
};

// [L] or [R or 1, L] doubles that live as long as this does.
class LayerOption {
 public:
  LayerOption(const char* name, const std::optional<Tensor>& given, const Table& table, at::Device device) {
    if (!given) return;
    values_ = given->to(device, at::kDouble).contiguous();
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

}  // namespace sapag
