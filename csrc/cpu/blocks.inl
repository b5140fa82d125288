// The vector kernels, written once for any register width (GCC and Clang vector types). The including file
// sets SAPAG_CAPABILITY (namespace) and SAPAG_BYTES (register width) and switches the instruction set on.
//
// Stages                                                              bytes an element (float32)
//   1. difference: load g', g; four sums (six with d and |d|)               8 read
//      both:       the same loads also give the target's sums, then
//                  a second pass for the deviations, from cache       8 read
//      target:     the target's sums alone                            4 read
//   2. apply: load g', g again (small segments: from cache); write V  8 read, 4 written

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../kinds.h"
#include "blocks.h"

namespace sapag::cpu::SAPAG_CAPABILITY {
namespace {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// A register of the type that T is computed in.
template <class T>
struct Lanes {
  using Number = float;
};
template <>
struct Lanes<double> {
  using Number = double;
};
template <class T>
using Number = typename Lanes<T>::Number;

template <class N>
struct Register {
  typedef N Type __attribute__((vector_size(SAPAG_BYTES)));
};
template <class T>
using Vec = typename Register<Number<T>>::Type;
template <class T>
constexpr int64_t kWidth = SAPAG_BYTES / sizeof(Number<T>);

typedef uint32_t Words __attribute__((vector_size(SAPAG_BYTES)));
typedef uint16_t Halves __attribute__((vector_size(SAPAG_BYTES / 2)));

template <class T>
inline Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
inline void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof v);
}

template <>
inline Vec<BFloat16> load(const BFloat16* p) {
  Halves h;
  std::memcpy(&h, p, sizeof h);
  const Words w = __builtin_convertvector(h, Words) << 16;
  Vec<BFloat16> v;
  std::memcpy(&v, &w, sizeof v);
  return v;
}
template <>
inline void store(BFloat16* p, Vec<BFloat16> v) {
  Words w;
  std::memcpy(&w, &v, sizeof w);
  const Words rounded = (w + 0x7fff + ((w >> 16) & 1)) >> 16;  // to nearest, ties to even
  const Words quiet = (w >> 16) | 0x40;
  const Halves h = __builtin_convertvector(v == v ? rounded : quiet, Halves);
  std::memcpy(p, &h, sizeof h);
}

