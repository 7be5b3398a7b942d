// Samples between elements along one or two axes: a table of the samples of every place of an axis, made first, then the result.
#include "prelude.h"
enum { NEAREST, LINEAR, CUBIC };
enum { HALF_PIXEL, HALF_PIXEL_SYMMETRIC, PYTORCH_HALF_PIXEL, ALIGN_CORNERS, ASYMMETRIC, HALF_PIXEL_FLOOR };
enum { HALF_DOWN, HALF_UP, FLOOR, CEIL };
DEV f64 floor_wide(f64 x) {
  f64 t = trunc_(x);
  return t > x ? t - 1.0 : t;
}
DEV f64 ceil_wide(f64 x) { return -floor_wide(-x); }
// What a sample at this distance counts.
DEV f64 resize_weight(u32 mode, f64 d, f64 a) {
  d = d < 0.0 ? -d : d;
  if (mode == LINEAR) return d < 1.0 ? 1.0 - d : 0.0;
  if (d <= 1.0) return ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
  return d < 2.0 ? ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a : 0.0;
}
// Of every place of the result `taps` samples and weights; -1 where there are fewer. `scale` is the bits of an f64.
DEV void resize_taps_body(i32* samples, f32* weights, u32 size, u32 input, u32 taps, u32 mode, u32 coordinates, u32 rounding,
                          u32 exclude, f32 cubic, const Words<2> scale_bits) {
  u32 o = block_x() * 256 + thread_id();
  if (o >= size) return;
  union { u64 bits; f64 value; } of_scale;
  of_scale.bits = (u64)scale_bits.w[1] << 32 | scale_bits.w[0];
  f64 scale = of_scale.value, n = (f64)input, at = (f64)o, length = scale * n, last = n - 1.0, x;
  if (coordinates == ALIGN_CORNERS) x = length == 1.0 ? 0.0 : at * last / (length - 1.0);
  else if (coordinates == ASYMMETRIC) x = at / scale;
  else if (coordinates == PYTORCH_HALF_PIXEL && length == 1.0) x = -0.5;
  else if (coordinates == HALF_PIXEL_FLOOR) x = (at + 0.5) / scale;
  else if (coordinates == HALF_PIXEL_SYMMETRIC) x = n / 2.0 * (1.0 - (f64)size / length) + (at + 0.5) / scale - 0.5;
  else x = (at + 0.5) / scale - 0.5;
  samples += (u64)o * taps;
  weights += (u64)o * taps;
  if (mode == NEAREST) {
    f64 r = rounding == HALF_DOWN ? ceil_wide(x - 0.5) : rounding == HALF_UP ? floor_wide(x + 0.5) : rounding == FLOOR ? floor_wide(x) : ceil_wide(x);
    samples[0] = (i32)(r < 0.0 ? 0.0 : r > last ? last : r);
    weights[0] = 1.f;
    return;
  }
  f64 reach = mode == LINEAR ? 1.0 : 2.0, first = floor_wide(x - reach) + 1.0, sum = 0.0;
  for (u32 t = 0; t < taps; t++) {
    f64 i = first + (f64)t;
    if (i < x + reach && !(exclude && (i < 0.0 || i >= n))) sum += resize_weight(mode, i - x, (f64)cubic);
  }
  for (u32 t = 0; t < taps; t++) {
    f64 i = first + (f64)t;
    bool counts = i < x + reach && !(exclude && (i < 0.0 || i >= n));
    samples[t] = counts ? (i32)(i < 0.0 ? 0.0 : i > last ? last : i) : -1;
    weights[t] = counts ? (f32)(resize_weight(mode, i - x, (f64)cubic) / (exclude ? sum : 1.0)) : 0.f;
  }
}
// x[outer, na, mid, nb, inner] to y[outer, a, mid, b, inner]. An axis without taps stays as it is.
template <class T>
DEV void resize_body(const T* x, const i32* samples, const f32* weights, T* y, u32 outer, u32 na, u32 a, u32 mid, u32 nb, u32 b,
                     u32 inner, u32 taps_a, u32 taps_b) {
  u32 i = block_x() * 256 + thread_id();
  if (i >= outer * a * mid * b * inner) return;
  u32 in = i % inner, ob = i / inner % b, im = i / inner / b % mid, oa = i / inner / b / mid % a, o = i / inner / b / mid / a;
  const i32* samples_a = samples + oa * taps_a;
  const f32* weights_a = weights + oa * taps_a;
  const i32* samples_b = samples + a * taps_a + ob * taps_b;
  const f32* weights_b = weights + a * taps_a + ob * taps_b;
  f32 sum = 0.f;
  for (u32 tb = 0; tb < (taps_b ? taps_b : 1); tb++) {
    i32 pb = taps_b ? samples_b[tb] : (i32)ob;
    if (pb < 0) continue;
    f32 part = 0.f;
    for (u32 ta = 0; ta < (taps_a ? taps_a : 1); ta++) {
      i32 pa = taps_a ? samples_a[ta] : (i32)oa;
      if (pa < 0) continue;
      f32 v = to_f32(x[((((u64)o * na + (u32)pa) * mid + im) * nb + (u32)pb) * inner + in]);
      part = taps_a ? part + weights_a[ta] * v : v;
    }
    sum = taps_b ? sum + weights_b[tb] * part : part;
  }
  from_f32(y[i], sum);
}
// The same with one sample per axis, of any type.
template <class T>
DEV void resize_nearest_body(const T* x, const i32* samples, T* y, u32 outer, u32 na, u32 a, u32 mid, u32 nb, u32 b, u32 inner,
                             u32 taps_a, u32 taps_b) {
  u32 i = block_x() * 256 + thread_id();
  if (i >= outer * a * mid * b * inner) return;
  u32 in = i % inner, ob = i / inner % b, im = i / inner / b % mid, oa = i / inner / b / mid % a, o = i / inner / b / mid / a;
  u32 pa = taps_a ? (u32)samples[oa] : oa, pb = taps_b ? (u32)samples[a * taps_a + ob] : ob;
  y[i] = x[((((u64)o * na + pa) * mid + im) * nb + pb) * inner + in];
}
KERNELS_resize_taps
KERNELS_resize
KERNELS_resize_nearest
