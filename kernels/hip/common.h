// What kernels share: reductions over a wave and a block, shapes, reports.
#pragma once
// NaN wins, as the reference has it.
DEV f32 max_(f32 a, f32 b) { return a > b || a != a ? a : b; }
DEV f32 min_(f32 a, f32 b) { return a < b || a != a ? a : b; }
DEV u32 min_u(u32 a, u32 b) { return a < b ? a : b; }
DEV f32 infinity() { return f32_of(0x7f800000u); }
DEV f32 not_a_number() { return f32_of(0x7fc00000u); }
DEV f32 wave_sum(f32 v) {
  v += shuffle_xor<1>(v);
  v += shuffle_xor<2>(v);
  v += shuffle_xor<4>(v);
  v += shuffle_xor<8>(v);
  v += shuffle_xor<16>(v);
  return v;
}
DEV f32 wave_max(f32 v) {
  v = max_(v, shuffle_xor<1>(v));
  v = max_(v, shuffle_xor<2>(v));
  v = max_(v, shuffle_xor<4>(v));
  v = max_(v, shuffle_xor<8>(v));
  v = max_(v, shuffle_xor<16>(v));
  return v;
}
DEV u32 wave_count(u32 v) {
  i32 n = (i32)v;
  n += shuffle_xor<1>(n);
  n += shuffle_xor<2>(n);
  n += shuffle_xor<4>(n);
  n += shuffle_xor<8>(n);
  n += shuffle_xor<16>(n);
  return (u32)n;
}
// Over a block of BLOCK threads; `part` has a place per wave, and is free again on return.
template <int BLOCK> DEV f32 block_sum(f32 v, f32* part) {
  v = wave_sum(v);
  if (BLOCK == WAVE) return v;
  if (lane_id() == 0) part[thread_id() / WAVE] = v;
  block_sync();
  f32 total = 0.f;
  for (int i = 0; i < BLOCK / WAVE; i++) total += part[i];
  block_sync();
  return total;
}
template <int BLOCK> DEV f32 block_max(f32 v, f32* part) {
  v = wave_max(v);
  if (BLOCK == WAVE) return v;
  if (lane_id() == 0) part[thread_id() / WAVE] = v;
  block_sync();
  f32 best = part[0];
  for (int i = 1; i < BLOCK / WAVE; i++) best = max_(best, part[i]);
  block_sync();
  return best;
}
// Notes an index that is out of range; the step skips the access and the run fails.
DEV void report_index(Report* report, i64 index) {
  if (exchange(&report->set, 1u) == 0u) report->index = index;
}
// An index that counts from the end when it is negative; -1 when it is out of range, which is reported.
DEV i64 checked_index(i64 index, i64 n, Report* report) {
  i64 at = index < 0 ? index + n : index;
  if (at >= 0 && at < n) return at;
  report_index(report, index);
  return -1;
}
// N neighbouring elements, a multiple of 16 bytes that begins at one.
template <int N> DEV void load_elements(const f32* p, f32 (&out)[N]) {
  for (int i = 0; i < N; i += 4) {
    Wide v = load_wide(p + i);
    for (int j = 0; j < 4; j++) out[i + j] = f32_of(v.w[j]);
  }
}
template <int N, class T> DEV void load_elements(const T* p, f32 (&out)[N]) {
  for (int i = 0; i < N; i += 8) {
    Wide v = load_wide(p + i);
    for (int j = 0; j < 4; j++) {
      out[i + 2 * j] = to_f32(of_bits<T>((u16)v.w[j]));
      out[i + 2 * j + 1] = to_f32(of_bits<T>((u16)(v.w[j] >> 16)));
    }
  }
}
// One element of a head of x turned: e of d, of which the first `2 half` turn. `at` is the row of the tables.
template <class T, class C>
DEV f32 turned(const T* head, const C* cos, const C* sin, u32 e, u32 half, i64 at, bool interleaved) {
  f32 own = to_f32(head[e]);
  if (e >= 2 * half) return own;
  u32 pair = interleaved ? e / 2 : e % half;
  bool second = interleaved ? e & 1 : e >= half;
  f32 other = to_f32(head[interleaved ? e ^ 1 : second ? pair : pair + half]);
  f32 c = to_f32(cos[at * half + pair]), s = to_f32(sin[at * half + pair]);
  return second ? other * s + own * c : own * c - other * s;
}
// The row of the tables for a step of sequence b, or -1, which is reported. One position is that of the first step.
template <class P>
DEV i64 table_row(const P* positions, u32 b, u32 step, u32 steps, u32 rows, u32 places, Report* report) {
  u64 sequence = (u64)b * steps + step;
  if (places != 1) return places ? checked_index((i64)positions[sequence], rows, report) : (i64)sequence;
  i64 first = (i64)positions[0], at = first < 0 ? step : first >= (i64)rows ? (i64)rows : first + step;
  if (at < (i64)rows) return at;
  report_index(report, first);
  return -1;
}
