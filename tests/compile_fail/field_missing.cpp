// A weight that fields() does not name would never be trained nor saved.
// expect: lists_every_field
#include <moegpt/layers/linear.hpp>

using namespace moegpt;

struct Scale {
  Weight<float, 6> factor, shift;

  static constexpr auto fields() {
#ifdef FAULT
    return Fields{Field{"factor", &Scale::factor}};
#else
    return Fields{Field{"factor", &Scale::factor}, Field{"shift", &Scale::shift}};
#endif
  }
};
static_assert(lists_every_field<Scale>());
