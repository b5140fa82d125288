// One step of one recovery's L-BFGS, written once for any register width. Like torch.optim.LBFGS without line
// search, with the inverse Hessian in compact form (Byrd, Nocedal, Schnabel 1994, theorem 2.2): with R the
// upper triangle of S'Y in order of age and D its diagonal,
//
//     a = R^-1 S'g     q = g - Y a     c = Y'q     b = R^-T (D a - gamma c)     H g = gamma q + S b
//
// Stages                                                         history read (one pass: 4 m N bytes in
// float32)
//   1. pair: s = t·step, y = g - g_previous; s·y and y·y; into the ring unless s·y is too small
//   2. products: p = S'g and z = S'y, a row of the triangle           S, from memory
//   3. a = R^-1 p, newest pair to oldest, in place of p
//   4. residual: q = g - Y a and c = Y'q, a block of columns at a time  Y, from memory, then from cache
//   5. b, oldest pair to newest
//   6. direction: gamma q + S b, from the last block of columns back    S, from cache as far as it holds it
//
// The two-loop recursion reads S and Y twice each and waits for a dot product before it can go on to the next
// vector; here the dots of a pass are independent. Sums run in float64 lanes over a block of kColumns columns
// and are merged block by block. Each group of rows asks for the next one's cache lines: without that, rows
// of a few kilobytes leave the processor's own prefetching behind (1.8 times slower).

