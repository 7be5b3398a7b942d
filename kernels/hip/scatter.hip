// Updates that fall on elements of y, which holds x already. Updates of one element meet in their order: a thread has all that
// may fall on what it writes. An index out of range is reported and its update left out.
#include "prelude.h"
enum { REPLACE, ADD, MUL, MAX, MIN };
template <class T> DEV void combine_floats(T& old, T update, u32 f) {
  f32 a = to_f32(old), b = to_f32(update);
  if (f == REPLACE) old = update;
  else from_f32(old, f == ADD ? a + b : f == MUL ? a * b : f == MAX ? max_(a, b) : min_(a, b));
}
template <class T> DEV void combine_integers(T& old, T update, u32 f) {
  u64 a = (u64)old, b = (u64)update;
  old = f == REPLACE ? update : f == ADD ? (T)(a + b) : f == MUL ? (T)(a * b) : (f == MAX) == (old > update) ? old : update;
}
DEV void combine(f32& old, f32 update, u32 f) { combine_floats(old, update, f); }
DEV void combine(f16& old, f16 update, u32 f) { combine_floats(old, update, f); }
DEV void combine(bf16& old, bf16 update, u32 f) { combine_floats(old, update, f); }
DEV void combine(i64& old, i64 update, u32 f) { combine_integers(old, update, f); }
DEV void combine(i32& old, i32 update, u32 f) { combine_integers(old, update, f); }
DEV void combine(u16& old, u16 update, u32) { old = update; }
DEV void combine(u8& old, u8 update, u32) { old = update; }
// A thread per line of updates along the axis. shape: rank, then of up to 6 dimensions their sizes in the updates (the axis has
// 1), strides in the updates, and strides in y; then both strides of the axis.
template <class T, class I>
DEV void scatter_elements_body(const I* indices, const T* updates, T* y, u32 y_count, u32 lines, u32 n, u32 size, u32 f,
                               const Words<21> shape, Report* report) {
  u32 line = block_x() * 256 + thread_id();
  if (line >= lines) return;
  u32 rest = line;
  u64 from = 0, to = 0;
  for (u32 d = shape.w[0]; d-- > 0;) {
    u32 at = rest % shape.w[1 + d];
    rest /= shape.w[1 + d];
    from += (u64)at * shape.w[7 + d];
    to += (u64)at * shape.w[13 + d];
  }
  for (u32 i = 0; i < n; i++, from += shape.w[19]) {
    i64 at = checked_index((i64)indices[from], size, report);
    if (at >= 0) combine(y[to + (u64)at * shape.w[20]], updates[from], f);
  }
}
// A thread per element of a slice. shape: sizes of the dimensions that positions are of, and their strides in y.
template <class T, class I>
DEV void scatter_nd_body(const I* indices, const T* updates, T* y, u32 y_count, u32 rows, u32 depth, u32 run, u32 f,
                         const Words<12> shape, Report* report) {
  u32 j = block_x() * 256 + thread_id();
  if (j >= run) return;
  for (u32 row = 0; row < rows; row++) {
    u64 to = j;
    bool inside = true;
    for (u32 d = 0; d < depth; d++) {
      i64 at = checked_index((i64)indices[(u64)row * depth + d], shape.w[d], report);
      inside = inside && at >= 0;
      to += (u64)(at < 0 ? 0 : at) * shape.w[6 + d];
    }
    if (inside) combine(y[to], updates[(u64)row * run + j], f);
  }
}
KERNELS_scatter_elements
KERNELS_scatter_nd
