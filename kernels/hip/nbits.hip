// x[rows, k] times packed weights w[n, k] transposed, plus bias[n].
#include "prelude.h"
// For few rows: a wave computes OUTS outputs of R rows, of which `count` are there.
template <int BITS, int R, class X>
DEV void nbits_rows_of(const X* x, const Packed& p, const X* bias, const X* residual, X* y, u32 first, u32 count, u32 n, u32 k) {
  u32 column = (block_x() * 8 + thread_id() / WAVE) * OUTS;
  if (column >= n) return;
  const X* from[R];
  u64 row[OUTS];
  f32 sum[OUTS][R];
  for (int r = 0; r < R; r++) from[r] = x + (u64)(first + min_u(r, count - 1)) * k;
  for (int o = 0; o < OUTS; o++) row[o] = min_u(column + o, n - 1);
  packed_rows<BITS>(from, p, row, k, sum);
  for (u32 o = 0; o < OUTS; o++)
    for (u32 r = 0; r < R; r++) {
      f32 total = wave_sum(sum[o][r]);
      if (lane_id() == 0 && r < count && column + o < n)
        put_output(y, (u64)(first + r) * n + column + o, total, bias, column + o, residual);
    }
}
template <int BITS, class X> DEV void nbits_rows_by(const X* x, const Packed& p, const X* bias, const X* residual, X* y, u32 rows, u32 n, u32 k) {
  u32 first = block_y() * 4, count = min_u(4, rows - first);
  if (count == 1) nbits_rows_of<BITS, 1>(x, p, bias, residual, y, first, count, n, k);
  else if (count == 2) nbits_rows_of<BITS, 2>(x, p, bias, residual, y, first, count, n, k);
  else nbits_rows_of<BITS, 4>(x, p, bias, residual, y, first, count, n, k);
}
template <class X>
DEV void nbits_rows_body(const X* x, const u8* w, const u8* scales, const u8* zeros, const X* bias, const X* residual, X* y,
                         u32 rows, u32 n, u32 k, u32 bits,
                         u32 row_bytes, u32 blocks, u32 shift, u32 scale_kind, u32 zero_kind, u32 has_bias, u32 has_residual) {
  Packed p = {w, scales, zeros, row_bytes, blocks, shift, scale_kind, zero_kind};
  bias = has_bias ? bias : 0;
  residual = has_residual ? residual : 0;
  if (bits == 4) nbits_rows_by<4>(x, p, bias, residual, y, rows, n, k);
  else if (bits == 8) nbits_rows_by<8>(x, p, bias, residual, y, rows, n, k);
  else nbits_rows_by<2>(x, p, bias, residual, y, rows, n, k);
}
// By matrix instructions, while reading the weights is most of the time: a block computes 16 outputs of up to 32 rows.
template <int BITS, int TILES, class T>
DEV void nbits_stream_of(const T* x, const Packed& p, const T* bias, const T* residual, T* y, T* shared, f32* part, u32 first, u32 count, u32 n,
                         u32 k) {
  u32 column = block_x() * 16;
  RowPointers<T> xp[TILES];
  for (int t = 0; t < TILES; t++)
    for (int i = 0; i < FRAG_ROWS; i++) xp[t].p[i] = x + (u64)(first + min_u(t * 16 + frag_row(i), count - 1)) * k;
  Acc sum[TILES];
  packed_stream<BITS>(xp, p, column, n - 1 - column, k, shared, sum);
  sum_waves(sum, part);
  for (u32 e = thread_id(); e < TILES * 256; e += 256) {
    u32 row = e / 16, c = column + e % 16;
    if (row < count && c < n) put_output(y, (u64)(first + row) * n + c, part[e], bias, c, residual);
  }
}
template <class T>
DEV void nbits_stream_body(const T* x, const u8* w, const u8* scales, const u8* zeros, const T* bias, const T* residual, T* y,
                           u32 rows, u32 n, u32 k, u32 bits,
                           u32 row_bytes, u32 blocks, u32 shift, u32 scale_kind, u32 zero_kind, u32 has_bias, u32 has_residual) {
  LDS(f32, part, 8 * 2 * 256);
  LDS(T, shared, 8 * 32 * FRAG_LD);
  Packed p = {w, scales, zeros, row_bytes, blocks, shift, scale_kind, zero_kind};
  bias = has_bias ? bias : 0;
  residual = has_residual ? residual : 0;
  u32 first = block_y() * 32, count = min_u(32, rows - first);
  bool one = count <= 16;
  if (bits == 4 && one) nbits_stream_of<4, 1>(x, p, bias, residual, y, shared, part, first, count, n, k);
  else if (bits == 4) nbits_stream_of<4, 2>(x, p, bias, residual, y, shared, part, first, count, n, k);
  else if (bits == 8 && one) nbits_stream_of<8, 1>(x, p, bias, residual, y, shared, part, first, count, n, k);
  else if (bits == 8) nbits_stream_of<8, 2>(x, p, bias, residual, y, shared, part, first, count, n, k);
  else if (one) nbits_stream_of<2, 1>(x, p, bias, residual, y, shared, part, first, count, n, k);
  else nbits_stream_of<2, 2>(x, p, bias, residual, y, shared, part, first, count, n, k);
}
// For many rows: a block computes SIZE rows by SIZE outputs in steps of 32 inputs, which shared memory holds twice, the weights unpacked;
// a wave computes half of the rows and a quarter of the outputs.
template <int SIZE, int BITS, class T>
DEV void nbits_block_of(const T* x, const Packed& p, const T* bias, const T* residual, T* y, T* sx, T* sw, u32 rows, u32 n, u32 k) {
  enum { LOADS = SIZE / 64, DOWN = SIZE / 32, ACROSS = SIZE / 64, PART = SIZE * FRAG_LD };
  u32 t = thread_id(), wave = t / WAVE, m0 = block_y() * SIZE, n0 = block_x() * SIZE, own = t % 4 * 8;
  bool wide_x = aligned_wide(x, x), wide_w = packed_wide<BITS>(p);
  const T* xp[LOADS];
  u64 row[LOADS];
  for (int i = 0; i < LOADS; i++) {
    xp[i] = x + (u64)min_u(m0 + t / 4 + i * 64, rows - 1) * k + own;
    row[i] = min_u(n0 + t / 4 + i * 64, n - 1);
  }
  Acc sum[DOWN][ACROSS];
  for (int i = 0; i < DOWN; i++) for (int j = 0; j < ACROSS; j++) acc_zero(sum[i][j]);
  EightOf<T> xs[LOADS];
  Codes<BITS, 8> ws[LOADS];
  Meaning m[LOADS];
  auto load = [&](u32 k0) {
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
      if (wide_x) xs[i].w = load_wide(xp[i] + k0);
      else
#pragma unroll
        for (int e = 0; e < 8; e++) xs[i].t[e] = xp[i][k0 + e];
      load_codes(ws[i], p.w + row[i] * p.row_bytes + (u64)((k0 + own) / 8) * BITS, BITS, wide_w);
      m[i] = meaning_of<BITS>(p, row[i], k0 + own);
    }
  };
  load(0);
  u32 now = 0, row0 = wave / 4 * (SIZE / 2), col0 = wave % 4 * (SIZE / 4);
  for (u32 k0 = 0; k0 < k; k0 += 32) {
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
      u32 to = now + (t / 4 + i * 64) * FRAG_LD + own;
      EightOf<T> v;
#pragma unroll
      for (int e = 0; e < 8; e++) from_f32(v.t[e], value_of(ws[i], e, m[i]));
      store_wide(sx + to, xs[i].w);
      store_wide(sw + to, v.w);
    }
    block_sync();
    if (k0 + 32 < k) load(k0 + 32);
    Frag<T> a[2], b[ACROSS][2];
    RowPointers<T> from;
    for (int j = 0; j < ACROSS; j++) {
      for (int i = 0; i < FRAG_ROWS; i++) from.p[i] = sw + now + (col0 + j * 16 + frag_row(i)) * FRAG_LD;
      frag_load_wide(b[j], from.p, 0);
    }
    for (int d = 0; d < DOWN; d++) {
      for (int i = 0; i < FRAG_ROWS; i++) from.p[i] = sx + now + (row0 + d * 16 + frag_row(i)) * FRAG_LD;
      frag_load_wide(a, from.p, 0);
      for (int j = 0; j < ACROSS; j++) { tile_mma(sum[d][j], a[0], b[j][0]); tile_mma(sum[d][j], a[1], b[j][1]); }
    }
    now = PART - now;
  }
