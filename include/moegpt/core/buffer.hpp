#pragma once
// Buffer: aligned heap memory of a run-time size, and the index type of everything.
#include <moegpt/core/check.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace moegpt {
inline namespace MOEGPT_BUILD {

using Index = std::ptrdiff_t;

// Of `count` numbers, for memcpy and its relatives.
template <class T>
constexpr std::size_t bytes_of(Index count) {
  return sizeof(T) * static_cast<std::size_t>(count);
}

// Long rows touch a new page at every step: with pages of 4 KiB, products of large matrices are a fifth
// slower.
inline constexpr std::size_t huge_page = 1 << 21;
inline void ask_for_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) {
#ifdef __linux__
  if (bytes >= huge_page) madvise(data, bytes, MADV_HUGEPAGE);  // a failure does not matter
#endif
}

// 64-byte aligned heap memory with deep copies. Capacity never shrinks, so resizing to at most the capacity
// does not allocate.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  [[gnu::noinline]] explicit Buffer(Index size) { resize(size); }
  Buffer(const Buffer& other) { *this = other; }
  Buffer(Buffer&& other) noexcept { swap(other); }
  [[gnu::noinline]] Buffer& operator=(const Buffer& other) {
    if (this == &other) return *this;
    resize(other.size_);
    if (size_ > 0) std::memcpy(data_, other.data_, bytes_of<T>(size_));
    return *this;
  }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() { release(); }

  // Within the capacity elements keep their values; new memory is zero. Throws std::invalid_argument for a
  // negative size or one beyond the address space, std::bad_alloc for one beyond the memory.
  [[gnu::noinline]] void resize(Index size) {
    if (static_cast<std::size_t>(size) > static_cast<std::size_t>(capacity_)) {  // a negative size, too
      check(size >= 0 && size <= most, "a buffer of ", size, " elements was asked for: 0 .. ", most,
            " are possible");
      T* fresh = static_cast<T*>(::operator new(bytes_of<T>(size), alignment_of(size)));
      ask_for_huge_pages(fresh, bytes_of<T>(size));
      std::memset(static_cast<void*>(fresh), 0, bytes_of<T>(size));
      release();
      data_ = fresh;
      capacity_ = size;
    }
    size_ = size;
  }
  [[gnu::noinline]] void release() {
    ::operator delete(data_, alignment_of(capacity_));
    data_ = nullptr;
    size_ = capacity_ = 0;
  }
  void fill(T value) {
    for (Index i = 0; i < size_; ++i) data_[i] = value;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  Index size() const { return size_; }
  T& operator[](Index i) { return data_[i]; }
  const T& operator[](Index i) const { return data_[i]; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }

 private:
  static constexpr Index most = PTRDIFF_MAX / Index{sizeof(T)};
  static std::align_val_t alignment_of(Index size) {
    return std::align_val_t{bytes_of<T>(size) < huge_page ? 64 : huge_page};
  }
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }
  T* data_ = nullptr;
  Index size_ = 0, capacity_ = 0;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
