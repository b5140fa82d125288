// The operators torch.ops.sapag_fast.*: schemas, launches. Only this file and tensor_tables.h know torch.

#include <Python.h>
#include <torch/library.h>

#ifdef SAPAG_WITH_CUDA
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#endif

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/planner.h"
#include "parallel_of_torch.h"
#include "sapag.h"
#include "slope_tables.h"
#include "tensor_tables.h"
#ifdef SAPAG_WITH_CUDA
#include "cuda/driver.h"
#endif

namespace {

using at::IntArrayRef;
using at::Tensor;
using at::TensorList;
using sapag::empty_double;
using sapag::LayerOption;
using sapag::parallel_of_torch;
using sapag::Tables;

static_assert(sizeof(sapag::TargetSums) == 3 * sizeof(double));
static_assert(sizeof(sapag::DifferenceSums) == 6 * sizeof(double));
static_assert(sizeof(sapag::Coefficients) == 5 * sizeof(double));

// What differs between the devices: where the kernels are, and what they need besides the table.
struct OnCpu {
  static constexpr at::DeviceType kDevice = at::kCPU;

  explicit OnCpu(at::Device) {}

  void target_sums(const sapag::Table& table, const Tensor& sums) const {
    sapag::cpu::target_sums(table, static_cast<sapag::TargetSums*>(sums.mutable_data_ptr()),
                            parallel_of_torch());
  }
  void difference_sums(const sapag::Table& table, const Tensor& sums) const {
    sapag::cpu::difference_sums(table, static_cast<sapag::DifferenceSums*>(sums.mutable_data_ptr()),
                                parallel_of_torch());
  }
  void apply(const sapag::Table& table, const Tensor& coefficients) const {
    sapag::cpu::apply(table, static_cast<const sapag::Coefficients*>(coefficients.const_data_ptr()),
                      parallel_of_torch());
  }
  Tensor distance(const sapag::Table& table, const sapag::DistanceOptions& options, IntArrayRef shape,
                  at::ScalarType type, const Tensor& sums, bool known) const {
    Tensor value = empty_double(shape, kDevice);
    sapag::cpu::distance(table, options, value.mutable_data_ptr<double>(),
                         static_cast<sapag::TargetSums*>(const_cast<void*>(sums.const_data_ptr())), known,
                         parallel_of_torch());
    return type == at::kDouble ? value : value.to(type);
  }
  void scale(const sapag::SlopeTable&, TensorList slopes, const Tensor& factor) const {
    if (factor.eq(1).all().item<bool>()) return;
    for (const Tensor& slope : slopes) {
      std::vector<int64_t> shape(factor.dim() == 0 ? 0 : static_cast<size_t>(slope.dim()), 1);
      if (!shape.empty()) shape[0] = factor.numel();
      slope.mul_(factor.to(slope.scalar_type() == at::kDouble ? at::kDouble : at::kFloat).view(shape));
    }
  }
};

#ifdef SAPAG_WITH_CUDA
// Of torch's CUDA builds; null elsewhere, where no stream is ever asked for.
extern "C" __attribute__((weak)) int32_t aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

// The handle of torch's current stream without CUDA's headers, which CPU builds of torch cannot include: by
// the accelerator interface where torch has it, else by the C interface.
template <class Stream>
void* handle_of(const Stream& stream) {
  if constexpr (requires { stream.native_handle(); }) {
    return stream.native_handle();
  } else {
    void* handle = nullptr;
    TORCH_CHECK(aoti_torch_get_current_cuda_stream &&
                    aoti_torch_get_current_cuda_stream(stream.device_index(), &handle) == 0,
                "this build of torch does not tell its current CUDA stream");
    return handle;
  }
}

class OnCuda {
 public:
  static constexpr at::DeviceType kDevice = at::kCUDA;

  explicit OnCuda(at::Device device)
      : device_(device),
        guard_(device),
        stream_(handle_of(c10::impl::VirtualGuardImpl(kDevice).getStream(device))) {}

