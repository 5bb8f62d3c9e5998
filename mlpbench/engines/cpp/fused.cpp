// Training in float32 in few passes over memory. fused.py owns all memory, and calls the functions at the end.
//
// Each sum has one accumulator, and takes its terms in their order. So the bits do not depend on the length of vectors,
// the size of blocks or the number of threads. They depend on whether the processor can fuse a multiply-add.

#include "fused_products.h"

namespace {

// --- the network; fused.py has the same structures ---

// m and v belong to the optimizer. The gradient is stored if its pointer is not null.
struct Parameter {
  float *at, *m, *v, *gradient;
};

// Rows are `stride` numbers apart, which are whole vectors. Numbers beyond num_out are read, but only numbers beyond
// num_out depend on them.
struct Layer {
  Int num_in, num_out, stride, in_stride;
  Activation activation;
  // The weight has num_in rows: for each input the weights of all outputs.
  Parameter weight, bias;
  // A copy of the weight by outputs, in rows `in_stride` apart; null in layer 0.
  float* rows;
  // A row for each sample: output (stored if its pointer is not null), activation, derivative, gradient by z.
  float *z, *a, *d, *g;
  // The row that the layer takes from each sample, and the rows of g.
  const float **inputs, **gradients;
};

struct Outcome {
  double loss_sum, last_loss;
  Int num_correct;
};

struct Network {
  Layer* layers;
  Int num_layers, num_threads;
  // For each sample its loss, and 1 if its largest logit is that of its label.
  double* losses;
  Int* hits;
  // For each thread, memory for the sums of kBlockTiles tiles.
  float* partial;
  OptimizerSettings optimizer;

  // Each thread should have about 10 us of a step, because waiting for the others takes 1 us.
  Int useful_threads(Int num_samples) const {
    Int num_weights = 0;
    for (Int k = 0; k < num_layers; ++k) num_weights += layers[k].num_in * layers[k].num_out;
    return std::clamp<Int>(num_samples * num_weights / 300'000, 1, num_threads);
  }
};

// How a parameter follows from its gradient, as in torch.optim.
struct Rule {
  Optimizer kind;
  float lr, mu, decay, shrink, rate, root;

  explicit Rule(const OptimizerSettings& of)
      : kind(of.kind), lr(static_cast<float>(of.lr)), mu(static_cast<float>(of.momentum)),
        decay(static_cast<float>(of.decay)), shrink(static_cast<float>(1.0 - of.lr * of.decay)),
        rate(static_cast<float>(of.lr / (1.0 - of.power1))), root(static_cast<float>(std::sqrt(1.0 - of.power2))) {}

  // Update vectors of a parameter, from `at` on, by their gradients.
  template <int V>
  void apply(const Parameter& parameter, Int at, const Vector (&gradients)[V]) const {
    if (parameter.gradient)
      for (int v = 0; v < V; ++v) store(parameter.gradient + at + v * kLanes, gradients[v]);
    switch (kind) {
      case kSgd: return apply_as<kSgd>(parameter, at, gradients);
      case kMomentum: return apply_as<kMomentum>(parameter, at, gradients);
      case kNesterov: return apply_as<kNesterov>(parameter, at, gradients);
      case kAdam: return apply_as<kAdam>(parameter, at, gradients);
      case kAdamw: return apply_as<kAdamw>(parameter, at, gradients);
    }
  }

