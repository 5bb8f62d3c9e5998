// Shared by all C++ of the project: vector instructions, optimizers, parts of a range, and PyTorch's threads.

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

// Return one of `count` parts of n. Their sizes differ by one at most.
constexpr Range part(Int n, Int index, Int count) { return {n * index / count, n * (index + 1) / count}; }

enum Optimizer : Int { kSgd, kMomentum, kNesterov, kAdam, kAdamw };

// library.py has the same structure. power1 and power2 are 0.9 and 0.999 to the power of the number of steps.
struct OptimizerSettings {
  Optimizer kind;
  double lr, momentum, decay, power1, power2;

  void count_step() {
    power1 *= 0.9;
    power2 *= 0.999;
  }
};

// PyTorch's own threads: GOMP_parallel, omp_get_thread_num and omp_get_num_threads of the OpenMP library that it has
// loaded. Without them there is one thread.
void (*omp_parallel)(void (*)(void*), void*, unsigned, unsigned);
int (*omp_thread)();
int (*omp_team)();
}  // namespace

extern "C" void native_threads(void* parallel, void* thread, void* team) {
  omp_parallel = reinterpret_cast<decltype(omp_parallel)>(parallel);
  omp_thread = reinterpret_cast<decltype(omp_thread)>(thread);
  omp_team = reinterpret_cast<decltype(omp_team)>(team);
}

// Tell Python the size of a structure that it mirrors; `Library.load` compares.
#define EXPORT_SIZE(Structure) \
  extern "C" Int size_of_##Structure() { return sizeof(Structure); }

EXPORT_SIZE(OptimizerSettings)
