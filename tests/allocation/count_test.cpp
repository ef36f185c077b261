// Replaces the malloc family of this program by counting functions. A separate file, because headers declare
// posix_memalign differently.
#include "count.hpp"

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#define COUNT_BY_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COUNT_BY_SANITIZER 1
#endif
#endif

std::atomic<long> allocations{0}, allocated_bytes{0}, peak_bytes{0};

[[maybe_unused]] static void count(std::size_t bytes) {
  ++allocations;
  const long now = allocated_bytes += static_cast<long>(bytes);
  long peak = peak_bytes;
  while (peak < now && !peak_bytes.compare_exchange_weak(peak, now)) {
  }
}

#if defined(COUNT_BY_SANITIZER)  // the sanitizer replaces the family and has hooks
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void*, std::size_t),
                                                         void (*)(const volatile void*));
extern "C" std::size_t __sanitizer_get_allocated_size(const volatile void*);

const bool bytes_are_counted = true;
[[maybe_unused]] static const int hook_installed = __sanitizer_install_malloc_and_free_hooks(
    [](const volatile void*, std::size_t bytes) { count(bytes); },
    [](const volatile void* memory) {
      allocated_bytes -= static_cast<long>(__sanitizer_get_allocated_size(memory));
    });

#elif defined(__GLIBC__)  // operator new ends here, too
const bool bytes_are_counted = true;

extern "C" {
void* __libc_malloc(std::size_t) noexcept;
void* __libc_calloc(std::size_t, std::size_t) noexcept;
void* __libc_realloc(void*, std::size_t) noexcept;
void* __libc_memalign(std::size_t, std::size_t) noexcept;
void __libc_free(void*) noexcept;
std::size_t malloc_usable_size(void*) noexcept;

static void* counted(void* memory) {
  count(malloc_usable_size(memory));
  return memory;
}
static void uncount(void* memory) { allocated_bytes -= static_cast<long>(malloc_usable_size(memory)); }

void* malloc(std::size_t size) noexcept { return counted(__libc_malloc(size)); }
void* calloc(std::size_t count, std::size_t size) noexcept { return counted(__libc_calloc(count, size)); }
void* realloc(void* memory, std::size_t size) noexcept {
  uncount(memory);
  return counted(__libc_realloc(memory, size));
}
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  return counted(__libc_memalign(alignment, size));
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept { return memalign(alignment, size); }
int posix_memalign(void** memory, std::size_t alignment, std::size_t size) noexcept {
  *memory = memalign(alignment, size);
  return *memory || size == 0 ? 0 : ENOMEM;
}
void free(void* memory) noexcept {
  uncount(memory);
  __libc_free(memory);
}
}

#else  // at least operator new
const bool bytes_are_counted = false;

void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  ++allocations;
  const auto a = static_cast<std::size_t>(alignment);
  if (void* memory = std::aligned_alloc(a, (size + a - 1) / a * a)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
#endif

#include "../support/catch.hpp"

namespace {

// Whether f allocates.
template <class F>
bool counts(F f) {
  const long before = allocations;
  f();
  return allocations > before;
}
void* volatile seen;  // so that no compiler removes a pair of new and delete

}  // namespace

TEST_CASE("malloc, calloc, realloc, aligned memory and new are counted, free is not") {
  CHECK(counts([] { seen = std::malloc(10); }));
  CHECK(counts([] { seen = std::realloc(seen, 100000); }));
  CHECK_FALSE(counts([] { std::free(seen); }));
  CHECK(counts([] { seen = std::calloc(2, 10); }));
  std::free(seen);
  CHECK(counts([] { seen = std::aligned_alloc(64, 64); }));
  std::free(seen);
  void* memory = nullptr;
  CHECK(counts([&] { (void)!posix_memalign(&memory, 64, 10); }));
  std::free(memory);
  CHECK(counts([] { seen = ::operator new(10); }));
  ::operator delete(seen);
  CHECK(counts([] { seen = ::operator new(10, std::align_val_t{64}); }));
  ::operator delete(seen, std::align_val_t{64});
}

TEST_CASE("bytes that are allocated and their peak are counted") {
  if (!bytes_are_counted) return;
  const long before = allocated_bytes;
  peak_bytes = before;
  seen = std::malloc(100000);
  seen = std::realloc(seen, 300000);
  CHECK(allocated_bytes - before >= 300000);
  CHECK(allocated_bytes - before < 310000);
  std::free(seen);
  seen = ::operator new(200000, std::align_val_t{64});
  CHECK(allocated_bytes - before >= 200000);
  CHECK(allocated_bytes - before < 210000);
  ::operator delete(seen, std::align_val_t{64});
  seen = std::calloc(2, 10);
  std::free(seen);
  CHECK(allocated_bytes == before);
  CHECK(peak_bytes - before >= 300000);
  CHECK(peak_bytes - before < 410000);
}
