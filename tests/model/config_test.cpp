#include <moegpt/model/config.hpp>

#include "../support/catch.hpp"

using namespace moegpt;

TEST_CASE("an expert is four times as wide as the stream unless hidden says otherwise") {
  Config c{.vocab = 5, .context = 4, .dim = 6, .layers = 1, .heads = 2};
  CHECK(c.expert_width() == 24);
  c.hidden = 7;
  CHECK(c.expert_width() == 7);
}

TEST_CASE("the first layers are dense and of the others every n-th is a mixture") {
  const Config c{
      .vocab = 5, .context = 4, .dim = 6, .layers = 8, .heads = 2, .dense_first = 1, .moe_every = 3};
  std::vector<int> mixtures;
  for (int i = 0; i < c.layers; ++i)
    if (c.is_moe(i)) mixtures.push_back(i);
  CHECK(mixtures == std::vector<int>{3, 6});
}

TEST_CASE("a predicate chooses any layers as mixtures") {
  Config c{.vocab = 5, .context = 4, .dim = 6, .layers = 6, .heads = 2};
  const auto mixtures = [&] {
    std::vector<int> found;
    for (int i = 0; i < c.layers; ++i)
      if (c.is_moe(i)) found.push_back(i);
    return found;
  };
  c.mixture_at = {1, 2, 5};
  CHECK(mixtures() == std::vector<int>{1, 2, 5});
  c.mixture_at = [](int) { return false; };
  CHECK(mixtures().empty());
  c.mixture_at = [](int layer) { return layer >= 2 && layer % 2 == 0; };
  CHECK(mixtures() == std::vector<int>{2, 4});
}

TEST_CASE("a dense layer is as wide as an expert unless dense_hidden says otherwise") {
  Config c{.vocab = 5, .context = 4, .dim = 6, .layers = 1, .heads = 2, .hidden = 7};
  CHECK(c.dense_width() == 7);
  c.dense_hidden = 30;
  CHECK(c.dense_width() == 30);
  CHECK(c.expert_width() == 7);
}

TEST_CASE("every layer is a mixture by default") {
  const Config c{.vocab = 5, .context = 4, .dim = 6, .layers = 3, .heads = 2};
  for (int i = 0; i < c.layers; ++i) CHECK(c.is_moe(i));
}

TEST_CASE("attention takes its extents from the Config, and by default has one key/value head per head") {
  Config c{.vocab = 5, .context = 4, .dim = 12, .layers = 1, .heads = 3};
  CHECK(c.attention().key_value_heads() == 3);
  CHECK(c.attention().width() == 4);
  CHECK_FALSE(c.attention().rotary);
  CHECK(c.attention().mask == Mask::causal);
  c.kv_heads = 1, c.head_dim = 10, c.positions = Positions::rotary;
  CHECK(c.attention().key_value_heads() == 1);
  CHECK(c.attention().width() == 10);
  CHECK(c.attention().rotary);
  c.mask = Mask::full;
  CHECK(c.attention().mask == Mask::full);
}

TEST_CASE("Configs that differ in one choice are different") {
  const Config c{.vocab = 5, .context = 4, .dim = 6, .layers = 1, .heads = 2};
  Config other = c;
  CHECK(c == other);
  other.tied = true;
  CHECK_FALSE(c == other);
}

TEST_CASE("a list of layers remembers its ends, and no layer outside the numbers of layers is in a choice") {
  const LayerSet list{2, 4, -3, 1000};
  CHECK(list.has(2));
  CHECK(list.has(4));
  for (const int layer : {-3, -1, 0, 3, 255, 256, 1000}) CHECK_FALSE(list.has(layer));
  CHECK(list.lowest == -3);
  CHECK(list.highest == 1000);
  const LayerSet all = [](int) { return true; };
  CHECK(all.has(0));
  CHECK_FALSE(all.has(-1));
  CHECK_FALSE(all.has(256));
}
