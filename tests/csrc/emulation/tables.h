// Random tables of gradients for the emulated kernels, and the check of what they give.
//
//  1. make_table draws sizes, types, alignment, strides, kinds and values from a seed.
//  2. Buffers are heap blocks of exactly the bytes that a tensor spans: what lies before it and between its
//  recoveries
//     is NaN to read, and has to be found unchanged where it could be written.
//  3. expect works out every recovery by definition (reference.h), check_* compare.
#pragma once

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "cuda_emulation.h"
#include "reference.h"

namespace sapag::emulation {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x1234567) {}
  uint64_t bits() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ * 0x2545f4914f6cdd1du;
  }
  int64_t below(int64_t bound) { return static_cast<int64_t>((bits() >> 11) % static_cast<uint64_t>(bound)); }
  bool one_in(int64_t n) { return below(n) == 0; }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  double normal() {
    double sum = 0;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum - 6;
  }

 private:
  uint64_t state_;
};

// One tensor of all recoveries.
struct Tensor {
  std::unique_ptr<unsigned char, void (*)(void*)> memory{nullptr, &std::free};
  std::size_t bytes = 0, offset = 0;
  int64_t stride = 0, size = 0, recoveries = 0;
  Scalar scalar = Scalar::f32;

  void allocate(Scalar type, int64_t count, int64_t times, int64_t step, int64_t shift) {
    scalar = type;
    size = count;
    recoveries = times;
    stride = step;
    const auto width = static_cast<std::size_t>(bytes_of(type));
    offset = static_cast<std::size_t>(shift) * width;
    bytes = count == 0 ? 0 : offset + static_cast<std::size_t>((times - 1) * step + count) * width;
    memory.reset(static_cast<unsigned char*>(std::malloc(bytes)));
    if (bytes) std::memset(memory.get(), 0xff, bytes);
  }
  void* data() const { return bytes ? memory.get() + offset : nullptr; }
  unsigned char* at(int64_t recovery, int64_t i) const {
    return memory.get() + offset + static_cast<std::size_t>((recovery * stride + i) * bytes_of(scalar));
  }
  // Rounds to the type and returns what is stored.
  double set(int64_t recovery, int64_t i, double value) {
    unsigned char* p = at(recovery, i);
    const auto single = static_cast<float>(value);
    if (scalar == Scalar::f64) {
      std::memcpy(p, &value, sizeof value);
    } else if (scalar == Scalar::f32) {
      std::memcpy(p, &single, sizeof single);
    } else {
      const uint16_t bits = scalar == Scalar::bf16 ? float_to_bf16(single) : float_to_half(single);
      std::memcpy(p, &bits, sizeof bits);
    }
    return get(recovery, i);
  }
  double get(int64_t recovery, int64_t i) const {
    const unsigned char* p = at(recovery, i);
    if (scalar == Scalar::f64) {
      double value;
      std::memcpy(&value, p, sizeof value);
      return value;
    }
    if (scalar == Scalar::f32) {
      float value;
      std::memcpy(&value, p, sizeof value);
      return value;
    }
    uint16_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return scalar == Scalar::bf16 ? bf16_to_float(bits) : half_to_float(bits);
  }
  // The bytes before the tensor and between its recoveries still are what allocate left there.
  bool gaps_untouched() const {
    const auto width = static_cast<std::size_t>(bytes_of(scalar));
    std::size_t next = 0;
    for (int64_t r = 0; bytes && r < recoveries; ++r) {
      const std::size_t begin = offset + static_cast<std::size_t>(r * stride) * width;
      for (; next < begin; ++next) {
        if (memory.get()[next] != 0xff) return false;
      }
      next = begin + static_cast<std::size_t>(size) * width;
    }
    return true;
  }
};

struct Limits {
  int most_layers = 6;
  int64_t most_elements = 1 << 17;  // of all recoveries
  int most_recoveries = 9;
};

struct Case {
  Table table;
  DistanceOptions options;
  std::vector<Tensor> dummy, target, out;
  std::vector<double> weights, variance;
  std::vector<SegmentData> data;  // [R, L]
  std::vector<bool> broken;       // [R]: NaN or Inf somewhere in it
  bool with_gradient = true;

