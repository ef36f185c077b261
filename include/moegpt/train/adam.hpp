#pragma once
// Adam (Kingma, Ba 2015) and AdamW (Loshchilov, Hutter 2019), with PyTorch's formulas. The optimizer works on
// parameter trees: its two moments are trees of the model's type, and it is a tree of both, so that functions
// of trees write and read them. With them and the step counts, an optimizer continues with the same bits.
// Weights that have had no gradient so far (train/freeze.hpp) have no moments.
#include <moegpt/core/runs.hpp>
#include <moegpt/kernels/adam.hpp>

#include <cstdint>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Update of an expert without tokens in this step, and of a mask (Masked) of another task.
enum class EmptyExpert {
  skip,           // none: weights, moments and step count are unchanged (PyTorch: grad is None)
  zero_gradient,  // its gradient is zero: moments and weights decay (PyTorch: stacked experts)
};
enum class Decay {
  decoupled,  // AdamW: w is multiplied by 1 - learning rate * decay
  l2,         // Adam: decay * w is added to the gradient
};
enum class DecayOf { everything, matrices };

struct AdamOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9, beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
  Decay decay = Decay::decoupled;
  DecayOf decay_of = DecayOf::everything;
  EmptyExpert empty_expert = EmptyExpert::skip;
};

// Throws std::invalid_argument. Options may change between steps, so each step checks them.
[[gnu::noinline]] inline void check_adam(const AdamOptions& o, double gradient_scale) {
  const auto not_negative = [](double x) { return x >= 0 && std::isfinite(x); };
  check(not_negative(o.learning_rate), "Adam: learning_rate is ", o.learning_rate,
        ", expected a finite number, 0 or more");
  check(o.beta1 >= 0 && o.beta1 < 1, "Adam: beta1 is ", o.beta1, ", expected a number in [0, 1)");
  check(o.beta2 >= 0 && o.beta2 < 1, "Adam: beta2 is ", o.beta2, ", expected a number in [0, 1)");
  check(o.epsilon > 0 && std::isfinite(o.epsilon), "Adam: epsilon is ", o.epsilon,
        ", expected a finite number above 0");
  check(not_negative(o.weight_decay), "Adam: weight_decay is ", o.weight_decay,
        ", expected a finite number, 0 or more");
  check(std::isfinite(gradient_scale), "Adam: gradient_scale is ", gradient_scale,
        ", expected a finite number");
}

template <class Model>
class Adam {
 public:
  AdamOptions options;

  // Allocates moments of all weights. The first step releases those of weights with an empty gradient.
  explicit Adam(AdamOptions options_ = {}) : options(options_) { list_weights(); }
  // Keeps moments of the weights of which `grad` is not empty, and never both moments of all weights.
  Adam(AdamOptions options_, const Model& grad)
      : options(options_), m_(moments_of(grad)), v_(moments_of(grad)) {
    list_weights();
  }
  // The same and keep_parts(parts), without whole moments at any time.
  Adam(AdamOptions options_, const Model& grad, std::span<const Rows> parts)
      : options(options_), m_(no_moments()), v_(no_moments()) {
    list_weights();
    keep_parts(parts);
    std::size_t number = 0;
    for_each_weight(
        [&](const auto& g, auto& m, auto& v) {
          if (!g.empty()) parts_[number].hold(m, v);
          ++number;
        },
        grad, m_, v_);
  }

  // One step. gradient_scale multiplies the gradient (clip_scale in train/clip.hpp). Weights with an empty
  // gradient are unchanged, and so are their moments and step counts; moments without a step are released.
  // A weight that gets a gradient later gets moments then: that step allocates. Throws std::invalid_argument
  // for invalid options; then nothing changes.
  void step(Model& model, const Model& grad, const Exec& exec = {}, double gradient_scale = 1) {
    check_adam(options, gradient_scale);
    std::size_t number = 0;
    for_each_weight_of_kind(
        [&](Kind kind, auto& w, const auto& g, auto& m, auto& v) {
          AdamRun& run = runs_[number];
          std::int64_t& t = steps_[number++];
          run.g = nullptr;  // not updated, unless set below
          if (kind == Kind::buffer || w.empty()) return;
          Part* const part = parts_.empty() ? nullptr : &parts_[number - 1];
          if (g.empty()) {
            if (t > 0) return;
            m.release(), v.release();  // zeros
            if (part) part->m.release(), part->v.release();
            return;
          }
          if (part)
            part->hold(m, v);
          else if (m.empty() || v.empty())
            m.allocate(), v.allocate();
          if (kind == Kind::sparse && !g.touched && options.empty_expert == EmptyExpert::skip) return;
          const bool decays = options.decay_of == DecayOf::everything || w.shape.size() > 1;
          run.step = constants(++t, decays ? options.weight_decay : 0, gradient_scale);
          const Index first = part ? part->elements.first : 0;
          run.g = g.data() + first, run.w = w.data() + first;
          run.m = part ? part->m.data() : m.data(), run.v = part ? part->v.data() : v.data();
        },
        model, grad, m_, v_);
    for_each_piece(exec, runs_.empty() ? 0 : runs_.back().end, 2048, [&](Rows lines) {
      for_each_run(std::span<const AdamRun>(runs_), lines, [](const AdamRun& run, Rows r) {
        if (run.g == nullptr) return;
        kernels::adam(run.step, run.g + r.first, run.w + r.first, run.m + r.first, run.v + r.first, r.count);
      });
    });
  }

