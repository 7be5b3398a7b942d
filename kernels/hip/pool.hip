// One element of every window: the greatest, the average or a norm. A thread per element of the result. `at` is as in conv.hip,
// and then holds the padding after.
#include "prelude.h"
enum { SIZE = 0, RESULT = 3, WINDOW = 6, STRIDE = 9, DILATION = 12, BEFORE = 15, AFTER = 18 };
enum { MAXIMUM, AVERAGE, NORM };
// Elements of a window that lie in the padded input.
DEV u32 pool_padded(const Words<21>& at, u32 axis, u32 place) {
  i32 end = (i32)(at.w[SIZE + axis] + at.w[BEFORE + axis] + at.w[AFTER + axis]) - (i32)(place * at.w[STRIDE + axis]);
  i32 dilation = (i32)at.w[DILATION + axis];
  return end <= 0 ? 0 : min_u(at.w[WINDOW + axis], (u32)((end + dilation - 1) / dilation));
}
template <class T>
DEV void pool_body(const T* x, T* y, u32 channels, u32 image, u32 plane, u32 f, u32 count_pads, f32 p, const Words<21> at) {
  u32 i = block_x() * 256 + thread_id();
  if (i >= channels * plane) return;
  u32 place = i % plane, rv = at.w[RESULT + 2], rh = at.w[RESULT + 1];
  u32 od = place / rv / rh, oh = place / rv % rh, ov = place % rv, count = 0;
  x += (u64)(i / plane) * image;
  f32 v = f == MAXIMUM ? -infinity() : 0.f;
  for (u32 kd = 0; kd < at.w[WINDOW]; kd++) {
    i32 d = (i32)(od * at.w[STRIDE] + kd * at.w[DILATION]) - (i32)at.w[BEFORE];
    if (d < 0 || d >= (i32)at.w[SIZE]) continue;
    for (u32 kh = 0; kh < at.w[WINDOW + 1]; kh++) {
      i32 h = (i32)(oh * at.w[STRIDE + 1] + kh * at.w[DILATION + 1]) - (i32)at.w[BEFORE + 1];
      if (h < 0 || h >= (i32)at.w[SIZE + 1]) continue;
      for (u32 kv = 0; kv < at.w[WINDOW + 2]; kv++) {
        i32 w = (i32)(ov * at.w[STRIDE + 2] + kv * at.w[DILATION + 2]) - (i32)at.w[BEFORE + 2];
        if (w < 0 || w >= (i32)at.w[SIZE + 2]) continue;
        f32 e = to_f32(x[((u32)d * at.w[SIZE + 1] + (u32)h) * at.w[SIZE + 2] + (u32)w]);
        count++;
        if (f == MAXIMUM) v = max_(e, v);
        else if (f == AVERAGE) v += e;
        else v += p == 2.f ? e * e : p == 1.f ? abs_(e) : pow_(abs_(e), p);
      }
    }
  }
  if (count_pads) count = pool_padded(at, 0, od) * pool_padded(at, 1, oh) * pool_padded(at, 2, ov);
  if (f == AVERAGE) v = v / (f32)count;
  if (f == NORM) v = p == 2.f ? sqrt_(v) : p == 1.f ? v : pow_(v, 1.f / p);
  from_f32(y[i], v);
}
KERNELS_pool
