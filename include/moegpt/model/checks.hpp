#pragma once
// Argument checks of a model, and the error for a loss or logit that is not finite.
#include <moegpt/layers/pass.hpp>

#include <span>
#include <stdexcept>
#include <string>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// All throw std::invalid_argument, except not_finite.

// lowest <= ids[n] < vocab.
inline void check_ids(std::span<const int> ids, const char* what, int lowest, int vocab) {
  for (std::size_t n = 0; n < ids.size(); ++n)
    check(ids[n] >= lowest && ids[n] < vocab, what, " ", n, " has token id ", ids[n], ", expected 0 .. ",
          vocab - 1);
}
// most: the shape of the workspace.
inline void check_shape(std::span<const int> ids, Shape shape, Shape most, Index context) {
  check(shape.batch > 0 && shape.length > 0, "a batch of ", shape.batch, " sequences of ", shape.length,
        " tokens: both must be at least 1");
  check(shape.length <= context, "a sequence of ", shape.length, " tokens, but the model's context is ",
        context);
  check(shape.batch <= most.tokens() / shape.length, "a batch of ", shape.batch, " x ", shape.length,
        " tokens, but the workspace was made for ", most.batch, " x ", most.length);
  check(std::ssize(ids) == shape.tokens(), "the batch has ", ids.size(), " ids for ", shape.batch, " x ",
        shape.length, " tokens");
}
inline void check_lengths(std::span<const Index> lengths, Shape shape) {
  check(lengths.empty() || std::ssize(lengths) == shape.batch, "the batch has ", lengths.size(),
        " lengths for ", shape.batch, " sequences: one each, or none if there is no padding");
  for (std::size_t b = 0; b < lengths.size(); ++b)
    check(lengths[b] >= 0 && lengths[b] <= shape.length, "sequence ", b, " has length ", lengths[b],
          ", expected 0 .. ", shape.length, ", the tokens of a sequence with its padding");
}
// of_forward: targets of the workspace's last forward; null after logits.
inline void check_targets(std::span<const int> targets, const int* of_forward, Index tokens) {
  check(of_forward,
        "backward was called after logits, which look at no targets: call forward with the batch first");
  check(targets.data() == of_forward && std::ssize(targets) == tokens,
        "backward was called with other targets than the last forward of this workspace");
}
// What forward and logits throw for numbers that are not finite.
struct NotFinite : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// Throws NotFinite. weight: path of a weight that is not finite; empty: none.
[[noreturn]] inline void not_finite(const std::string& what, double found, const std::string& weight) {
  throw NotFinite("moegpt: the " + what + " is " + std::to_string(found) +
                  (weight.empty() ? ": all weights are finite, so activations overflowed; lower the "
                                    "learning rate or clip gradients"
                                  : ": the weight " + weight + " is not finite"));
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
