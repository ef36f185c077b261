// Scaled rotary frequencies are those of transformers, which computes them in float:
// tests/golden/make_rotary.py wrote the numbers, and its comment says what they are.
#include <moegpt/io/safetensors.hpp>
#include <moegpt/kernels/rotary.hpp>

#include "../support/catch.hpp"

using namespace moegpt;

TEST_CASE("scaled rotary frequencies are those of transformers") {
  constexpr Index width = 64;
  using enum RotaryScaling;
  const std::pair<const char*, kernels::Rotary> cases[] = {
      {"linear", {.width = width, .scaling = linear, .base = 1e4, .factor = 4}},
      {"yarn", {.width = width, .scaling = yarn, .base = 1e4, .factor = 4, .context = 2048}},
      {"yarn_narrow",
       {.width = width,
        .scaling = yarn,
        .base = 1e6,
        .factor = 16,
        .context = 512,
        .fast = 4,
        .slow = 2,
        .magnitude = 1.25}},
      {"llama3",
       {.width = width, .scaling = llama3, .base = 5e5, .factor = 8, .context = 8192, .fast = 4, .slow = 1}}};
  const SafetensorsFile file = read_safetensors(MOEGPT_TESTS_DIR "/golden/rotary.safetensors");
  for (const auto& [name, rotary] : cases) {
    CAPTURE(name);
    const TensorInfo& tensor = file.header.tensors.at(name);
    REQUIRE(tensor.shape == std::vector<Index>{width / 2 + 1});
    for_each_number<double>(tensor.dtype, file.bytes(tensor).data(), width / 2 + 1, [&](Index i, double x) {
      CAPTURE(i);
      CHECK((i < width / 2 ? rotary.frequency(i) : rotary.length_factor()) == Approx(x).epsilon(1e-6));
    });
  }
}
