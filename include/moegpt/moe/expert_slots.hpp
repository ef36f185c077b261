#pragma once
// Which slots each expert of a pool has. A slot is a row of buffers that the experts share: one token, for one expert.
#include <moegpt/layers/pass.hpp>

namespace moegpt::inline MOEGPT_BUILD {

struct ExpertSlots {
  const Index* offset;             // [experts + 1] expert e owns slots [offset[e], offset[e + 1])
  const Index* token = nullptr;    // [slots] the slot's token; null: slot s is of token s
  const int* choice = nullptr;     // [slots] which of its token's choices; null: the first
  int choices = 1;                 // that a token can have

  Rows rows(int e) const { return {offset[e], offset[e + 1] - offset[e]}; }
  // By which dropout knows the slot: its token and choice, not its place among the expert's slots.
  Index number_of(Index s, const Pass& pass) const {
    return pass.number_of(token ? token[s] : s) * choices + (choice ? choice[s] : 0);
  }
};

}  // namespace moegpt::inline MOEGPT_BUILD
