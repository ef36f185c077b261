// The excerpts of docs/tour.md.
#include "support/numbers.hpp"
#include "support/temporary_folder.hpp"

#include <moegpt/io.hpp>
#include <moegpt/io/huggingface.hpp>
#include <moegpt/io/tokenizer_file.hpp>
#include <moegpt/testing/leak.hpp>
#include <moegpt/text/train_byte_pairs.hpp>

#include <numeric>

using namespace moegpt;

namespace {

constexpr Config tiny{.vocab = 256, .context = 16, .dim = 8, .layers = 2, .heads = 2, .hidden = 12};
using Model = GPT<tiny, TopKRouter<4, 2>>;

constexpr Config modern{.vocab = 256,
                        .context = 128,
                        .dim = 64,
                        .layers = 4,
                        .heads = 4,
                        .hidden = 128,
                        .norm = Norm::rms,
                        .positions = Positions::rotary,
                        .activation = Activation::silu,
                        .gated = true,
                        .output_bias = false,
                        .expert_bias = false};
static_assert(
    std::is_same_v<GPT<modern>::Trunk::ExpertType, GatedExpert<64, 128, Activation::silu, float, false>>);
constexpr Config only_gated{
    .vocab = 256, .context = 128, .dim = 64, .layers = 4, .heads = 4, .hidden = 128, .gated = true};
static_assert(
    std::is_same_v<GPT<only_gated>::Trunk::ExpertType, GatedExpert<64, 128, Activation::gelu, float, true>>);

constexpr Config encoder{.vocab = 256,
                         .context = 64,
                         .dim = 64,
                         .layers = 6,
                         .heads = 4,
                         .hidden = 64,
                         .dense_hidden = 256,
                         .mask = Mask::full,
                         .residual = Residual::post_norm,
                         .mixture_at = {1, 3, 4}};  // or [](int layer) { return layer % 2 == 1; }
static_assert(GPT<encoder, ExpertChoiceRouter<4>>::Trunk::Blocks::bs == 3);

constexpr Config local{.vocab = 256,
                       .context = 1 << 16,
                       .dim = 64,
                       .layers = 6,
                       .heads = 4,
                       .hidden = 64,
                       .window = 256,
                       .window_at = [](int layer) { return layer % 6 != 5; },  // five of six layers
                       .positions = Positions::rotary};
static_assert(KVCache<local>::shape.cache_rows(0, local.context) == 256 + 128);

using Preset =
    presets::mixtral<presets::Extents{.vocab = 256, .context = 64, .dim = 64, .layers = 4, .heads = 4}>;
using Mixtral = presets::ModelOf<Preset>;  // with Preset::options(), Preset::objective() and Preset::init
static_assert(Mixtral::config.kv_heads == 1 && Mixtral::config.hidden == 224);

Batch some_batch(Shape shape) {
  Batch batch{shape};
  sample_batch(Tokenizer::bytes().encode("In the beginning was the word, and then a token."), batch, Key{3});
  return batch;
}

}  // namespace

TEST_CASE("a config can leave out every bias") {
  const GPT<modern, TopKRouter<4, 2>> model;
  for_each_named_weight(
      [](const std::string& path, Kind, const auto&) {
        CAPTURE(path);
        CHECK(path.find("bias") == std::string::npos);
      },
      model);
}

TEST_CASE("a step may clip and follow a schedule") {
  Model model, grad;
  const Key seed{1};
  init(model, seed);
  Model::Workspace work{{.batch = 2, .length = 8}, Exec{}, {.dropout = 0.1}};
  const Batch batch = some_batch(work.shape);
  const double before = model.forward(batch, work).cross_entropy;
  Adam<Model> adam;

  const WarmupCosine rate{.peak = 3e-3, .minimum = 3e-4, .warmup = 10, .steps = 100};
  for (int step = 0; step < rate.steps; ++step) {
    model.forward(batch, work, seed.with(Purpose::step, step));
    set_zero(grad);
    model.backward(batch, work, grad);
    adam.options.learning_rate = rate(step);
    adam.step(model, grad, work.exec, clip_scale(global_norm(grad, work.exec), 1.0));
  }
  CHECK(model.forward(batch, work).cross_entropy < before);
  CHECK(adam.options.learning_rate == Approx(3e-4).epsilon(0.01));
  CHECK(!bars(expert_load(work)).empty());
}