#pragma unroll
  for (int d = 0; d < DOWN; d++)
#pragma unroll
    for (int j = 0; j < ACROSS; j++)
#pragma unroll
      for (u32 i = 0; i < 8; i++) {
        u32 r = m0 + row0 + d * 16 + acc_row(i), c = n0 + col0 + j * 16 + acc_col(i);
        if (r < rows && c < n) put_output(y, (u64)r * n + c, acc_get(sum[d][j], i), bias, c, residual);
      }
}
template <int SIZE, class T>
DEV void nbits_block_by(const T* x, const Packed& p, const T* bias, const T* residual, T* y, T* sx, T* sw, u32 rows, u32 n, u32 k, u32 bits) {
  if (bits == 4) nbits_block_of<SIZE, 4>(x, p, bias, residual, y, sx, sw, rows, n, k);
  else if (bits == 8) nbits_block_of<SIZE, 8>(x, p, bias, residual, y, sx, sw, rows, n, k);
  else nbits_block_of<SIZE, 2>(x, p, bias, residual, y, sx, sw, rows, n, k);
}
template <class T>
DEV void nbits_block_body(const T* x, const u8* w, const u8* scales, const u8* zeros, const T* bias, const T* residual, T* y,
                          u32 rows, u32 n, u32 k, u32 bits,
                          u32 row_bytes, u32 blocks, u32 shift, u32 scale_kind, u32 zero_kind, u32 has_bias, u32 has_residual) {
  LDS(T, sx, 2 * 128 * FRAG_LD);
  LDS(T, sw, 2 * 128 * FRAG_LD);
  nbits_block_by<128>(x, {w, scales, zeros, row_bytes, blocks, shift, scale_kind, zero_kind},
                      has_bias ? bias : 0, has_residual ? residual : 0, y, sx, sw, rows, n, k, bits);
}
template <class T>
DEV void nbits_block64_body(const T* x, const u8* w, const u8* scales, const u8* zeros, const T* bias, const T* residual, T* y,
                            u32 rows, u32 n, u32 k, u32 bits,
                            u32 row_bytes, u32 blocks, u32 shift, u32 scale_kind, u32 zero_kind, u32 has_bias, u32 has_residual) {
  LDS(T, sx, 2 * 64 * FRAG_LD);
  LDS(T, sw, 2 * 64 * FRAG_LD);
  nbits_block_by<64>(x, {w, scales, zeros, row_bytes, blocks, shift, scale_kind, zero_kind},
                      has_bias ? bias : 0, has_residual ? residual : 0, y, sx, sw, rows, n, k, bits);
}
// The same in f32, for any number of inputs: a block computes 64 x 64, a thread 4 x 4 of them.
template <int BITS, class X>
DEV void nbits_matmul_of(const X* x, const Packed& p, const X* bias, const X* residual, X* y, f32* sa, f32* sb, u32 rows, u32 n, u32 k) {
  u32 t = thread_id(), row = t / 16 * 4, col = t % 16 * 4, m0 = block_y() * 64, n0 = block_x() * 64, own = t % 4 * 8;
  bool wide_x = k % (16 / sizeof(X)) == 0 && aligned_wide(x, x), wide_w = packed_wide<BITS>(p);
  const X* xp = x + (u64)min_u(m0 + t / 4, rows - 1) * k;
  u64 from = min_u(n0 + t / 4, n - 1);
  f32 sum[4][4];
  for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++) sum[i][j] = 0.f;
  for (u32 k0 = 0; k0 < k; k0 += 32) {
    u32 i = k0 + own;
    f32 a[8], b[8];
    for (int e = 0; e < 8; e++) a[e] = b[e] = 0.f;
    if (i < k) {
      bool whole = i + 8 <= k;
      if (whole && wide_x) load_elements(xp + i, a);
      else for (u32 e = 0; e < 8; e++) if (i + e < k) a[e] = to_f32(xp[i + e]);
      u32 at = i / 8 * BITS;
      Codes<BITS, 8> c;
      load_codes(c, p.w + from * p.row_bytes + at, p.row_bytes - at, whole && wide_w);
      Meaning m = meaning_of<BITS>(p, from, i);
      for (int e = 0; e < 8; e++) b[e] = value_of(c, e, m);
    }
    for (int e = 0; e < 8; e++) { sa[(own + e) * 68 + t / 4] = a[e]; sb[(own + e) * 68 + t / 4] = b[e]; }
    block_sync();
    // Beyond k there are zeros, which must not meet an infinity.
    u32 steps = min_u(32, k - k0);
    for (u32 kk = 0; kk < steps; kk++) {
      f32 u[4], v[4];
      for (int j = 0; j < 4; j++) { u[j] = sa[kk * 68 + row + j]; v[j] = sb[kk * 68 + col + j]; }
      for (int r = 0; r < 4; r++) for (int j = 0; j < 4; j++) sum[r][j] = fma_(u[r], v[j], sum[r][j]);
    }
    block_sync();
  }
  for (u32 i = 0; i < 4; i++)
    for (u32 j = 0; j < 4; j++) {
      u32 r = m0 + row + i, c = n0 + col + j;
      if (r < rows && c < n) put_output(y, (u64)r * n + c, sum[i][j], bias, c, residual);
    }
}
template <class X>
DEV void nbits_matmul_body(const X* x, const u8* w, const u8* scales, const u8* zeros, const X* bias, const X* residual, X* y,
                           u32 rows, u32 n, u32 k, u32 bits,
                           u32 row_bytes, u32 blocks, u32 shift, u32 scale_kind, u32 zero_kind, u32 has_bias, u32 has_residual) {
  LDS(f32, sa, 32 * 68);
  LDS(f32, sb, 32 * 68);
  Packed p = {w, scales, zeros, row_bytes, blocks, shift, scale_kind, zero_kind};
  bias = has_bias ? bias : 0;
  residual = has_residual ? residual : 0;
  if (bits == 4) nbits_matmul_of<4>(x, p, bias, residual, y, sa, sb, rows, n, k);
  else if (bits == 8) nbits_matmul_of<8>(x, p, bias, residual, y, sa, sb, rows, n, k);
  else nbits_matmul_of<2>(x, p, bias, residual, y, sa, sb, rows, n, k);
}
KERNELS_nbits_rows
KERNELS_nbits_stream
KERNELS_nbits_block
KERNELS_nbits_block64
KERNELS_nbits_matmul
