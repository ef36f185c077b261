#include <moegpt/io/model_file.hpp>
#include <moegpt/model/presets.hpp>
#include <moegpt/model/selection_bias.hpp>
#include <moegpt/testing/gradcheck.hpp>
#include <moegpt/testing/leak.hpp>
#include <moegpt/train/adam.hpp>

#include "support.hpp"
#include "support/temporary_folder.hpp"

namespace {

using presets::Extents;

constexpr Extents tiny{
    .vocab = 7, .context = 5, .dim = 8, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 4, .experts = 6};
constexpr Extents tiny_two_of_six = [] {
  Extents x = tiny;
  x.active = 2;
  return x;
}();
constexpr Extents tiny_in_groups = [] {
  Extents x = tiny;
  x.experts = 16, x.active = 3;
  return x;
}();
const Shape shape{2, 5};

// A preset's gradients are differences, it does not look ahead, its first steps lower the loss, and its model
// comes back from a file.
template <class Preset>
void examine(GradcheckOptions options = {}) {
  using Model = presets::ModelOf<Preset, double>;
  for (const std::uint64_t seed : {1, 2, 3}) {
    const Pass pass{.shape = shape, .options = Preset::options(), .key = Key{seed}};
    const RoutingContext routing{.objective = Preset::objective()};
    options.seed = seed, options.pass = pass, options.routing = routing, options.per_tensor = 8;
    const GradcheckReport report = gradcheck<Model>(options);
    CAPTURE(seed, report.where, report.message);
    REQUIRE(report.ok);
    REQUIRE(report.worst <= 1e-6);
  }

  if constexpr (Model::config.mask == Mask::causal) {
    const LeakReport leak = find_leak<Model>({.shape = shape,
                                              .options = Preset::options(),
                                              .objective = Preset::objective(),
                                              .key = Key{4},
                                              .draws = 2});
    CAPTURE(leak.text());
    CHECK_FALSE(leak.leaks);
  }

  Model model, grad, read;
  init(model, Key{1}, Preset::init);
  model.options = Preset::options();
  typename Model::Workspace work{shape, {}, Preset::objective()};
  Adam<Model> adam{{.learning_rate = 1e-3}};
  const Batch batch = random_batch(shape, Model::config.vocab, 2);
  const double before = model.forward(batch, work).cross_entropy;
  for (int step = 0; step < 5; ++step) {
    set_zero(grad);
    model.forward(batch, work);
    model.backward(batch, work, grad);
    adam.step(model, grad);
  }
  const double after = model.forward(batch, work).cross_entropy;
  CHECK(after < before);

  const TemporaryFolder folder;
  const std::string path = (folder / "model.safetensors").string();
  save(path, model, Tokenizer::characters("abcdefg"));
  Tokenizer tokenizer;
  load(path, read, tokenizer);
  CHECK(read.forward(batch, work).cross_entropy == after);
  CHECK_FALSE(contains(to_text<Model>(), "your router"));
}

}  // namespace

TEST_CASE("makemoe is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::makemoe<tiny_two_of_six>>();
}
TEST_CASE("gpt2_moe is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::gpt2_moe<tiny_two_of_six>>();
}
TEST_CASE("switch_base is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::switch_base<tiny>>();
}
TEST_CASE("gshard is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::gshard<tiny>>();
}
TEST_CASE("glam is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::glam<tiny>>();
}
TEST_CASE("mixtral is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::mixtral<tiny_two_of_six>>();
}
TEST_CASE("olmoe is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::olmoe<tiny_two_of_six>>();
}
TEST_CASE("qwen_moe is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::qwen_moe<tiny_two_of_six>>();
}
TEST_CASE("qwen3_moe is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::qwen3_moe<tiny_two_of_six>>();
}
TEST_CASE("granite_moe is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::granite_moe<tiny_two_of_six>>();
}
TEST_CASE("deepseek_moe is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::deepseek_moe<tiny_in_groups>>();
}

TEST_CASE("dense_mixture is right in its gradients, learns, and comes back from a file") {
  examine<presets::dense_mixture<tiny>>();
}
TEST_CASE("masked_encoder is right in its gradients, learns, and comes back from a file") {
  constexpr Extents few = [] {
    Extents x = tiny;
    x.experts = 3, x.active = 2;
    return x;
  }();
  // Without norms the stream grows from layer to layer: smaller weights keep third derivatives small.
  examine<presets::masked_encoder<few>>({.spread = 0.2});
}

