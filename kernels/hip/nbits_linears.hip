// x[rows, k] times 4-bit weights, plus bias[n], plus a residual: up to three layers of the same rows in one launch, or two of which one
// gates the other. Rows and scales are f16, and 128 inputs are read at a time.
#include "prelude.h"
// One of the layers, and which of its blocks of outputs a block computes. Bit i of `biased` says that layer i has a bias.
struct CodedLayer { Coded p; const f16* bias; f16* y; u32 n, block; };
template <int TILES> DEV void rows_at(RowPointers<f16> (&xp)[TILES], const f16* x, u32 first, u32 count, u32 k) {
  for (int t = 0; t < TILES; t++)
    for (int i = 0; i < FRAG_ROWS; i++) xp[t].p[i] = x + (u64)(first + min_u(t * 16 + frag_row(i), count - 1)) * k;
}
// A block computes WEIGHTS * 16 outputs of up to 32 rows.
template <bool FEW, int WEIGHTS, int TILES>
DEV void coded_of(const f16* x, const CodedLayer& l, const f16* residual, f32* part, u32 first, u32 count, u32 k) {
  RowPointers<f16> xp[TILES];
  CodedLane lanes[WEIGHTS];
  Acc sum[WEIGHTS][TILES];
  u32 column = l.block * (WEIGHTS * 16);
  rows_at(xp, x, first, count, k);
  for (u32 w = 0; w < WEIGHTS; w++) lanes[w] = coded_lane(l.p, 0, column + w * 16, l.n);
  coded_stream<FEW>(xp, lanes, k, sum);
#pragma unroll
  for (u32 w = 0; w < WEIGHTS; w++) {
    if (w) block_sync();
    sum_waves(sum[w], part);
    for (u32 e = thread_id(); e < TILES * 256; e += 256) {
      u32 row = e / 16, c = column + w * 16 + e % 16;
      if (row >= count || c >= l.n) continue;
      u64 at = (u64)(first + row) * l.n + c;
      put_output(l.y, at, part[e], l.bias, c, residual);
    }
  }
}
// By plain loads, for memory that begins anywhere.
DEV void coded_unaligned(const f16* x, const CodedLayer& l, const f16* residual, u32 first, u32 count, u32 width, u32 k) {
  for (u32 e = thread_id(); e < count * width; e += 256) {
    u32 row = first + e / width, c = l.block * width + e % width;
    if (c >= l.n) continue;
    f32 sum = l.bias ? to_f32(l.bias[c]) : 0.f;
#pragma unroll 1
    for (u32 i = 0; i < k; i++) sum = fma_(to_f32(x[(u64)row * k + i]), coded_value(l.p, c, i), sum);
    u64 at = (u64)row * l.n + c;
    from_f32(l.y[at], sum + (residual ? to_f32(residual[at]) : 0.f));
  }
}
// Up to 16 rows and 16 outputs a block: few registers, so that many blocks share a processor.
template <class T>
DEV void nbits_linears_body(const T* x, const u8* w0, const u8* w1, const u8* w2, const u16* s0, const u16* s1, const u16* s2, const u8* z0,
                            const u8* z1, const u8* z2, const T* b0, const T* b1, const T* b2, const T* residual, T* y0, T* y1, T* y2, u32 rows,
                            u32 n0, u32 n1, u32 n2, u32 k, u32 row_bytes, u32 blocks, u32 shift, u32 has_zeros, u32 biased,
                            u32 has_residual) {
  LDS(f32, part, 8 * 256);
  u32 block = block_x(), ends = (n0 + 15) / 16, second = (n1 + 15) / 16;
  CodedLayer l = {{w0, s0, z0, row_bytes, blocks, shift}, biased & 1 ? b0 : 0, y0, n0, block};
  if (block >= ends + second) l = {{w2, s2, z2, row_bytes, blocks, shift}, biased & 4 ? b2 : 0, y2, n2, block - ends - second};
  else if (block >= ends) l = {{w1, s1, z1, row_bytes, blocks, shift}, biased & 2 ? b1 : 0, y1, n1, block - ends};
  if (!has_zeros) l.p.zeros = 0;
  residual = has_residual ? residual : 0;
  u32 first = block_y() * 16, count = min_u(16, rows - first);
  if (!aligned_wide(x, l.p.w)) coded_unaligned(x, l, residual, first, count, 16, k);
  else if (FRAG_HALVES == 2 && count <= 8) coded_of<FRAG_HALVES == 2, 1, 1>(x, l, residual, part, first, count, k);
  else coded_of<false, 1, 1>(x, l, residual, part, first, count, k);
}
// One layer, up to 32 rows and 32 outputs a block: rows are read half as often.
template <class T>
DEV void nbits_wide_body(const T* x, const u8* w, const u16* scales, const u8* zeros, const T* bias, const T* residual, T* y, u32 rows, u32 n, u32 k,
                         u32 row_bytes, u32 blocks, u32 shift, u32 has_zeros, u32 has_bias, u32 has_residual) {
  LDS(f32, part, 8 * 2 * 256);
  CodedLayer l = {{w, scales, has_zeros ? zeros : 0, row_bytes, blocks, shift}, has_bias ? bias : 0, y, n, block_x()};
  residual = has_residual ? residual : 0;
  u32 first = block_y() * 32, count = min_u(32, rows - first);
  if (!aligned_wide(x, w)) coded_unaligned(x, l, residual, first, count, 32, k);
  else if (count <= 16) coded_of<false, 2, 1>(x, l, residual, part, first, count, k);
  else coded_of<false, 2, 2>(x, l, residual, part, first, count, k);
}
// Two layers of which one gates the other, act(g) * u: up to 16 rows and 16 outputs a block.
template <bool FEW>
DEV void coded_gate_of(const f16* x, const Coded& p, const Coded& q, const f16* p_bias, const f16* q_bias, const f16* residual, f16* y, f32* part,
                       u32 first, u32 count, u32 n, u32 k, u32 act, f32 alpha) {
  RowPointers<f16> xp[1];
  Acc sum[2][1];
  u32 column = block_x() * 16, t = thread_id(), row = t / 16, c = column + t % 16;
  rows_at(xp, x, first, count, k);
  CodedLane lanes[2] = {coded_lane(p, 0, column, n), coded_lane(q, 0, column, n)};
  coded_stream<FEW>(xp, lanes, k, sum);
  sum_waves(sum[0], part);
  f32 g = part[t];
  block_sync();
  sum_waves(sum[1], part);
  if (row >= count || c >= n) return;
  u64 at = (u64)(first + row) * n + c;
  g += p_bias ? to_f32(p_bias[c]) : 0.f;
  f32 u = part[t] + (q_bias ? to_f32(q_bias[c]) : 0.f);
  from_f32(y[at], gated<f16>(g, u, act, alpha) + (residual ? to_f32(residual[at]) : 0.f));
}
template <class T>
DEV void nbits_gate_body(const T* x, const u8* w0, const u8* w1, const u16* s0, const u16* s1, const u8* z0, const u8* z1, const T* b0, const T* b1,
                         const T* residual, T* y, u32 rows, u32 n, u32 k, u32 row_bytes, u32 blocks, u32 shift, u32 has_zeros, u32 biased,
                         u32 has_residual, u32 act, f32 alpha) {
  LDS(f32, part, 8 * 256);
  Coded p = {w0, s0, has_zeros ? z0 : 0, row_bytes, blocks, shift}, q = {w1, s1, has_zeros ? z1 : 0, row_bytes, blocks, shift};
  b0 = biased & 1 ? b0 : 0;
  b1 = biased & 2 ? b1 : 0;
  residual = has_residual ? residual : 0;
  u32 first = block_y() * 16, count = min_u(16, rows - first);
  if (!aligned_wide(x, w0) || !aligned_wide(w1, w0)) {
    u32 t = thread_id(), row = first + t / 16, c = block_x() * 16 + t % 16;
    if (row >= rows || c >= n) return;
    f32 g = b0 ? to_f32(b0[c]) : 0.f, u = b1 ? to_f32(b1[c]) : 0.f;
#pragma unroll 1
    for (u32 i = 0; i < k; i++) {
      f32 a = to_f32(x[(u64)row * k + i]);
      g = fma_(a, coded_value(p, c, i), g);
      u = fma_(a, coded_value(q, c, i), u);
    }
    u64 at = (u64)row * n + c;
    from_f32(y[at], gated<T>(g, u, act, alpha) + (residual ? to_f32(residual[at]) : 0.f));
  } else if (FRAG_HALVES == 2 && count <= 8)
    coded_gate_of<FRAG_HALVES == 2>(x, p, q, b0, b1, residual, y, part, first, count, n, k, act, alpha);
  else coded_gate_of<false>(x, p, q, b0, b1, residual, y, part, first, count, n, k, act, alpha);
}
KERNELS_nbits_linears
KERNELS_nbits_wide
KERNELS_nbits_gate
