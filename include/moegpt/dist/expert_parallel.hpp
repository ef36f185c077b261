#pragma once
// Expert parallelism: an MoE layer whose experts are distributed over ranks, without dropping. Each rank
// routes its own tokens; rows of tokens go to the rank that has the expert, and outputs come back:
//   route; exchange counts and x; experts; exchange outputs; combine        (forward)
//   exchange g and dy; experts backward; exchange dx and dg; route backward (backward)
// An expert has its tokens in the order of their global numbers, as in a single process, so its arithmetic
// and its gradient are those of one process with the whole batch.
#include <moegpt/moe/moe_layer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// The slots that a rank receives for the experts it has. They arrive in the order (member, expert, token),
// and are processed in the order (expert, member, token), which is the order of slots.
struct ReceivedSlots {
  int first = 0, held = 0;                  // this rank has experts [first, first + held)
  Buffer<Index> send_count, receive_count;  // [members] slots
  Buffer<Index> sent, received;             // [experts], [members, held] slots of each expert
  Buffer<Index> offset;                     // [held + 1]
  Buffer<Index> arrival;                    // [slots] the place of slot s among arrivals
  Buffer<Index> number;                     // [arrivals] number of the dropout mask
  Buffer<Index> token;                      // [slots] for ExpertSlots: number / choices
  Buffer<int> choice;                       // [slots] number % choices

  Index count() const { return offset[held]; }

  // Exchanges the loads [experts] of a plan.
  [[gnu::noinline]] void exchange(const Ranks& ranks, const Index* plan_offset, int experts) {
    const int members = ranks.members;
    held = experts / members, first = ranks.member * held;
    for (Buffer<Index>* list : {&send_count, &receive_count}) list->resize(members);
    for (Buffer<Index>* list : {&sent, &received}) list->resize(experts);
    for (int e = 0; e < experts; ++e) sent[e] = plan_offset[e + 1] - plan_offset[e];
    send_count.fill(held);
    ranks.exchange(ranks.object, sent.data(), send_count.data(), received.data(), send_count.data(),
                   sizeof(Index));
    offset.resize(held + 1);
    offset.fill(0);
    for (int m = 0; m < members; ++m) {
      send_count[m] = plan_offset[(m + 1) * held] - plan_offset[m * held];
      receive_count[m] = 0;
      for (int e = 0; e < held; ++e) {
        receive_count[m] += received[m * held + e];
        offset[e + 1] += received[m * held + e];
      }
    }
    for (int e = 0; e < held; ++e) offset[e + 1] += offset[e];
    arrival.resize(count());
    Index at = 0;
    for (int m = 0; m < members; ++m)
      for (int e = 0; e < held; ++e) {
        Index s = offset[e];
        for (int before = 0; before < m; ++before) s += received[before * held + e];
        for (Index i = 0; i < received[m * held + e]; ++i) arrival[s + i] = at++;
      }
  }
  // Rows of slots to the ranks of their experts: `rows` in the order of the plan's slots.
  void send(const Ranks& ranks, const void* rows, void* arrivals, Index row_bytes) const {
    ranks.exchange(ranks.object, rows, send_count.data(), arrivals, receive_count.data(), row_bytes);
  }
  // And back.
  void reply(const Ranks& ranks, const void* arrivals, void* rows, Index row_bytes) const {
    ranks.exchange(ranks.object, arrivals, receive_count.data(), rows, send_count.data(), row_bytes);
  }
};

template <Router Recipe, ExpertNetwork ExpertType>
struct ExpertParallelLayer {
  using Layer = MoELayer<Recipe, ExpertType>;
  using Scalar = typename Layer::Scalar;
  using T = Scalar;
  static constexpr int D = Layer::D, DOut = Layer::DOut, E = Layer::E, dim_in = D, dim_out = DOut;
  static constexpr bool causal = Layer::causal, exchanges_experts = true;
  static constexpr DropRule drop = Layer::drop;
  static constexpr std::string_view name = Layer::name;

  Layer layer;

  static constexpr auto fields() { return Fields{Field{"", &ExpertParallelLayer::layer}}; }
  struct Tape : Layer::Tape {
    ReceivedSlots slots;
    Buffer<T> x;  // [arrivals, D]
  };
  struct Scratch : Layer::Scratch {
    Buffer<T> rows, arrivals;      // of an exchange
    Tokens<DOut, T> received;      // [received slots] outputs, then d_output
    Tokens<D, T> d_received;       // [received slots]
    Buffer<T> gate, d_gate_there;  // [received slots]
    Buffer<Index> number;          // [slots]
  };