namespace sapag::cpu::SAPAG_CAPABILITY {
namespace {

constexpr int64_t kColumns = 1024;  // two such rows of doubles stay in the first-level cache
constexpr int64_t kGroup = 4;       // rows that share the loads of g, y or q
constexpr double kCurvatureFloor = 1e-10;

template <int64_t kRows>
struct Rows {};

// body(Rows<n>, i) for groups of n rows from i on.
template <class F>
inline void over_groups(int64_t count, F&& body) {
  int64_t i = 0;
  for (; i + kGroup <= count; i += kGroup) body(Rows<kGroup>{}, i);
  if (count - i == 3) body(Rows<3>{}, i);
  if (count - i == 2) body(Rows<2>{}, i);
  if (count - i == 1) body(Rows<1>{}, i);
}

template <int64_t kRows, class T>
inline void prefetch_column(const T* ahead, int64_t stride, int64_t column) {
  for (int64_t k = 0; k < kRows; ++k) __builtin_prefetch(ahead + k * stride + column);
}

// p += rows · g and z += rows · y.
template <int64_t kRows, class T>
void add_products(Rows<kRows>, const T* rows, const T* ahead, int64_t stride, int64_t n, const double* g,
                  const double* y, double* p, double* z) {
  DoubleLanes with_g[kRows] = {}, with_y[kRows] = {};
  for (int64_t i = 0; i < n; i += kDoubleLanes) {
    if (i * sizeof(T) % 64 == 0) prefetch_column<kRows>(ahead, stride, i);
    const DoubleLanes gi = load_as<DoubleLanes>(g + i), yi = load_as<DoubleLanes>(y + i);
    for (int64_t k = 0; k < kRows; ++k) {
      const DoubleLanes row = in_double(rows + k * stride + i);
      with_g[k] += row * gi;
      with_y[k] += row * yi;
    }
  }
  for (int64_t k = 0; k < kRows; ++k) {
    p[k] += sum_of(with_g[k]);
    z[k] += sum_of(with_y[k]);
  }
}

// c += rows · q.
template <int64_t kRows, class T>
void add_products(Rows<kRows>, const T* rows, int64_t stride, int64_t n, const double* q, double* c) {
  DoubleLanes even[kRows] = {}, odd[kRows] = {};
  for (int64_t i = 0; i < n; i += 2 * kDoubleLanes) {
    const DoubleLanes first = load_as<DoubleLanes>(q + i),
                      second = load_as<DoubleLanes>(q + i + kDoubleLanes);
    for (int64_t k = 0; k < kRows; ++k) {
      even[k] += in_double(rows + k * stride + i) * first;
      odd[k] += in_double(rows + k * stride + i + kDoubleLanes) * second;
    }
  }
  for (int64_t k = 0; k < kRows; ++k) c[k] += sum_of(even[k] + odd[k]);
}

// q += weights · rows.
template <int64_t kRows, class T>
void add_rows(Rows<kRows>, const T* rows, const T* ahead, int64_t stride, int64_t n, const double* weights,
              double* q) {
  for (int64_t i = 0; i < n; i += 2 * kDoubleLanes) {
    if (i * sizeof(T) % 64 == 0) prefetch_column<kRows>(ahead, stride, i);
    DoubleLanes first = load_as<DoubleLanes>(q + i), second = load_as<DoubleLanes>(q + i + kDoubleLanes);
    for (int64_t k = 0; k < kRows; ++k) {
      first += weights[k] * in_double(rows + k * stride + i);
      second += weights[k] * in_double(rows + k * stride + i + kDoubleLanes);
    }
    store_as(q + i, first);
    store_as(q + i + kDoubleLanes, second);
  }
}

inline double dot(const double* a, const double* b, int64_t n) {
  DoubleLanes even{}, odd{};
  for (int64_t i = 0; i < n; i += 2 * kDoubleLanes) {
    even += load_as<DoubleLanes>(a + i) * load_as<DoubleLanes>(b + i);
    odd += load_as<DoubleLanes>(a + i + kDoubleLanes) * load_as<DoubleLanes>(b + i + kDoubleLanes);
  }
  return sum_of(even + odd);
}

inline double absolute_sum(const double* a, int64_t n) {
  DoubleLanes sum{};
  for (int64_t i = 0; i < n; i += kDoubleLanes) {
    const DoubleLanes v = load_as<DoubleLanes>(a + i);
    sum += v < 0 ? -v : v;
  }
  return sum_of(sum);
}

template <class T>
class Recovery {
 public:
  Recovery(const LbfgsTable& table, int64_t recovery, double* scratch)
      : size_(table.size),
        stride_(table.stride),
        history_(table.history),
        product_stride_(table.product_stride),
        lr_(table.lr),
        steps_(static_cast<T*>(table.steps) + recovery * history_ * stride_),
        changes_(static_cast<T*>(table.changes) + recovery * history_ * stride_),
        following_(recovery + 1 < table.recoveries ? steps_ + history_ * stride_ : steps_),
        products_(table.products + recovery * history_ * product_stride_),
        slot_(table.slot[recovery]),
        pairs_(table.pairs[recovery]),
        calls_(table.calls[recovery]),
        scale_(table.scale[recovery]),
        previous_step_(static_cast<T*>(table.previous_step) + recovery * size_),
        previous_gradient_(static_cast<T*>(table.previous_gradient) + recovery * size_),
        gradient_(static_cast<const T*>(table.gradient) + recovery * size_),
        change_(static_cast<T*>(table.change) + recovery * size_),
        g_(scratch),
        y_(g_ + stride_),
        q_(y_ + stride_),
        p_(q_ + stride_),
        a_(p_ + product_stride_),
        b_(a_ + product_stride_),
        c_(b_ + product_stride_),
        weights_(c_ + product_stride_),
        z_(weights_ + product_stride_) {}

  void advance(double length) {
    widen(gradient_, g_);
    if (calls_ == 0) {
      first_step();
    } else {
      append(length);
      if (pairs_ > 0) {
        direction();
      } else {
        for (int64_t i = 0; i < size_; ++i) change_[i] = static_cast<T>(-lr_ * (scale_ * g_[i]));
      }
    }
    std::memcpy(previous_gradient_, gradient_, size_ * sizeof(T));
    std::memcpy(previous_step_, change_, size_ * sizeof(T));
    ++calls_;
  }

  void move(double by) {
    for (int64_t i = 0; i < size_; ++i) change_[i] = static_cast<T>(by * previous_step_[i]);
  }

