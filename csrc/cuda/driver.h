// The GPU's counterpart of sapag::cpu: the same calls on device pointers, as launches on a stream. Nothing is
// allocated, copied or waited for, so that all of it can be captured in a graph; the caller gives a workspace
// of plan.workspace_bytes bytes, multiples of 16, on the device, and makes that device the current one.
#pragma once

#include "planner.h"

namespace sapag::gpu {

// For target_sums: recoveries is the table's target_recoveries. sum_target: a distance is to sum the target,
// too, which has to be each recovery's own.
Plan plan_for(const sapag::Table& table, Purpose purpose, int64_t recoveries, const PlannerLimits& limits,
              bool sum_target = false);

// Each returns 0, or the number of the cudaError_t of the launch that failed.
// Purpose::sums
int target_sums(const sapag::Table& table, const Plan& plan, TargetSums* target, void* workspace,
                void* stream);
int difference_sums(const sapag::Table& table, const Plan& plan, DifferenceSums* difference, void* workspace,
                    void* stream);
// Purpose::apply
int apply(const sapag::Table& table, const Plan& plan, const Coefficients* coefficients, void* stream);
// Purpose::value or Purpose::gradient. All pointers in options are the device's. value [R] of double if wide,
// else of float; target are the sums that target_sums gave, or with plan.sum_target are written, to the same
// bits.
int distance(const sapag::Table& table, const Plan& plan, const DistanceOptions& options, void* value,
             bool wide, TargetSums* target, void* workspace, void* stream);

// V times the table's factors, in place.
int scale(const SlopeTable& table, const PlannerLimits& limits, void* stream);

// What the current device allows, asked once a device.
int device_limits(int device, PlannerLimits* limits);
const char* error_text(int error);

}  // namespace sapag::gpu