  void forward(In<D, T> x, Out<DOut, T> y, Tape& tape, Scratch& scratch, const Pass& pass) const {
    const Ranks* ranks = exchanging(pass);
    if (!ranks) return layer.forward(x, y, tape, scratch, pass);
    pass.check_fits(x.count, y.count);
    layer.route(x, tape, pass);
    tape.slots.exchange(*ranks, tape.plan.offset.data(), E);
    const ReceivedSlots& slots = tape.slots;
    const Index sent = tape.plan.slot_count();

    scratch.rows.resize(sent * D);
    kernels::gather<T>(x, tape.plan.token.data(), Out<D, T>{scratch.rows.data(), sent});
    tape.x.resize(slots.count() * D);
    slots.send(*ranks, scratch.rows.data(), tape.x.data(), sizeof(T) * D);
    const double dropout = applied_expert_dropout(pass);
    if (dropout > 0) number_slots(tape, scratch, *ranks, pass);

    tape.expert.resize(slots.count());
    scratch.experts.resize(slots.held, slots.count());
    scratch.received.resize(slots.count());
    held_experts(slots).forward(at_slots(tape), layout(tape, dropout), scratch.received, tape.expert,
                                scratch.experts, numbered(pass), expert_dropout(dropout, pass));
    scratch.arrivals.resize(slots.count() * DOut);
    for (Index s = 0; s < slots.count(); ++s)
      std::memcpy(scratch.arrivals.data() + slots.arrival[s] * DOut, scratch.received[s], bytes_of<T>(DOut));
    scratch.output.resize(sent);
    slots.reply(*ranks, scratch.arrivals.data(), scratch.output.memory().data(), sizeof(T) * DOut);
    Layer::combine(tape.plan, scratch.output, y, pass);
    measure_losses<T>(tape.router, tape.plan, tape, pass);
  }

  // A row to an expert is dy and g, a row back dx and d_gate.
  void backward(In<D, T> x, const Tape& tape, In<DOut, T> dy, Out<D, T> dx, ExpertParallelLayer& grad,
                Scratch& scratch, const Pass& pass) const {
    const Ranks* ranks = exchanging(pass);
    if (!ranks) return layer.backward(x, tape, dy, dx, grad.layer, scratch, pass);
    const ReceivedSlots& slots = tape.slots;
    const RoutingPlan<T>& plan = tape.plan;
    const Index sent = plan.slot_count(), count = slots.count();
    const Index width = dx.empty() ? 0 : D;  // of d_input

    scratch.rows.resize(sent * (std::max(DOut, D) + 1));
    scratch.arrivals.resize(count * (std::max(DOut, D) + 1));
    for (Index s = 0; s < sent; ++s) {
      T* row = scratch.rows.data() + s * (DOut + 1);
      std::memcpy(row, dy[plan.token[s]], bytes_of<T>(DOut));
      row[DOut] = plan.gate[s];
    }
    slots.send(*ranks, scratch.rows.data(), scratch.arrivals.data(), sizeof(T) * (DOut + 1));
    scratch.received.resize(count);
    scratch.gate.resize(count);
    scratch.d_gate_there.resize(count);
    scratch.d_received.resize(count);
    for (Index s = 0; s < count; ++s) {
      const T* row = scratch.arrivals.data() + slots.arrival[s] * (DOut + 1);
      std::memcpy(scratch.received[s], row, bytes_of<T>(DOut));
      scratch.gate[s] = row[DOut];
    }

    scratch.experts.resize(slots.held, count);
    const ExpertSlots of_experts = layout(tape, tape.expert.dropout.probability);
    const Pass there = numbered(pass);
    const Out<D, T> d_input = dx.empty() ? Out<D, T>{} : scratch.d_received.view();
    const ExpertsView<ExpertType> held = held_experts(slots);
    held.backward(at_slots(tape), of_experts, tape.expert, scratch.received, scratch.gate.data(), d_input,
                  scratch.d_gate_there.data(), scratch.experts, there);
    held.backward_weights(at_slots(tape), of_experts, tape.expert, grad.layer.experts.data() + slots.first,
                          scratch.experts, there);

    for (Index s = 0; s < count; ++s) {
      T* row = scratch.arrivals.data() + slots.arrival[s] * (width + 1);
      if (width > 0) std::memcpy(row, scratch.d_received[s], bytes_of<T>(D));
      row[width] = scratch.d_gate_there[s];
    }
    slots.reply(*ranks, scratch.arrivals.data(), scratch.rows.data(), Index{sizeof(T)} * (width + 1));
    scratch.d_gate.resize(sent);
    scratch.d_input.resize(sent);
    for (Index s = 0; s < sent; ++s) {
      const T* row = scratch.rows.data() + s * (width + 1);
      if (width > 0) std::memcpy(scratch.d_input[s], row, bytes_of<T>(D));
      scratch.d_gate[s] = row[width];
    }
    if (!dx.empty())
      kernels::combine<T>(pass.exec, scratch.d_input, plan.slot.data(), plan.choices, nullptr, dx);
    layer.route_backward(x, tape, scratch.d_gate.data(), Sum(dx), grad.layer, scratch, pass);
  }

