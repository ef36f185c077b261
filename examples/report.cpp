// Writes one HTML page about one or several runs of train: losses, speed, experts, samples, and a text
// coloured by expert. See --help.
#include <cstdio>

#include <moegpt/run/run_directory.hpp>

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
  const std::filesystem::path log = path / run_directory::metrics, routing = path / run_directory::routing;
  check(std::filesystem::exists(log), "'", folder, "' holds no ", run_directory::metrics,
        ", so it is no run");
  const auto whole = std::filesystem::absolute(path).lexically_normal();
  const auto name = whole.has_filename() ? whole.filename() : whole.parent_path().filename();
  report_page::Run run{as_utf8(name.string()), read_metrics(log)};
  if (std::filesystem::exists(routing)) run.routing = read_routing_record(routing);
  return run;
}

void start(const Options& o) {
  std::vector<report_page::Run> runs;
  for (const std::string& folder : o.runs) runs.push_back(read_run(folder));
  std::filesystem::path out = o.out;
  if (out.empty())
    out = runs.size() == 1 ? std::filesystem::path(o.runs[0]) / run_directory::report : run_directory::report;
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
