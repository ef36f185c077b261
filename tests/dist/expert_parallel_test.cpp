#include <moegpt/dist/distribution.hpp>
#include <moegpt/dist/expert_parallel.hpp>
#include <moegpt/routing/all_experts.hpp>
#include <moegpt/routing/gshard_router.hpp>
#include <moegpt/routing/hash_router.hpp>
#include <moegpt/routing/hierarchical_router.hpp>
#include <moegpt/routing/input_jitter.hpp>
#include <moegpt/routing/top_p_router.hpp>
#include <moegpt/testing/differences.hpp>

#include "../support/catch.hpp"
#include "../support/kernels.hpp"
#include "../support/numbers.hpp"
#include "../support/routed_pass.hpp"
#include "runs.hpp"
#include "threads.hpp"

namespace {

using namespace moegpt;

constexpr int D = 6;
using Network = Expert<D, 5, Activation::gelu, double, true>;

// Four sequences of five tokens. Lengths 5, 3, 0, 4: the third is padding.
struct Case {
  std::vector<double> x, dy;
  std::vector<int> ids;
  std::vector<Index> lengths{5, 3, 0, 4};
  const bool* allowed = nullptr;
  double dropout = 0.3;

  Case() : x(20 * D), dy(20 * D), ids(20) {
    Rng rng(5);
    for (double& v : x) v = rng.normal();
    for (double& v : dy) v = rng.normal();
    for (int& id : ids) id = static_cast<int>(rng.below(9));
  }
  // Part `rank` of `ranks`.
  RoutedPass pass(int rank, int ranks, const Ranks* of) const {
    const Index batch = 4 / ranks;
    return {{.shape = {batch, 5},
             .dropout = dropout,
             .key = Key{11},
             .first_token = rank * batch * 5,
             .lengths = lengths.data() + rank * batch},
            {.ids = ids.data() + rank * batch * 5, .allowed = allowed, .ranks = of}};
  }
};

template <class Layer>
struct Outcome {
  std::vector<double> y, dx;
  Layer grad{};
  typename Layer::Tape tape;
};

template <class Layer>
Outcome<Layer> outcome(const Layer& layer, const Case& of, int rank, int ranks, const Ranks* exchange) {
  Outcome<Layer> o;
  const RoutedPass pass = of.pass(rank, ranks, exchange);
  const Index n = pass.tokens(), from = rank * n * D;
  o.y.resize(static_cast<std::size_t>(n * D)), o.dx = o.y;
  typename Layer::Scratch scratch;
  o.tape.resize(pass), scratch.resize(pass);
  const In<D, double> x{of.x.data() + from, n}, dy{of.dy.data() + from, n};
  for (int repeat = 0; repeat < 2; ++repeat) {  // memory that was used before changes nothing
    layer.forward(x, Out<D, double>{o.y.data(), n}, o.tape, scratch, pass);
    set_zero(o.grad);
    layer.backward(x, o.tape, dy, Out<D, double>{o.dx.data(), n}, o.grad, scratch, pass);
  }
  return o;
}

bool same(const double* a, const double* b, Index n) { return same_bits(a, b, n); }

// Outputs, dx and experts' gradients on P ranks, which share the experts, have the bits of one process.
template <Router Recipe>
void has_bits_of_one_process(const Case& of) {
  using One = MoELayer<Recipe, Network>;
  using Parts = ExpertParallelLayer<Recipe, Network>;
  One whole;
  Rng rng(2);
  for_each_weight(
      [&](auto& w) {
        for (double& v : w) v = 0.5 * rng.normal();
      },
      whole);
  const Outcome<One> one = outcome(whole, of, 0, 1, nullptr);
  for (const int P : {1, 2, 4}) {
    std::mutex mutex;  // of checks
    on_ranks(P, [&](ThreadCommunicator& world) {
      Distribution<ThreadCommunicator> ranks(world, P);
      Parts layer;
      layer.layer = whole;
      for (int e = 0; e < Parts::E; ++e)
        if (!ranks.holds(e, Parts::E))
          for_each_weight([](auto& w) { w.release(); }, layer.layer.experts[static_cast<std::size_t>(e)]);
      const Outcome<Parts> part = outcome(layer, of, world.rank(), P, &ranks.of_batch());
      const Index from = world.rank() * std::ssize(part.y);
      const std::scoped_lock lock(mutex);
      INFO(router_text<Recipe>() << " on rank " << world.rank() << " of " << P);
      CHECK(same(part.y.data(), one.y.data() + from, std::ssize(part.y)));
      CHECK(same(part.dx.data(), one.dx.data() + from, std::ssize(part.dx)));
      for (int e = 0; e < Parts::E; ++e) {
        const auto at = static_cast<std::size_t>(e);
        for_each_weight(
            [&](const auto& g, const auto& expected) {
              const bool here = ranks.holds(e, Parts::E);
              CHECK(g.touched == (here && expected.touched));
              CHECK(same(g.data(), here ? expected.data() : Buffer<double>(g.size()).data(), g.size()));
            },
            part.grad.layer.experts[at], one.grad.experts[at]);
      }
    });
  }
}

}  // namespace

