"""What mutations.py breaks in the CUDA sources: a piece that occurs exactly once, and what it becomes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    file: str
    old: str
    new: str
    what: str


MUTATIONS = [
    # Barriers and fences.
    Mutation(
        "block_tier.cu",
        "unit_sums[column * units + i] = sum; });\n  }\n  __syncthreads();",
        "unit_sums[column * units + i] = sum; });\n  }",
        "block: no barrier between units and merge",
    ),
    Mutation(
        "block_tier.cu",
        "totals[column] = total;\n  }\n  __syncthreads();",
        "totals[column] = total;\n  }",
        "block: no barrier between merge and solve",
    ),
    Mutation(
        "block_tier.cu",
        "if (!parameters.with_gradient) return;\n  __syncthreads();",
        "if (!parameters.with_gradient) return;",
        "block: no barrier between solve and V",
    ),
    Mutation(
        "block_tier.cu",
        "    });\n  }\n  __syncwarp();",
        "    });\n  }",
        "packed: no __syncwarp before solve",
    ),
    Mutation(
        "block_tier.cu",
        "  __syncwarp();\n  if (!parameters.with_gradient) return;",
        "  if (!parameters.with_gradient) return;",
        "packed: no __syncwarp before V",
    ),
    Mutation(
        "cluster_tier.cu",
        "unit_sums[column * capacity + i] = sum; });\n  }\n  __syncthreads();",
        "unit_sums[column * capacity + i] = sum; });\n  }",
        "cluster: no barrier between units and chunks",
    ),
    Mutation(
        "cluster_tier.cu",
        "  cluster_sync();\n\n  for (int column",
        "  __syncthreads();\n\n  for (int column",
        "cluster: own CTA's barrier before reading the others",
    ),
    Mutation(
        "cluster_tier.cu",
        "totals[column] = total;\n  }\n  __syncthreads();",
        "totals[column] = total;\n  }",
        "cluster: no barrier between merge and solve",
    ),
    Mutation(
        "cluster_tier.cu",
        "  cluster_sync();\n\n  const Affine<T> affine(*slope, slope);",
        "  __syncthreads();\n\n  const Affine<T> affine(*slope, slope);",
        "cluster: CTAs end while others read them",
    ),
    Mutation(
        "grid_tier.cu",
        "    grid_sync(barrier, members);\n",
        "    __syncthreads();\n",
        "grid: no barrier over the grid",
    ),
    Mutation(
        "primitives.cuh",
        "(&barrier->generation);\n    __threadfence();\n    if (atomicAdd",
        "(&barrier->generation);\n    if (atomicAdd",
        "grid: no fence before arrival",
    ),
    Mutation(
        "primitives.cuh",
        "atomicExch(&barrier->arrived, 0u);\n      __threadfence();",
        "atomicExch(&barrier->arrived, 0u);",
        "grid: the last to arrive opens without a fence",
    ),
    Mutation(
        "primitives.cuh",
        "spin_pause();\n    }\n  }\n  __syncthreads();\n}",
        "spin_pause();\n    }\n  }\n}",
        "grid: the others do not wait for thread 0",
    ),
    Mutation(
        "primitives.cuh",
        "unsigned members) {\n  __syncthreads();",
        "unsigned members) {",
        "grid: thread 0 does not wait for the others",
    ),
    Mutation(
        "primitives.cuh",
        "atomicAdd(&barrier->arrived, 1u) == members - 1",
        "barrier->arrived++ == members - 1",
        "grid: arrivals are not atomic",
    ),
    Mutation(
        "primitives.cuh",
        "== members - 1",
        "== members",
        "grid: one arrival too many awaited",
    ),
    Mutation(
        "grid_tier.cu",
        "    __syncthreads();  // the next wave",
        "    // the next wave",
        "grid: no barrier between waves",
    ),
    Mutation(
        "grid_tier.cu",
        "wave / groups % 2",
        "0 * wave",
        "grid: waves share one buffer of sums",
    ),
    Mutation(
        "merge.cu",
        "totals[threadIdx.x] = total;\n  __syncthreads();",
        "totals[threadIdx.x] = total;",
        "merge: no barrier before the result",
    ),
    Mutation(
        "merge.cu",
        "supers[column * kSupers + super] = sum;\n    }\n    __syncthreads();",
        "supers[column * kSupers + super] = sum;\n    }",
        "merge: no barrier before adding supers",
    ),
    # Shuffles.
    Mutation(
        "unit_sums.cuh",
        "__shfl_xor_sync(kFullWarp, give, bit)",
        "__shfl_xor_sync(kFullWarp, give, bit / 2)",
        "fold: half the shuffle's offset",
    ),
    Mutation(
        "unit_sums.cuh",
        "for (int bit = 16; bit > 0; bit /= 2) value += __shfl_xor_sync(kFullWarp, value, bit);",
        "for (int bit = 8; bit > 0; bit /= 2) value += __shfl_xor_sync(kFullWarp, value, bit);",
        "butterfly: half the warp",
    ),
    Mutation(
        "unit_sums.cuh",
        "value += __shfl_xor_sync(kFullWarp, value, bit);",
        "value += __shfl_xor_sync(kFullWarp, value, bit, 16);",
        "butterfly: width 16",
    ),
    Mutation(
        "unit_sums.cuh",
        "value += __shfl_xor_sync(kFullWarp, value, bit);",
        "value += __shfl_xor_sync(0x7fffffffu, value, bit);",
        "butterfly: a lane missing in the mask",
    ),
    # Tails, alignment, sizes, offsets, ranks.
    Mutation(
        "units.cuh",
        "if (i + k < size) raw[k] = p[i + k];",
        "if (i + k + 1 < size) raw[k] = p[i + k];",
        "gather: the last element dropped",
    ),
    Mutation(
        "units.cuh",
        "if (i + k < size) raw[k] = p[i + k];",
        "if (i + k <= size) raw[k] = p[i + k];",
        "gather: one element too many",
    ),
    Mutation(
        "units.cuh",
        "if (i + k < size) p[i + k] = raw[k];",
        "if (i + k <= size) p[i + k] = raw[k];",
        "scatter: one element too many",
    ),
    Mutation(
        "units.cuh",
        "i + kWidth<T> <= unit.size && aligned",
        "i < unit.size && aligned",
        "V: whole vectors at the end of a tensor",
    ),
    Mutation(
        "units.cuh",
        "& 15) == 0",
        "& 7) == 0",
        "aligned: to 8 bytes",
    ),
    Mutation(
        "units.cuh",
        "slot * 2 * kVectors",
        "slot * kVectors",
        "held units overlap",
    ),
    Mutation(
        "merges.cuh",
        "chunk < chunks ? at(chunk) : 0.0",
        "chunk <= chunks ? at(chunk) : 0.0",
        "merge: one chunk too many",
    ),
    Mutation(
        "unit_sums.cuh",
        "i + k < size ? g - shift : 0",
        "g - shift",
        "target sums: the shift counted beyond the end",
    ),
    Mutation(
        "cluster_tier.cu",
        "cluster_map(chunk_sums, rank)",
        "cluster_map(chunk_sums, cluster_rank())",
        "cluster: the wrong CTA's sums",
    ),
    Mutation(
        "cluster_tier.cu",
        "first = cluster_rank() * share",
        "first = 0 * share",
        "cluster: every CTA takes the first part",
    ),
    Mutation(
        "kernels.h",
        "return units * kAllColumns * static_cast<int64_t>(sizeof(double));",
        "return units * kAllColumns * static_cast<int64_t>(sizeof(double)) - (units > 1 ? 8 : 0);",
        "shared memory: one sum too few",
    ),
    Mutation(
        "kernels.h",
        "return units * 2 * kUnitBytes;",
        "return units * 2 * kUnitBytes - (units > 0 ? 16 : 0);",
        "shared memory: held units a vector short",
    ),
    Mutation(
        "grid_tier.cu",
        "if (part.from < part.to) visit(part);",
        "if (part.from + 1 < part.to) visit(part);",
        "grid: parts of one chunk skipped",
    ),
    Mutation(
        "two_pass.cu",
        "kBackwards ? tasks - 1 - i : i",
        "kBackwards ? tasks - i : i",
        "passes: backwards by one too few",
    ),
    Mutation(
        "two_pass.cu",
        "static_cast<int64_t>(gridDim.x) * warps;",
        "static_cast<int64_t>(gridDim.x) * warps + 1;",
        "passes: a chunk skipped between rounds",
    ),
    # A target that is summed in the distance's own sweep.
    Mutation(
        "grid_tier.cu",
        "totals[lane()] = total;\n        }\n        __syncwarp();",
        "totals[lane()] = total;\n        }",
        "grid: no __syncwarp between totals and solve",
    ),
    Mutation(
        "unit_sums.cuh",
        "[recovery * segment.shift_stride]",
        "[0 * recovery]",
        "shift: the first recovery's for all",
    ),
    Mutation(
        "solve.cuh",
        "unshifted(totals + kColumns, size, shift)",
        "unshifted(totals + kColumns, size, 0)",
        "solve: the target's sums not shifted back",
    ),
    Mutation(
        "solve.cuh",
        "unshifted(totals + kColumns",
        "unshifted(totals",
        "solve: the difference's sums for the target's",
    ),
    Mutation(
        "solve.cuh",
        "problem.marks[recovery * problem.layers + layer] =",
        "problem.marks[layer] =",
        "solve: the first recovery's marks for all",
    ),
    Mutation(
        "block_tier.cu",
        "totals[column] = chunk[column] = 0;",
        "totals[column] = 0;",
        "packed: the first chunk is not cleared",
    ),
    Mutation(
        "block_tier.cu",
        "        chunk[column] = 0;\n",
        "",
        "packed: the next chunk is not cleared",
    ),
    Mutation(
        "merge.cu",
        "if (back) share = 0;",
        "",
        "finish: negligible layers keep their share",
    ),
    Mutation(
        "merge.cu",
        "problem.marks[row] = back;",
        "problem.marks[row] = 0;",
        "finish: V of negligible layers stays",
    ),
    Mutation(
        "merge.cu",
        "problem.marks[row] != 0 && is_negligible",
        "is_negligible",
        "finish: non-finite layers taken back",
    ),
    Mutation(
        "two_pass.cu",
        "if (parameters.marks && !parameters.marks[row]) return;",
        "",
        "V taken back of every layer",
    ),
    Mutation(
        "two_pass.cu",
        "column == kShift ? shift : sums.target",
        "sums.target",
        "passes: the shift not handed on",
    ),
    Mutation(
        "driver.cu",
        "problem.sum_target = 0;  //",
        "//",
        "driver: Σ g² unknown to the end",
    ),
    Mutation(
        "driver.cu",
        "if (plan.sum_target) {\n    run_merges",
        "if (false) {\n    run_merges",
        "driver: the passes' target sums not merged",
    ),
    # V times a factor.
    Mutation(
        "scale.cu",
        "(slope.size + kUnit<T> - 1) / kUnit<T>",
        "slope.size / kUnit<T>",
        "scale: no tail",
    ),
    Mutation(
        "scale.cu",
        "next -= units;",
        "",
        "scale: units counted anew in each tensor",
    ),
    Mutation(
        "scale.cu",
        "if (factor == 1) continue;",
        "if (factor == 1) return;",
        "scale: the CTA's other recoveries left out",
    ),
    Mutation(
        "scale.cu",
        "if (factor == 1) continue;",
        "",
        "scale: a factor of 1 writes",
    ),
    Mutation(
        "scale.cu",
        "recovery * parameters.factor_stride",
        "0 * recovery",
        "scale: the first recovery's factor for all",
    ),
    Mutation(
        "scale.cu",
        "size >= kUnit<T> && aligned(values, values)",
        "size >= kUnit<T>",
        "scale: vectors at any address",
    ),
    Mutation(
        "scale.cu",
        "+ recovery * slope.stride",
        "+ 0 * recovery",
        "scale: the first recovery each time",
    ),
]
