// Softmax and its logarithm along one axis: a block per line. Elements of a line are `stride` apart.
#include "prelude.h"
template <class T, bool LOG> DEV void softmax_lines(const T* x, T* y, u32 lines, u32 n, u32 stride) {
  LDS(f32, part, 8);
  u32 line = block_x();
  u64 start = (u64)(line / stride) * stride * n + line % stride;
  f32 largest = -infinity();
  for (u32 i = thread_id(); i < n; i += 256) {
    f32 v = to_f32(x[start + (u64)i * stride]);
    // Not max_: a NaN is left out here and comes back through the sum.
    largest = v > largest ? v : largest;
  }
  largest = block_max<256>(largest, part);
  f32 sum = 0.f;
  for (u32 i = thread_id(); i < n; i += 256) sum += exp_(to_f32(x[start + (u64)i * stride]) - largest);
  sum = block_sum<256>(sum, part);
  f32 log_sum = LOG ? log_(sum) : 0.f, inverse = 1.f / sum;
  for (u32 i = thread_id(); i < n; i += 256) {
    f32 shifted = to_f32(x[start + (u64)i * stride]) - largest;
    from_f32(y[start + (u64)i * stride], LOG ? shifted - log_sum : exp_(shifted) * inverse);
  }
}
template <class T> DEV void softmax_body(const T* x, T* y, u32 lines, u32 n, u32 stride) {
  softmax_lines<T, false>(x, y, lines, n, stride);
}
template <class T> DEV void log_softmax_body(const T* x, T* y, u32 lines, u32 n, u32 stride) {
  softmax_lines<T, true>(x, y, lines, n, stride);
}
KERNELS_softmax
KERNELS_log_softmax
