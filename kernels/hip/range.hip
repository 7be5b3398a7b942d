// Numbers in equal steps; they wrap.
#include "prelude.h"
DEV void range_body(i64* y, u32 n, i64 start, i64 step) {
  u32 i = block_x() * 256 + thread_id();
  if (i < n) y[i] = (i64)((u64)start + (u64)step * i);
}
KERNELS_range
