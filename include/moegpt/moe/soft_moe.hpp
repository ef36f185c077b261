#pragma once
// Soft mixture of experts (Puigcerver et al. 2023): no token is sent anywhere. Each expert has P slots, and a slot is a
// mean over the tokens of a sequence; each token is then a mean over what experts answered to their slots.
//   l = Phi x                                        [tokens, S], S = E P slots
//   dispatch = softmax of l over the sequence's tokens,   slot_s = sum_n dispatch_ns x_n
//   combine = softmax of l over slots,                    y_n = sum_s combine_ns expert(slot_s)
// Every token and every expert counts: there is no plan, no balance loss and nothing dropped. Tokens see later ones.
#include <moegpt/core/heap_array.hpp>
#include <moegpt/kernels/dispatch.hpp>
#include <moegpt/kernels/dropout.hpp>
#include <moegpt/kernels/softmax.hpp>
#include <moegpt/kernels/transpose.hpp>
#include <moegpt/layers/expert.hpp>
#include <moegpt/moe/routing_context.hpp>

#include <algorithm>

namespace moegpt::inline MOEGPT_BUILD {

template <int E, int P, ExpertNetwork ExpertType, bool Causal = false>
struct SoftMoELayer {
  static_assert(E >= 1 && P >= 1, "SoftMoELayer: at least one expert, and at least one slot for each");
  static_assert(P <= (1 << 20) / E, "SoftMoELayer: at most 2^20 slots, E P");
  using Scalar = typename ExpertType::Scalar;
  using T = Scalar;
  static constexpr int D = ExpertType::dim, S = E * P, dim_in = D, dim_out = D;
  static constexpr bool causal = Causal;
  static constexpr std::string_view name = "moe";

  Linear<D, S, T, false> router;       // Phi
  HeapArray<ExpertType, E> experts;

  static constexpr auto fields() {
    return Fields{Field{"router", &SoftMoELayer::router}, Field{"experts", &SoftMoELayer::experts, Kind::sparse}};
  }
  struct Tape {
    Tokens<S, T> combine;              // softmax of the logits over slots
    Buffer<T> dispatch;                // [batch, S, length] softmax over tokens; zero for padding
    Tokens<D, T> slot, answer;         // [batch, S] what experts see, and what they answer
    Buffer<Index> place;               // [E, batch, P] where an expert's slots are in these
    typename ExpertType::Tape expert;  // [E, batch, P]
    double dropout = 0;
    Key noise{};
    [[gnu::noinline]] void resize(const Pass& pass) {
      const Index slot_count = pass.shape.batch * S;
      combine.resize(pass.tokens());
      dispatch.resize(pass.tokens() * S);
      slot.resize(slot_count);
      answer.resize(slot_count);
      place.resize(slot_count);
      expert.resize(slot_count);
    }
  };
  struct Scratch {
    typename ExpertType::Scratch expert;
    Tokens<D, T> output, d_output, d_input;   // [E, batch, P]
    Tokens<D, T> d_slot, d_answer;            // [batch, S]
    Tokens<S, T> d_combine, d_logits;
    Buffer<T> d_dispatch;                     // [batch, S, length]
    [[gnu::noinline]] void resize(const Pass& pass) {
      const Index slot_count = pass.shape.batch * S;
      expert.resize(slot_count);
      for (auto* t : {&output, &d_output, &d_input, &d_slot, &d_answer}) t->resize(slot_count);
      d_combine.resize(pass.tokens());
      d_logits.resize(pass.tokens());
      d_dispatch.resize(pass.tokens() * S);
    }
  };

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, const Pass& pass) const {
    pass.check_fits(x.count, y.count);
    check_objective(routing_of(pass).objective);
    tape.resize(pass);
    scratch.resize(pass);
    tape.dropout = applied_expert_dropout(pass);
    tape.noise = pass.key ? pass.key->with(Purpose::expert_dropout) : Key{};
    for (Index i = 0; i < tape.place.size(); ++i)
      tape.place[i] = i / P % pass.shape.batch * S + i / (P * pass.shape.batch) * P + i % P;
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
    for_each_task(pass, [&](std::size_t e, Rows rows) {
      experts[e].forward(slots_of(tape, rows), scratch.output.rows(rows), tape.expert, scratch.expert, rows);
      drop(tape, scratch.output.rows(rows), rows, pass);
      for (Index i = rows.first; i < rows.first + rows.count; ++i)
        std::memcpy(tape.answer[tape.place[i]], scratch.output[i], sizeof(T) * D);
    });
    for_each_sequence(pass, [&](const Exec& exec, Index b, Rows tokens, Rows padding) {
      kernels::gemm<T>(exec, done.combine.rows(tokens), done.answer.rows({b * S, S}), y.rows(tokens));
      clear(y.rows(padding));
    });
  }

