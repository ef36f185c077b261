#include <moegpt/routing/masked.hpp>
#include <moegpt/generate/generate.hpp>

#include "support.hpp"

TEST_CASE("the same seed writes the same text, and another seed another") {
  const auto model = random_model();
  CHECK(generate(*model, letters, "abc", {.tokens = 30, .seed = 3}) ==
        generate(*model, letters, "abc", {.tokens = 30, .seed = 3}));
  CHECK(generate(*model, letters, "abc", {.tokens = 30, .seed = 3}) !=
        generate(*model, letters, "abc", {.tokens = 30, .seed = 4}));
}

TEST_CASE("the number of threads does not change a text") {
  const auto model = random_model();
  CHECK(generate(*model, letters, "abc", {.tokens = 30, .exec = {.threads = 1}}) ==
        generate(*model, letters, "abc", {.tokens = 30, .exec = {.threads = 2}}));
}

TEST_CASE("as many tokens are written as asked for, also beyond the context, and each is announced") {
  const auto model = random_model();
  for (const int tokens : {0, 1, 8, 50}) {
    std::string announced;
    const std::string text =
        generate(*model, letters, "abc",
                 {.tokens = tokens, .on_token = [&](std::string_view piece) { announced += piece; }});
    CHECK(text.size() == static_cast<std::size_t>(tokens));
    CHECK(text == announced);
  }
}

TEST_CASE("an empty prompt starts with the first token") {
  const auto model = random_model();
  CHECK(generate(*model, letters, "", {.tokens = 20}) == generate(*model, letters, "a", {.tokens = 20}));
}

TEST_CASE("of a prompt longer than the context its end counts") {
  const auto model = random_model();
  CHECK(generate(*model, letters, "ggggggabcdefga", {.tokens = 20}) ==
        generate(*model, letters, "abcdefga", {.tokens = 20}));
}

TEST_CASE("a prompt with a character that the tokenizer does not know is refused by that character") {
  const auto model = random_model();
  CHECK(contains(refusal([&] { generate(*model, letters, "abxc"); }), "'x' (U+0078) at byte 2"));
}

TEST_CASE("a tokenizer with more tokens than the model is refused with both numbers") {
  const auto model = random_model();
  CHECK(contains(refusal([&] { generate(*model, Tokenizer::bytes(), "abc"); }),
                 "the tokenizer has 256 tokens, the model only 7"));
}

TEST_CASE("a model with NaN in a weight generates an error that names it") {
  const auto model = random_model();
  model->head.weight[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK(contains(refusal<std::runtime_error>([&] { generate(*model, letters, "abc"); }), "head.weight[5]"));
}

TEST_CASE("generation keeps to the allowed experts") {
  const auto model = random_model();
  const AllowedExperts<TopKRouter<3, 2>> some{0, 2};
  const std::string text = generate(*model, letters, "abc", {.tokens = 30, .seed = 3, .allowed = some});
  auto without = std::make_unique<Model>(*model);  // nobody asks expert 1, so its weights do not matter
  for_each_named_weight(
      [](const std::string& path, Kind, auto& w) {
        if (path.find("experts.1.") != std::string::npos)
          for (auto& x : w) x = 100;
      },
      *without);
  CHECK(text == generate(*without, letters, "abc", {.tokens = 30, .seed = 3, .allowed = some}));
  CHECK(text != generate(*model, letters, "abc", {.tokens = 30, .seed = 3}));
  const bool one[3] = {true, false, false};
  CHECK(contains(refusal([&] { generate(*model, letters, "abc", {.allowed = one}); }), "1 of 3 experts"));
}

TEST_CASE("generation uses the masks of its task") {
  using Tasks = GPT<config, Masked<TopKRouter<3, 2>, 2>>;
  auto model = std::make_unique<Tasks>();
  init(*model, Key{1}, Init::makemoe);
  for_each_named_weight(
      [](const std::string& path, Kind, auto& w) {
        if (path.ends_with("mask.1"))
          for (auto& x : w) x = -3;
      },
      *model);
  const auto write = [&](int task) {
    return generate(*model, letters, "abc", {.tokens = 30, .seed = 3, .task = task});
  };
  CHECK(write(0) == generate(*model, letters, "abc", {.tokens = 30, .seed = 3}));
  CHECK(write(0) != write(1));
  CHECK(contains(refusal([&] { write(2); }), "task 2"));
}

TEST_CASE("prompts of a batch are continued as each is alone with its seed") {
  const auto model = random_model();
  const std::vector<std::string> prompts{"abc", "abc", "", "gfedcbagfedcba", "d"};
  Generate how{
      .tokens = 20, .sampling = {.log_probabilities = 2}, .seed = 5, .stop = {"ab", "fg"}, .piece = 3};
  std::vector<std::string> shown(prompts.size());
  const auto all = generate_all(*model, letters, prompts, how, 3, [&](Index i, std::string_view part) {
    shown[static_cast<std::size_t>(i)] += part;
  });
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    Generate alone = how;
    alone.seed = 5 + i;
    alone.piece = 0;
    CHECK(all[i].text == generate(*model, letters, prompts[i], alone));
    CHECK(all[i].text == shown[i]);
    CHECK((all[i].finish ==
           (all[i].ids.size() == 20 && all[i].text.size() == 20 ? Finish::length : Finish::stop)));
    CHECK(all[i].log_probabilities.size() == all[i].ids.size());
    CHECK(all[i].likeliest.size() == all[i].ids.size());
  }
  CHECK(all[0].text != all[1].text);
  CHECK(generate_all(*model, letters, std::span<const std::string>{}).empty());
}

TEST_CASE("stop strings and stop ids end a text, which contains neither") {
  const auto model = random_model();
  const std::string whole = generate(*model, letters, "abc", {.tokens = 30, .seed = 3});
  const std::string two = whole.substr(10, 2);
  CHECK(generate(*model, letters, "abc", {.tokens = 30, .seed = 3, .stop = {two}}) ==
        whole.substr(0, whole.find(two)));
  const int id = letters.encode(whole.substr(10, 1))[0];
  CHECK(generate(*model, letters, "abc", {.tokens = 30, .seed = 3, .stop_ids = {id}}) ==
        whole.substr(0, whole.find(whole[10])));
  CHECK(
      contains(refusal([&] { generate(*model, letters, "abc", {.stop = {""}}); }), "a stop string is empty"));
}

TEST_CASE("pieces of a text of bytes are whole characters, and half a character is shown at its end") {
  constexpr Config of_bytes{.vocab = 256, .context = 8, .dim = 8, .layers = 1, .heads = 2, .hidden = 8};
  const auto model = random_model<GPT<of_bytes>>();
  // only bytes of the euro sign, e2 82 ac
  Sampling sampling{.temperature = 5};
  for (int id = 0; id < 256; ++id)
    if (id != 0xe2 && id != 0x82 && id != 0xac) sampling.banned.push_back(id);
  std::vector<std::string> parts;
  const std::string text =
      generate(*model, Tokenizer::bytes(), "x",
               {.tokens = 300, .sampling = sampling, .on_token = [&](std::string_view part) {
                  parts.emplace_back(part);
                }});
  std::string all;
  int whole = 0;
  for (const std::string& p : parts) {
    all += p;
    whole += p == "\xe2\x82\xac";
    CHECK_FALSE(p.empty());
  }
  CHECK(all == text);
  CHECK(text.size() == 300);
  CHECK(whole > 0);
}
