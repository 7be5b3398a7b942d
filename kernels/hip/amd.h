// AMD, through clang offline or hipRTC; RDNA 3 and 3.5 (wave32, WMMA). RDNA 4 needs other matrix builtins.
#pragma once
#define DEV static inline __attribute__((device, always_inline))
#define DEV_MEMBER inline __attribute__((device, always_inline))
#define NOINLINE_DEV static __attribute__((device, noinline))
#define KERNEL(name, block, params, ...)                                                                         \
  extern "C" __attribute__((global)) __attribute__((amdgpu_flat_work_group_size(block, block))) void name params { \
    __VA_ARGS__;                                                                                                   \
  }
#define KERNEL_OF_ITEMS KERNEL
#define LDS(T, name, n) __attribute__((shared, aligned(16))) T name[n]
typedef _Float16 f16;
typedef __bf16 bf16;
struct alignas(16) __attribute__((may_alias)) Wide { u32 w[4]; };
template <class T> DEV Wide load_wide(const T* p) { return *(const Wide*)p; }
template <class T> DEV void store_wide(T* p, const Wide& v) { *(Wide*)p = v; }
template <class T> DEV T of_bits(u16 b) { return __builtin_bit_cast(T, b); }
DEV u32 thread_id() { return __builtin_amdgcn_workitem_id_x(); }
DEV u32 block_x() { return __builtin_amdgcn_workgroup_id_x(); }
DEV u32 block_y() { return __builtin_amdgcn_workgroup_id_y(); }
DEV u32 block_z() { return __builtin_amdgcn_workgroup_id_z(); }
DEV u32 lane_id() { return __builtin_amdgcn_mbcnt_lo(~0u, 0u); }
// Orders shared memory only: what waves pass each other through global memory needs a full fence.
DEV void block_sync() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup", "local");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup", "local");
}
// What the lanes of a wave pass each other through shared memory: one wave's accesses happen in order.
DEV void wave_sync() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}
DEV f32 to_f32(f32 x) { return x; }
DEV f32 to_f32(f16 x) { return (f32)x; }
DEV f32 to_f32(bf16 x) { return __builtin_bit_cast(f32, (u32)__builtin_bit_cast(u16, x) << 16); }
DEV void from_f32(f32& d, f32 x) { d = x; }
DEV void from_f32(f16& d, f32 x) { d = (f16)x; }
DEV void from_f32(bf16& d, f32 x) {
  u32 u = __builtin_bit_cast(u32, x);
  u32 rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  d = __builtin_bit_cast(bf16, (u16)((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 64 : rounded));
}
DEV u32 bits_of(f32 x) { return __builtin_bit_cast(u32, x); }
DEV f32 f32_of(u32 x) { return __builtin_bit_cast(f32, x); }
DEV i32 shuffle(i32 v, i32 lane) { return __builtin_amdgcn_ds_bpermute(lane << 2, v); }
DEV f32 shuffle(f32 v, i32 lane) { return f32_of((u32)shuffle((i32)bits_of(v), lane)); }
// DPP within a row of 16, then across the halves.
template <int M> DEV i32 shuffle_xor(i32 v) {
  if constexpr (M < 16) return __builtin_amdgcn_update_dpp(v, v, 0x160 + M, 0xf, 0xf, true);
  else return (i32)__builtin_amdgcn_permlanex16((u32)v, (u32)v, 0x76543210u, 0xfedcba98u, false, false);
}
template <int M> DEV f32 shuffle_xor(f32 v) { return f32_of((u32)shuffle_xor<M>((i32)bits_of(v))); }
DEV u32 ballot(bool b) { return __builtin_amdgcn_ballot_w32(b); }
DEV u32 count_bits(u32 x) { return (u32)__builtin_popcount(x); }
DEV f32 exp_(f32 x) { return __builtin_expf(x); }
DEV f32 log_(f32 x) { return __builtin_logf(x); }
DEV f32 sqrt_(f32 x) { return __builtin_sqrtf(x); }
DEV f32 fma_(f32 a, f32 b, f32 c) { return __builtin_fmaf(a, b, c); }
DEV f64 fma_(f64 a, f64 b, f64 c) { return __builtin_fma(a, b, c); }
DEV f32 floor_(f32 x) { return __builtin_floorf(x); }
DEV f32 ceil_(f32 x) { return __builtin_ceilf(x); }
DEV f32 rint_(f32 x) { return __builtin_rintf(x); }
DEV f64 rint_(f64 x) { return __builtin_rint(x); }
DEV f64 trunc_(f64 x) { return __builtin_trunc(x); }
DEV u32 exchange(u32* at, u32 v) { return __atomic_exchange_n(at, v, __ATOMIC_RELAXED); }
// Pairs of f16 in a word.
typedef f16 f16x2 __attribute__((ext_vector_type(2)));
DEV u32 pair_fma(u32 a, u32 b, u32 c) {
  return __builtin_bit_cast(u32, __builtin_elementwise_fma(__builtin_bit_cast(f16x2, a), __builtin_bit_cast(f16x2, b), __builtin_bit_cast(f16x2, c)));
}
DEV u32 pair_mul(u32 a, u32 b) { return __builtin_bit_cast(u32, __builtin_bit_cast(f16x2, a) * __builtin_bit_cast(f16x2, b)); }
// Byte B of x in the low byte of each half, 0x64 above it.
template <int B> DEV u32 spread_byte(u32 x) { return __builtin_amdgcn_perm(0x64646464u, x, 0x04000400u | B * 0x00010001u); }
DEV i32 dot4_i8(i32 a, i32 b, i32 c) { return __builtin_amdgcn_sudot4(true, a, true, b, c, false); }
// Matrix fragments of 16x16x16. A and B: lane l holds row l & 15, sixteen k side by side; both halves of the wave the same.
typedef f16 f16x16 __attribute__((ext_vector_type(16)));
typedef short s16x16 __attribute__((ext_vector_type(16)));
typedef f32 f32x8 __attribute__((ext_vector_type(8)));
typedef i32 i32x4 __attribute__((ext_vector_type(4)));
template <class T> struct Frag { s16x16 v; };
struct Acc { f32x8 v; };
template <class T> DEV void frag_load(Frag<T>& f, const T* p, u32 ld) {
  const T* q = p + (lane_id() & 15) * ld;
  union { s16x16 s; i32x4 i[2]; } u;
  u.i[0] = ((const i32x4*)q)[0];
  u.i[1] = ((const i32x4*)q)[1];
  f.v = u.s;
}
// FRAG_LD keeps the rows of a tile in shared memory on different banks.
enum { FRAG_ROWS = 1, FRAG_LD = 40 };
DEV u32 frag_row(u32) { return lane_id() & 15; }
// 32 inputs of the row p, from input k on.
template <class T> DEV void frag_load_wide(Frag<T> (&f)[2], const T* const (&p)[1], u32 k) {
  union { s16x16 s; Wide w[2]; } u[2];
  for (int i = 0; i < 2; i++) {
    u[i].w[0] = load_wide(p[0] + k + i * 16);
    u[i].w[1] = load_wide(p[0] + k + i * 16 + 8);
    f[i].v = u[i].s;
  }
}
// 128 inputs of a tile of 4-bit codes, and the 4 products of 32 inputs that are made of them: a lane takes 64 bytes of its row.
enum { CODE_LOADS = 4, FRAG_HALVES = 1 };
DEV u32 code_row(u32) { return 0; }
DEV u32 code_input(u32 load) { return load * 32; }
template <bool FEW, class T> DEV void frag_load_codes(Frag<T> (&f)[2], const T* const (&p)[1], u32 k, u32 s) { frag_load_wide(f, p, k + s * 32); }
// `pairs` unpacks a word of the codes of load i to 4 words.
template <class T, class F> DEV void frag_of_codes(Frag<T> (&f)[2], const Wide (&codes)[4], u32 s, F pairs) {
  union { s16x16 s; u32 w[8]; } u[2];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    u32 four[4];
    pairs(codes[s].w[i], s, four);
    for (int j = 0; j < 4; j++) u[i / 2].w[i % 2 * 4 + j] = four[j];
  }
  for (int i = 0; i < 2; i++) f[i].v = u[i].s;
}
DEV void acc_zero(Acc& a) { a.v = (f32x8)(0.0f); }
DEV void tile_mma(Acc& c, const Frag<f16>& a, const Frag<f16>& b) {
  c.v = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(__builtin_bit_cast(f16x16, a.v), __builtin_bit_cast(f16x16, b.v), c.v);
}
DEV void tile_mma(Acc& c, const Frag<bf16>& a, const Frag<bf16>& b) {
  c.v = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(a.v, b.v, c.v);
}
template <bool FEW> DEV void tile_mma_some(Acc& c, const Frag<f16>& a, const Frag<f16>& b) { tile_mma(c, a, b); }
DEV u32 acc_row(u32 i) { return 2 * i + (lane_id() >> 4); }
DEV u32 acc_col(u32) { return lane_id() & 15; }
// Whether elements 2 i and 2 i + 1 lie side by side in a row.
enum { ACC_PAIRS = 0 };
DEV f32 acc_get(const Acc& a, u32 i) { return a.v[i]; }
