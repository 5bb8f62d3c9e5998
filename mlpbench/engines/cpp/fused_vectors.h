// Vectors of float32, and the functions of them that training needs.

#pragma once

#include "native.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <utility>

// A tile stays in registers only if the loops over it are unrolled completely.
#if defined(__clang__)
#define UNROLLED _Pragma("unroll")
#else
#define UNROLLED _Pragma("GCC unroll 8")
#endif

namespace {
// A tile of a product has kRows by kVectors vectors and stays in registers. A processor has 32 or 16 of them.
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

// Return a vector with x in every lane.
inline Vector broadcast(float x) { return x - Vector{}; }
typedef float Unaligned __attribute__((vector_size(sizeof(Vector)), aligned(alignof(float))));
inline Vector load(const float* at) { return (Vector)*reinterpret_cast<const Unaligned*>(at); }
inline void store(float* at, Vector v) { *reinterpret_cast<Unaligned*>(at) = (Unaligned)v; }

// Return numbers of a and b alternately, beginning with index `first`.
template <int first, int... i>
inline Vector alternate(Vector a, Vector b, std::integer_sequence<int, i...>) {
  return Vector{(i % 2 == 0 ? a[first + i / 2] : b[first + i / 2])...};
}

// Transpose a block by log2(kLanes) perfect shuffles: the k-th number of the i-th vector becomes the i-th of the k-th.
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

// Two parts of exp(x), with x = n ln 2 + r: power is 2^n, and rest is 2^n (exp(r) - 1). So
// exp(x) - 1 = rest + (power - 1).
struct Exp {
  Vector power, rest;
};

// The coefficients are Taylor's; the error is at most 1e-8 for |r| <= ln 2 / 2. The result for a NaN is a NaN.
inline Exp exp_parts(Vector x) {
  // 1.5 * 2^23: the last bits of x + kRint are rint(x).
  constexpr float kRint = 12582912.0f;
  x = x < -87.0f ? broadcast(-87.0f) : x;
  x = x > 88.0f ? broadcast(88.0f) : x;
  const Vector sum = multiply_add(x, broadcast(1.44269504088896341f), broadcast(kRint)), n = sum - kRint;
  // ln 2 in two parts, of which the first has few bits.
  Vector r = multiply_add(n, broadcast(-0.693359375f), x);
  r = multiply_add(n, broadcast(2.12194440e-4f), r);
  Vector q = multiply_add(r, broadcast(1.0f / 5040), broadcast(1.0f / 720));
  for (const float c : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f}) q = multiply_add(q, r, broadcast(c));
  // The shift removes the bits of kRint, which are above those of n.
  const Bits exponent = ((Bits)sum << 23) + (127 << 23);
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

// Write the activation of z to a, and its derivative at z to d.
inline void activate(Activation kind, Vector z, Vector& a, Vector& d) {
  const Vector zero{}, one = broadcast(1.0f);
  switch (kind) {
    case kRelu:
      a = z <= zero ? zero : z;
      d = z > zero ? one : zero;
      return;
    case kLeakyRelu:
      d = z > zero ? one : broadcast(0.01f);
      a = z * d;
      return;
    case kElu: {
      const Vector e = expm1(z > zero ? zero : z);
      a = z > zero ? z : e;
      d = z > zero ? one : e + 1.0f;
      return;
    }
    case kTanh: {
      const Vector t = expm1(magnitude(z) * -2.0f), y = -t / (t + 2.0f);
      a = z < zero ? -y : y;
      d = multiply_add(-a, a, one);
      return;
    }
    case kSigmoid:
      a = sigmoid(z);
      d = a * (1.0f - a);
      return;
    case kSilu: {
      const Vector s = sigmoid(z);
      a = z * s;
      d = s * multiply_add(z, 1.0f - s, one);
      return;
    }
    // With erfc by Abramowitz and Stegun, 7.1.26, whose error is at most 1.5e-7.
    case kGelu: {
      const Vector x = magnitude(z) * 0.70710678118654752f, e = exp(x * -x);
      const Vector t = 1.0f / multiply_add(x, broadcast(0.3275911f), one);
      Vector q = broadcast(1.061405429f);
      for (const float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
        q = multiply_add(q, t, broadcast(c));
      const Vector tail = q * t * e * 0.5f, phi = z > zero ? 1.0f - tail : tail;
      a = z * phi;
      d = multiply_add(z, e * 0.39894228040143268f, phi);
      return;
    }
    case kNone:
      a = z;
      d = one;
      return;
  }
}

}  // namespace
