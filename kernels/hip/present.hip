// Keys or values of sequences that have filled a buffer to lengths of their own: new rows behind the old ones, zeros behind those.
#include "prelude.h"
// old[batch, heads, past, width] and rows[batch, heads, steps, width], with `inside` [batch, steps, heads, width], to
// y[batch, heads, length, width]; of a sequence the first lengths[b] - steps rows are old, none for a `prompt`. A length that does not
// fit is reported.
template <class T, class I>
DEV void present_body(const T* old, const T* rows, const I* lengths, T* y, u32 batch, u32 heads, u32 past, u32 steps, u32 length, u32 width,
                      u32 inside, u32 prompt, Report* report) {
  u64 i = (u64)block_x() * 256 + thread_id();
  if (i >= (u64)batch * heads * length * width) return;
  u32 c = (u32)(i % width), row = (u32)(i / width % length), head = (u32)(i / width / length % heads);
  u64 b = i / width / length / heads;
  i64 end = prompt ? (i64)steps : (i64)lengths[b];
  T none;
  from_f32(none, 0.f);
  y[i] = none;
  if (end < (i64)steps || end > (i64)length || end - steps > (i64)past) { report_index(report, end); return; }
  i64 start = end - steps;
  if ((i64)row < start) y[i] = old[((b * heads + head) * past + row) * width + c];
  else if ((i64)row < end) {
    u64 step = (u64)(row - start);
    y[i] = rows[(inside ? (b * steps + step) * heads + head : (b * heads + head) * steps + step) * width + c];
  }
}
KERNELS_present
