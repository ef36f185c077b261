#pragma once
// All of <moegpt/moegpt.hpp>, files of models and intermediates, and training data. Needs nlohmann/json and
// Eigen.
#include <moegpt/data/batches.hpp>
#include <moegpt/data/encode.hpp>
#include <moegpt/data/file_list.hpp>
#include <moegpt/data/permutation.hpp>
#include <moegpt/data/text_files.hpp>
#include <moegpt/data/token_file.hpp>
#include <moegpt/data/token_sequence.hpp>
#include <moegpt/io/any_model.hpp>
#include <moegpt/io/intermediates.hpp>
#include <moegpt/io/model_file.hpp>
#include <moegpt/io/passage_file.hpp>
#include <moegpt/io/safetensors.hpp>
#include <moegpt/io/type_size.hpp>
#include <moegpt/io/type_text.hpp>
#include <moegpt/moegpt.hpp>
