// Weights of 2, 4 or 8 bits: rows of codes, low bits first, with a scale and perhaps a zero point for each block of inputs.
#pragma once
enum { ZERO_MIDDLE, ZERO_PACKED, ZERO_FLOAT };
enum { OF_F32, OF_F16, OF_BF16 };
// Blocks hold 1 << shift inputs, at least 16. Packed zero points are rows of codes too; floats are like the scales.
struct Packed { const u8 *w, *scales, *zeros; u32 row_bytes, blocks, shift, scale_kind, zero_kind; };
// What the codes of a block mean: (code - zero) * scale, as ((MAGIC + code) - base) * scale + rest. Where zero is whole, rest is 0 and
// the difference exact.
struct Meaning { f32 base, scale, rest; };
DEV f32 float_at(const u8* p, u32 kind, u64 at) {
  if (kind == OF_F32) return ((const f32*)p)[at];
  return kind == OF_F16 ? to_f32(((const f16*)p)[at]) : to_f32(((const bf16*)p)[at]);
}
// Of the block of input i.
template <int BITS> DEV Meaning meaning_of(const Packed& p, u64 row, u32 i) {
  u32 block = i >> p.shift, mask = (1u << BITS) - 1;
  u64 at = row * p.blocks + block;
  f32 scale = float_at(p.scales, p.scale_kind, at), zero = (f32)(1u << (BITS - 1));
  if (p.zero_kind == ZERO_PACKED)
    zero = (f32)((u32)p.zeros[row * ((p.blocks * BITS + 7) / 8) + block * BITS / 8] >> (block * BITS % 8) & mask);
  if (p.zero_kind == ZERO_FLOAT) zero = float_at(p.zeros, p.scale_kind, at);
  f32 whole = zero >= -1024.f && zero <= 1024.f ? rint_(zero) : 0.f, part = zero - whole;
  return {8388608.f + whole, scale, part == 0.f ? 0.f : -part * scale};
}
// Code `at` of a word: in the low bits of the float MAGIC = 2^23, which costs no conversion.
template <int BITS> DEV f32 value_of(u32 word, u32 at, const Meaning& m) {
  u32 code = word >> (at * BITS) & ((1u << BITS) - 1);
  return fma_(f32_of(0x4b000000u | code) - m.base, m.scale, m.rest);
}
// COUNT codes of a row, 8 or 32, from a multiple of COUNT on.
template <int BITS, int COUNT> struct Codes { u32 w[(COUNT * BITS + 31) / 32]; };
template <int BITS, int COUNT> DEV f32 value_of(const Codes<BITS, COUNT>& c, u32 at, const Meaning& m) {
  return value_of<BITS>(c.w[at * BITS / 32], at % (32 / BITS), m);
}
// Whether codes can be read 16 bytes at a time, 8 where 32 of them are no more.
template <int BITS> DEV bool packed_wide(const Packed& p) { return (((u64)p.w | p.row_bytes) & (BITS == 2 ? 7 : 15)) == 0; }
// Of the `have` bytes that the row still has; `wide` only where all are there.
template <int BITS, int COUNT> DEV void load_codes(Codes<BITS, COUNT>& c, const u8* p, u32 have, bool wide) {
  enum { BYTES = COUNT * BITS / 8, WORDS = (BYTES + 3) / 4 };
  if (wide) {
    if constexpr (WORDS >= 4) {
#pragma unroll
      for (u32 i = 0; i < WORDS; i += 4) {
        Wide v = load_wide(p + 4 * i);
        for (int j = 0; j < 4; j++) c.w[i + j] = v.w[j];
      }
    } else if constexpr (BYTES >= 4) {
#pragma unroll
      for (u32 i = 0; i < WORDS; i++) c.w[i] = ((const u32*)p)[i];
    } else {
      c.w[0] = ((const u16*)p)[0];
    }
    return;
  }
#pragma unroll
  for (u32 i = 0; i < WORDS; i++) {
    c.w[i] = 0;
#pragma unroll
    for (int b = 0; b < 4; b++)
      if (i * 4 + b < BYTES && i * 4 + b < have) c.w[i] |= (u32)p[i * 4 + b] << (8 * b);
  }
}
// Eight elements as memory holds them.
template <class T> union EightOf { T t[8]; Wide w; };
// 32 inputs of a row, from i on, to memory.
template <int BITS, class T> DEV void unpack_to(T* to, const Codes<BITS, 32>& c, const Packed& p, u64 row, u32 i) {
  Meaning a = meaning_of<BITS>(p, row, i), b = p.shift > 4 ? a : meaning_of<BITS>(p, row, i + 16);
#pragma unroll
  for (int q = 0; q < 4; q++) {
    EightOf<T> v;
#pragma unroll
    for (int e = 0; e < 8; e++) from_f32(v.t[e], value_of(c, q * 8 + e, q < 2 ? a : b));
    store_wide(to + q * 8, v.w);
  }
}
// Sums of OUTS rows of weights and R rows of inputs, a part in each lane; for few rows, where reading the weights is all the time.
enum { OUTS = 2 };
template <int BITS, int R, class X>
DEV void packed_rows(const X* const (&x)[R], const Packed& p, const u64 (&row)[OUTS], u32 k, f32 (&sum)[OUTS][R]) {
  bool wide = packed_wide<BITS>(p) && k % (16 / sizeof(X)) == 0;
  for (int r = 0; r < R; r++) wide = wide && aligned_wide(x[r], x[r]);
  const u8* w[OUTS];
  for (int o = 0; o < OUTS; o++) {
    w[o] = p.w + row[o] * p.row_bytes;
    for (int r = 0; r < R; r++) sum[o][r] = 0.f;
  }
  u32 units = wide ? k / 32 : 0;
#pragma unroll 1
  for (u32 u = lane_id(); u < units; u += WAVE) {
    Codes<BITS, 32> c[OUTS];
    Meaning m[OUTS];
    for (int o = 0; o < OUTS; o++) {
      load_codes(c[o], w[o] + (u64)u * (4 * BITS), 4 * BITS, true);
      m[o] = meaning_of<BITS>(p, row[o], u * 32);
    }
#pragma unroll
    for (int q = 0; q < 4; q++) {
      if (q == 2 && p.shift == 4)
        for (int o = 0; o < OUTS; o++) m[o] = meaning_of<BITS>(p, row[o], u * 32 + 16);
      f32 v[OUTS][8];
#pragma unroll
      for (int o = 0; o < OUTS; o++)
        for (int e = 0; e < 8; e++) v[o][e] = value_of(c[o], q * 8 + e, m[o]);
#pragma unroll
      for (int r = 0; r < R; r++) {
        f32 b[8];
        load_elements(x[r] + u * 32 + q * 8, b);
        for (int o = 0; o < OUTS; o++)
          for (int e = 0; e < 8; e++) sum[o][r] = fma_(v[o][e], b[e], sum[o][r]);
      }
    }
  }
  // What is left is less than 32 inputs, or lies in a way that takes one at a time.
#pragma unroll 1
  for (u32 i = units * 32 + lane_id(); i < k; i += WAVE)
    for (int o = 0; o < OUTS; o++) {
      f32 v = value_of<BITS>((u32)w[o][i * BITS / 8], i % (8 / BITS), meaning_of<BITS>(p, row[o], i));
      for (int r = 0; r < R; r++) sum[o][r] = fma_(v, to_f32(x[r][i]), sum[o][r]);
    }
}
// The weights of 16 outputs, from row `first` on (`last` and those beyond are one), against TILES * 16 rows by matrix instructions:
// the 8 waves of the block take 64 inputs each in turn, which they unpack to shared memory of their own, 32 * FRAG_LD elements a wave.
template <int BITS, int TILES, class T>
DEV void packed_stream(const RowPointers<T> (&x)[TILES], const Packed& p, u64 first, u32 last, u32 k, T* shared, Acc (&sum)[TILES]) {
  enum { AHEAD = 2 };
  bool wide = packed_wide<BITS>(p);
  u32 lane = lane_id(), wave = thread_id() / WAVE, half = lane / 16;
  u64 row = first + min_u(lane % 16, last);
  const u8* w = p.w + row * p.row_bytes;
  T* own = shared + wave * 32 * FRAG_LD;
  RowPointers<T> from[2];
  for (int h = 0; h < 2; h++)
    for (int i = 0; i < FRAG_ROWS; i++) from[h].p[i] = own + (h * 16 + frag_row(i)) * FRAG_LD;
  for (int t = 0; t < TILES; t++) acc_zero(sum[t]);
  for (u32 i = wave * 64; i < k; i += 512 * AHEAD) {
    Codes<BITS, 32> c[AHEAD];
#pragma unroll
    for (int s = 0; s < AHEAD; s++) {
      u32 at = i + s * 512 + half * 32;
      if (at < k) load_codes(c[s], w + (u64)(at / 8) * BITS, 4 * BITS, wide);
    }
#pragma unroll
    for (int s = 0; s < AHEAD; s++) {
      u32 at = i + s * 512;
      if (at >= k) break;
      if (at + half * 32 < k) unpack_to(own + lane * FRAG_LD, c[s], p, row, at + half * 32);
      wave_sync();
      for (int h = 0; h < 2; h++) {
        if (at + h * 32 >= k) break;
        Frag<T> a[2], b[2];
        frag_load_wide(a, from[h].p, 0);
        for (int t = 0; t < TILES; t++) {
          frag_load_wide(b, x[t].p, at + h * 32);
          tile_mma(sum[t], a[0], b[0]);
          tile_mma(sum[t], a[1], b[1]);
        }
      }
      wave_sync();
    }
  }
}
// An output with what is added to it.
template <class X> DEV void put_output(X* y, u64 at, f32 sum, const X* bias, u32 column, const X* residual) {
  from_f32(y[at], sum + (bias ? to_f32(bias[column]) : 0.f) + (residual ? to_f32(residual[at]) : 0.f));
}
