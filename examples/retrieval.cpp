// A language model that reads facts from a store. Every text is about a world of its own, so that no fact can
// be learned by heart: the model learns to find it in the passages that are retrieved.
#include <moegpt/moegpt.hpp>

#include <cstdio>

using namespace moegpt;

// Words: "." and three others, then lands, then cities.
constexpr int stop = 0, capital_of = 1, is = 2, nothing = 3, land = 4, lands = 8, city = land + lands,
              cities = 8;
constexpr int chunk = 4, chunks = 5, steps = 500;
constexpr Config trunk{
    .vocab = city + cities, .context = chunk * chunks, .dim = 32, .layers = 2, .heads = 2, .hidden = 32};
constexpr Config encoder{.vocab = city + cities,
                         .context = 4,
                         .dim = 32,
                         .layers = 1,
                         .heads = 2,
                         .hidden = 32,
                         .mask = Mask::full};
constexpr RetrievalShape shape{.chunk = chunk, .passages = 2, .length = 4, .after = {0}};
using Model = RetrievalGPT<trunk, shape, encoder, TopKRouter<4, 2>>;

std::string word(int id) {
  const char* const first[] = {"ba", "de", "fi", "go"};
  const char* const words[] = {".", "capital of", "is", "-"};
  if (id < land) return words[id];
  return std::string(id < city ? "L" : "C") + first[id % 4] + first[id / 4 % 4];
}

// Texts, the passages of their worlds, and those that are retrieved. A passage is "capital of <land> is
// <city>"; a text is "- . capital of <land> <city> . capital of <land> <city> . capital of ...", its cities
// are targets.
struct Texts {
  HashedNGrams retriever{.features = 1024};
  PassageStore store{retriever.dim()};
  Batch batch{{32, chunk* chunks}};
  ChunkPassages right{}, wrong{}, none{};

  explicit Texts(Key key) {
    Rng rng(key);
    for (int text = 0; text < batch.shape.batch; ++text) {
      int city_of[lands];
      for (int i = 0; i < lands; ++i) {
        city_of[i] = city + static_cast<int>(rng.below(cities));
        add_passage(store, retriever, std::array{capital_of, land + i, is, city_of[i]}, text * lands + i);
      }
      int answer = nothing, asked = static_cast<int>(rng.below(lands));
      for (int c = 0; c < chunks; ++c, asked = (asked + 3) % lands) {
        for (const int id : {answer, stop, capital_of, land + asked}) batch.inputs.push_back(id);
        answer = city_of[asked];
        for (const int target : {-1, -1, -1, answer}) batch.targets.push_back(target);
      }
    }
    // source / lands is the world of a passage, source % lands its land
    const auto other = [&](const ChunkOf& c, Index i) { return store.source(i) / lands != c.sequence; };
    const auto answers = [&](const ChunkOf& c, Index i) {
      const auto text = batch.inputs.begin() + c.sequence * batch.shape.length;
      return other(c, i) || std::count(text, text + batch.shape.length, land + store.source(i) % lands) > 0;
    };
    ChunkSearch search;
    retrieve_chunks(store, retriever, batch.inputs, batch.shape, {}, shape, right, search, {}, other);
    retrieve_chunks(store, retriever, batch.inputs, batch.shape, {}, shape, wrong, search, {}, answers);
  }
};

int main() {
  const Key seed{1337};
  Model model, grad;
  init(model, seed, Init::makemoe);
  Adam<Model> adam;
  Model::Workspace work{{32, chunk * chunks}, Exec{.threads = 2}, {.balance = 0.01}};
  const Texts test(seed.with(Purpose::evaluation));
  for (int step = 0; step <= steps; ++step) {
    const Texts texts(seed.with(Purpose::batch, step));
    const ChunkPassages& passages = step % 4 == 0 ? texts.none : step % 4 == 1 ? texts.wrong : texts.right;
    if (step % 100 == 0) {
      const auto loss = [&](const ChunkPassages& p) {
        return model.forward(test.batch, p, work).cross_entropy;
      };
      std::printf(
          "step %3d  loss of a fact: %.3f with the right passages, %.3f with wrong ones, %.3f without\n",
          step, loss(test.right), loss(test.wrong), loss(test.none));
    }
    model.forward(texts.batch, passages, work);
    set_zero(grad);
    model.backward(texts.batch, passages, work, grad);
    adam.options.learning_rate = 1e-2 * std::min(1.0, 2.0 * (steps + 10 - step) / steps);
    adam.step(model, grad, work.exec);
  }
  std::puts("\nretrieved for each chunk of a text, and the city that the model expects after it:");
  model.forward(test.batch, test.right, work);
  for (Index c = 0; c < chunks; ++c) {
    std::string text = "  ";
    for (Index t = 0; t < chunk; ++t)
      (text += ' ') += word(test.batch.inputs[static_cast<std::size_t>(c * chunk + t)]);
    const auto passage = test.store.text(test.right.index[static_cast<std::size_t>(c * shape.passages)]);
    std::string found;
    for (const int id : passage) (found += ' ') += word(id);
    const float* const logits = work.tape.head.logits[c * chunk + chunk - 1];
    const auto best = std::max_element(logits, logits + Model::V) - logits;
    std::printf("%-30s [%s ]  ->  %s\n", text.c_str(), found.c_str(), word(static_cast<int>(best)).c_str());
  }
}