TEST_CASE("a block of dense_mixture is two norms of sums, with all experts, one projection and no mask") {
  using Model = presets::ModelOf<presets::dense_mixture<tiny>, double>;
  const auto model = random_model<Model>(5);
  Model::Workspace work{{1, 5}};
  model->forward(random_batch({1, 5}, 7, 2), work);
  const auto& block = model->trunk.blocks.second[0];
  const Eigen::MatrixXd x = work.tape.trunk.stream[0].eigen();
  const auto affine = [](const auto& linear, const Eigen::MatrixXd& in) -> Eigen::MatrixXd {
    return (linear.weight.eigen() * in).colwise() + Eigen::VectorXd(linear.bias.eigen().transpose());
  };
  const auto softmax = [](const Eigen::MatrixXd& scores) -> Eigen::MatrixXd {  // of each column
    const Eigen::MatrixXd e = scores.array().exp();
    return e * e.colwise().sum().cwiseInverse().eval().asDiagonal();
  };
  const auto norm = [](const auto& layer, const Eigen::MatrixXd& in) {
    Eigen::MatrixXd out = in;
    for (Index n = 0; n < in.cols(); ++n) {
      const Eigen::VectorXd c = in.col(n).array() - in.col(n).mean();
      out.col(n) = c / std::sqrt(c.squaredNorm() / 8 + 1e-5);
      for (int i = 0; i < 8; ++i) out(i, n) = out(i, n) * layer.weight[i] + layer.bias[i];
    }
    return out;
  };
  const Eigen::MatrixXd q = affine(block.attention.query, x), k = affine(block.attention.key, x),
                        v = affine(block.attention.value, x);
  Eigen::MatrixXd mixed(8, 5);
  for (int h = 0; h < 4; ++h)  // two features of a head; two heads share a key/value head
    mixed.middleRows(2 * h, 2) =
        v.middleRows(h / 2 * 2, 2) *
        softmax(k.middleRows(h / 2 * 2, 2).transpose() * q.middleRows(2 * h, 2) / std::sqrt(2.0));
  const Eigen::MatrixXd middle = norm(block.norm1, x + affine(block.attention.output, mixed));
  const auto& mixture = block.mixture;
  const Eigen::MatrixXd p = softmax(affine(mixture.mixture.router.logits, middle));
  Eigen::MatrixXd sum = Eigen::MatrixXd::Zero(4, 5);
  for (int e = 0; e < 6; ++e)
    sum += affine(mixture.mixture.experts[static_cast<std::size_t>(e)].map, middle) * p.row(e).asDiagonal();
  const Eigen::MatrixXd y = norm(block.norm2, middle + affine(mixture.down, sum.cwiseMax(0)));
  CHECK((y - work.tape.trunk.stream[1].eigen()).cwiseAbs().maxCoeff() < 1e-12);
}

TEST_CASE("masked_encoder has no norms, and one mixture, with a mask for each task, in its last layer") {
  using Model = presets::ModelOf<presets::masked_encoder<tiny_two_of_six, 3>, double>;
  CHECK((Model::config.residual == Residual::no_norm && Model::config.mask == Mask::full));
  CHECK_FALSE(Model::config.is_moe(0));
  CHECK(Model::config.is_moe(1));
  const auto model = random_model<Model>(5);
  auto& router = model->trunk.blocks.second[0].mixture.mixture.router;
  REQUIRE(router.mask.size() == 3);
  Model::Workspace work{shape};
  const Batch batch = random_batch(shape, 7, 2);
  const auto loss = [&](int task) {
    work.task = task;
    return model->forward(batch, work).cross_entropy;
  };
  const double of_task_0 = loss(0), of_task_1 = loss(1);
  for (int e = 0; e < 6; ++e) router.mask[1][e] = 0;  // no expert
  CHECK(loss(0) == of_task_0);
  CHECK(loss(1) != of_task_1);
}

TEST_CASE("the selection bias of deepseek_moe moves against the load, by the preset's rate") {
  using Preset = presets::deepseek_moe<tiny_in_groups>;
  using Model = presets::ModelOf<Preset, double>;
  Model model;
  init(model, Key{1}, Preset::init);
  Model::Workspace work{shape};
  model.forward(random_batch(shape, Model::config.vocab, 2), work);
  ExpertCounts<Model> counts;
  counts.add(model, work);
  balance_selection(model, counts, Preset::balance_rate, false);
  const auto& bias = model.trunk.blocks.second[0].mixture.routed.router.selection_bias;
  const auto& wanted = work.tape.trunk.blocks.second[0].mixture.plan.wanted;
  for (int e = 0; e < 16; ++e)
    CHECK(bias[e] == (16 * wanted[e] < 3 * shape.tokens() ? 0.001 : -0.001));  // 30 / 16
}

TEST_CASE("a preset has the published extents unless it is given others, and keeps their proportions") {
  using Published = presets::mixtral<>;
  CHECK(Published::config.hidden == 14336);
  CHECK(Published::config.kv_heads == 8);
  using Small = presets::mixtral<Extents{.vocab = 65, .context = 64, .dim = 64, .layers = 4, .heads = 8}>;
  CHECK(Small::config.hidden == 224);
  CHECK(Small::config.kv_heads == 2);
  CHECK(Small::RouterRecipe::experts == 8);
  CHECK(presets::olmoe<>::config.hidden == 1024);
  CHECK(presets::qwen_moe<>::config.hidden == 1408);
  CHECK(presets::deepseek_moe<>::config.hidden == 2048);
  CHECK(presets::deepseek_moe<>::config.dense_hidden == 18432);
  CHECK(presets::deepseek_moe<>::config.dense_first == 3);
}
