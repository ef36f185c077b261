#pragma once
// Workspace: the memory of a model's passes over batches of one shape, all of it taken when it is made. Nothing
// in a later step allocates. The tape is public: work.tape.blocks holds every intermediate by name.
#include <moegpt/moe/routing_context.hpp>

namespace moegpt::inline MOEGPT_BUILD {

enum class Use {
  training,    // one tape for every layer, and what backward needs
  inference,   // one tape for all dense layers and one for all mixtures: forward only
};

inline constexpr Index most_tokens = Index{1} << 31;   // of a batch

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
    check(shape.batch <= most_tokens / shape.length, "a workspace for ", shape.batch, " sequences of ", shape.length,
          " tokens was asked for: at most ", most_tokens, " tokens are possible");
    check_objective(objective, Model::config.layers);
    check(exec.threads >= 1, "Exec has ", exec.threads, " threads: at least 1 is needed");
    exec.check_threads();
    // as if the model already remembered all it can, so that no later call needs more
    const RoutingContext routing{.objective = objective};
    const Pass pass{.shape = shape, .exec = exec, .first_position = Model::config.context - shape.length,
                    .routing = &routing};
    tape.resize(pass, use);
    scratch.resize(pass, use);
  }
};

// What looks at a forward needs one that has returned: before it, or after one that threw, the tape holds parts of
// several batches.
template <class Model>
void check_forward(const Workspace<Model>& work, const char* what) {
  check(work.tape.complete, what, ": no forward of this workspace has returned since it was made or since one failed: "
        "call forward first");
}

}  // namespace moegpt::inline MOEGPT_BUILD
