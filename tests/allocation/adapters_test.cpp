// The memory that training adapters alone takes beside the model. A program of its own, because
// count_test.cpp replaces malloc.
#include "count.hpp"

#include <moegpt/model/adapters.hpp>
#include <moegpt/model/gpt.hpp>
#include <moegpt/routing/top_k_router.hpp>
#include <moegpt/train/adam.hpp>
#include <moegpt/train/freeze.hpp>

#include "../support/catch.hpp"

#include <memory>

using namespace moegpt;

namespace {

constexpr Config base{.vocab = 256, .context = 32, .dim = 256, .layers = 4, .heads = 4, .hidden = 128};
constexpr Config adapted = [] {
  Config c = base;
  c.adapter_rank = 16;
  return c;
}();
using Base = GPT<base, TopKRouter<4, 2>>;
using Model = GPT<adapted, TopKRouter<4, 2>>;

}  // namespace

TEST_CASE(
    "adapters, their gradients and moments take the memory of the formula, to 5 %, and no more at first") {
  if (!bytes_are_counted) return;
  // A [rank, in] and B [out, rank] of four projections in each layer and of the head; four numbers for each
  // weight: itself, its gradient, two moments
  constexpr double adapter_weights = 16 * (4 * 4 * (256 + 256) + (256 + 256));
  constexpr double formula = 4 * sizeof(float) * adapter_weights;
  const auto plain = std::make_unique<Base>();
  const long before_plain = allocated_bytes;
  const auto copy = std::make_unique<Base>(*plain);
  const double model_bytes = static_cast<double>(allocated_bytes - before_plain);

  const long before = allocated_bytes;
  const auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  freeze_all_but_adapters(*grad);
  peak_bytes = allocated_bytes.load();
  const auto adam = std::make_unique<Adam<Model>>(AdamOptions{}, *grad);
  const double bytes = static_cast<double>(allocated_bytes - before) - model_bytes;
  CAPTURE(bytes, formula, model_bytes);
  CHECK(bytes / formula > 0.95);
  CHECK(bytes / formula < 1.05);
  // while it is made, one more model
  CHECK(static_cast<double>(peak_bytes - before) < 2.05 * model_bytes + bytes);
  const long settled = allocated_bytes;
  adam->step(*model, *grad);
  CHECK(allocated_bytes == settled);
}
