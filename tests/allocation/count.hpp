#pragma once
// Calls of the malloc family in the whole program so far, OpenMP's and the standard library's included.
#include <atomic>

extern std::atomic<long> allocations;
