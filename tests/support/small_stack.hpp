#pragma once
// A thread whose stack is small: who puts on it what a large extent decides ends the program.
#include <pthread.h>

#include <cstddef>
#include <type_traits>

// Runs f() on a thread with so many bytes of stack. Whether there was such a thread. f must not throw.
template <class F>
bool on_small_stack(std::size_t bytes, F&& f) {
  pthread_attr_t attributes;
  pthread_t thread;
  if (pthread_attr_init(&attributes) != 0) return false;
  const auto run = [](void* object) -> void* {
    (*static_cast<std::remove_reference_t<F>*>(object))();
    return nullptr;
  };
  const bool started = pthread_attr_setstacksize(&attributes, bytes) == 0 &&
                       pthread_create(&thread, &attributes, run, &f) == 0;
  pthread_attr_destroy(&attributes);
  return started && pthread_join(thread, nullptr) == 0;
}
