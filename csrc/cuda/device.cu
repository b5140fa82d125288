// What the CUDA runtime says about a device. The only file besides launch.h that calls it.

#include <cuda_runtime.h>

#include "driver.h"

namespace sapag::gpu {

int device_limits(int device, PlannerLimits* limits) {
  const auto ask = [&](cudaDeviceAttr attribute, int* value) {
    const cudaError_t error = cudaDeviceGetAttribute(value, attribute, device);
    if (error != cudaSuccess) cudaGetLastError();  // else the next launch would be blamed
    return static_cast<int>(error);
  };
  int sms = 0, shared = 0, l2 = 0, major = 0, minor = 0, cooperative = 0, clusters = 0, driver = 0;
  int error = ask(cudaDevAttrMultiProcessorCount, &sms);
  if (error == 0) error = ask(cudaDevAttrMaxSharedMemoryPerBlockOptin, &shared);
  if (error == 0) error = ask(cudaDevAttrL2CacheSize, &l2);
  if (error == 0) error = ask(cudaDevAttrComputeCapabilityMajor, &major);
  if (error == 0) error = ask(cudaDevAttrComputeCapabilityMinor, &minor);
  if (error == 0) error = ask(cudaDevAttrCooperativeLaunch, &cooperative);
  if (error == 0) error = ask(cudaDevAttrClusterLaunch, &clusters);
  if (error == 0) error = static_cast<int>(cudaDriverGetVersion(&driver));
  if (error != 0) return error;
  limits->sms = sms;
  limits->shared_bytes = shared;
  limits->l2_bytes = l2;
  limits->arch = 10 * major + minor;
  limits->grid_tier = cooperative != 0;
  limits->max_cluster = clusters != 0 ? 8 : 1;
  constexpr int kLargeParameters = 12010;  // CUDA 12.1, on compute capability 7.0 and later
  limits->parameter_bytes = driver >= kLargeParameters && CUDART_VERSION >= kLargeParameters ? 32764 : 4096;
  return 0;
}

const char* error_text(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}

}  // namespace sapag::gpu
