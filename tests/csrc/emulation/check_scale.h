// scale on the V of a table: factors of all sorts, products to the last bit, and rows whose factor is 1 as
// they were.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/driver.h"
#include "devices.h"
#include "rows.h"

namespace sapag::emulation {

// What set would store of value times factor, by the arithmetic that the type has.
inline std::vector<unsigned char> product(Scalar scalar, double value, double factor) {
  Tensor one;
  one.allocate(scalar, 1, 1, 1, 0);
  if (scalar == Scalar::f64) {
    one.set(0, 0, value * factor);
  } else {
    one.set(0, 0, static_cast<float>(value) * static_cast<float>(factor));
  }
  return {one.memory.get(), one.memory.get() + one.bytes};
}

inline std::string check_scale(Case* c, const PlannerLimits& limits, Random* random) {
  const Table& table = c->table;
  const bool wide = random->one_in(2), each = random->one_in(2);
  const int64_t apart = each ? 1 + random->below(3) : 0;
  Rows<double> doubles(table.recoveries * 3);
  Rows<float> singles(table.recoveries * 3);
  const auto factor_of = [&](int64_t r) {
    return wide ? doubles[r * apart] : static_cast<double>(singles[r * apart]);
  };
  for (int64_t r = 0; r < (each ? table.recoveries : 1); ++r) {
    const double values[] = {1, 1, 0, -2.5, std::nan(""), HUGE_VAL, random->normal()};
    doubles.data()[r * apart] = values[random->below(7)];
    singles.data()[r * apart] = static_cast<float>(doubles[r * apart]);
  }
  SlopeTable slopes;
  slopes.recoveries = table.recoveries;
  slopes.scalar = table.scalar;
  slopes.factor = wide ? static_cast<const void*>(doubles.data()) : singles.data();
  slopes.factor_stride = apart;
  slopes.wide = wide;
  clear(c);  // to NaNs with a sign and all bits: a factor of 1 keeps those only by leaving them alone
  std::vector<Rows<double>> before;
  before.reserve(table.entries.size());
  for (std::size_t e = 0; e < table.entries.size(); ++e) {
    const Entry& entry = table.entries[e];
    slopes.slopes.push_back({entry.out, entry.out_stride, entry.size});
    before.emplace_back(table.recoveries * entry.size);
    for (int64_t i = 0; i < table.recoveries * entry.size; ++i) {
      const int64_t r = i / entry.size, at = i % entry.size;
      if (!random->one_in(4)) c->out[e].set(r, at, random->normal());
      before[e].data()[i] = c->out[e].get(r, at);
    }
  }
  const std::vector<unsigned char> untouched = bytes_of_gradient(*c);
  if (const int error = gpu::scale(slopes, limits, kStream)) return "scale: error " + std::to_string(error);
  std::size_t start = 0;
  for (std::size_t e = 0; e < table.entries.size(); ++e) {
    const Entry& entry = table.entries[e];
    for (int64_t r = 0; r < table.recoveries; ++r) {
      for (int64_t i = 0; i < entry.size; ++i) {
        const unsigned char* const got = c->out[e].at(r, i);
        const auto width = static_cast<std::size_t>(bytes_of(table.scalar));
        if (factor_of(r) == 1) {
          const std::size_t place = start + static_cast<std::size_t>(got - c->out[e].memory.get());
          if (std::memcmp(got, untouched.data() + place, width)) {
            return wrong("scaled by 1", r, entry.layer, i, c->out[e].get(r, i), before[e][r * entry.size + i],
                         0);
          }
          continue;
        }
        const double value = before[e][r * entry.size + i];
        const std::vector<unsigned char> wanted = product(table.scalar, value, factor_of(r));
        const double number = c->out[e].get(r, i);
        const bool nan = std::isnan(value * factor_of(r));
        if (nan ? !std::isnan(number) : std::memcmp(got, wanted.data(), width) != 0) {
          return wrong("scaled", r, entry.layer, i, number, value * factor_of(r), 0);
        }
      }
    }
    start += c->out[e].bytes;
  }
  return check_gaps(*c);
}

}  // namespace sapag::emulation
