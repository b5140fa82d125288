// target_sums, difference_sums and apply on a table, against float64 definitions.
#pragma once

#include <string>

#include "cuda/driver.h"
#include "devices.h"
#include "rows.h"

namespace sapag::emulation {

inline std::string check_target_sums(Case* c, const PlannerLimits& limits, const Rows<TargetSums>& sums) {
  const Table& table = c->table;
  const Plan plan = gpu::plan_for(table, Purpose::sums, table.target_recoveries, limits);
  Rows<char> workspace(plan.workspace_bytes);
  if (const int error = gpu::target_sums(table, plan, sums.data(), workspace.data(), kStream)) {
    return "target_sums: error " + std::to_string(error);
  }
  for (int64_t recovery = 0; recovery < table.target_recoveries; ++recovery) {
    for (int64_t layer = 0; layer < table.layers; ++layer) {
      const SegmentData& data = c->segment(recovery, layer);
      const TargetSums& got = sums[recovery * table.layers + layer];
      const Moments wanted = moments_of(data.target);
      SegmentData target_alone;
      target_alone.target = data.target;
      if (!finite(target_alone)) {
        if (std::isfinite(got.square) || std::isfinite(got.deviation)) {
          return wrong("finite target sums", recovery, layer, -1, got.square, NAN, 0);
        }
        continue;
      }
      Real absolute = 0;
      for (const Real g : data.target) absolute += std::fabs(g);
      const Real errors[] = {
          1e-14L * absolute, 1e-13L * wanted.square,
          wanted.deviation * (1e-13L + 1e-14L * wanted.deviation_error) + 1e-28L * wanted.square};
      if (!close(got.sum, wanted.sum, errors[0])) {
        return wrong("target sum", recovery, layer, -1, got.sum, wanted.sum, errors[0]);
      }
      if (!close(got.square, wanted.square, errors[1])) {
        return wrong("target square", recovery, layer, -1, got.square, wanted.square, errors[1]);
      }
      if (!close(got.deviation, wanted.deviation, errors[2])) {
        return wrong("target deviation", recovery, layer, -1, got.deviation, wanted.deviation, errors[2]);
      }
    }
  }
  return {};
}

inline std::string check_difference_sums(Case* c, const PlannerLimits& limits) {
  const Table& table = c->table;
  const Plan plan = gpu::plan_for(table, Purpose::sums, table.recoveries, limits);
  Rows<char> workspace(plan.workspace_bytes);
  Rows<DifferenceSums> sums(table.recoveries * table.layers);
  if (const int error = gpu::difference_sums(table, plan, sums.data(), workspace.data(), kStream)) {
    return "difference_sums: error " + std::to_string(error);
  }
  for (int64_t recovery = 0; recovery < table.recoveries; ++recovery) {
    for (int64_t layer = 0; layer < table.layers; ++layer) {
      const SegmentData& data = c->segment(recovery, layer);
      const DifferenceSums& row = sums[recovery * table.layers + layer];
      if (!finite(data)) {
        if (std::isfinite(row.square)) return wrong("finite sums", recovery, layer, -1, row.square, NAN, 0);
        continue;
      }
      const double got[] = {row.sum, row.square, row.cross, row.dummy_square, row.inner, row.absolute};
      Real wanted[6] = {}, absolute[6] = {};
      for (std::size_t i = 0; i < data.dummy.size(); ++i) {
        const Real a = data.dummy[i], g = data.target[i], d = a - g;
        const Real terms[] = {d, d * d, d * g, a * a, a * g, std::fabs(d)};
        for (int k = 0; k < 6; ++k) {
          wanted[k] += terms[k];
          absolute[k] += std::fabs(terms[k]);
        }
      }
      for (int k = 0; k < 6; ++k) {
        if (!close(got[k], wanted[k], 1e-13L * absolute[k])) {
          return wrong("difference sum", recovery, layer, k, got[k], wanted[k], 1e-13L * absolute[k]);
        }
      }
    }
  }
  return {};
}

inline std::string check_apply(Case* c, const PlannerLimits& limits, Random* random) {
  const Table& table = c->table;
  const Precision precision = precision_of(table.scalar);
  const Plan plan = gpu::plan_for(table, Purpose::apply, table.recoveries, limits);
  Rows<Coefficients> rows(table.recoveries * table.layers);
  for (int64_t i = 0; i < table.recoveries * table.layers; ++i) {
    const auto draw = [&] { return random->one_in(3) ? 0 : random->normal(); };
    rows.data()[i] = {draw(), draw(), draw(), draw(), draw()};
  }
  clear(c);
  if (const int error = gpu::apply(table, plan, rows.data(), kStream))
    return "apply: error " + std::to_string(error);
  for (std::size_t e = 0; e < table.entries.size(); ++e) {
    const Entry& entry = table.entries[e];
    for (int64_t recovery = 0; recovery < table.recoveries; ++recovery) {
      const Coefficients& k = rows[recovery * table.layers + entry.layer];
      for (int64_t i = 0; i < entry.size; ++i) {
        const Real a = c->dummy[e].get(recovery, i);
        const Real g = c->target[e].get(table.target_recoveries == 1 ? 0 : recovery, i), d = a - g;
        if (!std::isfinite(static_cast<double>(d))) continue;
        const Real sign = static_cast<Real>((d > 0) - (d < 0));
        const Real wanted = k.alpha * d + k.beta * g + k.epsilon * a + k.gamma + k.delta * sign;
        const Real terms = std::fabs(k.alpha * d) + std::fabs(k.beta * g) + std::fabs(k.epsilon * a) +
                           std::fabs(k.gamma) + std::fabs(k.delta);
        const Real allowed = 8 * precision.arithmetic * terms + 2 * precision.stored * std::fabs(wanted) +
                             precision.stored_least;
        const Real got = c->out[e].get(recovery, i);
        if (!close(got, wanted, allowed))
          return wrong("applied", recovery, entry.layer, i, got, wanted, allowed);
      }
    }
  }
  return check_gaps(*c);
}

}  // namespace sapag::emulation
