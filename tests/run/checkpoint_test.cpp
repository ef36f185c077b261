#include <moegpt/model/init.hpp>
#include <moegpt/routing/top_k_router.hpp>
#include <moegpt/run/checkpoint.hpp>
#include <moegpt/train/adam.hpp>
#include <moegpt/train/clip.hpp>
#include <moegpt/train/freeze.hpp>

#include "../io/support.hpp"
#include "../support/faulty_files.hpp"
#include "../support/power_loss.hpp"
#include "../support/refusal.hpp"

#include <memory>

using namespace moegpt;

namespace {

constexpr Config config{.vocab = 9, .context = 8, .dim = 8, .layers = 1, .heads = 2, .norm = Norm::rms};
using Model = GPT<config, TopKRouter<2, 1>>;

Tokenizer letters() { return Tokenizer::characters("abcdefgh\n"); }

// A model after some steps of an optimizer, with gradients that are functions of the step.
struct Trained {
  Model model;
  Adam<Model> adam;
  TrainingState state;
  std::string frozen;
  explicit Trained(int steps = 0) {
    init(model, Key{1});
    state.seed = 1;
    state.corpus = 0xfedcba9876543210;
    state.options = {{"data", "a \"text\".txt"}, {"steps", "20"}};
    for (int i = 0; i < steps; ++i) step();
  }
  void step() {
    Model grad;
    Rng rng(Key{2}.with(Purpose::step, state.step));
    for_each_weight(
        [&](auto& g) {
          rng.normals(g.data(), g.size());
          g.touched = state.step % 2 == 0;
        },
        grad);
    if (!frozen.empty()) freeze(grad, frozen);
    adam.step(model, grad);
    ++state.step;
    state.tokens += 100;
    state.best_val = 1.0 / static_cast<double>(state.step);
    state.best_step = state.step;
    state.cursor = {{"epoch", 0}, {"position", state.step * 7}};
  }
  // FaultyFiles: also because it does not wait for the disk
  template <class Files = FaultyFiles>
  std::filesystem::path save(const std::filesystem::path& folder) const {
    return save_checkpoint<Files>(folder, model, adam, letters(), state);
  }
};

std::string bytes_of_checkpoint(const std::filesystem::path& path) {
  std::string bytes;
  for (const auto name : checkpoint::files) bytes += get(path / name) + '|';
  return bytes + get(path / checkpoint::manifest);
}

bool same_weights(const Model& a, const Model& b) {
  bool same = true;
  for_each_weight([&](const auto& x, const auto& y) { same &= std::equal(x.begin(), x.end(), y.begin()); }, a,
                  b);
  return same;
}

}  // namespace

TEST_CASE("an optimizer read from a checkpoint continues with the same bits") {
  TemporaryFolder folder;
  Trained whole(3);
  const auto path = whole.save<SystemFiles>(folder.path);
  CHECK(path == folder / "step_00000003");
  Trained resumed;
  Tokenizer tokenizer;
  resumed.state = load_checkpoint(path, resumed.model, resumed.adam, tokenizer);
  CHECK(resumed.state == whole.state);
  CHECK(tokenizer == letters());
  CHECK(resumed.adam.steps() == whole.adam.steps());
  for (int i = 0; i < 3; ++i) whole.step(), resumed.step();
  CHECK(same_weights(resumed.model, whole.model));
  CHECK(same_weights(resumed.adam.first_moment(), whole.adam.first_moment()));
  CHECK(same_weights(resumed.adam.second_moment(), whole.adam.second_moment()));
}

TEST_CASE("a run with frozen weights saves no moments of them and continues with the same bits") {
  TemporaryFolder folder;
  Trained whole, resumed(1);  // which has moments of its own
  for (Trained* run : {&whole, &resumed}) run->frozen = "blocks";
  for (int i = 0; i < 3; ++i) whole.step();
  const auto path = whole.save(folder.path);
  for (const auto& [name, tensor] : read_safetensors(path / checkpoint::files[1]).header.tensors)
    CHECK_FALSE(has(name, ".blocks."));
  Tokenizer tokenizer;
  resumed.state = load_checkpoint(path, resumed.model, resumed.adam, tokenizer);
  CHECK(count_weights(resumed.adam) == count_weights(whole.adam));
  CHECK(count_weights(resumed.adam) < count_weights(resumed.model));
  for (int i = 0; i < 3; ++i) whole.step(), resumed.step();
  CHECK(same_weights(resumed.model, whole.model));
  CHECK(same_weights(resumed.adam.second_moment(), whole.adam.second_moment()));
  whole.frozen = resumed.frozen = {};  // moments from here on
  whole.step(), resumed.step();
  CHECK(same_weights(resumed.model, whole.model));
  CHECK(same_weights(resumed.adam.second_moment(), whole.adam.second_moment()));
}

