#include <moegpt/moegpt.hpp>
#include <moegpt/run/run_directory.hpp>

#include "../io/support.hpp"

#include <set>

using namespace moegpt;

namespace {

const RunManifest manifest{{{"data", "a text.txt"}, {"seed", "3"}}};

std::set<std::string> files_in(const std::filesystem::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    names.insert(entry.path().lexically_relative(folder).string());
  return names;
}

// Files as a run leaves them.
void write_run(const std::filesystem::path& run) {
  {
    RunDirectory::create(run, manifest);
  }
  std::filesystem::create_directory(run / "checkpoints/step_00000010");
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.txt"})
    put(run / "checkpoints/step_00000010" / name, "x");
  for (const char* name :
       {"metrics.jsonl", "model.safetensors", "report.html", "events.out.tfevents.17.host.1"})
    put(run / name, "x");
}
// What a process leaves that was killed while it wrote.
void write_left_overs(const std::filesystem::path& run) {
  std::filesystem::create_directory(run / "checkpoints/.tmp-step_00000020-123");
  put(run / "checkpoints/.tmp-step_00000020-123/model.safetensors", "half");
  put(run / "model.safetensors.tmp-123-0", "half");
}

}  // namespace

TEST_CASE("a run has a directory with a manifest, and is opened again") {
  TemporaryFolder folder;
  const auto path = folder / "runs/first";
  {
    const auto run = RunDirectory::create(path, manifest);
    CHECK(run.manifest() == manifest);
    CHECK(files_in(path) == std::set<std::string>{"run.json", "lock", "checkpoints"});
    CHECK(run.checkpoints() == path / "checkpoints");
  }
  CHECK(RunDirectory::open(path).manifest() == manifest);
  std::filesystem::create_directory(folder / "empty");
  CHECK(RunDirectory::create(folder / "empty", manifest).manifest() == manifest);
}

TEST_CASE("a second process is refused as long as the first trains") {
  TemporaryFolder folder;
  const auto path = folder / "run";
  {
    const auto run = RunDirectory::create(path, manifest);
    CHECK(has(error_of([&] { RunDirectory::open(path); }), "run: another process trains here"));
    CHECK(has(error_of([&] { RunDirectory::create(path, manifest, true); }), "another process trains here"));
    CHECK(run.manifest() == manifest);
  }
  RunDirectory::open(path);
}

TEST_CASE("a directory with anything but a run is refused, and nothing is written") {
  TemporaryFolder folder;
  std::filesystem::create_directory(folder / "home");
  put(folder / "home/letter.txt", "dear");
  put(folder / "file", "x");
  std::filesystem::create_directory(folder / "damaged");
  put(folder / "damaged/run.json", "{\"kind\": \"another program's\"}");
  write_run(folder / "run");
  const auto before = files_in(folder.path);
  for (const bool overwrite : {false, true}) {
    CHECK(has(error_of([&] { RunDirectory::create(folder / "home", manifest, overwrite); }),
              "home' holds 'letter.txt' and no run, expected an empty directory"));
    CHECK(has(error_of([&] { RunDirectory::create(folder / "file", manifest, overwrite); }),
              "file' is a file"));
    CHECK(has(error_of([&] { RunDirectory::create(folder / "damaged", manifest, overwrite); }), "damaged"));
  }
  CHECK(has(error_of([&] { RunDirectory::create(folder / "run", manifest); }),
            "run' holds a run: resume it, overwrite it, or choose another directory"));
  CHECK(has(error_of([&] { RunDirectory::open(folder / "nowhere"); }), "nowhere' is no directory"));
  CHECK(has(error_of([&] { RunDirectory::open(folder / "home"); }),
            "home' holds no run: there is no run.json"));
  CHECK(has(error_of([&] { RunDirectory::open(folder / "file"); }), "file' is no directory"));
  CHECK_THROWS_AS(RunDirectory::open(folder / "nowhere"), std::invalid_argument);
  CHECK(files_in(folder.path) == before);
}

