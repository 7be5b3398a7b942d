// Caches of keys and values, [slots, heads, capacity, width]: new rows of a batch of sequences are written behind their old ones, and
// queries attend to what their slot holds.
#include "prelude.h"
// Where sequence b is. Whatever does not fit the caches is reported, and treated as having no rows.
struct Sequence { i64 slot, length, count; };
DEV Sequence sequence_of(const i32* slots, const i32* lengths, const i32* counts, u32 b, u32 slot_count, u32 capacity, u32 steps, Report* report) {
  Sequence s = {slots[b], lengths[b], counts[b]};
  if (s.slot < 0 || s.slot >= slot_count) { report_index(report, s.slot); return {0, 0, 0}; }
  if (s.length < 0 || s.count < 0 || s.count > steps || s.length + s.count > capacity) { report_index(report, s.length + s.count); return {0, 0, 0}; }
  return s;
}
// Rows [batch, heads, steps, width], with `inside` [batch, steps, heads, width], to one cache; a thread for each element.
template <class T>
DEV void write_rows(const T* rows, T* cache, const i32* slots, const i32* lengths, const i32* counts, u32 heads, u32 width, u32 i, u32 batch,
                    u32 steps, u32 slot_count, u32 capacity, u32 inside, Report* report) {
  if (i >= batch * heads * steps * width) return;
  u32 c = i % width, row = i / width;
  u32 step = inside ? row / heads % steps : row % steps, head = inside ? row % heads : row / steps % heads, b = row / (heads * steps);
  Sequence s = sequence_of(slots, lengths, counts, b, slot_count, capacity, steps, report);
  if ((i64)step < s.count) cache[(((u64)s.slot * heads + head) * capacity + (u64)s.length + step) * width + c] = rows[i];
}
// Two caches of a layer at once, those of keys and of values; the second may be empty.
template <class T>
DEV void kv_write_body(const i32* slots, const i32* lengths, const i32* counts, const T* k, const T* v, T* keys, T* values, u32 batch, u32 steps,
                       u32 slot_count, u32 capacity, u32 k_heads, u32 k_width, u32 v_heads, u32 v_width, u32 k_inside, u32 v_inside, u32 most,
                       Report* report) {
  u32 i = block_x() * 256 + thread_id();
  if (block_y() == 0) write_rows(k, keys, slots, lengths, counts, k_heads, k_width, i, batch, steps, slot_count, capacity, k_inside, report);
  else write_rows(v, values, slots, lengths, counts, v_heads, v_width, i, batch, steps, slot_count, capacity, v_inside, report);
}
// Two caches of a layer at once, with keys turned on their way, and the queries turned. Bits of `inside` say whose heads lie inside steps: keys',
// values', queries'.
template <class T, class C, class P>
DEV void rope_kv_write_body(const i32* slots, const i32* lengths, const i32* counts, const T* k, const T* v, const T* q, const C* cos, const C* sin,
                            const P* positions, T* keys, T* values, T* y, u32 batch, u32 steps, u32 slot_count, u32 capacity, u32 k_heads,
                            u32 k_width, u32 v_heads, u32 v_width, u32 q_heads, u32 half, u32 rows, u32 places, u32 inside, u32 interleaved,
                            u32 most, Report* report) {
  u32 i = block_x() * 256 + thread_id();
  if (block_y() == 1) return write_rows(v, values, slots, lengths, counts, v_heads, v_width, i, batch, steps, slot_count, capacity, inside >> 1 & 1, report);
  bool queries = block_y() == 2;
  u32 heads = queries ? q_heads : k_heads;
  if (i >= batch * heads * steps * k_width) return;
  u32 e = i % k_width, row = i / k_width, b = row / (heads * steps);
  bool within = inside >> (queries ? 2 : 0) & 1;
  u32 step = within ? row / heads % steps : row % steps, head = within ? row % heads : row / steps % heads;
  i64 at = table_row(positions, b, step, steps, rows, places, report);
  if (at < 0) return;
  f32 value = turned((queries ? q : k) + (i - e), cos, sin, e, half, at, interleaved);
  if (queries) { from_f32(y[i], value); return; }
  Sequence s = sequence_of(slots, lengths, counts, b, slot_count, capacity, steps, report);
  if ((i64)step < s.count) from_f32(keys[(((u64)s.slot * heads + head) * capacity + (u64)s.length + step) * k_width + e], value);
}
enum { SINKS = 1, SMOOTH = 2, INSIDE = 4 };
// A block takes R queries that read the same key head; its 8 waves take 32 keys each in turn, and are joined at the end. A lane
// scores one key, then sums D / 32 columns of the values.
template <class T, int D, int R>
DEV void cached_rows(const T* q, const T* keys, const T* values, const i32* slots, const i32* lengths, const i32* counts, const T* sinks, T* y, u32 group,
                     u32 kv_heads, u32 steps, u32 slot_count, u32 capacity, u32 d, u32 dv, i64 left, f32 scale, f32 cap, u32 flags,
                     Report* report) {
  enum { C = D / WAVE, PART = D + 2 };
  LDS(f32, query, R * D);
  LDS(f32, part, 8 * R * PART);
  u32 b = block_z(), kv = block_y(), first = block_x() * R, t = thread_id(), wave = t / WAVE, lane = lane_id();
  u32 heads = group * kv_heads, rows = min_u(R, group * steps - first);
  Sequence s = sequence_of(slots, lengths, counts, b, slot_count, capacity, steps, report);
  for (u32 e = t; e < R * D; e += 256) {
    u32 row = first + min_u(e / D, rows - 1), c = e % D, head = kv * group + row / steps, step = row % steps;
    u64 at = flags & INSIDE ? ((u64)b * steps + step) * heads + head : ((u64)b * heads + head) * steps + step;
    query[e] = c < d ? to_f32(q[at * d + c]) : 0.f;
  }
  block_sync();
  i64 from[R], to[R], low = capacity, high = 0;
  for (int r = 0; r < R; r++) {
    i64 step = (first + min_u(r, rows - 1)) % steps;
    to[r] = step < s.count ? s.length + step + 1 : 0;
    from[r] = left >= 0 && to[r] - 1 > left ? to[r] - 1 - left : 0;
    if (from[r] < low) low = from[r];
    if (to[r] > high) high = to[r];
  }
  const T* kr = keys + ((u64)s.slot * kv_heads + kv) * capacity * d;
  const T* vr = values + ((u64)s.slot * kv_heads + kv) * capacity * dv;
  bool wide = d % 8 == 0 && aligned_wide(kr, kr);
  f32 most[R], total[R], sum[R][C];
  for (int r = 0; r < R; r++) {
    most[r] = -infinity();
    total[r] = 0.f;
    for (int c = 0; c < C; c++) sum[r][c] = 0.f;
  }
  for (i64 at = low + wave * 32; at < high; at += 256) {
    i64 key = at + lane;
    u32 count = high - at < 32 ? (u32)(high - at) : 32;
    f32 p[R];
    for (int r = 0; r < R; r++) p[r] = 0.f;
    if (lane < count) {
      const T* x = kr + (u64)key * d;
      if (wide) {
#pragma unroll 4
        for (u32 c = 0; c < d; c += 8) {
          f32 k[8];
          load_elements(x + c, k);
          for (int r = 0; r < R; r++)
            for (int i = 0; i < 8; i++) p[r] = fma_(query[r * D + c + i], k[i], p[r]);
        }
      } else {
        for (u32 c = 0; c < d; c++) {
          f32 k = to_f32(x[c]);
          for (int r = 0; r < R; r++) p[r] = fma_(query[r * D + c], k, p[r]);
        }
      }
    }
    for (int r = 0; r < R; r++) {
      f32 v = p[r] * scale;
      if (cap > 0.f) v = cap * tanh_(v / cap);
      bool seen = lane < count && key >= from[r] && key < to[r];
      if (!seen) v = -infinity();
      // NaN is left out of the maximum and comes back through the sum.
      f32 m = wave_max(v != v || v < most[r] ? most[r] : v);
      f32 shrink = m == most[r] ? 1.f : exp_(most[r] - m);
      p[r] = v == -infinity() ? 0.f : exp_(v - m);
      most[r] = m;
      total[r] = total[r] * shrink + p[r];
      for (int c = 0; c < C; c++) sum[r][c] = shrink == 0.f ? 0.f : sum[r][c] * shrink;
    }
    for (u32 j0 = 0; j0 < count; j0 += 8) {
      // Eight rows are asked for before the first is used; those beyond the last weigh nothing.
      f32 v[8][C];
      for (int j = 0; j < 8; j++)
        for (int c = 0; c < C; c++) {
          u32 column = c * WAVE + lane;
          v[j][c] = column < dv ? to_f32(vr[(u64)(at + min_u(j0 + j, count - 1)) * dv + column]) : 0.f;
        }
      for (int j = 0; j < 8; j++)
        for (int r = 0; r < R; r++) {
          f32 w = shuffle(p[r], (i32)(j0 + j));
          // A key that weighs nothing adds nothing, even if its value is not finite.
          if (w == 0.f) continue;
          for (int c = 0; c < C; c++) sum[r][c] = fma_(w, v[j][c], sum[r][c]);
        }
    }
  }
  for (int r = 0; r < R; r++) {
    f32* own = part + (wave * R + r) * PART;
    f32 all = wave_sum(total[r]);
    if (lane == 0) { own[0] = most[r]; own[1] = all; }
    for (int c = 0; c < C; c++) own[2 + c * WAVE + lane] = sum[r][c];
  }
  block_sync();
  for (u32 e = t; e < rows * dv; e += 256) {
    u32 r = e / dv, c = e % dv, row = first + r, head = kv * group + row / steps, step = row % steps;
    f32 sink = flags & SINKS ? to_f32(sinks[head]) : flags & SMOOTH ? 0.f : -infinity();
    f32 m = sink, all = 0.f, value = 0.f;
    for (u32 w = 0; w < 8; w++) m = part[(w * R + r) * PART] > m ? part[(w * R + r) * PART] : m;
    for (u32 w = 0; w < 8; w++) {
      const f32* own = part + (w * R + r) * PART;
      f32 shrink = own[0] == m ? 1.f : exp_(own[0] - m);
      all += own[1] * shrink;
      if (shrink != 0.f) value += own[2 + c] * shrink;
    }
    if (flags & (SINKS | SMOOTH)) all += sink == m ? 1.f : exp_(sink - m);
    u64 at = flags & INSIDE ? ((u64)b * steps + step) * heads + head : ((u64)b * heads + head) * steps + step;
    from_f32(y[at * dv + c], (i64)step < s.count ? value / all : 0.f);
  }
}
#define CACHED(D, R)                                                                                                                \
  template <class T>                                                                                                               \
  DEV void cached##D##_body(const T* q, const T* keys, const T* values, const i32* slots, const i32* lengths, const i32* counts,     \
                            const T* sinks, T* y, u32 batch, u32 group, u32 kv_heads, u32 steps, u32 slot_count, u32 capacity, u32 d, \
                            u32 dv, u32 sink_count, i64 left, f32 scale, f32 cap, u32 flags, Report* report) {                     \
    cached_rows<T, D, R>(q, keys, values, slots, lengths, counts, sinks, y, group, kv_heads, steps, slot_count, capacity, d, dv,     \
                         left, scale, cap, flags, report);                                                                         \
  }
CACHED(64, 4)
CACHED(128, 4)
CACHED(256, 2)
KERNELS_kv_write
KERNELS_rope_kv_write
KERNELS_cached64
KERNELS_cached128
KERNELS_cached256
