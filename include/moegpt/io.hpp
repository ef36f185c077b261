#pragma once
// Models as files, and all of <moegpt/moegpt.hpp>. Needs nlohmann/json beside Eigen.
#include <moegpt/io/intermediates.hpp>
#include <moegpt/io/model_file.hpp>
#include <moegpt/io/safetensors.hpp>
#include <moegpt/moegpt.hpp>
