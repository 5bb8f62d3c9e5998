// Vectors of float32, and the functions that training needs of them.

#pragma once

#include "native.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <utility>

// A tile stays in registers only if the loops over it are unrolled whole.
#if defined(__clang__)
#define UNROLLED _Pragma("unroll")
#else
#define UNROLLED _Pragma("GCC unroll 8")
#endif

namespace {
// A tile of a product, kRows by kVectors vectors, stays in registers, of which there are 32 or 16.
#if defined(__AVX512F__) && defined(__FMA__)
constexpr int kLanes = 16, kRows = 7, kVectors = 4;
using Vector = __m512;
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kLanes = 8, kRows = 6, kVectors = 2;
using Vector = __m256;
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRows = 6, kVectors = 4;
using Vector = float32x4_t;
inline Vector multiply_add(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
#else
constexpr int kLanes = 4, kRows = 3, kVectors = 3;
typedef float Vector __attribute__((vector_size(16)));
inline Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
#endif
typedef std::int32_t Bits __attribute__((vector_size(sizeof(Vector))));

inline Vector all(float x) { return x - Vector{}; }
typedef float Unaligned __attribute__((vector_size(sizeof(Vector)), aligned(alignof(float))));
inline Vector load(const float* at) { return (Vector)*reinterpret_cast<const Unaligned*>(at); }
inline void store(float* at, Vector v) { *reinterpret_cast<Unaligned*>(at) = (Unaligned)v; }

// The numbers of a and b in turn, from those of index `first`.
template <int first, int... i>
inline Vector alternate(Vector a, Vector b, std::integer_sequence<int, i...>) {
  return Vector{(i % 2 == 0 ? a[first + i / 2] : b[first + i / 2])...};
}

// The k-th number of the i-th vector becomes the i-th of the k-th, by log2(kLanes) perfect shuffles.
inline void transpose(Vector (&block)[kLanes]) {
  constexpr std::make_integer_sequence<int, kLanes> lanes;
  for (int width = 1; width < kLanes; width *= 2) {
    Vector next[kLanes];
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = alternate<0>(block[i], block[i + kLanes / 2], lanes);
      next[2 * i + 1] = alternate<kLanes / 2>(block[i], block[i + kLanes / 2], lanes);
    }
    std::copy(next, next + kLanes, block);
  }
}

// --- functions ---

enum Activation : Int { kRelu, kLeakyRelu, kElu, kTanh, kSigmoid, kSilu, kGelu, kNone };
enum Optimizer : Int { kSgd, kMomentum, kNesterov, kAdam, kAdamw };

// exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1), with x = n ln 2 + r; the coefficients are Taylor's, good to 1e-8 for
// |r| <= ln 2 / 2. A NaN stays one.
struct Exp {
  Vector power, rest;  // 2^n, and 2^n (exp(r) - 1)
};
inline Exp exp_parts(Vector x) {
  constexpr float kRint = 12582912.0f;  // 1.5 * 2^23: x + kRint has rint(x) in its last bits
  x = x < -87.0f ? all(-87.0f) : x;
  x = x > 88.0f ? all(88.0f) : x;
  const Vector sum = multiply_add(x, all(1.44269504088896341f), all(kRint)), n = sum - kRint;
  Vector r = multiply_add(n, all(-0.693359375f), x);  // ln 2 in two parts, the first of few bits
  r = multiply_add(n, all(2.12194440e-4f), r);
  Vector q = multiply_add(r, all(1.0f / 5040), all(1.0f / 720));
  for (const float c : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f}) q = multiply_add(q, r, all(c));
  const Bits exponent = ((Bits)sum << 23) + (127 << 23);  // the bits of kRint above n leave at the top
  const Vector power = (Vector)exponent;
  return {power, q * r * power};
}
inline Vector exp(Vector x) {
  const Exp e = exp_parts(x);
  return e.rest + e.power;
}
inline Vector expm1(Vector x) {
  const Exp e = exp_parts(x);
  return e.rest + (e.power - 1.0f);
}
inline Vector magnitude(Vector x) { return (Vector)((Bits)x & 0x7FFFFFFF); }
inline Vector sigmoid(Vector x) { return 1.0f / (exp(-x) + 1.0f); }

// The activation of z, and its derivative there.
inline void activate(Activation kind, Vector z, Vector& a, Vector& d) {
  const Vector zero{}, one = all(1.0f);
  switch (kind) {
    case kRelu: a = z <= zero ? zero : z, d = z > zero ? one : zero; return;
    case kLeakyRelu: d = z > zero ? one : all(0.01f), a = z * d; return;
    case kElu: {
      const Vector e = expm1(z > zero ? zero : z);
      a = z > zero ? z : e, d = z > zero ? one : e + 1.0f;
      return;
    }
    case kTanh: {
      const Vector t = expm1(magnitude(z) * -2.0f), y = -t / (t + 2.0f);
      a = z < zero ? -y : y, d = multiply_add(-a, a, one);
      return;
    }
    case kSigmoid: a = sigmoid(z), d = a * (1.0f - a); return;
    case kSilu: {
      const Vector s = sigmoid(z);
      a = z * s, d = s * multiply_add(z, 1.0f - s, one);
      return;
    }
    case kGelu: {  // erfc by Abramowitz and Stegun, 7.1.26: good to 1.5e-7
      const Vector x = magnitude(z) * 0.70710678118654752f, e = exp(x * -x);
      const Vector t = 1.0f / multiply_add(x, all(0.3275911f), one);
      Vector q = all(1.061405429f);
      for (const float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) q = multiply_add(q, t, all(c));
      const Vector tail = q * t * e * 0.5f, phi = z > zero ? 1.0f - tail : tail;
      a = z * phi, d = multiply_add(z, e * 0.39894228040143268f, phi);
      return;
    }
    case kNone: a = z, d = one; return;
  }
}

}  // namespace
