// x[rows, k] times w[n, k] transposed, plus bias[n]: for few rows, where reading w is all the time it takes. A wave computes
// one output of up to 8 rows; a block has 8 waves.
#include "prelude.h"
template <class X, class W>
DEV void linear_rows_body(const X* x, const W* w, const X* bias, X* y, u32 rows, u32 n, u32 k, u32 has_bias) {
  u32 column = block_x() * 8 + thread_id() / WAVE, first = block_y() * 8;
  if (column >= n) return;
  const W* wr = w + (u64)column * k;
  u32 count = min_u(8, rows - first);
  f32 sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  for (u32 i = lane_id(); i < k; i += WAVE) {
    f32 v = to_f32(wr[i]);
    for (u32 r = 0; r < 8; r++)
      if (r < count) sum[r] = fma_(v, to_f32(x[(u64)(first + r) * k + i]), sum[r]);
  }
  f32 b = has_bias ? to_f32(bias[column]) : 0.f;
  for (u32 r = 0; r < 8; r++) {
    if (r >= count) break;
    f32 total = wave_sum(sum[r]);
    if (lane_id() == 0) from_f32(y[(u64)(first + r) * n + column], total + b);
  }
}
KERNELS_linear_rows
