#pragma once
// The three products of a linear layer, by moegpt and by others. M tokens, y = x W^T with W [N, K]:
//   forward   y [M, N]  = x W^T + b
//   dx        dx [M, K] = dy W
//   dw        dW [N, K] += dy^T x
// Other libraries compute the product without the bias. Each has 2 M N K FLOP. Calls rotate over the operands
// of 8 experts, as in a MoE layer, so weights of the previous call are not in cache. Packing is part of the
// call.
#include <moegpt/kernels/gemm.hpp>
#include <moegpt/core/random.hpp>

#include <dlfcn.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

namespace bench {
using namespace moegpt;

enum class Orientation { forward, dx, dw };
inline constexpr Orientation orientations[] = {Orientation::forward, Orientation::dx, Orientation::dw};
inline const char* name_of(Orientation o) {
  return o == Orientation::forward ? "forward" : o == Orientation::dx ? "dX" : "dW";
}

struct ProductShape {
  Index M, N, K;
  double flops() const { return 2.0 * static_cast<double>(M * N * K); }
  std::string text() const { return std::to_string(M) + "x" + std::to_string(N) + "x" + std::to_string(K); }
};

// cblas_sgemm of a library, loaded at run time if present, because two libraries that define it cannot both
// be linked. One thread. For a processor newer than itself a library selects its slowest kernel, three to
// four times slower than its best. So with AVX-512 its kernel is set by environment variables, unless they
// are already set.
class Cblas {
 public:
  static std::optional<Cblas> load(const char* file, const char* set_threads) {
    void* library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return {};
    Cblas result;
    result.sgemm_ = reinterpret_cast<Sgemm*>(dlsym(library, "cblas_sgemm"));
    if (result.sgemm_ == nullptr) return {};
    if (auto* set = reinterpret_cast<void (*)(long)>(dlsym(library, set_threads))) set(1);
    return result;
  }
  static std::optional<Cblas> openblas() {
    if (MOEGPT_VECTOR_BYTES == 64) setenv("OPENBLAS_CORETYPE", "SkylakeX", 0);
    return load("libopenblas.so.0", "openblas_set_num_threads");
  }
  static std::optional<Cblas> blis() {
    if (MOEGPT_VECTOR_BYTES == 64) setenv("BLIS_ARCH_TYPE", "0", 0);  // skx, in BLIS 0.9
    return load("libblis.so.4", "bli_thread_set_num_threads");
  }

  // C = A B + beta C; a and b are stored transposed or not, row-major.
  void operator()(bool at, bool bt, Index m, Index n, Index k, const float* a, const float* b, float beta,
                  float* c) const {
    const auto i = [](Index x) { return static_cast<int>(x); };
    sgemm_(101, at ? 112 : 111, bt ? 112 : 111, i(m), i(n), i(k), 1, a, i(at ? m : k), b, i(bt ? k : n), beta,
           c, i(n));
  }

 private:
  using Sgemm = void(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*,
                     int);
  Sgemm* sgemm_ = nullptr;
};

class Products {
 public:
  Products(ProductShape shape, Orientation orientation) : s_(shape), o_(orientation), expert_(8) {
    Rng rng(1);
    for (auto& e : expert_) {
      e.x.resize(s_.M * s_.K);
      e.w.resize(s_.N * s_.K);
      e.b.resize(s_.N);
      e.y.resize(s_.M * s_.N);
      e.result.resize(o_ == Orientation::forward ? s_.M * s_.N
                      : o_ == Orientation::dx    ? s_.M * s_.K
                                                 : s_.N * s_.K);
      for (auto* operand : {&e.x, &e.w, &e.b, &e.y})
        for (float& value : *operand) value = static_cast<float>(rng.uniform() - 0.5);
    }
  }

  void ours() {
    Operands& e = next();
    const MatrixView<const float> x{e.x.data(), s_.M, s_.K, s_.K}, w{e.w.data(), s_.N, s_.K, s_.K},
        dy{e.y.data(), s_.M, s_.N, s_.N};
    float* const c = e.result.data();
    if (o_ == Orientation::forward) kernels::affine<float>({}, x, w, e.b.data(), {c, s_.M, s_.N, s_.N});
    if (o_ == Orientation::dx) kernels::affine_backward<float>({}, dy, w, {c, s_.M, s_.K, s_.K}, false);
    if (o_ == Orientation::dw)
      kernels::affine_backward_weights<float>({}, x, dy, {c, s_.N, s_.K, s_.K}, nullptr);
  }

  void eigen() {
    using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    using In = Eigen::Map<const Matrix>;
    using Out = Eigen::Map<Matrix>;
    Operands& e = next();
    const In x(e.x.data(), s_.M, s_.K), w(e.w.data(), s_.N, s_.K), dy(e.y.data(), s_.M, s_.N);
    float* const c = e.result.data();
    if (o_ == Orientation::forward) Out(c, s_.M, s_.N).noalias() = x * w.transpose();
    if (o_ == Orientation::dx) Out(c, s_.M, s_.K).noalias() = dy * w;
    if (o_ == Orientation::dw) Out(c, s_.N, s_.K).noalias() += dy.transpose() * x;
  }

  void by(const Cblas& blas) {
    Operands& e = next();
    float* const c = e.result.data();
    if (o_ == Orientation::forward) blas(false, true, s_.M, s_.N, s_.K, e.x.data(), e.w.data(), 0, c);
    if (o_ == Orientation::dx) blas(false, false, s_.M, s_.K, s_.N, e.y.data(), e.w.data(), 0, c);
    if (o_ == Orientation::dw) blas(true, false, s_.N, s_.K, s_.M, e.y.data(), e.x.data(), 1, c);
  }

 private:
  struct Operands {
    Buffer<float> x, w, b, y, result;
  };
  Operands& next() { return expert_[at_ = (at_ + 1) % expert_.size()]; }

  ProductShape s_;
  Orientation o_;
  std::vector<Operands> expert_;
  std::size_t at_ = 0;
};

}  // namespace bench
