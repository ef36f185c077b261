#pragma once
// Workspace: memory of a model's forward and backward for batches up to one shape. The constructor allocates
// all of it; later steps do not allocate. The tape is public; work.tape.trunk.blocks has named intermediates.
#include <moegpt/routing/routing_context.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Use {
  training,    // a tape per layer, and the scratch of backward
  inspection,  // a tape per layer, forward only: intermediates and routing can be read
  inference,   // one tape for all dense blocks and one for all MoE blocks, forward only
};

inline constexpr Index most_tokens = Index{1} << 31;  // maximum in a batch

// Call context of a workspace's last forward, for backward and inspection.
struct LastForward {
  Pass pass;  // without its routing context; see with_routing
  RoutingContext routing;
  Buffer<Index> lengths, first_positions;  // [batch] copies of those of the pass, if it has any
  const int* targets = nullptr;            // [tokens] of its batch; null after logits
  bool complete = false;                   // whether the forward has returned; see check_forward

  void resize(const Pass& most) {
    for (auto* b : {&lengths, &first_positions}) b->resize(most.tokens());  // batch <= tokens
  }
  // Copies the pass, its lengths and first positions. Other arrays it points to are not copied.
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

// Model: GPT, Transformer, or another type with `config` and a Tape and a Scratch with resize(pass, use).
template <class Model>
struct Workspace {
  Shape shape;  // maximum shape of a batch
  Exec exec;
  Objective objective;
  Use use = Use::training;
  const bool* allowed = nullptr;  // [experts] allowed experts; null: all
  Index allowed_stride = 0;       // number of experts: allowed [layers, experts] (ExpertMask)
  int task = 0;                   // task id of Masked routers
  const Ranks* ranks = nullptr;   // that have the other parts of each batch; null: none
  LastForward last{};
  typename Model::Tape tape;
  typename Model::Scratch scratch;

  Workspace(Workspace&&) = default;  // no copy: last.pass points to last.lengths
  Workspace& operator=(Workspace&&) = default;

  // std::invalid_argument for a shape that is empty or exceeds the context or most_tokens, for an objective
  // out of range and for an invalid number of threads.
  // memory_length: maximum tokens of the memory that the model reads, for each sequence.
  explicit Workspace(Shape shape_, Exec exec_ = {}, Objective objective_ = {}, Use use_ = Use::training,
                     Index memory_length = 0)
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
    // as with a full key/value cache, which needs the most memory
    const RoutingContext routing{.objective = objective};
    const Pass pass{.shape = shape,
                    .exec = exec,
                    .first_position = Model::config.context - shape.length,
                    .memory_length = memory_length,
                    .routing = &routing};
    last.resize(pass);
    tape.resize(pass, use);
    scratch.resize(pass, use);
  }
};

// std::invalid_argument unless the last forward has returned. One that threw leaves two batches on the tape.
template <class Model>
void check_forward(const Workspace<Model>& work, const char* what) {
  check(work.last.complete, what,
        ": no forward of this workspace has returned since it was made or since one "
        "failed: call forward first");
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
