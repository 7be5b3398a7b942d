// softmax(cap(q k^T scale) + mask) v with an online softmax. A block takes 8 ROWS queries that read the same key head: 8 waves of
// ROWS queries each. Keys come 32 at a time, then their values, through shared memory: a lane scores one key, then sums a column.
#include "prelude.h"
enum { MASK_NONE, MASK_BOOL, MASK_F32, MASK_F16, MASK_BF16 };
enum { UNSEEN_ZERO, UNSEEN_MEAN, UNSEEN_NAN };
enum { CAUSAL = 1, LEFT = 2, RIGHT = 4, OFFSET = 8, GUARD = 16 };
// What a block attends to: keys of a past, then new ones.
template <class T> struct Sources {
  const T *k, *v, *past_k, *past_v;
  u64 k_row, v_row;
  u32 past, keys;
};
// Where a query stands: the keys from `from` to before `to` are seen, as far as the mask lets them.
struct Window { i64 from, to; };
template <int D, int ROWS> struct Attending {
  f32 most[ROWS], total[ROWS], sum[ROWS][D / WAVE];
  bool seen[ROWS];
};
// 32 rows of `width` elements to shared memory, rows D + 1 apart.
template <class T, int D>
DEV void attention_tile(f32* tile, const T* x, u64 row, const T* past_x, u32 past, u32 first, u32 count, u32 width) {
  for (u32 e = thread_id(); e < 32 * D; e += 256) {
    u32 key = e / D, c = e % D, j = first + key;
    if (key >= count || c >= width) continue;
    tile[key * (D + 1) + c] = to_f32(j < past ? past_x[(u64)j * width + c] : x[(u64)(j - past) * row + c]);
  }
}
DEV f32 attention_mask(const u8* mask, u32 kind, i64 at) {
  switch (kind) {
    case MASK_BOOL: return mask[at] ? 0.f : -infinity();
    case MASK_F32: return ((const f32*)mask)[at];
    case MASK_F16: return to_f32(((const f16*)mask)[at]);
    default: return to_f32(((const bf16*)mask)[at]);
  }
}
// `bias(r, j)` is what is added to the score of key j for the wave's query r: -inf where it is masked.
template <class T, int D, int ROWS, class B>
DEV void attend(Attending<D, ROWS>& a, const f32* q, f32* tile, f32* weights, const Sources<T>& s, u32 d, u32 dv, f32 scale,
                f32 cap, u32 rows, bool mean, B bias) {
  u32 wave = thread_id() / WAVE, lane = lane_id();
  for (u32 r = 0; r < ROWS; r++) {
    a.most[r] = -infinity();
    a.total[r] = 0.f;
    a.seen[r] = false;
    for (u32 c = 0; c < D / WAVE; c++) a.sum[r][c] = 0.f;
  }
  for (u32 first = 0; first < s.keys; first += 32) {
    u32 count = min_u(32, s.keys - first);
    attention_tile<T, D>(tile, s.k, s.k_row, s.past_k, s.past, first, count, d);
    block_sync();
    f32 score[ROWS];
    for (u32 r = 0; r < ROWS; r++) score[r] = 0.f;
    if (lane < count)
      for (u32 c = 0; c < d; c++) {
        f32 k = tile[lane * (D + 1) + c];
        for (u32 r = 0; r < ROWS; r++) score[r] = fma_(q[(r * 8 + wave) * D + c], k, score[r]);
      }
    for (u32 r = 0; r < ROWS; r++) {
      if (r * 8 + wave >= rows) break;
      f32 v = score[r] * scale, b = lane < count ? bias(r, first + lane) : -infinity();
      if (cap > 0.f) v = cap * tanh_(v / cap);
      v = lane < count ? v + b : -infinity();
      // NaN is left out of the maximum and comes back through the sum.
      f32 most = wave_max(v != v || v < a.most[r] ? a.most[r] : v);
      bool open = wave_max(b == -infinity() ? 0.f : 1.f) > 0.f;
      f32 shrink = most == a.most[r] ? 1.f : exp_(a.most[r] - most);
      f32 p = v == -infinity() ? 0.f : exp_(v - most);
      if (mean && !open && !a.seen[r]) { p = lane < count ? 1.f : 0.f; shrink = 1.f; }
      if (mean && open && !a.seen[r]) shrink = 0.f;
      a.seen[r] = a.seen[r] || open;
      a.most[r] = most;
      a.total[r] = a.total[r] * shrink + p;
      // What was summed under a lower maximum may be infinite, and then stays so unless it weighs nothing.
      for (u32 c = 0; c < D / WAVE; c++) a.sum[r][c] = shrink == 0.f ? 0.f : a.sum[r][c] * shrink;
      weights[(r * 8 + wave) * 32 + lane] = p;
    }
    block_sync();
    attention_tile<T, D>(tile, s.v, s.v_row, s.past_v, s.past, first, count, dv);
    block_sync();
    for (u32 j = 0; j < count; j++)
      for (u32 r = 0; r < ROWS; r++) {
        if (r * 8 + wave >= rows) break;
        f32 p = weights[(r * 8 + wave) * 32 + j];
        // A key that weighs nothing adds nothing, even if its value is not finite.
        if (p == 0.f) continue;
        for (u32 c = 0; c < D / WAVE; c++)
          if (c * WAVE + lane < dv) a.sum[r][c] = fma_(p, tile[j * (D + 1) + c * WAVE + lane], a.sum[r][c]);
      }
    block_sync();
  }
}
// strides: q, k, v, y by batch, head and row; mask by batch, head and row, and its columns.
template <class T, int D, int ROWS>
DEV void attention_rows(const T* q, const T* k, const T* v, const T* past_k, const T* past_v, const u8* mask, const u8* lengths, T* y,
                        u32 group, u32 kv_heads, u32 steps, u32 keys, u32 past, u32 d, u32 dv, i64 offset, i64 left, i64 right,
                        f32 scale, f32 cap, const Words<20>& by) {
  LDS(f32, tile, 32 * (D + 1));
  LDS(f32, queries, 8 * ROWS * D);
  LDS(f32, weights, 8 * ROWS * 32);
  u32 b = block_z(), kv = block_y(), first = block_x() * 8 * ROWS, rows = min_u(8 * ROWS, group * steps - first);
  u32 wave = thread_id() / WAVE, lane = lane_id();
  u32 kind = by.w[16], wide = by.w[17], unseen = by.w[18], flags = by.w[19], columns = by.w[15];
  for (u32 e = thread_id(); e < rows * D; e += 256) {
    u32 row = first + e / D, c = e % D;
    if (c < d) queries[e] = to_f32(q[(u64)b * by.w[0] + (u64)(kv * group + row / steps) * by.w[1] + (u64)(row % steps) * by.w[2] + c]);
  }
  Sources<T> s;
  s.k = k + (u64)b * by.w[3] + (u64)kv * by.w[4];
  s.v = v + (u64)b * by.w[6] + (u64)kv * by.w[7];
  s.k_row = by.w[5];
  s.v_row = by.w[8];
  s.past_k = past_k + ((u64)b * kv_heads + kv) * past * d;
  s.past_v = past_v + ((u64)b * kv_heads + kv) * past * dv;
  s.past = past;
  s.keys = keys;
  i64 length = !wide ? keys : wide == 8 ? ((const i64*)lengths)[b] : ((const i32*)lengths)[b];
  i64 start = flags & OFFSET ? offset : wide ? length - steps : 0;
  Window window[ROWS];
  i64 of_mask[ROWS];
  for (u32 r = 0; r < ROWS; r++) {
    u32 row = first + r * 8 + wave, head = kv * group + row / steps, step = row % steps;
    i64 at = start + step, to = wide ? length : keys;
    if (flags & CAUSAL && at + 1 < to) to = at + 1;
    if (flags & RIGHT && at + right + 1 < to) to = at + right + 1;
    window[r].from = flags & LEFT ? at - left : 0;
    window[r].to = to;
    of_mask[r] = ((i64)b * by.w[12] + (i64)head * by.w[13] + (i64)step * by.w[14]) * columns;
  }
  Attending<D, ROWS> a;
  attend<T, D, ROWS>(a, queries, tile, weights, s, d, dv, scale, cap, rows, unseen == UNSEEN_MEAN, [&](u32 r, u32 j) {
    if ((i64)j < window[r].from || (i64)j >= window[r].to) return -infinity();
    if (kind == MASK_NONE) return 0.f;
    if (columns != 1 && j >= columns) return -infinity();
    return attention_mask(mask, kind, of_mask[r] + (columns == 1 ? 0 : j));
  });
  for (u32 r = 0; r < ROWS; r++) {
    u32 row = first + r * 8 + wave;
    if (r * 8 + wave >= rows) break;
    f32 total = wave_sum(a.total[r]);
    bool empty = keys == 0 || (!a.seen[r] && unseen == UNSEEN_ZERO);
    if (a.seen[r] ? a.most[r] == -infinity() : unseen == UNSEEN_NAN) total = not_a_number();
    if (flags & GUARD && total != total) empty = true;
    T* to = y + (u64)b * by.w[9] + (u64)(kv * group + row / steps) * by.w[10] + (u64)(row % steps) * by.w[11];
    for (u32 c = 0; c < D / WAVE; c++)
      if (c * WAVE + lane < dv) from_f32(to[c * WAVE + lane], empty ? 0.f : a.sum[r][c] / total);
  }
}
#define ATTENTION(D, ROWS)                                                                                                        \
  template <class T>                                                                                                             \
  DEV void attention##D##_body(const T* q, const T* k, const T* v, const T* past_k, const T* past_v, const u8* mask,             \
                               const u8* lengths, T* y, u32 batch, u32 group, u32 kv_heads, u32 steps, u32 keys, u32 past, u32 d, \
                               u32 dv, i64 mask_bytes, i64 lengths_bytes, i64 offset, i64 left, i64 right, f32 scale, f32 cap,   \
                               const Words<20> by) {                                                                             \
    attention_rows<T, D, ROWS>(q, k, v, past_k, past_v, mask, lengths, y, group, kv_heads, steps, keys, past, d, dv, offset,     \
                               left, right, scale, cap, by);                                                                     \
  }
ATTENTION(64, 4)
ATTENTION(128, 4)
ATTENTION(256, 1)
KERNELS_attention64
KERNELS_attention128
KERNELS_attention256
