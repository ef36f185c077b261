#pragma once
// Soft MoE (Puigcerver et al. 2023): no discrete routing. Each expert has P slots; a slot is a weighted mean
// of a sequence's tokens, each output token a weighted mean of slot outputs.
//   l = Phi x                                        [tokens, S], S = E P slots
//   dispatch = softmax of l over the sequence's tokens,   slot_s = sum_n dispatch_ns x_n
//   combine = softmax of l over slots,                    y_n = sum_s combine_ns expert(slot_s)
// No plan, no balance loss, nothing is dropped. Non-causal: a slot depends on all tokens of the sequence.
#include <moegpt/kernels/softmax.hpp>
#include <moegpt/kernels/transpose.hpp>
#include <moegpt/layers/linear.hpp>
#include <moegpt/moe/experts.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <int E, int P, ExpertNetwork ExpertType, bool Causal = false>
struct SoftMoELayer {
  static_assert(E >= 1 && P >= 1, "SoftMoELayer: at least one expert, and at least one slot for each");
  static_assert(P <= (1 << 20) / E, "SoftMoELayer: at most 2^20 slots, E P");
  using Scalar = typename ExpertType::Scalar;
  using T = Scalar;
  static constexpr int D = ExpertType::dim, S = E * P, dim_in = D, dim_out = D;
  static constexpr bool causal = Causal;
  static constexpr std::string_view name = "moe";

  Linear<D, S, T, false> router;  // Phi
  Experts<ExpertType, E> experts;

