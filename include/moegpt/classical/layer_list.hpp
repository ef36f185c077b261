#pragma once
// LayerList: layers of different types with the same dim_in, dim_out and Scalar, such as the experts of a
// classical mixture. Paths: "0.weight", "1.up.weight" and so on.
#include <moegpt/layers/layer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace detail {
inline constexpr std::string_view two_digits =  // 00 01 02 ...
    "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
    "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
    "8081828384858687888990919293949596979899";
}  // namespace detail

template <int Number, class... Layers>
struct LayerList {
  static constexpr int size = 0;
  static constexpr auto fields() { return Fields{}; }
  struct Tape : Nothing {};
  struct Scratch : Nothing {};
  template <class F>
  void for_each(F&&) const {}
};

template <int Number, class First, class... Rest>
struct LayerList<Number, First, Rest...> {
  static_assert(Number < 100, "LayerList: at most 100 layers");
  using RestList = LayerList<Number + 1, Rest...>;
  static constexpr int size = 1 + sizeof...(Rest);
  static constexpr std::string_view name =
      detail::two_digits.substr(2 * Number + (Number < 10), Number < 10 ? 1 : 2);

  First first;
  [[no_unique_address]] RestList rest;

  static constexpr auto fields() {
    if constexpr (sizeof...(Rest) == 0)
      return Fields{Field{name, &LayerList::first}};
    else
      return Fields{Field{name, &LayerList::first}, Field{"", &LayerList::rest}};
  }
  struct Tape {
    typename First::Tape first;
    [[no_unique_address]] typename RestList::Tape rest;
    void resize(const Pass& pass) { resize_all(pass, first, rest); }
  };
  struct Scratch {
    typename First::Scratch first;
    [[no_unique_address]] typename RestList::Scratch rest;
    void resize(const Pass& pass) { resize_all(pass, first, rest); }
  };

  // f(number, layer, lists' members...) for each layer and the members beside it of tapes, scratch,
  // gradients.
  template <class F, class... Others>
  static void visit(F&& f, LayerList const& list, Others&... others) {
    f(Number, list.first, others.first...);
    if constexpr (sizeof...(Rest) > 0) RestList::visit(f, list.rest, others.rest...);
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