TEST_CASE("a damaged or missing manifest is written anew with the options of the newest valid checkpoint") {
  using Model = GPT<Config{.vocab = 3, .context = 2, .dim = 4, .layers = 1, .heads = 1}, Dense>;
  const Model model;
  const Adam<Model> adam;
  for (const char* damage : {"", "{\"moegpt_run\": 1, \"opt", "[]", "{\"moegpt_run\": 1}", "missing"}) {
    CAPTURE(damage);
    TemporaryFolder folder;
    const auto path = folder / "run";
    RunDirectory::create(path, manifest);
    const bool missing = damage == std::string("missing");
    const auto lose = [&] {
      put(path / "run.json", damage);
      if (missing) std::filesystem::remove(path / "run.json");
    };
    lose();
    // Without a checkpoint nothing has the options: an error that says what to do, and no fresh start.
    CHECK(
        has(error_of([&] { RunDirectory::open(path); }),
            missing ? "holds no run" : "Begin it anew in another directory, or in this one by overwriting"));
    const auto saved = save_checkpoint(path / "checkpoints", model, adam, Tokenizer::characters("ab"),
                                       {.step = 3, .options = {{"seed", "9"}}});
    save_checkpoint(path / "checkpoints", model, adam, Tokenizer::characters("ab"), {.step = 4});
    put(path / "checkpoints/step_00000004/state.json", "{}");
    {
      const auto run = RunDirectory::open(path);
      CHECK(run.manifest() == RunManifest{{{"seed", "9"}}});
      CHECK(has(run.repaired(), "run.json: "));
      CHECK(has(run.repaired(), ": written anew with the options of " + saved.string()));
    }
    CHECK(RunDirectory::open(path).repaired() == "");
    lose();
    if (!missing) CHECK(RunDirectory::create(path, manifest, true).manifest() == manifest);
  }
  TemporaryFolder folder;
  const auto path = folder / "run";
  RunDirectory::create(path, manifest);
  const std::string later = "{\"moegpt_run\": 2, \"options\": [7]}";
  put(path / "run.json", later);
  for (const std::string& error : {error_of([&] { RunDirectory::open(path); }),
                                   error_of([&] { RunDirectory::create(path, manifest, true); })})
    CHECK(has(error, "run.json: is of a later version of moegpt: use that version"));
  CHECK(get(path / "run.json") == later);
}

TEST_CASE("overwriting removes what a run writes and nothing else") {
  TemporaryFolder folder;
  const auto path = folder / "run";
  write_run(path);
  write_left_overs(path);
  std::filesystem::create_directory(folder / "elsewhere");
  put(folder / "elsewhere/model.safetensors", "mine");
  std::filesystem::create_directory_symlink(folder / "elsewhere", path / "checkpoints/step_00000030");
  for (const char* mine :
       {"notes.txt", "model.safetensors.old", "model.safetensors.tmp-copy", "checkpoints/best.txt"})
    put(path / mine, "mine");
  const RunManifest other{{{"seed", "4"}}};
  CHECK(RunDirectory::create(path, other, true).manifest() == other);
  CHECK(files_in(path) == std::set<std::string>{"run.json", "lock", "checkpoints", "notes.txt",
                                                "model.safetensors.old", "model.safetensors.tmp-copy",
                                                "checkpoints/best.txt", "checkpoints/step_00000030"});
  CHECK(get(folder / "elsewhere/model.safetensors") == "mine");
}

TEST_CASE("what cannot be removed stops the overwriting, and the run is still one") {
  TemporaryFolder folder;
  const auto path = folder / "run";
  write_run(path);
  put(path / "checkpoints/step_00000010/notes.txt", "mine");
  CHECK(has(error_of([&] { RunDirectory::create(path, {}, true); }), "cannot remove"));
  CHECK(get(path / "checkpoints/step_00000010/notes.txt") == "mine");
  CHECK(RunDirectory::open(path).manifest() == manifest);
}

TEST_CASE("what a killed process left is removed when the run is opened") {
  TemporaryFolder folder;
  const auto path = folder / "run";
  write_run(path);
  const auto before = files_in(path);
  write_left_overs(path);
  RunDirectory::open(path);
  CHECK(files_in(path) == before);
}

TEST_CASE("links in place of a run's lock or checkpoints are not followed") {
  TemporaryFolder folder;
  std::filesystem::create_directory(folder / "elsewhere");
  put(folder / "victim", "mine");
  for (const char* name : {"lock", "checkpoints"}) {
    const auto path = folder / (std::string("run ") + name);
    write_run(path);
    std::filesystem::remove_all(path / name);
    std::filesystem::create_symlink(folder / (name == std::string("lock") ? "victim" : "elsewhere"),
                                    path / name);
    CHECK(error_of([&] { RunDirectory::open(path); }) != "");
    CHECK(error_of([&] { RunDirectory::create(path, manifest, true); }) != "");
  }
  CHECK(get(folder / "victim") == "mine");
}