  SegmentData& segment(int64_t recovery, int64_t layer) {
    return data[static_cast<std::size_t>(recovery * table.layers + layer)];
  }
};

// sizes_of_interest: elements of a layer around which the planner changes its mind.
inline void make_table(Random* random, const Limits& limits, Scalar scalar,
                       const std::vector<int64_t>& sizes_of_interest, Case* out) {
  Random& r = *random;
  Case& c = *out;
  Table& table = c.table;
  table.scalar = scalar;
  table.recoveries = 1 + (r.one_in(3) ? 0 : r.below(limits.most_recoveries));
  const bool shared = r.one_in(3);
  table.target_recoveries = shared ? 1 : table.recoveries;
  // Now and then more tensors than one launch takes.
  const bool many = limits.most_layers > 4 && r.one_in(12);
  table.layers = many ? (r.one_in(3) ? 300 : 40) : 1 + r.below(limits.most_layers);
  c.with_gradient = !r.one_in(5);

  int64_t left = limits.most_elements / table.recoveries;
  for (int64_t layer = 0; layer < table.layers; ++layer) {
    int64_t size = 0;
    switch (r.below(many ? 4 : 9)) {
      case 0:
        size = r.below(4);
        break;
      case 1:
        size = r.below(40);
        break;
      case 2:
      case 3:
        size = r.below(many ? 60 : 3000);
        break;
      case 4:
      case 5:
        size = r.below(20000);
        break;
      default:
        if (!sizes_of_interest.empty()) {
          size = sizes_of_interest[static_cast<std::size_t>(
              r.below(static_cast<int64_t>(sizes_of_interest.size())))];
          size += r.one_in(2) ? r.below(3) - 1 : 0;
        }
    }
    if (size < 0) size = 0;
    if (size > left) size = left > 0 ? r.below(left + 1) : 0;
    left -= size;
    // Weight, bias, or anything else: one to three tensors of the layer. Layers without any exist too.
    int pieces = 1 + (r.one_in(2) ? static_cast<int>(r.below(3)) : 0);
    if (layer > 0 && r.one_in(20)) pieces = size = 0;  // a table has a tensor, at least
    for (int piece = 0; piece < pieces; ++piece) {
      Entry entry{};
      entry.layer = layer;
      entry.size = piece + 1 == pieces ? size : r.below(size + 1);
      size -= entry.size;
      table.entries.push_back(entry);
    }
  }
  if (r.one_in(4)) {  // tensors of one layer need not be neighbours
    for (std::size_t i = table.entries.size(); i > 1; --i) {
      std::swap(table.entries[i - 1],
                table.entries[static_cast<std::size_t>(r.below(static_cast<int64_t>(i)))]);
    }
  }

  const std::size_t count = table.entries.size();
  c.dummy.resize(count);
  c.target.resize(count);
  c.out.resize(count);
  c.data.resize(static_cast<std::size_t>(table.recoveries * table.layers));
  c.broken.assign(static_cast<std::size_t>(table.recoveries), false);
  const bool straight = r.one_in(2);  // as torch allocates them; else at odd offsets, with gaps
  const auto shift = [&] { return straight || r.one_in(2) ? 0 : r.below(9); };
  const auto gap = [&] { return straight || r.one_in(2) ? 0 : r.below(6); };
  const double gaps[] = {1e-6, 1e-3, 0.1, 1, 10};
  struct Style {
    double scale, offset, gap;
    // 1: target zero, 2: target constant, 3: dummy zero, 4: dummy equals target, 5: next to nothing beside
    // others
    int special;
  };
  std::vector<Style> styles(static_cast<std::size_t>(table.layers));
  // Now and then of a size at which float32 does not hold the coefficients of V.
  const double sizes[] = {1e-38, 1e-30, 1e-21, 1e19, 1e30};
  const double unit = scalar != Scalar::f16 && r.one_in(5) ? sizes[r.below(5)] : 1;
  for (Style& style : styles) {
    style.scale = std::pow(10.0, static_cast<double>(r.below(4)) - 2);
    style.offset = r.one_in(3) ? r.normal() : 0.1;
    style.gap = gaps[r.below(5)];
    style.special = r.one_in(5) ? 1 + static_cast<int>(r.below(5)) : 0;
    if (style.special == 5) style.scale = scalar == Scalar::f16 ? 3e-7 : 1e-9;
    style.scale *= unit;
  }
  for (std::size_t e = 0; e < count; ++e) {
    Entry& entry = table.entries[e];
    const int64_t n = entry.size;
    c.dummy[e].allocate(scalar, n, table.recoveries, n + gap(), shift());
    c.target[e].allocate(scalar, n, table.target_recoveries, n + gap(), shift());
    c.out[e].allocate(scalar, c.with_gradient ? n : 0, table.recoveries, n + gap(), shift());
    entry.dummy = c.dummy[e].data();
    entry.target = c.target[e].data();
    entry.out = c.with_gradient ? c.out[e].data() : nullptr;
    entry.dummy_stride = c.dummy[e].stride;
    entry.target_stride = shared ? 0 : c.target[e].stride;
    entry.out_stride = c.out[e].stride;
    const Style& style = styles[static_cast<std::size_t>(entry.layer)];
    for (int64_t t = 0; t < table.target_recoveries; ++t) {
      for (int64_t i = 0; i < n; ++i) {
        const double g = style.special == 1   ? 0
                         : style.special == 2 ? 0.75 * style.scale
                                              : style.scale * (r.normal() + style.offset);
        c.target[e].set(t, i, g);
      }
    }
    for (int64_t recovery = 0; recovery < table.recoveries; ++recovery) {
      for (int64_t i = 0; i < n; ++i) {
        const double g = c.target[e].get(shared ? 0 : recovery, i);
        const double a = style.special == 3   ? 0
                         : style.special == 4 ? g
                                              : g + style.gap * style.scale * r.normal();
        c.dummy[e].set(recovery, i, a);
      }
    }
  }
  // Non-finite elements: of one recovery's dummy, or of a target and then of all that use it. Often in a
  // layer that carries no weight: there, too, they have to show.
  const auto tiny = [&](std::size_t e) {
    return styles[static_cast<std::size_t>(table.entries[e].layer)].special == 5;
  };
  std::size_t first_tiny = 0;
  while (first_tiny < count && !tiny(first_tiny)) ++first_tiny;
  if (count > 0 && r.one_in(first_tiny < count ? 2 : 6)) {
    const std::size_t drawn = static_cast<std::size_t>(r.below(static_cast<int64_t>(count)));
    const std::size_t e = first_tiny < count && r.one_in(2) ? first_tiny : drawn;
    const double values[] = {std::nan(""), HUGE_VAL, -HUGE_VAL};
    if (table.entries[e].size > 0) {
      const bool in_target = r.one_in(3);
      Tensor& tensor = in_target ? c.target[e] : c.dummy[e];
      const int64_t recovery = r.below(tensor.recoveries);
      const int64_t i = r.one_in(2) ? table.entries[e].size - 1 : r.below(table.entries[e].size);
      tensor.set(recovery, i, values[r.below(3)]);
      for (int64_t each = 0; each < table.recoveries; ++each) {
        if (each == recovery || (in_target && shared)) c.broken[static_cast<std::size_t>(each)] = true;
      }
    }
  }
  for (std::size_t e = 0; e < count; ++e) {
    for (int64_t recovery = 0; recovery < table.recoveries; ++recovery) {
      SegmentData& data = c.segment(recovery, table.entries[e].layer);
      for (int64_t i = 0; i < table.entries[e].size; ++i) {
        data.dummy.push_back(c.dummy[e].get(recovery, i));
        data.target.push_back(c.target[e].get(shared ? 0 : recovery, i));
      }
    }
  }

  DistanceOptions& options = c.options;
  options.kind = static_cast<Kind>(r.below(static_cast<int64_t>(Kind::count)));
  options.bandwidth = r.one_in(2) ? 1 : 0.05 + r.uniform();
  options.l1_weight = options.kind == Kind::tag ? r.uniform() : 0;
  const auto fill = [&](std::vector<double>* values, const double** pointer, int64_t* stride) {
    const bool each = r.one_in(2);
    values->resize(static_cast<std::size_t>((each ? table.recoveries : 1) * table.layers));
    for (double& value : *values) value = 0.1 + r.uniform();
    *pointer = values->data();
    *stride = each ? table.layers : 0;
  };
  if (r.one_in(2)) fill(&c.weights, &options.weights, &options.weights_stride);
  if (r.one_in(4)) fill(&c.variance, &options.variance, &options.variance_stride);
}

