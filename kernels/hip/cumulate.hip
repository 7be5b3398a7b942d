// Sums or products of the elements up to each one along an axis, floats in f64. A thread per line: an order that is always the same.
#include "prelude.h"
DEV f64 wide(f32 x) { return (f64)x; }
DEV f64 wide(f16 x) { return (f64)to_f32(x); }
DEV f64 wide(bf16 x) { return (f64)to_f32(x); }
DEV u64 wide(i64 x) { return (u64)x; }
DEV u64 wide(i32 x) { return (u64)(i64)x; }
DEV void narrow(f32& d, f64 v) { d = (f32)v; }
DEV void narrow(f16& d, f64 v) { from_f32(d, (f32)v); }
DEV void narrow(bf16& d, f64 v) { from_f32(d, (f32)v); }
DEV void narrow(i64& d, u64 v) { d = (i64)v; }
DEV void narrow(i32& d, u64 v) { d = (i32)v; }
template <class T>
DEV void cumulate_body(const T* x, T* y, u32 lines, u32 n, u32 stride, u32 product, u32 exclusive, u32 reverse) {
  u32 line = block_x() * 256 + thread_id();
  if (line >= lines) return;
  u64 start = (u64)(line / stride) * stride * n + line % stride;
  decltype(wide(x[0])) so_far = product ? 1 : 0;
  for (u32 i = 0; i < n; i++) {
    u64 at = start + (u64)(reverse ? n - 1 - i : i) * stride;
    auto v = wide(x[at]), next = product ? so_far * v : so_far + v;
    narrow(y[at], exclusive ? so_far : next);
    so_far = next;
  }
}
KERNELS_cumulate