  void forget(double length) {
    slot_ = pairs_ = 0;
    scale_ = calls_ = 1;
    widen(previous_gradient_, g_);
    first_step();
    for (int64_t i = 0; i < size_; ++i) {
      const T step = change_[i];
      change_[i] = static_cast<T>(step - length * previous_step_[i]);
      previous_step_[i] = step;
    }
  }

  double slope() {
    widen(previous_step_, y_);
    return dot(g_, y_, stride_);
  }

 private:
  void widen(const T* from, double* to) const {
    for (int64_t i = 0; i < size_; ++i) to[i] = from[i];
    for (int64_t i = size_; i < stride_; ++i) to[i] = 0;
  }

  // Length min(1, 1 / |g|_1) along -g.
  void first_step() {
    const double inverse = 1 / absolute_sum(g_, stride_);
    const double rate = (inverse < 1 ? inverse : 1) * lr_;
    for (int64_t i = 0; i < size_; ++i) change_[i] = static_cast<T>(-rate * g_[i]);
  }

  void append(double length) {
    double* s = q_;  // free until the residual
    for (int64_t i = 0; i < size_; ++i) {
      s[i] = static_cast<T>(length * previous_step_[i]);
      y_[i] = static_cast<T>(gradient_[i] - previous_gradient_[i]);
    }
    for (int64_t i = size_; i < stride_; ++i) s[i] = y_[i] = 0;
    const double curvature = dot(s, y_, stride_), square = dot(y_, y_, stride_);
    // A sum is finite only if all its terms are: what enters the history is.
    appended_ = curvature > kCurvatureFloor && std::isfinite(curvature) && std::isfinite(square);
    if (!appended_) return;
    scale_ = curvature / square;
    newest_ = slot_;
    T *step = steps_ + newest_ * stride_, *change = changes_ + newest_ * stride_;
    for (int64_t i = 0; i < size_; ++i) step[i] = static_cast<T>(s[i]);
    for (int64_t i = 0; i < size_; ++i) change[i] = static_cast<T>(y_[i]);
    slot_ = slot_ + 1 < history_ ? slot_ + 1 : 0;
    if (pairs_ < history_) ++pairs_;
  }

  const T* ahead(const T* rows, int64_t next, const T* then) const {
    return next < pairs_ ? rows + next * stride_ : then;
  }

  void direction() {
    for (int64_t i = 0; i < product_stride_; ++i) p_[i] = z_[i] = b_[i] = c_[i] = 0;
    newest_ = slot_ > 0 ? slot_ - 1 : history_ - 1;
    history_products();
    if (appended_) std::memcpy(products_ + newest_ * product_stride_, z_, product_stride_ * sizeof(double));
    solve();
    residual();
    solve_transposed();
    combine();
  }

  // body(from, n) for each block of columns.
  template <class F>
  void over_columns(F&& body) const {
    for (int64_t from = 0; from < stride_; from += kColumns)
      body(from, stride_ - from < kColumns ? stride_ - from : kColumns);
  }

  void history_products() {
    over_columns([&](int64_t from, int64_t n) {
      over_groups(pairs_, [&](auto rows, int64_t i) {
        if (from == 0) prefetch_triangle(i);
        const T* next = ahead(steps_ + from, i + kGroup, changes_ + from);
        add_products(rows, steps_ + i * stride_ + from, next, stride_, n, g_ + from, y_ + from, p_ + i,
                     z_ + i);
      });
    });
  }

  void prefetch_triangle(int64_t row) const {
    const double *from = products_ + row * product_stride_, *end = from + kGroup * product_stride_;
    for (; from < end; from += 64 / sizeof(double)) __builtin_prefetch(from);
  }

  // Columns of the triangle's row that hold older pairs, in whole registers: what else they cover is a newer
  // pair's, which is done with (solve) or still zero (solve_transposed).
  int64_t oldest_column(int64_t row) const {
    return row > newest_ ? (newest_ + 1) / kDoubleLanes * kDoubleLanes : 0;
  }
  int64_t end_column(int64_t row) const { return row <= newest_ && pairs_ == history_ ? history_ : row; }

