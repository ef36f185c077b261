// The main() of a program made by moegpt_simd_levels (MoegptSimdLevels.cmake): starts the highest level of
// x86-64 that the processor has, of those that were compiled. Compiled for x86-64, so that it runs on each.
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {
using Constructor = void (*)(int, char**, char**);
}

#define MOEGPT_LEVEL(level)                                                   \
  extern "C" int moegpt_main_##level(int, char**);                            \
  extern "C" Constructor __start_moegpt_init_##level[] __attribute__((weak)); \
  extern "C" Constructor __stop_moegpt_init_##level[] __attribute__((weak));
MOEGPT_LEVEL(v2)
MOEGPT_LEVEL(v3)
MOEGPT_LEVEL(v4)

namespace {

struct Level {
  const char* name;
  bool has;
  int (*main)(int, char**);
  Constructor *first, *last;  // of its global objects
};

}  // namespace

int main(int argc, char** argv, char** environment) {
  __builtin_cpu_init();
  const bool v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  const bool v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  const Level levels[] = {{"v4", v4, moegpt_main_v4, __start_moegpt_init_v4, __stop_moegpt_init_v4},
                          {"v3", v3, moegpt_main_v3, __start_moegpt_init_v3, __stop_moegpt_init_v3},
                          {"v2", v2, moegpt_main_v2, __start_moegpt_init_v2, __stop_moegpt_init_v2}};
  const char* wanted = std::getenv("MOEGPT_SIMD_LEVEL");
  bool known = !wanted;
  for (const Level& level : levels) known = known || std::strcmp(wanted, level.name) == 0;
  if (!known) {
    std::fprintf(stderr, "MOEGPT_SIMD_LEVEL is %s, expected v2, v3 or v4\n", wanted);
    return 2;
  }
  for (const Level& level : levels) {
    if (!level.has || (wanted && std::strcmp(wanted, level.name) != 0)) continue;
    for (Constructor* c = level.first; c != level.last; ++c) (*c)(argc, argv, environment);
    return level.main(argc, argv);
  }
  std::fprintf(stderr, "%s needs a processor with x86-64-%s\n", argv[0], wanted ? wanted : "v2");
  return 2;
}
