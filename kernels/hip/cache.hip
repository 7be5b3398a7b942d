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
    if (flags & (SINKS | SMOOTH)) all += exp_(sink - m);
    u64 at = flags & INSIDE ? ((u64)b * steps + step) * heads + head : ((u64)b * heads + head) * steps + step;
    from_f32(y[at * dv + c], (i64)step < s.count ? value / all : 0.f);
  }
}
// For prompts, by matrix instructions: a block takes 64 queries that read the same key head, and KEYS keys at a time. Scores go through shared
// memory, where four lanes share a row; the weights take their place. A wave computes 16 rows of half of the columns.
template <class T, int D, int KEYS>
DEV void cached_tiles(const T* q, const T* keys, const T* values, const i32* slots, const i32* lengths, const i32* counts, const T* sinks, T* y, u32 group,
                      u32 kv_heads, u32 steps, u32 slot_count, u32 capacity, u32 d, u32 dv, i64 left, f32 scale, f32 cap, u32 flags,
                      Report* report) {
  enum { ROWS = 64, KEY_LD = D + 8, VALUE_LD = KEYS + 8, SCORE_LD = KEYS + 4, WEIGHT_LD = 2 * SCORE_LD, ACROSS = KEYS / 32, WIDTH = D / 32 };
  LDS(T, sq, ROWS * KEY_LD);
  LDS(T, sk, KEYS * KEY_LD);
  LDS(T, sv, D * VALUE_LD);
  LDS(f32, scores, ROWS * SCORE_LD);
  LDS(f32, state, 2 * ROWS);
  LDS(u32, strange, 2);
  T* weights = (T*)scores;
  u32 b = block_z(), kv = block_y(), first = block_x() * ROWS, t = thread_id(), wave = t / WAVE, heads = group * kv_heads;
  u32 rows = min_u(ROWS, group * steps - first), row0 = wave / 2 * 16, half = wave % 2;
  Sequence s = sequence_of(slots, lengths, counts, b, slot_count, capacity, steps, report);
  const T* kr = keys + ((u64)s.slot * kv_heads + kv) * capacity * d;
  const T* vr = values + ((u64)s.slot * kv_heads + kv) * capacity * dv;
  bool wide = aligned_wide(q, kr) && aligned_wide(vr, vr);
  auto piece = [&](const T* from) {
    if (wide) return load_wide(from);
    Wide v;
    for (int i = 0; i < 4; i++) v.w[i] = (u32)((const u16*)from)[2 * i] | (u32)((const u16*)from)[2 * i + 1] << 16;
    return v;
  };
  auto place = [&](u32 row) {
    u32 at = first + min_u(row, rows - 1), head = kv * group + at / steps, step = at % steps;
    return flags & INSIDE ? ((u64)b * steps + step) * heads + head : ((u64)b * heads + head) * steps + step;
  };
  for (u32 e = t; e < ROWS * (D / 8); e += 256) {
    u32 row = e / (D / 8), c = e % (D / 8) * 8;
    Wide v = {{0, 0, 0, 0}};
    if (c < d) v = piece(q + place(row) * d + c);
    store_wide(sq + row * KEY_LD + c, v);
  }
  if (t < 2) strange[t] = 0;
  // The keys that some query of the block sees; then those of this lane's own row.
  u32 last = first + rows - 1, count = (u32)s.count;
  bool whole = first / steps == last / steps;
  u32 least = whole ? first % steps : 0, most_step = min_u(whole ? last % steps : steps - 1, count - 1);
  i64 high = count > least ? s.length + most_step + 1 : 0, low = left >= 0 && s.length + least > left ? s.length + least - left : 0;
  u32 row = t / 4, quarter = t % 4, own = (first + min_u(row, rows - 1)) % steps;
  i64 to = own < count ? s.length + own + 1 : 0, from = left >= 0 && to - 1 > left ? to - 1 - left : 0;
  f32 most = -infinity(), total = 0.f;
  Acc sum[WIDTH];
  for (int j = 0; j < WIDTH; j++) acc_zero(sum[j]);
  u32 turn = 0;
  block_sync();
  for (i64 at = low; at < high; at += KEYS, turn ^= 1) {
    u32 n = high - at < KEYS ? (u32)(high - at) : KEYS;
    for (u32 e = t; e < KEYS * (D / 8); e += 256) {
      u32 key = e / (D / 8), c = e % (D / 8) * 8;
      Wide v = {{0, 0, 0, 0}};
      if (key < n && c < d) v = piece(kr + (u64)(at + key) * d + c);
      store_wide(sk + key * KEY_LD + c, v);
      // Values lie by columns; what is not finite is added afterwards, where it weighs something.
      key = e % KEYS;
      c = e / KEYS * 8;
      Wide x = {{0, 0, 0, 0}};
      if (key < n && c < dv) x = piece(vr + (u64)(at + key) * dv + c);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        T value = of_bits<T>((u16)(x.w[i / 2] >> i % 2 * 16));
        f32 f = to_f32(value);
        if (f - f != 0.f) { strange[turn] = 1; value = of_bits<T>(0); }
        sv[(c + i) * VALUE_LD + key] = value;
      }
    }
    block_sync();
    if (t == 0) strange[turn ^ 1] = 0;
    Frag<T> a[2], o[2];
    RowPointers<T> p;
    Acc score[ACROSS];
    for (int j = 0; j < ACROSS; j++) acc_zero(score[j]);
    for (u32 k = 0; k < D; k += 32) {
      for (int i = 0; i < FRAG_ROWS; i++) p.p[i] = sq + (row0 + frag_row(i)) * KEY_LD;
      frag_load_wide(a, p.p, k);
      for (int j = 0; j < ACROSS; j++) {
        for (int i = 0; i < FRAG_ROWS; i++) p.p[i] = sk + (half * (KEYS / 2) + j * 16 + frag_row(i)) * KEY_LD;
        frag_load_wide(o, p.p, k);
        tile_mma(score[j], a[0], o[0]);
        tile_mma(score[j], a[1], o[1]);
      }
    }
    for (int j = 0; j < ACROSS; j++)
      for (u32 i = 0; i < 8; i++)
        scores[(row0 + acc_row(i)) * SCORE_LD + half * (KEYS / 2) + j * 16 + acc_col(i)] = acc_get(score[j], i);
    block_sync();
    bool odd = strange[turn] != 0;
    f32 v[KEYS / 4], m = most, part = 0.f;
    for (u32 i = 0; i < KEYS / 4; i++) {
      i64 key = at + i * 4 + quarter;
      v[i] = scores[row * SCORE_LD + i * 4 + quarter] * scale;
      if (cap > 0.f) v[i] = cap * tanh_(v[i] / cap);
      if (key < from || key >= to) v[i] = -infinity();
      // NaN is left out of the maximum and comes back through the sum.
      if (v[i] > m) m = v[i];
    }
    f32 other = shuffle_xor<1>(m);
    m = other > m ? other : m;
    other = shuffle_xor<2>(m);
    m = other > m ? other : m;
    for (u32 i = 0; i < KEYS / 4; i++) {
      v[i] = v[i] == -infinity() ? 0.f : exp_(v[i] - m);
      part += v[i];
    }
    part += shuffle_xor<1>(part);
    part += shuffle_xor<2>(part);
    f32 shrink = m == most ? 1.f : exp_(most - m);
    total = total * shrink + part;
    most = m;
    wave_sync();
    for (u32 i = 0; i < KEYS / 4; i++) {
      T w;
      from_f32(w, v[i]);
      // What weighs something must still do so when it meets an infinity.
      if (odd && v[i] > 0.f && to_f32(w) == 0.f) w = of_bits<T>(1);
      weights[row * WEIGHT_LD + i * 4 + quarter] = w;
    }
    if (quarter == 0) state[row] = shrink;
    block_sync();
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
      f32 by = state[row0 + acc_row(i)];
      for (int j = 0; j < WIDTH; j++) acc_scale(sum[j], i, by);
    }
    for (u32 k = 0; k < KEYS; k += 32) {
      for (int i = 0; i < FRAG_ROWS; i++) p.p[i] = weights + (row0 + frag_row(i)) * WEIGHT_LD;
      frag_load_wide(a, p.p, k);
      for (int j = 0; j < WIDTH; j++) {
        for (int i = 0; i < FRAG_ROWS; i++) p.p[i] = sv + (half * (D / 2) + j * 16 + frag_row(i)) * VALUE_LD;
        frag_load_wide(o, p.p, k);
        tile_mma(sum[j], a[0], o[0]);
        tile_mma(sum[j], a[1], o[1]);
      }
    }
    if (odd)