TEST_CASE("the tape and the plan hold the intermediates of every layer") {
  Model model;
  init(model, Key{1});
  Model::Workspace work{{.batch = 2, .length = 8}};
  const Batch batch = some_batch(work.shape);
  Eigen::VectorXf middle;
  std::vector<float> gates(16);

  model.forward(batch, work);
  work.tape.trunk.blocks.at_layer(1, [&](const auto& block) {
    middle = block.middle.eigen().col(3);  // token 3 after attention: D numbers
    const RoutingPlan<float>& plan = block.mixture.plan;
    for (int e = 0; e < plan.experts; ++e)
      for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s)
        gates.at(plan.token[s]) += plan.gate[s];  // this token went to expert e with this gate
  });
  CHECK(middle.size() == 8);
  for (float sum : gates) CHECK(sum == Approx(1));
}

TEST_CASE("statistics, intermediates and the leak test read routing") {
  Model model;
  init(model, Key{1});
  Model::Workspace work{{.batch = 2, .length = 8}};
  const Batch batch = some_batch(work.shape);

  RoutingStatistics<Model> seen;
  model.forward(batch, work);
  seen.add(model, work);  // after as many forwards as you like
  const double worst = seen.worst_violation(), first = seen.layers[0].routing.max_violation();
  const std::string json = to_json(intermediates(model, work, {.expert_outputs = true}));
  const std::string leak = find_leak<Model>({.options = {.capacity_factor = 1}}).text();

  // Sum of the gates that each expert of each layer has.
  std::vector<std::vector<float>> shares;
  const Intermediates<float> all = intermediates(model, work);
  for (const MixtureIntermediates<float>& layer : all.layers) {
    auto& share = shares.emplace_back(layer.experts);
    for (std::size_t pair = 0; pair < layer.gates.size(); ++pair)  // token n and choice j: n * choices + j
      if (const int expert = layer.top_k_indices[pair]; expert >= 0) share.at(expert) += layer.gates[pair];
  }

  for (const auto& share : shares) CHECK(std::accumulate(share.begin(), share.end(), 0.0f) == Approx(16));
  CHECK(shares.size() == all.layers.size());
  CHECK(!shares.empty());
  CHECK(worst >= first);
  CHECK(json.find("gate_scores") != std::string::npos);
  CHECK(leak == "no leak");
}

TEST_CASE("a weight whose gradient is empty is unchanged") {
  Model model, grad;
  init(model, Key{1});
  const Model before = model;  // a copy: models are values
  Model::Workspace work{{.batch = 2, .length = 8}};
  const Batch batch = some_batch(work.shape);
  Adam<Model> adam;

  for_each_named_weight(
      [](const std::string& path, Kind, auto& d_weight) {
        if (path.find("experts") == std::string::npos) d_weight.release();  // freezes all but the experts
      },
      grad);
  model.forward(batch, work);
  model.backward(batch, work, grad);
  adam.step(model, grad);

  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& now, const auto& was) {
        CAPTURE(path);
        const bool same = std::equal(now.begin(), now.end(), was.begin());
        CHECK(same == (path.find("experts") == std::string::npos));
      },
      model, before);
}

TEST_CASE("a prompt is read at once and then continued one token at a time") {
  Model model;
  init(model, Key{1});
  const std::vector<int> prompt{10, 20, 30};
  Model::Workspace work{{.batch = 1, .length = 16}, Exec{}, {}, Use::inference};

  Model::Cache cache;
  In<Model::V, float> logits = model.logits(prompt, work, cache);  // one row of V numbers for each token
  for (int i = 0; i < 4; ++i) {
    const float* last = logits[logits.count - 1];
    const int likeliest = static_cast<int>(std::max_element(last, last + Model::V) - last);
    logits = model.logits(std::span(&likeliest, 1), work, cache);
  }
  CHECK(cache.length() == 7);
}

