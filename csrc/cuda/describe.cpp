// A plan in words, for a dry run.

#include <cstdio>
#include <string>

#include "planner.h"
#include "table.h"

namespace sapag::gpu {
namespace {

const char* name_of(Tier tier) {
  switch (tier) {
    case Tier::block:
      return "block";
    case Tier::cluster:
      return "cluster";
    case Tier::grid:
      return "grid";
    case Tier::pass:
      return "pass";
  }
  return "";
}

template <class... Arguments>
void line(std::string* text, const char* format, Arguments... arguments) {
  char buffer[256];
  std::snprintf(buffer, sizeof buffer, format, arguments...);
  *text += buffer;
}

// What a call reads from and writes to device memory; the tiers read what they cannot keep again from L2.
void describe_traffic(const Plan& plan, std::string* text) {
  double elements = 0, operands = 0;  // of g', g and V, as often as they are read or written
  const bool gradient = plan.purpose == Purpose::gradient;
  for (const PlannedSegment& segment : plan.segments) elements += segment.part_size;
  for (const PlannedLaunch& launch : plan.launches) {
    const double each = !gradient ? 2 : launch.tier == Tier::pass ? 5 : 3;
    for (int s = 0; s < launch.segments; ++s) {
      operands += each * plan.segments[launch.first_segment + s].part_size;
    }
  }
  if (elements == 0) return;
  const auto bytes = static_cast<double>(plan.element_bytes);
  line(text,
       "device memory: %.1f bytes an element, the target's sums known or each recovery's target its own",
       bytes * operands / elements);
  if (plan.recoveries > 1) {
    line(text, "; %.1f where %lld recoveries share a target of unknown sums",
         bytes * (operands / elements + 1 / static_cast<double>(plan.recoveries)),
         static_cast<long long>(plan.recoveries));
  }
  *text += "\n";
}

}  // namespace

std::string describe(const Plan& plan) {
  using Long = long long;
  std::string text;
  line(&text, "%lld recoveries of %lld layers; a unit is %lld elements of %lld bytes\n",
       static_cast<Long>(plan.recoveries), static_cast<Long>(plan.layers),
       static_cast<Long>(kUnitBytes / plan.element_bytes), static_cast<Long>(plan.element_bytes));
  for (size_t i = 0; i < plan.launches.size(); ++i) {
    const PlannedLaunch& launch = plan.launches[i];
    const bool pass = launch.tier == Tier::pass;
    const size_t parameters =
        pass ? (launch.large ? sizeof(PassParameters<kLargeTable>) : sizeof(PassParameters<kSmallTable>))
             : (launch.large ? sizeof(TierParameters<kLargeTable>) : sizeof(TierParameters<kSmallTable>));
    line(&text,
         "launch %zu: %s tier, %d CTAs x %d threads, cluster %d, shared %d bytes, held %d units, "
         "parameters %zu bytes",
         i, name_of(launch.tier), launch.shape.grid, launch.shape.threads, launch.shape.cluster,
         launch.shape.shared_bytes, launch.held, parameters);
    if (launch.tier == Tier::grid)
      line(&text, ", waves of %d chunks in %d groups", launch.chunks, launch.groups);
    text += "\n";
    for (int s = 0; s < launch.segments; ++s) {
      const PlannedSegment& segment = plan.segments[launch.first_segment + s];
      line(&text, "  layer %d: units %d from %d%s, tensors", segment.layer, segment.units, segment.first_unit,
           launch.tier == Tier::block && s >= launch.segments - launch.packed ? " packed" : "");
      for (int p = 0; p < segment.pieces; ++p) line(&text, " %d", plan.pieces[segment.first_piece + p].entry);
      text += "\n";
    }
  }
  if (!plan.merges.empty()) {
    line(&text, "merge: %zu segments of %lld chunks\n", plan.merges.size(), static_cast<Long>(plan.chunks));
  }
  describe_traffic(plan, &text);
  line(&text, "workspace %lld bytes\n", static_cast<Long>(plan.workspace_bytes));
  return text;
}

}  // namespace sapag::gpu
