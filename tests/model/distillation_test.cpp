// tests/golden/make_distillation.py wrote the numbers of PyTorch, and its comment says what they are.
#include <moegpt/io/safetensors.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include "support.hpp"

namespace {

constexpr Config config{.vocab = 11, .context = 5, .dim = 6, .layers = 1, .heads = 2, .hidden = 5};
using Student = GPT<config, Dense, double>;
using Teacher = GPT<config, TopKRouter<3, 2>, double>;
const Shape shape{2, 5};

// A student that learns from fixed logits, with the interface of a model.
struct Distilled : Student {
  Loss forward(const Batch& batch, Workspace& work, std::optional<Key> key) const {
    static const Tokens<V, double> teacher = [] {
      Tokens<V, double> logits(shape.tokens());
      Rng rng(5);
      for (double& z : logits.memory()) z = 2 * rng.normal();
      return logits;
    }();
    return Student::forward(batch, work, key, work.objective,
                            {teacher.rows({0, batch.shape.tokens()}), {.temperature = 2.5, .weight = 0.7}});
  }
};

struct Case {
  double temperature, weight;
};
constexpr Case cases[] = {{1, 0.5}, {2.5, 0.9}, {4, 1}, {0.7, 0.25}, {3, 0}};

std::vector<double> numbers(const std::string& name) {
  static const SafetensorsFile file = read_safetensors(MOEGPT_TESTS_DIR "/golden/distillation.safetensors");
  const TensorInfo& tensor = file.header.tensors.at(name);
  Index count = 1;
  for (const Index extent : tensor.shape) count *= extent;
  std::vector<double> all(static_cast<std::size_t>(count));
  for_each_number<double>(tensor.dtype, file.bytes(tensor).data(), count,
                          [&](Index i, double x) { all[static_cast<std::size_t>(i)] = x; });
  return all;
}

}  // namespace

TEST_CASE("the gradient of a distilled model is its differences") {
  for (const std::uint64_t seed : {1, 2, 3}) {
    const GradcheckReport report = gradcheck<Distilled>(
        {.seed = seed, .pass = {.shape = shape, .options = {.logit_scale = 0.7}}, .per_tensor = 24});
    INFO("seed " << seed << ", worst " << report.worst << " in " << report.where);
    INFO(report.message);
    REQUIRE(report.ok);
    REQUIRE(report.worst <= 1e-6);
  }
}

TEST_CASE("the distillation loss and its gradient are PyTorch's") {
  constexpr int V = 21;
  constexpr Index N = 9;
  using Identity = Head<V, V, double>;  // its logits are its input
  Identity head, grad;
  Identity::Table unused, d_unused;
  head.weight.eigen().setIdentity();
  Tokens<V, double> x(N), teacher(N), dx(N);
  const std::vector<double> logits = numbers("logits"), of_teacher = numbers("teacher");
  std::copy(logits.begin(), logits.end(), x[0]);
  std::copy(of_teacher.begin(), of_teacher.end(), teacher[0]);
  std::vector<int> targets;
  for (const double id : numbers("targets")) targets.push_back(static_cast<int>(id));
  Identity::Tape tape;
  Identity::Scratch scratch;
  const Pass pass{.shape = {3, 3}};
  for (std::size_t i = 0; i < std::size(cases); ++i) {
    const auto [temperature, weight] = cases[i];
    const SoftTargets<V, double> soft{teacher, {temperature, weight}};
    const double hard = head.loss(x, unused, targets.data(), tape, pass, soft);
    const double loss = soft.hard_weight() * hard + soft.soft_weight() * tape.mean_divergence;
    head.backward(x, unused, tape, dx, grad, d_unused, scratch, pass);
    const std::string number = std::to_string(i);
    INFO("T " << temperature << " weight " << weight);
    CHECK(tape.mean_divergence == Approx(numbers("divergence." + number)[0]).epsilon(1e-10));
    CHECK(loss == Approx(numbers("loss." + number)[0]).epsilon(1e-10));
    double worst = 0;
    const std::vector<double> expected = numbers("d." + number);
    for (std::size_t j = 0; j < expected.size(); ++j)
      worst = std::max(worst, std::abs(expected[j] - dx.memory()[static_cast<Index>(j)]));
    CHECK(worst <= 1e-10);
  }
}

