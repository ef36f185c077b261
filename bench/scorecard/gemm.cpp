// Scorecard: matrix products, built with each available compiler. --peak-only omits the comparison of
// libraries.
#include "rows.hpp"
#include "support/interleaved.hpp"
#include "support/products.hpp"

#include <cstring>

using namespace bench;

namespace {

const char* compiler() {
#ifdef __clang__
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

struct Goal {
  ProductShape shape;
  double of_peak;
};
const Goal goals[] = {{{128, 512, 128}, 85},  {{128, 128, 512}, 85},  {{128, 256, 512}, 85},
                      {{256, 3072, 768}, 88}, {{256, 768, 3072}, 88}, {{32, 512, 128}, 70},
                      {{16, 512, 128}, 70}};

struct Worst {
  double ratio = 1e9;
  const char* orientation = "";
  void update(double r, Orientation o) {
    if (r < ratio) ratio = r, orientation = name_of(o);
  }
};

}  // namespace

int main(int argc, char** argv) {
  const bool compare = argc == 1;
  if (!compare && (argc > 2 || std::strcmp(argv[1], "--peak-only") != 0))
    return std::fprintf(stderr, "usage: %s [--peak-only]\n", argv[0]), 2;
  const auto openblas = compare ? Cblas::openblas() : std::nullopt;
  std::vector<std::pair<ProductShape, std::pair<Worst, Worst>>> over;
  scorecard::section(std::string("Products M x N x K, one thread, over 8 experts: of the FMA peak; ") +
                     compiler());
  for (const Goal& goal : goals) {
    scorecard::progress("product " + goal.shape.text());
    Worst over_eigen, over_openblas;
    for (const Orientation o : orientations) {
      Products products(goal.shape, o);
      Alternation runs;
      const int peak = runs.add_peak();
      const int ours = runs.add(goal.shape.flops(), [&] { products.ours(); });
      int eigen = -1, blas = -1;
      if (compare) eigen = runs.add(goal.shape.flops(), [&] { products.eigen(); });
      if (openblas) blas = runs.add(goal.shape.flops(), [&] { products.by(*openblas); });
      runs.run(goal.shape.flops() < 1e9 ? 60 : 15);
      scorecard::at_least(goal.shape.text() + " " + name_of(o), 100 * runs.ratio(ours, peak), goal.of_peak,
                          "%");
      if (compare) over_eigen.update(runs.ratio(ours, eigen), o);
      if (openblas) over_openblas.update(runs.ratio(ours, blas), o);
    }
    over.push_back({goal.shape, {over_eigen, over_openblas}});
  }
  if (!compare) return 0;
  scorecard::section("The same products, speed over others', worst of the three");
  for (const auto& [shape, worst] : over)
    scorecard::at_least(shape.text() + " over Eigen (" + worst.first.orientation + ")", worst.first.ratio,
                        1.35, "x");
  if (!openblas) std::puts("  libopenblas.so.0 not found: its rows are omitted");
  for (const auto& [shape, worst] : over)
    if (openblas)
      scorecard::at_least(shape.text() + " over OpenBLAS (" + worst.second.orientation + ")",
                          worst.second.ratio, 1, "x");
  return 0;
}
