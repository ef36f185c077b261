#pragma once
// Multi-task learning: one Transformer, a classification head for each task.
//   loss = sum over the tasks that have labels in the batch of weight_t cross_entropy_t, and router losses
// A batch of one task samples a task in each step; labels of several tasks sum their losses. A task selects
// its experts by TaskBatch::allowed, or has a mask of its own in a Masked router. Heads have Kind::sparse:
// Adam skips the head of a task without labels.
#include <moegpt/model/batch_pass.hpp>
#include <moegpt/model/class_head.hpp>
#include <moegpt/model/mixture_check.hpp>
#include <moegpt/routing/allowed_experts.hpp>

#include <tuple>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct TaskBatch : Batch {
  // [tasks] labels of each task, as Batch::targets of a Classifier; empty: this batch has none. `targets` is
  // not used.
  std::vector<std::vector<int>> labels{};
  std::vector<double> weights{};  // [tasks] of the cross-entropies; empty: 1
  // Task id of Masked routers; none: of the task with labels, or of the workspace if several have labels.
  std::optional<int> task{};
  const bool* allowed = nullptr;  // [experts] allowed experts; null: those of the workspace
};

// cross_entropy is the weighted sum over tasks; targets and correct are sums.
template <int Tasks>
struct MultiTaskLoss : ClassLoss {
  std::array<ClassLoss, Tasks> of_task{};  // router losses only of heads with MoE layers
};

// List of elements of several types, such as the heads of the tasks, their tapes and scratch.
template <class First, class... Rest>
struct TaskList {
  using value_type = First;
  static constexpr int size() { return 1 + static_cast<int>(sizeof...(Rest)); }

  std::tuple<First, Rest...> all;

  // f(element, other element ...) of one task; others: lists of as many elements.
  template <class F, class... Others>
  void at_layer(int task, F&& f, Others&... others) {
    dispatch(*this, task, f, others...);
  }
  template <class F, class... Others>
  void at_layer(int task, F&& f, Others&... others) const {
    dispatch(*this, task, f, others...);
  }

 private:
  template <int at = 0, class Self, class F, class... Others>
  static void dispatch(Self& self, int task, F& f, Others&... others) {
    if (task == at)
      f(std::get<at>(self.all), std::get<at>(others.all)...);
    else if constexpr (at + 1 < size())
      dispatch<at + 1>(self, task, f, others...);
  }
};

// Heads: ClassHead<C.dim, classes, pooling>, one for each task, with the numbers of the first one.
template <Config C, class Recipe, class FirstHead, class... Heads>
struct MultiTask {
  static_assert(make_a_mixture<C, Recipe, typename FirstHead::Numbers>());
  using N = typename FirstHead::Numbers;
  static_assert(FirstHead::dim == C.dim && ((Heads::dim == C.dim) && ...),
                "MultiTask: the heads must have the width of the trunk, Config::dim");
  static_assert((std::is_same_v<typename Heads::Numbers, N> && ...),
                "MultiTask: the heads must have one type of numbers");
  static_assert(C.mask == Mask::full ||
                    (FirstHead::pooling != Pooling::first && ((Heads::pooling != Pooling::first) && ...)),
                "MultiTask: under a causal mask the first token sees no other: take Pooling::last, or a "
                "config with Mask::full");
  using T = ScalarOf<N>;
  using Scalar = T;
  using RouterRecipe = Recipe;
  using Trunk = Transformer<C, Recipe, N>;
  using Workspace = moegpt::Workspace<MultiTask>;
  static constexpr Config config = C;
  static constexpr std::string_view type_name = "MultiTask";  // in the text of its type
  static constexpr int D = C.dim, tasks = 1 + static_cast<int>(sizeof...(Heads));
  static constexpr bool has_experts = Trunk::has_experts;
  using Loss = MultiTaskLoss<tasks>;

  Trunk trunk;
  TaskList<FirstHead, Heads...> heads;
  ModelOptions options;

  static constexpr auto fields() {
    return Fields{Field{"", &MultiTask::trunk}, Field{"heads", &MultiTask::heads, Kind::sparse}};
  }
  struct Tape {
    typename Trunk::Tape trunk;
    Tokens<D, T> normed;  // [tokens, D] output of the trunk
    TaskList<typename FirstHead::Tape, typename Heads::Tape...> heads;
    std::array<double, tasks> weight{};  // of the cross-entropies of the last forward
    std::array<bool, tasks> used{};      // tasks with labels in it
    void resize(const Pass& pass, Use use) {
      trunk.resize(pass, use);
      normed.resize(pass);
      for (int i = 0; i < tasks; ++i) heads.at_layer(i, [&](auto& head) { head.resize(pass); });
    }
  };
  struct Scratch {
    typename Trunk::Scratch trunk;
    Tokens<D, T> d_normed, d_one;  // of all heads, and of one
    TaskList<typename FirstHead::Scratch, typename Heads::Scratch...> heads;
    void resize(const Pass& pass, Use use) {
      trunk.resize(pass, use);
      for (int i = 0; i < tasks; ++i) heads.at_layer(i, [&](auto& head) { head.resize(pass, use); });
      if (use == Use::training) resize_all(pass, d_normed, d_one);
    }
  };

