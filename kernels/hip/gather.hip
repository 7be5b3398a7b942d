// Slices of x along one axis in the order of indices; an index out of range is reported and its slice left as it is.
#include "prelude.h"
template <class T, class I>
DEV void gather_body(const T* x, const I* indices, T* y, u32 outer, u32 n, u32 rows, u32 inner, Report* report) {
  u64 i = (u64)block_x() * 256 + thread_id();
  if (i >= (u64)outer * rows * inner) return;
  u64 in = i % inner, row = i / inner % rows, out = i / inner / rows;
  i64 at = checked_index((i64)indices[row], n, report);
  if (at >= 0) y[i] = x[(out * n + (u64)at) * inner + in];
}
KERNELS_gather
// shape: up to 6 sizes that indices are checked against, then the strides they step by.
template <class T, class I>
DEV void gather_nd_body(const T* x, const I* indices, T* y, u32 batches, u32 batch_step, u32 rows, u32 depth, u32 run,
                        const Words<12> shape, Report* report) {
  u64 i = (u64)block_x() * 256 + thread_id();
  if (i >= (u64)rows * run) return;
  u64 row = i / run, from = row / (rows / batches) * batch_step + i % run;
  for (u32 d = 0; d < depth; d++) {
    i64 at = checked_index((i64)indices[row * depth + d], shape.w[d], report);
    if (at < 0) return;
    from += (u64)at * shape.w[6 + d];
  }
  y[i] = x[from];
}
KERNELS_gather_nd
