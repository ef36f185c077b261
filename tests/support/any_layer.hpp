#pragma once
// Layers of any type behind run-time calls: a property is written once, compiled once and tested for all of
// them.
#include "numbers.hpp"
#include "routed_pass.hpp"

#include <moegpt/layers/attention.hpp>
#include <moegpt/moe/metrics.hpp>

#include <memory>
#include <vector>

// Which other tokens a token's result may depend on, besides earlier ones of its sequence.
enum class Mates { none, position, sequence, batch };

// Results of a layer. rows: for each token y and, for a mixture, scores, lse, experts and gates.
struct Outcome {
  moegpt::Index width = 0;
  bool marked = true;  // every sparse weight that has a gradient is marked as touched
  std::vector<float> rows, dx, grad, losses;
  const float* row(moegpt::Index token) const { return rows.data() + token * width; }
  bool operator==(const Outcome& other) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && (a.empty() || same_bits(a.data(), b.data(), std::ssize(a)));
    };
    return same(rows, other.rows) && same(dx, other.dx) && same(grad, other.grad) &&
           same(losses, other.losses);
  }
};

class AnyLayer {
 public:
  std::string name;
  int dim_in = 0, dim_out = 0, tasks = 1;
  Mates mates = Mates::none;
  bool noisy = false;      // its router draws noise
  bool drops_out = false;  // it drops something of every token, given a key and a probability
  bool alike = true;       // without draws, equal tokens have equal results to the bit
  virtual ~AnyLayer() = default;
  // Forward and, with dy, backward: on memory that earlier calls have used, or on fresh memory.
  virtual Outcome run(const moegpt::Pass& pass, const float* x, const float* dy = nullptr,
                      bool fresh = false) = 0;
  // From now on with a cache of keys and values, where the layer takes one; batch 0: without.
  virtual void hold(moegpt::Index batch, moegpt::Index capacity) = 0;
};

template <class L>
class LayerOf : public AnyLayer {
  using Index = moegpt::Index;
  struct Memory {
    typename L::Tape tape;
    typename L::Scratch scratch;
  };
  template <class X>
  static consteval int cache_width() {
    if constexpr (requires { X::Dkv; })
      return X::Dkv;
    else if constexpr (requires { X::AttentionType::Dkv; })
      return X::AttentionType::Dkv;
    else
      return 0;
  }
  static constexpr int Dkv = cache_width<L>();

 public:
  L layer;
  explicit LayerOf(const char* name_, Mates mates_ = Mates::none) {
    name = name_, mates = mates_, dim_in = L::dim_in, dim_out = L::dim_out;
    draw_weights(layer, 5, 0.7);
  }
  void hold(Index batch, Index capacity) override {
    if constexpr (Dkv > 0) {
      keys_.resize(batch * capacity);
      values_.resize(batch * capacity);
      cache_ = {keys_, values_, capacity};
      held_ = batch > 0;
    }
  }
  Outcome run(const moegpt::Pass& pass, const float* x_data, const float* dy_data, bool fresh) override {
    Memory fresh_memory;
    Memory& m = fresh ? fresh_memory : used_;
    const moegpt::In<L::dim_in, float> x{x_data, pass.tokens()};
    moegpt::Tokens<L::dim_out, float> y(pass.tokens());
    const float found = fresh ? std::numeric_limits<float>::quiet_NaN() : 7;  // y and dx are overwritten
    y.memory().fill(found);
    if constexpr (Dkv > 0)
      layer.forward(x, y, m.tape, m.scratch, pass, held_ ? &cache_ : nullptr);
    else if constexpr (requires { layer.forward(x, y, m.tape, m.scratch, pass); })
      layer.forward(x, y, m.tape, m.scratch, pass);
    else if constexpr (requires { layer.forward(x, y, m.tape, pass); })
      layer.forward(x, y, m.tape, pass);
    else
      layer.forward(x, y, pass);

    Outcome out;
    for (Index n = 0; n < pass.tokens(); ++n) {
      out.rows.insert(out.rows.end(), y[n], y[n] + L::dim_out);
      if constexpr (requires { m.tape.plan; })
        add_route(m.tape, n, out.rows);
      else if constexpr (requires { m.tape.mixture.plan; })
        add_route(m.tape.mixture, n, out.rows);
    }
    out.width = pass.tokens() > 0 ? std::ssize(out.rows) / pass.tokens() : 0;
    if constexpr (requires { m.tape.balance; })
      add_losses(m.tape, out.losses);
    else if constexpr (requires { m.tape.mixture.balance; })
      add_losses(m.tape.mixture, out.losses);
    if (!dy_data) return out;

    const moegpt::In<L::dim_out, float> dy{dy_data, pass.tokens()};
    moegpt::Tokens<L::dim_in, float> dx(pass.tokens());
    dx.memory().fill(found);
    L grad;
    typename L::Scratch of_backward;  // fresh memory holds nothing of forward but its tape
    if constexpr (requires { layer.backward(x, m.tape, dy, dx, grad, m.scratch, pass); })
      layer.backward(x, m.tape, dy, dx, grad, fresh ? of_backward : m.scratch, pass);
    else if constexpr (requires { layer.backward(x, m.tape, dy, dx, grad, pass); })
      layer.backward(x, m.tape, dy, dx, grad, pass);
    else
      layer.backward(x, dy, dx, grad, pass);
    out.dx.assign(dx.memory().begin(), dx.memory().end());
    moegpt::for_each_weight_of_kind(
        [&](moegpt::Kind kind, const auto& g) {
          out.grad.insert(out.grad.end(), g.begin(), g.end());
          if (kind == moegpt::Kind::sparse && !g.touched)
            out.marked = out.marked && std::all_of(g.begin(), g.end(), [](float v) { return v == 0; });
        },
        grad);
    return out;
  }