  static constexpr auto fields() {
    return Fields{Field{"first_moment", &Adam::m_}, Field{"second_moment", &Adam::v_}};
  }
  const Model& first_moment() const { return m_; }
  const Model& second_moment() const { return v_; }
  // Steps taken by each weight, in the order of fields().
  const std::vector<std::int64_t>& steps() const { return steps_; }
  // Throws std::invalid_argument unless there is a count of at least 0 for each weight, 0 without moments
  // (with keep_parts, they may be anywhere).
  void set_steps(std::span<const std::int64_t> counts) {
    check(counts.size() == steps_.size(), "Adam: ", counts.size(), " step counts for ", steps_.size(),
          " weights: one each");
    std::size_t number = 0;
    for_each_named_weight(
        [&](const std::string& path, Kind, const auto& m, const auto& v) {
          const std::int64_t count = counts[number++];
          check(count >= 0, "Adam: a step count is ", count, ", expected 0 or more");
          check(count == 0 || !parts_.empty() || !(m.empty() || v.empty()), "Adam: the step count of ", path,
                " is ", count, ", but a moment of it is missing, expected both, or 0 steps");
        },
        std::as_const(m_), std::as_const(v_));
    steps_.assign(counts.begin(), counts.end());
  }

  // From now on, steps update only elements parts[i] of weight i, in the order of fields(), and only their
  // moments are held: other ranks update the others (dist/distribution.hpp). The trees of moments become
  // empty. If they are filled again, from a file, the next step or call takes the parts from them. Throws
  // std::invalid_argument for other numbers of weights or elements, and if other parts are held.
  void keep_parts(std::span<const Rows> parts) {
    check(parts.size() == steps_.size(), "Adam: ", parts.size(), " parts for ", steps_.size(),
          " weights: one each");
    std::size_t number = 0;
    Index end = 0;
    parts_.resize(parts.size());
    for_each_weight(
        [&](auto& m, auto& v) {
          const Rows elements = parts[number];
          check(elements.first >= 0 && elements.count >= 0 && elements.first + elements.count <= m.extent,
                "Adam: a part has elements ", elements.first, " to ", elements.first + elements.count - 1,
                " of ", m.extent);
          Part& part = parts_[number];
          const bool same = part.elements.first == elements.first && part.elements.count == elements.count;
          check(same || part.m.size() == 0 || !m.empty(), "Adam: moments of weight ", number,
                " are those of another part: load whole moments first");
          part.elements = elements;
          if (!m.empty() && !v.empty()) part.hold(m, v);
          end += lines_of(elements.count);
          runs_[number].size = elements.count, runs_[number].end = end;
          ++number;
        },
        m_, v_);
  }
  // After keep_parts: the part of a moment, by its index in the order of fields().
  const Buffer<walk::Scalar<Model>>& part(std::size_t number) const {
    check(number < 2 * parts_.size(),
          "Adam: moments are whole: call keep_parts, or keep_own_experts of Distribution, first");
    const std::size_t n = parts_.size();
    return number < n ? parts_[number].m : parts_[number - n].v;
  }

 private:
  using T = walk::Scalar<Model>;
  struct Part {
    Rows elements{};
    Buffer<T> m, v;

    // Cuts whole moments; without them, the part is zero unless it is held.
    template <class W>
    void hold(W& whole_m, W& whole_v) {
      const auto cut = [&](W& whole, Buffer<T>& part) {
        part.resize(elements.count);
        if (whole.empty()) return;
        std::copy_n(whole.data() + elements.first, elements.count, part.data());
        whole.release();
      };
      cut(whole_m, m), cut(whole_v, v);
    }
  };
  struct AdamRun {
    Index size, end;  // see core/runs.hpp
    const T* g = nullptr;
    T *w = nullptr, *m = nullptr, *v = nullptr;
    kernels::AdamStep<T> step{};
  };

  void list_weights() {
    for_each_weight(
        [&](auto& m) {
          runs_.push_back(
              {.size = m.extent, .end = lines_of(m.extent) + (runs_.empty() ? 0 : runs_.back().end)});
        },
        m_);
    steps_.resize(runs_.size());
  }
  static Model moments_of(const Model& grad) {
    Model moments;
    for_each_weight(
        [](auto& m, const auto& g) {
          if (g.empty()) m.release();
        },
        moments, grad);
    return moments;
  }

  static Model no_moments() {
    Model moments;
    for_each_weight([](auto& m) { m.release(); }, moments);
    return moments;
  }

  kernels::AdamStep<T> constants(std::int64_t t, double decay, double gradient_scale) const {
    const auto time = static_cast<double>(t);
    const bool decoupled = options.decay == Decay::decoupled;
    return {static_cast<T>(gradient_scale),
            static_cast<T>(options.beta1),
            static_cast<T>(options.beta2),
            static_cast<T>(options.learning_rate / (1 - std::pow(options.beta1, time))),
            static_cast<T>(1 / std::sqrt(1 - std::pow(options.beta2, time))),
            static_cast<T>(options.epsilon),
            static_cast<T>(decoupled ? 1 - options.learning_rate * decay : 1),
            static_cast<T>(decoupled ? 0 : decay)};
  }
  Model m_, v_;
  std::vector<AdamRun> runs_;        // of all weights, in the order of fields()
  std::vector<std::int64_t> steps_;  // likewise
  std::vector<Part> parts_;          // likewise; none: moments are whole
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