  void target_sums(const sapag::Table& table, const Tensor& sums) const {
    const sapag::gpu::Plan plan = plan_for(table, sapag::gpu::Purpose::sums, table.target_recoveries);
    const Tensor workspace = workspace_of(plan);
    check(sapag::gpu::target_sums(table, plan, static_cast<sapag::TargetSums*>(sums.mutable_data_ptr()),
                                  workspace.mutable_data_ptr(), stream_));
  }
  void difference_sums(const sapag::Table& table, const Tensor& sums) const {
    const sapag::gpu::Plan plan = plan_for(table, sapag::gpu::Purpose::sums, table.recoveries);
    const Tensor workspace = workspace_of(plan);
    check(sapag::gpu::difference_sums(table, plan,
                                      static_cast<sapag::DifferenceSums*>(sums.mutable_data_ptr()),
                                      workspace.mutable_data_ptr(), stream_));
  }
  void apply(const sapag::Table& table, const Tensor& coefficients) const {
    check(sapag::gpu::apply(table, plan_for(table, sapag::gpu::Purpose::apply, table.recoveries),
                            static_cast<const sapag::Coefficients*>(coefficients.const_data_ptr()), stream_));
  }
  Tensor distance(const sapag::Table& table, const sapag::DistanceOptions& options, IntArrayRef shape,
                  at::ScalarType type, const Tensor& sums, bool known) const {
    // A target that several recoveries share is read once for all of them, others in the distance's own
    // sweep.
    const bool together = !known && table.target_recoveries == table.recoveries;
    if (!known && !together) target_sums(table, sums);
    const auto purpose = table.with_gradient ? sapag::gpu::Purpose::gradient : sapag::gpu::Purpose::value;
    const sapag::gpu::Plan plan = plan_for(table, purpose, table.recoveries, together);
    const Tensor workspace = workspace_of(plan);
    Tensor value = at::empty(shape, at::TensorOptions().dtype(type).device(device_));
    check(sapag::gpu::distance(table, plan, options, value.mutable_data_ptr(), type == at::kDouble,
                               static_cast<sapag::TargetSums*>(const_cast<void*>(sums.const_data_ptr())),
                               workspace.mutable_data_ptr(), stream_));
    return value;
  }
  void scale(const sapag::SlopeTable& table, TensorList, const Tensor&) const {
    check(sapag::gpu::scale(table, limits(), stream_));
  }

 private:
  static void check(int error) {
    TORCH_CHECK(error == 0,
                "sapag_fast: a CUDA kernel could not be launched: ", sapag::gpu::error_text(error));
  }
  sapag::gpu::Plan plan_for(const sapag::Table& table, sapag::gpu::Purpose purpose, int64_t recoveries,
                            bool sum_target = false) const {
    return sapag::gpu::plan_for(table, purpose, recoveries, limits(), sum_target);
  }
  // Asked once a device.
  sapag::gpu::PlannerLimits limits() const {
    static std::mutex mutex;
    static std::map<int, sapag::gpu::PlannerLimits> known;
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = known.find(device_.index());
    if (found != known.end()) return found->second;
    sapag::gpu::PlannerLimits limits;
    check(sapag::gpu::device_limits(device_.index(), &limits));
    known.emplace(device_.index(), limits);
    return limits;
  }
  // Given back to torch's allocator at once, which hands it only to later work on the same stream.
  Tensor workspace_of(const sapag::gpu::Plan& plan) const {
    return at::empty({plan.workspace_bytes}, at::TensorOptions().dtype(at::kByte).device(device_));
  }

