// One number of every line: `n` elements `stride` apart. A block per line.
#include "prelude.h"
enum { SUM, MEAN, MAX, MIN, PROD, L1, L2, SUM_SQUARE, LOG_SUM, LOG_SUM_EXP };
DEV f32 reduce_join(u32 f, f32 a, f32 b) {
  switch (f) {
    case MAX: return max_(a, b);
    case MIN: return min_(a, b);
    case PROD: return a * b;
    default: return a + b;
  }
}
template <class T> DEV void reduce_body(const T* x, T* y, u32 lines, u32 n, u32 stride, u32 f) {
  LDS(f32, part, 8);
  u32 line = block_x();
  const T* from = x + (u64)(line / stride) * stride * n + line % stride;
  f32 shift = 0.f;
  if (f == LOG_SUM_EXP) {
    f32 largest = -infinity();
    for (u32 i = thread_id(); i < n; i += 256) { f32 v = to_f32(from[(u64)i * stride]); largest = v > largest ? v : largest; }
    largest = block_max<256>(largest, part);
    shift = abs_(largest) < infinity() ? largest : 0.f;
  }
  f32 v = f == MAX ? -infinity() : f == MIN ? infinity() : f == PROD ? 1.f : 0.f;
  for (u32 i = thread_id(); i < n; i += 256) {
    f32 e = to_f32(from[(u64)i * stride]);
    if (f == L1) e = abs_(e);
    if (f == L2 || f == SUM_SQUARE) e = e * e;
    if (f == LOG_SUM_EXP) e = exp_(e - shift);
    v = reduce_join(f, v, e);
  }
  v = reduce_join(f, v, shuffle_xor<1>(v));
  v = reduce_join(f, v, shuffle_xor<2>(v));
  v = reduce_join(f, v, shuffle_xor<4>(v));
  v = reduce_join(f, v, shuffle_xor<8>(v));
  v = reduce_join(f, v, shuffle_xor<16>(v));
  if (lane_id() == 0) part[thread_id() / WAVE] = v;
  block_sync();
  if (thread_id() != 0) return;
  for (int i = 1; i < 8; i++) v = reduce_join(f, v, part[i]);
  if (f == MEAN) v = v / (f32)n;
  if (f == L2) v = sqrt_(v);
  if (f == LOG_SUM || f == LOG_SUM_EXP) v = log_(v) + shift;
  from_f32(y[line], v);
}
KERNELS_reduce