struct Expected {
  Real value = 0, value_error = 0;
  std::vector<Measured> layers;
};

inline Expected expect(Case* c, int64_t recovery) {
  const Table& table = c->table;
  const DistanceOptions& options = c->options;
  const Precision precision = precision_of(table.scalar);
  Real whole = 0;
  for (int64_t layer = 0; layer < table.layers; ++layer) {
    for (const Real g : c->segment(recovery, layer).target) whole += g * g;
  }
  Expected expected;
  for (int64_t layer = 0; layer < table.layers; ++layer) {
    const Real weight = options.weights ? options.weights[recovery * options.weights_stride + layer] : 1;
    const Real variance =
        options.variance ? options.variance[recovery * options.variance_stride + layer] : -1;
    expected.layers.push_back(measure(options.kind, c->segment(recovery, layer), whole, options.bandwidth,
                                      options.l1_weight, weight, variance, precision));
    expected.value += expected.layers.back().value;
    expected.value_error += expected.layers.back().value_error;
  }
  return expected;
}

// Each check returns what is wrong, or nothing.
inline std::string wrong(const char* what, int64_t recovery, int64_t layer, int64_t i, Real got, Real wanted,
                         Real allowed) {
  char text[256];
  std::snprintf(text, sizeof text,
                "%s of recovery %lld, layer %lld, element %lld: %.17Lg instead of %.17Lg (+- %.3Lg)", what,
                static_cast<long long>(recovery), static_cast<long long>(layer), static_cast<long long>(i),
                got, wanted, allowed);
  return text;
}

