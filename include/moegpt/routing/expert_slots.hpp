#pragma once
// The slots of each expert of a pool. A slot, one token for one expert, is a row of buffers they share.
#include <moegpt/layers/pass.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct ExpertSlots {
  const Index* offset;           // [experts + 1] expert e owns slots [offset[e], offset[e + 1])
  const Index* token = nullptr;  // [slots] the slot's token; null: slot s is of token s
  const int* choice = nullptr;   // [slots] the slot's choice, 0 .. choices - 1; null: 0
  int choices = 1;               // maximum number of choices of a token

  Rows rows(int e) const { return {offset[e], offset[e + 1] - offset[e]}; }
  // Counter of the slot's dropout mask: dropout is keyed by (token, choice), not by slot.
  Index number_of(Index s, const Pass& pass) const {
    return pass.number_of(token ? token[s] : s) * choices + (choice ? choice[s] : 0);
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
