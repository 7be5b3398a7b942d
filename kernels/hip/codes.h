// 4-bit codes as factors of matrix instructions, unpacked in registers: f16 rows and scales, blocks of 32 inputs at least.
#pragma once
struct Coded { const u8* w; const u16* scales; const u8* zeros; u32 row_bytes, blocks, shift; };
// Eight codes of a word as (code - zero) * scale, rounded once: byte by byte, 1024 + low code and 1024 + 16 * high code.
// `meaning` is the zero point above the scale.
DEV void unpack_pairs(u32 word, u32 meaning, u32 (&out)[4]) {
  // -(1024 + zero) and -(64 + zero).
  u32 base = 0xd400e400u + (meaning >> 16) * 0x00100001u, scale = (meaning & 0xffff) * 0x00010001u;
  u32 bytes[4] = {spread_byte<0>(word), spread_byte<1>(word), spread_byte<2>(word), spread_byte<3>(word)};
#pragma unroll
  for (int i = 0; i < 4; i++) out[i] = pair_mul(pair_fma(bytes[i] & 0xfff0ff0fu, 0x2c003c00u, base), scale);
}
// One element, read on its own.
DEV f32 coded_value(const Coded& p, u64 row, u32 i) {
  u32 block = i >> p.shift, code = p.w[row * p.row_bytes + i / 2] >> (i % 2 * 4) & 15, zero = 8;
  if (p.zeros) zero = p.zeros[row * ((p.blocks + 1) / 2) + block / 2] >> (block % 2 * 4) & 15;
  f16 v;
  from_f32(v, ((f32)code - (f32)zero) * to_f32(of_bits<f16>(p.scales[row * p.blocks + block])));
  return to_f32(v);
}
// The rows of a tile of 16 outputs that a lane reads: from `first` on of n, which begin at row `base`; the last stands for those beyond.
struct CodedLane { Coded p; u32 row[FRAG_ROWS]; };
DEV CodedLane coded_lane(const Coded& p, u32 base, u32 first, u32 n) {
  CodedLane l;
  l.p = p;
  for (int i = 0; i < FRAG_ROWS; i++) l.row[i] = base + min_u(first + frag_row(i), n - 1);
  return l;
}
// What a lane reads of 128 inputs.
struct CodedPart { Wide codes[CODE_LOADS]; u32 meaning[CODE_LOADS]; };
DEV void load_part(CodedPart& part, const CodedLane& l, u32 k) {
  const Coded& p = l.p;
#pragma unroll
  for (int i = 0; i < CODE_LOADS; i++) {
    u32 at = k + code_input(i), block = at >> p.shift;
    u64 row = l.row[code_row(i)];
    part.codes[i] = load_wide(p.w + row * p.row_bytes + at / 2);
    part.meaning[i] = p.scales[row * p.blocks + block] | 8u << 16;
  }
}
DEV void load_zeros(CodedPart& part, const CodedLane& l, u32 k) {
  const Coded& p = l.p;
#pragma unroll
  for (int i = 0; i < CODE_LOADS; i++) {
    u32 block = (k + code_input(i)) >> p.shift;
    u32 zero = (u32)p.zeros[(u64)l.row[code_row(i)] * ((p.blocks + 1) / 2) + block / 2] >> (block % 2 * 4) & 15;
    part.meaning[i] = (part.meaning[i] & 0xffff) | zero << 16;
  }
}
// WEIGHTS tiles of 16 outputs against TILES * 16 rows: the 8 waves of the block take 128 inputs each in turn. FEW: 8 rows at most.
template <bool FEW, int WEIGHTS, int TILES>
DEV void coded_stream(const RowPointers<f16> (&x)[TILES], const CodedLane (&lanes)[WEIGHTS], u32 k, Acc (&sum)[WEIGHTS][TILES]) {
  for (int w = 0; w < WEIGHTS; w++) for (int t = 0; t < TILES; t++) acc_zero(sum[w][t]);
#pragma unroll 1
  for (u32 i = thread_id() / WAVE * 128; i < k; i += 1024) {
    CodedPart part[WEIGHTS];
    for (int w = 0; w < WEIGHTS; w++) load_part(part[w], lanes[w], i);
    // Weights have zero points, or none has.
    if (lanes[0].p.zeros)
      for (int w = 0; w < WEIGHTS; w++) load_zeros(part[w], lanes[w], i);
#pragma unroll
    for (u32 s = 0; s < 4; s++) {
      // Rows that are asked for at once take registers, of which blocks side by side need some too.
      if (WEIGHTS * TILES == 4) wave_sync();
      Frag<f16> f[WEIGHTS][2], b[2];
#pragma unroll
      for (int w = 0; w < WEIGHTS; w++)
        frag_of_codes(f[w], part[w].codes, s, [&](u32 word, u32 load, u32(&out)[4]) { unpack_pairs(word, part[w].meaning[load], out); });
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        frag_load_codes<FEW>(b, x[t].p, i, s);
#pragma unroll
        for (int w = 0; w < WEIGHTS; w++) {
          tile_mma_some<FEW>(sum[w][t], f[w][0], b[0]);
          tile_mma_some<FEW>(sum[w][t], f[w][1], b[1]);
        }
      }
    }
  }
}