  void solve() {
    int64_t row = newest_;
    for (int64_t age = 0; age < pairs_; ++age) {
      const double* products = products_ + row * product_stride_;
      const double weight = p_[row] / products[row];
      a_[row] = weight;
      weights_[row] = -weight;
      const int64_t end = end_column(row);
      for (int64_t i = oldest_column(row); i < end; i += kDoubleLanes)
        store_as(p_ + i, load_as<DoubleLanes>(p_ + i) - weight * load_as<DoubleLanes>(products + i));
      row = row > 0 ? row - 1 : history_ - 1;
    }
  }

  void residual() {
    over_columns([&](int64_t from, int64_t n) {
      double* q = q_ + from;
      std::memcpy(q, g_ + from, n * sizeof(double));
      over_groups(pairs_, [&](auto rows, int64_t i) {
        const T* next = ahead(changes_ + from, i + kGroup, changes_ + from);
        add_rows(rows, changes_ + i * stride_ + from, next, stride_, n, weights_ + i, q);
      });
      over_groups(pairs_, [&](auto rows, int64_t i) {
        add_products(rows, changes_ + i * stride_ + from, stride_, n, q, c_ + i);
      });
    });
  }

  void solve_transposed() {
    int64_t row = pairs_ == history_ ? slot_ : 0;
    for (int64_t age = 0; age < pairs_; ++age) {
      const double* products = products_ + row * product_stride_;
      const int64_t end = end_column(row);
      DoubleLanes older{};
      for (int64_t i = oldest_column(row); i < end; i += kDoubleLanes)
        older += load_as<DoubleLanes>(products + i) * load_as<DoubleLanes>(b_ + i);
      b_[row] = a_[row] - (scale_ * c_[row] + sum_of(older)) / products[row];
      row = row + 1 < history_ ? row + 1 : 0;
    }
  }

  void combine() {
    for (int64_t from = (stride_ - 1) / kColumns * kColumns; from >= 0; from -= kColumns) {
      const int64_t n = stride_ - from < kColumns ? stride_ - from : kColumns;
      double* q = q_ + from;
      for (int64_t i = 0; i < n; ++i) q[i] *= scale_;
      over_groups(pairs_, [&](auto rows, int64_t i) {
        const T* next = ahead(steps_ + from, i + kGroup, following_);
        add_rows(rows, steps_ + i * stride_ + from, next, stride_, n, b_ + i, q);
      });
      const int64_t end = from + n < size_ ? from + n : size_;
      for (int64_t i = from; i < end; ++i) change_[i] = static_cast<T>(-lr_ * q_[i]);
    }
  }

  const int64_t size_, stride_, history_, product_stride_;
  const double lr_;
  T *const steps_, *const changes_;
  const T* const following_;  // the next recovery's S
  double* const products_;
  int64_t &slot_, &pairs_, &calls_;
  double& scale_;
  T *const previous_step_, *const previous_gradient_;
  const T* const gradient_;
  T* const change_;
  double *const g_, *const y_, *const q_, *const p_, *const a_, *const b_, *const c_, *const weights_,
                                                                                          *const z_;
  int64_t newest_ = 0;
  bool appended_ = false;
};

template <class T>
void lbfgs_recovery(const LbfgsTable& table, int64_t recovery, double* scratch) {
  Recovery<T> one(table, recovery, scratch);
  const LbfgsAction action = table.action ? table.action[recovery] : LbfgsAction::advance;
  const double length = table.length ? table.length[recovery] : 1;
  if (action == LbfgsAction::move) return one.move(table.next_length[recovery] - length);
  action == LbfgsAction::advance ? one.advance(length) : one.forget(length);
  if (table.slope) table.slope[recovery] = one.slope();
}

}  // namespace

const LbfgsKernel lbfgs_kernels[2] = {lbfgs_recovery<float>, lbfgs_recovery<double>};

}  // namespace sapag::cpu::SAPAG_CAPABILITY
