#include "support/kernels.hpp"

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {
MOEGPT_KERNELS(, float);
MOEGPT_KERNELS(, double);
}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