  at::Device device_;
  c10::DeviceGuard guard_;
  void* stream_;
};
#endif

template <class On>
Tensor target_sums(TensorList target, IntArrayRef layer_of, int64_t layers, bool batched) {
  const Tables tables(On::kDevice, std::nullopt, target, layer_of, layers, batched);
  const On on(target[0].device());
  Tensor sums = empty_double({tables.table().target_recoveries, layers, 3}, target[0].device());
  on.target_sums(tables.table(), sums);
  return sums;
}

template <class On>
Tensor difference_sums(TensorList dummy, TensorList target, IntArrayRef layer_of, int64_t layers,
                       bool batched) {
  const Tables tables(On::kDevice, dummy, target, layer_of, layers, batched);
  const On on(dummy[0].device());
  Tensor sums = empty_double({tables.table().recoveries, layers, 6}, dummy[0].device());
  on.difference_sums(tables.table(), sums);
  return sums;
}

template <class On>
std::vector<Tensor> apply(TensorList dummy, TensorList target, IntArrayRef layer_of, int64_t layers,
                          bool batched, const Tensor& coefficients) {
  Tables tables(On::kDevice, dummy, target, layer_of, layers, batched);
  const On on(dummy[0].device());
  const Tensor plain = coefficients.to(dummy[0].device(), at::kDouble).contiguous();
  const std::vector<int64_t> shape{tables.table().recoveries, layers, 5};
  TORCH_CHECK_VALUE(plain.sizes() == IntArrayRef(shape), "coefficients: expected shape ", IntArrayRef(shape),
                    ", found ", coefficients.sizes());
  std::vector<Tensor> outputs = tables.make_outputs(dummy);
  on.apply(tables.table(), plain);
  return outputs;
}

template <class On>
std::tuple<Tensor, Tensor> run_distance(const Tables& tables, const Tensor& first, bool batched, int64_t kind,
                                        double bandwidth, double l1_weight,
                                        const std::optional<Tensor>& weights,
                                        const std::optional<Tensor>& variance,
                                        const std::optional<Tensor>& cached) {
  const sapag::Table& table = tables.table();
  const at::Device device = first.device();
  TORCH_CHECK_VALUE(kind >= 0 && kind < static_cast<int64_t>(sapag::Kind::count), "kind: unknown number ",
                    kind);
  const On on(device);
  const LayerOption weight("layer_weights", weights, table, device),
      spread("variance", variance, table, device);
  const sapag::DistanceOptions options{static_cast<sapag::Kind>(kind),
                                       bandwidth,
                                       l1_weight,
                                       weight.data,
                                       weight.stride,
                                       spread.data,
                                       spread.stride};
  const std::vector<int64_t> shape{table.target_recoveries, table.layers, 3};
  TORCH_CHECK_VALUE(
      !cached || (cached->sizes() == IntArrayRef(shape) && cached->scalar_type() == at::kDouble &&
                  cached->is_contiguous() && cached->device() == device),
      "target_sums: expected contiguous float64 of shape ", IntArrayRef(shape), " on ", device, ", found ",
      cached ? cached->sizes() : IntArrayRef());
  Tensor sums = cached ? *cached : empty_double(shape, device);
  const std::vector<int64_t> rows = batched ? std::vector<int64_t>{table.recoveries} : std::vector<int64_t>{};
  const at::ScalarType type = first.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  Tensor value = on.distance(table, options, rows, type, sums, cached.has_value());
  return {value, cached ? empty_double({0, table.layers, 3}, device) : sums};
}

using MaybeTensor = std::optional<Tensor>;

template <class On>
std::tuple<Tensor, Tensor> distance(TensorList dummy, TensorList target, IntArrayRef layer_of, int64_t layers,
                                    bool batched, int64_t kind, double bandwidth, double l1_weight,
                                    const MaybeTensor& weights, const MaybeTensor& variance,
                                    const MaybeTensor& cached) {
  const Tables tables(On::kDevice, dummy, target, layer_of, layers, batched);
  return run_distance<On>(tables, dummy[0], batched, kind, bandwidth, l1_weight, weights, variance, cached);
}

template <class On>
std::tuple<Tensor, Tensor, std::vector<Tensor>> distance_and_gradient(
    TensorList dummy, TensorList target, IntArrayRef layer_of, int64_t layers, bool batched, int64_t kind,
    double bandwidth, double l1_weight, const MaybeTensor& weights, const MaybeTensor& variance,
    const MaybeTensor& cached) {
  Tables tables(On::kDevice, dummy, target, layer_of, layers, batched);
  std::vector<Tensor> outputs = tables.make_outputs(dummy);
  auto [value, sums] =
      run_distance<On>(tables, dummy[0], batched, kind, bandwidth, l1_weight, weights, variance, cached);
  return {value, sums, std::move(outputs)};
}

template <class On>
std::tuple<Tensor, Tensor> distance_and_gradient_out(TensorList dummy, TensorList target,
                                                     IntArrayRef layer_of, int64_t layers, bool batched,
                                                     int64_t kind, double bandwidth, double l1_weight,
                                                     const MaybeTensor& weights, const MaybeTensor& variance,
                                                     const MaybeTensor& cached, TensorList out) {
  Tables tables(On::kDevice, dummy, target, layer_of, layers, batched);
  tables.take_outputs(dummy, out);
  return run_distance<On>(tables, dummy[0], batched, kind, bandwidth, l1_weight, weights, variance, cached);
}

template <class On>
void scale_(TensorList slopes, const Tensor& grad, bool batched) {
  const sapag::SlopeTable table = sapag::slope_table(On::kDevice, slopes, grad, batched);
  On(slopes[0].device()).scale(table, slopes, grad);
}

// What the CUDA kernels would do with tensors of these sizes: a dry run, also where there is no CUDA.
std::string plan(IntArrayRef sizes, IntArrayRef layer_of, int64_t layers, int64_t recoveries,
                 std::string scalar, int64_t sms, int64_t shared_bytes, int64_t max_cluster, int64_t arch) {
  TORCH_CHECK_VALUE(layer_of.size() == sizes.size(), "layer_of: expected one layer number for each of ",
                    sizes.size(), " tensors, found ", layer_of.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    TORCH_CHECK_VALUE(sizes[i] >= 0, "sizes: found ", sizes[i]);
    TORCH_CHECK_VALUE(layer_of[i] >= 0 && layer_of[i] < layers, "layer_of: found layer ", layer_of[i], " of ",
                      layers);
  }
  TORCH_CHECK_VALUE(layers >= 0 && recoveries >= 0, "layers, recoveries: expected no negative number");
  TORCH_CHECK_VALUE(sms >= 1 && sms <= 4096 && max_cluster >= 1 && max_cluster <= 16 && arch >= 0,
                    "sms, max_cluster, arch: found ", sms, ", ", max_cluster, " and ", arch);
  TORCH_CHECK_VALUE(shared_bytes >= 0 && shared_bytes <= 1 << 24, "shared_bytes: found ", shared_bytes);
  const std::map<std::string, int64_t> bytes{{"float32", 4}, {"float64", 8}, {"bfloat16", 2}, {"float16", 2}};
  const auto found = bytes.find(scalar);
  TORCH_CHECK_VALUE(found != bytes.end(), "scalar: expected float32, float64, bfloat16 or float16, found ",
                    scalar);
  sapag::gpu::PlannerLimits limits;
  limits.sms = static_cast<int>(sms);
  limits.shared_bytes = shared_bytes;
  limits.max_cluster = static_cast<int>(max_cluster);
  limits.arch = static_cast<int>(arch);
  return sapag::gpu::describe(sapag::gpu::make_plan(sizes.vec(), layer_of.vec(), layers, recoveries,
                                                    found->second, sapag::gpu::Purpose::gradient, limits));
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
  m.set_python_module("sapag_fast.distances.operators");
  m.def("cpu_capability() -> str", &cpu_capability);
  m.def(
      "plan(int[] sizes, int[] layer_of, int layers, int recoveries, str scalar, int sms, int shared_bytes, "
      "int "
      "max_cluster, int arch) -> str",
      &plan);
  m.def("target_sums(Tensor[] target, int[] layer_of, int layers, bool batched) -> Tensor");
  m.def("difference_sums" SAPAG_PAIR ") -> Tensor");
  m.def("apply" SAPAG_PAIR ", Tensor coefficients) -> Tensor[]");
  m.def("distance" SAPAG_PAIR SAPAG_OPTIONS ") -> (Tensor, Tensor)");
  m.def("distance_and_gradient" SAPAG_PAIR SAPAG_OPTIONS ") -> (Tensor, Tensor, Tensor[])");
  m.def("distance_and_gradient_out" SAPAG_PAIR SAPAG_OPTIONS ", Tensor(a!)[] out) -> (Tensor, Tensor)");
  m.def("scale_(Tensor(a!)[] slopes, Tensor grad, bool batched) -> ()");
}

template <class On>
void implement(torch::Library& m) {
  m.impl("target_sums", &target_sums<On>);
  m.impl("difference_sums", &difference_sums<On>);
  m.impl("apply", &apply<On>);
  m.impl("distance", &distance<On>);
  m.impl("distance_and_gradient", &distance_and_gradient<On>);
  m.impl("distance_and_gradient_out", &distance_and_gradient_out<On>);
  m.impl("scale_", &scale_<On>);
}

TORCH_LIBRARY_IMPL(sapag_fast, CPU, m) {
  implement<OnCpu>(m);
}
#ifdef SAPAG_WITH_CUDA
TORCH_LIBRARY_IMPL(sapag_fast, CUDA, m) {
  implement<OnCuda>(m);
}
#endif

// Importing the module loads the library, which registers the operators above.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
