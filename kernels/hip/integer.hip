// Products of 8-bit integers, zero points subtracted first: a block computes 64 x 64 of the result in steps of 16, a thread 4 x 4.
#include "prelude.h"
DEV i32 integer_code(u8 v, u32 is_signed) { return is_signed ? (i32)(i8)v : (i32)v; }
// a[m, k] times b[k, n]; `store` takes row, column and sum.
template <class Z, class Y, class S>
DEV void integer_tiles(const u8* a, const u8* b, u32 m, u32 n, u32 k, u32 a_signed, u32 b_signed, Z a_zero, Y b_zero, S store) {
  LDS(i32, sa, 16 * 68);
  LDS(i32, sb, 16 * 68);
  u32 t = thread_id(), row = (t / 16) * 4, col = (t % 16) * 4, m0 = block_y() * 64, n0 = block_x() * 64;
  i32 sum[16];
  for (int i = 0; i < 16; i++) sum[i] = 0;
  for (u32 k0 = 0; k0 < k; k0 += 16) {
    for (u32 e = t; e < 1024; e += 256) {
      u32 ar = m0 + e / 16, ak = k0 + e % 16, bc = n0 + e % 64, bk = k0 + e / 64;
      sa[e % 16 * 68 + e / 16] = ar < m && ak < k ? integer_code(a[(u64)ar * k + ak], a_signed) - a_zero(ar) : 0;
      sb[e / 64 * 68 + e % 64] = bc < n && bk < k ? integer_code(b[(u64)bk * n + bc], b_signed) - b_zero(bc) : 0;
    }
    block_sync();
    for (u32 kk = 0; kk < 16; kk++) {
      i32 x[4], w[4];
      for (int i = 0; i < 4; i++) { x[i] = sa[kk * 68 + row + i]; w[i] = sb[kk * 68 + col + i]; }
      for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++) sum[4 * i + j] += x[i] * w[j];
    }
    block_sync();
  }
  for (u32 i = 0; i < 4; i++)
    for (u32 j = 0; j < 4; j++)
      if (m0 + row + i < m && n0 + col + j < n) store(m0 + row + i, n0 + col + j, sum[4 * i + j]);
}
// Zero points: none, one, or one per row of a (column of b). shape: as in matmul.hip.
DEV void matmul_integer_body(const u8* a, const u8* b, const u8* a_zero, const u8* b_zero, i32* y, u32 m, u32 n, u32 k, u32 batches,
                             i64 a_count, i64 b_count, u32 a_zeros, u32 b_zeros, u32 a_signed, u32 b_signed, const Words<13> shape) {
  u32 rest = block_z();
  for (u32 d = shape.w[0]; d-- > 0;) {
    u32 at = rest % shape.w[1 + d];
    rest /= shape.w[1 + d];
    a += (i64)at * (i32)shape.w[5 + d];
    b += (i64)at * (i32)shape.w[9 + d];
  }
  y += (u64)block_z() * m * n;
  auto row_zero = [&](u32 r) { return a_zeros ? integer_code(a_zero[a_zeros == 1 ? 0 : r], a_signed) : 0; };
  auto column_zero = [&](u32 c) { return b_zeros ? integer_code(b_zero[b_zeros == 1 ? 0 : c], b_signed) : 0; };
  auto store = [&](u32 r, u32 c, i32 v) { y[(u64)r * n + c] = v; };
  integer_tiles(a, b, m, n, k, a_signed, b_signed, row_zero, column_zero, store);
}
// p[dirs, rows, n]: codes of one scale and zero point times the weight of each direction, whose scales and zero points are one for
// all, one per direction or one per column.
DEV void quantised_product_body(const u8* codes, const f32* scale, const u8* zero, const u8* w, const f32* w_scale, const u8* w_zero,
                                f32* p, u32 dirs, u32 rows, u32 n, u32 k, u32 scales, u32 zeros, u32 w_signed) {
  u32 d = block_z();
  f32 by = scale[0];
  auto row_zero = [&](u32) { return (i32)zero[0]; };
  auto at = [&](u32 count, u32 c) { return count == 1 ? 0u : count == dirs ? d : d * n + c; };
  auto column_zero = [&](u32 c) { return zeros ? integer_code(w_zero[at(zeros, c)], w_signed) : 0; };
  auto store = [&](u32 r, u32 c, i32 v) { p[((u64)d * rows + r) * n + c] = (f32)v * w_scale[at(scales, c)] * by; };
  integer_tiles(codes, w + (u64)d * k * n, rows, n, k, 0, w_signed, row_zero, column_zero, store);
}
KERNELS_matmul_integer
KERNELS_quantised_product
