#include <moegpt/classical/layer_list.hpp>

#include <moegpt/layers/linear.hpp>
#include <moegpt/layers/norms.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEST_CASE("layers of a list are visited in order, with what belongs to each") {
  using List = LayerList<0, Linear<3, 3, double>, LayerNorm<3, double>>;
  List list, grad;
  List::Tape tape;
  tape.resize(Pass{.shape = {1, 2}});
  std::string order;
  List::visit(
      [&](int number, const auto& layer, auto& layer_grad, auto&) {
        order += std::to_string(number);
        CHECK(static_cast<const void*>(&layer) != static_cast<const void*>(&layer_grad));
      },
      list, grad, tape);
  CHECK(order == "01");
  CHECK(List::size == 2);
}

TEST_CASE("paths of a list are numbers, also beyond nine") {
  using L = Linear<1, 1, double>;
  using List = LayerList<0, L, L, L, L, L, L, L, L, L, L, L, L>;
  List list;
  std::string paths;
  for_each_named_weight([&](const std::string& path, Kind, auto&) { paths += path + " "; }, list);
  CHECK(paths.substr(0, 18) == "0.weight 0.bias 1.");
  CHECK(paths.find(" 9.bias 10.weight ") != std::string::npos);
  CHECK(paths.ends_with("11.weight 11.bias "));
}
