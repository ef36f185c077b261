#pragma once
// All of <moegpt/moegpt.hpp>, and files of models and intermediates. Needs nlohmann/json and Eigen.
#include <moegpt/io/any_model.hpp>
#include <moegpt/io/intermediates.hpp>
#include <moegpt/io/model_file.hpp>
#include <moegpt/io/safetensors.hpp>
#include <moegpt/io/type_size.hpp>
#include <moegpt/io/type_text.hpp>
#include <moegpt/moegpt.hpp>
