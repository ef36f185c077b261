#include <moegpt/model/copy_weights.hpp>
#include <moegpt/train/adam.hpp>

#include "support.hpp"

namespace {

// Two trees with a common part, and a matrix whose shape differs.
struct Part {
  Weight<float, 2, 3> matrix;
  Weight<float, 3> bias;
  static constexpr auto fields() {
    return Fields{Field{"matrix", &Part::matrix}, Field{"bias", &Part::bias}};
  }
};
struct One {
  Part trunk;
  Weight<float, 4> head;
  static constexpr auto fields() { return Fields{Field{"", &One::trunk}, Field{"head", &One::head}}; }
};
struct Other {
  HeapArray<Part, 2> parts;
  Weight<float, 3> bias;
  Weight<float, 5> output;
  static constexpr auto fields() {
    return Fields{Field{"parts", &Other::parts}, Field{"bias", &Other::bias},
                  Field{"output", &Other::output}};
  }
};
struct InDouble {
  Weight<double, 2, 3> matrix;
  static constexpr auto fields() { return Fields{Field{"matrix", &InDouble::matrix}}; }
};

template <class Tree>
Tree numbered() {
  Tree tree;
  float next = 0;
  for_each_weight(
      [&](auto& w) {
        for (auto& x : w) x = next += 0.1f;
      },
      tree);
  return tree;
}
template <class W>
bool equal(const W& a, const W& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}
std::vector<std::string> sources(const CopyReport& report) {
  std::vector<std::string> all;
  for (const auto& copied : report.copied) all.push_back(copied.source);
  return all;
}
using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("without a rule, the paths that both trees have are copied, and the report names the others") {
  const One from = numbered<One>();
  Other to;
  const CopyReport report = copy_weights(from, to);
  CHECK(equal(to.bias, from.trunk.bias));
  CHECK(std::count(to.output.begin(), to.output.end(), 0.0f) == 5);
  CHECK(sources(report) == Names{"bias"});
  CHECK(report.left == Names{"parts.0.matrix", "parts.0.bias", "parts.1.matrix", "parts.1.bias", "output"});
  CHECK(report.unused == Names{"head", "matrix"});
}

TEST_CASE("a rule names the source of each weight, and one source may serve several") {
  const One from = numbered<One>();
  Other to;
  const CopyReport report = copy_weights(from, to, [](const std::string& path) {
    return path.starts_with("parts.") ? path.substr(8) : std::string();
  });
  for (const Part& part : to.parts) {
    CHECK(equal(part.matrix, from.trunk.matrix));
    CHECK(equal(part.bias, from.trunk.bias));
  }
  CHECK(sources(report) == Names{"matrix", "bias", "matrix", "bias"});
  CHECK(report.copied[2].path == "parts.1.matrix");
  CHECK(report.left == Names{"bias", "output"});
}

TEST_CASE("a path that the source lacks and another shape are rejected before anything changes") {
  const One from = numbered<One>();
  Other to;
  const auto message = [&](const char* path, const char* source) {
    return refusal([&] {
      copy_weights(from, to, [&](const std::string& wanted) {
        return wanted == "parts.0.bias" ? "bias" : wanted == path ? source : "";
      });
    });
  };
  CHECK(contains(message("output", "hat"), "output is copied from hat, but the source has no weight"));
  CHECK(contains(message("output", "head"), "head has shape [4], expected [5] for output"));
  CHECK(
      contains(message("parts.1.matrix", "head"), "head has shape [4], expected [2, 3] for parts.1.matrix"));
  CHECK(std::count(to.parts[0].bias.begin(), to.parts[0].bias.end(), 0.0f) == 3);
}

TEST_CASE("a weight that only one tree holds is rejected, one that neither holds stays empty") {
  One from = numbered<One>(), to;
  from.head.release();
  CHECK(contains(refusal([&] { copy_weights(from, to); }), "only the destination holds head"));
  to.head.release();
  copy_weights(from, to);
  CHECK(to.head.empty());
  CHECK(equal(to.trunk.matrix, from.trunk.matrix));
}

TEST_CASE("elements are converted to the scalar of the destination") {
  const One from = numbered<One>();
  InDouble wide;
  One back;
  copy_weights(from, wide);
  copy_weights(wide, back);
  CHECK(wide.matrix[3] == static_cast<double>(from.trunk.matrix[3]));
  CHECK(equal(back.trunk.matrix, from.trunk.matrix));
}

TEST_CASE("the moments of an optimizer are copied like weights") {
  One model = numbered<One>(), grad = numbered<One>();
  Adam<One> from;
  Adam<Other> to;
  from.step(model, grad);
  copy_weights(from, to, [](const std::string& path) {
    const std::size_t at = path.find(".parts.1.");
    return at == std::string::npos ? "" : path.substr(0, at + 1) + path.substr(at + 9);
  });
  CHECK(equal(to.first_moment().parts[1].matrix, from.first_moment().trunk.matrix));
  CHECK(equal(to.second_moment().parts[1].bias, from.second_moment().trunk.bias));
  CHECK(to.first_moment().parts[0].bias[0] == 0);
}
