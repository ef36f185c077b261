#pragma once
// One training run of a language model for an experiment: its losses, weights, FLOPs and CPU seconds. A run
// has one thread; its losses are the same bits on the same processor for any load.
#include <moegpt/moegpt.hpp>
#include <moegpt/run/peak.hpp>

#include <memory>

#include "sweep.hpp"

namespace bench {
using namespace moegpt;

struct Texts {
  std::vector<int> train, val, other{};  // other: of another text; may be empty
};

struct TrainingPlan {
  Shape batch{16, 64};
  long steps = 2000;
  double learning_rate = 3e-3, final_rate = 0;
  int warmup = 100;
  double weight_decay = 0.1, beta2 = 0.95, dropout = 0, expert_dropout = 0, balance = 0.01;
  double mean_decay = 0;    // of a moving mean of the weights, whose loss is recorded, too; 0: none
  Index evaluated = 16384;  // tokens of an evaluation within the run
  int evaluations = 16;
};

// FLOPs of a run, as model_flops.
template <class Model>
double flops_of(const TrainingPlan& plan) {
  static const auto model = std::make_unique<Model>();
  return model_flops(*model, plan.batch) * static_cast<double>(plan.steps);
}

template <class Model>
Record train(const Texts& texts, const TrainingPlan& plan, std::uint64_t seed_number, const Progress& show) {
  const Key seed{seed_number};
  const Exec exec{.threads = 1};
  auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  init(*model, seed, Init::gpt2);
  std::unique_ptr<Model> mean;
  if (plan.mean_decay > 0) mean = std::make_unique<Model>(*model);
  Adam<Model> adam{{.beta2 = plan.beta2, .weight_decay = plan.weight_decay, .decay_of = DecayOf::matrices}};
  Objective objective{.dropout = plan.dropout};
  if constexpr (Model::has_experts) objective.balance = plan.balance;
  if (plan.expert_dropout > 0) objective.expert_dropout = plan.expert_dropout;
  typename Model::Workspace work{plan.batch, exec, objective};
  typename Model::Workspace evaluation{
      {8, std::min<Index>(Model::config.context, 256)}, exec, Objective{}, Use::inference};
  const WarmupCosine schedule{.peak = plan.learning_rate,
                              .minimum = plan.final_rate,
                              .warmup = std::min<long>(plan.warmup, plan.steps / 10),
                              .steps = plan.steps};
  const TokenView val(texts.val);
  const TokenView part = val.part(0, std::min<Index>(val.size(), plan.evaluated));
  Batch batch{plan.batch};
  Record curve = Record::array();
  double seconds = 0, last = 0;  // last: mean loss of the last twentieth
  const long tail = std::max(1L, plan.steps / 20), every = std::max(1L, plan.steps / plan.evaluations);
  double shown = NAN;
  for (long step = 0; step < plan.steps; ++step) {
    const double begin = cpu_seconds();
    const auto number = static_cast<std::uint64_t>(step);
    sample_batch(texts.train, batch, seed.with(Purpose::batch, number));
    const Loss loss = model->forward(batch, work, seed.with(Purpose::step, number));
    set_zero(*grad, exec);
    model->backward(batch, work, *grad);
    adam.options.learning_rate = schedule(step);
    adam.step(*model, *grad, exec, clip_scale(global_norm(*grad, exec), 1));
    if (mean) {
      const double rest =
          std::min(plan.mean_decay, (static_cast<double>(step) + 1) / (static_cast<double>(step) + 10));
      for_each_weight(
          [&](auto& m, const auto& w) {
            for (Index i = 0; i < m.size(); ++i)
              m.data()[i] += static_cast<float>(1 - rest) * (w.data()[i] - m.data()[i]);
          },
          *mean, *model);
    }
    seconds += cpu_seconds() - begin;
    if (step >= plan.steps - tail) last += loss.cross_entropy / static_cast<double>(tail);
    shown = std::isnan(shown) ? loss.cross_entropy : 0.98 * shown + 0.02 * loss.cross_entropy;
    if (step % 20 == 0) show(static_cast<double>(step) / static_cast<double>(plan.steps), shown);
    if ((step + 1) % every == 0)
      curve.push_back({step + 1, std::round(100 * seconds) / 100, evaluate(*model, part, evaluation)});
  }
  Record record{{"weights", count_weights(*model)},
                {"active", model->active_weights()},
                {"flops", model_flops(*model, plan.batch) * static_cast<double>(plan.steps)},
                {"seconds", std::round(100 * seconds) / 100},
                {"train", last},
                {"val", evaluate(*model, val, evaluation)}};
  if (mean) record["val_mean"] = evaluate(*mean, val, evaluation);
  if (!texts.other.empty()) record["other"] = evaluate(*model, texts.other, evaluation);
  record["curve"] = curve;
  return record;
}

}  // namespace bench
