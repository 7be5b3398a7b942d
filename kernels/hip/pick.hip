// The place of the greatest or least element of every line, and the first elements of its order. A block per line; elements
// of a line are `stride` apart. NaN is greater than every number.
#include "prelude.h"
DEV f32 pick_key(f32 x) { return x; }
DEV f32 pick_key(f16 x) { return to_f32(x); }
DEV f32 pick_key(bf16 x) { return to_f32(x); }
DEV i64 pick_key(i64 x) { return x; }
DEV i64 pick_key(i32 x) { return x; }
DEV i64 pick_key(u8 x) { return x; }
DEV bool pick_none(f32 x) { return x != x; }
DEV bool pick_none(i64) { return false; }
// Below 0 where a comes first.
template <class K> DEV i32 pick_order(K a, K b, bool largest) {
  bool none_a = pick_none(a), none_b = pick_none(b);
  i32 up = none_a || none_b ? (i32)none_a - (i32)none_b : (a > b) - (a < b);
  return largest ? -up : up;
}
// The best of what the threads of a block found; `none` where they found nothing. All get it.
template <class T, class B> DEV u32 pick_best(const T* from, u32 own, u32 none, u32* found, B better) {
  u32 t = thread_id();
  found[t] = own;
  block_sync();
  for (u32 half = 128; half > 0; half /= 2) {
    if (t < half && found[t + half] != none && (found[t] == none || better(found[t + half], found[t]))) found[t] = found[t + half];
    block_sync();
  }
  u32 best = found[0];
  block_sync();
  return best;
}
template <class T> DEV void arg_reduce_body(const T* x, i64* y, u32 lines, u32 n, u32 stride, u32 largest, u32 last) {
  LDS(u32, found, 256);
  u32 line = block_x();
  const T* from = x + (u64)(line / stride) * stride * n + line % stride;
  auto better = [&](u32 i, u32 j) {
    auto a = pick_key(from[(u64)i * stride]), b = pick_key(from[(u64)j * stride]);
    // What is not a number is what is looked for, by either.
    i32 order = pick_none(a) || pick_none(b) ? (i32)pick_none(b) - (i32)pick_none(a) : pick_order(a, b, largest != 0);
    return order < 0 || (order == 0 && (last ? i > j : i < j));
  };
  u32 own = n;
  for (u32 i = thread_id(); i < n; i += 256)
    if (own == n || better(i, own)) own = i;
  u32 best = pick_best(from, own, n, found, better);
  if (thread_id() == 0) y[line] = (i64)best;
}
template <class T>
DEV void top_k_body(const T* x, T* y, i64* places, u32 lines, u32 n, u32 k, u32 stride, u32 largest) {
  LDS(u32, found, 256);
  u32 line = block_x();
  const T* from = x + (u64)(line / stride) * stride * n + line % stride;
  u64 to = (u64)(line / stride) * stride * k + line % stride;
  auto better = [&](u32 i, u32 j) {
    i32 order = pick_order(pick_key(from[(u64)i * stride]), pick_key(from[(u64)j * stride]), largest != 0);
    return order < 0 || (order == 0 && i < j);
  };
  u32 last = n;
  for (u32 c = 0; c < k; c++) {
    // The best of those behind the last one.
    u32 own = n;
    for (u32 i = thread_id(); i < n; i += 256)
      if ((last == n || better(last, i)) && (own == n || better(i, own))) own = i;
    last = pick_best(from, own, n, found, better);
    if (last >= n) return;
    if (thread_id() == 0) {
      y[to + (u64)c * stride] = from[(u64)last * stride];
      places[to + (u64)c * stride] = (i64)last;
    }
  }
}
KERNELS_arg_reduce
KERNELS_top_k
