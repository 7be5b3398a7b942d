// Rotary positions: pairs of the first `2 half` elements of each head turned by the angle of their step. A thread per element.
// x is rows of heads of `d` elements: [batch, heads, steps, d], or with `inside` [batch, steps, heads, d].
#include "prelude.h"
template <class T, class C, class P>
DEV void rope_body(const T* x, const C* cos, const C* sin, const P* positions, T* y, u32 batch, u32 heads, u32 steps, u32 d,
                   u32 half, u32 rows, u32 places, u32 inside, u32 interleaved, Report* report) {
  u64 i = (u64)block_x() * 256 + thread_id();
  if (i >= (u64)batch * heads * steps * d) return;
  u32 e = (u32)(i % d);
  f32 own = to_f32(x[i]);
  if (e >= 2 * half) { from_f32(y[i], own); return; }
  u64 row = i / d;
  u32 step = (u32)(inside ? row / heads % steps : row % steps);
  u64 sequence = row / heads / steps * steps + step;
  i64 at;
  if (places == 1) {
    i64 first = (i64)positions[0];
    // A step beyond the table, however far.
    at = first < 0 ? step : first >= (i64)rows ? (i64)rows : first + step;
    if (at >= (i64)rows) { report_index(report, first); return; }
  } else {
    at = places ? checked_index((i64)positions[sequence], rows, report) : (i64)sequence;
    if (at < 0) return;
  }
  u32 pair = interleaved ? e / 2 : e % half;
  bool second = interleaved ? e & 1 : e >= half;
  u64 start = i - e;
  f32 other = to_f32(x[start + (interleaved ? e ^ 1 : second ? pair : pair + half)]);
  f32 c = to_f32(cos[at * half + pair]), s = to_f32(sin[at * half + pair]);
  from_f32(y[i], second ? other * s + own * c : own * c - other * s);
}
KERNELS_rope
