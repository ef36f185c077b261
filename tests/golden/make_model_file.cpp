// Wrote model_file_1.safetensors beside this file, with the library before files had a format version (commit
// b5f7662):
//   g++ -std=c++20 -DEIGEN_MPL2_ONLY -Iinclude -isystem /usr/include/eigen3 tests/golden/make_model_file.cpp
//   ./a.out tests/golden/model_file_1.safetensors
// The file must load for good (tests/io/file_format_test.cpp): never write it again. A later library writes a
// later version: give that file its own name.
//
// The metadata has token ids and their logits, which have the same bits in every build, because no operation
// rounds. Weights are -1, 0 or 1 (selection biases a quarter of it). The norms' epsilon is 2^60, so
// 1 / sqrt(mean + epsilon) is 2^-30, and their weights are larger by 2^30. Attention's scale and the router's
// weights are so large that each exp is 0, 1 or infinity.
#include <moegpt/io.hpp>

#include <cstdio>
#include <string>
#include <vector>

using namespace moegpt;

constexpr Config config{.vocab = 6,
                        .context = 6,
                        .dim = 4,
                        .layers = 2,
                        .heads = 2,
                        .kv_heads = 1,
                        .hidden = 3,
                        .norm = Norm::rms,
                        .activation = Activation::relu,
                        .gated = true,
                        .attention_bias = true,
                        .head_bias = true,
                        .dense_first = 1};

template <class T>
using Model = GPT<config, SigmoidRouter<3, 2>, T>;

template <class T>
void draw(Model<T>& model) {
  std::uint64_t counter = 0;
  for_each_named_weight(
      [&](const std::string& path, Kind, auto& w) {
        const bool is_norm = path.find("norm") != path.npos && path.ends_with("weight");
        const bool is_router = path.find("router") != path.npos && path.ends_with("weight");
        const bool is_bias = path.ends_with("selection_bias");
        const double scale = is_norm ? 0x1.0p30 : is_router ? 0x1.0p20 : is_bias ? 0.25 : 1;
        for (T& x : w) x = static_cast<T>(scale * (static_cast<double>(Key{19}.bits(counter++) % 3) - 1));
      },
      model);
  model.options = {.norm_epsilon = 0x1.0p60,
                   .rotary_base = 5000,
                   .attention_scale = 0x1.0p20,
                   .capacity_factor = 1.25,
                   .min_capacity = 4};
}

template <class T>
std::string logits_of(const Model<T>& model, const std::vector<int>& ids) {
  typename Model<T>::Workspace work{{1, 6}, {}, {}, Use::inference};
  typename Model<T>::Cache cache;
  const auto logits = model.logits(ids, work, cache);
  std::string text;
  char number[64];
  for (std::size_t i = 0; i < ids.size() * config.vocab; ++i) {
    std::snprintf(number, sizeof number, "%s%.9g", i > 0 ? " " : "", static_cast<double>(logits.data[i]));
    text += number;
  }
  return text;
}

int main(int count, char** arguments) {
  if (count != 2) return 2;
  Model<float> model;
  Model<double> exact;
  draw(model);
  draw(exact);
  const std::vector<int> ids{5, 0, 3, 2, 1, 4};
  const std::string logits = logits_of(model, ids);
  check(logits == logits_of(exact, ids), "a logit is rounded: choose another key");
  save(arguments[1], model, Tokenizer::characters("abcde\n"),
       {{"golden.ids", "5 0 3 2 1 4"}, {"golden.logits", logits}});
}
