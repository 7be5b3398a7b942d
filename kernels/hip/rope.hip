// Rotary embedding: pairs of the first 2 `half` elements of each head turned by the angle of its step. mode 0: cos and sin are
// given per batch entry and step; 1: tables read at positions; 2: tables read from one first position on.
#include "prelude.h"
template <class T, class I>
DEV void rope_body(const T* x, const T* cos, const T* sin, const I* positions, T* y, u32 rows, u32 d, u32 half, u32 heads, u32 steps,
                   u32 heads_last, u32 interleaved, u32 mode, u32 table_rows, u32 position_count, Report* report) {
  u64 i = (u64)block_x() * 256 + thread_id();
  if (i >= (u64)rows * d) return;
  u32 row = (u32)(i / d), j = (u32)(i % d);
  if (j >= 2 * half) { y[i] = x[i]; return; }
  u32 b = row / (heads * steps), s = heads_last ? row / heads % steps : row % steps;
  i64 at = (i64)b * steps + s;
  if (mode == 1) at = checked_index((i64)positions[at], table_rows, report);
  if (mode == 2) {
    i64 first = (i64)positions[0];
    at = checked_index((first > 0 ? first : 0) + s, table_rows, report);
  }
  if (at < 0) return;
  u32 pair = interleaved ? j / 2 : j % half;
  bool second = interleaved ? j & 1 : j >= half;
  u64 start = (u64)row * d;
  f32 a = to_f32(x[start + (interleaved ? 2 * pair : pair)]), c = to_f32(x[start + (interleaved ? 2 * pair + 1 : half + pair)]);
  f32 co = to_f32(cos[at * half + pair]), si = to_f32(sin[at * half + pair]);
  from_f32(y[i], second ? a * si + c * co : a * co - c * si);
}
KERNELS_rope
