#pragma once
// Explicit instantiation of kernels: compiled once for all tests, in kernels.cpp, to save compile time. Users
// of the library do not need this.
#include <moegpt/kernels/adam.hpp>
#include <moegpt/kernels/attention.hpp>
#include <moegpt/kernels/cross_entropy.hpp>
#include <moegpt/kernels/dispatch.hpp>
#include <moegpt/kernels/dropout.hpp>
#include <moegpt/kernels/elementwise.hpp>
#include <moegpt/kernels/embedding.hpp>
#include <moegpt/kernels/feed_forward.hpp>
#include <moegpt/kernels/gemm.hpp>
#include <moegpt/kernels/multi_head.hpp>
#include <moegpt/kernels/noise.hpp>
#include <moegpt/kernels/norms.hpp>

// KIND template ...; for every kernel that is not inlined. KIND is extern, or nothing where they are
// compiled.
#define MOEGPT_KERNELS(KIND, T)                                                                              \
  KIND template void adam<T>(const AdamStep<T>&, const T*, T*, T*, T*, Index);                               \
  KIND template void attention_forward<T>(const AttentionHead<T>&, MatrixView<const T>, MatrixView<const T>, \
                                          MatrixView<const T>, Rows, MatrixView<T>, T*, T*);                 \
  KIND template void attention_backward<T>(const AttentionHead<T>&, MatrixView<const T>,                     \
                                           MatrixView<const T>, MatrixView<const T>, MatrixView<const T>,    \
                                           const T*, MatrixView<const T>, Rows, Rows, MatrixView<T>,         \
                                           MatrixView<T>, MatrixView<T>, Accumulate, T*);                    \
  KIND template void cross_entropies<T>(const Exec&, MatrixView<const T>, const int*, T*, T*);               \
  KIND template void cross_entropies_backward<T>(const Exec&, MatrixView<const T>, const int*, const T*, T,  \
                                                 Index, MatrixView<T>);                                      \
  KIND template void divergences<T>(const Exec&, MatrixView<const T>, MatrixView<const T>, const int*, T,    \
                                    Divergence<T>*);                                                         \
  KIND template void divergences_backward<T>(const Exec&, MatrixView<const T>, MatrixView<const T>,          \
                                             const int*, T, const Divergence<T>*, T, Index, MatrixView<T>);  \
  KIND template void combine<T>(const Exec&, MatrixView<const T>, const Index*, int, const T*,               \
                                MatrixView<T>);                                                              \
  KIND template void drop<T>(T*, Index, double, Key, Index);                                                 \
  KIND template void add<T>(const Exec&, MatrixView<const T>, MatrixView<const T>, MatrixView<T>, T);        \
  KIND template void look_up<T>(const Exec&, MatrixView<const T>, const int*, MatrixView<T>);                \
  KIND template void look_up_backward<T>(const Exec&, const int*, MatrixView<const T>, MatrixView<T>);       \
  KIND template void add_positions<T>(const Exec&, MatrixView<const T>, TokenPositions, MatrixView<T>);      \
  KIND template void add_positions_backward<T>(const Exec&, MatrixView<const T>, TokenPositions,             \
                                               MatrixView<T>);                                               \
  KIND template void hidden<T>(const Exec&, Activation, Operand<T>, MatrixView<const T>, const T*,           \
                               MatrixView<T>, MatrixView<T>);                                                \
  KIND template void hidden_gated<T>(const Exec&, Activation, Operand<T>, MatrixView<const T>, const T*,     \
                                     MatrixView<const T>, MatrixView<T>, MatrixView<T>);                     \
  KIND template void hidden_backward<T>(Activation, MatrixView<const T>, MatrixView<const T>, const T*,      \
                                        const T*, MatrixView<const T>, MatrixView<T>, MatrixView<T>, T*);    \
  KIND template void hidden_gated_backward<T>(Activation, MatrixView<const T>, MatrixView<const T>,          \
                                              const T*, const T*, MatrixView<const T>, MatrixView<const T>,  \
                                              MatrixView<T>, MatrixView<T>, MatrixView<T>, T*);              \
  KIND template void gemm<T>(Operand<T>, Operand<T>, MatrixView<T>, InitialC<T>, Epilogue);                  \
  KIND template void gemm<T>(const Exec&, Operand<T>, Operand<T>, MatrixView<T>, InitialC<T>, Epilogue);     \
  KIND template void affine_backward_weights<T>(const Exec&, Operand<T>, MatrixView<const T>, MatrixView<T>, \
                                                T*);                                                         \
  KIND template void sum_rows<T>(const Exec&, MatrixView<const T>, T*);                                      \
  KIND template double squared_norm<T>(const T*, Index);                                                     \
  KIND template void multi_head_forward<T>(const Exec&, const MultiHead<T>&, MatrixView<const T>,            \
                                           MatrixView<const T>, MatrixView<const T>, MatrixView<T>,          \
                                           MatrixView<T>, T*);                                               \
  KIND template void multi_head_backward<T>(const Exec&, const MultiHead<T>&, MatrixView<const T>,           \
                                            MatrixView<const T>, MatrixView<const T>, MatrixView<const T>,   \
                                            MatrixView<const T>, MatrixView<const T>, MatrixView<T>,         \
                                            MatrixView<T>, MatrixView<T>, T*);                               \
  KIND template void strided_forward<T>(const AttentionHead<T>&, Index, MatrixView<const T>,                 \
                                        MatrixView<const T>, MatrixView<const T>, Index, Index,              \
                                        MatrixView<T>, MatrixView<T>, T*);                                   \
  KIND template void strided_backward<T>(const AttentionHead<T>&, Index, MatrixView<const T>,                \
                                         MatrixView<const T>, MatrixView<const T>, MatrixView<const T>,      \
                                         MatrixView<const T>, MatrixView<const T>, Index, MatrixView<T>,     \
                                         MatrixView<T>, MatrixView<T>, T*);                                  \
  KIND template void rotary_table<T>(const Exec&, TokenPositions, Index, const Rotary&, double*, T*, T*);    \
  KIND template void rotate_heads<T>(const Exec&, MatrixView<T>, Index, Index, const Rotary&, const T*,      \
                                     const T*, T);                                                           \
  KIND template void add_noise<T>(const T*, const T*, T, T*, Index);                                         \
  KIND template void add_noise_backward<T>(const T*, const T*, const T*, T*, Index);                         \
  KIND template void layer_norms<T>(const Exec&, MatrixView<const T>, const T*, const T*, MatrixView<T>, T*, \
                                    T*, T);                                                                  \
  KIND template void layer_norms_backward<T>(const Exec&, MatrixView<const T>, const T*, const T*, const T*, \
                                             MatrixView<const T>, MatrixView<T>, T*, T*);                    \
  KIND template void rms_norms<T>(const Exec&, MatrixView<const T>, const T*, MatrixView<T>, T*, T);         \
  KIND template void rms_norms_backward<T>(const Exec&, MatrixView<const T>, const T*, const T*,             \
                                           MatrixView<const T>, MatrixView<T>, T*)

