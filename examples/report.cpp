// Writes one HTML page about one or several runs of train: losses, speed, experts, samples, and a text
// coloured by expert. See --help.
#include <cstdio>

#include "options.hpp"
#include "report_page.hpp"

using namespace moegpt;

namespace {

struct Options {
  std::vector<std::string> runs;
  std::string out;
};

void declare(CLI::App& app, Options& o) {
  app.add_option("runs", o.runs,
                 "Directories of runs, which hold metrics.jsonl; the first one sets the baselines")
      ->required();
  app.add_option("--out", o.out, "The page (default: report.html, in the directory of a single run)")
      ->check(options::file_name());
}

report_page::Run read_run(const std::string& folder) {
  const std::filesystem::path path(folder);
  check(std::filesystem::is_directory(path), "'", folder,
        "' is no directory; expected one that train --run wrote");
  check(std::filesystem::exists(path / "metrics.jsonl"), "'", folder,
        "' holds no metrics.jsonl, so it is no run");
  const auto whole = std::filesystem::absolute(path).lexically_normal();
  const auto name = whole.has_filename() ? whole.filename() : whole.parent_path().filename();
  report_page::Run run{as_utf8(name.string()), read_metrics(path / "metrics.jsonl")};
  if (std::filesystem::exists(path / "routing.json"))
    run.routing = read_routing_record(path / "routing.json");
  return run;
}

void start(const Options& o) {
  std::vector<report_page::Run> runs;
  for (const std::string& folder : o.runs) runs.push_back(read_run(folder));
  std::filesystem::path out = o.out;
  if (out.empty()) out = runs.size() == 1 ? std::filesystem::path(o.runs[0]) / "report.html" : "report.html";
  const std::string page = report_page::html(runs);
  write_file_atomically(out, [&](auto& file) { file.write(page); });
  std::printf("wrote %s\n", out.string().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Writes one HTML page about one or several runs of train", "report");
  Options o;
  declare(app, o);
  return options::run(app, argc, argv, [&] { start(o); });
}
