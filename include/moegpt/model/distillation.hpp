#pragma once
// Distillation (Hinton, Vinyals, Dean 2015): a student learns from the logits of a teacher beside the
// targets. With teacher p = softmax(v / T) and student q = softmax(z / T),
//   loss = (1 - weight) cross_entropy + weight T^2 KL(p || q),   means over the targets that are not ignored
//   const auto soft = soft_targets(teacher, batch, teacher_work, {.temperature = 2, .weight = 0.5});
//   student.forward(batch, work, key, work.objective, soft);
#include <moegpt/model/batch.hpp>
#include <moegpt/routing/objective.hpp>

#include <cmath>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct Distillation {
  double temperature = 1;  // T, above 0; T^2 makes the gradient independent of T's magnitude
  double weight = 0.5;     // 0 .. 1, of the soft loss
};

// The soft targets of a batch: logits [tokens, V] of a teacher, which must live until backward. Without
// logits the loss is the cross-entropy alone.
template <int V, class T>
struct SoftTargets {
  In<V, T> logits{};
  Distillation options{};
  double hard_weight() const { return logits.empty() ? 1 : 1 - options.weight; }
  double soft_weight() const {
    return logits.empty() ? 0 : options.weight * options.temperature * options.temperature;
  }
};

// Throws std::invalid_argument. own: the student's logits.
template <int V, class T>
void check_soft_targets(const SoftTargets<V, T>& soft, Index tokens, const T* own) {
  const auto& [temperature, weight] = soft.options;
  check(temperature > 0 && std::isfinite(temperature), "distillation: the temperature is ", temperature,
        ", expected a finite number above 0");
  check(weight >= 0 && weight <= 1, "distillation: the weight of the soft loss is ", weight,
        ", expected 0 .. 1");
  check(soft.logits.empty() || soft.logits.count == tokens, "distillation: the teacher has logits of ",
        soft.logits.count, " tokens, but the batch has ", tokens, ": forward the same batch");
  check(soft.logits.empty() || soft.logits.data != own,
        "distillation: the teacher's logits are in the workspace of the student, which overwrites them: give "
        "the teacher a workspace of its own");
}

// Forward of a teacher, a model with an LM head and the student's vocabulary, without noise and dropout. Its
// logits stay in `work` until its next forward. Throws what the teacher's forward throws.
template <class Teacher>
SoftTargets<Teacher::V, typename Teacher::Scalar> soft_targets(const Teacher& teacher, const Batch& batch,
                                                               typename Teacher::Workspace& work,
                                                               const Distillation& options) {
  teacher.forward(batch, work, {}, Objective{});
  return {work.tape.head.logits, options};
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
