#include <moegpt/testing/trunk_probe.hpp>

#include "../model/support.hpp"

namespace {

constexpr Config config{.vocab = 7, .context = 6, .dim = 6, .layers = 2, .heads = 2, .hidden = 5};
using Trunk = Transformer<config, TopKRouter<3, 2>, double>;

}  // namespace

TEST_CASE("the loss of a trunk's probe is the product of its outputs with the fixed dy, without padding") {
  const auto probe = random_model<testing::TrunkProbe<Trunk>>(1);
  Workspace<testing::TrunkProbe<Trunk>> work({2, 4}, {}, {.z = 0.5});
  Batch batch = random_batch({2, 4}, 7, 1);
  batch.lengths = {4, 2};
  const auto loss = probe->forward(batch, work);
  double product = 0;
  for (Index n = 0; n < 8; ++n)
    for (int i = 0; i < 6; ++i) product += work.tape.y[n][i] * work.tape.dy[n][i];
  CHECK(loss.product == Approx(product));
  CHECK(loss.total(work.objective) == Approx(product + 0.5 * loss.z));
  CHECK(loss.z > 0);
  CHECK(work.tape.dy[5][0] != 0);
  CHECK(work.tape.dy[6][0] == 0);
}
