#include "support/kernels.hpp"

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {
MOEGPT_KERNELS(, float);
MOEGPT_KERNELS(, double);
}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
