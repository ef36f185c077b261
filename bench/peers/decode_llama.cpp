// Decodes with a GGUF file in llama.cpp, on command: decode_llama FILE [--threads N]. generation.py documents
// the protocol.
#include <llama.h>

#include "../../examples/options.hpp"
#include "decode.hpp"

namespace {

template <class T>
T* check(T* pointer, const char* what) {
  return pointer ? pointer : throw std::runtime_error(std::string("llama.cpp: cannot ") + what);
}

// Weights in memory of their own rather than mapped from the file: huge pages are possible.
template <class Params>
void load_into_memory(Params& params) {
  if constexpr (requires { params.use_mmap; })
    params.use_mmap = false;
  else
    params.load_mode = LLAMA_LOAD_MODE_NONE;
}

void decode(const std::string& file, int threads) {
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
      },
      nullptr);
  llama_backend_init();
  llama_model_params params = llama_model_default_params();
  load_into_memory(params);
  llama_model* const model = check(llama_model_load_from_file(file.c_str(), params), "load the model");
  llama_context_params how = llama_context_default_params();
  how.n_ctx = 0;  // the model's
  how.n_threads = how.n_threads_batch = threads;
  llama_context* const context = check(llama_init_from_model(model, how), "make a context");
  const auto vocab = static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));

  std::puts("{\"name\": \"llama.cpp " MOEGPT_LLAMA_VERSION "\"}");
  std::fflush(stdout);
  peers::decode([&] { llama_memory_clear(llama_get_memory(context), true); },
                [&](std::span<const int> ids) {
                  std::vector<llama_token> tokens(ids.begin(), ids.end());
                  const auto count = static_cast<std::int32_t>(tokens.size());
                  if (llama_decode(context, llama_batch_get_one(tokens.data(), count)) != 0)
                    throw std::runtime_error("llama.cpp: cannot decode");
                  return std::span<const float>(llama_get_logits_ith(context, -1), vocab);
                });
  llama_free(context);
  llama_model_free(model);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Decodes with a GGUF file in llama.cpp, when told to", "decode_llama");
  std::string file;
  int threads = 1;
  app.add_option("file", file, "GGUF")->required();
  app.add_option("--threads", threads, "Default 1")->check(options::threads());
  return options::run(app, argc, argv, [&] { decode(file, threads); });
}
