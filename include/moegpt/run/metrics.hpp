#pragma once
// metrics.jsonl: the log of a run, one JSON object per line.
//     {"kind":"train","step":12,"tokens":12288,"loss":3.1,"balance_loss":1.02,...,"learning_rate":0.003,
//      "gradient_norm":0.71,"layers":[0,1],"load":[[130,126],[128,128]],"wanted":[256,256],
//      "max_over_mean":[1.016,1],"entropy":[0.9998,1],"dead":[0,0],"dropped":[0,0],
//      "seconds":0.02,"tokens_per_second":48200,"utilisation":0.31,"time":1789000000.5}
// A run of several processes has "rank_load", "rank_bytes" and "rank_waiting" before "time", a number for
// each. Kinds are run, train, eval, final, sample and event (run/records.hpp). Members that describe one
// execution, not the computation, come last: a resumed run writes the same lines up to "seconds" or "time".
// Numbers that are not finite are the texts "nan", "inf" and "-inf".
#include <moegpt/io/json_document.hpp>
#include <moegpt/run/appended_file.hpp>
#include <moegpt/run/records.hpp>

#include <charconv>
#include <optional>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Appends the line of a record to `text`.
inline void append_line(std::string& text, const RunRecord& r) {
  JsonText line(text);
  line.member("kind", "run").member("step", r.step).member("version", build_info().version);
  line.member("model", r.model).member("parameters", r.parameters).member("active", r.active);
  line.member("steps", r.steps).member("unit", r.unit).member("options", r.options);
  line.member("baselines", r.baselines).member("peak", r.peak).member("time", r.time).end();
  text += '\n';
}
inline void append_line(std::string& text, const StepRecord& r) {
  JsonText line(text);
  line.member("kind", "train").member("step", r.step).member("tokens", r.tokens).member("loss", r.loss);
  for (const auto& entry : loss_table<double>)
    line.member(entry.name + std::string("_loss"), r.router.*entry.value);
  line.member("learning_rate", r.learning_rate).member("gradient_norm", r.gradient_norm);
  line.list("layers", r.layers, [](const LayerLoad& l) { return l.layer; });
  line.list("load", r.layers, [](const LayerLoad& l) -> const auto& { return l.load; });
  line.list("wanted", r.layers, [](const LayerLoad& l) { return l.wanted; });
  line.list("max_over_mean", r.layers, [](const LayerLoad& l) { return l.max_over_mean(); });
  line.list("entropy", r.layers, [](const LayerLoad& l) { return l.entropy(); });
  line.list("dead", r.layers, [](const LayerLoad& l) { return l.dead(); });
  line.list("dropped", r.layers, [](const LayerLoad& l) { return l.dropped(); });
  line.member("seconds", r.seconds).member("tokens_per_second", r.tokens_per_second);
  line.member("utilisation", r.utilisation);
  if (!r.ranks.empty()) {
    line.list("rank_load", r.ranks, [](const RankLoad& rank) { return rank.pairs; });
    line.list("rank_bytes", r.ranks, [](const RankLoad& rank) { return rank.bytes; });
    line.list("rank_waiting", r.ranks, [](const RankLoad& rank) { return rank.waiting; });
  }
  line.member("time", r.time).end();
  text += '\n';
}
inline void append_line(std::string& text, const EvaluationRecord& r) {
  JsonText line(text);
  line.member("kind", "eval").member("step", r.step).member("train_loss", r.train);
  line.member("val_loss", r.val).member("best", r.best).member("time", r.time).end();
  text += '\n';
}
inline void append_line(std::string& text, const FinalRecord& r) {
  JsonText line(text);
  line.member("kind", "final").member("step", r.step).member("val_loss", r.val);
  line.member("batches", r.batches).member("time", r.time).end();
  text += '\n';
}
inline void append_line(std::string& text, const SampleRecord& r) {
  JsonText line(text);
  line.member("kind", "sample").member("step", r.step).member("text", r.text).member("time", r.time).end();
  text += '\n';
}
inline void append_line(std::string& text, const EventRecord& r) {
  JsonText line(text);
  line.member("kind", "event").member("step", r.step).member("what", r.what).member("text", r.text);
  line.member("time", r.time).end();
  text += '\n';
}

// The records of a file, in its order.
struct Metrics {
  std::optional<RunRecord> run{};  // the last one
  std::vector<StepRecord> steps{};
  std::vector<EvaluationRecord> evaluations{};
  std::optional<FinalRecord> final_loss{};  // the last one
  std::vector<SampleRecord> samples{};
  std::vector<EventRecord> events{};
  bool torn = false;  // the last line was incomplete and is ignored
};

