// torch's threads for the torch-free drivers.
#pragma once

#include <ATen/Parallel.h>

#include "sapag.h"

namespace sapag {

inline Parallel parallel_of_torch() {
  const auto run = [](int64_t count, void (*body)(void*, int64_t), void* context) {
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(context, i);
    });
  };
  return {run, at::in_parallel_region() ? 1 : at::get_num_threads()};
}

}  // namespace sapag
