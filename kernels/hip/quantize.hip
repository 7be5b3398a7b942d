// Floats to small integers and back; the operators that choose a range choose the one that covers all elements and 0.
#include "prelude.h"
DEV f32 clamp_code(f32 v, f32 low, f32 high) { return v != v ? 0.f : v < low ? low : v > high ? high : v; }
// Of each of the blocks the least and the greatest of its elements, and 0: what is not a number counts for neither.
template <class T> DEV void quantize_range_body(const T* x, f32* parts, u32 n, u32 blocks) {
  LDS(f32, part, 8);
  f32 low = 0.f, high = 0.f;
  for (u32 i = block_x() * 256 + thread_id(); i < n; i += blocks * 256) {
    f32 v = to_f32(x[i]);
    low = v < low ? v : low;
    high = v > high ? v : high;
  }
  low = -block_max<256>(-low, part);
  high = block_max<256>(high, part);
  if (thread_id() == 0) { parts[2 * block_x()] = low; parts[2 * block_x() + 1] = high; }
}
template <class T> DEV void quantize_dynamic_body(const T* x, const f32* parts, u8* y, f32* scale, u8* zero, u32 n, u32 blocks) {
  LDS(f32, part, 8);
  u32 t = thread_id();
  f32 low = -block_max<256>(t < blocks ? -parts[2 * t] : 0.f, part), high = block_max<256>(t < blocks ? parts[2 * t + 1] : 0.f, part);
  f32 by = high == low ? 1.f : (high - low) / 255.f, none = -low / by;
  // As every code, but what is not a number stays so until the sum.
  none = rint_(none != none ? none : clamp_code(none, 0.f, 255.f));
  for (u32 i = block_x() * 256 + t; i < n; i += blocks * 256) y[i] = (u8)clamp_code(rint_(to_f32(x[i]) / by) + none, 0.f, 255.f);
  if (block_x() == 0 && t == 0) { scale[0] = by; zero[0] = (u8)clamp_code(none, 0.f, 255.f); }
}
enum { CODE_U8, CODE_I8, CODE_I32 };
DEV i64 code_at(const u8* p, u32 kind, u32 at) {
  return kind == CODE_I32 ? (i64)((const i32*)p)[at] : kind == CODE_I8 ? (i64)(i8)p[at] : (i64)p[at];
}
// A scale and a zero point for all elements, or one per place of an axis: `inner` elements each, `n` places.
template <class T>
DEV void dequantize_linear_body(const u8* x, const T* scale, const u8* zero, T* y, u32 count, u32 scales, u32 inner, u32 kind, u32 bytes,
                                u32 has_zero) {
  u32 i = block_x() * 256 + thread_id();
  if (i >= count) return;
  u32 at = scales == 1 ? 0 : i / inner % scales;
  i64 v = code_at(x, kind, i) - (has_zero ? code_at(zero, kind, at) : 0);
  from_f32(y[i], (f32)((f64)v * (f64)to_f32(scale[at])));
}
template <class T>
DEV void quantize_linear_body(const T* x, const T* scale, const u8* zero, u8* y, u32 count, u32 scales, u32 inner, u32 is_signed, u32 has_zero) {
  u32 i = block_x() * 256 + thread_id();
  if (i >= count) return;
  u32 at = scales == 1 ? 0 : i / inner % scales;
  // The quotient is of the scale's type.
  T quotient;
  from_f32(quotient, to_f32(x[i]) / to_f32(scale[at]));
  f32 v = rint_(to_f32(quotient)) + (has_zero ? (f32)code_at(zero, is_signed ? CODE_I8 : CODE_U8, at) : 0.f);
  y[i] = is_signed ? (u8)(i8)clamp_code(v, -128.f, 127.f) : (u8)clamp_code(v, 0.f, 255.f);
}
KERNELS_quantize_range
KERNELS_quantize_dynamic
KERNELS_dequantize_linear
KERNELS_quantize_linear
