#pragma once
// Activation functions and their derivatives, chosen by an enumerator.
#include <moegpt/core/matrix.hpp>

#include <cmath>

namespace moegpt::inline MOEGPT_BUILD {

enum class Activation {
  gelu,       // tanh form: GPT-2
  gelu_erf,   // x Phi(x): PyTorch's default
  relu,
  silu,       // x sigmoid(x), also called swish
  tanh,
};

namespace kernels {

template <class T>
struct ValueAndSlope {
  T value, slope;
};

template <Activation A, class T>
[[gnu::always_inline]] inline ValueAndSlope<T> activation(T x) {
  if constexpr (A == Activation::gelu) {
    // u = sqrt(2/pi) (x + 0.044715 x^3); value = x (1 + tanh u) / 2
    constexpr T c = T(0.7978845608028654), a = T(0.044715);
    const T t = std::tanh(c * (x + a * x * x * x));
    return {T(0.5) * x * (1 + t), T(0.5) * (1 + t) + T(0.5) * x * (1 - t * t) * c * (1 + 3 * a * x * x)};
  } else if constexpr (A == Activation::gelu_erf) {
    const T Phi = T(0.5) * (1 + std::erf(x * T(0.7071067811865476)));
    return {x * Phi, Phi + x * T(0.3989422804014327) * std::exp(T(-0.5) * x * x)};
  } else if constexpr (A == Activation::relu) {
    return x > 0 ? ValueAndSlope<T>{x, 1} : ValueAndSlope<T>{0, 0};
  } else if constexpr (A == Activation::silu) {
    const T s = 1 / (1 + std::exp(-x));
    return {x * s, s * (1 + x * (1 - s))};
  } else {
    const T t = std::tanh(x);
    return {t, 1 - t * t};
  }
}

// f(std::integral_constant<Activation, a>): one loop for each activation, chosen once per call.
template <class F>
void with_activation(Activation a, F&& f) {
  switch (a) {
    case Activation::gelu: return f(std::integral_constant<Activation, Activation::gelu>{});
    case Activation::gelu_erf: return f(std::integral_constant<Activation, Activation::gelu_erf>{});
    case Activation::relu: return f(std::integral_constant<Activation, Activation::relu>{});
    case Activation::silu: return f(std::integral_constant<Activation, Activation::silu>{});
    case Activation::tanh: return f(std::integral_constant<Activation, Activation::tanh>{});
  }
}

// y = act(x)
template <class T>
void activate(Activation a, const T* x, T* y, Index n) {
  with_activation(a, [&](auto tag) {
    for (Index i = 0; i < n; ++i) y[i] = activation<decltype(tag)::value>(x[i]).value;
  });
}

// dx = dy act'(x)
template <class T>
void activate_backward(Activation a, const T* x, const T* dy, T* dx, Index n) {
  with_activation(a, [&](auto tag) {
    for (Index i = 0; i < n; ++i) dx[i] = dy[i] * activation<decltype(tag)::value>(x[i]).slope;
  });
}

// y = act(gate) up
template <class T>
void activate_gated(Activation a, const T* gate, const T* up, T* y, Index n) {
  with_activation(a, [&](auto tag) {
    for (Index i = 0; i < n; ++i) y[i] = activation<decltype(tag)::value>(gate[i]).value * up[i];
  });
}

// d_gate = dy up act'(gate),  d_up = dy act(gate)
template <class T>
void activate_gated_backward(Activation a, const T* gate, const T* up, const T* dy, T* d_gate, T* d_up, Index n) {
  with_activation(a, [&](auto tag) {
    for (Index i = 0; i < n; ++i) {
      const auto act = activation<decltype(tag)::value>(gate[i]);
      d_gate[i] = dy[i] * up[i] * act.slope;
      d_up[i] = dy[i] * act.value;
    }
  });
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