TEST_CASE("equal states give equal bytes, and a valid checkpoint is not written again") {
  TemporaryFolder a, b;
  const Trained trained(2);
  const auto path = trained.save(a.path);
  CHECK(bytes_of_checkpoint(path) == bytes_of_checkpoint(trained.save(b.path)));
  CHECK(a.files() == 1);
  CHECK(std::distance(std::filesystem::directory_iterator(path), {}) == 4);
  FaultyFiles::begin();
  CHECK(trained.save<FaultyFiles>(a.path) == path);
  CHECK(FaultyFiles::calls == 0);
}

TEST_CASE("a damaged checkpoint is replaced by a valid one of the same step") {
  TemporaryFolder folder;
  const Trained trained(2);
  const auto path = trained.save(folder.path);
  const std::string bytes = bytes_of_checkpoint(path);
  put(path / "state.json", "{}");
  CHECK(has(fault_of_checkpoint(path), "state.json"));
  trained.save(folder.path);
  CHECK(bytes_of_checkpoint(path) == bytes);
}

TEST_CASE("every flipped bit is found, and a missing, shorter or longer file") {
  TemporaryFolder folder;
  const auto path = Trained(1).save(folder.path);
  REQUIRE(fault_of_checkpoint(path) == "");
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(path)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  Rng rng(7);
  int found = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto& file = files[static_cast<std::size_t>(i) % files.size()];
    const std::string bytes = get(file);
    std::string damaged = bytes;
    const std::uint64_t bit = rng.below(bytes.size() * 8);
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    put(file, damaged);
    const std::string fault = fault_of_checkpoint(path);
    found += has(fault, path.string());
    put(file, bytes);
  }
  CHECK(found == 1000);
  for (const auto& file : files) {
    const std::string bytes = get(file);
    for (const std::string& wrong :
         {bytes.substr(0, bytes.size() - 1), bytes + " ", bytes + bytes, std::string()}) {
      put(file, wrong);
      CHECK(has(fault_of_checkpoint(path), path.string()));
    }
    std::filesystem::remove(file);
    CHECK(has(fault_of_checkpoint(path), file.string()));
    put(file, bytes);
  }
  CHECK(fault_of_checkpoint(path) == "");
  std::filesystem::resize_file(path / checkpoint::manifest, std::uintmax_t{1} << 40);  // of no blocks
  CHECK(has(fault_of_checkpoint(path), "expected at most 4096"));
}

TEST_CASE("the newest valid checkpoint is found, and why newer ones are not taken") {
  TemporaryFolder folder;
  CHECK(newest_checkpoint(folder / "nowhere").path.empty());
  Trained trained;
  for (int i = 0; i < 3; ++i) trained.step(), trained.save(folder.path);
  put(folder / "step_00000003/model.safetensors", "cut short");
  std::filesystem::create_directory(folder / "step_00000009");  // without files
  for (const char* no_name : {"step_4", "step_-0000004", "step_000000010", "step_0000000x", "other"})
    std::filesystem::create_directory(folder / no_name);
  std::filesystem::create_directory_symlink("step_00000001", folder / "step_00000008");
  const NewestCheckpoint newest = newest_checkpoint(folder.path);
  CHECK(newest.path == folder / "step_00000002");
  REQUIRE(newest.rejected.size() == 2);
  CHECK(has(newest.rejected[0], "step_00000009/manifest.txt: No such file"));
  CHECK(has(newest.rejected[1], "step_00000003/model.safetensors"));
}

TEST_CASE("old checkpoints are removed, newer ones and other files are not") {
  TemporaryFolder folder;
  Trained trained;
  for (int i = 0; i < 5; ++i) trained.step(), trained.save(folder.path);
  put(folder / "notes.txt", "mine");
  put(folder / "step_00000001/notes.txt", "mine");
  const auto remaining = keep_checkpoints(folder.path, 4, {2});
  CHECK(remaining == std::vector{folder / "step_00000001"});
  CHECK(get(folder / "step_00000001/notes.txt") == "mine");
  CHECK_FALSE(std::filesystem::exists(folder / "step_00000002"));
  for (const char* kept : {"step_00000003", "step_00000004", "step_00000005"})
    CHECK(fault_of_checkpoint(folder / kept) == "");
  CHECK(get(folder / "notes.txt") == "mine");
}

