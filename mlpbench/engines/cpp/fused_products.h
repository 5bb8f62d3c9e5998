// Products of matrices by tiles that stay in registers, and the threads that share them.

#pragma once

#include "fused_vectors.h"

#include <algorithm>
#include <atomic>
#include <thread>

namespace {

// --- threads ---

// Tell the other thread of the core that this one only waits.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct Barrier {
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> round{0};
  void wait(int num_threads) {
    if (num_threads == 1) return;
    const int mine = round.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads) {
      arrived.store(0, std::memory_order_relaxed);
      round.store(mine + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round.load(std::memory_order_acquire) == mine;) {
      if (spins > 2000) {
        // There are more threads than processors.
        std::this_thread::yield();
      } else {
        relax();
        ++spins;
      }
    }
  }
};

struct Thread {
  int index, count;
  Barrier* barrier;
  void wait() const { barrier->wait(count); }
};

// A part of a matrix. `is_first` is true for the first of the shares that have the same vectors.
struct Share {
  Range rows, vectors;
  bool is_first;
};

// Return a thread's share of a result. The layout of the threads makes the largest share small. Of equal layouts it
// takes the one with more threads beside each other, because then each has its own part of the weights.
inline Share share(Thread thread, Int num_rows, Int num_vectors) {
  Int across = 1, least = INT64_MAX;
  for (Int n = 1; n <= thread.count; ++n)
    if (thread.count % n == 0) {
      const Int cost = divide_up(divide_up(num_rows, thread.count / n), kRows) * divide_up(num_vectors, n);
      if (cost <= least) {
        across = n;
        least = cost;
      }
    }
  const Int down = thread.count / across, column = thread.index % across, row = thread.index / across;
  return {part(num_rows, row, down), part(num_vectors, column, across), row == 0};
}

template <class Body>
void parallel(Int num_threads, const Body& body) {
  Barrier barrier;
  if (num_threads == 1 || !omp_parallel) return body(Thread{0, 1, &barrier});
  struct Data { const Body* body; Barrier* barrier; } data{&body, &barrier};
  const auto join = [](void* at) {
    const Data& data = *static_cast<Data*>(at);
    (*data.body)(Thread{omp_thread(), omp_team(), data.barrier});
  };
  omp_parallel(join, &data, static_cast<unsigned>(num_threads), 0);
}

// --- products ---

// The largest block of a left operand, in tiles and in terms. It is read again and again, and so stays in the cache.
constexpr Int kBlockTiles = 16, kBlockTerms = 1024;

constexpr auto no_preparation = [](Int, Int) {};

// The product a b, tile by tile. The rows of a are given one by one. They are read along, or across if kAcross is true,
// which gives the product of a's transpose. b has `stride` numbers between its rows, which are whole vectors.
// prepare(row, column) is called for each vector before the last terms of its sums are added. Then
// finish(row, column, sums) is called for some vectors of a row, from that column on.
template <bool kAcross, class Prepare, class Finish>
struct Product {
  const float* const* rows;
  Int num_terms;
  const float* b;
  Int stride;
  // Memory for the sums of a block of tiles.
  float* partial;
  const Prepare& prepare;
  const Finish& finish;

  template <int R, int V>
  void tile(Int row, Int vector, Range terms, float* stored) const {
    const bool is_last = terms.end == num_terms;
    if (is_last)
      for (int i = 0; i < R; ++i)
        for (int v = 0; v < V; ++v) prepare(row + i, (vector + v) * kLanes);
    add<R, V>(row, vector, terms, stored);
    if (is_last)
      for (int i = 0; i < R; ++i) {
        Vector sums[V];
        for (int v = 0; v < V; ++v) sums[v] = load(stored + (i * V + v) * kLanes);
        finish(row + i, vector * kLanes, sums);
      }
  }

  // Add terms to the stored sums, or to zero if they are the first.
  template <int R, int V>
  void add(Int row, Int vector, Range terms, float* stored) const {
    Vector sums[R][V], right[V];
    const float* left[R];
    UNROLLED for (int i = 0; i < R; ++i) {
      if constexpr (!kAcross) left[i] = rows[row + i];
      UNROLLED for (int v = 0; v < V; ++v) sums[i][v] = Vector{};
    }
    if (terms.begin > 0)
      UNROLLED for (int i = 0; i < R; ++i)
        UNROLLED for (int v = 0; v < V; ++v) sums[i][v] = load(stored + (i * V + v) * kLanes);
    const float* at = b + terms.begin * stride + vector * kLanes;
    for (Int k = terms.begin; k < terms.end; ++k, at += stride) {
      UNROLLED for (int v = 0; v < V; ++v) right[v] = load(at + v * kLanes);
      UNROLLED for (int i = 0; i < R; ++i) {
        const Vector a = broadcast(kAcross ? rows[k][row + i] : left[i][k]);
        UNROLLED for (int v = 0; v < V; ++v) sums[i][v] = multiply_add(a, right[v], sums[i][v]);
      }
    }
    UNROLLED for (int i = 0; i < R; ++i)
      UNROLLED for (int v = 0; v < V; ++v) store(stored + (i * V + v) * kLanes, sums[i][v]);
  }

  template <int V, int R = kRows>
  void tile_of(Int height, Int row, Int vector, Range terms, float* stored) const {
    if constexpr (R > 1)
      if (height < R) return tile_of<V, R - 1>(height, row, vector, terms, stored);
    tile<R, V>(row, vector, terms, stored);
  }

  template <int V = kVectors>
  void panel(Range vectors, Range own) const {
    if constexpr (V > 1)
      if (vectors.size() < V) return panel<V - 1>(vectors, own);
    const Int num_tiles = divide_up(own.size(), kRows);
    for (Int block = 0; block < num_tiles; block += kBlockTiles)
      for (Int k = 0; k < num_terms; k += kBlockTerms) {
        const Range terms{k, std::min(k + kBlockTerms, num_terms)};
        float* stored = partial;
        for (Int t = block; t < std::min(block + kBlockTiles, num_tiles); ++t, stored += kRows * V * kLanes) {
          // The tiles have almost equal heights, since low tiles are slow.
          const Range tile = part(own.size(), t, num_tiles);
          tile_of<V>(tile.size(), own.begin + tile.begin, vectors.begin, terms, stored);
        }
      }
  }

  void operator()(Share own) const {
    const Int num_panels = divide_up(own.vectors.size(), kVectors);
    for (Int p = 0; p < num_panels; ++p) {
      const Range part_of = part(own.vectors.size(), p, num_panels);
      panel({own.vectors.begin + part_of.begin, own.vectors.begin + part_of.end}, own.rows);
    }
  }
};

template <bool kAcross, class Prepare, class Finish>
void multiply(Share own, const float* const* rows, Int num_terms, const float* b, Int stride, float* partial,
              const Prepare& prepare, const Finish& finish) {
  Product<kAcross, Prepare, Finish>{rows, num_terms, b, stride, partial, prepare, finish}(own);
}

}  // namespace