#if SAPAG_BYTES == 32
template <>
inline Vec<Float16> load(const Float16* p) {
  return (Vec<Float16>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
template <>
inline void store(Float16* p, Vec<Float16> v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#elif SAPAG_BYTES == 64
template <>
inline Vec<Float16> load(const Float16* p) {
  return (Vec<Float16>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
template <>
inline void store(Float16* p, Vec<Float16> v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
#else
// Without conversion instructions: widen by scaling the exponent, which also makes subnormals come out right.
inline float widen(uint16_t h) {
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fff) << 13;
  float value;
  if (magnitude >= 0x0f800000) {  // infinity and NaN
    const uint32_t bits = magnitude | 0x7f800000;
    std::memcpy(&value, &bits, 4);
  } else {
    std::memcpy(&value, &magnitude, 4);
    value *= 0x1p112f;
  }
  return (h & 0x8000) ? -value : value;
}
inline uint16_t narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;
  if (bits >= 0x477ff000) return sign | 0x7c00;  // rounds to infinity
  if (bits < 0x38800000) {  // subnormal: let one float32 addition round at the right place
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, 4);
    return sign | static_cast<uint16_t>(bits - 0x3f000000);
  }
  bits += 0xfff + ((bits >> 13) & 1);
  return sign | static_cast<uint16_t>((bits >> 13) - (112 << 10));
}
template <>
inline Vec<Float16> load(const Float16* p) {
  Vec<Float16> v;
  for (int64_t i = 0; i < kWidth<Float16>; ++i) v[i] = widen(p[i].bits);
  return v;
}
template <>
inline void store(Float16* p, Vec<Float16> v) {
  for (int64_t i = 0; i < kWidth<Float16>; ++i) p[i].bits = narrow(v[i]);
}
#endif

// Streaming stores exist for whole, aligned registers; elsewhere they are plain ones.
template <class T>
inline void stream_store(T* p, Vec<T> v) {
#if SAPAG_BYTES == 32
  if constexpr (sizeof(T) == 4) return _mm256_stream_ps(reinterpret_cast<float*>(p), (__m256)v);
  if constexpr (sizeof(T) == 8) return _mm256_stream_pd(reinterpret_cast<double*>(p), (__m256d)v);
#elif SAPAG_BYTES == 64
  if constexpr (sizeof(T) == 4) return _mm512_stream_ps(reinterpret_cast<float*>(p), (__m512)v);
  if constexpr (sizeof(T) == 8) return _mm512_stream_pd(reinterpret_cast<double*>(p), (__m512d)v);
#endif
  store(p, v);
}

// Up to a register of elements, the rest zero: zeros add nothing to any sum.
template <class T>
inline Vec<T> load_part(const T* p, int64_t n) {
  T padded[kWidth<T>] = {};
  std::memcpy(padded, p, n * sizeof(T));
  return load(padded);
}

// Registers that sums are taken in: float64 for every input, whatever V is computed in. Products of float32
// are exact there, and so are the differences that 1 - cos cancels down to when g' is a multiple of g.
typedef double Doubles __attribute__((vector_size(SAPAG_BYTES)));
typedef float Floats __attribute__((vector_size(SAPAG_BYTES / 2)));
constexpr int64_t kDoubles = SAPAG_BYTES / sizeof(double);

inline Doubles widen(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Doubles);
}
inline Doubles widen(const double* p) {
  return load(p);
}

// Half precision comes a register of float32 at a time.
template <class T>
struct Pair {
  Doubles low, high;
};
template <class T>
inline Pair<T> load_pair(const T* p) {
  if constexpr (sizeof(T) >= 4) {
    return {widen(p), widen(p + kDoubles)};
  } else {
    float wide[2 * kDoubles];
    const Vec<T> v = load(p);
    std::memcpy(wide, &v, sizeof wide);
    return {widen(wide), widen(wide + kDoubles)};
  }
}
template <class T>
inline Pair<T> load_pair(const T* p, int64_t n) {
  T padded[2 * kDoubles] = {};  // zeros add nothing to any sum
  std::memcpy(padded, p, n * sizeof(T));
  return load_pair(padded);
}

inline double total(Doubles v) {
  double sum = 0;
  for (int64_t i = 0; i < kDoubles; ++i) sum += v[i];
  return sum;
}

template <bool kTarget, bool kExtra>
struct Accumulators {
  Doubles square{}, cross{}, dummy_square{}, inner{}, sum{}, absolute{}, target_sum{}, target_square{};

  inline void add(Doubles a, Doubles g) {
    const Doubles d = a - g;
    square += d * d;
    cross += d * g;
    dummy_square += a * a;
    inner += a * g;
    if constexpr (kExtra) {
      sum += d;
      absolute += d < 0 ? -d : d;
    }
    if constexpr (kTarget) {
      target_sum += g;
      target_square += g * g;
    }
  }
};

// Squared deviations of one block from its own mean; the sum of the residuals mends the mean's rounding.
template <class T>
void add_deviations(const T* target, int64_t n, double sum, double square, Moments* moments) {
  constexpr int64_t W = 2 * kDoubles;
  const double count = static_cast<double>(n), centre = sum / count;
  Doubles first[2] = {}, second[2] = {};
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    const Pair<T> g = load_pair(target + i);
    const Doubles low = g.low - centre, high = g.high - centre;
    first[0] += low;
    first[1] += high;
    second[0] += low * low;
    second[1] += high * high;
  }
  double residual = total(first[0] + first[1]), deviation = total(second[0] + second[1]);
  if (i < n) {
    const Pair<T> g = load_pair(target + i, n - i);
    for (int64_t k = 0; k < n - i; ++k) {
      const double r = (k < kDoubles ? g.low[k] : g.high[k - kDoubles]) - centre;
      residual += r;
      deviation += r * r;
    }
  }
  const double mean = centre + residual / count;
  deviation -= residual * residual / count;
  const double whole = moments->count + count, gap = mean - moments->mean;
  moments->deviation += deviation + gap * gap * (moments->count * count / whole);
  moments->mean += gap * (count / whole);
  moments->count = whole;
  moments->square += square;
}

template <class T, bool kTarget, bool kExtra>
void difference_block(const T* dummy, const T* target, int64_t n, DifferenceSums* sums, Moments* moments) {
  constexpr int64_t W = 2 * kDoubles;
  Accumulators<kTarget, kExtra> low, high;
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    const Pair<T> a = load_pair(dummy + i), g = load_pair(target + i);
    low.add(a.low, g.low);
    high.add(a.high, g.high);
  }
  if (i < n) {
    const Pair<T> a = load_pair(dummy + i, n - i), g = load_pair(target + i, n - i);
    low.add(a.low, g.low);
    high.add(a.high, g.high);
  }
  sums->square += total(low.square + high.square);
  sums->cross += total(low.cross + high.cross);
  sums->dummy_square += total(low.dummy_square + high.dummy_square);
  sums->inner += total(low.inner + high.inner);
  if constexpr (kExtra) {
    sums->sum += total(low.sum + high.sum);
    sums->absolute += total(low.absolute + high.absolute);
  }
  if constexpr (kTarget) {
    const double sum = total(low.target_sum + high.target_sum);
    add_deviations(target, n, sum, total(low.target_square + high.target_square), moments);
  }
}

template <class T>
void difference(const void* dummy, const void* target, int64_t n, bool extra, DifferenceSums* sums) {
  auto* const kernel = extra ? difference_block<T, false, true> : difference_block<T, false, false>;
  kernel(static_cast<const T*>(dummy), static_cast<const T*>(target), n, sums, nullptr);
}

