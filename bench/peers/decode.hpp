#pragma once
// Greedy decoding on command, for the programs that generation.py starts; it documents the protocol.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace peers {

inline double milliseconds() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// A line on stdin: decode COUNT ID...
struct Command {
  int count = 0;
  std::vector<int> prompt;

  static bool next(Command& command) {
    std::string line, word;
    if (!std::getline(std::cin, line)) return false;
    std::istringstream words(line);
    command = {};
    words >> word >> command.count;
    for (int id; words >> id;) command.prompt.push_back(id);
    if (word != "decode" || command.count < 1 || command.prompt.empty() || !words.eof())
      throw std::invalid_argument("was told '" + line +
                                  "', expected 'decode', how many tokens, and the ids of a prompt");
    return true;
  }
};

struct Answer {
  std::vector<double> ms;      // of each token
  std::vector<double> ids;     // the tokens
  std::vector<double> logits;  // every 64th of those after the prompt

  void print() const {
    const auto list = [](const char* before, const std::vector<double>& numbers) {
      std::printf("%s", before);
      for (std::size_t i = 0; i < numbers.size(); ++i) std::printf("%s%.9g", i > 0 ? ", " : "", numbers[i]);
    };
    list("{\"ms\": [", ms);
    list("], \"ids\": [", ids);
    list("], \"logits\": [", logits);
    std::puts("]}");
    std::fflush(stdout);
  }
};

// begin() forgets all ids; read(ids) appends some and returns the logits after the last, a span of floats.
template <class Begin, class Read>
void decode(Begin&& begin, Read&& read) {
  for (Command command; Command::next(command);) {
    Answer answer;
    begin();
    std::span<const float> logits = read(std::span<const int>(command.prompt));
    for (std::size_t i = 0; i < logits.size(); i += 64) answer.logits.push_back(logits[i]);
    const auto likeliest = [&] {
      return static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    };
    int id = likeliest();
    for (int i = 0; i < command.count; ++i) {
      const double start = milliseconds();
      logits = read(std::span<const int>(&id, 1));
      id = likeliest();
      answer.ms.push_back(milliseconds() - start);
      answer.ids.push_back(id);
    }
    answer.print();
  }
}

}  // namespace peers
