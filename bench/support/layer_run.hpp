#pragma once
// One layer, forward and backward on random tokens.
#include <moegpt/moegpt.hpp>

#include <array>
#include <memory>

namespace bench {
using namespace moegpt;

template <class L>
class LayerRun {
 public:
  static constexpr int D = L::dim_in;

  LayerRun(Shape shape, int threads) : pass_{.shape = shape, .exec = Exec{.threads = threads}} {
    Rng rng(1);
    walk::each(
        [&](const auto&, const walk::Attributes& attributes, auto& w) {
          const bool one = attributes.start == Start::one;
          for (auto& value : w) value = one ? 1 : static_cast<float>(0.07 * (rng.uniform() - 0.5));
        },
        layer_);
    for (auto& x : x_) {
      x.resize(shape.tokens());
      for (auto& value : x.memory()) value = static_cast<float>(rng.normal());
    }
    y_.resize(shape.tokens());
    dx_.resize(shape.tokens());
    dy_.resize(shape.tokens());
    for (auto& value : dy_.memory()) value = static_cast<float>(1e-3 * rng.normal());
    tape_.resize(pass_);
    scratch_.resize(pass_);
  }
  // Forward and backward, each in a region of threads as in a model. Each call has other tokens, hence other
  // routing.
  void both() {
    at_ = (at_ + 1) % x_.size();
    in_region([&](const Pass& pass) { layer_.forward(x_[at_], y_, tape_, scratch_, pass); });
    in_region([&](const Pass& pass) { layer_.backward(x_[at_], tape_, dy_, dx_, grad_, scratch_, pass); });
  }

 private:
  template <class F>
  void in_region(F&& f) {
    pass_.exec.region([&](const Exec& exec) {
      Pass pass = pass_;
      pass.exec = exec;
      f(pass);
    });
  }
  L layer_, grad_;
  Pass pass_;
  typename L::Tape tape_;
  typename L::Scratch scratch_;
  std::array<Tokens<D, float>, 4> x_;
  Tokens<D, float> y_, dx_, dy_;
  std::size_t at_ = 0;
};

// Forward and backward as a function without template parameters.
template <class L>
std::function<void()> both_ways(Shape shape, int threads) {
  auto run = std::make_shared<LayerRun<L>>(shape, threads);
  return [run] { run->both(); };
}

}  // namespace bench
