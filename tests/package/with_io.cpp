#include <moegpt/io.hpp>

int main() {}
