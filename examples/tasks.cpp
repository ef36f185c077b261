// Trains one encoder with experts for three tasks, a head each, and shows which experts each task uses. Two
// experts are for all tasks, and two for each.
#include <moegpt/moegpt.hpp>

#include <cctype>
#include <cstdio>

using namespace moegpt;

constexpr int D = 32, length = 32, dialects = 4, word_classes = 3, tasks = 3;
constexpr Config encoder{
    .vocab = 128, .context = length, .dim = D, .layers = 2, .heads = 4, .hidden = 64, .mask = Mask::full};
using Recipe = TopKRouter<8, 2>;
using Model = MultiTask<encoder, Recipe, ClassHead<D, dialects>, ClassHead<D, word_classes, Pooling::none>,
                        ClassHead<D, 2, Pooling::first>>;
constexpr const char* names[tasks] = {"dialect of a text", "word class of a letter", "one dialect or two"};

// The class of the word that each character is in; -1: none.
std::vector<int> classes_of(const Dialects& language, const Dialects::Text& text) {
  std::vector<int> found(text.text.size(), -1);
  for (std::size_t from = 0, to; from < found.size(); from = to + 1) {
    std::string word;
    for (to = from; to < found.size() && std::isalpha(text.text[to]); ++to)
      word += static_cast<char>(std::tolower(text.text[to]));
    const auto& classes = language.grammars()[text.dialect_of_char[from]].classes;
    for (std::size_t c = 0; c < word_classes; ++c)
      if (std::ranges::count(classes[c].words, word) > 0)
        for (std::size_t at = from; at < to; ++at) found[at] = static_cast<int>(c);
  }
  return found;
}

int main() {
  const Key seed{1};
  const Dialects language({.dialects = dialects, .classes = word_classes, .words = 16});
  const Dialects::Text text = language.generate(400000, seed);
  const std::vector<int> classes = classes_of(language, text);
  const AllowedExperts<Recipe> experts[tasks] = {{0, 1, 2, 3}, {0, 1, 4, 5}, {0, 1, 6, 7}};

  // A batch of one task, of text[first, first + count).
  const auto sample = [&](int task, Key key, std::uint64_t first, std::uint64_t count) {
    TaskBatch batch{{.shape = {.batch = 16, .length = length}}};
    batch.labels.resize(tasks);
    batch.allowed = experts[task];
    std::vector<int>& labels = batch.labels[static_cast<std::size_t>(task)];
    Rng rng(key);
    for (Index b = 0; b < batch.shape.batch; ++b) {
      std::size_t at = first + rng.below(count - length);
      const int dialect = text.dialect_of_char[at];
      const bool two = task == 2 && rng.below(2) == 1;
      for (int t = 0; t < length; ++t, ++at) {
        if (two && t == length / 2)
          while (text.dialect_of_char[at] == dialect) at = first + rng.below(count - length);
        batch.inputs.push_back(text.text[at]);
        if (task == 1) labels.push_back(classes[at]);
      }
      if (task != 1) labels.push_back(task == 0 ? dialect : two);
    }
    return batch;
  };

  Model model, grad;
  init(model, seed, Init::makemoe);
  Adam<Model> adam{{.learning_rate = 5e-3}};
  Model::Workspace work{{.batch = 16, .length = length}, Exec{}, {.balance = 0.01}};
  for (int step = 0; step < 3000; ++step) {  // one task in each step
    const TaskBatch batch = sample(step % tasks, seed.with(Purpose::batch, step), 0, 380000);
    model.forward(batch, work);
    set_zero(grad);
    model.backward(batch, work, grad);
    adam.step(model, grad, work.exec);
  }

  std::printf("%-24s %9s   experts in layers 0 and 1\n", "task", "held-out");
  for (int task = 0; task < tasks; ++task) {
    RoutingStatistics<Model> seen;
    double correct = 0, labels = 0;
    for (int i = 0; i < 20; ++i) {
      const auto loss = model.forward(sample(task, seed.with(Purpose::evaluation, i), 380000, 20000), work);
      correct += static_cast<double>(loss.correct), labels += static_cast<double>(loss.targets);
      seen.add(model, work);
    }
    std::printf("%-24s %7.1f %%  ", names[task], 100 * correct / labels);
    for (const auto& layer : seen.layers) std::printf(" %s", bars(layer.routing.load).c_str());
    std::puts("");
  }
}
