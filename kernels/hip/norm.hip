// Normalisation over the last dimensions: a block per row. Scale and bias, where they are there, have `n` elements.
#include "prelude.h"
template <class T> DEV void rms_norm_body(const T* x, const T* scale, T* y, u32 rows, u32 n, u32 has_scale, f32 eps) {
  LDS(f32, part, 8);
  const T* from = x + (u64)block_x() * n;
  T* to = y + (u64)block_x() * n;
  f32 sum = 0.f;
  for (u32 i = thread_id(); i < n; i += 256) { f32 v = to_f32(from[i]); sum += v * v; }
  f32 inverse = 1.f / sqrt_(block_sum<256>(sum, part) / (f32)n + eps);
  for (u32 i = thread_id(); i < n; i += 256) from_f32(to[i], to_f32(from[i]) * inverse * (has_scale ? to_f32(scale[i]) : 1.f));
}
template <class T>
DEV void layer_norm_body(const T* x, const T* scale, const T* bias, T* y, u32 rows, u32 n, u32 has_scale, u32 has_bias, f32 eps) {
  LDS(f32, part, 8);
  const T* from = x + (u64)block_x() * n;
  T* to = y + (u64)block_x() * n;
  f32 sum = 0.f;
  for (u32 i = thread_id(); i < n; i += 256) sum += to_f32(from[i]);
  f32 mean = block_sum<256>(sum, part) / (f32)n, square = 0.f;
  for (u32 i = thread_id(); i < n; i += 256) { f32 v = to_f32(from[i]) - mean; square += v * v; }
  f32 inverse = 1.f / sqrt_(block_sum<256>(square, part) / (f32)n + eps);
  for (u32 i = thread_id(); i < n; i += 256) {
    f32 v = (to_f32(from[i]) - mean) * inverse;
    from_f32(to[i], v * (has_scale ? to_f32(scale[i]) : 1.f) + (has_bias ? to_f32(bias[i]) : 0.f));
  }
}
// Channels of a sample in groups: a block per group, `channels` of them with `inner` elements each.
template <class T>
DEV void group_norm_body(const T* x, const T* scale, const T* bias, T* y, u32 samples, u32 groups, u32 channels, u32 inner, f32 eps) {
  LDS(f32, part, 8);
  u32 n = channels * inner;
  const T* from = x + (u64)block_x() * n;
  T* to = y + (u64)block_x() * n;
  scale += block_x() % groups * channels;
  bias += block_x() % groups * channels;
  f32 sum = 0.f;
  for (u32 i = thread_id(); i < n; i += 256) sum += to_f32(from[i]);
  f32 mean = block_sum<256>(sum, part) / (f32)n, square = 0.f;
  for (u32 i = thread_id(); i < n; i += 256) { f32 v = to_f32(from[i]) - mean; square += v * v; }
  f32 inverse = 1.f / sqrt_(block_sum<256>(square, part) / (f32)n + eps);
  for (u32 i = thread_id(); i < n; i += 256)
    from_f32(to[i], (to_f32(from[i]) - mean) * inverse * to_f32(scale[i / inner]) + to_f32(bias[i / inner]));
}
KERNELS_rms_norm
KERNELS_layer_norm
KERNELS_group_norm