  template <Optimizer kKind, int V>
  void apply_as(const Parameter& parameter, Int at, const Vector (&gradients)[V]) const {
    for (Vector g : gradients) {
      Vector p = load(parameter.at + at);
      if constexpr (kKind == kAdamw) p = p * shrink;
      else g = multiply_add(broadcast(decay), p, g);
      if constexpr (kKind == kSgd) {
        p = multiply_add(broadcast(-lr), g, p);
      } else if constexpr (kKind == kMomentum || kKind == kNesterov) {
        const Vector m = multiply_add(broadcast(mu), load(parameter.m + at), g);
        store(parameter.m + at, m);
        p = multiply_add(broadcast(-lr), kKind == kNesterov ? multiply_add(broadcast(mu), m, g) : m, p);
      } else {
        const Vector old = load(parameter.m + at), m = multiply_add(g - old, broadcast(0.1f), old);
        const Vector v = multiply_add(g * g, broadcast(0.001f), load(parameter.v + at) * 0.999f);
        store(parameter.m + at, m);
        store(parameter.v + at, v);
        Vector s{};
        for (int i = 0; i < kLanes; ++i) s[i] = std::sqrt(v[i]);
        p = p - rate * m / (s / root + 1e-8f);
      }
      store(parameter.at + at, p);
      at += kLanes;
    }
  }
};

// --- a step ---

// `labels` are those of all samples, or null. `order` has the samples of this batch; null: the first ones. `logits` are
// written if the pointer is not null.
struct Batch {
  const Int *labels, *order;
  Int size;
  float* logits;

  Int sample(Int i) const { return order ? order[i] : i; }
};

struct Worker {
  Network& net;
  Thread thread;
  float* partial;

  void forward(const Layer& layer, Int num_samples) const {
    const auto finish = [&](Int i, Int column, const auto& sums) {
      for (const Vector sum : sums) {
        const Int at = i * layer.stride + column;
        const Vector z = sum + load(layer.bias.at + column);
        Vector a{}, d{};
        activate(layer.activation, z, a, d);
        store(layer.a + at, a);
        store(layer.d + at, d);
        if (layer.z) store(layer.z + at, z);
        column += kLanes;
      }
    };
    multiply<false>(share(thread, num_samples, layer.stride / kLanes), layer.inputs, layer.num_in, layer.weight.at,
                    layer.stride, partial, no_preparation, finish);
  }

  // Compute the last layer's output in whole rows and, if there are labels, losses and gradients.
  void output(const Layer& layer, const Batch& batch) const {
    const Range own = part(batch.size, thread.index, thread.count);
    // The labels are scattered over memory.
    if (batch.labels)
      for (Int i = own.begin; i < own.end; ++i) __builtin_prefetch(batch.labels + batch.sample(i));
    const auto finish = [&](Int i, Int column, const auto& sums) {
      for (const Vector sum : sums) {
        store(layer.a + i * layer.stride + column, sum + load(layer.bias.at + column));
        column += kLanes;
      }
    };
    multiply<false>({own, {0, layer.stride / kLanes}, true}, layer.inputs, layer.num_in, layer.weight.at, layer.stride,
                    partial, no_preparation, finish);
    const Int n = layer.num_out;
    for (Int i = own.begin; i < own.end; ++i) {
      const float* z = layer.a + i * layer.stride;
      if (batch.logits) std::copy(z, z + n, batch.logits + i * n);
      if (batch.labels) cross_entropy(layer, i, batch.labels[batch.sample(i)], batch.size);
    }
  }

  // Compute a sample's loss, if its largest logit is that of its label, and the gradient of the batch's mean loss.
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

  // Compute the gradient by the output of the layer below, from the gradient by a layer's output.
  void backward(const Layer& layer, const Layer& below, Int num_samples) const {
    const auto finish = [&](Int i, Int column, const auto& sums) {
      Int at = i * below.stride + column;
      for (const Vector sum : sums) {
        store(below.g + at, sum * load(below.d + at));
        at += kLanes;
      }
    };
    multiply<false>(share(thread, num_samples, below.stride / kLanes), layer.gradients, layer.num_out, layer.rows,
                    layer.in_stride, partial, no_preparation, finish);
  }

