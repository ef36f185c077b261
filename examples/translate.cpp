// Translates between two invented dialects with an encoder-decoder model: translate PLACEMENT STEPS THREADS.
// Each of 200 words has one translation, and the verb moves to the end of the sentence, so a translation word
// by word is never exact. PLACEMENT of MoE layers: both, encoder, decoder or neither.
#include <moegpt/moegpt.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string_view>

using namespace moegpt;

constexpr int words = 200, verbs = 40, shortest = 5, longest = 12, stop = words;  // ids 0 .. 39 are verbs
constexpr Config source{.vocab = words,
                        .context = longest,
                        .dim = 64,
                        .layers = 2,
                        .heads = 4,
                        .hidden = 128,
                        .mask = Mask::full};
constexpr Config target{
    .vocab = words + 1, .context = longest + 1, .dim = 64, .layers = 2, .heads = 4, .hidden = 128};

int translation(int word) { return (77 * word + 31) % words; }  // the dictionary

std::vector<int> sentence(Rng& rng) {  // one verb, not the last word
  std::vector<int> ids(shortest + rng.below(longest - shortest + 1));
  for (int& id : ids) id = verbs + static_cast<int>(rng.below(words - verbs));
  ids[rng.below(ids.size() - 1)] = static_cast<int>(rng.below(verbs));
  return ids;
}
std::vector<int> translated(const std::vector<int>& ids, bool move_verb = true) {
  std::vector<int> out;
  for (const int id : ids)
    if (id >= verbs || !move_verb) out.push_back(translation(id));
  for (const int id : ids)
    if (id < verbs && move_verb) out.push_back(translation(id));
  return out;
}
std::string text(const std::vector<int>& ids, const char* consonants) {
  std::string line;
  for (const int id : ids)
    for (const int syllable : {id / 20, id % 20}) {
      line += consonants[syllable / 5];
      line += "aeiou"[syllable % 5];
      if (syllable == id % 20) line += ' ';
    }
  return line;
}

// Row b: the source; the target after the stop id; the target followed by the stop id.
PairBatch batch_of(Index count, Rng& rng) {
  PairBatch batch{{{count, longest}}, {{count, longest + 1}}};
  for (Index b = 0; b < count; ++b) {
    const std::vector<int> from = sentence(rng), to = translated(from);
    const auto put = [&](std::vector<int>& list, const std::vector<int>& ids, int before, int after) {
      if (before >= 0) list.push_back(before);
      list.insert(list.end(), ids.begin(), ids.end());
      if (after >= 0) list.push_back(after);
    };
    put(batch.source.inputs, from, -1, -1), put(batch.target.inputs, to, stop, -1);
    put(batch.target.targets, to, -1, stop);
    batch.source.inputs.resize(static_cast<std::size_t>((b + 1) * longest));  // padding
    for (auto* list : {&batch.target.inputs, &batch.target.targets})
      list->resize(static_cast<std::size_t>((b + 1) * (longest + 1)));
    batch.source.lengths.push_back(std::ssize(from)), batch.target.lengths.push_back(std::ssize(to) + 1);
  }
  return batch;
}

template <class EncoderRecipe, class DecoderRecipe>
void translate(int steps, Exec exec) {
  using Model = EncoderDecoder<source, EncoderRecipe, target, DecoderRecipe>;
  const auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  init(*model, Key{1}, Init::makemoe);
  Adam<Model> adam{{.learning_rate = 2e-3}};
  const Index batch_size = 32;
  typename Model::Workspace work({batch_size, longest}, {batch_size, longest + 1}, exec, {.balance = 0.01});
  const WarmupCosine rate{2e-3, 1e-4, 100, steps};
  Rng rng(Key{2}), unseen(Key{3});
  const auto begin = std::chrono::steady_clock::now();
  for (int step = 0; step <= steps; ++step) {
    const PairBatch batch = batch_of(batch_size, rng);
    const Loss loss = model->forward(batch, work);
    set_zero(*grad);
    model->backward(batch, work, *grad);
    adam.options.learning_rate = rate(step);
    adam.step(*model, *grad, exec, clip_scale(global_norm(*grad), 1));
    if (step % std::max(1, steps / 10) == 0)
      std::printf("step %5d  loss %.4f  %4.0f s\n", step, loss.cross_entropy,
                  std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }

  const int count = 500;
  std::vector<std::vector<int>> from, found(count);
  BatchGenerator<Model> generator(*model, {.batch = 50, .exec = exec});
  for (int i = 0; i < count; ++i) {
    from.push_back(sentence(unseen));
    generator.add({.ids = {stop},
                   .tokens = longest + 1,
                   .sampling = {.temperature = 0},
                   .stop_ids = {stop},
                   .source = from.back()});
  }
  while (!generator.done())
    for (const Drawn& word : generator.step())
      if (word.finish != Finish::stop) found[static_cast<std::size_t>(word.sequence)].push_back(word.id);
  int exact = 0, word_by_word = 0;
  for (std::size_t i = 0; i < count; ++i) {
    exact += found[i] == translated(from[i]);
    word_by_word += translated(from[i], false) == translated(from[i]);
    if (i < 3) std::printf("%s\n  -> %s\n", text(from[i], "bdgm").c_str(), text(found[i], "ptkn").c_str());
  }
  std::printf("of %d unseen sentences %.1f %% are exact, word by word %.1f %%\n", count,
              100.0 * exact / count, 100.0 * word_by_word / count);
}

int main(int argc, char** argv) {
  using Mixture = TopKRouter<8, 2>;
  const std::string_view placement = argc > 1 ? argv[1] : "both";
  const int steps = argc > 2 ? std::atoi(argv[2]) : 2000;
  const Exec exec{.threads = argc > 3 ? std::atoi(argv[3]) : 2};
  if (steps < 1 || exec.threads < 1) return std::puts("STEPS and THREADS are 1 or more"), 2;
  if (placement == "both")
    translate<Mixture, Mixture>(steps, exec);
  else if (placement == "encoder")
    translate<Mixture, Dense>(steps, exec);
  else if (placement == "decoder")
    translate<Dense, Mixture>(steps, exec);
  else if (placement == "neither")
    translate<Dense, Dense>(steps, exec);
  else
    return std::puts("PLACEMENT is both, encoder, decoder or neither"), 2;
}
