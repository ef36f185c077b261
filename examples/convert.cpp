// Writes a model as a file, or as a directory of Hugging Face's layout, with its tokenizer:
//   convert --model DIRECTORY --to FILE
//   convert --model FILE --to DIRECTORY --family mixtral
// --base DIRECTORY, of the model that FILE was trained from, states the family and has the tokenizer.
#include <moegpt/io/huggingface.hpp>

#include <cstdio>
#include <memory>

#include "options.hpp"
#include "presets.hpp"

using namespace moegpt;

namespace {

struct Options {
  std::string model, to, family, base, dtype = "float";
  bool is_file = false;  // to
};

template <class Model>
void convert(const Options& o) {
  const auto model = std::make_unique<Model>();
  Tokenizer tokenizer;
  load_stated(o.model, *model, tokenizer);
  if (o.is_file) {
    save(o.to, *model, tokenizer);
  } else {
    HuggingFaceOptions how{.dtype = o.dtype == "bf16" ? DType::bf16 : DType::f32, .base = o.base};
    if (tokenizer.byte_pairs())
      how.tokenizer = &tokenizer;
    else if (o.base.empty())
      std::fputs("the tokenizer is not of byte pairs: it is not written\n", stderr);
    save_huggingface(o.to, *model, o.family, how);
  }
  std::printf("wrote %s\n", o.to.c_str());
}

// Tries one type; whether it was this one.
template <class Model>
bool is(const std::string& found, const Options& o) {
  if (found != to_text<Model>()) return false;
  convert<Model>(o);
  return true;
}

void start(Options o) {
  o.is_file = std::filesystem::path(o.to).extension() == ".safetensors";
  if (!o.base.empty() && o.family.empty()) o.family = read_huggingface_config(o.base).family;
  if (!o.is_file && o.family.empty())
    throw options::Failure(2,
                           "--to is " + o.to + ", a directory: --family or --base must say of which family");
  const std::string found = stated_type(o.model);
#ifdef MOEGPT_MODEL
  if (is<training::Given::Model<>>(found, o)) return;
#else
  using training::Small;
  if (is<Small::Model<>>(found, o) || is<Small::Model<256>>(found, o)) return;
#endif
  check(false, o.model, " holds a ", shown(found, 1000),
        ", which this program is not compiled for. To compile it: examples/for_model.sh ", o.model,
        " convert ...");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Writes a model as a file, or as a directory of Hugging Face's layout", "convert");
  Options o;
  using namespace options;
  app.add_option("--model", o.model, "What train --save wrote, or a directory with config.json")
      ->required()
      ->check(file_name());
  app.add_option("--to", o.to, "A file with the ending .safetensors, or a directory")
      ->required()
      ->check(file_name());
  app.add_option("--family", o.family,
                 "Of the directory: mixtral, qwen3_moe, gpt2, ... (default: of --base)");
  app.add_option("--base", o.base,
                 "The directory of the model that this one was trained from: its tokenizer and its settings "
                 "of generation are copied")
      ->check(file_name());
  app.add_option("--dtype", o.dtype, "Of the numbers in a directory: float (default) or bf16")
      ->check(one_of({"float", "bf16"}));
  return run(app, argc, argv, [&] { start(o); });
}