#pragma unroll
      for (int j = 0; j < WIDTH; j++)
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
          u32 c = half * (D / 2) + j * 16 + acc_col(i);
          f32 more = 0.f;
          for (u32 key = 0; key < n && c < dv; key++) {
            f32 w = to_f32(weights[(row0 + acc_row(i)) * WEIGHT_LD + key]), x = to_f32(vr[(u64)(at + key) * dv + c]);
            if (x - x != 0.f && w != 0.f) more = fma_(w, x, more);
          }
          sum[j].v[i] += more;
        }
    block_sync();
  }
  if (quarter == 0) {
    u32 head = kv * group + (first + min_u(row, rows - 1)) / steps;
    f32 sink = flags & SINKS ? to_f32(sinks[head]) : flags & SMOOTH ? 0.f : -infinity();
    f32 m = most > sink ? most : sink, shrink = most == m ? 1.f : exp_(most - m);
    f32 all = total * shrink;
    if (flags & (SINKS | SMOOTH)) all += exp_(sink - m);
    state[row] = shrink;
    state[ROWS + row] = all;
  }
  block_sync();
#pragma unroll
  for (int j = 0; j < WIDTH; j++)
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
      u32 r = row0 + acc_row(i), c = half * (D / 2) + j * 16 + acc_col(i);
      if (r >= rows || c >= dv) continue;
      f32 shrink = state[r], value = shrink == 0.f ? 0.f : acc_get(sum[j], i) * shrink;
      from_f32(y[place(r) * dv + c], (first + r) % steps < count ? value / state[ROWS + r] : 0.f);
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
#define CACHED_TILES(D, KEYS)                                                                                                       \
  template <class T>                                                                                                               \
  DEV void cached_tiles##D##_body(const T* q, const T* keys, const T* values, const i32* slots, const i32* lengths,                  \
                                  const i32* counts, const T* sinks, T* y, u32 batch, u32 group, u32 kv_heads, u32 steps,            \
                                  u32 slot_count, u32 capacity, u32 d, u32 dv, u32 sink_count, i64 left, f32 scale, f32 cap,         \
                                  u32 flags, Report* report) {                                                                     \
    cached_tiles<T, D, KEYS>(q, keys, values, slots, lengths, counts, sinks, y, group, kv_heads, steps, slot_count, capacity, d, dv, \
                             left, scale, cap, flags, report);                                                                     \
  }
CACHED(64, 4)
CACHED(128, 4)
CACHED(256, 2)
KERNELS_kv_write
KERNELS_rope_kv_write
CACHED_TILES(64, 64)
CACHED_TILES(128, 32)
KERNELS_cached64
KERNELS_cached128
KERNELS_cached256
KERNELS_cached_tiles64
KERNELS_cached_tiles128
