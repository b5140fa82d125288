// Adam in one sweep, written once for any register width: reads g, m, v, writes m, v and the change
// (24 bytes an element in float32).

namespace sapag::cpu::SAPAG_CAPABILITY {
namespace {

#if SAPAG_BYTES == 64
inline FloatLanes root(FloatLanes v) {
  return (FloatLanes)_mm512_sqrt_ps((__m512)v);
}
inline DoubleLanes root(DoubleLanes v) {
  return (DoubleLanes)_mm512_sqrt_pd((__m512d)v);
}
#elif SAPAG_BYTES == 32
inline FloatLanes root(FloatLanes v) {
  return (FloatLanes)_mm256_sqrt_ps((__m256)v);
}
inline DoubleLanes root(DoubleLanes v) {
  return (DoubleLanes)_mm256_sqrt_pd((__m256d)v);
}
#else
template <class V>
inline V root(V v) {
  for (size_t i = 0; i < sizeof v / sizeof v[0]; ++i) v[i] = std::sqrt(v[i]);
  return v;
}
#endif

template <class T, bool kSigns>
struct AdamElements {
  using Lanes = typename LanesOf<T>::Type;
  static constexpr int64_t kWide = SAPAG_BYTES / sizeof(T);

  T mean_share, square_share, keep_square, rate, correction, eps;

  inline void operator()(const T* gradient, T* mean, T* square, T* change) const {
    Lanes g = load_as<Lanes>(gradient), m = load_as<Lanes>(mean), v = load_as<Lanes>(square);
    if constexpr (kSigns) g = __builtin_convertvector((g < 0) - (g > 0), Lanes);  // -1 where true
    m += (g - m) * mean_share;
    v = v * keep_square + g * g * square_share;
    store_as(mean, m);
    store_as(square, v);
    store_as(change, rate * m / (root(v * correction) + eps));
  }
};

template <class T, bool kSigns>
void adam_run(const AdamTable& table, int64_t from, int64_t n, const AdamCoefficients& with) {
  const AdamElements<T, kSigns> update{static_cast<T>(with.mean),        static_cast<T>(with.square),
                                       static_cast<T>(with.keep_square), static_cast<T>(with.rate),
                                       static_cast<T>(with.correction),  static_cast<T>(with.eps)};
  constexpr int64_t kWide = AdamElements<T, kSigns>::kWide;
  const T* gradient = static_cast<const T*>(table.gradient) + from;
  T* mean = static_cast<T*>(table.mean) + from;
  T* square = static_cast<T*>(table.square) + from;
  T* change = static_cast<T*>(table.change) + from;
  int64_t i = 0;
  for (; i + kWide <= n; i += kWide) update(gradient + i, mean + i, square + i, change + i);
  if (i == n) return;
  const size_t rest = (n - i) * sizeof(T);
  T g[kWide] = {}, m[kWide] = {}, v[kWide] = {}, d[kWide];
  std::memcpy(g, gradient + i, rest);
  std::memcpy(m, mean + i, rest);
  std::memcpy(v, square + i, rest);
  update(g, m, v, d);
  std::memcpy(mean + i, m, rest);
  std::memcpy(square + i, v, rest);
  std::memcpy(change + i, d, rest);
}

template <class T>
void adam_elements(const AdamTable& table, int64_t from, int64_t n, const AdamCoefficients& with) {
  (table.signs ? adam_run<T, true> : adam_run<T, false>)(table, from, n, with);
}

}  // namespace

const AdamKernel adam_kernels[2] = {adam_elements<float>, adam_elements<double>};

}  // namespace sapag::cpu::SAPAG_CAPABILITY