TEST_CASE("prompts of different lengths are read together, and a cache selects the sequences that go on") {
  Model model;
  init(model, Key{1});
  Model::Workspace work{{.batch = 4, .length = 16}, Exec{}, {}, Use::inference};
  const std::vector<int> padded{10, 20, 30, 40, 0, 0};

  Model::Cache cache{4};                   // at most four sequences
  cache.gather(std::vector<Index>{0, 1});  // two for now
  const std::vector<Index> lengths{3, 1};  // the second prompt ends after one token
  model.logits(padded, lengths, work, cache);
  cache.gather(std::vector<Index>{1, 0, 0});             // two samples of the first prompt
  model.logits(std::vector<int>{5, 6, 7}, work, cache);  // one more token of each
  cache.truncate(2, 3);                                  // forgets that of the last sequence
  CHECK((cache.length(0) == 2 && cache.length(1) == 4 && cache.length(2) == 3));
}

TEST_CASE("a trained model generates with narrower weights") {
  Model model;
  Tokenizer tokenizer = Tokenizer::bytes();
  init(model, Key{1});
  const TemporaryFolder folder;
  const std::string path = (folder / "narrow.safetensors").string();

  using Narrow = GPT<Model::config, Model::RouterRecipe, Stored<float, INT8>>;  // or BF16, or Stored<float>
  Narrow narrow;
  convert(model, narrow);
  const std::string text = generate(narrow, tokenizer, "In ", {.tokens = 20});
  save(path, narrow, tokenizer);
  load(path, narrow, tokenizer);  // or a file of any other storage
  CHECK(text == generate(narrow, tokenizer, "In ", {.tokens = 20}));
  save(path, model, tokenizer);
  load(path, narrow, tokenizer);
  CHECK(text == generate(narrow, tokenizer, "In ", {.tokens = 20}));
}

TEST_CASE("many texts are generated side by side, and beams are searched") {
  Model model;
  init(model, Key{1});
  const Tokenizer tokenizer = Tokenizer::bytes();
  const Generate how{.tokens = 20,
                     .sampling = {.temperature = 0.7,
                                  .top_p = 0.9,
                                  .min_p = 0.02,
                                  .frequency_penalty = 0.5,
                                  .bias = {{'e', -2}},
                                  .banned = {'z'},
                                  .log_probabilities = 3},
                     .stop = {"\n\n"}};
  const std::vector<std::string> prompts{"To be", "To be", "or not"};
  const std::vector<Continuation> texts = generate_all(model, tokenizer, prompts, how, 2);  // two at a time
  CHECK(texts.size() == 3);
  CHECK(texts[0].ids.size() == texts[0].log_probabilities.size());

  BatchGenerator<Model> batch(model, {.batch = 8, .piece = 64, .exec = {.threads = 2}});
  batch.add({.ids = {1, 2, 3}, .tokens = 10, .seed = 5, .stop_ids = {0}});
  batch.add({.ids = {1, 2, 4}, .tokens = 20});
  std::vector<std::vector<int>> ids(2);
  while (!batch.done())
    for (const Drawn& token : batch.step()) ids[static_cast<std::size_t>(token.sequence)].push_back(token.id);
  CHECK(ids[1].size() == 20);

  const std::vector<int> prompt = tokenizer.encode("To be");
  const std::vector<Beam> beams = beam_search(model, prompt, {.beams = 4, .tokens = 10, .alpha = 0.6});
  CHECK(beams.front().score >= beams.back().score);
}

