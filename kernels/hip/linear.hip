// x[rows, k] times w[n, k] transposed, plus bias[n].
#include "prelude.h"
// For few rows, where reading w is all the time it takes: a wave computes one output of R rows, of which `count` are there.
template <int R, class X, class W>
DEV void rows_of(const X* x, const W* w, const X* bias, X* y, u32 count, u32 n, u32 k, u32 has_bias, u32 column) {
  enum { E = sizeof(X) + sizeof(W) == 8 ? 4 : 8 };
  const X* xr[R];
  f32 sum[R];
  for (int r = 0; r < R; r++) { xr[r] = x + (u64)min_u(r, count - 1) * k; sum[r] = 0.f; }
  w += (u64)column * k;
  if (k % E == 0 && aligned_wide(x, w)) {
#pragma unroll 2
    for (u32 i = lane_id() * E; i < k; i += WAVE * E) {
      f32 a[E], b[E];
      load_elements(w + i, a);
      for (int r = 0; r < R; r++) {
        load_elements(xr[r] + i, b);
        for (int e = 0; e < E; e++) sum[r] = fma_(a[e], b[e], sum[r]);
      }
    }
  } else {
    for (u32 i = lane_id(); i < k; i += WAVE) {
      f32 a = to_f32(w[i]);
      for (int r = 0; r < R; r++) sum[r] = fma_(a, to_f32(xr[r][i]), sum[r]);
    }
  }
  f32 b = has_bias ? to_f32(bias[column]) : 0.f;
  for (int r = 0; r < R; r++) {
    f32 total = wave_sum(sum[r]);
    if (lane_id() == 0 && (u32)r < count) from_f32(y[(u64)r * n + column], total + b);
  }
}
template <class X, class W>
DEV void linear_rows_body(const X* x, const W* w, const X* bias, X* y, u32 rows, u32 n, u32 k, u32 has_bias) {
  u32 column = block_x() * 8 + thread_id() / WAVE, first = block_y() * 8;
  if (column >= n) return;
  u32 count = min_u(8, rows - first);
  x += (u64)first * k;
  y += (u64)first * n;
  if (count == 1) rows_of<1>(x, w, bias, y, count, n, k, has_bias, column);
  else if (count == 2) rows_of<2>(x, w, bias, y, count, n, k, has_bias, column);
  else if (count <= 4) rows_of<4>(x, w, bias, y, count, n, k, has_bias, column);
  else rows_of<8>(x, w, bias, y, count, n, k, has_bias, column);
}
// For up to some hundred rows, by matrix instructions: a block computes 16 outputs of up to 64 rows, and its waves share the inputs.
template <int TILES, class T>
DEV void tiles_of(const T* x, const T* w, const T* bias, T* y, f32* part, u32 count, u32 n, u32 k, u32 has_bias) {
  u32 column = block_x() * 16;
  RowPointers<T> wp, xp[TILES];
  for (int i = 0; i < FRAG_ROWS; i++) {
    wp.p[i] = w + (u64)min_u(column + frag_row(i), n - 1) * k;
    for (int t = 0; t < TILES; t++) xp[t].p[i] = x + (u64)min_u(t * 16 + frag_row(i), count - 1) * k;
  }
  Acc sum[TILES];
  stream_tiles(wp, xp, k, sum);
  sum_waves(sum, part);
  for (u32 e = thread_id(); e < TILES * 256; e += 256) {
    u32 row = e / 16, c = column + e % 16;
    if (row < count && c < n) from_f32(y[(u64)row * n + c], part[e] + (has_bias ? to_f32(bias[c]) : 0.f));
  }
}
// SIZE rows by WIDTH outputs by plain loads, for memory that begins anywhere.
template <int SIZE, int WIDTH, class T>
DEV void unaligned(const T* x, const T* w, const T* bias, T* y, u32 rows, u32 n, u32 k, u32 has_bias) {
  for (u32 e = thread_id(); e < SIZE * WIDTH; e += 256) {
    u32 row = block_y() * SIZE + e / WIDTH, c = block_x() * WIDTH + e % WIDTH;
    if (row >= rows || c >= n) continue;
    f32 sum = 0.f;
    for (u32 i = 0; i < k; i++) sum = fma_(to_f32(x[(u64)row * k + i]), to_f32(w[(u64)c * k + i]), sum);
    from_f32(y[(u64)row * n + c], sum + (has_bias ? to_f32(bias[c]) : 0.f));
  }
}
template <class T>
DEV void linear_tiles_body(const T* x, const T* w, const T* bias, T* y, u32 rows, u32 n, u32 k, u32 has_bias) {
  LDS(f32, part, 8 * 4 * 256);
  u32 first = block_y() * 64, count = min_u(64, rows - first);
  if (!aligned_wide(x, w)) return unaligned<64, 16>(x, w, bias, y, rows, n, k, has_bias);
  x += (u64)first * k;
  y += (u64)first * n;
  if (count <= 16) tiles_of<1>(x, w, bias, y, part, count, n, k, has_bias);
  else if (count <= 32) tiles_of<2>(x, w, bias, y, part, count, n, k, has_bias);
  else tiles_of<4>(x, w, bias, y, part, count, n, k, has_bias);
}
// For many rows: a block computes SIZE rows by SIZE outputs in steps of 32 inputs, which shared memory holds twice, so that the
// next step is on its way meanwhile. A wave computes half of the rows and a quarter of the outputs.
template <int SIZE, class T>
DEV void block_of(const T* x, const T* w, const T* bias, T* y, u32 rows, u32 n, u32 k, u32 has_bias) {
  enum { LOADS = SIZE / 64, DOWN = SIZE / 32, ACROSS = SIZE / 64, PART = SIZE * FRAG_LD };
  LDS(T, sx, 2 * PART);
  LDS(T, sw, 2 * PART);
  u32 t = thread_id(), wave = t / WAVE, m0 = block_y() * SIZE, n0 = block_x() * SIZE;
  const T *xp[LOADS], *wp[LOADS];
  u32 to[LOADS];
  for (int i = 0; i < LOADS; i++) {
    u32 row = t / 4 + i * 64, at = t % 4 * 8;
    xp[i] = x + (u64)min_u(m0 + row, rows - 1) * k + at;
    wp[i] = w + (u64)min_u(n0 + row, n - 1) * k + at;
    to[i] = row * FRAG_LD + at;
  }
  Acc sum[DOWN][ACROSS];
  for (int i = 0; i < DOWN; i++) for (int j = 0; j < ACROSS; j++) acc_zero(sum[i][j]);
  Wide xs[LOADS], ws[LOADS];
  for (int i = 0; i < LOADS; i++) { xs[i] = load_wide(xp[i]); ws[i] = load_wide(wp[i]); }
  u32 now = 0, row0 = wave / 4 * (SIZE / 2), col0 = wave % 4 * (SIZE / 4);
  for (u32 k0 = 0; k0 < k; k0 += 32) {
    for (int i = 0; i < LOADS; i++) { store_wide(sx + now + to[i], xs[i]); store_wide(sw + now + to[i], ws[i]); }
    block_sync();
    if (k0 + 32 < k)
      for (int i = 0; i < LOADS; i++) { xs[i] = load_wide(xp[i] + k0 + 32); ws[i] = load_wide(wp[i] + k0 + 32); }
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
        if (r < rows && c < n) from_f32(y[(u64)r * n + c], acc_get(sum[d][j], i) + (has_bias ? to_f32(bias[c]) : 0.f));
      }
}
template <class T>
DEV void linear_block_body(const T* x, const T* w, const T* bias, T* y, u32 rows, u32 n, u32 k, u32 has_bias) {
  if (aligned_wide(x, w)) block_of<128>(x, w, bias, y, rows, n, k, has_bias);
  else unaligned<128, 128>(x, w, bias, y, rows, n, k, has_bias);
}
template <class T>
DEV void linear_block64_body(const T* x, const T* w, const T* bias, T* y, u32 rows, u32 n, u32 k, u32 has_bias) {
  if (aligned_wide(x, w)) block_of<64>(x, w, bias, y, rows, n, k, has_bias);
  else unaligned<64, 64>(x, w, bias, y, rows, n, k, has_bias);
}
KERNELS_linear_rows
KERNELS_linear_tiles
KERNELS_linear_block
KERNELS_linear_block64
