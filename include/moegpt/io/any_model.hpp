#pragma once
// A model of one of several types, for programs without a compiler at run time: the type is that of the file.
#include <moegpt/io/model_file.hpp>

#include <variant>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// `Models` are the types that the program is compiled for. Types that differ only in their numbers, such as
// Stored<float, INT8>, have one text; the first of them is taken.
template <class... Models>
struct AnyModel {
  static_assert(sizeof...(Models) > 0, "AnyModel: name the types that a file may have");

  std::variant<Models...> model;  // std::visit([&](const auto& model) { ... }, any.model)
  Tokenizer tokenizer;

  // Reads a file of save(). Throws std::invalid_argument that states the file's type and those of the
  // program, or what load throws.
  explicit AnyModel(const std::string& path, const FileFormat& format = {})
      : model(empty<Models...>(path, model_text(path, format))) {
    std::visit([&](auto& read) { load(path, read, tokenizer, format); }, model);
  }

  // The type of the model, as C++ text.
  std::string type() const {
    return std::visit([]<class Model>(const Model&) { return to_text<Model>(); }, model);
  }

 private:
  // Allocates a model of the type that has this text.
  template <class First, class... Rest>
  static std::variant<Models...> empty(const std::string& path, const std::string& found) {
    if (found == to_text<First>()) return std::variant<Models...>(std::in_place_type<First>);
    if constexpr (sizeof...(Rest) > 0) return empty<Rest...>(path, found);
    std::string known;
    ((known += "\n  " + to_text<Models>()), ...);
    reject(path, " holds a\n  ", shown(found, 1000),
           "\nwhich this program is not compiled for. It has:", known,
           "\nAdd the type of the file to its AnyModel<...> and compile again");
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