TEST_CASE("dropped pairs are read from the plan and the router's choices") {
  Model model;
  init(model, Key{1});
  model.options.capacity_factor = 1;
  Workspace<Model> work({.batch = 2, .length = 8}, {}, {}, Use::inspection);
  const Batch batch{{2, 8}, std::vector<int>(16, 5), std::vector<int>(16, 6)};
  model.forward(batch, work);
  std::vector<std::array<Index, 3>> dropped;
  for_each_mixture(model, work, [&](int layer, const auto&, const auto& tape) {
    const RoutingPlan<float>& plan = tape.plan;
    for (Index n = 0; n < plan.tokens; ++n)
      for (int j = 0; j < plan.choices; ++j)
        if (plan.slot[n * plan.choices + j] == no_slot)
          dropped.push_back({layer, n, tape.router.chosen[n * plan.choices + j]});  // layer, token, expert
  });
  Index count = 0;
  for_each_mixture(model, work, [&](int, const auto&, const auto& tape) { count += tape.plan.dropped(); });
  CHECK(count > 0);
  CHECK(std::ssize(dropped) == count);
  for (const auto& [layer, token, expert] : dropped) CHECK((expert >= 0 && expert < 4));
}

TEST_CASE("documents are packed in one sequence") {
  Model model;
  init(model, Key{1});
  Batch batch{{2, 8}};
  batch.inputs = {1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 0, 9, 10, 11, 12, 0};
  for (std::size_t n = 0; n < 16; ++n)
    batch.targets.push_back(batch.inputs[n] == 0 ? -1 : batch.inputs[n + 1]);  // none across an end
  batch.documents = documents_of(batch.inputs, batch.shape, 0);
  Workspace<Model> work(batch.shape);
  CHECK(model.forward(batch, work).targets == 12);
}

TEST_CASE("a corpus of several files is read, written and accumulated in micro-batches") {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "books");
  for (const char* name : {"books/a.txt", "books/b.txt", "notes.md"})
    write_file_atomically(folder / name, [](auto& out) {
      for (int i = 0; i < 20; ++i) out.write("In the beginning was the word, and then a token.\r\n");
    });
  const Key seed{1};

  const std::vector<std::string> names{(folder / "books").string(), (folder / "*.md").string()};
  const TextFiles text{.files = list_files(names), .separator = "\f"};
  const Tokenizer tokenizer = Tokenizer::characters(survey(text).alphabet);
  const auto [train, val] = split_tokens(encode(text, tokenizer), 0.9);
  CHECK(train.size() + val.size() == 3 * 20 * 49 + 2);

  write_tokens(folder / "train.bin", train, TokenType::u16);
  const TokenSequence tokens = read_tokens(folder / "train.bin", {.vocab = tokenizer.vocab()});
  CHECK(hash_of(tokens) == hash_of(train));

  Model model, grad;
  init(model, seed);
  Model::Workspace work{{.batch = 2, .length = 8}, Exec{}, {.balance = 0.01}};
  Adam<Model> adam;
  Batches batches(tokens, {.shape = work.shape, .order = WindowOrder::shuffled}, seed);

  Accumulator<Model> accumulator(BalanceLoads::so_far);
  std::vector<Batch> micro(4);
  for (int step = 0; step < 3; ++step) {
    for (Batch& b : micro) batches.next(b);
    set_zero(grad);
    const Loss loss = accumulator.step(model, micro, work, grad, seed.with(Purpose::step, step));
    adam.step(model, grad, work.exec, clip_scale(global_norm(grad), 1.0));
    CHECK(loss.targets == 4 * work.shape.tokens());
  }
  CHECK(batches.cursor() == DataCursor{12, 24});
  CHECK(evaluate(model, val, work) > 0);
}

TEST_CASE("byte pairs are learned, encode a text and go to a tokenizer.json") {
  const TemporaryFolder folder;
  const std::string text = "the cat sat on the mat, and the rat that the cat saw sat on the hat of the cat";

  BytePairTrainer trainer({.vocab = 300, .split = Split::gpt2});
  trainer.add(text);  // as many texts as there are
  const Tokenizer tokenizer = Tokenizer::byte_pairs(trainer.train());
  const std::vector<int> ids = tokenizer.encode("the rat");
  write_tokenizer_json(folder / "tokenizer.json", tokenizer);
  const Tokenizer same = read_tokenizer_json(folder / "tokenizer.json");
  CHECK(tokenizer.decode(ids) == "the rat");
  CHECK(same == tokenizer);
}

