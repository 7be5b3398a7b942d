// The same kernels on x86-64: one fiber per thread of a block, waves of 32 in lockstep at wave operations, the matrix layout
// of RDNA 3 exactly. Finds waves and barriers that diverge; shared memory is poisoned, waves run in a shuffled order.
// Kernels whose threads are independent run as a plain loop. With watch.h, every access is held against the extents
// that the launch declares. The runtime below is self-contained but for libc.
#pragma once
extern "C" {
void* mmap(void*, unsigned long, int, int, int, long);
int munmap(void*, unsigned long);
void* aligned_alloc(unsigned long, unsigned long);
void* calloc(unsigned long, unsigned long);
void free(void*);
void* memset(void*, int, unsigned long);
void* memcpy(void*, const void*, unsigned long);
int memcmp(const void*, const void*, unsigned long);
int strcmp(const char*, const char*);
float expf(float);
float logf(float);
}
#define DEV static inline
#ifdef __clang__
#define UNWATCHED __attribute__((disable_sanitizer_instrumentation))
#else
#define UNWATCHED
#endif
#define DEV_MEMBER inline
#define NOINLINE_DEV static
#define LDS(T, name, n) T(&name)[n] = *(T(*)[n])simulator::lds(sizeof(T) * (n))
typedef _Float16 f16;
struct bf16 { u16 b; };
struct alignas(16) __attribute__((may_alias)) Wide { u32 w[4]; };
template <class T> static inline Wide load_wide(const T* p) { return *(const Wide*)p; }
template <class T> static inline void store_wide(T* p, const Wide& v) { *(Wide*)p = v; }
template <class T> static inline T of_bits(u16 b) { return __builtin_bit_cast(T, b); }

