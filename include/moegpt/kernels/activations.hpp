#pragma once
// Activation functions and their derivatives, selected by an enumerator.
#include <moegpt/kernels/vector_math.hpp>

#include <array>
#include <string_view>
#include <type_traits>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Activation {
  gelu,      // tanh form: GPT-2
  gelu_erf,  // x Phi(x): PyTorch's default
  relu,
  silu,  // x sigmoid(x), also called swish
  tanh,
};

// Names of the activations in the order of the enumeration, as in the type texts of model files.
inline constexpr std::array<std::string_view, 5> activation_names{"gelu", "gelu_erf", "relu", "silu", "tanh"};
constexpr std::string_view to_text(Activation a) { return activation_names[static_cast<std::size_t>(a)]; }
static_assert(to_text(Activation::tanh) == activation_names.back());

namespace kernels {

// act(x) and act'(x), lane by lane.
template <class T>
struct ValueAndSlope {
  Vector<T> value, slope;
};

template <Activation A, class T>
[[gnu::always_inline]] inline ValueAndSlope<T> activation(Vector<T> x) {
  using V = Vector<T>;
  if constexpr (A == Activation::gelu) {
    // x s(2u), u = sqrt(2/pi) (x + 0.044715 x^3), since (1 + tanh u) / 2 is the sigmoid of 2u
    constexpr T c = T(2 * 0.7978845608028654), a = T(0.044715);
    const V s = T(1) / (T(1) + exponential(-(c * (x + a * x * x * x))));
    return {x * s, s + x * s * (T(1) - s) * c * (T(1) + 3 * a * x * x)};
  } else if constexpr (A == Activation::gelu_erf) {
    const V Phi = T(0.5) * (T(1) + error_function(x * T(0.7071067811865476)));
    return {x * Phi, Phi + x * T(0.3989422804014327) * exponential(T(-0.5) * x * x)};
  } else if constexpr (A == Activation::relu) {
    return {x < T(0) ? V{} : x, x > T(0) ? V{} + T(1) : V{}};  // NaN stays
  } else if constexpr (A == Activation::silu) {
    const V s = T(1) / (T(1) + exponential(-x));
    return {x * s, s * (T(1) + x * (T(1) - s))};
  } else {
    const V t = T(1) - T(2) / (exponential(x + x) + T(1));
    return {t, T(1) - t * t};
  }
}

// Calls f(std::integral_constant<Activation, a>): one compiled loop per activation, selected once per call.
template <class F>
void with_activation(Activation a, F&& f) {
  switch (a) {
    case Activation::gelu:
      return f(std::integral_constant<Activation, Activation::gelu>{});
    case Activation::gelu_erf:
      return f(std::integral_constant<Activation, Activation::gelu_erf>{});
    case Activation::relu:
      return f(std::integral_constant<Activation, Activation::relu>{});
    case Activation::silu:
      return f(std::integral_constant<Activation, Activation::silu>{});
    case Activation::tanh:
      return f(std::integral_constant<Activation, Activation::tanh>{});
  }
}

// y = act(x)
template <class T>
void activate(Activation a, const T* x, T* y, Index n) {
  with_activation(a, [&](auto tag) {
    map(n, x, y, [](Vector<T> v) { return activation<decltype(tag)::value, T>(v).value; });
  });
}

// dx = dy act'(x); dx may be dy
template <class T>
void activate_backward(Activation a, const T* x, const T* dy, T* dx, Index n) {
  with_activation(a, [&](auto tag) {
    map2(n, x, dy, dx,
         [](Vector<T> v, Vector<T> d) { return d * activation<decltype(tag)::value, T>(v).slope; });
  });
}

// y = act(gate) up
template <class T>
void activate_gated(Activation a, const T* gate, const T* up, T* y, Index n) {
  with_activation(a, [&](auto tag) {
    map2(n, gate, up, y,
         [](Vector<T> g, Vector<T> u) { return activation<decltype(tag)::value, T>(g).value * u; });
  });
}

// d_gate = dy up act'(gate),  d_up = dy act(gate); d_up may be dy
template <class T>
void activate_gated_backward(Activation a, const T* gate, const T* up, const T* dy, T* d_gate, T* d_up,
                             Index n) {
  with_activation(a, [&](auto tag) {
    constexpr Activation A = decltype(tag)::value;
    map2(n, gate, up, d_gate, [](Vector<T> g, Vector<T> u) { return activation<A, T>(g).slope * u; });
    map2(n, d_gate, dy, d_gate, [](Vector<T> s, Vector<T> d) { return s * d; });
    map2(n, gate, dy, d_up, [](Vector<T> g, Vector<T> d) { return activation<A, T>(g).value * d; });
  });
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