  static constexpr auto fields() {
    return Fields{Field{"router", &SoftMoELayer::router},
                  Field{"experts", &SoftMoELayer::experts, Kind::sparse}};
  }
  struct Tape {
    Tokens<S, T> combine;                          // softmax of the logits over slots
    Buffer<T> dispatch;                            // [batch, S, length] softmax over tokens; zero for padding
    Tokens<D, T> slot, slot_output;                // [batch, S] inputs and outputs of experts
    Buffer<Index> slot_of;                         // [E, batch, P] index in [batch, S] of each slot
    Buffer<Index> offset;                          // [E + 1] expert e owns slots [offset[e], offset[e + 1])
    typename Experts<ExpertType, E>::Tape expert;  // [E, batch, P]
    [[gnu::noinline]] void resize(const Pass& pass) {
      const Index slot_count = pass.shape.batch * S;
      combine.resize(pass);
      dispatch.resize(pass.tokens() * S);
      slot.resize(slot_count);
      slot_output.resize(slot_count);
      slot_of.resize(slot_count);
      offset.resize(E + 1);
      expert.resize(slot_count);
    }
    // In the pass of_slots: a slot is a token of a sequence of S.
    ExpertSlots layout() const { return {offset.data(), slot_of.data()}; }
    Gathered<D, T> at_slots(In<D, T> rows) const { return {rows, slot_of.data(), slot_of.size()}; }
  };
  struct Scratch {
    typename Experts<ExpertType, E>::Scratch experts;
    Tokens<D, T> output, d_input;        // [E, batch, P]
    Tokens<D, T> d_slot, d_slot_output;  // [batch, S]
    Tokens<S, T> d_combine, d_logits;
    Buffer<T> d_dispatch;  // [batch, S, length]
    [[gnu::noinline]] void resize(const Pass& pass) {
      const Index slot_count = pass.shape.batch * S;
      experts.resize(E, slot_count);
      for (auto* t : {&output, &d_input, &d_slot, &d_slot_output}) t->resize(slot_count);
      resize_all(pass, d_combine, d_logits);
      d_dispatch.resize(pass.tokens() * S);
    }
  };

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, const Pass& pass) const {
    pass.check_fits(x.count, y.count);
    check_objective(routing_of(pass).objective);
    tape.resize(pass);
    scratch.resize(pass);
    for (Index e = 0; e <= E; ++e) tape.offset[e] = e * P * pass.shape.batch;
    for (Index i = 0; i < tape.slot_of.size(); ++i)
      tape.slot_of[i] = i / P % pass.shape.batch * S + i / (P * pass.shape.batch) * P + i % P;
    const Tape& done = tape;

    router.forward(x, tape.combine, pass);
    for_each_sequence(pass, [&](const Exec& exec, Index b, Rows tokens, Rows padding) {
      forbid(tape.combine.rows(tokens), pass);
      const auto dispatch = of_sequence(tape.dispatch.data(), b, tokens, pass);
      kernels::transpose<T>(done.combine.rows(tokens), dispatch);
      for (Index s = 0; s < S; ++s) kernels::softmax(dispatch[s], tokens.count);
      for (Index n = 0; n < tokens.count; ++n) kernels::softmax(tape.combine[tokens.first + n], S);
      clear(tape.combine.rows(padding));
      kernels::gemm<T>(exec, dispatch, x.rows(tokens), tape.slot.rows({b * S, S}));
    });
    experts.view().forward(tape.at_slots(tape.slot), tape.layout(), scratch.output, tape.expert,
                           scratch.experts, of_slots(pass),
                           expert_dropout(applied_expert_dropout(pass), pass));
    for_each_sequence(pass, [&](const Exec& exec, Index b, Rows tokens, Rows padding) {
      copy_sequence(scratch.output, b, tape.slot_output.rows({b * S, S}), pass);
      kernels::gemm<T>(exec, done.combine.rows(tokens), done.slot_output.rows({b * S, S}), y.rows(tokens));
      clear(y.rows(padding));
    });
  }

  // d_slot_output = combine^T dy,  d_combine = dy slot_output^T,  d_dispatch = x d_slot^T
  // dl = through the softmax over slots from d_combine + through the one over tokens from d_dispatch
  // dx = dispatch d_slot + Phi^T dl
  void backward(In<D, T> x, const Tape& tape, In<D, T> dy, Out<D, T> dx, SoftMoELayer& grad, Scratch& scratch,
                const Pass& pass) const {
    scratch.resize(pass);
    const Scratch& done = scratch;
    for_each_sequence(pass, [&](const Exec& exec, Index b, Rows tokens, Rows) {
      kernels::gemm<T>(exec, kernels::transposed<T>(tape.combine.rows(tokens)), dy.rows(tokens),
                       scratch.d_slot_output.rows({b * S, S}));
      kernels::gemm<T>(exec, dy.rows(tokens), kernels::transposed<T>(tape.slot_output.rows({b * S, S})),
                       scratch.d_combine.rows(tokens));
    });
    const Pass slot_pass = of_slots(pass);
    const Gathered<D, T> slots_x = tape.at_slots(tape.slot);
    experts.view().backward(slots_x, tape.layout(), tape.expert, tape.at_slots(scratch.d_slot_output),
                            nullptr, scratch.d_input, nullptr, scratch.experts, slot_pass);
    experts.view().backward_weights(slots_x, tape.layout(), tape.expert, grad.experts.data(), scratch.experts,
                                    slot_pass);
    for_each_sequence(pass, [&](const Exec& exec, Index b, Rows tokens, Rows padding) {
      copy_sequence(scratch.d_input, b, scratch.d_slot.rows({b * S, S}), pass);
      const auto d_logits = scratch.d_logits.rows(tokens);
      const auto dispatch = of_sequence(tape.dispatch.data(), b, tokens, pass);
      const auto d_dispatch = of_sequence(scratch.d_dispatch.data(), b, tokens, pass);
      kernels::gemm<T>(exec, done.d_slot.rows({b * S, S}), kernels::transposed<T>(x.rows(tokens)),
                       d_dispatch);
      for (Index s = 0; s < S; ++s) through_softmax(dispatch[s], d_dispatch[s], tokens.count);
      kernels::transpose<T>(d_dispatch, d_logits);
      for (Index n = tokens.first; n < tokens.first + tokens.count; ++n)
        kernels::softmax_backward(tape.combine[n], scratch.d_combine[n], scratch.d_logits[n], S);
      clear(scratch.d_logits.rows(padding));
      if (dx.empty()) return;
      kernels::gemm<T>(exec, kernels::transposed<T>(dispatch), done.d_slot.rows({b * S, S}), dx.rows(tokens));
      clear(dx.rows(padding));
    });
    router.backward(x, scratch.d_logits, Sum(dx), grad.router, pass);
  }

 private:
  // f(exec, sequence, rows of its tokens, rows of its padding), sequences in parallel.
  template <class F>
  static void for_each_sequence(const Pass& pass, F&& f) {
    pass.exec.region([&](const Exec& exec) {
      exec.parallel_for(pass.shape.batch, [&](Index b) {
        const Index first = b * pass.shape.length, count = pass.length_of(b);
        f(exec, b, Rows{first, count}, Rows{first + count, pass.shape.length - count});
      });
    });
  }
  // The pass of the slots: sequences of length S without padding. Dropout is keyed by (sequence, slot).
  static Pass of_slots(const Pass& pass) {
    Pass inner = pass;
    inner.shape.length = S;
    inner.first_token = pass.first_token / pass.stride() * S;
    inner.first_position = inner.sequence_stride = 0;
    inner.lengths = inner.first_positions = nullptr;
    return inner;
  }
  // Copies the slots of sequence b, [S, D], from [E, batch, P].
  static void copy_sequence(In<D, T> from, Index b, Out<D, T> to, const Pass& pass) {
    for (Index e = 0; e < E; ++e)
      std::memcpy(to[e * P], from[(e * pass.shape.batch + b) * P], bytes_of<T>(P * D));
  }
  template <class Number>
  static MatrixView<Number> of_sequence(Number* all, Index b, Rows tokens, const Pass& pass) {
    return {all + b * S * pass.shape.length, S, tokens.count, pass.shape.length};
  }
  // logits := minus infinity for slots of experts that are not allowed.
  static void forbid(Out<S, T> logits, const Pass& pass) {
    const bool* allowed = allowed_experts(pass);
    for (Index n = 0; n < logits.count && allowed; ++n)
      for (int s = 0; s < S; ++s)
        if (!allowed[s / P]) logits[n][s] = kernels::minus_infinity<T>;
  }
  // d := p (d - <d, p>)
  static void through_softmax(const T* p, T* d, Index count) {
    const T mean = kernels::dot(d, p, count);
    for (Index i = 0; i < count; ++i) d[i] = p[i] * (d[i] - mean);
  }
  template <int Width>
  static void clear(Out<Width, T> rows) {
    std::fill_n(rows.data, rows.count * Width, T(0));
  }
};
static_assert(lists_every_field<SoftMoELayer<2, 3, Expert<4, 8>>>());
static_assert(Layer<SoftMoELayer<2, 3, Expert<4, 8>>>);

// In a model: GPT<config, AllowNonCausal<SoftMoE<8, 4>>>, 8 experts with 4 slots each.
template <int E, int P = 1>
struct SoftMoE {
  static constexpr int experts = E, active = E;
  static constexpr bool causal = false;
  static std::string text() { return "SoftMoE<" + std::to_string(E) + ", " + std::to_string(P) + ">"; }
  template <class Self, ExpertNetwork X>
  using Mixture = SoftMoELayer<E, P, X, Self::causal>;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
