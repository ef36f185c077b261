#pragma once
// Classification head: logits of classes from the features y of a trunk, and their cross-entropy.
//   sequences:  p_b = mean over tokens of y_bt, or y of the first or last token;  z_b = W p_b + b
//   tokens:     z_n = W y_n + b
// Padding is excluded from means and losses; the last token is the last one before the padding.
#include <moegpt/kernels/cross_entropy.hpp>
#include <moegpt/layers/linear.hpp>
#include <moegpt/model/gpt.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// What is classified: a sequence by the mean of its tokens or by one of them, or every token (none).
enum class Pooling { mean, first, last, none };

// Loss of a classifier. cross_entropy is in nats per label; targets counts the labels that are not ignored.
struct ClassLoss : Loss {
  Index correct = 0;  // labels that are the most probable class
  double accuracy() const {
    return targets > 0 ? static_cast<double>(correct) / static_cast<double>(targets) : 0;
  }
};

// Map: a layer from D features to the logits, such as MoELayer<TopKRouter<4, 2>, LinearExpert<D, Classes>>
// or ExpertHeads (moe/expert_heads.hpp). Its rows are the sequences or tokens that are classified.
template <int D, int Classes, Pooling P = Pooling::mean, class N = float, Layer Map = Linear<D, Classes, N>>
struct ClassHead {
  static_assert(Classes >= 2, "ClassHead: there must be at least 2 classes");
  static_assert(Map::dim_in == D && Map::dim_out == Classes,
                "ClassHead: the map must be from D features to Classes logits");
  using T = ScalarOf<N>;
  using Scalar = T;
  using Numbers = N;
  static constexpr int dim = D, classes = Classes;
  static constexpr Pooling pooling = P;
  static constexpr bool of_tokens = P == Pooling::none;
  static constexpr bool has_losses = HasLosses<typename Map::Tape>;

  Map map;

  static constexpr auto fields() { return Fields{Field{"", &ClassHead::map}}; }

  struct Tape {
    Tokens<D, T> pooled;        // [batch, D]; not of tokens
    Tokens<Classes, T> logits;  // [rows, Classes]
    Tokens<1, T> loss, lse;     // [rows] cross-entropy, and log-sum-exp of the logits
    Buffer<int> labels;         // [rows] of the last loss; below 0: ignored; padding: -1
    Buffer<Index> lengths;      // [batch] 0 for a sequence without tokens, otherwise 1
    typename Map::Tape map;
    Index counted = 0;  // labels that are not ignored

    void resize(const Pass& pass) {
      const Index rows = rows_of(pass.shape);
      if constexpr (!of_tokens) pooled.resize(rows);
      logits.resize(rows), loss.resize(rows), lse.resize(rows);
      labels.resize(rows), lengths.resize(pass.shape.batch);
      map.resize(pass_of_rows(pass));
    }
    // The most probable class of a row; of equal ones the first.
    int predicted(Index row) const {
      const T* const z = logits[row];
      return static_cast<int>(std::max_element(z, z + Classes) - z);
    }
  };
  struct Scratch {
    typename Map::Scratch map;
    Tokens<Classes, T> d_logits;
    Tokens<D, T> d_pooled;
    void resize(const Pass& pass, Use use) {
      map.resize(pass_of_rows(pass));
      if (use != Use::training) return;
      d_logits.resize(rows_of(pass.shape));
      if constexpr (!of_tokens) d_pooled.resize(rows_of(pass.shape));
    }
  };

  // Number of labels of a batch: one for each sequence, or for each token.
  static Index rows_of(Shape shape) { return of_tokens ? shape.tokens() : shape.batch; }

  // std::invalid_argument unless there are no labels, or one for each row, all below Classes.
  static void check_labels(std::span<const int> labels, Shape shape) {
    check(labels.empty() || std::ssize(labels) == rows_of(shape), "the batch has ", labels.size(),
          " labels for ", rows_of(shape), of_tokens ? " tokens" : " sequences",
          ": one each, below zero to ignore it");
    for (std::size_t i = 0; i < labels.size(); ++i)
      check(labels[i] < Classes, "label ", i, " is ", labels[i], ", expected 0 .. ", Classes - 1,
            ", or below zero to ignore it");
  }

  // y [tokens, D]; labels as for check_labels. Adds to `loss` its cross-entropy, counts and, if the map is an
  // MoE layer, its losses. Without labels only the logits are computed.
  void forward(In<D, T> y, std::span<const int> labels, Tape& tape, Scratch& scratch, const Pass& pass,
               ClassLoss& loss) const {
    tape.resize(pass);
    if constexpr (!of_tokens) pool(y, tape, pass);
    for_rows(pass, tape, [&](const Pass& rows) {
      moegpt::forward(map, features(y, tape), Out<Classes, T>(tape.logits), tape.map, scratch.map, rows);
    });
    if constexpr (has_losses) add_losses(tape.map, loss);

    const Index rows = rows_of(pass.shape);
    for (Index i = 0; i < rows; ++i)
      tape.labels[i] = labels.empty() || is_padding(i, pass) ? -1 : labels[static_cast<std::size_t>(i)];
    kernels::cross_entropies<T>(pass.exec, tape.logits.view(), tape.labels.data(), tape.loss[0], tape.lse[0]);
    double total = 0;
    tape.counted = 0;
    for (Index i = 0; i < rows; ++i)
      if (tape.labels[i] >= 0) {
        total += static_cast<double>(*tape.loss[i]);
        ++tape.counted;
        loss.correct += tape.predicted(i) == tape.labels[i];
      }
    loss.cross_entropy += tape.counted > 0 ? total / static_cast<double>(tape.counted) : 0;
    loss.targets += tape.counted;
  }