template <class T>
void both(const void* dummy, const void* target, int64_t n, bool extra, DifferenceSums* sums,
          Moments* moments) {
  auto* const kernel = extra ? difference_block<T, true, true> : difference_block<T, true, false>;
  kernel(static_cast<const T*>(dummy), static_cast<const T*>(target), n, sums, moments);
}

template <class T>
void target_block(const void* pointer, int64_t n, Moments* moments) {
  constexpr int64_t W = 2 * kDoubles;
  const T* target = static_cast<const T*>(pointer);
  Doubles sum[2] = {}, square[2] = {};
  const auto add = [&](const Pair<T>& g) {
    sum[0] += g.low;
    sum[1] += g.high;
    square[0] += g.low * g.low;
    square[1] += g.high * g.high;
  };
  int64_t i = 0;
  for (; i + W <= n; i += W) add(load_pair(target + i));
  if (i < n) add(load_pair(target + i, n - i));
  add_deviations(target, n, total(sum[0] + sum[1]), total(square[0] + square[1]), moments);
}

template <class T, bool kSign>
struct Affine {
  Number<T> alpha, beta, epsilon, gamma, delta;

  inline Vec<T> operator()(Vec<T> a, Vec<T> g) const {
    const Vec<T> d = a - g;
    Vec<T> v = beta * g + epsilon * a + alpha * d;
    if constexpr (kSign) {
      const auto sign = (d < 0) - (d > 0);  // comparisons give -1 where true
      v += gamma + delta * __builtin_convertvector(sign, Vec<T>);
    }
    return v;
  }
};

template <class T, bool kSign>
void apply_block(const T* dummy, const T* target, T* out, int64_t n, const Coefficients& c, bool stream) {
  constexpr int64_t W = kWidth<T>;
  using N = Number<T>;
  const Affine<T, kSign> affine{static_cast<N>(c.alpha), static_cast<N>(c.beta), static_cast<N>(c.epsilon),
                                static_cast<N>(c.gamma), static_cast<N>(c.delta)};
  const auto some = [&](int64_t from, int64_t count) {
    T padded[W];
    store(padded, affine(load_part(dummy + from, count), load_part(target + from, count)));
    std::memcpy(out + from, padded, count * sizeof(T));
  };
  int64_t i = 0;
  if (stream) {
    i = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(out) % SAPAG_BYTES / sizeof(T));
    if (i > n) i = n;
    if (i) some(0, i);
    for (; i + W <= n; i += W) stream_store(out + i, affine(load(dummy + i), load(target + i)));
#if SAPAG_BYTES >= 32
    _mm_sfence();  // streaming stores are not ordered with the barrier that follows
#endif
  } else {
    for (; i + W <= n; i += W) store(out + i, affine(load(dummy + i), load(target + i)));
  }
  if (i < n) some(i, n - i);
}

// The same in float64, for coefficients that float32 does not hold: V may lie in its range all the same.
template <class T>
void apply_wide(const T* dummy, const T* target, T* out, int64_t n, const Coefficients& c) {
  constexpr int64_t W = 2 * kDoubles;
  const Affine<double, true> affine{c.alpha, c.beta, c.epsilon, c.gamma, c.delta};
  const auto run = [&](const Pair<T>& a, const Pair<T>& g, T* to) {
    const Doubles low = affine(a.low, g.low), high = affine(a.high, g.high);
    float narrow[W];
    for (int64_t i = 0; i < kDoubles; ++i) {
      narrow[i] = static_cast<float>(low[i]);
      narrow[kDoubles + i] = static_cast<float>(high[i]);
    }
    Vec<T> v;
    std::memcpy(&v, narrow, sizeof v);
    store(to, v);
  };
  int64_t i = 0;
  for (; i + W <= n; i += W) run(load_pair(dummy + i), load_pair(target + i), out + i);
  if (i == n) return;
  T padded[W];
  run(load_pair(dummy + i, n - i), load_pair(target + i, n - i), padded);
  std::memcpy(out + i, padded, (n - i) * sizeof(T));
}

template <class T>
void apply(const void* dummy, const void* target, void* out, int64_t n, const Coefficients& c, bool stream) {
  if constexpr (sizeof(Number<T>) == sizeof(float)) {
    if (!fits_single(c)) {
      return apply_wide(static_cast<const T*>(dummy), static_cast<const T*>(target), static_cast<T*>(out), n,
                        c);
    }
  }
  auto* const kernel = c.delta != 0 || c.gamma != 0 ? apply_block<T, true> : apply_block<T, false>;
  kernel(static_cast<const T*>(dummy), static_cast<const T*>(target), static_cast<T*>(out), n, c, stream);
}

template <class T>
constexpr BlockKernels kernels_of() {
  return {difference<T>, both<T>, target_block<T>, apply<T>};
}

}  // namespace

const BlockKernels kernels[4] = {kernels_of<float>(), kernels_of<double>(), kernels_of<BFloat16>(),
                                 kernels_of<Float16>()};

}  // namespace sapag::cpu::SAPAG_CAPABILITY
