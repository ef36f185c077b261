#pragma once
// Calls of the malloc family in the whole program so far, OpenMP's and the standard library's included.
#include <atomic>

extern std::atomic<long> allocations;

// Bytes that are allocated now, and the most of them so far or since it was set.
extern const bool bytes_are_counted;  // not with every standard library
extern std::atomic<long> allocated_bytes, peak_bytes;