TEST_CASE("a model goes to Hugging Face's layout and comes back") {
  const TemporaryFolder folder;
  const std::filesystem::path directory = folder / "model";
  using Mixtral = presets::ModelOf<presets::mixtral<presets::Extents{
      .vocab = 61, .context = 16, .dim = 16, .layers = 1, .heads = 4, .experts = 3}>>;
  Mixtral model, same;
  init(model, Key{1});
  model.options.rotary_base = 1e6;

  save_huggingface(directory, model, "mixtral");  // .dtype = DType::bf16 and .shard_bytes are options
  load_huggingface(directory, same);
  std::puts(stated_type(directory).c_str());  // GPT<Config{...}, TopKRouter<3, 2>>
  CHECK(same.options == model.options);
  CHECK(stated_type(directory) == to_text<Mixtral>());
}

TEST_CASE("one stream attends to another") {
  using Cross = Attention<AttentionShape{.dim = 8, .heads = 2, .mask = Mask::full, .memory_dim = 12}>;
  Cross layer, grad;
  draw_weights(layer, 1);
  const Tokens<8, float> x = random_tokens<8, float>(2 * 5, 2), dy = random_tokens<8, float>(2 * 5, 3);
  const Tokens<12, float> other = random_tokens<12, float>(2 * 7, 4);
  Tokens<8, float> y(10), dx(10);
  Tokens<12, float> d_other(14);
  Cross::Tape tape;
  Cross::Scratch scratch;
  const Pass pass{.shape = {.batch = 2, .length = 5}};  // of x

  const Memory<12, float> memory{other, 7};  // 7 tokens in each sequence; lengths, if some are padding
  layer.forward(x, memory, y, tape, scratch, pass);
  d_other.memory().fill(0);  // is added to, dx is overwritten
  layer.backward(x, memory, tape, dy, dx, Sum<12, float>(d_other.view()), grad, scratch, pass);
  CHECK(kernels::squared_norm(d_other[0], 14 * 12) > 0);
}

TEST_CASE("the number of threads does not affect results") {
  Model model, one, three;
  init(model, Key{1});
  const Batch batch = some_batch({2, 8});
  for (auto [grad, threads] : {std::pair{&one, 1}, std::pair{&three, 3}}) {
    Model::Workspace work{batch.shape, Exec{threads}};
    model.forward(batch, work);
    model.backward(batch, work, *grad);
  }
  bool same = true;
  for_each_weight(
      [&](const auto& a, const auto& b) { same = same && std::equal(a.begin(), a.end(), b.begin()); }, one,
      three);
  CHECK(same);
  CHECK(same_weights(one, three));
}

TEST_CASE("a file contains a complete model") {
  Model model;
  Tokenizer tokenizer = Tokenizer::bytes();
  init(model, Key{1});
  const TemporaryFolder folder;
  const std::string path = (folder / "model.safetensors").string();

  save(path, model, tokenizer);
  CHECK(model_text(path) ==
        "GPT<Config{.vocab = 256, .context = 16, .dim = 8, .layers = 2, .heads = 2, .hidden = 12}, "
        "TopKRouter<4, 2>>");
  Model same;
  load(path, same, tokenizer);
  CHECK(same_weights(model, same));

  const AnyModel<GPT<modern>, Model> any(path);  // throws for a file of a third type
  const std::string text = std::visit(
      [&](const auto& found) { return generate(found, any.tokenizer, "In ", {.tokens = 20}); }, any.model);
  CHECK(text == generate(model, tokenizer, "In ", {.tokens = 20}));
}

TEST_CASE("an error says what was found and what was expected") {
  const Model model;
  Model::Workspace work{{.batch = 1, .length = 4}};
  std::string said;

  const Batch wrong{{.batch = 1, .length = 4}, {1, 2, 300, 4}, {2, 3, 4, 5}};
  try {
    model.forward(wrong, work);
  } catch (const std::invalid_argument& error) {
    said = error.what();  // moegpt: input 2 has token id 300, expected 0 .. 255
  }
  CHECK(said == "moegpt: input 2 has token id 300, expected 0 .. 255");
}
