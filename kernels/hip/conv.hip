// Convolutions of one to three spatial dimensions in f32. `at` holds depth, height and width of: the input, the result, the
// window, the strides, the dilations, and the padding before (signed).
#include "prelude.h"
enum { SIZE = 0, RESULT = 3, WINDOW = 6, STRIDE = 9, DILATION = 12, BEFORE = 15 };
// An element beyond every input: what lies in no channel.
#define OUTSIDE (-0x40000000)
struct Conv { u32 n, groups, c, m, image, plane, has_bias, has_residual, act; f32 alpha, beta; };
template <class T>
DEV void conv_store(const Conv& s, T* y, const T* bias, const T* residual, u32 image, u32 channel, u32 place, f32 v) {
  u64 to = ((u64)image * s.groups * s.m + channel) * s.plane + place;
  if (s.has_bias) v += to_f32(bias[channel]);
  if (s.has_residual) v += to_f32(residual[to]);
  from_f32(y[to], activate(s.act, v, s.alpha, s.beta));
}
// An implicit product of matrices: a row per channel of a group's result, a column per place of every image, and a step of k
// per weight, those from `begin` (a multiple of 16) to `end` here. A block computes ROWS x (4096 / ROWS) in steps of 16 of k, a
// thread 4 x 4 of them; `store` takes image, channel, place and sum.
template <u32 ROWS, class X, class W, class S>
DEV void conv_tiles(const X* x, const W* w, const Conv& s, const Words<18>& at, u32 group, u32 begin, u32 end, S store) {
  const u32 COLUMNS = 4096 / ROWS, A = ROWS * 16 / 256, B = COLUMNS * 16 / 256;
  LDS(f32, sw, 16 * (ROWS + 4));
  LDS(f32, sx, 16 * (COLUMNS + 4));
  // Of 16 steps of k, in two copies: where the channel begins, and depth, height and width within the window.
  LDS(i32, steps, 2 * 64);
  u32 t = thread_id(), m0 = block_y() * ROWS, c0 = block_x() * COLUMNS;
  u32 kd = at.w[WINDOW], kh = at.w[WINDOW + 1], kw = at.w[WINDOW + 2], k = s.c * kd * kh * kw, columns = s.n * s.plane;
  i32 d = (i32)at.w[SIZE], h = (i32)at.w[SIZE + 1], v = (i32)at.w[SIZE + 2];
  w += (u64)group * s.m * k;
  // The column that this thread reads, as the corner of its window.
  u32 own = c0 + t % COLUMNS, lane = own < columns ? own : 0, image = lane / s.plane, place = lane % s.plane;
  u32 rv = at.w[RESULT + 2], rh = at.w[RESULT + 1];
  i32 zd = own < columns ? (i32)(place / rv / rh * at.w[STRIDE]) - (i32)at.w[BEFORE] : OUTSIDE;
  i32 zh = (i32)(place / rv % rh * at.w[STRIDE + 1]) - (i32)at.w[BEFORE + 1];
  i32 zv = (i32)(place % rv * at.w[STRIDE + 2]) - (i32)at.w[BEFORE + 2];
  x += ((u64)image * s.groups + group) * s.c * s.image;
  auto place_steps = [&](u32 k0) {
    if (t >= 16) return;
    i32* to = steps + (k0 / 16 % 2) * 64 + t;
    u32 kk = k0 + t, rest = kk / kw;
    to[0] = (i32)(rest / kh / kd * s.image);
    to[16] = kk < end ? (i32)(rest / kh % kd * at.w[DILATION]) : OUTSIDE;
    to[32] = (i32)(rest % kh * at.w[DILATION + 1]);
    to[48] = (i32)(kk % kw * at.w[DILATION + 2]);
  };
  f32 next_w[A], next_x[B];
  auto fetch = [&](u32 k0) {
    for (u32 i = 0; i < A; i++) {
      u32 row = m0 + t / 16 + i * 16, kk = k0 + t % 16;
      next_w[i] = row < s.m && kk < end ? to_f32(w[(u64)row * k + kk]) : 0.f;
    }
    const i32* from = steps + (k0 / 16 % 2) * 64 + t / COLUMNS;
    for (u32 i = 0; i < B; i++) {
      const i32* step = from + i * (256 / COLUMNS);
      i32 pd = zd + step[16], ph = zh + step[32], pv = zv + step[48];
      bool inside = pd >= 0 && pd < d && ph >= 0 && ph < h && pv >= 0 && pv < v;
      next_x[i] = inside ? to_f32(x[(u32)step[0] + (u32)((pd * h + ph) * v + pv)]) : 0.f;
    }
  };
  u32 row = t / (COLUMNS / 4) * 4, column = t % (COLUMNS / 4) * 4;
  f32 sum[16];
  for (int i = 0; i < 16; i++) sum[i] = 0.f;
  place_steps(begin);
  block_sync();
  fetch(begin);
  for (u32 k0 = begin; k0 < end; k0 += 16) {
    for (u32 i = 0; i < A; i++) sw[t % 16 * (ROWS + 4) + t / 16 + i * 16] = next_w[i];
    for (u32 i = 0; i < B; i++) sx[(t / COLUMNS + i * (256 / COLUMNS)) * (COLUMNS + 4) + t % COLUMNS] = next_x[i];
    place_steps(k0 + 16);
    block_sync();
    if (k0 + 16 < end) fetch(k0 + 16);
    // Beyond the end there are zeros, which must not meet an infinity.
    u32 count = min_u(16, end - k0);
    for (u32 kk = 0; kk < count; kk++) {
      f32 a[4], b[4];
      for (int i = 0; i < 4; i++) { a[i] = sw[kk * (ROWS + 4) + row + i]; b[i] = sx[kk * (COLUMNS + 4) + column + i]; }
      for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++) sum[4 * i + j] = fma_(a[i], b[j], sum[4 * i + j]);
    }
    block_sync();
  }
  // Not unrolled, the sums moving down by one each time: else every activation would be there sixteen times.