TEST_CASE("experts on other ranks compute the bits of one process, under every rule of tokens") {
  const Case of;
  has_bits_of_one_process<TopKRouter<4, 2>>(of);
  has_bits_of_one_process<TopPRouter<4, 3>>(of);
  has_bits_of_one_process<HashRouter<4>>(of);
  has_bits_of_one_process<AllExperts<4>>(of);
  has_bits_of_one_process<GShardRouter<4>>(of);
  has_bits_of_one_process<InputJitter<TopKRouter<4, 1>>>(of);
  has_bits_of_one_process<HierarchicalRouter<TopKRouter<2, 1>, TopKRouter<2, 2>>>(of);
}

TEST_CASE("experts on other ranks may get every token, or none") {
  Case of;
  std::fill(of.ids.begin(), of.ids.end(), 3);
  has_bits_of_one_process<HashRouter<4>>(of);
  const bool one[4] = {false, false, true, false};
  of.allowed = one, of.dropout = 0;
  has_bits_of_one_process<TopKRouter<4, 2>>(of);
  of.lengths = {0, 0, 0, 0};
  has_bits_of_one_process<TopKRouter<4, 2>>(of);
}

TEST_CASE("a layer with uniform loads sends the bytes of the formula") {
  Case of;
  of.lengths = {5, 5, 5, 5}, of.dropout = 0;
  using Layer = ExpertParallelLayer<AllExperts<4>, Network>;
  for (const int P : {2, 4}) {
    std::mutex mutex;
    on_ranks(P, [&](const ThreadCommunicator& communicator) {
      runs::AnyCommunicator world(communicator);
      Distribution<runs::AnyCommunicator> ranks(world, P);
      const auto layer = std::make_unique<Layer>();
      const Index before = world.bytes();
      outcome(*layer, of, world.rank(), P, &ranks.of_batch());  // forward and backward, twice
      const Index T = 20 / P, k = 4, E = 4, b = sizeof(double);
      const Index rows = (4 * D + 2) * k * b * T * (P - 1) / P;
      const Index loads = E * 8 * (P - 1) / P, sums = (4 * E + 1) * 8 * (P - 1);
      const std::scoped_lock lock(mutex);
      CHECK(world.bytes() - before == 2 * (rows + loads + sums));
    });
  }
}

TEST_CASE("a number of ranks that does not divide the number of experts is rejected") {
  const Case of;
  const auto layer = std::make_unique<ExpertParallelLayer<TopKRouter<6, 2>, Network>>();
  const auto refused = [&] {
    on_ranks(4, [&](ThreadCommunicator& world) {
      Distribution<ThreadCommunicator> ranks(world, 4);
      outcome(*layer, of, world.rank(), 4, &ranks.of_batch());
    });
  };
  CHECK(refusal(refused).find("4 ranks cannot share 6 experts") != std::string::npos);
}

TEST_CASE("the type of an expert-parallel model in files is that of its router") {
  CHECK(router_text<ExpertParallel<TopKRouter<4, 2>>>() == "TopKRouter<4, 2>");
}
