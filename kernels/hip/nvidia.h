// NVIDIA, through NVRTC; needs no header of CUDA.
#pragma once
#define DEV static __device__ __forceinline__
#define DEV_MEMBER __device__ __forceinline__
#define NOINLINE_DEV static __device__ __noinline__
#define KERNEL(name, block, params, ...) \
  extern "C" __global__ void __launch_bounds__(block) name params { __VA_ARGS__; }
#define KERNEL_OF_ITEMS KERNEL
#define LDS(T, name, n) __shared__ __align__(16) T name[n]
struct f16 { u16 b; };
struct bf16 { u16 b; };
struct __align__(16) Wide { u32 w[4]; };
template <class T> DEV Wide load_wide(const T* p) { return *(const Wide*)p; }
template <class T> DEV void store_wide(T* p, const Wide& v) { *(Wide*)p = v; }
template <class T> DEV T of_bits(u16 b) { T r; r.b = b; return r; }
DEV u32 thread_id() { return threadIdx.x; }
DEV u32 block_x() { return blockIdx.x; }
DEV u32 block_y() { return blockIdx.y; }
DEV u32 block_z() { return blockIdx.z; }
DEV u32 lane_id() { return threadIdx.x & 31; }
DEV void block_sync() { __syncthreads(); }
DEV void wave_sync() { __syncwarp(); }
DEV f32 to_f32(f32 x) { return x; }
DEV f32 to_f32(f16 x) { f32 r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x.b)); return r; }
DEV f32 to_f32(bf16 x) { return __uint_as_float((u32)x.b << 16); }
DEV void from_f32(f32& d, f32 x) { d = x; }
DEV void from_f32(f16& d, f32 x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(d.b) : "f"(x)); }
DEV void from_f32(bf16& d, f32 x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(d.b) : "f"(x)); }
DEV u32 bits_of(f32 x) { return __float_as_uint(x); }
DEV f32 f32_of(u32 x) { return __uint_as_float(x); }
DEV i32 shuffle(i32 v, i32 lane) { return __shfl_sync(0xffffffffu, v, lane); }
DEV f32 shuffle(f32 v, i32 lane) { return __shfl_sync(0xffffffffu, v, lane); }
template <int M> DEV i32 shuffle_xor(i32 v) { return __shfl_xor_sync(0xffffffffu, v, M); }
template <int M> DEV f32 shuffle_xor(f32 v) { return __shfl_xor_sync(0xffffffffu, v, M); }
DEV u32 ballot(bool b) { return __ballot_sync(0xffffffffu, b); }
DEV u32 count_bits(u32 x) { return (u32)__popc(x); }
DEV f32 exp_(f32 x) { return expf(x); }
DEV f32 log_(f32 x) { return logf(x); }
DEV f32 sqrt_(f32 x) { return sqrtf(x); }
DEV f32 fma_(f32 a, f32 b, f32 c) { return fmaf(a, b, c); }
DEV f64 fma_(f64 a, f64 b, f64 c) { return fma(a, b, c); }
DEV f32 floor_(f32 x) { return floorf(x); }
DEV f32 ceil_(f32 x) { return ceilf(x); }
DEV f32 rint_(f32 x) { return rintf(x); }
DEV f64 rint_(f64 x) { return rint(x); }
DEV f64 trunc_(f64 x) { return trunc(x); }
DEV u32 exchange(u32* at, u32 v) { return atomicExch(at, v); }
// Pairs of f16 in a word.
DEV u32 pair_fma(u32 a, u32 b, u32 c) { u32 d; asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c)); return d; }
DEV u32 pair_mul(u32 a, u32 b) { u32 d; asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b)); return d; }
// Byte B of x in the low byte of each half, 0x64 above it.
template <int B> DEV u32 spread_byte(u32 x) { return __byte_perm(x, 0x64646464u, 0x4040u | B * 0x0101u); }
DEV i32 dot4_i8(i32 a, i32 b, i32 c) { return __dp4a(a, b, c); }
// `Copies` of tiles.h that go straight to shared memory, which holds AHEAD + 1 steps.
#define COPIES_OF_ITS_OWN
template <int AHEAD, int PIECES> struct Copies {
  enum { STAGES = AHEAD + 1 };
  template <class T> DEV_MEMBER void ask(u32, int, T* to, const T* from) {
    u32 at = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
  }
  DEV_MEMBER void asked() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  template <class T> DEV_MEMBER void land(u32, int, T*) {}
  DEV_MEMBER void landed() { asm volatile("cp.async.wait_group %0;" ::"n"(AHEAD - 1) : "memory"); }
};
// Matrix fragments of 16x16x16. A: four registers of two halves; B: the same loader, used as two n8 halves.
template <class T> struct Frag { u32 v[4]; };
enum { FRAG_ROWS = 2, FRAG_LD = 32 };
DEV u32 frag_row(u32 i) { return (lane_id() >> 2) + i * 8; }
// 32 inputs of the rows p, from input k on: a lane takes 8 side by side, which two products share.
template <class T> DEV void frag_load_wide(Frag<T> (&f)[2], const T* const (&p)[2], u32 k) {
  u32 at = k + (lane_id() & 3) * 8;
  Wide a = load_wide(p[0] + at), b = load_wide(p[1] + at);
  f[0].v[0] = a.w[0]; f[0].v[1] = b.w[0]; f[0].v[2] = a.w[1]; f[0].v[3] = b.w[1];
  f[1].v[0] = a.w[2]; f[1].v[1] = b.w[2]; f[1].v[2] = a.w[3]; f[1].v[3] = b.w[3];
}
// Of 8 rows only, where FEW: the others are not read.
template <bool FEW, class T> DEV void frag_load_some(Frag<T> (&f)[2], const T* const (&p)[2], u32 at) {
  Wide a = load_wide(p[0] + at), b = {};
  if (!FEW) b = load_wide(p[1] + at);
  f[0].v[0] = a.w[0]; f[0].v[1] = b.w[0]; f[0].v[2] = a.w[1]; f[0].v[3] = b.w[1];
  f[1].v[0] = a.w[2]; f[1].v[1] = b.w[2]; f[1].v[2] = a.w[3]; f[1].v[3] = b.w[3];
}
// 128 inputs of a tile of 4-bit codes, and the 4 products of 32 inputs that are made of them: a lane takes 16 bytes of each of its
// rows, of which word s is its part of product s.
enum { CODE_LOADS = 2, FRAG_HALVES = 2 };
DEV u32 code_row(u32 load) { return load; }
DEV u32 code_input(u32) { return (lane_id() & 3) * 32; }
template <bool FEW, class T> DEV void frag_load_codes(Frag<T> (&f)[2], const T* const (&p)[2], u32 k, u32 s) {
  frag_load_some<FEW>(f, p, k + (lane_id() & 3) * 32 + s * 8);
}
// `pairs` unpacks a word of the codes of load i to 4 words.
template <class T, class F> DEV void frag_of_codes(Frag<T> (&f)[2], const Wide (&codes)[2], u32 s, F pairs) {
  u32 a[4], b[4];
  pairs(codes[0].w[s], 0, a);
  pairs(codes[1].w[s], 1, b);
  f[0].v[0] = a[0]; f[0].v[1] = b[0]; f[0].v[2] = a[1]; f[0].v[3] = b[1];
  f[1].v[0] = a[2]; f[1].v[1] = b[2]; f[1].v[2] = a[3]; f[1].v[3] = b[3];
}
struct Acc { f32 v[8]; };
template <class T> DEV void frag_load(Frag<T>& f, const T* p, u32 ld) {
  u32 r = lane_id() >> 2, k = (lane_id() & 3) * 2;
  f.v[0] = *(const u32*)(p + r * ld + k);
  f.v[1] = *(const u32*)(p + (r + 8) * ld + k);
  f.v[2] = *(const u32*)(p + r * ld + k + 8);
  f.v[3] = *(const u32*)(p + (r + 8) * ld + k + 8);
}
DEV void acc_zero(Acc& a) { for (int i = 0; i < 8; i++) a.v[i] = 0.f; }
#define MMA_(ty, c0, b0)                                                                                                    \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." ty "." ty ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};" \
               : "+f"(c.v[c0]), "+f"(c.v[c0 + 1]), "+f"(c.v[c0 + 2]), "+f"(c.v[c0 + 3])                               \
               : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b.v[b0]), "r"(b.v[b0 + 2]));
DEV void tile_mma(Acc& c, const Frag<f16>& a, const Frag<f16>& b) { MMA_("f16", 0, 0) MMA_("f16", 4, 1) }
DEV void tile_mma(Acc& c, const Frag<bf16>& a, const Frag<bf16>& b) { MMA_("bf16", 0, 0) MMA_("bf16", 4, 1) }
// With 8 rows of b only, where FEW.
template <bool FEW> DEV void tile_mma_some(Acc& c, const Frag<f16>& a, const Frag<f16>& b) {
  MMA_("f16", 0, 0)
  if (!FEW) { MMA_("f16", 4, 1) }
}
DEV u32 acc_row(u32 i) { return (lane_id() >> 2) + ((i >> 1) & 1) * 8; }
DEV u32 acc_col(u32 i) { return (lane_id() & 3) * 2 + (i & 1) + (i >> 2) * 8; }
// Elements 2 i and 2 i + 1 lie side by side in a row.
enum { ACC_PAIRS = 1 };
DEV f32 acc_get(const Acc& a, u32 i) { return a.v[i]; }
