// Every access of a kernel held against what its launch declares. The compiler calls the functions below at each one
// (-fsanitize=thread, without that sanitizer's own library): an access to memory of the device must lie within an extent that
// the manifest gives, and one that is written to for a write. What is no memory of the device (stacks, shared memory,
// parameters) is free. Vectors of more than 16 bytes are not told of, so these kernels are compiled without wide ones.
#pragma once
namespace simulator {
UNWATCHED static void touch(const volatile void* p, u64 n, bool write) {
  const Watch* w = watch;
  u64 low = (u64)p, high = low + n;
  if (!w || !n || low >= w->all.end || high <= w->all.start) return;
  bool declared = false;
  for (Extent* e = w->extents; e < w->extents + w->count; e++) {
    if (low < e->start || high > e->end || (write && !e->write)) continue;
    declared = true;
    if (high > e->touched) e->touched = high;
  }
  if (declared) return;
  for (const Range* r = w->memory; r < w->memory + w->ranges; r++)
    if (low < r->end && high > r->start) C.fault = OUTSIDE;
}
}
#define WATCHED_SIZE(n)                                                                     \
  UNWATCHED void __tsan_read##n(void* p) { simulator::touch(p, n, false); }                 \
  UNWATCHED void __tsan_write##n(void* p) { simulator::touch(p, n, true); }                 \
  UNWATCHED void __tsan_unaligned_read##n(void* p) { simulator::touch(p, n, false); }       \
  UNWATCHED void __tsan_unaligned_write##n(void* p) { simulator::touch(p, n, true); }
extern "C" {
WATCHED_SIZE(1)
WATCHED_SIZE(2)
WATCHED_SIZE(4)
WATCHED_SIZE(8)
WATCHED_SIZE(16)
UNWATCHED void __tsan_init() {}
UNWATCHED void* __tsan_memcpy(void* to, const void* from, u64 n) {
  simulator::touch(to, n, true);
  simulator::touch(from, n, false);
  return memcpy(to, from, n);
}
UNWATCHED void* __tsan_memmove(void* to, const void* from, u64 n) {
  simulator::touch(to, n, true);
  simulator::touch(from, n, false);
  return __builtin_memmove(to, from, n);
}
UNWATCHED void* __tsan_memset(void* to, int byte, u64 n) {
  simulator::touch(to, n, true);
  return memset(to, byte, n);
}
UNWATCHED u32 __tsan_atomic32_exchange(volatile u32* at, u32 v, int) {
  simulator::touch(at, 4, true);
  return __atomic_exchange_n(at, v, __ATOMIC_RELAXED);
}
}