TEST_CASE("a student with its teacher's weights has divergence zero, and only the hard gradient") {
  const auto student = random_model<Student>(1);
  const auto hard = std::make_unique<Student>(), both = std::make_unique<Student>();
  const Batch batch = random_batch(shape, config.vocab, 2);
  Student::Workspace work(shape), teacher_work(shape, {}, {}, Use::inference);
  const Loss plain = student->forward(batch, work);
  student->backward(batch, work, *hard);
  const Loss loss = student->forward(batch, work, {}, work.objective,
                                     soft_targets(*student, batch, teacher_work, {3, 0.75}));
  student->backward(batch, work, *both);
  CHECK(loss.cross_entropy == plain.cross_entropy);
  CHECK(loss.divergence == 0);
  CHECK(loss.total({}) == 0.25 * plain.cross_entropy);
  for_each_weight(
      [](const auto& a, const auto& b) {
        for (Index i = 0; i < a.size(); ++i) CHECK(b[i] == Approx(0.25 * a[i]).epsilon(1e-12).margin(1e-15));
      },
      *hard, *both);
}

TEST_CASE("a mixture teaches a dense model: the divergence falls") {
  const auto teacher = random_model<Teacher>(3);
  const auto student = random_model<Student>(4), grad = std::make_unique<Student>();
  const Batch batch = random_batch(shape, config.vocab, 5);
  Teacher::Workspace teacher_work(shape, {}, {}, Use::inference);
  Student::Workspace work(shape);
  const auto soft = soft_targets(*teacher, batch, teacher_work, {.temperature = 2, .weight = 1});
  const double before = student->forward(batch, work, {}, work.objective, soft).divergence;
  CHECK(before > 0);
  for (int step = 0; step < 30; ++step) {
    student->forward(batch, work, {}, work.objective, soft);
    set_zero(*grad);
    student->backward(batch, work, *grad);
    for_each_weight([](auto& w, const auto& g) { w.eigen() -= 0.1 * g.eigen(); }, *student, *grad);
  }
  CHECK(student->forward(batch, work, {}, work.objective, soft).divergence < 0.5 * before);
}

TEST_CASE("a forward without soft targets forgets those of the one before") {
  const auto student = random_model<Student>(1);
  const auto fresh = std::make_unique<Student>(), after = std::make_unique<Student>();
  const Batch batch = random_batch(shape, config.vocab, 2);
  Student::Workspace work(shape), used(shape), teacher_work(shape);
  const auto teacher = random_model<Student>(7);
  student->forward(batch, work);
  student->backward(batch, work, *fresh);
  student->forward(batch, used, {}, used.objective, soft_targets(*teacher, batch, teacher_work, {2, 1}));
  const Loss loss = student->forward(batch, used);
  student->backward(batch, used, *after);
  CHECK(loss.divergence == 0);
  CHECK(loss.total({}) == loss.cross_entropy);
  CHECK(first_difference(*fresh, *after) == "");
}

TEST_CASE("a distilled gradient has the same bits for three threads") {
  const auto student = random_model<Student>(1), teacher = random_model<Student>(2);
  const Batch batch = random_batch(shape, config.vocab, 2);
  Student::Workspace teacher_work(shape);
  const auto soft = soft_targets(*teacher, batch, teacher_work, {2, 0.5});
  const auto gradient = [&](int threads) {
    Student::Workspace work(shape, {.threads = threads});
    auto grad = std::make_unique<Student>();
    student->forward(batch, work, {}, work.objective, soft);
    student->backward(batch, work, *grad);
    return grad;
  };
  CHECK(first_difference(*gradient(1), *gradient(3)) == "");
}

TEST_CASE("soft targets that do not fit are rejected") {
  const auto student = random_model<Student>(1);
  const Batch batch = random_batch(shape, config.vocab, 2);
  Student::Workspace work(shape);
  Tokens<11, double> logits(shape.tokens());
  const auto message = [&](In<11, double> soft, const Distillation& options) {
    return refusal([&] { student->forward(batch, work, {}, work.objective, {soft, options}); });
  };
  CHECK(contains(message(logits, {0, 0.5}), "the temperature is 0, expected a finite number above 0"));
  CHECK(contains(message(logits, {2, 1.5}), "the weight of the soft loss is 1.5, expected 0 .. 1"));
  CHECK(contains(message(logits.rows({0, 4}), {2, 0.5}), "logits of 4 tokens, but the batch has 10"));
  CHECK(contains(message(work.tape.head.logits, {2, 0.5}), "a workspace of its own"));
  CHECK(message(logits, {2, 0.5}) == "");
}