namespace simulator {
enum { RUN, WAVE_OP, BARRIER, DONE };
// What goes wrong in a launch; the message is the driver's to give.
enum { FINE, DIVERGED, TOO_MUCH_LDS, NOT_INDEPENDENT, UPPER_LANES_DIFFER, OUTSIDE };
struct alignas(64) Slot { u32 w[16]; };
struct Wave { Slot a[2][32], b[2][32]; };
struct Fiber { void* sp; u32 tid, lane, lds, seq; int state; const char* op; Wave* wave; };
struct Context { void* scheduler; Fiber* now; u32 x, y, z; char* lds; volatile int fault; };
static thread_local Context C;
// What a launch may touch: the extents that it declares, and all memory of the device, of which nothing else may be touched.
struct Extent { u64 start, end, write, touched; };
struct Range { u64 start, end; };
struct Watch { Extent* extents; u64 count; const Range* memory; u64 ranges; Range all; };
// Volatile, as the fault is: calls that use them are put in when everything else has been compiled.
static thread_local Watch* volatile watch;
extern "C" void simulator_swap(void** save, void* to);
asm(R"(
.text
.globl simulator_swap
.hidden simulator_swap
simulator_swap:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret
)");
UNWATCHED static __attribute__((noinline)) void yield(int state, const char* op) {
  Fiber* f = C.now;
  f->state = state;
  f->op = op;
  if (!f->wave) { C.fault = NOT_INDEPENDENT; return; }
  simulator_swap(&f->sp, C.scheduler);
}
static inline void* lds(unsigned long n) {
  Fiber* f = C.now;
  void* p = C.lds + f->lds;
  f->lds += (n + 15) & ~15ul;
  if (f->lds > 65536) { C.fault = TOO_MUCH_LDS; f->lds = 0; return C.lds; }
  return p;
}
}
DEV u32 thread_id() { return simulator::C.now->tid; }
DEV u32 block_x() { return simulator::C.x; }
DEV u32 block_y() { return simulator::C.y; }
DEV u32 block_z() { return simulator::C.z; }
DEV u32 lane_id() { return simulator::C.now->lane; }
DEV void block_sync() { simulator::yield(simulator::BARRIER, "block_sync"); }
DEV void wave_sync() { simulator::yield(simulator::WAVE_OP, "wave_sync"); }
DEV f32 to_f32(f32 x) { return x; }
DEV f32 to_f32(f16 x) { return (f32)x; }
DEV f32 to_f32(bf16 x) { return __builtin_bit_cast(f32, (u32)x.b << 16); }
DEV void from_f32(f32& d, f32 x) { d = x; }
DEV void from_f32(f16& d, f32 x) { d = (f16)x; }
DEV void from_f32(bf16& d, f32 x) {
  u32 u = __builtin_bit_cast(u32, x);
  u32 rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  d.b = (u16)((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 64 : rounded);
}
DEV u32 bits_of(f32 x) { return __builtin_bit_cast(u32, x); }
DEV f32 f32_of(u32 x) { return __builtin_bit_cast(f32, x); }
DEV i32 shuffle(i32 v, i32 lane) {
  simulator::Fiber* f = simulator::C.now;
  u32 s = f->seq++ & 1;
  f->wave->a[s][f->lane].w[0] = (u32)v;
  simulator::yield(simulator::WAVE_OP, "shuffle");
  return (i32)f->wave->a[s][lane & 31].w[0];
}
DEV f32 shuffle(f32 v, i32 lane) { return f32_of((u32)shuffle((i32)bits_of(v), lane)); }
template <int M> DEV i32 shuffle_xor(i32 v) { return shuffle(v, (i32)lane_id() ^ M); }
template <int M> DEV f32 shuffle_xor(f32 v) { return shuffle(v, (i32)lane_id() ^ M); }
DEV u32 ballot(bool b) {
  simulator::Fiber* f = simulator::C.now;
  u32 s = f->seq++ & 1, all = 0;
  f->wave->a[s][f->lane].w[0] = b;
  simulator::yield(simulator::WAVE_OP, "ballot");
  for (u32 i = 0; i < 32; i++) all |= f->wave->a[s][i].w[0] << i;
  return all;
}
DEV u32 count_bits(u32 x) { return (u32)__builtin_popcount(x); }
DEV f32 exp_(f32 x) { return expf(x); }
DEV f32 log_(f32 x) { return logf(x); }
DEV f32 sqrt_(f32 x) { return __builtin_sqrtf(x); }
DEV f32 fma_(f32 a, f32 b, f32 c) { return __builtin_fmaf(a, b, c); }
DEV f64 fma_(f64 a, f64 b, f64 c) { return __builtin_fma(a, b, c); }
DEV f32 floor_(f32 x) { return __builtin_floorf(x); }
DEV f32 ceil_(f32 x) { return __builtin_ceilf(x); }
DEV f32 rint_(f32 x) { return __builtin_rintf(x); }
DEV f64 rint_(f64 x) { return __builtin_rint(x); }
DEV f64 trunc_(f64 x) { return __builtin_trunc(x); }
DEV u32 exchange(u32* at, u32 v) { return __atomic_exchange_n(at, v, __ATOMIC_RELAXED); }
template <class F> DEV u32 pair_by(u32 a, u32 b, u32 c, F f) {
  u32 d = 0;
  for (int i = 0; i < 32; i += 16) {
    f32 of[3] = {to_f32(of_bits<f16>((u16)(a >> i))), to_f32(of_bits<f16>((u16)(b >> i))), to_f32(of_bits<f16>((u16)(c >> i)))};
    d |= (u32)__builtin_bit_cast(u16, (f16)f(of[0], of[1], of[2])) << i;
  }
  return d;
}
// Pairs of f16 in a word.
DEV u32 pair_fma(u32 a, u32 b, u32 c) { return pair_by(a, b, c, [](f32 x, f32 y, f32 z) { return fma_(x, y, z); }); }
DEV u32 pair_mul(u32 a, u32 b) { return pair_by(a, b, 0, [](f32 x, f32 y, f32) { return x * y; }); }
// Byte B of x in the low byte of each half, 0x64 above it.
template <int B> DEV u32 spread_byte(u32 x) { return (x >> (8 * B) & 255) * 0x00010001u | 0x64006400u; }
DEV i32 dot4_i8(i32 a, i32 b, i32 c) {
  for (int i = 0; i < 4; i++) c += (i32)(i8)(a >> (8 * i)) * (i32)(i8)(b >> (8 * i));
  return c;
}
template <class T> struct Frag { T v[16]; };
struct Acc { f32 v[8]; };
template <class T> DEV void frag_load(Frag<T>& f, const T* p, u32 ld) { memcpy(f.v, p + (lane_id() & 15) * ld, 32); }
enum { FRAG_ROWS = 1, FRAG_LD = 40 };
DEV u32 frag_row(u32) { return lane_id() & 15; }
template <class T> DEV void frag_load_wide(Frag<T> (&f)[2], const T* const (&p)[1], u32 k) {
  frag_load(f[0], p[0] + k, 0);
  frag_load(f[1], p[0] + k + 16, 0);
}
// 128 inputs of a tile of 4-bit codes, and the 4 products of 32 inputs that are made of them: a lane takes 64 bytes of its row.
enum { CODE_LOADS = 4, FRAG_HALVES = 1 };
DEV u32 code_row(u32) { return 0; }
DEV u32 code_input(u32 load) { return load * 32; }
template <bool FEW, class T> DEV void frag_load_codes(Frag<T> (&f)[2], const T* const (&p)[1], u32 k, u32 s) { frag_load_wide(f, p, k + s * 32); }
// `pairs` unpacks a word of the codes of load i to 4 words.
template <class T, class F> DEV void frag_of_codes(Frag<T> (&f)[2], const Wide (&codes)[4], u32 s, F pairs) {
  union { T t[16]; u32 w[8]; } u[2];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    u32 four[4];
    pairs(codes[s].w[i], s, four);
    for (int j = 0; j < 4; j++) u[i / 2].w[i % 2 * 4 + j] = four[j];
  }
  for (int i = 0; i < 2; i++) memcpy(f[i].v, u[i].t, 32);
}
DEV void acc_zero(Acc& a) { for (f32& x : a.v) x = 0.f; }
template <class T> DEV void tile_mma(Acc& c, const Frag<T>& a, const Frag<T>& b) {
  simulator::Fiber* f = simulator::C.now;
  simulator::Wave* w = f->wave;
  u32 s = f->seq++ & 1;
  memcpy(w->a[s][f->lane].w, a.v, 32);
  memcpy(w->b[s][f->lane].w, b.v, 32);
  simulator::yield(simulator::WAVE_OP, "tile_mma");
  u32 twin = f->lane & 15;
  if (memcmp(w->a[s][f->lane].w, w->a[s][twin].w, 32) || memcmp(w->b[s][f->lane].w, w->b[s][twin].w, 32))
    simulator::C.fault = simulator::UPPER_LANES_DIFFER;
  f32 bv[16];
  const T* bp = (const T*)w->b[s][twin].w;
  for (int k = 0; k < 16; k++) bv[k] = to_f32(bp[k]);
  for (u32 i = 0; i < 8; i++) {
    const T* ap = (const T*)w->a[s][2 * i + (f->lane >> 4)].w;
    f32 r = c.v[i];
    for (int k = 0; k < 16; k++) r += to_f32(ap[k]) * bv[k];
    c.v[i] = r;
  }
}
template <bool FEW> DEV void tile_mma_some(Acc& c, const Frag<f16>& a, const Frag<f16>& b) { tile_mma(c, a, b); }
DEV u32 acc_row(u32 i) { return 2 * i + (lane_id() >> 4); }
DEV u32 acc_col(u32) { return lane_id() & 15; }
enum { ACC_PAIRS = 0 };
DEV f32 acc_get(const Acc& a, u32 i) { return a.v[i]; }

