#pragma once
// Workspace: the memory of a model's passes over batches of one shape, all of it taken when it is made. Nothing
// in a later step allocates. The tape is public: work.tape.blocks holds every intermediate by name.
#include <moegpt/layers/pass.hpp>

namespace moegpt::inline MOEGPT_BUILD {

enum class Use {
  training,    // one tape for every layer, and what backward needs
  inference,   // one tape that all layers share: forward only
};

template <class Model>
struct Workspace {
  Shape shape;                        // the largest batch it has memory for
  Exec exec;
  Objective objective;
  Use use = Use::training;
  const bool* allowed = nullptr;      // [experts] that may be chosen; null: all
  int task = 0;                       // which of a masked router's tasks this is
  typename Model::Tape tape;
  typename Model::Scratch scratch;

  Workspace(Workspace&&) = default;   // not copied: the tape's pass points into the tape
  Workspace& operator=(Workspace&&) = default;

  explicit Workspace(Shape shape_, Exec exec_ = {}, Objective objective_ = {}, Use use_ = Use::training)
      : shape(shape_), exec(exec_), objective(objective_), use(use_) {
    check(shape.batch > 0 && shape.length > 0, "a workspace for ", shape.batch, " sequences of ", shape.length,
          " tokens was asked for: both must be at least 1");
    check(shape.length <= Model::config.context, "a workspace for ", shape.length,
          " tokens per sequence was asked for, but the model's context is ", Model::config.context);
    check(objective.dropout >= 0 && objective.dropout < 1, "the objective's dropout is ", objective.dropout,
          ": it must be at least 0 and below 1");
    const double expert_dropout = objective.expert_dropout.value_or(0);
    check(expert_dropout >= 0 && expert_dropout < 1, "the objective's expert_dropout is ", expert_dropout,
          ": it must be at least 0 and below 1");
    check(exec.threads >= 1, "Exec has ", exec.threads, " threads: at least 1 is needed");
    // as if the model already remembered all it can, so that no later call needs more
    const Pass pass{.shape = shape, .exec = exec, .objective = objective,
                    .first_position = Model::config.context - shape.length};
    tape.resize(pass, use);
    scratch.resize(pass, use);
  }
};

}  // namespace moegpt::inline MOEGPT_BUILD