 private:
  template <class Tape>
  static void add_route(const Tape& tape, Index n, std::vector<float>& row) {
    const auto& plan = tape.plan;
    row.insert(row.end(), tape.router.score[n], tape.router.score[n] + plan.experts);
    row.push_back(*tape.router.lse[n]);
    for (int j = 0; j < plan.choices; ++j) {
      const Index s = plan.slot[n * plan.choices + j];
      int e = -1;
      while (s != moegpt::no_slot && plan.offset[e + 1] <= s) ++e;
      row.push_back(static_cast<float>(e));
      row.push_back(s != moegpt::no_slot ? plan.gate[s] : 0);
    }
  }
  template <class Tape>
  static void add_losses(const Tape& t, std::vector<float>& losses) {
    losses = {t.balance, t.z, t.importance, t.load, t.variance, t.count};
  }
  Memory used_;
  moegpt::Tokens<Dkv, float> keys_, values_;
  moegpt::KeyValues<Dkv, float> cache_{};
  bool held_ = false;
};

// Layers to test, with their properties.
struct Layers {
  std::vector<std::unique_ptr<AnyLayer>> all;
  template <class L>
  AnyLayer& add(const char* name, Mates mates = Mates::none) {
    all.push_back(std::make_unique<LayerOf<L>>(name, mates));
    return *all.back();
  }
  auto begin() const { return all.begin(); }
  auto end() const { return all.end(); }
};

inline std::vector<int> ids_of(moegpt::Index tokens) {
  std::vector<int> ids;
  for (moegpt::Index n = 0; n < tokens; ++n) ids.push_back(static_cast<int>(11 * n + 3) % 29);
  return ids;
}

// Some positions of some sequences of a larger call, as a call of its own.
struct Part {
  moegpt::Rows sequences, positions;
};

// Invariants 5 and 6 together: the part has the bits that it has in the whole, whose pass is `pass` and whose
// outcome is `whole`. x and ids are of the whole. Returns how many tokens differ.
inline int differing_tokens(AnyLayer& layer, const moegpt::Pass& pass, const Outcome& whole, const float* x,
                            const Part& part) {
  using moegpt::Index;
  const Index L = pass.shape.length, D = layer.dim_in;
  std::vector<float> inputs;
  moegpt::RoutingContext routing = routing_of(pass);
  std::vector<int> ids;
  std::vector<Index> lengths;
  for (Index b = part.sequences.first; b < part.sequences.first + part.sequences.count; ++b) {
    const Index n = b * L + part.positions.first;
    inputs.insert(inputs.end(), x + n * D, x + (n + part.positions.count) * D);
    ids.insert(ids.end(), routing.ids + n, routing.ids + n + part.positions.count);
    lengths.push_back(
        std::min(part.positions.count, std::max<Index>(0, pass.length_of(b) - part.positions.first)));
  }
  moegpt::Pass inner = pass;
  inner.shape = {part.sequences.count, part.positions.count};
  inner.first_token += part.sequences.first * pass.stride();
  inner.first_position += part.positions.first;
  inner.sequence_stride = pass.stride();
  inner.lengths = pass.lengths ? lengths.data() : nullptr;
  inner.routing = &routing;
  routing.ids = ids.data();
  const Outcome own = layer.run(inner, inputs.data());
  int differing = 0;
  for (Index i = 0; i < inner.tokens(); ++i) {
    const Index b = part.sequences.first + i / inner.shape.length,
                t = part.positions.first + i % inner.shape.length;
    differing += own.width != whole.width || !same_bits(own.row(i), whole.row(b * L + t), own.width);
  }
  return differing;
}

