#!/bin/bash
# for_presets.sh ROOT FOLDER [PRESET...]: for a small model of each preset (default: all) examples/for_model.sh trains a
# model of its type and generates from its file, the second time without compiling. Two compiles for each preset. 77 if
# Eigen, nlohmann/json or CLI11 are not where the compiler looks. One that is not in CTest: all presets,
#   tests/examples/for_presets.sh . "$(mktemp -d)"
set -euo pipefail
script=$(cd "$1" && pwd)/examples/for_model.sh folder=$2
shift 2
(( $# )) || set -- makemoe gpt2_moe switch_base gshard glam mixtral olmoe qwen_moe qwen3_moe granite_moe deepseek_moe

extents=".vocab = 96, .context = 32, .dim = 16, .layers = 2, .heads = 4"
relu=".activation = Activation::relu" rotary=".positions = Positions::rotary" tied=".tied = true" rms=".norm = Norm::rms"
no_bias=".output_bias = false, .expert_bias = false" gated=".gated = true"
silu=".activation = Activation::silu, $gated" llama="$rms, $rotary, .activation = Activation::silu, $gated"
type_of() {
  local config router
  case $1 in
    makemoe) config="$relu, .head_bias = true" router="NoisyTopKRouter<8, 2, NoisyTopK{.bias = true}>" ;;
    gpt2_moe) config=".attention_bias = true, $tied" router="TopKRouter<8, 2>" ;;
    switch_base)
      config="$rms, $rotary, $relu, $no_bias, $tied, .moe_every = 2"
      router="InputJitter<TopKRouter<8, 1>, std::ratio<1, 100>>" ;;
    gshard)
      config=".residual = Residual::post_norm, $relu, $tied, .moe_every = 2"
      router="GShardRouter<8, Second::random, std::ratio<1, 5>>" ;;
    glam)
      config="$rotary, $gated, $no_bias, $tied, .moe_every = 2"
      router="GShardRouter<8, Second::random, std::ratio<1, 5>>" ;;
    mixtral) config="$llama, $no_bias" router="TopKRouter<8, 2>" ;;
    olmoe) config="$rms, $rotary, .query_key_norm = QueryKeyNorm::full, $silu, $no_bias" router="TopKRouter<8, 2, TopK{.gates = Gates::probability}>" ;;
    qwen_moe)
      config="$llama, .attention_bias = true, $no_bias"
      router="SharedExperts<TopKRouter<8, 2, TopK{.gates = Gates::probability}>, 4, Shared::gated>" ;;
    qwen3_moe) config="$rms, $rotary, .query_key_norm = QueryKeyNorm::head, $silu, $no_bias" router="TopKRouter<8, 2>" ;;
    granite_moe) config="$llama, $no_bias, $tied" router="TopKRouter<8, 2>" ;;
    deepseek_moe)
      config="$llama, $no_bias, .dense_first = 1"
      router="SharedExperts<SigmoidRouter<16, 3, Sigmoid{.normalise = true, .selection_bias = true, .groups = 8, "
      router+=".groups_kept = 4, .root_softplus = false}, std::ratio<5, 2>>, 1>" ;;
    *) echo "no preset $1" >&2; exit 2 ;;
  esac
  local own=""   # fields that come before the norm
  case $1 in
    mixtral) own=", .kv_heads = 1, .hidden = 16" ;;
    qwen3_moe) own=", .kv_heads = 1, .head_dim = 8, .hidden = 16" ;;
    granite_moe) own=", .kv_heads = 2, .hidden = 16" ;;
    deepseek_moe) own=", .hidden = 16, .dense_hidden = 144" ;;
    *) own=", .hidden = 16" ;;
  esac
  echo "GPT<Config{$extents$own, $config}, $router>"
}

export XDG_CACHE_HOME=$folder/cache CXXFLAGS=${CXXFLAGS--O1 -march=native}
includes='#include <nlohmann/json.hpp>
#include <CLI/CLI.hpp>'
if ! ${CXX:-g++} -std=c++20 -x c++ -E - <<< "$includes" > /dev/null 2>&1; then
  echo "nlohmann/json or CLI11 is not where the compiler looks: skipped"
  exit 77
fi

for preset in "$@"; do
  type=$(type_of "$preset")
  file=$folder/$preset.safetensors
  "$script" --type "$type" train --steps 2 --batch 8 --eval-every 0 --save "$file" 2> "$folder/log"
  grep -qxF "model: $type" "$folder/log" || { echo "$preset: trained another model: $(cat "$folder/log")" >&2; exit 1; }
  first=$("$script" "$file" generate --prompt "a" --tokens 20 2> "$folder/errors")
  grep -q 'compiling generate' "$folder/errors" || { echo "$preset: no program was compiled" >&2; exit 1; }
  second=$("$script" "$file" generate --prompt "a" --tokens 20 2> "$folder/errors")
  [[ -n $first && $first == "$second" ]] || { echo "$preset: two texts: $first --- $second" >&2; exit 1; }
  [[ ! -s $folder/errors ]] || { echo "$preset: the second time: $(cat "$folder/errors")" >&2; exit 1; }
  echo "$preset: trains, generates, and generates without compiling"
done

# The library's own checks of a type come from the compiler.
status=0
"$script" --type "GPT<Config{$extents}, TopKRouter<2, 3>>" train 2> "$folder/errors" || status=$?
(( status == 1 )) && grep -q 'static assertion failed.* K ' "$folder/errors" || { cat "$folder/errors" >&2; exit 1; }
