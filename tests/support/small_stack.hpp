#pragma once
// A thread with a small stack, which overflows if a function puts an array of a large extent on it.
#include <pthread.h>

#include <cstddef>
#include <type_traits>

// Runs f(), which must not throw, on a thread with so many bytes of stack. Returns whether it could be
// created.
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