  // Compute the gradient by a layer's parameters, and immediately the new parameters.
  void update(const Layer& layer, Int num_samples) const {
    const Share own = share(thread, layer.num_in, layer.stride / kLanes);
    const Rule rule(net.optimizer);
    const auto finish = [&](Int i, Int column, const auto& sums) {
      rule.apply(layer.weight, i * layer.stride + column, sums);
    };
    // The weights to change are far away: in the second-level cache, or even in that of another core.
    const auto fetch = [&](Int i, Int column) { __builtin_prefetch(layer.weight.at + i * layer.stride + column, 1); };
    multiply<true>(own, layer.inputs, num_samples, layer.g, layer.stride, partial, fetch, finish);
    if (layer.rows) copy_by_outputs(layer, own);
    if (!own.is_first) return;
    for (Int v = own.vectors.begin; v < own.vectors.end; ++v) {
      Vector sum[1]{};
      for (Int i = 0; i < num_samples; ++i) sum[0] += load(layer.g + i * layer.stride + v * kLanes);
      rule.apply(layer.bias, v * kLanes, sum);
    }
  }

  void copy_by_outputs(const Layer& layer, Share own) const {
    for (Int v = own.vectors.begin; v < own.vectors.end; ++v) {
      const Int num_outputs = std::min<Int>(layer.num_out - v * kLanes, kLanes);
      const float* from = layer.weight.at + v * kLanes;
      float* to = layer.rows + v * kLanes * layer.in_stride;
      Int i = own.rows.begin;
      for (; i + kLanes <= own.rows.end; i += kLanes) {
        Vector block[kLanes];
        for (Int k = 0; k < kLanes; ++k) block[k] = load(from + (i + k) * layer.stride);
        transpose(block);
        for (Int o = 0; o < num_outputs; ++o) store(to + o * layer.in_stride + i, block[o]);
      }
      for (; i < own.rows.end; ++i)
        for (Int o = 0; o < num_outputs; ++o) to[o * layer.in_stride + i] = from[i * layer.stride + o];
    }
  }

  void step(const Batch& batch) const {
    const Int last = net.num_layers - 1;
    // Images are scattered over memory. Their beginnings are requested here; the processor predicts the rest. This is
    // not a function, because GCC leaves out a function that only fetches.
    constexpr Int kLine = 64 / sizeof(float);
    for (Int i = 0; i < batch.size; ++i)
      for (Int k = 0; k < std::min(net.layers[0].num_in, 8 * kLine); k += kLine)
        __builtin_prefetch(net.layers[0].inputs[i] + k);
    for (Int k = 0; k < last; ++k) {
      forward(net.layers[k], batch.size);
      thread.wait();
    }
    output(net.layers[last], batch);
    thread.wait();
    if (!batch.labels) return;
    for (Int k = last; k > 0; --k) {
      backward(net.layers[k], net.layers[k - 1], batch.size);
      thread.wait();
    }
    for (Int k = 0; k <= last; ++k) update(net.layers[k], batch.size);
    thread.wait();
  }
};

}  // namespace

EXPORT_SIZE(Parameter)
EXPORT_SIZE(Layer)
EXPORT_SIZE(Outcome)
EXPORT_SIZE(Network)

extern "C" {
Int fused_lanes() { return kLanes; }

// Return how many numbers of `partial` each thread needs.
Int fused_partial() { return kBlockTiles * kRows * kVectors * kLanes; }

// Return 0 if every sample of the order can be used. Else return the position, counted from 1, of the first sample that
// is not one of num_images, or whose label is not a class.
Int fused_refused(const Network* net, Int num_images, const Int* labels, const Int* order, Int num_samples) {
  const Int num_classes = net->layers[net->num_layers - 1].num_out;
  for (Int n = 0; n < num_samples; ++n) {
    const Int i = order ? order[n] : n;
    if (i < 0 || i >= num_images || labels[i] < 0 || labels[i] >= num_classes) return n + 1;
  }
  return 0;
}

// Return 0 if all n numbers are finite. Else return the position, counted from 1, of the first that is not.
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

// Do a step on each batch of the order; null: all samples as they are. Without labels, compute only the logits.
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
        if (labels) net->optimizer.count_step();
      }
      thread.wait();
      worker.step(batch);
      if (thread.index > 0 || !labels) continue;
      double sum = 0.0;
      for (Int i = 0; i < size; ++i) {
        sum += net->losses[i];
        outcome->num_correct += net->hits[i];
      }
      outcome->loss_sum += sum;
      outcome->last_loss = sum / static_cast<double>(size);
    }
  });
}
}  // extern "C"