  // d_answer = combine^T dy,  d_combine = dy answer^T,  d_dispatch = x d_slot^T
  // dl = through the softmax over slots from d_combine + through the one over tokens from d_dispatch
  // dx = dispatch d_slot + Phi^T dl
  void backward(In<D, T> x, const Tape& tape, In<D, T> dy, Out<D, T> dx, SoftMoELayer& grad, Scratch& scratch,
                const Pass& pass) const {
    scratch.resize(pass);
    const Scratch& done = scratch;
    for_each_sequence(pass, [&](const Exec& exec, Index b, Rows tokens, Rows) {
      kernels::gemm<T>(exec, kernels::transposed<T>(tape.combine.rows(tokens)), dy.rows(tokens),
                       scratch.d_answer.rows({b * S, S}));
      kernels::gemm<T>(exec, dy.rows(tokens), kernels::transposed<T>(tape.answer.rows({b * S, S})),
                       scratch.d_combine.rows(tokens));
    });
    for_each_task(pass, [&](std::size_t e, Rows rows) {
      const auto d_output = scratch.d_output.rows(rows);
      kernels::gather<T>(done.d_answer, tape.place.data() + rows.first, d_output);
      drop(tape, d_output, rows, pass);
      experts[e].backward(slots_of(tape, rows), tape.expert, d_output, nullptr, scratch.d_input.rows(rows), nullptr,
                          scratch.expert, rows);
      for (Index i = rows.first; i < rows.first + rows.count; ++i)
        std::memcpy(scratch.d_slot[tape.place[i]], scratch.d_input[i], sizeof(T) * D);
    });
    for (int e = 0; e < E; ++e)
      if (is_allowed(e, pass)) touch(grad.experts[static_cast<std::size_t>(e)]);
    constexpr Index parts = ExpertType::weight_parts;
    pass.exec.parallel_for(E * parts, [&](Index i) {
      const auto e = static_cast<std::size_t>(i / parts);
      const Rows rows = rows_of(i / parts, pass);
      experts[e].backward_weights(i % parts, slots_of(tape, rows), tape.expert, done.d_output.rows(rows),
                                  grad.experts[e], scratch.expert, rows);
    });
    for_each_sequence(pass, [&](const Exec& exec, Index b, Rows tokens, Rows padding) {
      const auto d_logits = scratch.d_logits.rows(tokens);
      const auto dispatch = of_sequence(tape.dispatch.data(), b, tokens, pass);
      const auto d_dispatch = of_sequence(scratch.d_dispatch.data(), b, tokens, pass);
      kernels::gemm<T>(exec, done.d_slot.rows({b * S, S}), kernels::transposed<T>(x.rows(tokens)), d_dispatch);
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
  // f(exec, sequence, its tokens, its padding), for all sequences side by side; one alone has all threads to itself.
  template <class F>
  static void for_each_sequence(const Pass& pass, F&& f) {
    pass.exec.region([&](const Exec& exec) {
      exec.parallel_for(pass.shape.batch, [&](Index b) {
        const Index first = b * pass.shape.length, count = pass.length_of(b);
        f(exec, b, Rows{first, count}, Rows{first + count, pass.shape.length - count});
      });
    });
  }
  // f(expert, rows) for pieces of every expert's slots
  template <class F>
  static void for_each_task(const Pass& pass, F&& f) {
    const Pieces pieces{P * pass.shape.batch, expert_rows(S * pass.shape.batch)};
    pass.exec.parallel_for(E * pieces.size(), [&](Index i) {
      const Rows piece = pieces[i % pieces.size()];
      f(static_cast<std::size_t>(i / pieces.size()), {i / pieces.size() * pieces.count + piece.first, piece.count});
    });
  }
  static Rows rows_of(Index e, const Pass& pass) { return {e * P * pass.shape.batch, P * pass.shape.batch}; }
  static Gathered<D, T> slots_of(const Tape& tape, Rows rows) {
    return {tape.slot, tape.place.data() + rows.first, rows.count};
  }
  template <class Number>
  static MatrixView<Number> of_sequence(Number* all, Index b, Rows tokens, const Pass& pass) {
    return {all + b * S * pass.shape.length, S, tokens.count, pass.shape.length};
  }
  // Slots of experts that are not allowed.
  static void forbid(Out<S, T> logits, const Pass& pass) {
    const bool* allowed = routing_of(pass).allowed;
    for (Index n = 0; n < logits.count && allowed; ++n)
      for (int s = 0; s < S; ++s)
        if (!allowed[s / P]) logits[n][s] = kernels::minus_infinity<T>;
  }
  // d becomes p (d - <d, p>).
  static void through_softmax(const T* p, T* d, Index count) {
    const T mean = kernels::dot(d, p, count);
    for (Index i = 0; i < count; ++i) d[i] = p[i] * (d[i] - mean);
  }
  template <int Width>
  static void clear(Out<Width, T> rows) {
    std::fill_n(rows.data, rows.count * Width, T(0));
  }
  // The mask of a slot belongs to its sequence, not to the batch.
  static void drop(const Tape& tape, Out<D, T> slot_rows, Rows rows, const Pass& pass) {
    if (tape.dropout == 0) return;
    const Index first = pass.first_token / pass.stride() * S;
    for (Index i = 0; i < rows.count; ++i)
      kernels::drop(slot_rows[i], D, tape.dropout, tape.noise, first + tape.place[rows.first + i]);
  }
};
static_assert(lists_every_field<SoftMoELayer<2, 3, Expert<4, 8>>>());
static_assert(Layer<SoftMoELayer<2, 3, Expert<4, 8>>>);

// In a model: GPT<config, AllowNonCausal<SoftMoE<8, 4>>>. Every token meets every expert.
template <int E, int P = 1>
struct SoftMoE {
  static constexpr int experts = E, active = E;
  static constexpr bool causal = false;
  static std::string text() { return "SoftMoE<" + std::to_string(E) + ", " + std::to_string(P) + ">"; }
  template <class Self, ExpertNetwork X>
  using Mixture = SoftMoELayer<E, P, X, Self::causal>;
};

}  // namespace moegpt::inline MOEGPT_BUILD