namespace simulator {
typedef void (*Body)(void**);
static thread_local Body g_body;
static thread_local void** g_args;
static void entry() {
  g_body(g_args);
  for (;;) yield(DONE, "the end");
}
static u32 g_random = 1;
static u32 random() { g_random ^= g_random << 13; g_random ^= g_random >> 17; g_random ^= g_random << 5; return g_random; }
// Runs one wave to its next barrier or its end; gives the state its lanes agree on, -1 when they do not.
UNWATCHED static int advance(Fiber* fibers, u32 low, u32 high) {
  for (;;) {
    int state = -1;
    const char* op = 0;
    for (u32 t = low; t < high; t++) {
      if (fibers[t].state == DONE) {
        if (state != -1 && state != DONE) return -1;
        state = DONE;
        op = "the end";
        continue;
      }
      C.now = &fibers[t];
      simulator_swap(&C.scheduler, fibers[t].sp);
      if (state == -1) { state = fibers[t].state; op = fibers[t].op; }
      else if (state != fibers[t].state || strcmp(op, fibers[t].op)) return -1;
    }
    if (state != WAVE_OP) return state;
  }
}
UNWATCHED static int block(Fiber* fibers, Wave* waves, char* stacks, u32 n, unsigned long stack) {
  u32 count = (n + 31) / 32;
  memset(C.lds, 0xff, 65536);
  for (u32 t = 0; t < n; t++) {
    Fiber& f = fibers[t];
    f.tid = t; f.lane = t & 31; f.wave = &waves[t / 32]; f.lds = 0; f.seq = 0; f.state = RUN; f.op = "the start";
    void** sp = (void**)(stacks + stack * (t + 1)) - 8;
    memset(sp, 0, 64);
    sp[6] = (void*)entry;
    f.sp = sp;
  }
  for (u32 live = count; live;) {
    live = 0;
    // Every wave once, starting anywhere, forwards or backwards: code that needs an order without a barrier fails.
    u32 first = random() % count, step = random() & 1 ? 1 : count - 1;
    for (u32 i = 0; i < count; i++) {
      u32 w = (first + i * step) % count, low = w * 32, high = low + 32 < n ? low + 32 : n;
      if (fibers[low].state == DONE) continue;
      int state = advance(fibers, low, high);
      if (state < 0) return DIVERGED;
      if (C.fault) return C.fault;
      live += state != DONE;
    }
    // A barrier must be met by every wave that has not ended, and nobody may have ended before it.
    u32 ended = 0, waiting = 0;
    for (u32 w = 0; w < count; w++) fibers[w * 32].state == DONE ? ended++ : waiting++;
    if (ended && waiting) return DIVERGED;
  }
  return FINE;
}
UNWATCHED static int launch(Body body, u32 gx, u32 gy, u32 gz, u32 n, void** args) {
  const unsigned long stack = 64 << 10;
  static thread_local char* stacks;
  static thread_local u32 room;
  if (room < n) {
    if (stacks) munmap(stacks, stack * room);
    stacks = (char*)mmap(0, stack * n, 3, 0x4022, -1, 0);
    room = n;
  }
  g_body = body;
  g_args = args;
  Fiber* fibers = (Fiber*)calloc(n, sizeof(Fiber));
  Wave* waves = (Wave*)aligned_alloc(64, sizeof(Wave) * ((n + 31) / 32));
  C.lds = (char*)aligned_alloc(64, 65536);
  C.fault = FINE;
  int fault = FINE;
  for (u32 z = 0; z < gz && !fault; z++)
    for (u32 y = 0; y < gy && !fault; y++)
      for (u32 x = 0; x < gx && !fault; x++) {
        C.x = x; C.y = y; C.z = z;
        fault = block(fibers, waves, stacks, n, stack);
      }
  free(fibers);
  free(waves);
  free(C.lds);
  return fault;
}
UNWATCHED static int launch_items(Body body, u32 gx, u32 gy, u32 gz, u32 n, void** args) {
  Fiber f = {};
  C.now = &f;
  C.fault = FINE;
  for (C.z = 0; C.z < gz; C.z++)
    for (C.y = 0; C.y < gy; C.y++)
      for (C.x = 0; C.x < gx; C.x++)
        for (f.tid = 0; f.tid < n; f.tid++) { f.lane = f.tid & 31; body(args); }
  return C.fault;
}
template <unsigned long... I> struct Indices {};
template <unsigned long N, unsigned long... I> struct Make : Make<N - 1, N - 1, I...> {};
template <unsigned long... I> struct Make<0, I...> { typedef Indices<I...> type; };
template <class... A, unsigned long... I> static void call(void (*f)(A...), void** p, Indices<I...>) { f(*(A*)p[I]...); }
template <class... A> static void call(void (*f)(A...), void** p) { call(f, p, typename Make<sizeof...(A)>::type()); }
}
#define KERNEL_BY(how, name, block, params, ...)                                                            \
  static void name params { __VA_ARGS__; }                                                                  \
  extern "C" UNWATCHED int simulate_##name(u32 gx, u32 gy, u32 gz, u32 n, void** args, simulator::Watch* w) {\
    simulator::watch = w;                                                                                   \
    int fault = simulator::how([](void** p) { simulator::call(name, p); }, gx, gy, gz, n, args);            \
    simulator::watch = 0;                                                                                   \
    return fault;                                                                                           \
  }
#define KERNEL(name, block, params, ...) KERNEL_BY(launch, name, block, params, __VA_ARGS__)
#define KERNEL_OF_ITEMS(name, block, params, ...) KERNEL_BY(launch_items, name, block, params, __VA_ARGS__)
