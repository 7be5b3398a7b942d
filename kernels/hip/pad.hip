// Elements added before and after along axes, or taken away. A thread per element of the result.
#include "prelude.h"
enum { CONSTANT, REFLECT, EDGE, WRAP };
// shape: rank, then of up to 6 dimensions, outermost first: elements of the result, elements kept of x, the first of them,
// elements before them, and the stride in x.
template <class T>
DEV void pad_body(const T* x, const T* value, T* y, u32 n, u32 x_count, u32 has_value, u32 mode, const Words<31> shape) {
  u32 i = block_x() * 256 + thread_id();
  if (i >= n) return;
  u32 rest = i, from = 0;
  bool inside = true;
  for (u32 d = shape.w[0]; d-- > 0;) {
    u32 size = shape.w[1 + d];
    i32 kept = (i32)shape.w[7 + d], at = (i32)(rest % size) - (i32)shape.w[19 + d];
    rest /= size;
    if (mode == CONSTANT) inside = inside && at >= 0 && at < kept;
    if (mode == EDGE) at = at < 0 ? 0 : at >= kept ? kept - 1 : at;
    if (mode == WRAP) at = (at % kept + kept) % kept;
    if (mode == REFLECT) {
      i32 period = kept == 1 ? 1 : 2 * (kept - 1);
      at = (at % period + period) % period;
      at = at < kept ? at : period - at;
    }
    from += (shape.w[13 + d] + (u32)at) * shape.w[25 + d];
  }
  T v = 0;
  if (inside) v = x[from];
  else if (has_value) v = value[0];
  y[i] = v;
}
KERNELS_pad
