// Training in float32 in few passes over memory. fused.py owns all memory, and calls the functions at the end.
//
// A number is the sum of its terms in their order, whatever the vectors, the blocks or the threads: each has one
// accumulator, and a multiply-add is fused (where the processor can). So the bits do not depend on any of them.

#include "fused_vectors.h"

#include <algorithm>
#include <atomic>
#include <thread>

namespace {

// --- the network; fused.py has the same structures ---

struct Parameter {
  float *at, *m, *v, *gradient;  // m and v are the optimizer's; the gradient is kept where it is not null
};

// Rows are `stride` numbers apart, whole vectors; beyond num_out all but `a` and `d` are 0.
struct Layer {
  Int num_in, num_out, stride, in_stride;
  Activation activation;
  Parameter weight, bias;  // weight: num_in rows, of each input the outputs
  float* rows;             // the same by outputs, `in_stride` apart; null in layer 0
  float *z, *a, *d, *g;    // by samples: output (kept where it is not null), activation, derivative, gradient by z
  const float** inputs;     // the rows that the layer takes, one of each sample
  const float** gradients;  // the rows of g
};

struct Outcome {
  double loss_sum, last_loss;
  Int num_correct;
};

struct Network {
  Layer* layers;
  Int num_layers, num_threads;
  double* losses;  // of each sample
  Int* hits;       // whether its class was found
  float* partial;  // for each thread, partial sums of kBlockRows by kVectors vectors
  Optimizer optimizer;
  double lr, momentum, decay, power1, power2;

  Int useful_threads(Int num_samples) const {  // each should have some 10 us of a step: waiting for the others takes 1
    Int num_weights = 0;
    for (Int k = 0; k < num_layers; ++k) num_weights += layers[k].num_in * layers[k].num_out;
    return std::clamp<Int>(num_samples * num_weights / 300'000, 1, num_threads);
  }
};

// How a parameter follows from its gradient, as torch.optim has it.
struct Rule {
  Optimizer optimizer;
  float lr, mu, decay, shrink, rate, root;

  explicit Rule(const Network& net)
      : optimizer(net.optimizer), lr(static_cast<float>(net.lr)), mu(static_cast<float>(net.momentum)),
        decay(static_cast<float>(net.decay)), shrink(static_cast<float>(1.0 - net.lr * net.decay)),
        rate(static_cast<float>(net.lr / (1.0 - net.power1))), root(static_cast<float>(std::sqrt(1.0 - net.power2))) {}

  // The new values of a vector of parameters, which are stored too.
  Vector apply(const Parameter& parameter, Int at, Vector g) const {
    if (parameter.gradient) store(parameter.gradient + at, g);
    Vector p = load(parameter.at + at);
    if (optimizer == kAdamW) p = p * shrink;
    else g = multiply_add(all(decay), p, g);
    switch (optimizer) {
      case kSgd: p = multiply_add(all(-lr), g, p); break;
      case kMomentum:
      case kNesterov: {
        const Vector m = multiply_add(all(mu), load(parameter.m + at), g);
        store(parameter.m + at, m);
        p = multiply_add(all(-lr), optimizer == kNesterov ? multiply_add(all(mu), m, g) : m, p);
        break;
      }
      case kAdam:
      case kAdamW: {
        const Vector old = load(parameter.m + at), m = multiply_add(g - old, all(0.1f), old);
        const Vector v = multiply_add(g * g, all(0.001f), load(parameter.v + at) * 0.999f);
        store(parameter.m + at, m), store(parameter.v + at, v);
        Vector s;
        for (int i = 0; i < kLanes; ++i) s[i] = std::sqrt(v[i]);
        p = p - rate * m / (s / root + 1e-8f);
        break;
      }
    }
    store(parameter.at + at, p);
    return p;
  }
};

// --- threads ---

inline void relax() {  // tells the other thread of the core that this one only waits
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
      if (spins > 2000) std::this_thread::yield();  // more threads than processors
      else relax(), ++spins;
    }
  }
};

