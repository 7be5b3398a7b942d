// Products of matrices with any strides, in f32: a block computes 64 x 64 of the result in steps of 16, a thread 4 x 4 of them.
#include "prelude.h"
// shape: number of batch dimensions, up to 4 sizes, then strides of a, of b (signed, in elements).
template <class A, class B>
DEV void matmul_body(const A* a, const B* b, const A* bias, const A* residual, A* y, u32 m, u32 n, u32 k, u32 batches, i64 a_row, i64 a_col, i64 b_row,
                     i64 b_col, i64 a_count, i64 b_count, u32 has_bias, u32 has_residual, const Words<13> shape) {
  LDS(f32, sa, 16 * 68);
  LDS(f32, sb, 16 * 68);
  u32 rest = block_z();
  for (u32 d = shape.w[0]; d-- > 0;) {
    u32 at = rest % shape.w[1 + d];
    rest /= shape.w[1 + d];
    a += (i64)at * (i32)shape.w[5 + d];
    b += (i64)at * (i32)shape.w[9 + d];
  }
  y += (u64)block_z() * m * n;
  residual += (u64)block_z() * m * n * has_residual;
  u32 t = thread_id(), row = (t / 16) * 4, col = (t % 16) * 4, m0 = block_y() * 64, n0 = block_x() * 64;
  f32 sum[4][4];
  for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++) sum[i][j] = 0.f;
  for (u32 k0 = 0; k0 < k; k0 += 16) {
    for (u32 e = t; e < 1024; e += 256) {
      // Neighbouring threads read neighbouring addresses, whichever way the operand lies.
      u32 ar = a_col == 1 ? e / 16 : e % 64, ak = a_col == 1 ? e % 16 : e / 64;
      bool in_a = m0 + ar < m && k0 + ak < k;
      sa[ak * 68 + ar] = in_a ? to_f32(a[(i64)(m0 + ar) * a_row + (i64)(k0 + ak) * a_col]) : 0.f;
      u32 bc = b_row == 1 ? e / 16 : e % 64, bk = b_row == 1 ? e % 16 : e / 64;
      bool in_b = n0 + bc < n && k0 + bk < k;
      sb[bk * 68 + bc] = in_b ? to_f32(b[(i64)(k0 + bk) * b_row + (i64)(n0 + bc) * b_col]) : 0.f;
    }
    block_sync();
    for (u32 kk = 0; kk < 16; kk++) {
      f32 x[4], w[4];
      for (int i = 0; i < 4; i++) { x[i] = sa[kk * 68 + row + i]; w[i] = sb[kk * 68 + col + i]; }
      // Beyond k there are zeros, which must not meet an infinity.
      if (k0 + kk < k)
        for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++) sum[i][j] = fma_(x[i], w[j], sum[i][j]);
    }
    block_sync();
  }
  for (u32 i = 0; i < 4; i++)
    for (u32 j = 0; j < 4; j++) {
      u32 r = m0 + row + i, c = n0 + col + j;
      u64 at = (u64)r * n + c;
      if (r < m && c < n)
        from_f32(y[at], sum[i][j] + (has_bias ? to_f32(bias[c]) : 0.f) + (has_residual ? to_f32(residual[at]) : 0.f));
    }
}
KERNELS_matmul
