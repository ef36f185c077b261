#include "support/kernels.hpp"

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {
MOEGPT_KERNELS(, float);
MOEGPT_KERNELS(, double);
MOEGPT_STORED_KERNELS(, BF16);
MOEGPT_STORED_KERNELS(, INT8);
}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
