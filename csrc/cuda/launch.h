// One way to launch a kernel, for nvcc and for the host emulation. Include after primitives.cuh.
#pragma once

#include <cstddef>

#include "primitives.cuh"

#ifndef SAPAG_EMULATE
#include <type_traits>
#endif

namespace sapag::gpu {

#ifdef SAPAG_EMULATE
using emulation::LaunchShape;
#else
struct LaunchShape {
  int grid = 1;
  int block = 1;
  int dynamic_shared_bytes = 0;
  int cluster = 1;           // CTAs of a cluster; divides grid
  bool cooperative = false;  // all CTAs resident together, as grid_sync needs
};
#endif

// Queues kernel(args...) on the stream; 0, or the cudaError_t. The kernel itself may still fail later.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), const LaunchShape& shape, void* stream, Arguments&&... arguments) {
#ifdef SAPAG_EMULATE
  return emulation::launch_kernel(kernel, shape, stream, arguments...);
#else
  // Beyond 48 KB, static arrays included, a kernel has to ask; beyond 8 CTAs a cluster has to.
  constexpr int kAsk = 16 * 1024, kPortableCluster = 8;
  cudaError_t error = cudaSuccess;
  if (shape.dynamic_shared_bytes > kAsk) {
    error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.dynamic_shared_bytes);
  }
  if (error == cudaSuccess && shape.cluster > kPortableCluster) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  if (error == cudaSuccess) {
    cudaLaunchAttribute attributes[2] = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(shape.grid));
    config.blockDim = dim3(static_cast<unsigned>(shape.block));
    config.dynamicSmemBytes = static_cast<std::size_t>(shape.dynamic_shared_bytes);
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes;
    if (shape.cluster > 1) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
      attribute.val.clusterDim.y = 1;
      attribute.val.clusterDim.z = 1;
    }
    if (shape.cooperative) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeCooperative;
      attribute.val.cooperative = 1;
    }
    error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  }
  // Read in every case: an error left behind would be blamed on the next call.
  const cudaError_t last = cudaGetLastError();
  return static_cast<int>(error != cudaSuccess ? error : last);
#endif
}

}  // namespace sapag::gpu
