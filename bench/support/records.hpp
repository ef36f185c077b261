#pragma once
// Results of an experiment's runs: a file of JSON objects, one line per run, in the order in which the runs
// ended. An interrupted sweep goes on behind the last line. Tables and pictures are made from this file
// alone.
#include <moegpt/core/check.hpp>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace bench {

using Record = nlohmann::ordered_json;

class Records {
 public:
  explicit Records(std::filesystem::path path) : path_(std::move(path)) {
    if (path_.has_parent_path()) std::filesystem::create_directories(path_.parent_path());
    std::ifstream file(path_, std::ios::binary);
    std::string line;
    std::uintmax_t whole = 0;
    while (std::getline(file, line)) {
      if (file.eof()) {  // without its end: the program was stopped while it wrote
        file.close();
        std::filesystem::resize_file(path_, whole);
        break;
      }
      whole += line.size() + 1;
      const Record record = Record::parse(line, nullptr, false);
      moegpt::check(!record.is_discarded(), "'", path_.string(), "' has a line that is no JSON: ", line);
      all_.push_back(record);
    }
  }
  // Whether there is a run with these members of these values.
  bool has(const Record& key) const { return find(key) != nullptr; }
  const Record* find(const Record& key) const {
    for (const Record& record : all_)
      if (matches(record, key)) return &record;
    return nullptr;
  }
  std::vector<Record> where(const Record& key) const {
    std::vector<Record> found;
    for (const Record& record : all_)
      if (matches(record, key)) found.push_back(record);
    return found;
  }
  // Writes a line at once.
  void add(const Record& record) {
    std::ofstream file(path_, std::ios::binary | std::ios::app);
    file << record.dump() + "\n" << std::flush;
    moegpt::check(file.good(), "cannot write to '", path_.string(), "'");
    all_.push_back(record);
  }
  const std::vector<Record>& all() const { return all_; }

 private:
  static bool matches(const Record& record, const Record& key) {
    for (const auto& [name, value] : key.items())
      if (!record.contains(name) || record[name] != value) return false;
    return true;
  }
  std::filesystem::path path_;
  std::vector<Record> all_;
};

// Values of one member in several runs, such as those of different seeds.
struct Sample {
  std::vector<double> values;
  Sample(const std::vector<Record>& records, const std::string& member) {
    for (const Record& record : records) values.push_back(record.at(member).get<double>());
  }
  explicit Sample(std::vector<double> of) : values(std::move(of)) {}
  bool empty() const { return values.empty(); }
  double mean() const {
    double sum = 0;
    for (const double v : values) sum += v;
    return sum / static_cast<double>(values.size());
  }
  // Standard deviation; zero for fewer than two values.
  double deviation() const {
    double sum = 0;
    for (const double v : values) sum += (v - mean()) * (v - mean());
    return values.size() < 2 ? 0 : std::sqrt(sum / static_cast<double>(values.size() - 1));
  }
  // Half the width of the 95 % interval of the mean by Student's t; NaN for fewer than two values.
  double interval() const {
    static constexpr double t[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262};
    const std::size_t n = values.size();
    if (n < 2) return NAN;
    return (n - 2 < std::size(t) ? t[n - 2] : 1.96) * deviation() / std::sqrt(static_cast<double>(n));
  }
};

// "1.2345 ± 0.0012" with the half width of the interval, or "1.2345" of one run.
inline std::string with_interval(const Sample& sample, int digits = 4) {
  if (sample.empty()) return "";
  char text[64];
  if (sample.values.size() < 2)
    std::snprintf(text, sizeof text, "%.*f", digits, sample.mean());
  else
    std::snprintf(text, sizeof text, "%.*f ± %.*f", digits, sample.mean(), digits, sample.interval());
  return text;
}

// 12.3k, 4.56M.
inline std::string short_count(double x) {
  char text[32];
  const char* unit = x >= 1e12 ? "T" : x >= 1e9 ? "G" : x >= 1e6 ? "M" : x >= 1e3 ? "k" : "";
  const double scale = x >= 1e12 ? 1e12 : x >= 1e9 ? 1e9 : x >= 1e6 ? 1e6 : x >= 1e3 ? 1e3 : 1;
  std::snprintf(text, sizeof text, "%.3g%s", x / scale, unit);
  return text;
}

// Replaces what is between the lines "<!-- name -->" and "<!-- end of name -->" of a document; does nothing
// to a document without them.
inline void write_between(const std::filesystem::path& document, const std::string& name,
                          const std::string& text) {
  std::ifstream in(document, std::ios::binary);
  std::string whole((std::istreambuf_iterator<char>(in)), {});
  std::string begin = "<!-- ";
  (begin += name) += " -->\n";
  std::string end = "<!-- end of ";
  (end += name) += " -->\n";
  const std::size_t from = whole.find(begin), to = whole.find(end);
  if (from == whole.npos || to == whole.npos || to < from) return;
  whole.replace(from + begin.size(), to - from - begin.size(), text);
  std::ofstream(document, std::ios::binary) << whole;
}

inline void write_file(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text << std::flush;
  moegpt::check(file.good(), "cannot write '", path.string(), "'");
}

}  // namespace bench
