#pragma once
// Models as files. Needs nlohmann/json beside Eigen; everything else is in <moegpt/moegpt.hpp>.
#include <moegpt/io/intermediates.hpp>
#include <moegpt/io/model_file.hpp>
#include <moegpt/io/safetensors.hpp>
#include <moegpt/moegpt.hpp>
