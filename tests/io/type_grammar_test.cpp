#include <moegpt/io/type_grammar.hpp>

#include <moegpt/io.hpp>

#include "support.hpp"

#include <regex>
#include <set>

using namespace moegpt;

namespace {

struct Anything {
  template <class T>
  operator T() const;
};
// The number of fields of an aggregate.
template <class Options, class... Values>
consteval std::size_t count_fields() {
  if constexpr (requires { Options{Values{}..., Anything{}}; })
    return count_fields<Options, Values..., Anything>();
  else
    return sizeof...(Values);
}
template <class Options>
bool has_every_field(std::string_view name) {
  return types::find_rule(name)->all().size() == count_fields<Options>();
}

}  // namespace

TEST_CASE("the grammar has every field of the options, and every router that has a text") {
  CHECK(has_every_field<Config>("Config"));
  CHECK(has_every_field<TopK>("TopK"));
  CHECK(has_every_field<NoisyTopK>("NoisyTopK"));
  CHECK(has_every_field<Sigmoid>("Sigmoid"));
  CHECK(has_every_field<ExpertChoice>("ExpertChoice"));
  const std::regex name_of_a_text("\"([A-Z][A-Za-z]*)<");
  std::set<std::string> names;
  for (const char* tier : {"routing", "moe"})
    for (const auto& entry :
         std::filesystem::directory_iterator(std::string(MOEGPT_TESTS_DIR "/../include/moegpt/") + tier)) {
      const std::string source = get(entry.path());
      for (std::sregex_iterator i(source.begin(), source.end(), name_of_a_text), end; i != end; ++i)
        names.insert((*i)[1]);
    }
  CHECK(names.erase("WithExperts") == 1);  // its experts are user-defined
  CHECK(names.size() == 20);
  for (const std::string& name : names) {
    CAPTURE(name);
    CHECK(types::find_rule(name) != nullptr);
  }
}
