#pragma once
// Rotary position embedding (Su et al. 2021): of the first r features of a head, pair i is rotated by the
// angle position * f_i,  f_i = base^(-2i/r),  i < r/2. For a context longer than that of training, the
// frequencies f_i are scaled.
#include <moegpt/core/matrix.hpp>

#include <cmath>
#include <numbers>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Pairing {
  halves,    // features i and i + r/2 (GPT-NeoX, Hugging Face)
  adjacent,  // features 2i and 2i + 1 (Su et al. 2021, GPT-J)
};

// Frequencies for a context `factor` times as long as that of training (s: the factor).
enum class RotaryScaling {
  none,
  linear,  // f_i / s: positions are interpolated (Chen et al. 2023)
  ntk,     // of the base s^(r / (r - 2)) base: the lowest frequency becomes f / s, the highest remains
  // w f_i + (1 - w) f_i / s, where w is 1 for pairs that rotate `fast` times or more in the context of
  // training, 0 for those that rotate `slow` times or less, and linear between them ...
  yarn,    // ... in i; rotated features are multiplied by 0.1 ln s + 1 (YaRN, Peng et al. 2023)
  llama3,  // ... in the number of rotations (Llama 3.1, Grattafiori et al. 2024)
};

namespace kernels {

struct Rotary {
  Index width = 0;  // r, even
  Pairing pairing = Pairing::halves;
  RotaryScaling scaling = RotaryScaling::none;
  double base = 10000, factor = 1, context = 0, fast = 32, slow = 1;
  double magnitude = 0;  // 0: that of the scaling

  // f_i, in radians per position.
  double frequency(Index i) const {
    const double r = static_cast<double>(width), exponent = -2.0 * static_cast<double>(i) / r;
    if (scaling == RotaryScaling::ntk) return std::pow(base * std::pow(factor, r / (r - 2)), exponent);
    const double f = std::pow(base, exponent);
    if (scaling == RotaryScaling::none) return f;
    const double kept = share_kept(i, f);
    return kept * f + (1 - kept) * (f / factor);
  }
  // Factor of rotated features.
  double length_factor() const {
    if (magnitude > 0) return magnitude;
    return scaling == RotaryScaling::yarn ? 0.1 * std::log(factor) + 1 : 1;
  }

 private:
  // w of pair i.
  double share_kept(Index i, double f) const {
    constexpr double turn = 2 * std::numbers::pi;
    double kept = 0;
    if (scaling == RotaryScaling::yarn) {
      // The pair that rotates n times in the context: i with context * base^(-2i/r) = turn * n
      const auto pair_of = [&](double n) {
        return static_cast<double>(width) * std::log(context / (n * turn)) / (2 * std::log(base));
      };
      const double first = std::fmax(std::floor(pair_of(fast)), 0);
      const double last = std::fmin(std::ceil(pair_of(slow)), static_cast<double>(width) - 1);
      kept = 1 - (static_cast<double>(i) - first) / (last > first ? last - first : 0.001);
    } else if (scaling == RotaryScaling::llama3) {
      kept = (context * f / turn - slow) / (fast - slow);
    }
    return std::fmin(std::fmax(kept, 0), 1);
  }
};

// cosine, sine [r / 2] of one position, times `length`. frequencies [r / 2].
template <class T>
void rotary_angles(Index position, const double* frequencies, double length, Index pairs, T* cosine,
                   T* sine) {
  for (Index i = 0; i < pairs; ++i) {
    const double angle = static_cast<double>(position) * frequencies[i];
    cosine[i] = static_cast<T>(length * std::cos(angle));
    sine[i] = static_cast<T>(length * std::sin(angle));
  }
}

// Rotates x [r] in place; direction -1 is the inverse rotation, which is backward. Not inlined: a compiler
// selects which of two products it fuses with their sum, and bits must be equal for all callers.
template <class T>
[[gnu::noinline]] void rotate(T* x, const T* cosine, const T* sine, Index r, T direction) {
  for (Index i = 0; i < r / 2; ++i) {
    const T a = x[i], b = x[i + r / 2], s = direction * sine[i];
    x[i] = a * cosine[i] - b * s;
    x[i + r / 2] = b * cosine[i] + a * s;
  }
}
template <class T>
[[gnu::noinline]] void rotate_adjacent(T* x, const T* cosine, const T* sine, Index r, T direction) {
  for (Index i = 0; i < r / 2; ++i) {
    const T a = x[2 * i], b = x[2 * i + 1], s = direction * sine[i];
    x[2 * i] = a * cosine[i] - b * s;
    x[2 * i + 1] = b * cosine[i] + a * s;
  }
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
