// What every C++ file of the project begins with: vector instructions, sizes, and PyTorch's threads.

#pragma once

#include <cfloat>
#include <cstdint>

#if defined(__FMA__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
static_assert(FLT_EVAL_METHOD == 0, "a result must be rounded to its own type");

namespace {
using Int = std::int64_t;

constexpr Int divide_up(Int n, Int by) { return (n + by - 1) / by; }

struct Range {
  Int begin, end;
  Int size() const { return end - begin; }
};

// One of `count` parts of n that differ by one at most.
constexpr Range part(Int n, Int index, Int count) { return {n * index / count, n * (index + 1) / count}; }

// PyTorch's own threads: functions of the OpenMP library that it has loaded. Without them there is one thread.
void (*omp_parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel
int (*omp_thread)();                                               // omp_get_thread_num
int (*omp_team)();                                                 // omp_get_num_threads
}  // namespace

extern "C" void native_threads(void* parallel, void* thread, void* team) {
  omp_parallel = reinterpret_cast<decltype(omp_parallel)>(parallel);
  omp_thread = reinterpret_cast<decltype(omp_thread)>(thread), omp_team = reinterpret_cast<decltype(omp_team)>(team);
}
