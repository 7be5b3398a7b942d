// Products by matrix instructions. A wave reads 32 inputs of 16 rows at once, in whichever order the platform likes best: both
// factors are read in the same one, so that the sum is the same. FRAG_ROWS rows of a tile are this lane's: frag_row(0), ...
#pragma once
template <class T> struct RowPointers { const T* p[FRAG_ROWS]; };
// AHEAD times 32 inputs, 256 apart: all weights are asked for before the first is used.
template <int AHEAD, int TILES, class T>
DEV void stream_step(const RowPointers<T>& w, const RowPointers<T> (&x)[TILES], u32 k, Acc (&sum)[TILES]) {
  Frag<T> a[AHEAD][2], b[2];
  for (int s = 0; s < AHEAD; s++) frag_load_wide(a[s], w.p, k + s * 256);
  for (int s = 0; s < AHEAD; s++)
    for (int t = 0; t < TILES; t++) {
      frag_load_wide(b, x[t].p, k + s * 256);
      tile_mma(sum[t], a[s][0], b[0]);
      tile_mma(sum[t], a[s][1], b[1]);
    }
}
// The weights of 16 outputs against TILES * 16 rows; the 8 waves of the block take 32 inputs each in turn.
template <int TILES, class T>
DEV void stream_tiles(const RowPointers<T>& w, const RowPointers<T> (&x)[TILES], u32 k, Acc (&sum)[TILES]) {
  for (int t = 0; t < TILES; t++) acc_zero(sum[t]);
  enum { AHEAD = TILES == 4 ? 2 : 4 };
  u32 i = thread_id() / WAVE * 32;
  for (; i + 256 * (AHEAD - 1) < k; i += 256 * AHEAD) stream_step<AHEAD>(w, x, i, sum);
  for (; i < k; i += 256) stream_step<1>(w, x, i, sum);
}
// The same for two weights that meet the same rows.
template <int AHEAD, int TILES, class T>
DEV void stream_step_two(const RowPointers<T>& w, const RowPointers<T>& v, const RowPointers<T> (&x)[TILES], u32 k, Acc (&g)[TILES],
                         Acc (&u)[TILES]) {
  Frag<T> a[AHEAD][2], c[AHEAD][2], b[2];
  for (int s = 0; s < AHEAD; s++) {
    frag_load_wide(a[s], w.p, k + s * 256);
    frag_load_wide(c[s], v.p, k + s * 256);
  }
  for (int s = 0; s < AHEAD; s++)
    for (int t = 0; t < TILES; t++) {
      frag_load_wide(b, x[t].p, k + s * 256);
      tile_mma(g[t], a[s][0], b[0]);
      tile_mma(u[t], c[s][0], b[0]);
      tile_mma(g[t], a[s][1], b[1]);
      tile_mma(u[t], c[s][1], b[1]);
    }
}
template <int TILES, class T>
DEV void stream_two(const RowPointers<T>& w, const RowPointers<T>& v, const RowPointers<T> (&x)[TILES], u32 k, Acc (&g)[TILES],
                    Acc (&u)[TILES]) {
  for (int t = 0; t < TILES; t++) { acc_zero(g[t]); acc_zero(u[t]); }
  u32 i = thread_id() / WAVE * 32;
  for (; i + 256 < k; i += 512) stream_step_two<2>(w, v, x, i, g, u);
  for (; i < k; i += 256) stream_step_two<1>(w, v, x, i, g, u);
}
// The sums of the 8 waves: `part` holds 8 * TILES * 256, and then, from the front, [TILES * 16 rows][16 outputs].
template <int TILES> DEV void sum_waves(const Acc (&sum)[TILES], f32* part) {
  u32 t = thread_id();
  f32* own = part + t / WAVE * (TILES * 256);
  for (int tile = 0; tile < TILES; tile++)
    for (u32 i = 0; i < 8; i++) own[(tile * 16 + acc_col(i)) * 16 + acc_row(i)] = acc_get(sum[tile], i);
  block_sync();
  for (int tile = 0; tile < TILES; tile++) {
    f32 total = 0.f;
    for (int wave = 0; wave < 8; wave++) total += part[wave * (TILES * 256) + tile * 256 + t];
    part[tile * 256 + t] = total;
  }
  block_sync();
}
// Two neighbouring elements of 16 bits, at a multiple of 4 bytes.
template <class T> DEV void store_pair(T* p, const T (&v)[2]) {
  union { T t[2]; u32 w; } u;
  u.t[0] = v[0];
  u.t[1] = v[1];
  *(u32*)p = u.w;
}
// 16 bytes at a time from memory to shared memory while a block computes. A step's PIECES are asked for AHEAD steps before they
// are needed. Where the platform has no such copies of its own, they wait in registers, and shared memory holds two steps.
#ifndef COPIES_OF_ITS_OWN
template <int AHEAD, int PIECES> struct Copies {
  enum { STAGES = 2 };
  Wide held[AHEAD][PIECES];
  template <class T> DEV_MEMBER void ask(u32 slot, int piece, T*, const T* from) { held[slot][piece] = load_wide(from); }
  DEV_MEMBER void asked() {}
  template <class T> DEV_MEMBER void land(u32 slot, int piece, T* to) { store_wide(to, held[slot][piece]); }
  DEV_MEMBER void landed() {}
};
#endif
// Whether memory can be read 16 bytes at a time.
DEV bool aligned_wide(const void* a, const void* b) { return (((u64)a | (u64)b) & 15) == 0; }
// Multiplies element i of a tile.
DEV void acc_scale(Acc& a, u32 i, f32 by) { a.v[i] = by == 0.f ? 0.f : a.v[i] * by; }