inline bool close(Real got, Real wanted, Real allowed) {
  return std::fabs(got - wanted) <= allowed;
}

inline std::string check_value(const Expected& expected, bool broken, int64_t recovery, double value,
                               bool wide) {
  if (broken) {
    return std::isfinite(value) ? wrong("finite value", recovery, -1, -1, value, NAN, 0) : std::string();
  }
  const Real allowed =
      expected.value_error + (wide ? 1e-15L : 1.2e-7L) * std::fabs(expected.value) + (wide ? 0 : 1e-44L);
  if (!wide && expected.value + allowed > 3.4e38L && std::isinf(value)) return {};
  return close(value, expected.value, allowed)
             ? std::string()
             : wrong("value", recovery, -1, -1, value, expected.value, allowed);
}

inline std::string check_gradient(Case* c, const Expected& expected, int64_t recovery) {
  std::vector<std::size_t> next(static_cast<std::size_t>(c->table.layers), 0);
  const Real greatest = c->table.scalar == Scalar::f16 ? 65504.0L : static_cast<Real>(3.3e38);
  for (std::size_t e = 0; e < c->table.entries.size(); ++e) {
    const Entry& entry = c->table.entries[e];
    const Measured& layer = expected.layers[static_cast<std::size_t>(entry.layer)];
    for (int64_t i = 0; i < entry.size; ++i) {
      const std::size_t place = next[static_cast<std::size_t>(entry.layer)]++;
      const Real wanted = layer.gradient[place], allowed = layer.gradient_error[place];
      const Real got = c->out[e].get(recovery, i);
      if (std::fabs(wanted) + allowed > greatest && std::isinf(got)) continue;
      if (!close(got, wanted, allowed)) return wrong("V", recovery, entry.layer, i, got, wanted, allowed);
    }
  }
  return {};
}

}  // namespace sapag::emulation
