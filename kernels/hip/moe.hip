// Mixture of experts: the router, the pairs of token and expert sorted by expert, and products that read rows in place.
#include "prelude.h"
enum { SOFTMAX, SIGMOID, CHOSEN };
// Whether expert i with score a comes before expert j with score b: NaN is the greatest, of equal ones the lower number.
DEV bool before(f32 a, u32 i, f32 b, u32 j) {
  bool na = a != a, nb = b != b;
  if (na || nb) return na && (!nb || i < j);
  return a > b || (a == b && i < j);
}
// The experts of one row of logits and their weights, by a wave: `scores` and `used` hold an element for each expert, `chosen` k. All
// waves of a block call it alike; those that have no row of their own write nothing.
template <class T>
DEV void route_row(const T* x, const T* bias, i32* ids, T* weights, bool writes, u32 experts, u32 k, u32 score, u32 renormalise, u32 has_bias,
                   f32 eps, f32 scale, f32* scores, u32* used, f32* chosen) {
  u32 t = lane_id();
  f32 largest = -infinity(), sum = 0.f;
  if (score == SOFTMAX) {
    for (u32 e = t; e < experts; e += WAVE) { f32 v = to_f32(x[e]); largest = v > largest ? v : largest; }
    largest = wave_max(largest);
    for (u32 e = t; e < experts; e += WAVE) sum += exp_(to_f32(x[e]) - largest);
    sum = wave_sum(sum);
  }
  for (u32 e = t; e < experts; e += WAVE) {
    f32 v = to_f32(x[e]);
    if (score == SOFTMAX) v = exp_(v - largest) / sum;
    if (score == SIGMOID) v = sigmoid_(v);
    T rounded;
    from_f32(rounded, v);
    scores[e] = to_f32(rounded);
    used[e] = 0;
  }
  block_sync();
  for (u32 c = 0; c < k; c++) {
    f32 best = 0.f;
    u32 at = experts;
    for (u32 e = t; e < experts; e += WAVE) {
      f32 v = scores[e] + (has_bias ? to_f32(bias[e]) : 0.f);
      if (!used[e] && (at == experts || before(v, e, best, at))) { best = v; at = e; }
    }
    for (u32 step = 0; step < 5; step++) {
      f32 other;
      i32 where;
      switch (step) {
        case 0: other = shuffle_xor<1>(best); where = shuffle_xor<1>((i32)at); break;
        case 1: other = shuffle_xor<2>(best); where = shuffle_xor<2>((i32)at); break;
        case 2: other = shuffle_xor<4>(best); where = shuffle_xor<4>((i32)at); break;
        case 3: other = shuffle_xor<8>(best); where = shuffle_xor<8>((i32)at); break;
        default: other = shuffle_xor<16>(best); where = shuffle_xor<16>((i32)at); break;
      }
      if ((u32)where < experts && (at == experts || before(other, (u32)where, best, at))) { best = other; at = (u32)where; }
    }
    if (t == 0) {
      used[at] = 1;
      chosen[c] = scores[at];
      if (writes) ids[c] = (i32)at;
    }
    block_sync();
  }
  if (t != 0) return;
  if (score == CHOSEN) {
    f32 most = -infinity(), total = 0.f;
    for (u32 c = 0; c < k; c++) most = chosen[c] > most ? chosen[c] : most;
    for (u32 c = 0; c < k; c++) { chosen[c] = exp_(chosen[c] - most); total += chosen[c]; }
    for (u32 c = 0; c < k; c++) chosen[c] /= total;
  }
  f32 divisor = 1.f;
  if (renormalise) {
    divisor = 0.f;
    for (u32 c = 0; c < k; c++) divisor += chosen[c];
    divisor += eps;
  }
  for (u32 c = 0; c < k; c++) if (writes) from_f32(weights[c], chosen[c] / divisor * scale);
}
// A wave per row of logits; at most 1024 experts, at most 64 chosen.
template <class T>
DEV void moe_route_body(const T* logits, const T* bias, i32* ids, T* weights, u32 rows, u32 experts, u32 k, u32 score, u32 renormalise,
                        u32 has_bias, f32 eps, f32 scale) {
  LDS(f32, scores, 1024);
  LDS(u32, used, 1024);
  LDS(f32, chosen, 64);
  u64 row = block_x();
  route_row(logits + row * experts, bias, ids + row * k, weights + row * k, true, experts, k, score, renormalise, has_bias, eps, scale, scores,
            used, chosen);
}
// Where pair p lies, for the pairs of expert e in their order: the first goes to place `next`, of which there is `pairs`.
template <class I> DEV void list_pairs(const I* ids, i32* rows, u32 e, u32 next, u32 pairs, u32 experts) {
  u32 lane = lane_id();
  for (u32 first = 0; first < pairs; first += WAVE) {
    u32 p = first + lane;
    i64 id = p < pairs ? (i64)ids[p] : -1 - (i64)experts;
    bool own = (id < 0 ? id + experts : id) == (i64)e;
    u32 all = ballot(own);
    if (own) rows[next + count_bits(all & ((1u << lane) - 1))] = (i32)p;
    next += count_bits(all);
  }
}
// Both at once for few rows, by one block: its 8 waves take a row each in turn, then an expert each.
template <class T>
DEV void moe_route_index_body(const T* logits, const T* bias, i32* ids, T* weights, i32* rows, i32* offsets, u32 count, u32 experts, u32 k, u32 score,
                              u32 renormalise, u32 has_bias, f32 eps, f32 scale) {
  LDS(f32, scores, 8 * 256);
  LDS(u32, used, 8 * 256);
  LDS(f32, chosen, 8 * 64);
  LDS(i32, all, 1024);
  u32 wave = thread_id() / WAVE, lane = lane_id(), pairs = count * k;
  for (u32 first = 0; first < count; first += 8) {
    bool writes = first + wave < count;
    u64 row = min_u(first + wave, count - 1);
    route_row(logits + row * experts, bias, all + row * k, weights + row * k, writes, experts, k, score, renormalise, has_bias, eps, scale,
              scores + wave * 256, used + wave * 256, chosen + wave * 64);
    block_sync();
  }
  for (u32 p = thread_id(); p < pairs; p += 256) ids[p] = all[p];
  for (u32 e = wave; e <= experts; e += 8) {
    u32 next = 0;
    for (u32 p = lane; p < pairs; p += WAVE) next += all[p] < (i32)e;
    next = wave_count(next);
    if (lane == 0) offsets[e] = (i32)next;
    if (e < experts) list_pairs(all, rows, e, next, pairs, experts);
  }
}
// A wave lists the pairs of one expert, behind those of the experts before it.
template <class I> DEV void expert_index_body(const I* ids, i32* rows, i32* offsets, u32 pairs, u32 experts, Report* report) {
  u32 e = block_x() * 8 + thread_id() / WAVE, lane = lane_id();
  if (e > experts) return;
  u32 next = 0;
  for (u32 p = lane; p < pairs; p += WAVE) {
    i64 id = (i64)ids[p];
    if (e == experts) checked_index(id, experts, report);
    next += (id < 0 ? id + experts : id) < (i64)e;
  }
  next = wave_count(next);
  if (lane == 0) offsets[e] = (i32)next;
  if (e < experts) list_pairs(ids, rows, e, next, pairs, experts);
}
enum { GATE_NONE, GATE_INTERLEAVED, GATE_HALVES, GATE_TWO };
// act(g) * (u + beta), both within the limit.
DEV f32 moe_gate_of(f32 g, f32 u, u32 act, f32 alpha, f32 beta, f32 limit) {
  g = g > limit ? limit : g;
  u = u > limit ? limit : u < -limit ? -limit : u;
  return activate(act, g, alpha) * (u + beta);
}
// The expert of a block: one for each, or, where pairs are fewer, that of the slot-th pair in their order if it is its expert's
// first; `experts` when there is none.
DEV u32 expert_of(const i32* offsets, u32 slot, u32 slots, u32 experts) {
  if (slots == experts) return slot;
  u32 ended = 0;
  for (u32 e = lane_id(); e < experts; e += WAVE) ended += offsets[e + 1] <= (i32)slot;
  ended = wave_count(ended);
  return ended < experts && offsets[ended] == (i32)slot ? ended : experts;
}
// Products of the rows of each expert's pairs: a wave computes one output of 8 pairs at a time, a block 8 outputs of an expert.
template <class X, class W>
DEV void moe_rows_body(const X* x, const i32* rows, const i32* offsets, const W* w, const X* bias, f32* y, u32 pairs, u32 tokens,
                       u32 repeat, u32 experts, u32 slots, u32 n, u32 k, u32 kn, u32 has_bias) {
  enum { E = sizeof(X) + sizeof(W) == 8 ? 4 : 8 };
  u32 column = block_x() * 8 + thread_id() / WAVE, e = expert_of(offsets, block_z(), slots, experts);
  if (column >= n || e >= experts) return;
  const W* we = w + (u64)e * n * k + (kn ? column : (u64)column * k);
  u32 first = (u32)offsets[e], last = min_u((u32)offsets[e + 1], pairs);
  f32 b = has_bias ? to_f32(bias[(u64)e * n + column]) : 0.f;
  bool wide = !kn && k % E == 0 && aligned_wide(x, w);
  for (; first < last; first += 8) {
    u32 count = min_u(8, last - first), pair[8];
    const X* from[8];
    f32 sum[8];
    for (u32 r = 0; r < 8; r++) {
      pair[r] = min_u((u32)rows[first + min_u(r, count - 1)], pairs - 1);
      from[r] = x + (u64)(pair[r] / repeat) * k;
      sum[r] = 0.f;
    }
    if (wide) {
      for (u32 i = lane_id() * E; i < k; i += WAVE * E) {
        f32 a[E], c[E];
        load_elements(we + i, a);
        for (u32 r = 0; r < 8; r++) {
          if (r >= count) break;
          load_elements(from[r] + i, c);
          for (int j = 0; j < E; j++) sum[r] = fma_(a[j], c[j], sum[r]);
        }
      }
    } else {
      for (u32 i = lane_id(); i < k; i += WAVE) {
        f32 v = to_f32(we[kn ? (u64)i * n : (u64)i]);
        for (u32 r = 0; r < 8; r++) if (r < count) sum[r] = fma_(v, to_f32(from[r][i]), sum[r]);
      }
    }
    for (u32 r = 0; r < 8; r++) {
      if (r >= count) break;
      f32 total = wave_sum(sum[r]);
      if (lane_id() == 0) y[(u64)pair[r] * n + column] = total + b;
    }
  }
}
// Rows of x of TILES * 16 pairs of a list of `count`; the last stands for those beyond.
template <int TILES, class T>
DEV void rows_of_pairs(RowPointers<T> (&xp)[TILES], const T* x, const i32* list, u32 count, u32 pairs, u32 repeat, u32 k) {
  for (int t = 0; t < TILES; t++)
    for (int i = 0; i < FRAG_ROWS; i++) {
      u32 pair = min_u((u32)list[min_u(t * 16 + frag_row(i), count - 1)], pairs - 1);
      xp[t].p[i] = x + (u64)(pair / repeat) * k;
    }
}
template <int TILES, class T>
DEV void gate_tiles(const T* x, const i32* list, u32 count, const T* w, const T* v, const T* w_bias, const T* v_bias, T* y, f32* part, u32 pairs,
                    u32 repeat, u32 n, u32 k, u32 stride, u32 has_bias, u32 act, f32 alpha, f32 beta, f32 limit) {
  u32 column = block_x() * 16;
  RowPointers<T> wp, vp, xp[TILES];
  for (int i = 0; i < FRAG_ROWS; i++) {
    u64 at = (u64)min_u(column + frag_row(i), n - 1) * stride * k;
    wp.p[i] = w + at;
    vp.p[i] = v + at;
  }
  rows_of_pairs(xp, x, list, count, pairs, repeat, k);
  Acc g[TILES], u[TILES];
  stream_two(wp, vp, xp, k, g, u);
  f32* other = part + 8 * TILES * 256;
  sum_waves(g, part);
  sum_waves(u, other);
  for (u32 e = thread_id(); e < TILES * 256; e += 256) {
    u32 row = e / 16, c = column + e % 16;
    if (row >= count || c >= n) continue;
    u32 pair = min_u((u32)list[row], pairs - 1);
    f32 gb = has_bias ? to_f32(w_bias[c * stride]) : 0.f, ub = has_bias ? to_f32(v_bias[c * stride]) : 0.f;
    from_f32(y[(u64)pair * n + c], moe_gate_of(part[e] + gb, other[e] + ub, act, alpha, beta, limit));
  }
}
// Gate and up of the rows of each expert's pairs, gated: an expert has `own` rows of weights, of which those of a product lie `stride` apart. A
// block computes 16 outputs of an expert for its pairs.
template <class T>
DEV void moe_gate_body(const T* x, const i32* rows, const i32* offsets, const T* w, const T* v, const T* w_bias, const T* v_bias, T* y,
                       u32 pairs, u32 tokens, u32 repeat, u32 experts, u32 slots, u32 n, u32 k, u32 own, u32 stride, u32 skip, u32 has_bias,
                       u32 act, f32 alpha, f32 beta, f32 limit) {
  LDS(f32, part, 2 * 8 * 2 * 256);
  u32 e = expert_of(offsets, block_z(), slots, experts);
  if (e >= experts) return;
  u64 at = (u64)e * own;
  u32 first = (u32)offsets[e], last = min_u((u32)offsets[e + 1], pairs);
  for (; first < last; first += 32) {
    u32 count = min_u(32, last - first);
    if (count <= 16)
      gate_tiles<1>(x, rows + first, count, w + at * k, v + at * k, w_bias + at * has_bias, v_bias + at * has_bias, y, part, pairs, repeat, n,
                    k, stride, has_bias, act, alpha, beta, limit);
    else
      gate_tiles<2>(x, rows + first, count, w + at * k, v + at * k, w_bias + at * has_bias, v_bias + at * has_bias, y, part, pairs, repeat, n,
                    k, stride, has_bias, act, alpha, beta, limit);
    block_sync();
  }
}
template <int TILES, class T>
DEV void down_tiles(const T* x, const i32* list, u32 count, const T* w, const T* bias, f32* y, f32* part, u32 pairs, u32 repeat, u32 n, u32 k,
                    u32 has_bias) {
  u32 column = block_x() * 16;
  RowPointers<T> wp, xp[TILES];
  for (int i = 0; i < FRAG_ROWS; i++) wp.p[i] = w + (u64)min_u(column + frag_row(i), n - 1) * k;
  rows_of_pairs(xp, x, list, count, pairs, repeat, k);
  Acc sum[TILES];
  stream_tiles(wp, xp, k, sum);
  sum_waves(sum, part);
  for (u32 e = thread_id(); e < TILES * 256; e += 256) {
    u32 row = e / 16, c = column + e % 16;
    if (row >= count || c >= n) continue;
    y[(u64)min_u((u32)list[row], pairs - 1) * n + c] = part[e] + (has_bias ? to_f32(bias[c]) : 0.f);
  }
}
// Products of the rows of each expert's pairs by matrix instructions: a block computes 16 outputs of an expert for its pairs.
template <class T>
DEV void moe_tiles_body(const T* x, const i32* rows, const i32* offsets, const T* w, const T* bias, f32* y, u32 pairs, u32 tokens, u32 repeat,
                        u32 experts, u32 slots, u32 n, u32 k, u32 has_bias) {
  LDS(f32, part, 8 * 4 * 256);
  u32 e = expert_of(offsets, block_z(), slots, experts);
  if (e >= experts) return;
  w += (u64)e * n * k;
  bias += (u64)e * n * has_bias;
  u32 first = (u32)offsets[e], last = min_u((u32)offsets[e + 1], pairs);
  for (; first < last; first += 64) {
    u32 count = min_u(64, last - first);
    const i32* list = rows + first;
    if (count <= 16) down_tiles<1>(x, list, count, w, bias, y, part, pairs, repeat, n, k, has_bias);
    else if (count <= 32) down_tiles<2>(x, list, count, w, bias, y, part, pairs, repeat, n, k, has_bias);
    else down_tiles<4>(x, list, count, w, bias, y, part, pairs, repeat, n, k, has_bias);
    block_sync();
  }
}
// What becomes of the products: gated and activated, then each token's pairs weighted and summed.
template <class T>
DEV void moe_finish_body(const f32* first, const f32* second, const T* weights, T* y, u32 tokens, u32 each, u32 n, u32 gating, u32 act,
                         u32 outputs, u32 has_second, u32 has_weights, f32 alpha, f32 beta, f32 limit) {
  u64 i = (u64)block_x() * 256 + thread_id();
  if (i >= (u64)tokens * n) return;
  u32 token = (u32)(i / n), j = (u32)(i % n);
  f32 sum = 0.f;
  for (u32 c = 0; c < each; c++) {
    u64 pair = (u64)token * each + c;
    const f32* f = first + pair * outputs;
    f32 v;
    if (gating == GATE_NONE) v = activate(act, f[j], alpha);
    else {
      f32 g = gating == GATE_INTERLEAVED ? f[2 * j] : f[j];
      f32 u = gating == GATE_INTERLEAVED ? f[2 * j + 1] : gating == GATE_HALVES ? f[n + j] : second[pair * n + j];
      v = moe_gate_of(g, u, act, alpha, beta, limit);
    }
    sum = has_weights ? sum + to_f32(weights[pair]) * v : v;
  }
  from_f32(y[i], sum);
}
// The sum over a token's experts, what a shared expert adds, and the hidden states from before; then all that normalised: a block per
// token. Bits of `has` say what is there.
enum { HAS_SHARED = 1, HAS_GATE = 2, HAS_RESIDUAL = 4, HAS_NORM = 8 };
template <class T>
DEV void moe_join_body(const f32* products, const T* weights, const T* shared, const T* gate, const T* residual, const T* scale, T* y, T* normed,
                       u32 tokens, u32 each, u32 n, u32 has, f32 eps) {
  LDS(f32, part, 8);
  u32 token = block_x();
  u64 start = (u64)token * n;
  f32 open = has & HAS_GATE ? sigmoid_(to_f32(gate[token])) : 1.f, square = 0.f;
  for (u32 i = thread_id(); i < n; i += 256) {
    f32 sum = 0.f;
#pragma unroll 4
    for (u32 c = 0; c < each; c++) {
      u64 pair = (u64)token * each + c;
      sum += to_f32(weights[pair]) * products[pair * n + i];
    }
    if (has & HAS_SHARED) sum += open * to_f32(shared[start + i]);
    if (has & HAS_RESIDUAL) sum += to_f32(residual[start + i]);
    T rounded;
    from_f32(rounded, sum);
    y[start + i] = rounded;
    square += to_f32(rounded) * to_f32(rounded);
  }
  if (!(has & HAS_NORM)) return;
  f32 inverse = 1.f / sqrt_(block_sum<256>(square, part) / (f32)n + eps);
  // A thread reads what it wrote itself.
  for (u32 i = thread_id(); i < n; i += 256) from_f32(normed[start + i], to_f32(y[start + i]) * inverse * to_f32(scale[i]));
}
KERNELS_moe_route
KERNELS_moe_route_index
KERNELS_moe_join
KERNELS_expert_index
KERNELS_moe_rows
KERNELS_moe_gate
KERNELS_moe_tiles
KERNELS_moe_finish