#pragma unroll 1
  for (u32 e = 0; e < 16; e++) {
    u32 to_row = m0 + row + e / 4, to = c0 + column + e % 4;
    if (to_row < s.m && to < columns) store(to / s.plane, group * s.m + to_row, to % s.plane, sum[0]);
    for (int i = 0; i < 15; i++) sum[i] = sum[i + 1];
  }
}
template <class X, class W>
DEV void conv_wide_body(const X* x, const W* w, const X* bias, const X* residual, X* y, u32 n, u32 groups, u32 c, u32 m, u32 image,
                        u32 plane, u32 k, u32 has_bias, u32 has_residual, u32 act, f32 alpha, f32 beta, const Words<18> at) {
  const Conv s = {n, groups, c, m, image, plane, has_bias, has_residual, act, alpha, beta};
  auto store = [&](u32 image, u32 channel, u32 place, f32 v) { conv_store(s, y, bias, residual, image, channel, place, v); };
  conv_tiles<64>(x, w, s, at, block_z(), 0, k, store);
}
template <class X, class W>
DEV void conv_narrow_body(const X* x, const W* w, const X* bias, const X* residual, X* y, u32 n, u32 groups, u32 c, u32 m, u32 image,
                          u32 plane, u32 k, u32 has_bias, u32 has_residual, u32 act, f32 alpha, f32 beta, const Words<18> at) {
  const Conv s = {n, groups, c, m, image, plane, has_bias, has_residual, act, alpha, beta};
  auto store = [&](u32 image, u32 channel, u32 place, f32 v) { conv_store(s, y, bias, residual, image, channel, place, v); };
  conv_tiles<16>(x, w, s, at, block_z(), 0, k, store);
}
// Where the result has few tiles and k is long: parts of k, each `chunk` of them, whose sums another kernel adds up in order.
template <class X, class W>
DEV void conv_part_body(const X* x, const W* w, f32* parts, u32 n, u32 groups, u32 c, u32 m, u32 image, u32 plane, u32 k, u32 splits,
                        u32 chunk, const Words<18> at) {
  const Conv s = {n, groups, c, m, image, plane, 0, 0, 0, 0.f, 0.f};
  u32 split = block_z() % splits;
  parts += (u64)split * n * groups * m * plane;
  auto store = [&](u32 of, u32 channel, u32 place, f32 v) { parts[((u64)of * groups * m + channel) * plane + place] = v; };
  conv_tiles<64>(x, w, s, at, block_z() / splits, split * chunk, min_u(k, (split + 1) * chunk), store);
}
template <class X>
DEV void conv_finish_body(const f32* parts, const X* bias, const X* residual, X* y, u32 n, u32 channels, u32 plane, u32 splits, u32 has_bias,
                          u32 has_residual, u32 act, f32 alpha, f32 beta) {
  u32 i = block_x() * 256 + thread_id(), count = n * channels * plane;
  if (i >= count) return;
  f32 sum = 0.f;
  for (u32 part = 0; part < splits; part++) sum += parts[(u64)part * count + i];
  const Conv s = {n, 1, 0, channels, 0, plane, has_bias, has_residual, act, alpha, beta};
  conv_store(s, y, bias, residual, i / plane / channels, i / plane % channels, i % plane, sum);
}
// An element of the result per thread: where a group has so few channels that tiles would be empty.
template <class X, class W>
DEV void conv_direct_body(const X* x, const W* w, const X* bias, const X* residual, X* y, u32 n, u32 groups, u32 c, u32 m, u32 image,
                          u32 plane, u32 k, u32 has_bias, u32 has_residual, u32 act, f32 alpha, f32 beta, const Words<18> at) {
  u32 i = block_x() * 256 + thread_id();
  if (i >= n * groups * m * plane) return;
  const Conv s = {n, groups, c, m, image, plane, has_bias, has_residual, act, alpha, beta};
  u32 place = i % plane, channel = i / plane % (groups * m), from = i / plane / (groups * m), rv = at.w[RESULT + 2], rh = at.w[RESULT + 1];
  i32 d = (i32)at.w[SIZE], h = (i32)at.w[SIZE + 1], v = (i32)at.w[SIZE + 2];
  i32 zd = (i32)(place / rv / rh * at.w[STRIDE]) - (i32)at.w[BEFORE];
  i32 zh = (i32)(place / rv % rh * at.w[STRIDE + 1]) - (i32)at.w[BEFORE + 1];
  i32 zv = (i32)(place % rv * at.w[STRIDE + 2]) - (i32)at.w[BEFORE + 2];
  x += ((u64)from * groups + channel / m) * c * image;
  w += (u64)channel * k;
  f32 sum = 0.f;
  for (u32 p = 0; p < c; p++, x += image)
    for (u32 kd = 0; kd < at.w[WINDOW]; kd++)
      for (u32 kh = 0; kh < at.w[WINDOW + 1]; kh++)
        for (u32 kv = 0; kv < at.w[WINDOW + 2]; kv++, w++) {
          i32 pd = zd + (i32)(kd * at.w[DILATION]), ph = zh + (i32)(kh * at.w[DILATION + 1]), pv = zv + (i32)(kv * at.w[DILATION + 2]);
          if (pd >= 0 && pd < d && ph >= 0 && ph < h && pv >= 0 && pv < v) sum = fma_(to_f32(*w), to_f32(x[(u32)((pd * h + ph) * v + pv)]), sum);
        }
  conv_store(s, y, bias, residual, from, channel, place, sum);
}
KERNELS_conv_wide
KERNELS_conv_narrow
KERNELS_conv_part
KERNELS_conv_finish
KERNELS_conv_direct
