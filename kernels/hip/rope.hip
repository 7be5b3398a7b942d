// Rotary positions: pairs of the first `2 half` elements of each head turned by the angle of their step. A thread per element.
// x is rows of heads of `d` elements: [batch, heads, steps, d], or with `inside` [batch, steps, heads, d].
#include "prelude.h"
template <class T, class C, class P>
DEV void rope_body(const T* x, const C* cos, const C* sin, const P* positions, T* y, u32 batch, u32 heads, u32 steps, u32 d,
                   u32 half, u32 rows, u32 places, u32 inside, u32 interleaved, Report* report) {
  u64 i = (u64)block_x() * 256 + thread_id();
  if (i >= (u64)batch * heads * steps * d) return;
  u32 e = (u32)(i % d);
  u64 row = i / d;
  u32 step = (u32)(inside ? row / heads % steps : row % steps), b = (u32)(row / heads / steps);
  i64 at = e < 2 * half ? table_row(positions, b, step, steps, rows, places, report) : 0;
  if (at >= 0) from_f32(y[i], turned(x + (i - e), cos, sin, e, half, at, interleaved));
}
KERNELS_rope
