// Registers of the optimisers' kernels, for any width (GCC and Clang vector types).

namespace sapag::cpu::SAPAG_CAPABILITY {
namespace {

typedef double DoubleLanes __attribute__((vector_size(SAPAG_BYTES)));
typedef float FloatLanes __attribute__((vector_size(SAPAG_BYTES)));
typedef float HalfFloatLanes __attribute__((vector_size(SAPAG_BYTES / 2)));
constexpr int64_t kDoubleLanes = SAPAG_BYTES / sizeof(double);

template <class T>
struct LanesOf {
  using Type = FloatLanes;
};
template <>
struct LanesOf<double> {
  using Type = DoubleLanes;
};

template <class V, class T>
inline V load_as(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V, class T>
inline void store_as(T* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

inline DoubleLanes in_double(const float* p) {
  return __builtin_convertvector(load_as<HalfFloatLanes>(p), DoubleLanes);
}
inline DoubleLanes in_double(const double* p) {
  return load_as<DoubleLanes>(p);
}

inline double sum_of(DoubleLanes v) {
  double sum = 0;
  for (int64_t i = 0; i < kDoubleLanes; ++i) sum += v[i];
  return sum;
}

}  // namespace
}  // namespace sapag::cpu::SAPAG_CAPABILITY
