// The arithmetic portable/1 in few passes over memory: the bits of arithmetic.py, by the same operations.
// docs/portable-format.md is the definition. fused.py owns all memory, and calls the functions at the end.
// A step allocates nothing. The operations that follow a product work on its rows while they are in the cache. The
// product is written here; this is allowed because every order of adding gives the same bits.

#include "../cpp/native.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

namespace {

// --- threads ---

// One of the equal parts of some work.
struct Part {
  Int index, count;
  Range of(Int n) const { return part(n, index, count); }
};

// Do some work in at least `least_parts` parts, on more threads if it is long: waking a thread costs about 1000 ns.
template <class Body>
void parallel(Int num_threads, double work_ns, Int least_parts, const Body& body) {
  const Int num_used = omp_parallel ? std::clamp(static_cast<Int>(work_ns / 4000), Int{1}, num_threads) : 1;
  auto run = [&body, count = divide_up(least_parts, num_used) * num_used](Int first, Int step) {
    for (Int i = first; i < count; i += step) body(Part{i, count});
  };
  if (num_used == 1) return run(0, 1);
  const auto join = [](void* data) { (*static_cast<decltype(run)*>(data))(omp_thread(), omp_team()); };
  omp_parallel(join, &run, static_cast<unsigned>(num_used), 0);
}

// --- products ---

// A tile of a product has kRows by kVectors vectors and stays in registers. A processor has 32 or 16 of them. Every sum
// on a grid is exact, so it does not matter whether a multiply-add is fused.
#if defined(__AVX512F__)
constexpr int kLanes = 8, kRows = 6, kVectors = 4;
using Vector = __m512d;
Vector multiply_add(double a, Vector b, Vector c) { return _mm512_fmadd_pd(_mm512_set1_pd(a), b, c); }
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kLanes = 4, kRows = 6, kVectors = 2;
using Vector = __m256d;
Vector multiply_add(double a, Vector b, Vector c) { return _mm256_fmadd_pd(_mm256_set1_pd(a), b, c); }
#elif defined(__aarch64__)
constexpr int kLanes = 2, kRows = 6, kVectors = 4;
using Vector = float64x2_t;
Vector multiply_add(double a, Vector b, Vector c) { return vfmaq_n_f64(c, b, a); }
#else
constexpr int kLanes = 2, kRows = 3, kVectors = 3;
typedef double Vector __attribute__((vector_size(16)));
Vector multiply_add(double a, Vector b, Vector c) { return a * b + c; }
#endif

// Rows of binary64, `stride` numbers apart, which are whole vectors. Numbers beyond the columns have no meaning.
struct Matrix {
  double* at;
  Int stride;
  double* row(Int i) const { return at + i * stride; }
};

// `step` leads to the next row (of a left operand) or vector (of a right operand), `term` to the next term of a sum.
struct Operand {
  const double* at;
  Int step, term;
};

template <int R, int V>
void tile(Operand a, Operand b, Int num_terms, Matrix c) {
  Vector sums[R][V] = {}, right[V];
  for (Int k = 0; k < num_terms; ++k, a.at += a.term, b.at += b.term) {
    for (int v = 0; v < V; ++v) std::memcpy(&right[v], b.at + v * b.step, sizeof(Vector));
    for (int i = 0; i < R; ++i)
      for (int v = 0; v < V; ++v) sums[i][v] = multiply_add(a.at[i * a.step], right[v], sums[i][v]);
  }
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) std::memcpy(c.row(i) + v * kLanes, &sums[i][v], sizeof(Vector));
}

template <int... I>
constexpr auto all_tiles(std::integer_sequence<int, I...>) {
  return std::array{tile<I / kVectors + 1, I % kVectors + 1>...};
}
constexpr auto kTiles = all_tiles(std::make_integer_sequence<int, kRows * kVectors>{});