  // dy = gradient of factor * cross-entropy and of the map's losses with the objective of the pass.
  //   dz = factor (softmax(z) - onehot) / counted;  mean: dy_bt = dp_b / length_b
  void backward(In<D, T> y, const Tape& tape, Out<D, T> dy, ClassHead& grad, Scratch& scratch,
                const Pass& pass, double factor = 1) const {
    check_trains<N>();
    scratch.resize(pass, Use::training);
    const T scale = tape.counted > 0 ? static_cast<T>(factor) / static_cast<T>(tape.counted) : T(0);
    kernels::cross_entropies_backward<T>(pass.exec, tape.logits.view(), tape.labels.data(), tape.lse[0],
                                         scale, 0, scratch.d_logits);
    for_rows(pass, tape, [&](const Pass& rows) {
      moegpt::backward(map, features(y, tape), tape.map, In<Classes, T>(scratch.d_logits),
                       of_tokens ? dy : Out<D, T>(scratch.d_pooled), grad.map, scratch.map, rows);
    });
    if constexpr (!of_tokens) pool_backward(scratch.d_pooled, dy, pass);
  }

 private:
  static In<D, T> features(In<D, T> y, const Tape& tape) {
    if constexpr (of_tokens)
      return y;
    else
      return tape.pooled;
  }
  static bool is_padding(Index row, const Pass& pass) {
    return of_tokens ? pass.is_padding(row) : pass.length_of(row) == 0;
  }
  // The pass of the map, for its memory: a pooled sequence is a sequence of one token.
  static Pass pass_of_rows(const Pass& pass) {
    Pass rows = pass;
    if constexpr (!of_tokens) {
      rows.shape = {pass.shape.batch, 1};
      rows.first_position = 0, rows.sequence_stride = 0;
      rows.lengths = nullptr, rows.documents = nullptr;
    }
    return rows;
  }
  // f(pass of the map), with the objective and the task id of the trunk. Allowed experts, layer weights and
  // step loads are of the trunk alone.
  template <class F>
  static void for_rows(const Pass& pass, const Tape& tape, F&& f) {
    Pass rows = pass_of_rows(pass);
    RoutingContext routing = routing_of(pass);
    routing.allowed = nullptr;
    routing.objective.layer_weights = {}, routing.objective.step_loads = {};
    if constexpr (!of_tokens) {
      routing.ids = nullptr;
      if (pass.lengths) rows.lengths = tape.lengths.data();
    }
    rows.routing = &routing;
    f(rows);
  }

  static void pool(In<D, T> y, Tape& tape, const Pass& pass) {
    const Index length = pass.shape.length;
    for (Index b = 0; b < pass.shape.batch; ++b) tape.lengths[b] = pass.length_of(b) > 0;
    for_each_piece(pass.exec, pass.shape.batch, 4, [&](Rows sequences) {
      for (Index b = sequences.first; b < sequences.first + sequences.count; ++b) {
        const Index tokens = pass.length_of(b);
        T* const p = tape.pooled[b];
        std::fill_n(p, D, T(0));
        if (tokens == 0) continue;
        if constexpr (P == Pooling::mean)
          for (Index t = 0; t < tokens; ++t)
            kernels::axpy(D, 1 / static_cast<T>(tokens), y[b * length + t], p);
        else
          std::copy_n(y[b * length + (P == Pooling::first ? 0 : tokens - 1)], D, p);
      }
    });
  }
  static void pool_backward(In<D, T> d_pooled, Out<D, T> dy, const Pass& pass) {
    const Index length = pass.shape.length;
    for_each_piece(pass.exec, pass.tokens(), token_piece, [&](Rows rows) {
      for (Index n = rows.first; n < rows.first + rows.count; ++n) {
        const Index b = n / length, t = n % length, tokens = pass.length_of(b);
        const bool read = t < tokens && (P == Pooling::mean || t == (P == Pooling::first ? 0 : tokens - 1));
        if (!read)
          std::fill_n(dy[n], D, T(0));
        else
          kernels::scale(D, P == Pooling::mean ? 1 / static_cast<T>(tokens) : T(1), d_pooled[b], dy[n]);
      }
    });
  }
};
static_assert(lists_every_field<ClassHead<4, 3>>());

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
