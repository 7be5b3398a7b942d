// x[rows, k] times packed weights w[n, k] transposed, plus bias[n].
#include "prelude.h"
// For few rows: a wave computes OUTS outputs of R rows, of which `count` are there.
template <int BITS, int R, class X>
DEV void nbits_rows_of(const X* x, const Packed& p, const X* bias, X* y, u32 first, u32 count, u32 n, u32 k) {
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
        from_f32(y[(u64)(first + r) * n + column + o], total + (bias ? to_f32(bias[column + o]) : 0.f));
    }
}
template <int BITS, class X> DEV void nbits_rows_by(const X* x, const Packed& p, const X* bias, X* y, u32 rows, u32 n, u32 k) {
  u32 first = block_y() * 4, count = min_u(4, rows - first);
  if (count == 1) nbits_rows_of<BITS, 1>(x, p, bias, y, first, count, n, k);
  else if (count == 2) nbits_rows_of<BITS, 2>(x, p, bias, y, first, count, n, k);
  else nbits_rows_of<BITS, 4>(x, p, bias, y, first, count, n, k);
}
template <class X>
DEV void nbits_rows_body(const X* x, const u8* w, const u8* scales, const u8* zeros, const X* bias, X* y, u32 rows, u32 n, u32 k, u32 bits,
                         u32 row_bytes, u32 blocks, u32 shift, u32 scale_kind, u32 zero_kind, u32 has_bias) {
  Packed p = {w, scales, zeros, row_bytes, blocks, shift, scale_kind, zero_kind};
  bias = has_bias ? bias : 0;
  if (bits == 4) nbits_rows_by<4>(x, p, bias, y, rows, n, k);
  else if (bits == 8) nbits_rows_by<8>(x, p, bias, y, rows, n, k);
  else nbits_rows_by<2>(x, p, bias, y, rows, n, k);
}
// By matrix instructions, while reading the weights is most of the time: a block computes 16 outputs of up to 32 rows.
template <int BITS, int TILES, class T>
DEV void nbits_stream_of(const T* x, const Packed& p, const T* bias, T* y, T* shared, f32* part, u32 first, u32 count, u32 n, u32 k) {
  u32 column = block_x() * 16;
  RowPointers<T> xp[TILES];
  for (int t = 0; t < TILES; t++)
    for (int i = 0; i < FRAG_ROWS; i++) xp[t].p[i] = x + (u64)(first + min_u(t * 16 + frag_row(i), count - 1)) * k;
  Acc sum[TILES];
  packed_stream<BITS>(xp, p, column, n - 1 - column, k, shared, sum);
  sum_waves(sum, part);
  for (u32 e = thread_id(); e < TILES * 256; e += 256) {
    u32 row = e / 16, c = column + e % 16;
    if (row < count && c < n) from_f32(y[(u64)(first + row) * n + c], part[e] + (bias ? to_f32(bias[c]) : 0.f));
  }
}
template <class T>
DEV void nbits_stream_body(const T* x, const u8* w, const u8* scales, const u8* zeros, const T* bias, T* y, u32 rows, u32 n, u32 k, u32 bits,
                           u32 row_bytes, u32 blocks, u32 shift, u32 scale_kind, u32 zero_kind, u32 has_bias) {
  LDS(f32, part, 8 * 2 * 256);
  LDS(T, shared, 8 * 32 * FRAG_LD);
  Packed p = {w, scales, zeros, row_bytes, blocks, shift, scale_kind, zero_kind};
  bias = has_bias ? bias : 0;
  u32 first = block_y() * 32, count = min_u(32, rows - first);
  bool one = count <= 16;
  if (bits == 4 && one) nbits_stream_of<4, 1>(x, p, bias, y, shared, part, first, count, n, k);
  else if (bits == 4) nbits_stream_of<4, 2>(x, p, bias, y, shared, part, first, count, n, k);
  else if (bits == 8 && one) nbits_stream_of<8, 1>(x, p, bias, y, shared, part, first, count, n, k);
  else if (bits == 8) nbits_stream_of<8, 2>(x, p, bias, y, shared, part, first, count, n, k);
  else if (one) nbits_stream_of<2, 1>(x, p, bias, y, shared, part, first, count, n, k);
  else nbits_stream_of<2, 2>(x, p, bias, y, shared, part, first, count, n, k);
}
KERNELS_nbits_rows
KERNELS_nbits_stream
