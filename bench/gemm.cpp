// GEMM: per cent of the FMA peak, by shape and orientation, compared with Eigen, OpenBLAS and BLIS. One
// thread.
#include "support/products.hpp"
#include "support/table.hpp"

#include <cstdio>

using namespace bench;

namespace {

void compare(ProductShape shape, const std::optional<Cblas>& openblas, const std::optional<Cblas>& blis) {
  for (const Orientation o : orientations) {
    const auto row = [&](const char* library, std::function<void(Products&)> call) {
      add(name(shape.text(), name_of(o), library), 30, [=](benchmark::State& state) {
        Products products(shape, o);
        measure(state, {.flops = shape.flops()}, [&] { call(products); });
      });
    };
    row("moegpt", [](Products& p) { p.ours(); });
    row("eigen", [](Products& p) { p.eigen(); });
    if (openblas) row("openblas", [&](Products& p) { p.by(*openblas); });
    if (blis) row("blis", [&](Products& p) { p.by(*blis); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto openblas = Cblas::openblas(), blis = Cblas::blis();
  if (!openblas) std::fputs("libopenblas.so.0 not found: its rows are omitted\n", stderr);
  if (!blis) std::fputs("libblis.so.4 not found: its rows are omitted\n", stderr);
  for (const Index M : {1, 16, 32, 64, 128, 256})
    for (const ProductShape s : {ProductShape{M, 512, 128}, {M, 128, 512}, {M, 256, 512}})
      compare(s, openblas, blis);
  compare({256, 3072, 768}, openblas, blis);
  compare({256, 768, 3072}, openblas, blis);
  for (const ProductShape s :
       {ProductShape{512, 768, 768}, {1024, 3072, 768}, {1024, 768, 3072}})  // where BLAS is fastest
    compare(s, openblas, blis);
  return bench::run(argc, argv);
}
