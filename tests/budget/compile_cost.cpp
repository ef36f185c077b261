// compile_cost DIRECTORY HELLO RESHAPE COMPILER FLAGS...: compiles programs, and prints user time and memory
// beside their limits.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

struct Cost {
  double seconds;    // user time of the compiler
  double gigabytes;  // peak memory
};

// The minimum of four runs, because other load only adds time.
static Cost cost_of(const std::vector<std::string>& compiler, std::vector<std::string> more) {
  more.insert(more.begin(), compiler.begin(), compiler.end());
  std::vector<char*> words;
  for (auto& word : more) words.push_back(word.data());
  words.push_back(nullptr);
  Cost least{1e9, 1e9};
  for (int run = 0; run < 4; ++run) {
    const pid_t child = fork();
    if (child == 0) {
      execvp(words[0], words.data());
      _exit(127);
    }
    int status = 0;
    rusage used{};
    if (child < 0 || wait4(child, &status, 0, &used) < 0 || status != 0) {
      std::printf("cannot compile %s\n", more.back().c_str());
      std::exit(1);
    }
    least.seconds = std::min(least.seconds, static_cast<double>(used.ru_utime.tv_sec) +
                                                1e-6 * static_cast<double>(used.ru_utime.tv_usec));
    least.gigabytes = std::min(least.gigabytes, static_cast<double>(used.ru_maxrss) / 1e6);
  }
  return least;
}

static bool all_hold = true;
static void promise(const char* what, double found, double limit, const char* unit) {
  const bool holds = found <= limit;
  std::printf("%-44s %6.2f %s, at most %.2f%s\n", what, found, unit, limit, holds ? "" : "   <-- too much");
  all_hold = all_hold && holds;
}

int main(int argc, char** argv) {
  const std::string directory = argv[1], hello = argv[2], reshape = argv[3];
  std::vector<std::string> compiler(argv + 4, argv + argc);
  for (const char* word : {"-c", "-o", "/dev/null"}) compiler.push_back(word);

  const Cost product = cost_of(compiler, {directory + "/one_product.cpp"});
  const Cost greeting = cost_of(compiler, {hello});
  const Cost shapes = cost_of(compiler, {reshape});
  const Cost one = cost_of(compiler, {"-DSHAPES=1", directory + "/shapes.cpp"});
  const Cost two = cost_of(compiler, {"-DSHAPES=2", directory + "/shapes.cpp"});
  std::printf("one product %.2f s, hello %.2f s, one shape %.2f s, two shapes %.2f s\n", product.seconds,
              greeting.seconds, one.seconds, two.seconds);
  promise("hello", greeting.seconds / product.seconds, 4, "products");
  promise("hello", greeting.gigabytes, 1, "GB");
  promise("reshape, six model shapes", shapes.seconds / product.seconds, 12, "products");
  promise("a second model shape in the same file", (two.seconds - one.seconds) / product.seconds, 0.75,
          "products");
  return all_hold ? 0 : 1;
}
