#include <moegpt/io/type_size.hpp>

#include <moegpt/io.hpp>

#include "support.hpp"

using namespace moegpt;

namespace {

template <class Model>
void check_bound() {
  CAPTURE(to_text<Model>());
  const double least = least_weights(parse_type(to_text<Model>()));
  const double weights = static_cast<double>(count_weights(Model{}));
  CHECK(least <= weights);
  CHECK(least >= 0.9 * weights);
}

using presets::Extents;
constexpr Extents tiny{
    .vocab = 70, .context = 5, .dim = 32, .layers = 4, .heads = 4, .hidden = 40, .experts = 6};
constexpr Extents of_groups = [] {
  Extents x = tiny;
  x.experts = 16, x.active = 3;
  return x;
}();

// A file with one tensor of so many numbers.
std::string file_with(const TemporaryFolder& folder, const std::string& type, Index rows, Index cols) {
  const std::string path = (folder / "model.safetensors").string();
  const std::vector<float> numbers(static_cast<std::size_t>(rows * cols));
  save_safetensors(path, {NamedTensor{"a", DType::f32, {rows, cols}, numbers.data()}},
                   Metadata{{"moegpt.model", type}});
  return path;
}

}  // namespace

TEST_CASE("the lower bound of weights of every preset is close below their number") {
  using namespace presets;
  check_bound<ModelOf<makemoe<tiny>>>();
  check_bound<ModelOf<gpt2_moe<tiny>>>();
  check_bound<ModelOf<switch_base<tiny>>>();
  check_bound<ModelOf<gshard<tiny>>>();
  check_bound<ModelOf<glam<tiny>>>();
  check_bound<ModelOf<mixtral<tiny>>>();
  check_bound<ModelOf<olmoe<of_groups>>>();
  check_bound<ModelOf<qwen_moe<of_groups>>>();
  check_bound<ModelOf<deepseek_moe<of_groups>>>();
}

TEST_CASE("the lower bound of weights is close below their number, whichever layers and routers have them") {
  constexpr Config plain{.vocab = 40, .context = 30, .dim = 32, .layers = 5, .heads = 4, .hidden = 40};
  constexpr Config mixed{.vocab = 40,
                         .context = 30,
                         .dim = 32,
                         .layers = 5,
                         .heads = 4,
                         .kv_heads = 2,
                         .head_dim = 6,
                         .dense_hidden = 90,
                         .gated = true,
                         .tied = true,
                         .mixture_at = {1, 4}};
  constexpr Config rotary{.vocab = 40,
                          .context = 30,
                          .dim = 32,
                          .layers = 5,
                          .heads = 4,
                          .positions = Positions::rotary,
                          .dense_first = 2,
                          .moe_every = 3};
  check_bound<GPT<plain>>();
  check_bound<Transformer<rotary, TopKRouter<7, 2>>>();
  check_bound<GPT<mixed, SharedExperts<TopKRouter<5, 2>, 3>>>();
  check_bound<GPT<rotary, HierarchicalRouter<TopKRouter<3, 2>, AllExperts<5>>>>();
  check_bound<GPT<plain, WithSharedProjection<HashRouter<5, 2>, 50>>>();
  check_bound<GPT<plain, SharedExperts<CosineRouter<5, 2, 300>>>>();
  check_bound<GPT<mixed, AllowNonCausal<SoftMoE<5, 20>>>>();
  check_bound<GPT<rotary, InputJitter<Masked<TopKRouter<5, 2>, 100>>>>();
}

TEST_CASE("a type of more weights than its file has numbers is rejected before it is compiled") {
  const TemporaryFolder folder;
  const auto model_of = [](const std::string& layers) {
    return "GPT<Config{.vocab = 9, .context = 8, .dim = 8, .layers = " + layers +
           ", .heads = 2}, TopKRouter<4, 2>>";
  };
  const auto error = [&](const std::string& type, Index rows, Index cols) {
    const std::string path = file_with(folder, type, rows, cols);
    return error_of([&] { check_size(parse_type(model_text(path)), read_safetensors(path)); });
  };
  const std::string type = model_of("2"), deep = model_of("4000");
  const auto least = static_cast<Index>(least_weights(parse_type(type)));
  CHECK(error(type, least, 1) == "");
  CHECK(has(error(type, least - 1, 1),
            "states a type of at least 4816 weights, but has 4815 numbers: GPT<Config{"));
  CHECK(has(error(deep, least, 2), "states a type of at least 9.21621e+06 weights, but has 9632 numbers"));
  CHECK(has(error(type, Index{1} << 40, 0), "but has 0 numbers"));  // extents alone are free
}
