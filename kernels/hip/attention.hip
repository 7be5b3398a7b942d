// Attention, a block per query: its waves share the keys. Scores are computed twice, for their maximum and for the sum, so that
// nothing needs rescaling. At most 256 elements a head.
#include "prelude.h"
enum { CAUSAL = 1, LEFT = 2, RIGHT = 4, MASK = 8, GUARD = 16, CAP = 32 };
DEV f32 mask_of(u8 m) { return m ? 0.f : -infinity(); }
DEV f32 mask_of(f32 m) { return m; }
DEV f32 mask_of(f16 m) { return to_f32(m); }
DEV f32 mask_of(bf16 m) { return to_f32(m); }
// shape: strides in elements of q, k, v, y by batch, head and step; then of the mask by batch, head, step and key.
template <class T, class M>
DEV void attention_body(const T* q, const T* k, const T* v, const M* mask, T* y, u32 batch, u32 heads, u32 kv_heads, u32 s, u32 t, u32 d,
                        u32 dv, u32 flags, i32 offset, i32 left, i32 right, u32 mask_columns, u32 mask_count, f32 scale, f32 cap,
                        const Words<16> shape) {
  LDS(f32, part, 8);
  LDS(f32, sums, 8 * 256);
  u32 i = block_x(), h = block_y(), b = block_z(), wave = thread_id() / WAVE, lane = lane_id();
  u32 kh = h / (heads / kv_heads);
  const T* qr = q + (u64)b * shape.w[0] + (u64)h * shape.w[1] + (u64)i * shape.w[2];
  const T* kb = k + (u64)b * shape.w[3] + (u64)kh * shape.w[4];
  const T* vb = v + (u64)b * shape.w[6] + (u64)kh * shape.w[7];
  const M* mr = mask + (u64)b * shape.w[12] + (u64)h * shape.w[13] + (u64)i * shape.w[14];
  i32 position = (i32)i + offset;
  f32 largest = -infinity(), sum = 0.f, seen = 0.f, bad = 0.f, acc[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  for (int pass = 0; pass < 2; pass++) {
    for (u32 j = wave; j < t; j += 8) {
      f32 bias = 0.f;
      i32 at = (i32)j;
      bool hidden = ((flags & CAUSAL) && at > position) || ((flags & LEFT) && at < position - left) ||
                    ((flags & RIGHT) && at > position + right) || ((flags & MASK) && j >= mask_columns);
      if ((flags & MASK) && !hidden) {
        bias = mask_of(mr[(u64)j * shape.w[15]]);
        hidden = bias == -infinity();
      }
      if (hidden && pass == 1) continue;
      f32 dot = 0.f;
      for (u32 e = lane; e < d; e += WAVE) dot = fma_(to_f32(qr[e]), to_f32(kb[(u64)j * shape.w[5] + e]), dot);
      f32 score = wave_sum(dot) * scale;
      if (flags & CAP) score = cap * tanh_(score / cap);
      score += bias;
      if (pass == 0) {
        // A score that is none makes all of the query's weights none, that of a hidden key too.
        if (score != score || score == infinity()) bad = 1.f;
        if (hidden) continue;
        seen = 1.f;
        largest = score > largest ? score : largest;
        continue;
      }
      f32 weight = exp_(score - largest);
      sum += weight;
      // The reference's weight is 0 only beyond the range of f64: before, a value that is not finite still shows.
      if (score - largest < -745.13f) continue;
      for (u32 c = 0; c < 8; c++)
        if (c * WAVE + lane < dv) acc[c] = fma_(weight, to_f32(vb[(u64)j * shape.w[8] + c * WAVE + lane]), acc[c]);
    }
    if (pass == 0) {
      // A wave's lanes agree; the block's waves do not yet.
      if (lane == 0) part[wave] = seen;
      block_sync();
      seen = 0.f;
      for (int w = 0; w < 8; w++) seen = max_(seen, part[w]);
      block_sync();
      if (lane == 0) part[wave] = bad;
      block_sync();
      bad = 0.f;
      for (int w = 0; w < 8; w++) bad = max_(bad, part[w]);
      block_sync();
      largest = block_max<256>(largest, part);
    }
  }
  for (u32 c = 0; c < 8; c++) sums[wave * 256 + c * WAVE + lane] = acc[c];
  if (lane == 0) part[wave] = sum;
  block_sync();
  u32 e = thread_id();
  if (e >= dv) return;
  f32 total = 0.f, value = 0.f;
  for (int w = 0; w < 8; w++) { total += part[w]; value += sums[w * 256 + e]; }
  value = value / total;
  // Only -inf is left to subtract from itself: as not a number as a score that is none.
  if (bad != 0.f || largest == -infinity()) value = flags & GUARD ? 0.f : not_a_number();
  if (seen == 0.f) value = 0.f;
  from_f32(y[(u64)b * shape.w[9] + (u64)h * shape.w[10] + (u64)i * shape.w[11] + e], value);
}
KERNELS_attention
