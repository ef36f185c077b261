// Attention with windows, blocks and strides is that of PyTorch under the same masks, and so are its
// gradients: tests/golden/make_local_attention.py wrote the numbers, and its comment says what they are.
#include <moegpt/io/safetensors.hpp>
#include <moegpt/kernels/multi_head.hpp>

#include "../support/catch.hpp"

using namespace moegpt;

namespace {

constexpr double tolerance = 1e-10;
constexpr Index tokens = 70, heads = 2, kv_heads = 1, width = 3;

Tokens<width, double> numbers(const std::string& name) {  // head by head of each token
  static const SafetensorsFile file =
      read_safetensors(MOEGPT_TESTS_DIR "/golden/local_attention.safetensors");
  INFO("tensor " << name);
  const auto found = file.header.tensors.find(name);
  REQUIRE(found != file.header.tensors.end());
  Tokens<width, double> rows(found->second.shape[0] * found->second.shape[1] / width);
  for_each_number<double>(found->second.dtype, file.bytes(found->second).data(), rows.count() * width,
                          [&](Index i, double x) { rows[0][i] = x; });
  return rows;
}
MatrixView<double> view(Tokens<width, double>& x) {
  const Index cols = x.count() / tokens * width;
  return {x[0], tokens, cols, cols};
}

void require_parity(const std::string& name, const kernels::KeyRule& rule, Index stride) {
  kernels::MultiHead<double> m{.batch = 1,
                               .length = tokens,
                               .heads = heads,
                               .kv_heads = kv_heads,
                               .width = width,
                               .key_rows = tokens,
                               .key_length = tokens,
                               .common = {.scale = 0.7, .rule = rule},
                               .noise = {},
                               .first_sequence = 0,
                               .stride = stride};
  for (const Mask mask : {Mask::full, Mask::causal}) {
    m.common.rule.mask = mask;
    auto q = numbers("q"), k = numbers("k"), v = numbers("v"), d_o = numbers("d_o");
    auto o = q, dq = q, dk = k, dv = v;  // overwritten
    Tokens<heads, double> lse(tokens);
    Buffer<double> scratch(kernels::multi_head_scratch(tokens, tokens, width, stride));
    kernels::multi_head_forward<double>({}, m, view(q), view(k), view(v), view(o), lse, scratch.data());
    kernels::multi_head_backward<double>({}, m, view(q), view(k), view(v), view(o), lse, view(d_o), view(dq),
                                         view(dk), view(dv), scratch.data());
    const std::string prefix = name + (mask == Mask::causal ? ".causal." : ".");
    for (const auto& [part, found] : {std::pair{"o", &o}, {"dq", &dq}, {"dk", &dk}, {"dv", &dv}}) {
      CAPTURE(prefix, part);
      CHECK((numbers(prefix + part).eigen() - found->eigen()).cwiseAbs().maxCoeff() <= tolerance);
    }
  }
}

}  // namespace

TEST_CASE("attention with a window, blocks or a stride is PyTorch's with their masks, gradients included") {
  require_parity("window", {.window = 9}, 0);
  require_parity("block", {.window = 16, .local = Local::block}, 0);
  require_parity("two_blocks", {.window = 16, .local = Local::two_blocks}, 0);
  require_parity("stride", {.window = 5}, 7);
  require_parity("blocks_and_stride", {.window = 16, .local = Local::block}, 5);
}
