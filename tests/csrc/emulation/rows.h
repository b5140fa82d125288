// Memory that the kernels write, and what is to be seen of every call: its stream, and what it left alone.
#pragma once

#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "tables.h"

namespace sapag::emulation {

// Exactly so many rows, none of them written yet.
template <class T>
class Rows {
 public:
  explicit Rows(int64_t count)
      : count_(static_cast<std::size_t>(count)), memory_(std::malloc(count_ * sizeof(T))) {
    std::memset(memory_, 0xff, count_ * sizeof(T));
  }
  ~Rows() { std::free(memory_); }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;
  Rows(Rows&& other) noexcept : count_(other.count_), memory_(std::exchange(other.memory_, nullptr)) {}
  T* data() const { return static_cast<T*>(memory_); }
  const T& operator[](int64_t i) const { return data()[i]; }
  std::vector<unsigned char> bytes() const {
    const auto* first = static_cast<const unsigned char*>(memory_);
    return {first, first + count_ * sizeof(T)};
  }

 private:
  std::size_t count_;
  void* memory_;
};

inline void clear(Case* c) {
  for (Tensor& tensor : c->out) {
    if (tensor.bytes) std::memset(tensor.memory.get(), 0xff, tensor.bytes);
  }
}

inline std::vector<unsigned char> bytes_of_gradient(const Case& c) {
  std::vector<unsigned char> all;
  for (const Tensor& tensor : c.out)
    all.insert(all.end(), tensor.memory.get(), tensor.memory.get() + tensor.bytes);
  return all;
}

inline std::string check_gaps(const Case& c) {
  for (std::size_t e = 0; e < c.out.size(); ++e) {
    if (!c.out[e].gaps_untouched()) return "memory around V of tensor " + std::to_string(e) + " was written";
  }
  return {};
}

inline void* const kStream = reinterpret_cast<void*>(0x5a9a6);

inline std::string check_streams() {
  for (const LaunchRecord& record : launch_log()) {
    if (record.stream != kStream) return "a launch on another stream";
    if (record.error) return "launch error " + std::to_string(record.error);
  }
  return {};
}

}  // namespace sapag::emulation
