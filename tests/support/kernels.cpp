#include "support/kernels.hpp"

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {
MOEGPT_KERNELS(, float);
MOEGPT_KERNELS(, double);
MOEGPT_STORED_KERNELS(, Panels<float>);
MOEGPT_STORED_KERNELS(, Panels<BF16>);
MOEGPT_STORED_KERNELS(, Panels<INT8>);
}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
