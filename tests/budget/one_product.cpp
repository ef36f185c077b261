// The unit of compile cost: a program with one product of Eigen matrices.
#include <Eigen/Core>

#include <cstdio>

int main() {
  const Eigen::MatrixXf a = Eigen::MatrixXf::Ones(64, 48), b = Eigen::MatrixXf::Ones(48, 32);
  const Eigen::MatrixXf c = a * b;
  std::printf("%g\n", static_cast<double>(c(0, 0)));
}