 private:
  // Null: this rank has all experts.
  static const Ranks* exchanging(const Pass& pass) {
    const Ranks* ranks = routing_of(pass).ranks;
    if (!ranks || ranks->members == 1) return nullptr;
    check(E % ranks->members == 0, "expert parallelism: ", ranks->members, " ranks cannot share ", E,
          " experts equally: their number must divide that of the experts");
    return ranks;
  }
  ExpertsView<ExpertType> held_experts(const ReceivedSlots& slots) const {
    return {layer.experts.data() + slots.first, slots.held, slots.first};
  }
  static Gathered<D, T> at_slots(const Tape& tape) {
    const Index count = tape.slots.count();
    return {In<D, T>{tape.x.data(), count}, tape.slots.arrival.data(), count};
  }
  static ExpertSlots layout(const Tape& tape, double dropout) {
    const ReceivedSlots& slots = tape.slots;
    if (dropout == 0) return {slots.offset.data()};
    return {slots.offset.data(), slots.token.data(), slots.choice.data(), tape.plan.choices};
  }
  // The numbers of dropout masks, which are those of (token, choice) in the whole batch.
  static void number_slots(Tape& tape, Scratch& scratch, const Ranks& ranks, const Pass& pass) {
    ReceivedSlots& slots = tape.slots;
    const ExpertSlots own = tape.plan.layout();
    scratch.number.resize(tape.plan.slot_count());
    for (Index s = 0; s < scratch.number.size(); ++s) scratch.number[s] = own.number_of(s, pass);
    slots.number.resize(slots.count());
    slots.send(ranks, scratch.number.data(), slots.number.data(), sizeof(Index));
    slots.token.resize(slots.count());
    slots.choice.resize(slots.count());
    for (Index s = 0; s < slots.count(); ++s) {
      const Index number = slots.number[slots.arrival[s]];
      slots.token[s] = number / own.choices, slots.choice[s] = static_cast<int>(number % own.choices);
    }
  }
  // A pass in which token n has the number n.
  static Pass numbered(Pass pass) {
    pass.shape = {1, Index{1} << 48};
    pass.first_token = pass.first_position = pass.sequence_stride = 0;
    pass.first_positions = pass.lengths = nullptr;
    return pass;
  }
};

// In a model: GPT<config, ExpertParallel<TopKRouter<8, 2>>>, a router specification whose layers can exchange
// tokens. The weights, their paths and the type in files are those of Recipe. Alone, or without Ranks in its
// workspace, the layer is MoELayer<Recipe, Expert>. A capacity applies to the tokens of each rank.
template <Router Recipe>
struct ExpertParallel : Recipe {
  static_assert(
      !requires { typename Recipe::template Mixture<Recipe, Expert<4, 4>>; },
      "ExpertParallel: this specification has a mixture of its own: put ExpertParallel around the router "
      "inside it, as in SharedExperts<ExpertParallel<TopKRouter<64, 6>>>");
  template <class Self, ExpertNetwork X>
  using Mixture = ExpertParallelLayer<AllowedAs<Self, Recipe>, X>;
};

static_assert(Layer<ExpertParallelLayer<TopKRouter<4, 2>, Expert<4, 8>>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
