#pragma once
// Denormals can slow an operation a hundredfold, and Adam's moments of an idle expert can decay into them.
// Regions and loops of Exec flush them to zero.
#include <moegpt/core/build.hpp>

#include <cstdint>

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

namespace moegpt {
inline namespace MOEGPT_BUILD {

// During its lifetime this thread treats denormal operands and results as zero. Has no effect on processors
// other than x86 and 64-bit Arm.
class FlushDenormals {
 public:
  FlushDenormals() : before_(read()) {
    if ((before_ & flush) != flush) write(before_ | flush);
  }
  ~FlushDenormals() {
    if ((before_ & flush) != flush)
      write((read() & ~flush) | (before_ & flush));  // other bits may have changed
  }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__SSE2__)
  using Register = unsigned;
  static constexpr Register flush = 0x8040;  // results, operands
  static Register read() { return _mm_getcsr(); }
  static void write(Register bits) { _mm_setcsr(bits); }
#elif defined(__aarch64__)
  using Register = std::uint64_t;
  static constexpr Register flush = 1 << 24;
  static Register read() {
    Register bits;
    asm volatile("mrs %0, fpcr" : "=r"(bits));
    return bits;
  }
  static void write(Register bits) { asm volatile("msr fpcr, %0" : : "r"(bits)); }
#else
  using Register = unsigned;
  static constexpr Register flush = 0;
  static Register read() { return 0; }
  static void write(Register) {}
#endif
  Register before_;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
