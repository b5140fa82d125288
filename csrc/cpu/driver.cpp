// Walks a table of gradients on the CPU: sums, then coefficients, then V.
//
// 1. A recovery whose gradients fit in a core's cache is one unit of work: one thread takes its sums, turns
//    them into coefficients and writes V while g' and g are still in cache (12 bytes an element from memory).
// 2. In larger recoveries the same holds for each small layer. A large layer is cut into chunks that all
//    threads share; V is written from the last chunk back to the first, which meets what the caches still
//    hold.
// 3. Sums are float64 lanes, merged in the order of blocks and chunks. Neither depends
//    on the number of threads: the result has the same bits for every number.

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "../kinds.h"
#include "../sapag.h"
#include "blocks.h"

namespace sapag::cpu {
namespace {

constexpr int64_t kCacheBytes = 1 << 20;    // of g' and g that one thread works on at a time
constexpr int64_t kStreamBytes = 16 << 20;  // of V beyond which it is written around the cache
constexpr int64_t kChunk = 8 * kBlock;
constexpr int64_t kSerialElements = 1 << 15;  // less work than this is not worth waking threads for

struct Capability {
  const char* name;
  const BlockKernels* kernels;
};

Capability choose() {
#if defined(__x86_64__)
  const char* wanted = std::getenv("SAPAG_FAST_CPU_CAPABILITY");
  const auto allowed = [&](const char* name) { return !wanted || std::strcmp(wanted, name) == 0; };
  const bool has2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has512 = has2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (has512 && allowed("avx512")) return {"avx512", avx512::kernels};
  if (has2 && (allowed("avx2") || allowed("avx512"))) return {"avx2", avx2::kernels};
#endif
  return {"baseline", baseline::kernels};
}

const Capability& chosen() {
  static const Capability capability = choose();
  return capability;
}

template <class F>
void parallel_for(const Parallel& parallel, int64_t count, bool worth, F&& body) {
  if (!worth || count <= 1 || parallel.threads <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  struct Shared {
    F& body;
    std::atomic<int64_t> next;
    int64_t count;
  } shared{body, {0}, count};
  const auto worker = [](void* context, int64_t) {
    auto& s = *static_cast<Shared*>(context);
    for (int64_t i; (i = s.next.fetch_add(1, std::memory_order_relaxed)) < s.count;) s.body(i);
  };
  parallel.run(parallel.threads < count ? parallel.threads : count, worker, &shared);
}

void merge(DifferenceSums* into, const DifferenceSums& s) {
  into->sum += s.sum;
  into->square += s.square;
  into->cross += s.cross;
  into->dummy_square += s.dummy_square;
  into->inner += s.inner;
  into->absolute += s.absolute;
}

void merge(Moments* into, const Moments& m) {
  if (m.count == 0) return;
  const double whole = into->count + m.count, gap = m.mean - into->mean;
  into->deviation += m.deviation + gap * gap * (into->count * m.count / whole);
  into->mean += gap * (m.count / whole);
  into->count = whole;
  into->square += m.square;
}

TargetSums finish(const Moments& m) {
  return {m.count * m.mean, m.square, m.deviation};
}

// The three things a run of elements can be asked for.
struct Ask {
  bool difference, target, extra;
};
struct Partial {
  DifferenceSums difference;
  Moments moments;
};

class Walker {
 public:
  Walker(const Table& table, const Parallel& parallel)
      : table_(table),
        parallel_(parallel),
        kernels_(chosen().kernels[static_cast<int>(table.scalar)]),
        bytes_(bytes_of(table.scalar)),
        members_(table.layers),
        sizes_(table.layers, 0) {
    int64_t elements = 0;
    for (const Entry& entry : table.entries) {
      members_[entry.layer].push_back(&entry);
      sizes_[entry.layer] += entry.size;
      elements += entry.size;
    }
    elements_ = elements;
    stream_ = elements * table.recoveries * bytes_ > kStreamBytes;
  }

  int64_t layers() const { return table_.layers; }
  double size(int64_t layer) const { return static_cast<double>(sizes_[layer]); }
  bool small_recovery() const { return fits(elements_); }
  bool small_layer(int64_t layer) const { return fits(sizes_[layer]); }
  bool worth_threads() const { return elements_ * table_.recoveries > kSerialElements; }

  // One thread, all elements of a segment, chunk by chunk as sums_shared does.
  Partial sums(int64_t recovery, int64_t layer, Ask ask) const {
    Partial result;
    for (const Entry* entry : members_[layer]) {
      for (int64_t from = 0; from < entry->size; from += kChunk) {
        const Partial part = chunk_sums(*entry, recovery, from, ask);
        merge(&result.difference, part.difference);
        merge(&result.moments, part.moments);
      }
    }
    return result;
  }

  Partial sums_shared(int64_t recovery, int64_t layer, Ask ask) const {
    const std::vector<Chunk> chunks = chunks_of(layer);
    std::vector<Partial> parts(chunks.size());
    parallel_for(parallel_, chunks.size(), true,
                 [&](int64_t i) { parts[i] = chunk_sums(*chunks[i].entry, recovery, chunks[i].from, ask); });
    Partial result;
    for (const Partial& part : parts) {
      merge(&result.difference, part.difference);
      merge(&result.moments, part.moments);
    }
    return result;
  }

  void apply(int64_t recovery, int64_t layer, const Coefficients& c) const {
    const auto& members = members_[layer];
    for (auto entry = members.rbegin(); entry != members.rend(); ++entry) {
      if ((*entry)->size > 0) apply_run(**entry, recovery, 0, (*entry)->size, c);
    }
  }

  void apply_shared(int64_t recovery, int64_t layer, const Coefficients& c) const {
    const std::vector<Chunk> chunks = chunks_of(layer);
    const int64_t count = chunks.size();
    parallel_for(parallel_, count, true, [&](int64_t i) {
      const Chunk& chunk = chunks[count - 1 - i];
      apply_run(*chunk.entry, recovery, chunk.from, length(*chunk.entry, chunk.from), c);
    });
  }

 private:
  struct Chunk {
    const Entry* entry;
    int64_t from;
  };

  bool fits(int64_t elements) const { return 2 * bytes_ * elements <= kCacheBytes; }
  static int64_t length(const Entry& entry, int64_t from) {
    return entry.size - from < kChunk ? entry.size - from : kChunk;
  }

  std::vector<Chunk> chunks_of(int64_t layer) const {
    std::vector<Chunk> chunks;
    for (const Entry* entry : members_[layer])
      for (int64_t from = 0; from < entry->size; from += kChunk) chunks.push_back({entry, from});
    return chunks;
  }

  const char* at(const void* base, int64_t stride, int64_t recovery, int64_t from) const {
    return static_cast<const char*>(base) + (recovery * stride + from) * bytes_;
  }

  Partial chunk_sums(const Entry& entry, int64_t recovery, int64_t from, Ask ask) const {
    Partial part;
    const int64_t end = from + length(entry, from);
    for (; from < end; from += kBlock) {
      const int64_t n = end - from < kBlock ? end - from : kBlock;
      const char* target = at(entry.target, entry.target_stride, recovery, from);
      if (!ask.difference) {
        kernels_.target(target, n, &part.moments);
        continue;
      }
      const char* dummy = at(entry.dummy, entry.dummy_stride, recovery, from);
      if (ask.target) {
        kernels_.both(dummy, target, n, ask.extra, &part.difference, &part.moments);
      } else {
        kernels_.difference(dummy, target, n, ask.extra, &part.difference);
      }
    }
    return part;
  }

  void apply_run(const Entry& entry, int64_t recovery, int64_t from, int64_t n, const Coefficients& c) const {
    kernels_.apply(at(entry.dummy, entry.dummy_stride, recovery, from),
                   at(entry.target, entry.target_stride, recovery, from),
                   const_cast<char*>(at(entry.out, entry.out_stride, recovery, from)), n, c, stream_);
  }

  const Table& table_;
  const Parallel& parallel_;
  const BlockKernels& kernels_;
  int64_t bytes_;
  std::vector<std::vector<const Entry*>> members_;
  std::vector<int64_t> sizes_;
  int64_t elements_ = 0;
  bool stream_ = false;
};

// Calls small(unit) for units (recovery, layer) that one thread does alone, then large(recovery, layer).
template <class Small, class Large>
void over_segments(const Walker& walker, const Parallel& parallel, int64_t recoveries, Small&& small,
                   Large&& large) {
  std::vector<int64_t> alone, shared;
  for (int64_t layer = 0; layer < walker.layers(); ++layer)
    (walker.small_layer(layer) ? alone : shared).push_back(layer);
  const int64_t count = alone.size();
  parallel_for(parallel, recoveries * count, walker.worth_threads(),
               [&](int64_t i) { small(i / count, alone[i % count]); });
  for (int64_t recovery = 0; recovery < recoveries; ++recovery)
    for (const int64_t layer : shared) large(recovery, layer);
}

void all_sums(const Table& table, const Parallel& parallel, int64_t recoveries, Ask ask,
              DifferenceSums* difference, TargetSums* target) {
  const Walker walker(table, parallel);
  const auto keep = [&](int64_t recovery, int64_t layer, const Partial& part) {
    const int64_t i = recovery * table.layers + layer;
    if (ask.difference) difference[i] = part.difference;
    if (ask.target) target[i] = finish(part.moments);
  };
  over_segments(
      walker, parallel, recoveries, [&](int64_t r, int64_t l) { keep(r, l, walker.sums(r, l, ask)); },
      [&](int64_t r, int64_t l) { keep(r, l, walker.sums_shared(r, l, ask)); });
}

}  // namespace

const char* capability() {
  return chosen().name;
}

void target_sums(const Table& table, TargetSums* target, const Parallel& parallel) {
  all_sums(table, parallel, table.target_recoveries, {false, true, false}, nullptr, target);
}

void difference_sums(const Table& table, DifferenceSums* difference, const Parallel& parallel) {
  all_sums(table, parallel, table.recoveries, {true, false, true}, difference, nullptr);
}

void apply(const Table& table, const Coefficients* coefficients, const Parallel& parallel) {
  const Walker walker(table, parallel);
  over_segments(
      walker, parallel, table.recoveries,
      [&](int64_t r, int64_t l) { walker.apply(r, l, coefficients[r * table.layers + l]); },
      [&](int64_t r, int64_t l) { walker.apply_shared(r, l, coefficients[r * table.layers + l]); });
}

void distance(const Table& table, const DistanceOptions& options, double* value, TargetSums* target,
              bool target_known, const Parallel& parallel) {
  const int64_t R = table.recoveries, L = table.layers;
  const bool shared_target = table.target_recoveries == 1;
  if (!target_known && shared_target && R > 1) {
    target_sums(table, target, parallel);
    target_known = true;
  }
  const Walker walker(table, parallel);
  const Ask ask{true, !target_known, needs_extra(options.kind)};
  std::vector<double> shares(R * L);

  const auto row = [&](int64_t recovery) { return target + (shared_target ? 0 : recovery * L); };
  const auto whole_square = [&](int64_t recovery) {
    double whole = 0;
    for (int64_t layer = 0; layer < L; ++layer) whole += row(recovery)[layer].square;
    return whole;
  };
  const auto coefficients = [&](int64_t recovery, int64_t layer, const DifferenceSums& sums, double whole) {
    TargetSums t = row(recovery)[layer];
    const double size = walker.size(layer);
    if (options.variance) t.deviation = size * options.variance[recovery * options.variance_stride + layer];
    const double weight = options.weights ? options.weights[recovery * options.weights_stride + layer] : 1;
    Coefficients slope;
    shares[recovery * L + layer] =
        segment_value(options, sums, t, size, weight, is_degenerate(options.kind, t, size, whole), &slope);
    return slope;
  };

  if (walker.small_recovery()) {
    parallel_for(parallel, R, walker.worth_threads(), [&](int64_t r) {
      std::vector<DifferenceSums> sums(L);
      for (int64_t l = 0; l < L; ++l) {
        const Partial part = walker.sums(r, l, ask);
        sums[l] = part.difference;
        if (ask.target) row(r)[l] = finish(part.moments);
      }
      const double whole = whole_square(r);
      for (int64_t l = 0; l < L; ++l) {
        const Coefficients slope = coefficients(r, l, sums[l], whole);
        if (table.with_gradient) walker.apply(r, l, slope);
      }
    });
  } else if (target_known) {
    std::vector<double> whole(R);
    for (int64_t r = 0; r < R; ++r) whole[r] = whole_square(r);
    over_segments(
        walker, parallel, R,
        [&](int64_t r, int64_t l) {
          const Coefficients slope = coefficients(r, l, walker.sums(r, l, ask).difference, whole[r]);
          if (table.with_gradient) walker.apply(r, l, slope);
        },
        [&](int64_t r, int64_t l) {
          const Coefficients slope = coefficients(r, l, walker.sums_shared(r, l, ask).difference, whole[r]);
          if (table.with_gradient) walker.apply_shared(r, l, slope);
        });
  } else {
    // Which layers carry weight depends on the whole target: all sums come first.
    std::vector<DifferenceSums> sums(R * L);
    all_sums(table, parallel, R, ask, sums.data(), target);
    std::vector<Coefficients> slopes(R * L);
    for (int64_t r = 0; r < R; ++r) {
      const double whole = whole_square(r);
      for (int64_t l = 0; l < L; ++l) slopes[r * L + l] = coefficients(r, l, sums[r * L + l], whole);
    }
    if (table.with_gradient) apply(table, slopes.data(), parallel);
  }

  for (int64_t r = 0; r < R; ++r) {
    value[r] = 0;
    for (int64_t l = 0; l < L; ++l) value[r] += shares[r * L + l];
  }
}

}  // namespace sapag::cpu
