#pragma once
// Workspace: the memory of a model's passes over batches of one shape, all of it taken when it is made.
// Nothing in a later step allocates. The tape is public: work.tape.trunk.blocks holds every intermediate by
// name.
#include <moegpt/routing/routing_context.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Use {
  training,    // one tape for each layer, and what backward needs
  inspection,  // one tape for each layer: forward only, and its intermediates and routing can be read
  inference,   // one tape for all dense layers and one for all mixtures: forward only
};

inline constexpr Index most_tokens = Index{1} << 31;  // of a batch

// What the last forward of a workspace was: backward and inspection need it beside the tape.
struct LastForward {
  Pass pass;  // without its routing context; see with_routing
  RoutingContext routing;
  Buffer<Index> lengths, first_positions;  // [batch] those of the pass, if it has any
  const int* targets = nullptr;            // of its batch; null after logits
  bool complete = false;                   // whether it has returned; see check_forward

  void resize(const Pass& most) {
    for (auto* b : {&lengths, &first_positions}) b->resize(most.tokens());  // there are no more sequences
  }
  // Copies the pass and its lengths and first positions; the other arrays that it points to must live on.
  void keep(const Pass& of) {
    complete = false, targets = nullptr;
    pass = of;
    pass.routing = nullptr;
    pass.lengths = copied(of.lengths, of.shape.batch, lengths);
    pass.first_positions = copied(of.first_positions, of.shape.batch, first_positions);
  }
  Pass with_routing(const RoutingContext& context) const {
    Pass whole = pass;
    whole.routing = &context;
    return whole;
  }

 private:
  static const Index* copied(const Index* from, Index count, Buffer<Index>& to) {
    if (!from) return nullptr;
    to.resize(count);
    std::copy_n(from, count, to.begin());
    return to.data();
  }
};

// Memory of a Model: a GPT, a Transformer, or another one with `config` and a Tape and a Scratch that have
// resize(pass, use).
template <class Model>
struct Workspace {
  Shape shape;  // the largest batch it has memory for
  Exec exec;
  Objective objective;
  Use use = Use::training;
  const bool* allowed = nullptr;  // [experts] that may be chosen; null: all
  int task = 0;                   // which of a masked router's tasks this is
  LastForward last{};
  typename Model::Tape tape;
  typename Model::Scratch scratch;

  Workspace(Workspace&&) = default;  // not copied: last.pass points to the lengths beside it
  Workspace& operator=(Workspace&&) = default;

  explicit Workspace(Shape shape_, Exec exec_ = {}, Objective objective_ = {}, Use use_ = Use::training)
      : shape(shape_), exec(exec_), objective(objective_), use(use_) {
    check(shape.batch > 0 && shape.length > 0, "a workspace for ", shape.batch, " sequences of ",
          shape.length, " tokens was asked for: both must be at least 1");
    check(shape.length <= Model::config.context, "a workspace for ", shape.length,
          " tokens per sequence was asked for, but the model's context is ", Model::config.context);
    check(shape.batch <= most_tokens / shape.length, "a workspace for ", shape.batch, " sequences of ",
          shape.length, " tokens was asked for: at most ", most_tokens, " tokens are possible");
    check_objective(objective, Model::config.layers);
    check(exec.threads >= 1, "Exec has ", exec.threads, " threads: at least 1 is needed");
    exec.check_threads();
    // as if the model already remembered all it can, so that no later call needs more
    const RoutingContext routing{.objective = objective};
    const Pass pass{.shape = shape,
                    .exec = exec,
                    .first_position = Model::config.context - shape.length,
                    .routing = &routing};
    last.resize(pass);
    tape.resize(pass, use);
    scratch.resize(pass, use);
  }
};

// What looks at a forward needs one that has returned: before it, or after one that threw, the tape holds
// parts of several batches.
template <class Model>
void check_forward(const Workspace<Model>& work, const char* what) {
  check(work.last.complete, what,
        ": no forward of this workspace has returned since it was made or since one "
        "failed: call forward first");
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
