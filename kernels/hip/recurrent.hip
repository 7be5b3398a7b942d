// Layers whose steps follow each other: a block has a sequence in a direction and walks along it, its states in shared memory.
// What the input gives to the gates of every step, `p[dirs, steps * batch, gates * n]`, is a product of matrices made before.
#include "prelude.h"
#define MOST_HIDDEN 1024
// Of each direction up to three functions: number, alpha, beta.
DEV f32 gate(const Words<18>& acts, u32 which, f32 x, f32 clip) {
  if (x > clip) x = clip;
  if (x < -clip) x = -clip;
  return activate(acts.w[3 * which], x, f32_of(acts.w[3 * which + 1]), f32_of(acts.w[3 * which + 2]));
}
// p[dirs, rows, n] = x[rows, k] times w[dirs, n, k] transposed, in f32 whatever the factors are: a wave computes an element of up
// to 8 rows.
template <class T> DEV void input_product_body(const T* x, const T* w, f32* p, u32 dirs, u32 rows, u32 n, u32 k) {
  u32 column = block_x() * 8 + thread_id() / WAVE, first = block_y() * 8, count = min_u(8, rows - first);
  if (column >= n) return;
  const T* wr = w + ((u64)block_z() * n + column) * k;
  f32 sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  for (u32 i = lane_id(); i < k; i += WAVE) {
    f32 v = to_f32(wr[i]);
    for (u32 r = 0; r < 8; r++)
      if (r < count) sum[r] = fma_(v, to_f32(x[(u64)(first + r) * k + i]), sum[r]);
  }
  for (u32 r = 0; r < 8; r++) {
    if (r >= count) break;
    f32 total = wave_sum(sum[r]);
    if (lane_id() == 0) p[((u64)block_z() * rows + first + r) * n + column] = total;
  }
}
// Rows of a matrix times a state, a row per wave.
template <class T> DEV void state_product(const T* r, const f32* state, f32* sums, u32 first, u32 last, u32 n) {
  for (u32 row = first + thread_id() / WAVE; row < last; row += 8) {
    f32 sum = 0.f;
    for (u32 k = lane_id(); k < n; k += WAVE) sum = fma_(to_f32(r[(u64)row * n + k]), state[k], sum);
    sum = wave_sum(sum);
    if (lane_id() == 0) sums[row] = sum;
  }
}
// Where a block's sequence lies.
struct Sequence {
  u32 steps, batch, dirs, n, batch_first, d, b, length;
  bool backwards;
};
DEV u64 state_at(const Sequence& s) { return (u64)(s.batch_first ? s.b * s.dirs + s.d : s.d * s.batch + s.b) * s.n; }
DEV u64 output_at(const Sequence& s, u32 t) {
  return (u64)(s.batch_first ? (s.b * s.steps + t) * s.dirs + s.d : (t * s.dirs + s.d) * s.batch + s.b) * s.n;
}
DEV u64 input_row(const Sequence& s, u32 t) {
  return (u64)s.d * s.steps * s.batch + (s.batch_first ? s.b * s.steps + t : t * s.batch + s.b);
}
DEV u32 step_at(const Sequence& s, u32 i) { return s.backwards ? s.length - 1 - i : i; }
DEV Sequence sequence(const i32* lengths, u32 steps, u32 batch, u32 dirs, u32 n, u32 has_lengths, u32 batch_first, u32 reverse) {
  Sequence s = {steps, batch, dirs, n, batch_first, block_x() / batch, block_x() % batch, steps, false};
  s.backwards = reverse != 0 || s.d == 1;
  if (has_lengths) s.length = lengths[s.b] < 0 ? 0 : min_u((u32)lengths[s.b], steps);
  return s;
}
// Zeros behind the end of a sequence, and its last state.
template <class T> DEV void finish(const Sequence& s, T* y, T* last, const f32* state) {
  for (u32 i = thread_id(); i < (s.steps - s.length) * s.n; i += 256) from_f32(y[output_at(s, s.length + i / s.n) + i % s.n], 0.f);
  for (u32 j = thread_id(); j < s.n; j += 256) from_f32(last[state_at(s) + j], state[j]);
}
// One element of a step of an LSTM: takes and gives its cell, gives its state. `at(row)` is what enters a gate, `peephole(row)` what
// its cell counts there; rows are gates in the order i, o, f, c. The gates follow each other in a loop, so that the functions are there once.
template <class G, class P>
DEV f32 lstm_cell(const Words<18>& acts, u32 d, u32 n, u32 j, f32& c, u32 input_forget, f32 clip, G at, P peephole) {
  f32 in = 0.f, forget = 0.f, cell = 0.f, out = 0.f, h = 0.f;
#pragma unroll 1
  for (u32 s = 0; s < 5; s++) {
    u32 row = (s == 0 ? 0 : s == 1 ? 2 : s == 2 ? 3 : 1) * n + j;
    f32 v = s == 4 ? cell : at(row);
    if (s != 2 && s != 4) v += peephole(row) * (s == 3 ? cell : c);
    v = gate(acts, d * 3 + (s == 2 ? 1 : s == 4 ? 2 : 0), v, s == 4 ? infinity() : clip);
    if (s == 0) in = v;
    else if (s == 1) forget = input_forget ? 1.f - in : v;
    else if (s == 2) cell = forget * c + in * v;
    else if (s == 3) out = v;
    else h = out * v;
  }
  c = cell;
  return h;
}
template <class T>
DEV void lstm_body(const f32* p, const T* r, const T* bias, const i32* lengths, const T* h0, const T* c0, const T* peepholes, T* y, T* last,
                   T* last_cell, u32 steps, u32 batch, u32 dirs, u32 n, u32 has_bias, u32 has_lengths, u32 has_h0, u32 has_c0,
                   u32 has_peepholes, u32 batch_first, u32 reverse, u32 input_forget, f32 clip, const Words<18> acts) {
  LDS(f32, h, MOST_HIDDEN);
  LDS(f32, c, MOST_HIDDEN);
  LDS(f32, sums, 4 * MOST_HIDDEN);
  const Sequence s = sequence(lengths, steps, batch, dirs, n, has_lengths, batch_first, reverse);
  r += (u64)s.d * 4 * n * n;
  bias += has_bias ? (u64)s.d * 8 * n : 0;
  peepholes += has_peepholes ? (u64)s.d * 3 * n : 0;
  for (u32 j = thread_id(); j < n; j += 256) {
    h[j] = has_h0 ? to_f32(h0[state_at(s) + j]) : 0.f;
    c[j] = has_c0 ? to_f32(c0[state_at(s) + j]) : 0.f;
  }
  block_sync();
  for (u32 i = 0; i < s.length; i++) {
    u32 t = step_at(s, i);
    state_product(r, h, sums, 0, 4 * n, n);
    block_sync();
    for (u32 j = thread_id(); j < n; j += 256) {
      auto at = [&](u32 row) {
        return p[input_row(s, t) * 4 * n + row] + sums[row] + (has_bias ? to_f32(bias[row]) + to_f32(bias[4 * n + row]) : 0.f);
      };
      auto peephole = [&](u32 row) { return has_peepholes ? to_f32(peepholes[row]) : 0.f; };
      h[j] = lstm_cell(acts, s.d, n, j, c[j], input_forget, clip, at, peephole);
      from_f32(y[output_at(s, t) + j], h[j]);
    }
    block_sync();
  }
  finish(s, y, last, h);
  for (u32 j = thread_id(); j < n; j += 256) from_f32(last_cell[state_at(s) + j], c[j]);
}
template <class T>
DEV void gru_body(const f32* p, const T* r, const T* bias, const i32* lengths, const T* h0, T* y, T* last, u32 steps, u32 batch, u32 dirs,
                  u32 n, u32 has_bias, u32 has_lengths, u32 has_h0, u32 batch_first, u32 reverse, u32 linear_before_reset, f32 clip,
                  const Words<18> acts) {
  LDS(f32, h, MOST_HIDDEN);
  LDS(f32, scaled, MOST_HIDDEN);
  LDS(f32, sums, 3 * MOST_HIDDEN);
  const Sequence s = sequence(lengths, steps, batch, dirs, n, has_lengths, batch_first, reverse);
  r += (u64)s.d * 3 * n * n;
  bias += has_bias ? (u64)s.d * 6 * n : 0;
  for (u32 j = thread_id(); j < n; j += 256) h[j] = has_h0 ? to_f32(h0[state_at(s) + j]) : 0.f;
  block_sync();
  auto bias_of = [&](u32 row) { return has_bias ? to_f32(bias[row]) : 0.f; };
  for (u32 i = 0; i < s.length; i++) {
    u32 t = step_at(s, i);
    const f32* x = p + input_row(s, t) * 3 * n;
    state_product(r, h, sums, 0, linear_before_reset ? 3 * n : 2 * n, n);
    block_sync();
    // The reset gate takes the place of its sum.
    for (u32 j = thread_id(); j < n; j += 256) {
      u32 row = n + j;
      sums[row] = gate(acts, s.d * 3, x[row] + sums[row] + bias_of(row) + bias_of(3 * n + row), clip);
      scaled[j] = h[j] * sums[row];
    }
    block_sync();
    if (!linear_before_reset) {
      state_product(r, scaled, sums, 2 * n, 3 * n, n);
      block_sync();
    }
    for (u32 j = thread_id(); j < n; j += 256) {
      f32 update = gate(acts, s.d * 3, x[j] + sums[j] + bias_of(j) + bias_of(3 * n + j), clip);
      f32 state = (sums[2 * n + j] + bias_of(5 * n + j)) * (linear_before_reset ? sums[n + j] : 1.f);
      f32 next = gate(acts, s.d * 3 + 1, x[2 * n + j] + bias_of(2 * n + j) + state, clip);
      h[j] = (1.f - update) * next + update * h[j];
      from_f32(y[output_at(s, t) + j], h[j]);
    }
    block_sync();
  }
  finish(s, y, last, h);
}
// Operands that may be left out.
enum { HAS_BIAS = 1, HAS_LENGTHS = 2, HAS_H0 = 4, HAS_C0 = 8, HAS_PEEPHOLES = 16 };
// An LSTM whose recurrent weight r[dirs, n, 4 n] is 8-bit: in every step the states of all sequences together are codes of one
// scale and zero point, those of ended ones 0. A block per direction; a thread has the same elements of every state throughout, so
// that states pass between threads only as codes, in shared memory. `last` and `last_cell` hold the states on the way.
DEV void quantised_lstm_body(const f32* p, const u8* r, const f32* r_scale, const u8* r_zero, const f32* bias, const i32* lengths,
                             const f32* h0, const f32* c0, const f32* peepholes, f32* y, f32* last, f32* last_cell, u32 steps, u32 batch,
                             u32 dirs, u32 n, u32 scales, u32 zeros, u32 r_signed, u32 has, u32 reverse, u32 input_forget, f32 clip, const Words<18> acts) {
  LDS(i32, codes, MOST_HIDDEN);
  LDS(f32, sums, 4 * MOST_HIDDEN);
  LDS(f32, part, 8);
  u32 d = block_x(), longest = (has & HAS_LENGTHS) ? 0 : steps;
  bool backwards = reverse != 0 || d == 1;
  auto length = [&](u32 b) { return !(has & HAS_LENGTHS) ? steps : lengths[b] < 0 ? 0 : min_u((u32)lengths[b], steps); };
  if ((has & HAS_LENGTHS)) for (u32 b = 0; b < batch; b++) longest = length(b) > longest ? length(b) : longest;
  p += (u64)d * steps * batch * 4 * n;
  r += (u64)d * 4 * n * n;
  last += (u64)d * batch * n;
  last_cell += (u64)d * batch * n;
  bias += (has & HAS_BIAS) ? (u64)d * 8 * n : 0;
  peepholes += (has & HAS_PEEPHOLES) ? (u64)d * 3 * n : 0;
  for (u32 b = 0; b < batch; b++)
    for (u32 j = thread_id(); j < n; j += 256) {
      u64 at = ((u64)d * batch + b) * n + j;
      last[(u64)b * n + j] = (has & HAS_H0) ? h0[at] : 0.f;
      last_cell[(u64)b * n + j] = (has & HAS_C0) ? c0[at] : 0.f;
      for (u32 t = length(b); t < steps; t++) y[(((u64)t * dirs + d) * batch + b) * n + j] = 0.f;
    }
  for (u32 i = 0; i < longest; i++) {
    f32 low = 0.f, high = 0.f;
    for (u32 b = 0; b < batch; b++)
      for (u32 j = thread_id(); j < n && i < length(b); j += 256) {
        f32 v = last[(u64)b * n + j];
        low = v < low ? v : low;
        high = v > high ? v : high;
      }
    low = -block_max<256>(-low, part);
    high = block_max<256>(high, part);
    f32 by = high == low ? 1.f : (high - low) / 255.f, none = -low / by;
    none = rint_(none < 0.f ? 0.f : none > 255.f ? 255.f : none);
    for (u32 b = 0; b < batch; b++) {
      if (i >= length(b)) continue;
      u32 t = backwards ? length(b) - 1 - i : i;
      for (u32 j = thread_id(); j < n; j += 256) {
        f32 code = rint_(last[(u64)b * n + j] / by) + none;
        code = code != code || code < 0.f ? 0.f : code > 255.f ? 255.f : code;
        codes[j] = (i32)code - (none != none ? 0 : (i32)none);
      }
      block_sync();
      for (u32 column = thread_id(); column < 4 * n; column += 256) {
        u32 of_scale = scales == 1 ? 0 : scales == dirs ? d : d * 4 * n + column, of_zero = zeros == 1 ? 0 : zeros == dirs ? d : d * 4 * n + column;
        i32 zero = !zeros ? 0 : r_signed ? (i32)(i8)r_zero[of_zero] : (i32)r_zero[of_zero], sum = 0;
        for (u32 k = 0; k < n; k++) {
          u8 v = r[(u64)k * 4 * n + column];
          sum += codes[k] * ((r_signed ? (i32)(i8)v : (i32)v) - zero);
        }
        sums[column] = (f32)sum * r_scale[of_scale] * by;
      }
      block_sync();
      for (u32 j = thread_id(); j < n; j += 256) {
        auto at = [&](u32 row) {
          return p[((u64)t * batch + b) * 4 * n + row] + sums[row] + ((has & HAS_BIAS) ? bias[row] + bias[4 * n + row] : 0.f);
        };
        auto peephole = [&](u32 row) { return (has & HAS_PEEPHOLES) ? peepholes[row] : 0.f; };
        f32 h = lstm_cell(acts, d, n, j, last_cell[(u64)b * n + j], input_forget, clip, at, peephole);
        last[(u64)b * n + j] = h;
        y[(((u64)t * dirs + d) * batch + b) * n + j] = h;
      }
    }
  }
}
KERNELS_input_product
KERNELS_quantised_lstm
KERNELS_lstm
KERNELS_gru