  // Losses of the tasks that have labels, and of the routers. Logits are in work.tape.heads.
  // key: RNG key of noise and dropout; none: evaluation. Throws as GPT::forward.
  Loss forward(const TaskBatch& batch, Workspace& work, std::optional<Key> key = {}) const {
    return forward(batch, work, key, work.objective);
  }
  // The same with another objective than the workspace's.
  Loss forward(const TaskBatch& batch, Workspace& work, std::optional<Key> key,
               const Objective& objective) const {
    check_batch(batch);
    Tape& tape = work.tape;
    Pass pass = prepare_batch(trunk, batch, options, key, work, objective);
    RoutingContext& routing = work.last.routing;
    routing.task = batch.task.value_or(only_task(batch).value_or(work.task));
    if (batch.allowed) routing.allowed = batch.allowed;
    pass.routing = &routing;
    for (int i = 0; i < tasks; ++i) {
      const auto task = static_cast<std::size_t>(i);
      tape.used[task] = !batch.labels[task].empty();
      tape.weight[task] = batch.weights.empty() ? 1 : batch.weights[task];
    }
    tape.normed.resize(pass);
    Loss loss;
    work.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      static_cast<RouterLosses<double>&>(loss) =
          trunk.forward(batch.inputs, tape.normed, tape.trunk, work.scratch.trunk, pass);
      for_each_used(tape, [&](int i, std::size_t task) {
        ClassLoss& one = loss.of_task[task];
        const auto run = [&](const auto& head, auto& head_tape, auto& scratch) {
          head.forward(tape.normed, batch.labels[task], head_tape, scratch, pass.at_layer(C.layers + i), one);
        };
        heads.at_layer(i, run, tape.heads, work.scratch.heads);
        add_losses(one, loss);
        loss.cross_entropy += tape.weight[task] * one.cross_entropy;
        loss.targets += one.targets, loss.correct += one.correct;
      });
    });
    const double total = loss.total(objective);
    if (!std::isfinite(total)) not_finite("loss", total, first_not_finite(*this));
    work.last.complete = true;
    return loss;
  }

  // grad += d(weight * loss.total(objective)) of the last forward of `work`. Throws as GPT::backward.
  void backward(const TaskBatch& batch, Workspace& work, MultiTask& grad, double weight = 1) const {
    check_trains<N>();
    RoutingContext routing;
    Pass pass = pass_of_backward(batch, work, routing, weight);
    const Tape& tape = work.tape;
    Scratch& scratch = work.scratch;
    resize_all(pass, scratch.d_normed, scratch.d_one);
    scratch.d_normed.memory().fill(0);
    work.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      for_each_used(tape, [&](int i, std::size_t task) {
        const auto run = [&](const auto& head, const auto& head_tape, auto& head_grad, auto& head_scratch) {
          head.backward(tape.normed, head_tape, scratch.d_one, head_grad, head_scratch,
                        pass.at_layer(C.layers + i), weight * tape.weight[task]);
          for_each_weight_of_kind([](Kind kind, auto& w) { w.touched = w.touched || kind != Kind::sparse; },
                                  head_grad);
        };
        heads.at_layer(i, run, tape.heads, grad.heads, scratch.heads);
        kernels::add<T>(exec, scratch.d_normed.view(), scratch.d_one.view(), scratch.d_normed.view());
      });
      trunk.backward(batch.inputs, tape.trunk, scratch.d_normed, grad.trunk, scratch.trunk, pass);
    });
  }

 private:
  static void check_batch(const TaskBatch& batch) {
    check(batch.targets.empty(), "the batch has ", batch.targets.size(),
          " targets, which MultiTask does not use: set labels[task]");
    check(std::ssize(batch.labels) == tasks, "the batch has labels of ", batch.labels.size(),
          " tasks, but the model has ", tasks, ": one list each, empty if the batch has none");
    check(batch.weights.empty() || std::ssize(batch.weights) == tasks, "the batch has ", batch.weights.size(),
          " weights of tasks, but the model has ", tasks, ": one each, or none");
    for (const double w : batch.weights)
      check(w >= 0 && std::isfinite(w), "the weight of a task is ", w,
            ", expected a finite number, 0 or more");
    if constexpr (has_experts) check_allowed<Recipe>(batch.allowed);
    check_labels<FirstHead, Heads...>(batch, 0);
  }
  template <class Head, class... Others>
  static void check_labels(const TaskBatch& batch, std::size_t task) {
    Head::check_labels(batch.labels[task], batch.shape);
    if constexpr (sizeof...(Others) > 0) check_labels<Others...>(batch, task + 1);
  }
  // The task that alone has labels, if there is one.
  static std::optional<int> only_task(const TaskBatch& batch) {
    std::optional<int> found;
    for (int i = 0; i < tasks; ++i) {
      if (batch.labels[static_cast<std::size_t>(i)].empty()) continue;
      if (found) return {};
      found = i;
    }
    return found;
  }
  template <class F>
  static void for_each_used(const Tape& tape, F&& f) {
    for (int i = 0; i < tasks; ++i)
      if (const auto task = static_cast<std::size_t>(i); tape.used[task]) f(i, task);
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
