#pragma once
// Converts a trained model to the storage of inference (Stored), or back: convert(from, to).
#include <moegpt/model/transformer.hpp>

#include <functional>
#include <map>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace detail {

// A weight of the model that is converted.
template <class Real>
struct ConvertedWeight {
  bool empty;
  std::function<void(Index, Real*)> read;  // a row
};
template <class Real, class Model>
std::map<std::string, ConvertedWeight<Real>> weights_by_path(const Model& model) {
  std::map<std::string, ConvertedWeight<Real>> weights;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w) {
        weights[path] = {w.empty(), [w](Index row, Real* to) { read_row(w.view(), row, to); }};
      },
      model);
  return weights;
}

}  // namespace detail

// Copies every weight of `from` to the weight of the same path in `to`, row by row, and the options. BF16
// rounds to nearest, INT8 to 1/127 of the largest of each 32 inputs. Throws std::invalid_argument if a weight
// is empty in one of the models only, or an element is not finite in the storage of `to`; `to` is then
// unchanged.
template <class From, class To>
void convert(const From& from, To& to) {
  static_assert(
      From::config == To::config && std::same_as<typename From::RouterRecipe, typename To::RouterRecipe>,
      "convert: the models must have one Config and one router: only their numbers may differ");
  using Real = typename From::Scalar;
  const auto weights = detail::weights_by_path<Real>(from);
  Buffer<Real> row;
  const auto for_each_row = [&](const std::string& path, const auto& w, auto&& f) {
    using Target = Widened<typename std::remove_cvref_t<decltype(w)>::Scalar>;
    Buffer<Target> converted(w.cols);
    row.resize(w.cols);
    for (Index i = 0; i < w.rows && !w.empty(); ++i) {
      weights.find(path)->second.read(i, row.data());
      for (Index k = 0; k < w.cols; ++k) converted[k] = static_cast<Target>(row[k]);
      f(i, converted.data());
    }
  };
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w) {
        using S = typename std::remove_cvref_t<decltype(w)>::Scalar;
        const auto found = weights.find(path);
        check(found != weights.end() && found->second.empty == w.empty(),
              "convert: only one of the models holds ", path, ": allocate or release it in both");
        for_each_row(path, w, [&](Index i, const auto* numbers) {
          for (Index k = 0; k < w.cols; ++k) {
            auto stored = numbers[k];
            if constexpr (std::same_as<S, Panels<BF16>>) stored = BF16(stored);
            check(std::isfinite(stored), "convert: ", path, "[", i * w.cols + k, "] is ", row[k],
                  ", expected a number that is finite where it goes");
          }
        });
      },
      std::as_const(to));
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w) {
        for_each_row(path, w, [&](Index i, const auto* numbers) { write_row(w.view(), i, numbers); });
      },
      to);
  if constexpr (requires { from.options; }) to.options = from.options;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
