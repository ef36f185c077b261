#pragma once
// Lines of the scorecard: name, figure, goal, ok or short. Progress is printed to stderr.
#include <cstdio>
#include <string>

namespace scorecard {

inline void progress(const std::string& what) { std::fprintf(stderr, "  ... %s\n", what.c_str()); }

inline void section(const std::string& title) {
  std::printf("\n%s\n", title.c_str());
  std::fflush(stdout);
}
inline void line(const std::string& name, double figure, const char* unit, const char* relation, double goal,
                 bool ok) {
  const int digits = unit[0] == '%' ? 1 : 2;
  std::printf("  %-62s %7.*f %-2s %s %5.*f %-2s  %s\n", name.c_str(), digits, figure, unit, relation, digits,
              goal, unit, ok ? "ok" : "short");
  std::fflush(stdout);
}
inline void at_least(const std::string& name, double figure, double goal, const char* unit) {
  line(name, figure, unit, ">=", goal, figure >= goal);
}
inline void at_most(const std::string& name, double figure, double goal, const char* unit) {
  line(name, figure, unit, "<=", goal, figure <= goal);
}

}  // namespace scorecard