struct Thread {
  int index, count;
  Barrier* barrier;
  void wait() const { barrier->wait(count); }
};

Range part(Int n, Int index, Int count) { return {n * index / count, n * (index + 1) / count}; }

struct Share {
  Range rows, vectors;
  bool is_first;  // of those that have the same vectors
};

// A thread's share of a result: the threads are laid out over it so that the largest share is small, and rather beside
// than below each other, for then each has its own part of the weights.
Share share(Thread thread, Int num_rows, Int num_vectors) {
  Int across = 1, least = INT64_MAX;
  for (Int n = 1; n <= thread.count; ++n)
    if (thread.count % n == 0) {
      const Int cost = divide_up(divide_up(num_rows, kRows), thread.count / n) * divide_up(num_vectors, n);
      if (cost <= least) across = n, least = cost;
    }
  const Int down = thread.count / across, column = thread.index % across, row = thread.index / across;
  const Range tiles = part(divide_up(num_rows, kRows), row, down);
  return {{tiles.begin * kRows, std::min(tiles.end * kRows, num_rows)}, part(num_vectors, column, across), row == 0};
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

constexpr Int kBlockRows = 16 * kRows, kBlockTerms = 1024;  // the most of a left operand that is read again and again

constexpr auto nothing = [](Int, Int) {};

// Tiles of a b. The rows of a are given one by one, and are read along (a) or across (its transpose); b has rows of
// vectors. prepare(row, vector) is called before the last terms of a sum are added, finish(row, vector, sum) after that.
template <bool kAcross, class Prepare, class Finish>
struct Product {
  const float* const* rows;
  Int num_terms;
  const float* b;
  Int stride;      // of b
  float* partial;  // room for the sums of a block of rows
  const Prepare& prepare;
  const Finish& finish;

  template <int R, int V>
  void tile(Int row, Int vector, Range terms, float* kept) const {
    const bool is_last = terms.end == num_terms;
    Vector sums[R][V] = {}, right[V];
    const float* left[R];
    for (int i = 0; i < R; ++i) {
      if constexpr (!kAcross) left[i] = rows[row + i];
      for (int v = 0; v < V; ++v) {
        if (terms.begin > 0) sums[i][v] = load(kept + (i * V + v) * kLanes);
        if (is_last) prepare(row + i, vector + v);
      }
    }
    const float* at = b + terms.begin * stride + vector * kLanes;
    for (Int k = terms.begin; k < terms.end; ++k, at += stride) {
      for (int v = 0; v < V; ++v) right[v] = load(at + v * kLanes);
      for (int i = 0; i < R; ++i) {
        const Vector a = all(kAcross ? rows[k][row + i] : left[i][k]);
        for (int v = 0; v < V; ++v) sums[i][v] = multiply_add(a, right[v], sums[i][v]);
      }
    }
    for (int i = 0; i < R; ++i)
      for (int v = 0; v < V; ++v) {
        if (is_last) finish(row + i, vector + v, sums[i][v]);
        else store(kept + (i * V + v) * kLanes, sums[i][v]);
      }
  }

  template <int V, int R = kRows>
  void tile_of(Int height, Int row, Int vector, Range terms, float* kept) const {
    if constexpr (R > 1)
      if (height < R) return tile_of<V, R - 1>(height, row, vector, terms, kept);
    tile<R, V>(row, vector, terms, kept);
  }

  template <int V = kVectors>
  void panel(Range vectors, Range own) const {
    if constexpr (V > 1)
      if (vectors.size() < V) return panel<V - 1>(vectors, own);
    for (Int block = own.begin; block < own.end; block += kBlockRows)
      for (Int k = 0; k < num_terms; k += kBlockTerms) {
        float* kept = partial;
        for (Int i = block; i < std::min(block + kBlockRows, own.end); i += kRows, kept += kRows * V * kLanes)
          tile_of<V>(own.end - i, i, vectors.begin, {k, std::min(k + kBlockTerms, num_terms)}, kept);
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

// --- a step ---

struct Batch {
  const Int *labels, *order;  // labels of all samples (null: there are none), and which samples these are
  Int size;
  float* logits;  // null: not asked for

  Int sample(Int i) const { return order ? order[i] : i; }
};

struct Worker {
  Network& net;
  Thread thread;
  float* partial;

  void forward(const Layer& layer, Int num_samples) const {
    const auto finish = [&](Int i, Int v, Vector sum) {
      const Int at = i * layer.stride + v * kLanes;
      const Vector z = sum + load(layer.bias.at + v * kLanes);
      Vector a{}, d{};
      activate(layer.activation, z, a, d);
      store(layer.a + at, a), store(layer.d + at, d);
      if (layer.z) store(layer.z + at, z);
    };
    multiply<false>(share(thread, num_samples, layer.stride / kLanes), layer.inputs, layer.num_in, layer.weight.at,
                    layer.stride, partial, nothing, finish);
  }

  // The last layer's output in whole rows; and where there are labels, losses and gradients.
  void output(const Layer& layer, const Batch& batch) const {
    const Range tiles = part(divide_up(batch.size, kRows), thread.index, thread.count);
    const Range own{tiles.begin * kRows, std::min(tiles.end * kRows, batch.size)};
    const auto finish = [&](Int i, Int v, Vector sum) {
      store(layer.a + i * layer.stride + v * kLanes, sum + load(layer.bias.at + v * kLanes));
    };
    multiply<false>({own, {0, layer.stride / kLanes}, true}, layer.inputs, layer.num_in, layer.weight.at, layer.stride,
                    partial, nothing, finish);
    const Int n = layer.num_out;
    for (Int i = own.begin; i < own.end; ++i) {
      const float* z = layer.a + i * layer.stride;
      if (batch.logits) std::copy(z, z + n, batch.logits + i * n);
      if (batch.labels) cross_entropy(layer, i, batch.labels[batch.sample(i)], batch.size);
    }
  }

  // A sample's loss, whether the largest logit is its label's, and the gradient of the batch's mean by the logits.
  void cross_entropy(const Layer& layer, Int i, Int label, Int num_samples) const {
    const Int n = layer.num_out;
    const float* z = layer.a + i * layer.stride;
    float* g = layer.g + i * layer.stride;
    const Int best = std::max_element(z, z + n) - z;
    for (Int j = 0; j < layer.stride; j += kLanes) store(g + j, exp(load(z + j) - z[best]));
    float sum = 0.0f;
    for (Int j = 0; j < n; ++j) sum += g[j];
    for (Int j = 0; j < n; ++j) g[j] = (g[j] / sum - (j == label ? 1.0f : 0.0f)) / static_cast<float>(num_samples);
    std::fill(g + n, g + layer.stride, 0.0f);
    net.losses[i] = std::log(static_cast<double>(sum)) + static_cast<double>(z[best]) - static_cast<double>(z[label]);
    net.hits[i] = best == label;
  }

  // From the gradient by a layer's output, that by the output of the layer below.
  void backward(const Layer& layer, const Layer& below, Int num_samples) const {
    const auto finish = [&](Int i, Int v, Vector sum) {
      const Int at = i * below.stride + v * kLanes;
      store(below.g + at, sum * load(below.d + at));
    };
    multiply<false>(share(thread, num_samples, below.stride / kLanes), layer.gradients, layer.num_out, layer.rows,
                    layer.in_stride, partial, nothing, finish);
  }

  // The gradient by a layer's parameters, and at once the new parameters.
  void update(const Layer& layer, Int num_samples) const {
    const Share own = share(thread, layer.num_in, layer.stride / kLanes);
    const Rule rule(net);
    const auto finish = [&](Int i, Int v, Vector g) {
      const Vector p = rule.apply(layer.weight, i * layer.stride + v * kLanes, g);
      if (!layer.rows) return;
      for (Int lane = 0, o = v * kLanes; lane < kLanes && o < layer.num_out; ++lane, ++o)
        layer.rows[o * layer.in_stride + i] = p[lane];
    };
    // What is going to be changed is far away: in the second cache, or even in that of another core.
    const auto fetch = [&](Int i, Int v) { __builtin_prefetch(layer.weight.at + i * layer.stride + v * kLanes, 1); };
    multiply<true>(own, layer.inputs, num_samples, layer.g, layer.stride, partial, fetch, finish);
    if (!own.is_first) return;
    for (Int v = own.vectors.begin; v < own.vectors.end; ++v) {
      Vector sum{};
      for (Int i = 0; i < num_samples; ++i) sum += load(layer.g + i * layer.stride + v * kLanes);
      rule.apply(layer.bias, v * kLanes, sum);
    }
  }

  void step(const Batch& batch) const {
    const Int last = net.num_layers - 1;
    for (Int k = 0; k < last; ++k) forward(net.layers[k], batch.size), thread.wait();
    output(net.layers[last], batch), thread.wait();
    if (!batch.labels) return;
    for (Int k = last; k > 0; --k) backward(net.layers[k], net.layers[k - 1], batch.size), thread.wait();
    for (Int k = 0; k <= last; ++k) update(net.layers[k], batch.size);
    thread.wait();
  }
};

}  // namespace

extern "C" {
Int fused_lanes() { return kLanes; }
Int fused_partial() { return kBlockRows * kVectors * kLanes; }  // numbers that each thread needs room for

// 0 if every sample of the order can be used; else n where the n-th cannot, counted from 1: it is none of num_images, or
// its label none of the classes.
Int fused_refused(const Network* net, Int num_images, const Int* labels, const Int* order, Int num_samples) {
  const Int num_classes = net->layers[net->num_layers - 1].num_out;
  for (Int n = 0; n < num_samples; ++n) {
    const Int i = order ? order[n] : n;
    if (i < 0 || i >= num_images || labels[i] < 0 || labels[i] >= num_classes) return n + 1;
  }
  return 0;
}

// 0 if all of n numbers are finite; else where the first is that is not, counted from 1.
Int fused_not_finite(const float* x, Int n) {
  constexpr Int kBlock = 1024;
  for (Int begin = 0; begin < n; begin += kBlock) {
    const Int end = std::min(begin + kBlock, n);
    bool is_finite = true;
    for (Int i = begin; i < end; ++i) is_finite &= std::fabs(x[i]) <= FLT_MAX;
    for (Int i = begin; !is_finite && i < end; ++i)
      if (!(std::fabs(x[i]) <= FLT_MAX)) return i + 1;
  }
  return 0;
}

// Steps on one batch of the order after the other (null: all in turn). Without labels, only the logits.
void fused_run(Network* net, const float* x, const Int* labels, const Int* order, Int num_samples, Int batch_size,
               float* logits, Outcome* outcome) {
  const Layer &first = net->layers[0], &last = net->layers[net->num_layers - 1];
  *outcome = {};
  parallel(net->useful_threads(std::min(batch_size, num_samples)), [&](Thread thread) {
    const Worker worker{*net, thread, net->partial + thread.index * fused_partial()};
    for (Int begin = 0; begin < num_samples; begin += batch_size) {
      const Int size = std::min(batch_size, num_samples - begin);
      const Batch batch{labels && !order ? labels + begin : labels, order ? order + begin : nullptr, size,
                        logits ? logits + begin * last.num_out : nullptr};
      if (thread.index == 0) {
        for (Int i = 0; i < size; ++i) first.inputs[i] = x + (order ? order[begin + i] : begin + i) * first.num_in;
        if (labels) net->power1 *= 0.9, net->power2 *= 0.999;
      }
      thread.wait();
      worker.step(batch);
      if (thread.index > 0 || !labels) continue;
      double sum = 0.0;
      for (Int i = 0; i < size; ++i) sum += net->losses[i], outcome->num_correct += net->hits[i];
      outcome->loss_sum += sum, outcome->last_loss = sum / static_cast<double>(size);
    }
  });
}
}  // extern "C"