// Invariant 6 for whole passes: prefill, pieces, token by token, batched and alone have the same bits, under
// noise and dropout too, which know a token by its global number.
inline void check_law_6(AnyLayer& layer, moegpt::Pass pass) {
  using moegpt::Index;
  const Index batch = 3, length = 67, capacity = 70;
  pass.shape = {batch, length};
  pass.sequence_stride = capacity;
  pass.first_token = 2 * capacity;
  const std::vector<int> ids = ids_of(pass.tokens());
  const moegpt::RoutingContext routing{.ids = ids.data()};
  pass.routing = &routing;
  const auto x = random_numbers<float>(pass.tokens() * layer.dim_in, 31);
  layer.hold(0, 0);
  const Outcome whole = layer.run(pass, x.data());
  INFO(layer.name << (pass.key ? ", with a key" : ", without a key"));
  if (layer.mates == Mates::none || layer.mates == Mates::sequence)
    for (Index b = 0; b < batch; ++b)
      CHECK(differing_tokens(layer, pass, whole, x.data(), {{b, 1}, {0, length}}) == 0);
  if (layer.mates == Mates::sequence)
    CHECK(differing_tokens(layer, pass, whole, x.data(), {{1, 2}, {0, length}}) == 0);
  if (layer.mates == Mates::none || layer.mates == Mates::position)
    for (const Index piece : {1, 5, 64}) {
      INFO("the batch in pieces of " << piece);
      layer.hold(batch, capacity);
      int differing = 0;
      for (Index t = 0; t < length; t += piece)
        differing +=
            differing_tokens(layer, pass, whole, x.data(), {{0, batch}, {t, std::min(piece, length - t)}});
      CHECK(differing == 0);
    }
  if (layer.mates == Mates::none)
    for (const Index piece : {1, 33}) {
      INFO("the last sequence alone in pieces of " << piece);
      layer.hold(1, capacity);
      int differing = 0;
      for (Index t = 0; t < length; t += piece)
        differing += differing_tokens(layer, pass, whole, x.data(),
                                      {{batch - 1, 1}, {t, std::min(piece, length - t)}});
      CHECK(differing == 0);
    }
  layer.hold(0, 0);
}

// Equal tokens have equal results without a key, and with one each token of each sequence has draws of its
// own.
inline void check_draws(AnyLayer& layer) {
  using moegpt::Index;
  const std::vector<int> ids(21, 5);
  RoutedPass pass({.shape = {3, 7}}, {.ids = ids.data()});
  bool differ = false;  // whether every two sequences do, for the last token that was asked about
  const auto distinct = [&](std::uint64_t seed, double spread) {
    const auto token = random_numbers<float>(layer.dim_in, seed, spread);
    std::vector<float> x;
    for (int n = 0; n < 21; ++n) x.insert(x.end(), token.begin(), token.end());
    const Outcome out = layer.run(pass, x.data());
    const auto same = [&](Index n, Index m, Index rows) {
      return same_bits(out.row(n), out.row(m), rows * out.width);
    };
    differ = !same(0, 7, 7) && !same(0, 14, 7) && !same(7, 14, 7);
    int count = 0;
    for (Index n = 0; n < 21; ++n) {
      bool is_new = true;
      for (Index m = 0; m < n; ++m) is_new = is_new && !same(n, m, 1);
      count += is_new;
    }
    return count;
  };
  INFO(layer.name);
  pass.dropout = 0.5;
  if (layer.mates == Mates::none && layer.alike) CHECK(distinct(33, 1) == 1);
  pass.key = moegpt::Key{77};
  if (layer.drops_out && layer.mates == Mates::none) {
    CHECK(distinct(33, 1) > 14);
    CHECK(differ);
  } else if (layer.drops_out) {  // of equal tokens that compete the first ones alone have experts
    CHECK(distinct(33, 1) > 5);
  }
  pass.dropout = 0;
  if (layer.noisy) {  // what noise decides is undecided for some tokens only
    bool found = false;
    for (std::uint64_t seed = 1; seed <= 40 && !found; ++seed)
      found = distinct(seed, 0.05 * double(seed)) > 1 && differ;
    CHECK(found);
  } else {
    CHECK((layer.mates != Mates::none || !layer.alike || distinct(33, 1) == 1));
  }
}