// Limits of what a reader accepts.
struct MetricsLimits {
  static constexpr Index file_bytes = Index{1} << 32;
  static constexpr std::size_t line_bytes = std::size_t{1} << 24;
  static constexpr Index layers = 1000, experts = 100000;
};

namespace detail {

// f(line without its end) for every complete line, until it returns false. Returns the offset behind the last
// line for which it returned true.
template <class F>
std::size_t for_each_line(std::string_view text, F&& f) {
  std::size_t from = 0;
  for (std::size_t end; (end = text.find('\n', from)) != text.npos; from = end + 1)
    if (!f(text.substr(from, end - from))) return from;
  return from;
}

inline std::vector<LayerLoad> read_layers(const JsonObject& line) {
  const std::vector<Index> numbers = line.integers("layers", 0, MetricsLimits::layers);
  const std::vector<Index> wanted = line.integers("wanted", 0, Index{1} << 53);
  const nlohmann::json& loads = line.list("load");
  if (wanted.size() != numbers.size() || loads.size() != numbers.size())
    reject_file(line.name(), "has loads of ", loads.size(), " and requests of ", wanted.size(),
                " layers, expected those of ", numbers.size());
  std::vector<LayerLoad> layers;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    layers.push_back(
        {static_cast<int>(numbers[i]), wanted[i], line.integers("load", loads[i], 0, Index{1} << 53)});
    const std::size_t E = layers[i].load.size();
    if (E == 0 || E > MetricsLimits::experts)
      reject_file(line.name(), "has a load of ", E, " experts, expected 1 .. ", MetricsLimits::experts);
  }
  return layers;
}

inline std::vector<RankLoad> read_ranks(const JsonObject& line) {
  if (!line.has("rank_load")) return {};
  const std::vector<Index> pairs = line.integers("rank_load", 0, Index{1} << 53);
  const std::vector<Index> bytes = line.integers("rank_bytes", 0, Index{1} << 53);
  const nlohmann::json& waiting = line.list("rank_waiting");
  if (bytes.size() != pairs.size() || waiting.size() != pairs.size())
    reject_file(line.name(), "has loads of ", pairs.size(), " ranks, bytes of ", bytes.size(),
                " and waiting of ", waiting.size(), ", expected equally many");
  std::vector<RankLoad> ranks;
  for (std::size_t i = 0; i < pairs.size(); ++i)
    ranks.push_back({pairs[i], bytes[i], line.number("rank_waiting", waiting[i])});
  return ranks;
}

template <class Value, class Read>
std::vector<std::pair<std::string, Value>> read_pairs(const JsonObject& line, const char* member,
                                                      Read&& read) {
  const JsonObject pairs(line.name() + ": \"" + member + "\"", line.at(member));
  std::vector<std::pair<std::string, Value>> all;
  for (const auto& [name, value] : line.at(member).items()) all.emplace_back(name, read(pairs, name.c_str()));
  return all;
}

inline void read_line(const JsonObject& line, Metrics& to) {
  const std::string kind = line.text("kind");
  const Index step = line.integer("step");
  const double time = line.has("time") ? line.number("time") : 0;
  if (kind == "run") {
    to.run = {step,
              line.text("model"),
              line.integer("parameters"),
              line.number("active"),
              line.integer("steps"),
              line.text("unit"),
              read_pairs<std::string>(line, "options", [](auto& o, const char* n) { return o.text(n); }),
              read_pairs<double>(line, "baselines", [](auto& o, const char* n) { return o.number(n); }),
              line.number("peak"),
              time};
  } else if (kind == "train") {
    StepRecord& r = to.steps.emplace_back();
    r.step = step, r.time = time;
    r.tokens = line.integer("tokens"), r.loss = line.number("loss");
    for (const auto& entry : loss_table<double>)
      if (const std::string name = entry.name + std::string("_loss"); line.has(name.c_str()))
        r.router.*entry.value = line.number(name.c_str());
    r.learning_rate = line.number("learning_rate"), r.gradient_norm = line.number("gradient_norm");
    r.layers = read_layers(line);
    r.seconds = line.number("seconds");
    r.tokens_per_second = line.number("tokens_per_second"), r.utilisation = line.number("utilisation");
    r.ranks = read_ranks(line);
  } else if (kind == "eval") {
    to.evaluations.push_back(
        {step, line.number("train_loss"), line.number("val_loss"), line.boolean("best"), time});
  } else if (kind == "final") {
    to.final_loss = {step, line.number("val_loss"), line.integer("batches"), time};
  } else if (kind == "sample") {
    to.samples.push_back({step, line.text("text"), time});
  } else if (kind == "event") {
    to.events.push_back({step, line.text("what"), line.text("text"), time});
  }  // other kinds: of a later version
}