TEST_CASE("the best checkpoint and those of every so many steps are kept beside the newest") {
  TemporaryFolder folder;
  Trained trained;
  for (int i = 0; i < 9; ++i) trained.step(), trained.save(folder.path);
  CHECK(keep_checkpoints(folder.path, 9, {.newest = 1, .every = 4, .best = 2}).empty());
  std::vector<std::string> names;
  for (const auto& path : checkpoints_in(folder.path)) names.push_back(path.filename().string());
  CHECK(names ==
        std::vector<std::string>{"step_00000009", "step_00000008", "step_00000004", "step_00000002"});
  keep_checkpoints(folder.path, 9, {.newest = 2, .best = 7});  // of which there is no checkpoint
  CHECK(checkpoints_in(folder.path).size() == 2);
}

TEST_CASE("a checkpoint of another type says what differs, and changes nothing") {
  TemporaryFolder folder;
  const auto path = Trained(1).save(folder.path);
  using Other = GPT<Config{.vocab = 9, .context = 8, .dim = 12, .layers = 1, .heads = 2}, TopKRouter<4, 2>>;
  Other model;
  Adam<Other> adam;
  Tokenizer tokenizer;
  const std::string error = error_of([&] { load_checkpoint(path, model, adam, tokenizer); });
  CHECK(has(error,
            ".dim is 8, expected 12; .norm is Norm::rms, expected the default; "
            "router is TopKRouter<2, 1>, expected TopKRouter<4, 2>'. Compile"));
  CHECK(adam.steps()[0] == 0);
}

TEST_CASE("what is not finite is not saved") {
  TemporaryFolder folder;
  Trained trained(1);
  trained.model.head.weight[3] = std::numeric_limits<float>::infinity();
  CHECK(has(error_of([&] { trained.save(folder.path); }), "tensor 'head.weight' holds inf at index 3"));
  CHECK(folder.files() == 0);
  trained.model.head.weight[3] = 0;
  auto& moment = const_cast<Model&>(trained.adam.second_moment());
  moment.head.weight[5] = std::nanf("");
  CHECK(has(error_of([&] { trained.save(folder.path); }), "tensor 'second_moment.head.weight' holds nan"));
  CHECK(folder.files() == 0);
  moment.head.weight[5] = 0;
  TrainingState state;
  state.best_val = std::nan("");
  CHECK(has(error_of([&] { save_checkpoint(folder.path, trained.model, trained.adam, letters(), state); }),
            "best_val is nan, expected a finite loss"));
  CHECK(folder.files() == 0);
}

TEST_CASE("a model with more tensors than a file may have is refused before training") {
  constexpr Config deep{.vocab = 2, .context = 2, .dim = 2, .layers = 5000, .heads = 1, .hidden = 1};
  using Deep = GPT<deep, Dense>;
  const auto model = std::make_unique<Deep>();
  const auto adam = std::make_unique<Adam<Deep>>();
  const Tokenizer two = Tokenizer::characters("ab");
  const TemporaryFolder folder;
  check_can_save((folder / "model").string(), *model, two);
  CHECK_THAT(refusal<std::runtime_error>([&] { check_can_save_checkpoint(folder.path, *model, *adam, two); }),
             ContainsSubstring("optimizer.safetensors") &&
                 ContainsSubstring("would have 130010 tensors, expected at most 100000"));
  CHECK_THAT(refusal([&] { check_can_save((folder / "model").string(), *model, letters()); }),
             ContainsSubstring("the tokenizer has 9 tokens"));
  CHECK(folder.files() == 0);
  Trained run;
  check_can_save_checkpoint(folder.path, run.model, run.adam, letters());
}

TEST_CASE("a NaN or infinity in any tensor of model or moments is named, and nothing is saved") {
  TemporaryFolder folder;
  Trained trained(1);
  int planted = 0;
  const auto plant = [&](const std::string& path, auto& weight) {
    if (weight.size() == 0) return;
    for (const float wrong : {std::nanf(""), -std::numeric_limits<float>::infinity()}) {
      const Index at = (weight.size() - 1) * (planted++ % 3) / 2;
      const float before = std::exchange(weight.data()[at], wrong);
      const std::string error = error_of([&] { trained.save(folder.path); });
      CAPTURE(path, at, error);
      CHECK(has(error, "tensor '" + path + "' holds "));
      CHECK(has(error, " at index " + std::to_string(at)));
      CHECK(folder.files() == 0);
      weight.data()[at] = before;
    }
  };
  for_each_named_weight([&](const std::string& path, Kind, auto& w) { plant(path, w); }, trained.model);
  const int of_model = planted;
  CHECK(of_model >= 20);
  for (const auto& [prefix, moment] : {std::pair{"first_moment.", &trained.adam.first_moment()},
                                       std::pair{"second_moment.", &trained.adam.second_moment()}})
    for_each_named_weight([&](const std::string& path, Kind, auto& w) { plant(prefix + path, w); },
                          const_cast<Model&>(*moment));
  CHECK(planted == 3 * of_model);
  trained.save(folder.path);
}

