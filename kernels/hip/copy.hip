// Elements from one strided shape to another: transpose, slice, expand, concat, tile and plain copies.
#include "prelude.h"
// shape: rank, then up to 6 dimensions, strides of the source and of the target (signed, in elements), outermost first.
template <class T> DEV void copy_body(const T* x, T* y, u32 n, i64 from, i64 to, u32 from_count, u32 to_count, const Words<19> shape) {
  u32 i = block_x() * 256 + thread_id();
  if (i >= n) return;
  u32 rest = i, rank = shape.w[0];
  for (u32 d = rank; d-- > 0;) {
    u32 size = shape.w[1 + d], at = rest % size;
    rest /= size;
    from += (i64)at * (i32)shape.w[7 + d];
    to += (i64)at * (i32)shape.w[13 + d];
  }
  y[to] = x[from];
}
KERNELS_copy
