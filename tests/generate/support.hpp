#pragma once
// A small mixture model, and what tests of generation ask of errors.
#include <moegpt/generate/generate.hpp>
#include <moegpt/model/init.hpp>

#include "../support/catch.hpp"
#include "../support/refusal.hpp"

#include <limits>
#include <memory>

using namespace moegpt;

namespace {

constexpr Config config{.vocab = 7, .context = 8, .dim = 12, .layers = 2, .heads = 3, .hidden = 10};
using Model = GPT<config, TopKRouter<3, 2>>;

[[maybe_unused]] const Tokenizer letters = Tokenizer::characters("abcdefg");

template <class M = Model>
std::unique_ptr<M> random_model(std::uint64_t seed = 1) {
  auto model = std::make_unique<M>();
  init(*model, Key{seed}, Init::makemoe);
  return model;
}

}  // namespace
