// x[rows, k] times w[n, k] transposed, plus bias[n], plus a residual: up to three layers of the same rows in one launch.
#include "prelude.h"
// One of the layers, and which of its blocks of WIDTH outputs a block computes. Bit i of `biased` says that layer i has a bias.
template <class X, class W> struct Layer { const W* w; const X* bias; X* y; u32 n, block; };
template <int WIDTH, class X, class W>
DEV Layer<X, W> layer_of(const W* w0, const W* w1, const W* w2, const X* b0, const X* b1, const X* b2, X* y0, X* y1, X* y2, u32 n0, u32 n1,
                         u32 n2, u32 biased, u32 block) {
  u32 first = (n0 + WIDTH - 1) / WIDTH, second = (n1 + WIDTH - 1) / WIDTH;
  if (block < first) return {w0, biased & 1 ? b0 : 0, y0, n0, block};
  block -= first;
  if (block < second) return {w1, biased & 2 ? b1 : 0, y1, n1, block};
  return {w2, biased & 4 ? b2 : 0, y2, n2, block - second};
}
// For few rows, where reading w is all the time it takes: a wave computes one output of R rows, of which `count` are there.
template <int R, class X, class W>
DEV void rows_of(const X* x, const Layer<X, W>& l, const X* residual, u32 first, u32 count, u32 k) {
  enum { E = sizeof(X) + sizeof(W) == 8 ? 4 : 8 };
  u32 column = l.block * 8 + thread_id() / WAVE;
  if (column >= l.n) return;
  const X* xr[R];
  f32 sum[R];
  for (int r = 0; r < R; r++) { xr[r] = x + (u64)(first + min_u(r, count - 1)) * k; sum[r] = 0.f; }
  const W* w = l.w + (u64)column * k;
  if (k % E == 0 && aligned_wide(x, l.w)) {
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
  f32 b = l.bias ? to_f32(l.bias[column]) : 0.f;
  for (int r = 0; r < R; r++) {
    f32 total = wave_sum(sum[r]);
    u64 at = (u64)(first + r) * l.n + column;
    if (lane_id() == 0 && (u32)r < count) from_f32(l.y[at], total + b + (residual ? to_f32(residual[at]) : 0.f));
  }
}
template <class X, class W>
DEV void linear_rows_body(const X* x, const W* w0, const W* w1, const W* w2, const X* b0, const X* b1, const X* b2, const X* residual, X* y0, X* y1,
                          X* y2, u32 rows, u32 n0, u32 n1, u32 n2, u32 k, u32 biased, u32 has_residual) {
  Layer<X, W> l = layer_of<8>(w0, w1, w2, b0, b1, b2, y0, y1, y2, n0, n1, n2, biased, block_x());
  u32 first = block_y() * 8, count = min_u(8, rows - first);
  residual = has_residual ? residual : 0;
  if (count == 1) rows_of<1>(x, l, residual, first, count, k);
  else if (count == 2) rows_of<2>(x, l, residual, first, count, k);
  else if (count <= 4) rows_of<4>(x, l, residual, first, count, k);
  else rows_of<8>(x, l, residual, first, count, k);
}
// For up to some hundred rows, by matrix instructions: a block computes 16 outputs of up to 64 rows, and its waves share the inputs.
template <int TILES, class T>
DEV void tiles_of(const T* x, const Layer<T, T>& l, const T* residual, f32* part, u32 first, u32 count, u32 k) {
  u32 column = l.block * 16;
  RowPointers<T> wp, xp[TILES];
  for (int i = 0; i < FRAG_ROWS; i++) {
    wp.p[i] = l.w + (u64)min_u(column + frag_row(i), l.n - 1) * k;
    for (int t = 0; t < TILES; t++) xp[t].p[i] = x + (u64)(first + min_u(t * 16 + frag_row(i), count - 1)) * k;
  }
  Acc sum[TILES];
  stream_tiles(wp, xp, k, sum);
  sum_waves(sum, part);
  for (u32 e = thread_id(); e < TILES * 256; e += 256) {
    u32 row = e / 16, c = column + e % 16;
    if (row >= count || c >= l.n) continue;
    u64 at = (u64)(first + row) * l.n + c;
    from_f32(l.y[at], part[e] + (l.bias ? to_f32(l.bias[c]) : 0.f) + (residual ? to_f32(residual[at]) : 0.f));
  }
}
// SIZE rows by WIDTH outputs by plain loads, for memory that begins anywhere.
template <int SIZE, int WIDTH, class T> DEV void unaligned(const T* x, const Layer<T, T>& l, const T* residual, u32 rows, u32 k) {
  for (u32 e = thread_id(); e < SIZE * WIDTH; e += 256) {
    u32 row = block_y() * SIZE + e / WIDTH, c = l.block * WIDTH + e % WIDTH;
    if (row >= rows || c >= l.n) continue;
    f32 sum = 0.f;
    for (u32 i = 0; i < k; i++) sum = fma_(to_f32(x[(u64)row * k + i]), to_f32(l.w[(u64)c * k + i]), sum);
    u64 at = (u64)row * l.n + c;
    from_f32(l.y[at], sum + (l.bias ? to_f32(l.bias[c]) : 0.f) + (residual ? to_f32(residual[at]) : 0.f));
  }
}
template <class T>
DEV void linear_tiles_body(const T* x, const T* w0, const T* w1, const T* w2, const T* b0, const T* b1, const T* b2, const T* residual, T* y0, T* y1,
                           T* y2, u32 rows, u32 n0, u32 n1, u32 n2, u32 k, u32 biased, u32 has_residual) {
  LDS(f32, part, 8 * 4 * 256);
  Layer<T, T> l = layer_of<16>(w0, w1, w2, b0, b1, b2, y0, y1, y2, n0, n1, n2, biased, block_x());
  u32 first = block_y() * 64, count = min_u(64, rows - first);
  residual = has_residual ? residual : 0;
  if (!aligned_wide(x, l.w)) unaligned<64, 16>(x, l, residual, rows, k);
  else if (count <= 16) tiles_of<1>(x, l, residual, part, first, count, k);
  else if (count <= 32) tiles_of<2>(x, l, residual, part, first, count, k);
  else tiles_of<4>(x, l, residual, part, first, count, k);
}
// Two layers of n outputs whose results are gated, act(g) * u: a block computes 16 outputs of up to 32 rows.
template <int TILES, class T>
DEV void gate_of(const T* x, const T* w, const T* v, const T* w_bias, const T* v_bias, const T* residual, T* y, f32* part, u32 first, u32 count,
                 u32 n, u32 k, u32 act, f32 alpha) {
  u32 column = block_x() * 16;
  RowPointers<T> wp, vp, xp[TILES];
  for (int i = 0; i < FRAG_ROWS; i++) {
    u64 at = (u64)min_u(column + frag_row(i), n - 1) * k;
    wp.p[i] = w + at;
    vp.p[i] = v + at;
    for (int t = 0; t < TILES; t++) xp[t].p[i] = x + (u64)(first + min_u(t * 16 + frag_row(i), count - 1)) * k;
  }
  Acc g[TILES], u[TILES];
  stream_two(wp, vp, xp, k, g, u);
  f32* other = part + 8 * TILES * 256;
  sum_waves(g, part);
  sum_waves(u, other);
  for (u32 e = thread_id(); e < TILES * 256; e += 256) {
    u32 row = e / 16, c = column + e % 16;
    if (row >= count || c >= n) continue;
    u64 at = (u64)(first + row) * n + c;
    f32 gate = part[e] + (w_bias ? to_f32(w_bias[c]) : 0.f), up = other[e] + (v_bias ? to_f32(v_bias[c]) : 0.f);
    from_f32(y[at], gated<T>(gate, up, act, alpha) + (residual ? to_f32(residual[at]) : 0.f));
  }
}
template <class T>
DEV void linear_gate_body(const T* x, const T* w, const T* v, const T* w_bias, const T* v_bias, const T* residual, T* y, u32 rows, u32 n, u32 k,
                          u32 biased, u32 has_residual, u32 act, f32 alpha) {
  LDS(f32, part, 2 * 8 * 2 * 256);
  u32 first = block_y() * 32, count = min_u(32, rows - first);
  residual = has_residual ? residual : 0;
  w_bias = biased & 1 ? w_bias : 0;
  v_bias = biased & 2 ? v_bias : 0;
  if (!aligned_wide(x, w) || !aligned_wide(v, w)) {
    // Memory that begins anywhere is read by plain loads.
    for (u32 e = thread_id(); e < count * 16; e += 256) {
      u32 row = first + e / 16, c = block_x() * 16 + e % 16;
      if (c >= n) continue;
      f32 g = w_bias ? to_f32(w_bias[c]) : 0.f, u = v_bias ? to_f32(v_bias[c]) : 0.f;
      for (u32 i = 0; i < k; i++) {
        f32 a = to_f32(x[(u64)row * k + i]);
        g = fma_(a, to_f32(w[(u64)c * k + i]), g);
        u = fma_(a, to_f32(v[(u64)c * k + i]), u);
      }
      u64 at = (u64)row * n + c;
      from_f32(y[at], gated<T>(g, u, act, alpha) + (residual ? to_f32(residual[at]) : 0.f));
    }
  } else if (count <= 16) gate_of<1>(x, w, v, w_bias, v_bias, residual, y, part, first, count, n, k, act, alpha);
  else gate_of<2>(x, w, v, w_bias, v_bias, residual, y, part, first, count, n, k, act, alpha);
}
// The same of products that are there: y = act(g) * u + residual, of n elements.
template <class T>
DEV void gate_body(const T* g, const T* u, const T* residual, T* y, u32 n, u32 has_residual, u32 act, f32 alpha) {
  u32 i = block_x() * 256 + thread_id();
  if (i < n) from_f32(y[i], activate(act, to_f32(g[i]), alpha) * to_f32(u[i]) + (has_residual ? to_f32(residual[i]) : 0.f));
}
// For many rows: a block computes SIZE rows by SIZE outputs in steps of 32 inputs, which come through shared memory and are asked for
// AHEAD steps before. A wave computes half of the rows and a quarter of the outputs.
template <int SIZE, int AHEAD, class T> DEV void block_of(const T* x, const Layer<T, T>& l, const T* residual, u32 rows, u32 k) {
  enum { LOADS = SIZE / 64, DOWN = SIZE / 32, ACROSS = SIZE / 64, PART = SIZE * FRAG_LD };
  typedef Copies<AHEAD, 2 * LOADS> Inputs;
  LDS(T, sx, Inputs::STAGES * PART);
  LDS(T, sw, Inputs::STAGES * PART);
  u32 t = thread_id(), wave = t / WAVE, m0 = block_y() * SIZE, n0 = l.block * SIZE, n = l.n;
  const T *xp[LOADS], *wp[LOADS];
  u32 to[LOADS];
  for (int i = 0; i < LOADS; i++) {
    u32 row = t / 4 + i * 64, at = t % 4 * 8;
    xp[i] = x + (u64)min_u(m0 + row, rows - 1) * k + at;
    wp[i] = l.w + (u64)min_u(n0 + row, n - 1) * k + at;
    to[i] = row * FRAG_LD + at;
  }
  Acc sum[DOWN][ACROSS];
  for (int i = 0; i < DOWN; i++) for (int j = 0; j < ACROSS; j++) acc_zero(sum[i][j]);
  Inputs inputs;
  u32 now = 0, next = 0, row0 = wave / 4 * (SIZE / 2), col0 = wave % 4 * (SIZE / 4);
  auto ask = [&](u32 slot, u32 at) {
    if (at < k)
      for (int i = 0; i < LOADS; i++) {
        inputs.ask(slot, 2 * i, sx + next + to[i], xp[i] + at);
        inputs.ask(slot, 2 * i + 1, sw + next + to[i], wp[i] + at);
      }
    inputs.asked();
    next = next == (Inputs::STAGES - 1) * PART ? 0 : next + PART;
  };
#pragma unroll
  for (u32 s = 0; s < AHEAD; s++) ask(s, s * 32);
  for (u32 k0 = 0; k0 < k; k0 += 32 * AHEAD)
#pragma unroll
    for (u32 s = 0; s < AHEAD; s++) {
      u32 at = k0 + s * 32;
      if (at >= k) break;
      for (int i = 0; i < LOADS; i++) { inputs.land(s, 2 * i, sx + now + to[i]); inputs.land(s, 2 * i + 1, sw + now + to[i]); }
      inputs.landed();
      block_sync();
      ask(s, at + 32 * AHEAD);
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
      now = now == (Inputs::STAGES - 1) * PART ? 0 : now + PART;
    }
  bool pairs = ACC_PAIRS && n % 2 == 0 && ((u64)l.y & 3) == 0;
#pragma unroll
  for (int d = 0; d < DOWN; d++)
#pragma unroll
    for (int j = 0; j < ACROSS; j++)
#pragma unroll
      for (u32 i = 0; i < 8; i += 2) {
        T v[2];
        u64 at[2];
        bool there[2];
#pragma unroll
        for (u32 e = 0; e < 2; e++) {
          u32 r = m0 + row0 + d * 16 + acc_row(i + e), c = n0 + col0 + j * 16 + acc_col(i + e);
          at[e] = (u64)r * n + c;
          there[e] = r < rows && c < n;
          if (there[e])
            from_f32(v[e], acc_get(sum[d][j], i + e) + (l.bias ? to_f32(l.bias[c]) : 0.f) + (residual ? to_f32(residual[at[e]]) : 0.f));
        }
        if (pairs) { if (there[0]) store_pair(l.y + at[0], v); }
        else for (u32 e = 0; e < 2; e++) if (there[e]) l.y[at[e]] = v[e];
      }
}
template <class T>
DEV void linear_block_body(const T* x, const T* w0, const T* w1, const T* w2, const T* b0, const T* b1, const T* b2, const T* residual, T* y0, T* y1,
                           T* y2, u32 rows, u32 n0, u32 n1, u32 n2, u32 k, u32 biased, u32 has_residual) {
  Layer<T, T> l = layer_of<128>(w0, w1, w2, b0, b1, b2, y0, y1, y2, n0, n1, n2, biased, block_x());
  residual = has_residual ? residual : 0;
  if (aligned_wide(x, l.w)) block_of<128, 2>(x, l, residual, rows, k);
  else unaligned<128, 128>(x, l, residual, rows, k);
}
template <class T>
DEV void linear_block64_body(const T* x, const T* w0, const T* w1, const T* w2, const T* b0, const T* b1, const T* b2, const T* residual, T* y0, T* y1,
                           T* y2, u32 rows, u32 n0, u32 n1, u32 n2, u32 k, u32 biased, u32 has_residual) {
  Layer<T, T> l = layer_of<64>(w0, w1, w2, b0, b1, b2, y0, y1, y2, n0, n1, n2, biased, block_x());
  residual = has_residual ? residual : 0;
  if (aligned_wide(x, l.w)) block_of<64, 4>(x, l, residual, rows, k);
  else unaligned<64, 64>(x, l, residual, rows, k);
}
// For dozens of rows in f32: a block computes 16 outputs of 8 * R rows. Each wave takes 32 inputs in turn, so that it alone reads a line
// of every row: rows come through shared memory, weights straight. A lane computes R rows of 4 outputs from registers.
enum { COLUMN_LD = 36 };
template <int R, bool WIDE>
DEV void columns_of(const f32* x, const Layer<f32, f32>& l, const f32* residual, f32* part, u32 first, u32 count, u32 k) {
  enum { ROWS = 8 * R, OUTPUTS = ROWS * 16 };
  u32 lane = lane_id(), wave = thread_id() / WAVE, row = lane % 8, column = lane / 8;
  f32* own = part + wave * (ROWS * COLUMN_LD);
  const f32 *xr[R * 2], *wr[4];
  f32 sum[R][4];
  for (int j = 0; j < 4; j++) wr[j] = l.w + (u64)min_u(l.block * 16 + column + 4 * j, l.n - 1) * k;
  // A row's 32 inputs are 8 pieces of 16 bytes: the wave reads 4 rows at a time.
  for (int r = 0; r < R * 2; r++) xr[r] = x + (u64)(first + min_u(column + 4 * r, count - 1)) * k;
  for (int r = 0; r < R; r++) for (int j = 0; j < 4; j++) sum[r][j] = 0.f;
  for (u32 from = wave * 32; from < k; from += 256) {
    u32 end = min_u(from + 32, k), at = from + row * 4;
    for (int r = 0; r < R * 2; r++) {
      f32 v[4] = {0.f, 0.f, 0.f, 0.f};
      if (WIDE) { if (at < end) load_elements(xr[r] + at, v); }
      else for (u32 e = 0; e < 4; e++) v[e] = at + e < end ? xr[r][at + e] : 0.f;
      for (int e = 0; e < 4; e++) own[(column + 4 * r) * COLUMN_LD + row * 4 + e] = v[e];
    }
    wave_sync();
#pragma unroll 2
    for (u32 i = 0; i < end - from; i += 4) {
      f32 b[4][4];
      for (int j = 0; j < 4; j++) {
        if (WIDE) load_elements(wr[j] + from + i, b[j]);
        else for (u32 e = 0; e < 4; e++) b[j][e] = from + i + e < end ? wr[j][from + i + e] : 0.f;
      }
      for (int r = 0; r < R; r++) {
        f32 a[4];
        load_elements(own + (row + 8 * r) * COLUMN_LD + i, a);
        for (int e = 0; e < 4; e++)
          for (int j = 0; j < 4; j++) sum[r][j] = fma_(a[e], b[j][e], sum[r][j]);
      }
    }
    wave_sync();
  }
  block_sync();
  own = part + wave * OUTPUTS;
  for (int r = 0; r < R; r++) for (int j = 0; j < 4; j++) own[(row + 8 * r) * 16 + column + 4 * j] = sum[r][j];
  block_sync();
  for (u32 e = thread_id(); e < OUTPUTS; e += 256) {
    u32 m = e / 16, c = l.block * 16 + e % 16;
    if (m >= count || c >= l.n) continue;
    f32 total = 0.f;
    for (int w = 0; w < 8; w++) total += part[w * OUTPUTS + e];
    u64 at = (u64)(first + m) * l.n + c;
    l.y[at] = total + (l.bias ? l.bias[c] : 0.f) + (residual ? residual[at] : 0.f);
  }
}
template <class T>
DEV void linear_columns_body(const T* x, const T* w0, const T* w1, const T* w2, const T* b0, const T* b1, const T* b2, const T* residual, T* y0, T* y1,
                             T* y2, u32 rows, u32 n0, u32 n1, u32 n2, u32 k, u32 biased, u32 has_residual) {
  LDS(f32, part, 8 * 32 * COLUMN_LD);
  // Blocks of the same outputs follow each other: they find the weights in a cache.
  u32 parts = (rows + 31) / 32, first = block_x() % parts * 32, count = min_u(32, rows - first);
  Layer<T, T> l = layer_of<16>(w0, w1, w2, b0, b1, b2, y0, y1, y2, n0, n1, n2, biased, block_x() / parts);
  residual = has_residual ? residual : 0;
  if (k % 4 != 0 || !aligned_wide(x, l.w)) columns_of<4, false>(x, l, residual, part, first, count, k);
  else if (count <= 16) columns_of<2, true>(x, l, residual, part, first, count, k);
  else columns_of<4, true>(x, l, residual, part, first, count, k);
}
KERNELS_linear_rows
KERNELS_linear_columns
KERNELS_linear_tiles
KERNELS_linear_gate
KERNELS_gate
KERNELS_linear_block
KERNELS_linear_block64
