// Functions of one and two floats, the same code on every platform; polynomials of the Cephes library
// (https://www.netlib.org/cephes/), sin and cos with a reduction in f64.
#pragma once
DEV f32 abs_(f32 x) { return f32_of(bits_of(x) & 0x7fffffffu); }
DEV f32 copysign_(f32 x, f32 s) { return f32_of((bits_of(x) & 0x7fffffffu) | (bits_of(s) & 0x80000000u)); }
DEV f32 sigmoid_(f32 x) {
  f32 e = exp_(-abs_(x));
  return x >= 0.f ? 1.f / (1.f + e) : e / (1.f + e);
}
// x times its sigmoid: -inf gives NaN as in the reference.
DEV f32 silu_(f32 x) { return x * sigmoid_(x); }
DEV f32 tanh_(f32 x) {
  f32 a = abs_(x);
  if (a < 0.625f) {
    f32 z = x * x;
    f32 p = (((-5.70498872745e-3f * z + 2.06390887954e-2f) * z - 5.37397155531e-2f) * z + 1.33314422036e-1f) * z - 3.33332819422e-1f;
    return p * z * x + x;
  }
  return copysign_(1.f - 2.f / (exp_(2.f * a) + 1.f), x) + (x != x ? x : 0.f);
}
// erfc for x >= 1.
DEV f32 erfc_tail(f32 x) {
  f32 q = 1.f / x, y = q * q, p;
  if (x < 2.f) {
    p = ((((((((2.326819970068386e-2f * y - 1.387039388740657e-1f) * y + 3.687424674597105e-1f) * y - 5.824733027278666e-1f) * y
        + 6.210004621745983e-1f) * y - 4.944515323274145e-1f) * y + 3.404879937665872e-1f) * y - 2.741127028184656e-1f) * y
        + 5.638259427386472e-1f);
  } else {
    p = (((((((-1.047766399936249e+1f * y + 1.297719955372516e+1f) * y - 7.495518717768503e+0f) * y + 2.921019019210786e+0f) * y
        - 1.015265279202700e+0f) * y + 4.218463358204948e-1f) * y - 2.820767439740514e-1f) * y + 5.641895067754075e-1f);
  }
  return x > 10.f ? 0.f : exp_(-x * x) * q * p;
}
DEV f32 erf_small(f32 x) {
  f32 z = x * x;
  return x * ((((((7.853861353153693e-5f * z - 8.010193625184903e-4f) * z + 5.188327685732524e-3f) * z - 2.685381193529856e-2f) * z
      + 1.128358514861418e-1f) * z - 3.761262582423300e-1f) * z + 1.128379165726710e+0f);
}
DEV f32 erf_(f32 x) {
  f32 a = abs_(x);
  if (!(a > 1.f)) return erf_small(x);
  return copysign_(1.f - erfc_tail(a), x);
}
DEV f32 erfc_(f32 x) {
  if (x > 1.f) return erfc_tail(x);
  if (x < -1.f) return 2.f - erfc_tail(-x);
  return 1.f - erf_small(x);
}
DEV f32 gelu_(f32 x) { return 0.5f * x * erfc_(-x * 0.70710678118654752f); }
DEV f32 gelu_tanh_(f32 x) { return 0.5f * x * (1.f + tanh_(0.79788456080286536f * (x + 0.044715f * x * x * x))); }
DEV f32 log1p_(f32 x) {
  f32 u = 1.f + x;
  return u == 1.f ? x : log_(u) * (x / (u - 1.f));
}
DEV f32 softplus_(f32 x) { return x != x ? x : (x > 0.f ? x : 0.f) + log1p_(exp_(-abs_(x))); }
DEV f32 mish_(f32 x) { return x * tanh_(softplus_(x)); }
DEV f32 softsign_(f32 x) { return x / (1.f + abs_(x)); }
DEV f32 hard_swish_(f32 x) {
  f32 s = x / 6.f + 0.5f;
  return x * (s < 0.f ? 0.f : s > 1.f ? 1.f : s);
}
DEV f32 sign_(f32 x) { return x > 0.f ? 1.f : x < 0.f ? -1.f : x; }
// The quadrant, and what is left of x within a quarter turn of 0.
DEV i32 quadrant(f32 x, f32& rest) {
  f64 k = rint_((f64)x * 0.63661977236758134308);
  f64 r = fma_(-k, 1.57079632679489655800, (f64)x);
  rest = (f32)fma_(-k, 6.12323399573676603587e-17, r);
  // k may exceed 32 bits: only its last two bits count.
  return (i32)(k - 4.0 * trunc_(k / 4.0)) & 3;
}
DEV f32 sin_small(f32 x) {
  f32 z = x * x;
  return ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * x + x;
}
DEV f32 cos_small(f32 x) {
  f32 z = x * x;
  return ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.f;
}
DEV f32 turned(f32 x, i32 turn) {
  if (!(abs_(x) < infinity())) return not_a_number();
  f32 r;
  i32 q = quadrant(x, r) + turn;
  f32 v = q & 1 ? cos_small(r) : sin_small(r);
  return q & 2 ? -v : v;
}
DEV f32 sin_(f32 x) { return x == 0.f ? x : turned(x, 0); }
DEV f32 cos_(f32 x) { return turned(x, 1); }
DEV f32 tan_(f32 x) { return sin_(x) / cos_(x); }
// log2 of a positive finite number, in f64 to 1e-15.
DEV f64 log2_wide(f32 x) {
  i32 e = 0;
  if (x < 1.1754944e-38f) { x *= 4294967296.f; e = -32; }
  u32 u = bits_of(x);
  e += (i32)(u >> 23) - 127;
  f64 m = (f64)f32_of((u & 0x7fffffu) | 0x3f800000u);
  if (m > 1.4142135623730951) { m *= 0.5; e += 1; }
  f64 s = (m - 1.0) / (m + 1.0), z = s * s, p = 1.0 / 21.0;
  for (int k = 19; k >= 1; k -= 2) p = p * z + 1.0 / (f64)k;
  return (f64)e + 2.0 * s * p * 1.44269504088896340736;
}
DEV f32 exp2_wide(f64 y) {
  if (y > 129.0) return infinity();
  if (y < -151.0) return 0.f;
  f64 k = rint_(y), f = (y - k) * 0.69314718055994530942, p = 1.0;
  for (int i = 13; i >= 1; i--) p = p * f / (f64)i + 1.0;
  i32 e = (i32)k, half = e / 2;
  // Two factors: one alone may leave the range of f32 where the product does not.
  return (f32)(p * (f64)f32_of((u32)(127 + half) << 23) * (f64)f32_of((u32)(127 + e - half) << 23));
}
DEV f32 pow_(f32 a, f32 b) {
  if (b == 0.f || a == 1.f) return 1.f;
  if (a != a || b != b) return not_a_number();
  f32 size = abs_(a), whole = floor_(b);
  bool odd = whole == b && abs_(b) < 16777216.f && floor_(b * 0.5f) * 2.f != b;
  if (size == 0.f || size == infinity() || abs_(b) == infinity()) {
    if (size == 1.f) return 1.f;
    bool grows = (size > 1.f) == (b > 0.f);
    f32 v = grows ? infinity() : 0.f;
    return odd && (bits_of(a) >> 31) ? -v : v;
  }
  if (a < 0.f && whole != b) return not_a_number();
  f32 v = exp2_wide((f64)b * log2_wide(size));
  return a < 0.f && odd ? -v : v;
}
// C's fmod, exact while the quotient is below 2^53.
DEV f32 fmod_(f32 a, f32 b) {
  if (a != a || b != b || abs_(a) == infinity() || b == 0.f) return not_a_number();
  if (abs_(b) == infinity()) return a;
  f64 x = (f64)abs_(a), y = (f64)abs_(b), q = trunc_(x / y), r = fma_(-q, y, x);
  if (r < 0.0) r += y;
  if (r >= y) r -= y;
  return copysign_((f32)r, a);
}
DEV f32 expm1_(f32 x) {
  f32 u = exp_(x);
  if (u == 1.f) return x;
  f32 less = u - 1.f;
  return less == -1.f || u == infinity() ? less : less * x / log_(u);
}
// Functions that follow a sum, with up to two parameters; the order is that of backend-hip/src/lower/activation.rs.
enum {
  ACT_NONE, ACT_RELU, ACT_SIGMOID, ACT_TANH, ACT_SILU, ACT_GELU, ACT_GELU_TANH, ACT_MISH, ACT_HARD_SWISH, ACT_SOFTSIGN, ACT_SOFTPLUS,
  ACT_LEAKY_RELU, ACT_THRESHOLDED_RELU, ACT_ELU, ACT_HARD_SIGMOID, ACT_AFFINE, ACT_SCALED_TANH, ACT_CLIP,
};
DEV f32 activate(u32 f, f32 x, f32 alpha, f32 beta) {
  if (x != x) return x;
  switch (f) {
    case ACT_RELU: return x > 0.f ? x : 0.f;
    case ACT_SIGMOID: return sigmoid_(x);
    case ACT_TANH: return tanh_(x);
    case ACT_SILU: return silu_(x);
    case ACT_GELU: return gelu_(x);
    case ACT_GELU_TANH: return gelu_tanh_(x);
    case ACT_MISH: return mish_(x);
    case ACT_HARD_SWISH: return hard_swish_(x);
    case ACT_SOFTSIGN: return softsign_(x);
    case ACT_SOFTPLUS: return softplus_(x);
    case ACT_LEAKY_RELU: return x < 0.f ? alpha * x : x;
    case ACT_THRESHOLDED_RELU: return x > alpha ? x : 0.f;
    case ACT_ELU: return x < 0.f ? alpha * expm1_(x) : x;
    case ACT_HARD_SIGMOID: {
      f32 s = alpha * x + beta;
      return s < 0.f ? 0.f : s > 1.f ? 1.f : s;
    }
    case ACT_AFFINE: return alpha * x + beta;
    case ACT_SCALED_TANH: return alpha * tanh_(beta * x);
    case ACT_CLIP: {
      f32 v = x > alpha ? x : alpha;
      return v < beta ? v : beta;
    }
    default: return x;
  }
}
// What gates: the numbers that lower/linear.rs gives. Silu is x * sigmoid(alpha x).
DEV f32 activate(u32 act, f32 x, f32 alpha) {
  switch (act) {
    case 1: return x * sigmoid_(alpha * x);
    case 2: return gelu_(x);
    case 3: return x != x || x > 0.f ? x : 0.f;
    case 4: return gelu_tanh_(x);
    case 5: return sigmoid_(x);
    default: return x;
  }
}
// act(g) * u of two products, which are rounded to T first, as they would be apart.
template <class T> DEV f32 gated(f32 g, f32 u, u32 act, f32 alpha) {
  T a, b;
  from_f32(a, g);
  from_f32(b, u);
  return activate(act, to_f32(a), alpha) * to_f32(b);
}