inline JsonObject line_object(const std::string& file, std::size_t number, std::string_view line,
                              nlohmann::json& document) {
  const std::string name = file + ", line " + std::to_string(number);
  if (line.size() > MetricsLimits::line_bytes)
    reject_file(name, "has ", line.size(), " bytes, expected at most ", MetricsLimits::line_bytes);
  document = parse_json(name, line, 3);
  return {name, document};
}

}  // namespace detail

// The records of a text of lines. `name` is for messages. A last line without its end is ignored, which is
// what a process leaves that was killed while it wrote. Throws std::runtime_error for any other line that is
// not a record, with its number.
inline Metrics parse_metrics(const std::string& name, std::string_view text) {
  Metrics metrics;
  std::size_t number = 0;
  const std::size_t end = detail::for_each_line(text, [&](std::string_view line) {
    nlohmann::json document;
    detail::read_line(detail::line_object(name, ++number, line, document), metrics);
    return true;
  });
  metrics.torn = end < text.size();
  return metrics;
}

namespace detail {
inline std::string read_log(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::file_size(path, error) == 0) return {};
  return read_file(path, MetricsLimits::file_bytes);
}
}  // namespace detail

// Throws as parse_metrics and read_file do. An empty file has no records.
inline Metrics read_metrics(const std::filesystem::path& path) {
  return parse_metrics(path.string(), detail::read_log(path));
}

// Writer of metrics.jsonl. A record is in the file as soon as write() returns, so other programs can follow
// it. An error of the disk never throws: lines wait and are written with the next one.
template <class Files = SystemFiles>
class MetricsFileOf {
 public:
  // A new file. Throws std::runtime_error if there is one already, or it cannot be created.
  explicit MetricsFileOf(const std::filesystem::path& path)
      : file_(path, AppendedFile<Files>::Start::create) {}
  // The file of a run that goes on after `step` steps: records of later steps, and an incomplete last line,
  // are removed; so is what follows a damaged line that has no records of the kept steps behind it, as a loss
  // of power leaves it. Creates the file if there is none. Throws std::runtime_error for other damage, and if
  // the file cannot be changed.
  MetricsFileOf(const std::filesystem::path& path, Index step)
      : damage_(keep_steps(path, step)), file_(path, AppendedFile<Files>::Start::go_on) {}

  // What was wrong with the first damaged line that was removed; empty: none was.
  const std::string& damage() const { return damage_; }

  // Returns whether all lines so far are in the file. If not, error() says why, and the next call tries
  // again.
  template <class Record>
  bool write(const Record& record) {
    append_line(file_.waiting(), record);
    return file_.append();
  }
  // Makes the disk keep what was written, as before a checkpoint. Returns as write().
  bool flush() { return file_.flush(); }
  std::string error() const { return file_.error(); }

 private:
  // Cuts the file. Returns what damage was cut off.
  static std::string keep_steps(const std::filesystem::path& path, Index step) {
    if (!std::filesystem::exists(path)) return {};
    const std::string text = detail::read_log(path);
    std::string damage;
    bool kept = true;  // all lines so far
    std::size_t number = 0, keep = 0, end = 0;
    detail::for_each_line(text, [&](std::string_view line) {
      end += line.size() + 1;
      std::optional<Index> found;
      std::string fault;
      try {
        nlohmann::json document;
        const JsonObject object = detail::line_object(path.string(), ++number, line, document);
        Metrics one;
        detail::read_line(object, one);
        found = object.integer("step");
      } catch (const std::runtime_error& error) {
        fault = error.what();
      }
      if (kept && damage.empty()) damage = fault;
      kept = kept && found && *found <= step;
      if (kept) keep = end;
      if (!damage.empty() && found && *found <= step)
        throw std::runtime_error(damage +
                                 "; records of kept steps follow it: correct the line, or move the file "
                                 "away, and a new one is begun");
      return true;
    });
    if (keep < text.size())
      write_file_atomically<Files>(path,
                                   [&](auto& out) { out.write(std::string_view(text).substr(0, keep)); });
    return damage;
  }
  std::string damage_;
  AppendedFile<Files> file_;
};
using MetricsFile = MetricsFileOf<>;

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
