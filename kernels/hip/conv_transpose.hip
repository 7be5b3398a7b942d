// The gradient of a convolution of one to three spatial dimensions, in f32: a thread per element of the result, which gathers the
// elements of x that reach it. `at` is as in conv.hip.
#include "prelude.h"
enum { SIZE = 0, RESULT = 3, WINDOW = 6, STRIDE = 9, DILATION = 12, BEFORE = 15 };
// The element of x that reaches place `o` through element `k` of the window; -1 when there is none.
DEV i32 conv_transpose_source(const Words<18>& at, u32 axis, u32 o, u32 k) {
  i32 shift = (i32)o + (i32)at.w[BEFORE + axis] - (i32)(k * at.w[DILATION + axis]), stride = (i32)at.w[STRIDE + axis];
  if (shift < 0 || shift % stride != 0) return -1;
  i32 i = shift / stride;
  return i < (i32)at.w[SIZE + axis] ? i : -1;
}
template <class X, class W>
DEV void conv_transpose_body(const X* x, const W* w, const X* bias, X* y, u32 n, u32 groups, u32 c, u32 m, u32 image, u32 plane,
                             u32 window, u32 has_bias, const Words<18> at) {
  u32 i = block_x() * 256 + thread_id();
  if (i >= n * groups * m * plane) return;
  u32 place = i % plane, channel = i / plane % (groups * m), from = i / plane / (groups * m);
  u32 rv = at.w[RESULT + 2], rh = at.w[RESULT + 1], od = place / rv / rh, oh = place / rv % rh, ov = place % rv;
  x += ((u64)from * groups + channel / m) * c * image;
  w += ((u64)(channel / m) * c * m + channel % m) * window;
  f32 sum = 0.f;
  for (u32 kd = 0; kd < at.w[WINDOW]; kd++) {
    i32 d = conv_transpose_source(at, 0, od, kd);
    if (d < 0) continue;
    for (u32 kh = 0; kh < at.w[WINDOW + 1]; kh++) {
      i32 h = conv_transpose_source(at, 1, oh, kh);
      if (h < 0) continue;
      for (u32 kv = 0; kv < at.w[WINDOW + 2]; kv++) {
        i32 v = conv_transpose_source(at, 2, ov, kv);
        if (v < 0) continue;
        const X* element = x + ((u32)d * at.w[SIZE + 1] + (u32)h) * at.w[SIZE + 2] + (u32)v;
        const W* weight = w + (kd * at.w[WINDOW + 1] + kh) * at.w[WINDOW + 2] + kv;
        for (u32 p = 0; p < c; p++) sum = fma_(to_f32(weight[(u64)p * m * window]), to_f32(element[(u64)p * image]), sum);
      }
    }
  }
  from_f32(y[i], sum + (has_bias ? to_f32(bias[channel]) : 0.f));
}
KERNELS_conv_transpose
