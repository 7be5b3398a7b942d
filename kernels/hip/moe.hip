// Mixture of experts: the router, the pairs of token and expert sorted by expert, and products that read rows in place.
#include "prelude.h"
enum { SOFTMAX, SIGMOID, CHOSEN };
// Whether expert i with score a comes before expert j with score b: NaN is the greatest, of equal ones the lower number.
DEV bool before(f32 a, u32 i, f32 b, u32 j) {
  bool na = a != a, nb = b != b;
  if (na || nb) return na && (!nb || i < j);
  return a > b || (a == b && i < j);
}
// A wave per row of logits; at most 1024 experts, at most 64 chosen.
template <class T>
DEV void moe_route_body(const T* logits, const T* bias, i32* ids, T* weights, u32 rows, u32 experts, u32 k, u32 score, u32 renormalise,
                        u32 has_bias, f32 eps, f32 scale) {
  LDS(f32, scores, 1024);
  LDS(u32, used, 1024);
  LDS(f32, chosen, 64);
  u32 row = block_x(), t = thread_id();
  const T* x = logits + (u64)row * experts;
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
      ids[(u64)row * k + c] = (i32)at;
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
  for (u32 c = 0; c < k; c++) from_f32(weights[(u64)row * k + c], chosen[c] / divisor * scale);
}
// One block: a thread counts and then lists the pairs of its experts. At most 1024 experts.
template <class I> DEV void expert_index_body(const I* ids, i32* rows, i32* offsets, u32 pairs, u32 experts, Report* report) {
  LDS(u32, count, 1025);
  u32 t = thread_id();
  for (u32 p = t; p < pairs; p += 256) checked_index((i64)ids[p], experts, report);
  for (u32 e = t; e < experts; e += 256) {
    u32 found = 0;
    for (u32 p = 0; p < pairs; p++) { i64 id = (i64)ids[p]; found += (id < 0 ? id + experts : id) == (i64)e; }
    count[e + 1] = found;
  }
  if (t == 0) count[0] = 0;
  block_sync();
  if (t == 0) for (u32 e = 0; e < experts; e++) count[e + 1] += count[e];
  block_sync();
  for (u32 e = t; e <= experts; e += 256) offsets[e] = (i32)count[e];
  for (u32 e = t; e < experts; e += 256) {
    u32 next = count[e];
    for (u32 p = 0; p < pairs; p++) { i64 id = (i64)ids[p]; if ((id < 0 ? id + experts : id) == (i64)e) rows[next++] = (i32)p; }
  }
}
// Products of the rows of each expert's pairs: a wave computes one output of 8 pairs at a time, a block 8 outputs of an expert.
template <class X, class W>
DEV void moe_rows_body(const X* x, const i32* rows, const i32* offsets, const W* w, const X* bias, f32* y, u32 pairs, u32 tokens,
                       u32 repeat, u32 experts, u32 n, u32 k, u32 kn, u32 has_bias) {
  u32 column = block_x() * 8 + thread_id() / WAVE, e = block_z();
  if (column >= n) return;
  const W* we = w + (u64)e * n * k;
  u32 first = (u32)offsets[e], last = min_u((u32)offsets[e + 1], pairs);
  f32 b = has_bias ? to_f32(bias[(u64)e * n + column]) : 0.f;
  for (; first < last; first += 8) {
    u32 count = min_u(8, last - first), pair[8];
    const X* from[8];
    f32 sum[8];
    for (u32 r = 0; r < 8; r++) {
      u32 p = r < count ? (u32)rows[first + r] : 0;
      pair[r] = p < pairs ? p : 0;
      from[r] = x + (u64)(pair[r] / repeat) * k;
      sum[r] = 0.f;
    }
    for (u32 i = lane_id(); i < k; i += WAVE) {
      f32 v = to_f32(we[kn ? (u64)i * n + column : (u64)column * k + i]);
      for (u32 r = 0; r < 8; r++)
        if (r < count) sum[r] = fma_(v, to_f32(from[r][i]), sum[r]);
    }
    for (u32 r = 0; r < 8; r++) {
      if (r >= count) break;
      f32 total = wave_sum(sum[r]);
      if (lane_id() == 0) y[(u64)pair[r] * n + column] = total + b;
    }
  }
}
enum { GATE_NONE, GATE_INTERLEAVED, GATE_HALVES, GATE_TWO };
DEV f32 moe_activate(u32 act, f32 x, f32 alpha) {
  switch (act) {
    case 1: return x / (1.f + exp_(-alpha * x));
    case 2: return gelu_(x);
    case 3: return x != x || x > 0.f ? x : 0.f;
    default: return x;
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
    if (gating == GATE_NONE) v = moe_activate(act, f[j], alpha);
    else {
      f32 g = gating == GATE_INTERLEAVED ? f[2 * j] : f[j];
      f32 u = gating == GATE_INTERLEAVED ? f[2 * j + 1] : gating == GATE_HALVES ? f[n + j] : second[pair * n + j];
      g = g > limit ? limit : g;
      u = u > limit ? limit : u < -limit ? -limit : u;
      v = moe_activate(act, g, alpha) * (u + beta);
    }
    sum = has_weights ? sum + to_f32(weights[pair]) * v : v;
  }
  from_f32(y[i], sum);
}
KERNELS_moe_route
KERNELS_expert_index
KERNELS_moe_rows
KERNELS_moe_finish
