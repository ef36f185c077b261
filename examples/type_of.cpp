// Prints the type of the model in a file, or in a directory of Hugging Face's layout, checked: what
// for_model.sh gives to a compiler. See io/type_text.hpp.
#include <moegpt/io/huggingface.hpp>
#include <moegpt/io/type_size.hpp>

#include <cstdio>

using namespace moegpt;

namespace {

TypeTree type_in(const std::string& path) {
  if (std::filesystem::is_directory(path)) {
    const TypeTree type = parse_type(stated_type(path));
    check_size(type, huggingface::Tensors(path).numbers(), path);
    return type;
  }
  const SafetensorsFile file = read_safetensors(path);
  const TypeTree type = parse_type(model_text(file));
  check_size(type, file);
  return type;
}

}  // namespace

int main(int argc, char** argv) {
  const bool given = argc == 3 && std::string_view(argv[1]) == "--type";
  if (argc != 2 && !given) {
    std::fputs("type_of FILE|DIRECTORY, or type_of --type 'GPT<Config{...}, TopKRouter<8, 2>>'\n", stderr);
    return 2;
  }
  try {
    const TypeTree type = given ? parse_type(argv[2]) : type_in(argv[1]);
    check(type.name == "GPT", "the type is a ", type.name,
          ", expected a GPT: a trunk alone predicts no token");
    return std::puts(to_text(type).c_str()) < 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "type_of: %s\n", error.what());
    return 1;
  }
}
