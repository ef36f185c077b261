// Read by the test of the excerpt check; never compiled.
struct Pair {
  int twice(int x) const {
    const int y = 2 * x;

    return y;
  }
};