TEST_CASE("whichever system call fails, the old checkpoint or the new one is readable") {
  using Fault = FaultyFiles::Fault;
  Trained old(1), next = old;
  next.step();
  TemporaryFolder first;
  const std::string old_bytes = bytes_of_checkpoint(old.save(first.path));
  const std::string new_bytes = bytes_of_checkpoint(next.save(first.path));
  for (const bool stays : {false, true})
    for (const Fault fault : FaultyFiles::faults) {
      int failed = 0;
      for (int at = 0;; ++at) {
        CAPTURE(stays, static_cast<int>(fault), at);
        TemporaryFolder folder;
        FaultyFiles::begin();
        old.save(folder.path);
        FaultyFiles::begin(at, fault, stays);
        const std::string error = error_of([&] {
          next.save<FaultyFiles>(folder.path);
          keep_checkpoints<FaultyFiles>(folder.path, next.state.step, {1});
        });
        const bool ended = FaultyFiles::calls <= at;
        failed += !error.empty();
        const auto newest = newest_checkpoint(folder.path);
        REQUIRE(!newest.path.empty());
        const std::string bytes = bytes_of_checkpoint(newest.path);
        CHECK((bytes == new_bytes || bytes == old_bytes));
        if (error.empty()) CHECK(bytes == new_bytes);
        if (fault == Fault::short_write) CHECK(error == "");
        // and the next one succeeds
        FaultyFiles::begin();
        next.save(folder.path);
        remove_checkpoint_drafts(folder.path);
        keep_checkpoints(folder.path, next.state.step, {1});
        CHECK(folder.files() == 1);
        CHECK(bytes_of_checkpoint(newest_checkpoint(folder.path).path) == new_bytes);
        if (ended) break;
      }
      if (fault == Fault::io_error) CHECK(failed >= 20);
    }
}

namespace {

// Loses the power after each operation of saving a second checkpoint and removing the first. Returns what a
// disk held that it may not hold; empty if nothing.
std::string fault_after_power_loss(bool fsync) {
  Trained old(1), next = old;
  next.step();
  TemporaryFolder folder;
  FaultyFiles::begin();
  const std::string old_bytes = bytes_of_checkpoint(old.save<FaultyFiles>(folder.path));
  const std::size_t first_saved = FaultyFiles::log.size();
  const std::string new_bytes = bytes_of_checkpoint(next.save<FaultyFiles>(folder.path));
  const std::size_t saved = FaultyFiles::log.size();
  keep_checkpoints<FaultyFiles>(folder.path, next.state.step, {1});
  Disk disk(folder.path.string());
  using Kept = Disk::Kept;
  for (std::size_t done = 0; done <= FaultyFiles::log.size(); ++done) {
    if (done > 0) disk.replay(FaultyFiles::log[done - 1], fsync);
    if (done < first_saved) continue;
    for (const Kept names : {Kept::nothing, Kept::everything, Kept::some})
      for (const Kept bytes : {Kept::nothing, Kept::everything, Kept::some})
        for (std::uint64_t seed = 0; seed < (names == Kept::some || bytes == Kept::some ? 3 : 1); ++seed) {
          TemporaryFolder after;
          disk.write_to(after / "disk", names, bytes, seed);
          const auto newest = newest_checkpoint(after / "disk");
          const std::string at = "after operation " + std::to_string(done);
          if (newest.path.empty()) return at + " no checkpoint is left";
          const std::string found = bytes_of_checkpoint(newest.path);
          if (found != new_bytes && (found != old_bytes || done >= saved))
            return at + " the checkpoint is another";
        }
  }
  return {};
}

}  // namespace

TEST_CASE(
    "after a loss of power the old checkpoint or the new one is readable, and once saved, the new one") {
  CHECK(fault_after_power_loss(true) == "");
  CHECK(fault_after_power_loss(false) != "");  // without fsync
}
