// Normalisation over the last dimensions: a block per row. Scale and bias, where they are there, have `n` elements.
#include "prelude.h"
// Rows of whole 16 bytes that fit the registers of a block are read once.
template <class T> DEV void rms_norm_wide(const T* from, const T* scale, T* to, f32* part, u32 n, u32 has_scale, f32 eps) {
  enum { TIMES = 4 };
  f32 v[TIMES][8], w[TIMES][8], sum = 0.f;
#pragma unroll
  for (u32 j = 0; j < TIMES; j++) {
    u32 i = (j * 256 + thread_id()) * 8;
    if (i >= n) continue;
    load_elements(from + i, v[j]);
    if (has_scale) load_elements(scale + i, w[j]);
    for (u32 e = 0; e < 8; e++) sum += v[j][e] * v[j][e];
  }
  f32 inverse = 1.f / sqrt_(block_sum<256>(sum, part) / (f32)n + eps);
#pragma unroll
  for (u32 j = 0; j < TIMES; j++) {
    u32 i = (j * 256 + thread_id()) * 8;
    if (i >= n) continue;
    for (u32 e = 0; e < 8; e++) from_f32(to[i + e], v[j][e] * inverse * (has_scale ? w[j][e] : 1.f));
  }
}
template <class T> DEV void rms_norm_body(const T* x, const T* scale, T* y, u32 rows, u32 n, u32 has_scale, f32 eps) {
  LDS(f32, part, 8);
  const T* from = x + (u64)block_x() * n;
  T* to = y + (u64)block_x() * n;
  if (n % 8 == 0 && n <= 4 * 256 * 8 && aligned_wide(from, has_scale ? scale : from)) return rms_norm_wide(from, scale, to, part, n, has_scale, eps);
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
