// Products of experts with packed weights: each with the rows of its pairs of token and expert, read in place.
#include "prelude.h"
// The expert of a block: one for each, or, where pairs are fewer, that of the slot-th pair in their order if it is its expert's
// first; `experts` when there is none.
DEV u32 packed_expert(const i32* offsets, u32 slot, u32 slots, u32 experts) {
  if (slots == experts) return slot;
  u32 ended = 0;
  for (u32 e = lane_id(); e < experts; e += WAVE) ended += offsets[e + 1] <= (i32)slot;
  ended = wave_count(ended);
  return ended < experts && offsets[ended] == (i32)slot ? ended : experts;
}
// Few pairs for an expert: a wave computes OUTS outputs of R pairs, of which `count` are there.
template <int BITS, int R, class X>
DEV void moe_nbits_rows_of(const X* x, const i32* list, const Packed& p, const X* bias, f32* y, u32 count, u32 pairs, u32 repeat, u64 first,
                           u32 column, u32 n, u32 k) {
  const X* from[R];
  u32 pair[R];
  u64 row[OUTS];
  f32 sum[OUTS][R];
  for (u32 r = 0; r < R; r++) {
    pair[r] = min_u((u32)list[min_u(r, count - 1)], pairs - 1);
    from[r] = x + (u64)(pair[r] / repeat) * k;
  }
  for (u32 o = 0; o < OUTS; o++) row[o] = first + min_u(column + o, n - 1);
  packed_rows<BITS>(from, p, row, k, sum);
  for (u32 o = 0; o < OUTS; o++)
    for (u32 r = 0; r < R; r++) {
      f32 total = wave_sum(sum[o][r]);
      if (lane_id() == 0 && r < count && column + o < n) y[(u64)pair[r] * n + column + o] = total + (bias ? to_f32(bias[row[o]]) : 0.f);
    }
}
template <int BITS, class X>
DEV void moe_nbits_rows_by(const X* x, const i32* rows, const i32* offsets, const Packed& p, const X* bias, f32* y, u32 pairs, u32 repeat, u32 e,
                           u32 n, u32 k) {
  u32 column = (block_x() * 8 + thread_id() / WAVE) * OUTS;
  if (column >= n) return;
  u32 first = (u32)offsets[e], last = min_u((u32)offsets[e + 1], pairs);
  for (; first < last; first += 4) {
    u32 count = min_u(4, last - first);
    if (count == 1) moe_nbits_rows_of<BITS, 1>(x, rows + first, p, bias, y, count, pairs, repeat, (u64)e * n, column, n, k);
    else moe_nbits_rows_of<BITS, 4>(x, rows + first, p, bias, y, count, pairs, repeat, (u64)e * n, column, n, k);
  }
}
template <class X>
DEV void moe_nbits_rows_body(const X* x, const i32* rows, const i32* offsets, const u8* w, const u8* scales, const u8* zeros, const X* bias, f32* y,
                             u32 pairs, u32 tokens, u32 repeat, u32 experts, u32 slots, u32 n, u32 k, u32 bits, u32 row_bytes, u32 blocks,
                             u32 shift, u32 scale_kind, u32 zero_kind, u32 has_bias) {
  Packed p = {w, scales, zeros, row_bytes, blocks, shift, scale_kind, zero_kind};
  u32 e = packed_expert(offsets, block_z(), slots, experts);
  if (e >= experts) return;
  bias = has_bias ? bias : 0;
  if (bits == 4) moe_nbits_rows_by<4>(x, rows, offsets, p, bias, y, pairs, repeat, e, n, k);
  else if (bits == 8) moe_nbits_rows_by<8>(x, rows, offsets, p, bias, y, pairs, repeat, e, n, k);
  else moe_nbits_rows_by<2>(x, rows, offsets, p, bias, y, pairs, repeat, e, n, k);
}
// More pairs, by matrix instructions: a block computes 16 outputs of an expert for TILES * 16 of its pairs at a time.
template <int BITS, int TILES, class T>
DEV void moe_nbits_tiles_of(const T* x, const i32* list, const Packed& p, const T* bias, f32* y, T* shared, f32* part, u32 count, u32 pairs,
                            u32 repeat, u64 first, u32 n, u32 k) {
  u32 column = block_x() * 16;
  RowPointers<T> xp[TILES];
  for (int t = 0; t < TILES; t++)
    for (int i = 0; i < FRAG_ROWS; i++) {
      u32 pair = min_u((u32)list[min_u(t * 16 + frag_row(i), count - 1)], pairs - 1);
      xp[t].p[i] = x + (u64)(pair / repeat) * k;
    }
  Acc sum[TILES];
  packed_stream<BITS>(xp, p, first + column, n - 1 - column, k, shared, sum);
  sum_waves(sum, part);
  for (u32 e = thread_id(); e < TILES * 256; e += 256) {
    u32 row = e / 16, c = column + e % 16;
    if (row >= count || c >= n) continue;
    y[(u64)min_u((u32)list[row], pairs - 1) * n + c] = part[e] + (bias ? to_f32(bias[first + c]) : 0.f);
  }
  block_sync();
}
template <int BITS, class T>
DEV void moe_nbits_tiles_by(const T* x, const i32* rows, const i32* offsets, const Packed& p, const T* bias, f32* y, T* shared, f32* part,
                            u32 pairs, u32 repeat, u32 e, u32 n, u32 k) {
  u32 first = (u32)offsets[e], last = min_u((u32)offsets[e + 1], pairs);
  for (; first < last; first += 32) {
    u32 count = min_u(32, last - first);
    const i32* list = rows + first;
    if (count <= 16) moe_nbits_tiles_of<BITS, 1>(x, list, p, bias, y, shared, part, count, pairs, repeat, (u64)e * n, n, k);
    else moe_nbits_tiles_of<BITS, 2>(x, list, p, bias, y, shared, part, count, pairs, repeat, (u64)e * n, n, k);
  }
}
template <class T>
DEV void moe_nbits_tiles_body(const T* x, const i32* rows, const i32* offsets, const u8* w, const u8* scales, const u8* zeros, const T* bias, f32* y,
                              u32 pairs, u32 tokens, u32 repeat, u32 experts, u32 slots, u32 n, u32 k, u32 bits, u32 row_bytes, u32 blocks,
                              u32 shift, u32 scale_kind, u32 zero_kind, u32 has_bias) {
  LDS(f32, part, 8 * 2 * 256);
  LDS(T, shared, 8 * 32 * FRAG_LD);
  Packed p = {w, scales, zeros, row_bytes, blocks, shift, scale_kind, zero_kind};
  u32 e = packed_expert(offsets, block_z(), slots, experts);
  if (e >= experts) return;
  bias = has_bias ? bias : 0;
  if (bits == 4) moe_nbits_tiles_by<4>(x, rows, offsets, p, bias, y, shared, part, pairs, repeat, e, n, k);
  else if (bits == 8) moe_nbits_tiles_by<8>(x, rows, offsets, p, bias, y, shared, part, pairs, repeat, e, n, k);
  else moe_nbits_tiles_by<2>(x, rows, offsets, p, bias, y, shared, part, pairs, repeat, e, n, k);
}
// Codes that become factors of matrix instructions in registers: a block computes 16 outputs of an expert for 16 of its pairs at a time.
template <bool FEW>
DEV void moe_nbits_coded_of(const f16* x, const i32* list, const Coded& p, const f16* bias, f32* y, f32* part, u32 count, u32 pairs, u32 repeat,
                            u32 first, u32 n, u32 k) {
  u32 column = block_x() * 16, t = thread_id(), row = t / 16, c = column + t % 16;
  RowPointers<f16> xp[1];
  for (int i = 0; i < FRAG_ROWS; i++) {
    u32 pair = min_u((u32)list[min_u(frag_row(i), count - 1)], pairs - 1);
    xp[0].p[i] = x + (u64)(pair / repeat) * k;
  }
  CodedLane lanes[1] = {coded_lane(p, first, column, n)};
  Acc sum[1][1];
  coded_stream<FEW>(xp, lanes, k, sum);
  sum_waves(sum[0], part);
  if (row < count && c < n) y[(u64)min_u((u32)list[row], pairs - 1) * n + c] = part[t] + (bias ? to_f32(bias[first + c]) : 0.f);
  block_sync();
}
template <class T>
DEV void moe_nbits_coded_body(const T* x, const i32* rows, const i32* offsets, const u8* w, const u8* scales, const u8* zeros, const T* bias, f32* y,
                              u32 pairs, u32 tokens, u32 repeat, u32 experts, u32 slots, u32 n, u32 k, u32 bits, u32 row_bytes, u32 blocks,
                              u32 shift, u32 scale_kind, u32 zero_kind, u32 has_bias) {
  LDS(f32, part, 8 * 256);
  u32 e = packed_expert(offsets, block_z(), slots, experts);
  if (e >= experts) return;
  bias = has_bias ? bias : 0;
  if (!aligned_wide(x, w)) {
    Packed p = {w, scales, zeros, row_bytes, blocks, shift, scale_kind, zero_kind};
    moe_nbits_rows_by<4>(x, rows, offsets, p, bias, y, pairs, repeat, e, n, k);
    return;
  }
  Coded p = {w, (const u16*)scales, zero_kind == ZERO_PACKED ? zeros : 0, row_bytes, blocks, shift};
  u32 first = (u32)offsets[e], last = min_u((u32)offsets[e + 1], pairs);
  for (; first < last; first += 16) {
    u32 count = min_u(16, last - first);
    if (FRAG_HALVES == 2 && count <= 8)
      moe_nbits_coded_of<FRAG_HALVES == 2>(x, rows + first, p, bias, y, part, count, pairs, repeat, e * n, n, k);
    else moe_nbits_coded_of<false>(x, rows + first, p, bias, y, part, count, pairs, repeat, e * n, n, k);
  }
}
KERNELS_moe_nbits_coded
KERNELS_moe_nbits_rows
KERNELS_moe_nbits_tiles