// A pass of random size, padding, key, permission, capacity, objective and task; it holds what it points to.
class RandomPass {
 public:
  RoutedPass pass{{}, {}};
  RandomPass(moegpt::Rng& rng, int tasks) {
    using moegpt::Index, moegpt::BalanceRule, moegpt::Group;
    const auto one_of = [&](auto... values) {
      const typename std::common_type_t<decltype(values)...> all[] = {values...};
      return all[rng.below(sizeof...(values))];
    };
    const auto coin = [&] { return rng.below(2) == 0; };
    pass.shape = {one_of(Index{1}, Index{2}, Index{3}, Index{5}),
                  one_of(Index{1}, Index{4}, Index{7}, Index{65})};
    ids_ = ids_of(pass.tokens());
    pass.context.ids = ids_.data();
    if (coin()) {
      for (Index b = 0; b < pass.shape.batch; ++b)
        lengths_.push_back(
            coin() ? one_of(Index{0}, pass.shape.length)
                   : static_cast<Index>(rng.below(static_cast<std::uint64_t>(pass.shape.length) + 1)));
      pass.lengths = lengths_.data();
    }
    if (coin()) pass.key = moegpt::Key{rng.bits()};
    if (coin()) {
      for (int e = 0; e < 64; ++e) allowed_[e] = e < 2 || coin();
      pass.context.allowed = allowed_;
    }
    pass.partial = true;
    if (coin()) pass.options.capacity_factor = one_of(0.5, 0.8, 1.5);
    pass.context.task = static_cast<int>(rng.below(static_cast<std::uint64_t>(tasks)));
    pass.first_token = one_of(Index{0}, 3 * pass.shape.length);
    if (coin()) pass.dropout = 0.3;
    moegpt::Objective& o = pass.context.objective;
    if (coin()) o.balance = 0.5;
    if (coin()) o.balance_rule.group = Group::sequence;
    if (coin()) o.balance_rule.choices = BalanceRule::Choices::first;
    if (coin()) o.balance_rule.share = BalanceRule::Share::of_tokens;
    if (coin()) o.z = 0.2;
    if (coin()) o.importance = 0.3;
    if (coin()) o.load = 0.3;
    if (coin()) o.variance = 0.4;
    if (coin()) o.count = 0.1;
  }
  RandomPass(const RandomPass&) = delete;

 private:
  std::vector<int> ids_;
  std::vector<moegpt::Index> lengths_;
  bool allowed_[64] = {};
};

// What a tape and scratch held before does not matter: random calls, one after another on the same memory,
// have the bits that they have on fresh memory. Two threads change none either (invariant 5).
inline void check_memory(AnyLayer& layer, int calls = 40) {
  moegpt::Rng rng(41);
  INFO(layer.name);
  int differing = 0, first = -1;
  for (int call = 0; call < calls; ++call) {
    RandomPass random(rng, layer.tasks);
    RoutedPass& pass = random.pass;
    const auto x = random_numbers<float>(pass.tokens() * layer.dim_in, rng.bits());
    const auto dy = random_numbers<float>(pass.tokens() * layer.dim_out, rng.bits());
    const Outcome used = layer.run(pass, x.data(), dy.data());
    CHECK(used.marked);
    pass.exec.threads = call % 20 == 0 ? 2 : 1;
    if (used == layer.run(pass, x.data(), dy.data(), true)) continue;
    if (first < 0) first = call;
    ++differing;
  }
  CAPTURE(first);
  CHECK(differing == 0);
}

// Losses other than the balance loss are of the batch: they do not depend on whose balance is measured, with
// padding neither, and nor do their gradients.
inline void check_losses(AnyLayer& layer) {
  using moegpt::Index;
  const Index lengths[] = {6, 0, 2, 5}, D = layer.dim_in;
  const std::vector<int> ids = ids_of(24);
  RoutedPass pass({.shape = {4, 6}, .key = moegpt::Key{91}, .lengths = lengths, .partial = true},
                  {.objective = {.z = 0.3, .importance = 0.4, .load = 0.5, .variance = 6, .count = 0.7},
                   .ids = ids.data()});
  const auto x = random_numbers<float>(24 * D, 92);
  const std::vector<float> dy(static_cast<std::size_t>(24 * layer.dim_out));
  const Outcome batch = layer.run(pass, x.data(), dy.data());
  pass.context.objective.balance_rule.group = moegpt::Group::sequence;
  const Outcome sequences = layer.run(pass, x.data(), dy.data());
  INFO(layer.name);
  for (std::size_t i = 1; i < batch.losses.size(); ++i)
    CHECK(sequences.losses[i] == Approx(batch.losses[i]).epsilon(1e-4).margin(1e-6));
  CHECK(distance(sequences.dx.data(), batch.dx.data(), 24 * D) < 1e-4);
  CHECK(distance(sequences.grad.data(), batch.grad.data(), std::ssize(batch.grad)) < 1e-3);
}