// Those that read weights stored as S.
#define MOEGPT_STORED_KERNELS(KIND, S)                                                                      \
  KIND template void gemm<float, WeightOperand<float, S>>(Operand<float>, WeightOperand<float, S>,          \
                                                          MatrixView<float>, InitialC<float>, Epilogue);    \
  KIND template void gemm<float, WeightOperand<float, S>>(                                                  \
      const Exec&, Operand<float>, WeightOperand<float, S>, MatrixView<float>, InitialC<float>, Epilogue);  \
  KIND template void look_up<float, S>(const Exec&, StoredView<S>, const int*, MatrixView<float>);          \
  KIND template void hidden<float, S>(const Exec&, Activation, Operand<float>, StoredView<S>, const float*, \
                                      MatrixView<float>, MatrixView<float>);                                \
  KIND template void hidden_gated<float, S>(const Exec&, Activation, Operand<float>, StoredView<S>,         \
                                            const float*, MatrixView<const float>, MatrixView<float>,       \
                                            MatrixView<float>)

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {
MOEGPT_KERNELS(extern, float);
MOEGPT_KERNELS(extern, double);
MOEGPT_STORED_KERNELS(extern, Panels<float>);
MOEGPT_STORED_KERNELS(extern, Panels<BF16>);
MOEGPT_STORED_KERNELS(extern, Panels<INT8>);
}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
