#pragma once
// Start: the rule by which `init` (model/init.hpp) sets a weight. A field declares it:
//   Field{"weight", &Norm::weight, Start::one}
#include <moegpt/core/build.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct Start {
  enum class Rule {
    by_shape,   // the default: a matrix is sampled, a vector is zero
    constant,   // value
    bias,       // zero, or sampled if the scheme samples biases; value: fan_in of its matrix
    embedding,  // by_shape, or sampled by the scheme's rule for embeddings
    residual,   // likewise for the last matrix of a residual branch
    uniform,    // a matrix from U(+-1 / sqrt(columns)), in every scheme
  };
  Rule rule = Rule::by_shape;
  double value = 0;

  static const Start zero, one, embedding, residual, uniform;
  static constexpr Start at(double constant) { return {Rule::constant, constant}; }
  static constexpr Start bias(int fan_in) { return {Rule::bias, static_cast<double>(fan_in)}; }
  bool operator==(const Start&) const = default;
};
inline constexpr Start Start::zero{Rule::constant, 0}, Start::one{Rule::constant, 1};
inline constexpr Start Start::embedding{Rule::embedding}, Start::residual{Rule::residual};
inline constexpr Start Start::uniform{Rule::uniform};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