// Calls of any size, at every edge of the pieces that tokens are cut in (64 tokens, 96 and 256 rows of an
// expert): the bits of each of two parts, and gradients that are their sum.
inline void check_sizes(AnyLayer& layer) {
  using moegpt::Index;
  const Index D = layer.dim_in, F = layer.dim_out;
  INFO(layer.name);
  for (const Index size :
       {2, 63, 64, 65, 95, 96, 97, 192, 193, 255, 256, 257, 767, 768, 769, 2047, 2048, 2049}) {
    INFO(size << " tokens");
    const std::vector<int> ids = ids_of(size);
    RoutedPass pass({.shape = {1, size}, .dropout = 0.2, .key = moegpt::Key{81}}, {.ids = ids.data()});
    const auto x = random_numbers<float>(size * D, 82), dy = random_numbers<float>(size * F, 83);
    const Outcome whole = layer.run(pass, x.data(), dy.data());
    std::vector<double> sum(whole.grad.size());
    const Index half = size / 3 + 1;
    for (const auto& [first, count] : {moegpt::Rows{0, half}, moegpt::Rows{half, size - half}}) {
      pass.shape.length = count;
      pass.first_token = first;
      pass.context.ids = ids.data() + first;
      const Outcome part = layer.run(pass, x.data() + first * D, dy.data() + first * F);
      CHECK(same_bits(part.rows.data(), whole.row(first), std::ssize(part.rows)));
      CHECK(same_bits(part.dx.data(), whole.dx.data() + first * D, count * D));
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(part.grad[i]);
    }
    double worst = 0;  // sums of up to 2049 floats of size one: some dozens of roundings of their sum
    for (std::size_t i = 0; i < sum.size(); ++i)
      if (const double off = std::abs(sum[i] - static_cast<double>(whole.grad[i])); !(off <= worst))
        worst = off;
    CHECK(worst < 2e-3);
  }
}

// A padded sequence is the sequence without its padding: the same bits forward, and gradients that add up to
// those of the batch. Padding has no gradient and does not affect other gradients.
inline void check_padding(AnyLayer& layer, std::optional<moegpt::Key> key) {
  using moegpt::Index;
  const Index batch = 7, L = 66, lengths[batch] = {66, 0, 64, 65, 63, 4, 1}, D = layer.dim_in,
              F = layer.dim_out;
  const std::vector<int> ids = ids_of(batch * L);
  const RoutedPass pass(
      {.shape = {batch, L}, .dropout = 0.3, .key = key, .lengths = lengths, .partial = true},
      {.ids = ids.data()});
  const auto x = random_numbers<float>(pass.tokens() * D, 51);
  auto dy = random_numbers<float>(pass.tokens() * F, 52);
  for (Index n = 0; n < pass.tokens(); ++n)
    if (pass.is_padding(n)) std::fill_n(dy.data() + n * F, F, 0.0f);
  const Outcome whole = layer.run(pass, x.data(), dy.data());
  INFO(layer.name << (key ? ", with a key" : ", without a key"));
  std::vector<double> sum(whole.grad.size());
  for (Index b = 0; b < batch; ++b) {
    if (lengths[b] == 0) continue;
    RoutedPass alone(pass, {.ids = ids.data() + b * L});
    alone.shape = {1, lengths[b]};
    alone.lengths = nullptr;
    alone.first_token = b * L;
    alone.sequence_stride = L;
    const Outcome own = layer.run(alone, x.data() + b * L * D, dy.data() + b * L * F);
    INFO("sequence " << b);
    CHECK(same_bits(own.rows.data(), whole.row(b * L), std::ssize(own.rows)));
    CHECK(distance(own.dx.data(), whole.dx.data() + b * L * D, lengths[b] * D) < 1e-4);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(own.grad[i]);
  }
  double worst = 0;
  for (std::size_t i = 0; i < sum.size(); ++i) {
    const double off = std::abs(sum[i] - static_cast<double>(whole.grad[i])) / (1 + std::abs(sum[i]));
    if (!(off <= worst)) worst = off;
  }
  CHECK(worst < 1e-4);
}