// Compute c = a b, tile by tile; at the edges the tiles are smaller.
void multiply(Operand a, Operand b, Int num_rows, Int num_columns, Int num_terms, Matrix c) {
  const Int num_vectors = divide_up(num_columns, kLanes);
  for (Int v = 0; v < num_vectors; v += kVectors)
    for (Int i = 0; i < num_rows; i += kRows) {
      const Int height = std::min<Int>(num_rows - i, kRows), width = std::min<Int>(num_vectors - v, kVectors);
      kTiles[static_cast<std::size_t>((height - 1) * kVectors + width - 1)](
          {a.at + i * a.step, a.step, a.term}, {b.at + v * b.step, b.step, b.term}, num_terms,
          {c.row(i) + v * kLanes, c.stride});
    }
}

// --- the grid ---

template <class To, class From>
To bits_as(From from) {
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// Return the bits of the largest magnitude. Bits have the order of magnitudes, with a NaN above all: so it can be found
// in any order, and with vectors.
template <class Number>
Int largest(const Number* x, Int n) {
  Int most = 0;
  for (Int i = 0; i < n; ++i) most = std::max(most, bits_as<Int>(static_cast<double>(x[i])) & INT64_MAX);
  return most;
}

// Set most to at least `other`; any thread may do so.
void include(Int& most, Int other) {
  Int seen = __atomic_load_n(&most, __ATOMIC_RELAXED);
  while (seen < other && !__atomic_compare_exchange_n(&most, &seen, other, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
    continue;
}

constexpr Int kMantissa = (Int{1} << 52) - 1, kExponent = Int{0x7FF} << 52, kOne = Int{1023} << 52;

// Return the number that rounds to the grid when it is added and subtracted.
double grid(Int most, Int bits) {
  const std::uint64_t enough = static_cast<std::uint64_t>(std::max(most, bits_as<Int>(0x1p-400))) + kMantissa;
  return bits_as<double>(enough & kExponent) * std::ldexp(1.5, static_cast<int>(52 - bits));
}

template <class Number>
void snap(const Number* x, double* out, Int n, double c) {
  for (Int i = 0; i < n; ++i) out[i] = (static_cast<double>(x[i]) + c) - c;
}

// --- functions ---

// The last bits of x + kRint are rint(x), and (x + kRint) - kRint is rint(x).
constexpr double kRint = 1.5 * (Int{1} << 52);
// The tables are as long as any index can ask for, even the index of a NaN.
double exp_table[4096], tanh_table[2048], log_table[129];

// The result for a NaN is a NaN, here and below.
double above_m40(double x) { return x < -40.0 ? -40.0 : x; }

// For -40 to 0.
double portable_exp(double v) {
  const double sum = v * -64.0 + kRint, r = v + (sum - kRint) * (1.0 / 64);
  const double q = (((r * (1.0 / 24) + 1.0 / 6) * r + 0.5) * r + 1.0) * r + 1.0;
  return q * exp_table[bits_as<Int>(sum) & 4095];
}

double portable_tanh(double x) {
  const double a = std::fabs(x) > 20.0 ? 20.0 : std::fabs(x), sum = a * 64.0 + kRint;
  const double r = a - (sum - kRint) * (1.0 / 64), t = r * (1.0 - (r * r) * (1.0 / 3));
  const double entry = tanh_table[bits_as<Int>(sum) & 2047];
  return std::copysign((entry + t) / (entry * t + 1.0), x);
}

double portable_log(double x) {
  if (!(x >= 1.0)) return NAN;
  const double k = static_cast<double>((bits_as<Int>(x) >> 52) - 1023);
  const double m = bits_as<double>((bits_as<Int>(x) & kMantissa) | kOne), j = std::rint((m - 1.0) * 128.0);
  const double c = j / 128.0 + 1.0, u = (m - c) / c;
  const double w = (1.0 - u * (0.5 - u * (1.0 / 3 - u * 0.25))) * u;
  return k * 0.693147180559945309417232121458176568 + (log_table[static_cast<int>(j)] + w);
}

enum Activation : Int { kRelu, kLeakyRelu, kElu, kTanh, kSigmoid, kNone };

// The arguments of exp are stored first: GCC does not vectorise a loop that also computes their bounds.
void activate(Activation activation, Int n, const double* __restrict z, double* __restrict a) {
  if (activation == kRelu) for (Int i = 0; i < n; ++i) a[i] = z[i] < 0.0 ? 0.0 : z[i];
  if (activation == kLeakyRelu) for (Int i = 0; i < n; ++i) a[i] = z[i] > 0.0 ? z[i] : z[i] * 0.01;
  if (activation == kTanh) for (Int i = 0; i < n; ++i) a[i] = portable_tanh(z[i]);
  if (activation == kElu) {
    for (Int i = 0; i < n; ++i) a[i] = above_m40(z[i] > 0.0 ? 0.0 : z[i]);
    for (Int i = 0; i < n; ++i) a[i] = z[i] > 0.0 ? z[i] : portable_exp(a[i]) - 1.0;
  }
  if (activation == kSigmoid) {
    for (Int i = 0; i < n; ++i) a[i] = above_m40(-std::fabs(z[i]));
    for (Int i = 0; i < n; ++i) a[i] = portable_exp(a[i]);
    for (Int i = 0; i < n; ++i) a[i] = (z[i] >= 0.0 ? 1.0 : a[i]) / (a[i] + 1.0);
  }
}

// Multiply g by the derivative, which is computed from the activation's own value.
void differentiate(Activation activation, Int n, const double* __restrict a, double* __restrict g) {
  if (activation == kRelu) for (Int i = 0; i < n; ++i) g[i] *= a[i] > 0.0 ? 1.0 : 0.0;
  if (activation == kLeakyRelu) for (Int i = 0; i < n; ++i) g[i] *= a[i] > 0.0 ? 1.0 : 0.01;
  if (activation == kTanh) for (Int i = 0; i < n; ++i) g[i] *= 1.0 - a[i] * a[i];
  if (activation == kElu) for (Int i = 0; i < n; ++i) g[i] *= a[i] > 0.0 ? 1.0 : a[i] + 1.0;
  if (activation == kSigmoid) for (Int i = 0; i < n; ++i) g[i] *= (1.0 - a[i]) * a[i];
}

// Return a sample's loss. g becomes the gradient of the batch's mean loss by the logits z. c is the exponentials' grid.
double cross_entropy(Int n, double c, const double* __restrict z, Int label, Int num_samples, double* __restrict g) {
  const double most = *std::max_element(z, z + n);
  double sum = 0.0;
  for (Int j = 0; j < n; ++j) sum += g[j] = (portable_exp(above_m40(z[j] - most)) + c) - c;
  for (Int j = 0; j < n; ++j) g[j] = (g[j] / sum - (j == label ? 1.0 : 0.0)) / static_cast<double>(num_samples);
  return portable_log(sum) - (z[label] - most);
}

// --- the network; fused.py has the same structures ---

// m and v belong to the optimizer.
struct Parameter {
  Int rows, columns;
  float *at, *m, *v;
  Matrix gradient;
};

struct Layer {
  Int num_in, num_out;
  Activation activation;
  Parameter weight, bias;
  // Weights on the grid: for each input a vector of outputs; then the same for the next outputs.
  double* columns;
  // Weights on the grid by outputs (null in layer 0), and inputs on the grid by samples.
  Matrix rows, input;
  // A row for each sample: output, activation, gradient by z, the same on the grid.
  Matrix z, a, upper, g;
  // Largest magnitudes, as bits.
  Int weight_most, a_most, upper_most;
};

struct Network {
  Layer* layers;
  Int num_layers, num_parameters, bits, num_threads, num_samples, x_most;
  double* losses;
  double class_grid;
  OptimizerSettings optimizer;

  template <class Body>
  void each_part(double work_ns, const Body& body) const {
    parallel(num_threads, work_ns, 1, [&](Part part) { for (Int k = 0; k < num_layers; ++k) body(layers[k], part); });
  }

  double product_ns(Int num_weights) const { return 0.02 * static_cast<double>(num_samples * num_weights); }

  void find_largest(const float* x) {
    const Int num_x = num_samples * layers[0].num_in;
    for (Int k = 0; k < num_layers; ++k) layers[k].weight_most = layers[k].a_most = layers[k].upper_most = x_most = 0;
    each_part(0.1 * static_cast<double>(num_x + num_parameters), [&](Layer& layer, Part part) {
      const Range own = part.of(layer.num_in * layer.num_out), own_x = part.of(num_x);
      include(layer.weight_most, largest(layer.weight.at + own.begin, own.size()));
      if (&layer == layers) include(x_most, largest(x + own_x.begin, own_x.size()));
    });
  }

  void snap_weights() const {
    each_part(0.2 * static_cast<double>(num_parameters), [&](const Layer& layer, Part part) {
      const Int n = layer.num_in, last = layer.num_out - 1;
      const double c = grid(layer.weight_most, bits);
      const Range own = part.of(divide_up(layer.num_out, kLanes));
      for (Int first = own.begin * kLanes; first < own.end * kLanes; first += kLanes) {
        // Rows of the weight; the last row is repeated if there are too few.
        const float* w[kLanes];
        for (Int i = 0; i < kLanes; ++i) w[i] = layer.weight.at + std::min(first + i, last) * n;
        for (Int j = 0; j < n; ++j)
          for (Int i = 0; i < kLanes; ++i) snap(w[i] + j, layer.columns + first * n + j * kLanes + i, 1, c);
        for (Int i = 0; layer.rows.at && i < kLanes; ++i) snap(w[i], layer.rows.row(std::min(first + i, last)), n, c);
      }
    });
  }

  // Compute a layer for all samples; after the last layer compute the loss, if there are labels.
  void forward(Int k, const float* x, const Int* labels, double* logits) {
    Layer& layer = layers[k];
    const double c = grid(k > 0 ? layers[k - 1].a_most : x_most, bits);
    const Int n = layer.num_in, num_out = layer.num_out;
    // The rows of 128 samples stay in the cache.
    parallel(num_threads, product_ns(n * num_out), divide_up(num_samples, 128), [&](Part part) {
      const Range own = part.of(num_samples);
      for (Int i = own.begin; i < own.end; ++i)
        k > 0 ? snap(layers[k - 1].a.row(i), layer.input.row(i), n, c) : snap(x + i * n, layer.input.row(i), n, c);
      multiply({layer.input.row(own.begin), layer.input.stride, 1}, {layer.columns, n * kLanes, kLanes}, own.size(),
               num_out, n, {layer.z.row(own.begin), layer.z.stride});
      for (Int i = own.begin; i < own.end; ++i) {
        double *z = layer.z.row(i), *a = layer.a.row(i), *upper = layer.upper.row(i);
        for (Int j = 0; j < num_out; ++j) z[j] += static_cast<double>(layer.bias.at[j]);
        if (layer.activation != kNone) {
          activate(layer.activation, layer.z.stride, z, a);
          include(layer.a_most, largest(a, num_out));
          continue;
        }
        std::copy(z, z + num_out, logits + i * num_out);
        if (!labels) continue;
        losses[i] = cross_entropy(num_out, class_grid, z, labels[i], num_samples, upper);
        include(layer.upper_most, largest(upper, num_out));
      }
    });
  }

  // Round the gradient by a layer's z to the grid, and compute from it the gradient of the layer below.
  void backward(Int k) const {
    const Layer& layer = layers[k];
    // In layer 0 this is not used.
    Layer& below = layers[std::max<Int>(k - 1, 0)];
    const double c = grid(layer.upper_most, bits);
    parallel(num_threads, product_ns(k > 0 ? layer.num_in * layer.num_out : 10), 1, [&](Part part) {
      const Range own = part.of(num_samples);
      for (Int i = own.begin; i < own.end; ++i) snap(layer.upper.row(i), layer.g.row(i), layer.num_out, c);
      if (k == 0) return;
      multiply({layer.g.row(own.begin), layer.g.stride, 1}, {layer.rows.at, kLanes, layer.rows.stride}, own.size(),
               layer.num_in, layer.num_out, {below.upper.row(own.begin), below.upper.stride});
      for (Int i = own.begin; i < own.end; ++i) {
        differentiate(below.activation, below.upper.stride, below.a.row(i), below.upper.row(i));
        include(below.upper_most, largest(below.upper.row(i), below.num_out));
      }
    });
  }

  void find_gradients() const {
    each_part(product_ns(num_parameters), [&](const Layer& layer, Part part) {
      const Matrix g = layer.g, input = layer.input, gradient = layer.weight.gradient;
      const Range own = part.of(layer.num_out);
      multiply({g.at + own.begin, 1, g.stride}, {input.at, kLanes, input.stride}, own.size(), layer.num_in, num_samples,
               {gradient.row(own.begin), gradient.stride});
      double* sums = layer.bias.gradient.at;
      std::fill(sums + own.begin, sums + own.end, 0.0);
      for (Int i = 0; i < num_samples; ++i)
        for (Int j = own.begin; j < own.end; ++j) sums[j] += g.row(i)[j];
    });
  }

  template <class Rule>
  void update(double decayed, const Rule& rule) const {
    each_part(0.2 * static_cast<double>(num_parameters), [&](const Layer& layer, Part part) {
      for (const Parameter& all : {layer.weight, layer.bias})
        for (Int row = part.of(all.rows).begin, n = all.columns; row < part.of(all.rows).end; ++row) {
          float *__restrict p = all.at + row * n, *__restrict m = all.m + row * n, *__restrict v = all.v + row * n;
          const double* __restrict g = all.gradient.row(row);
          for (Int i = 0; i < n; ++i) p[i] = static_cast<float>(rule(p[i], p[i] * decayed + g[i], m[i], v[i]));
        }
    });
  }

  void update() {
    optimizer.count_step();
    const auto [kind, lr, momentum, decay, power1, power2] = optimizer;
    const bool ahead = kind == kNesterov, decoupled = kind == kAdamw;
    const double rate = lr, mu = momentum, adam_rate = lr / (1.0 - power1), root = std::sqrt(1.0 - power2);
    const double shrink = decoupled ? 1.0 - lr * decay : 1.0;
    if (kind == kSgd) return update(decay, [=](double p, double g, float&, float&) { return p - g * rate; });
    if (kind == kMomentum || kind == kNesterov)
      return update(decay, [=](double p, double g, float&, float& v) {
        v = static_cast<float>(v * mu + g);
        return p - (ahead ? v * mu + g : v) * rate;
      });
    update(decoupled ? 0.0 : decay, [=](double p, double g, float& m, float& v) {
      m = static_cast<float>(m * 0.9 + g * (1 - 0.9));
      v = static_cast<float>(v * 0.999 + (g * g) * (1 - 0.999));
      // The root of a float is that of IEEE 754, correctly rounded.
      return p * shrink - m / (std::sqrt(v) / root + 1e-8) * adam_rate;
    });
  }
};

}  // namespace

EXPORT_SIZE(Matrix)
EXPORT_SIZE(Parameter)
EXPORT_SIZE(Layer)
EXPORT_SIZE(Network)

extern "C" {
void fused_start(const double* exp, const double* tanh, const double* log) {
  std::copy_n(exp, 2561, exp_table);
  std::copy_n(tanh, 1281, tanh_table);
  std::copy_n(log, 129, log_table);
}

// Return 0, or the position, counted from 1, of the first label that is not a class. Without labels there is no loss.
Int fused_forward(Network* net, const float* x, const Int* labels, Int loss_bits, double* logits, double* loss) {
  const Int n = net->num_samples, num_classes = net->layers[net->num_layers - 1].num_out;
  for (Int i = 0; labels && i < n; ++i)
    if (labels[i] < 0 || labels[i] >= num_classes) return i + 1;
  net->find_largest(x);
  net->snap_weights();
  for (Int k = 0; k < net->num_layers; ++k) net->forward(k, x, labels, logits);
  if (!labels) return 0;
  snap(net->losses, net->losses, n, grid(largest(net->losses, n), loss_bits));
  *loss = std::accumulate(net->losses, net->losses + n, 0.0) / static_cast<double>(n);
  return 0;
}

void fused_backward(Network* net) {
  for (Int k = net->num_layers; k-- > 0;) net->backward(k);
  net->find_gradients();
}

void fused_update(Network* net) { net->update(); }
}  // extern "C"
