// A scalar expression of every element of up to 8 broadcast operands, interpreted: no compiler is needed for a new one.
// Registers are 64 bits: the bits of a float, or an integer. The order of codes is that of backend-hip/src/lower/map/code.rs.
#include "prelude.h"
enum { LOAD_F32, LOAD_F16, LOAD_BF16, LOAD_I64, LOAD_I32, LOAD_U8 };
enum {
  CONST_F, CONST_I, NEG_F, ABS_F, SIGN_F, EXP, LOG, SQRT, RSQRT, RECIPROCAL, SIN, COS, TAN, TANH, SIGMOID, SILU, ERF, GELU, GELU_TANH,
  RELU_F, SOFTPLUS, SOFTSIGN, HARD_SWISH, MISH, FLOOR, CEIL, ROUND, IS_NAN, IS_INF,
  NEG_I, ABS_I, SIGN_I, NOT_B, BIT_NOT, RELU_I,
  ADD_F, SUB_F, MUL_F, DIV_F, POW_F, MIN_F, MAX_F, FMOD_F, MOD_F,
  ADD_I, SUB_I, MUL_I, MIN_I, MAX_I, BIT_AND, BIT_OR, BIT_XOR,
  EQ_F, NE_F, LT_F, LE_F, GT_F, GE_F, EQ_I, NE_I, LT_I, LE_I, GT_I, GE_I,
  SELECT, F_TO_I, F_TO_I32, I_TO_F, F_TO_B, I_TO_B, WRAP_I32, WRAP_U8,
};
DEV i64 map_load(const u8* p, u32 type, i64 at) {
  switch (type) {
    case LOAD_F32: return bits_of(((const f32*)p)[at]);
    case LOAD_F16: return bits_of(to_f32(((const f16*)p)[at]));
    case LOAD_BF16: return bits_of(to_f32(((const bf16*)p)[at]));
    case LOAD_I64: return ((const i64*)p)[at];
    case LOAD_I32: return ((const i32*)p)[at];
    default: return p[at];
  }
}
DEV void map_store(u8* p, u32 type, u32 at, i64 v) {
  switch (type) {
    case LOAD_F32: ((f32*)p)[at] = f32_of((u32)v); break;
    case LOAD_F16: from_f32(((f16*)p)[at], f32_of((u32)v)); break;
    case LOAD_BF16: from_f32(((bf16*)p)[at], f32_of((u32)v)); break;
    case LOAD_I64: ((i64*)p)[at] = v; break;
    case LOAD_I32: ((i32*)p)[at] = (i32)v; break;
    default: p[at] = (u8)v;
  }
}
DEV f32 map_unary(u32 op, f32 x) {
  switch (op) {
    case NEG_F: return -x;
    case ABS_F: return abs_(x);
    case SIGN_F: return sign_(x);
    case EXP: return exp_(x);
    case LOG: return log_(x);
    case SQRT: return sqrt_(x);
    case RSQRT: return 1.f / sqrt_(x);
    case RECIPROCAL: return 1.f / x;
    case SIN: return sin_(x);
    case COS: return cos_(x);
    case TAN: return tan_(x);
    case TANH: return tanh_(x);
    case SIGMOID: return sigmoid_(x);
    case SILU: return silu_(x);
    case ERF: return erf_(x);
    case GELU: return gelu_(x);
    case GELU_TANH: return gelu_tanh_(x);
    case RELU_F: return x != x || x > 0.f ? x : 0.f;
    case SOFTPLUS: return softplus_(x);
    case SOFTSIGN: return softsign_(x);
    case HARD_SWISH: return hard_swish_(x);
    case MISH: return mish_(x);
    case FLOOR: return floor_(x);
    case CEIL: return ceil_(x);
    default: return rint_(x);
  }
}
DEV f32 map_binary(u32 op, f32 a, f32 b) {
  switch (op) {
    case ADD_F: return a + b;
    case SUB_F: return a - b;
    case MUL_F: return a * b;
    case DIV_F: return a / b;
    case POW_F: return pow_(a, b);
    case MIN_F: return b != b ? b : min_(a, b);
    case MAX_F: return b != b ? b : max_(a, b);
    case FMOD_F: return fmod_(a, b);
    default: {
      f32 r = fmod_(a, b);
      return r != 0.f && (r < 0.f) != (b < 0.f) ? r + b : r;
    }
  }
}
DEV i64 map_compare(u32 op, f32 a, f32 b) {
  switch (op) {
    case EQ_F: return a == b;
    case NE_F: return a != b;
    case LT_F: return a < b;
    case LE_F: return a <= b;
    case GT_F: return a > b;
    default: return a >= b;
  }
}
DEV i64 map_int(u32 op, i64 a, i64 b) {
  switch (op) {
    case NEG_I: return (i64)(0 - (u64)a);
    case ABS_I: return a < 0 ? (i64)(0 - (u64)a) : a;
    case SIGN_I: return (a > 0) - (a < 0);
    case NOT_B: return a == 0;
    case BIT_NOT: return ~a;
    case RELU_I: return a > 0 ? a : 0;
    case ADD_I: return (i64)((u64)a + (u64)b);
    case SUB_I: return (i64)((u64)a - (u64)b);
    case MUL_I: return (i64)((u64)a * (u64)b);
    case MIN_I: return a < b ? a : b;
    case MAX_I: return a > b ? a : b;
    case BIT_AND: return a & b;
    case BIT_OR: return a | b;
    case BIT_XOR: return a ^ b;
    case EQ_I: return a == b;
    case NE_I: return a != b;
    case LT_I: return a < b;
    case LE_I: return a <= b;
    case GT_I: return a > b;
    case GE_I: return a >= b;
    case I_TO_B: return a != 0;
    case WRAP_I32: return (i32)a;
    default: return (u8)a;
  }
}
// Floats truncate and saturate; NaN gives 0.
DEV i64 map_to_i32(f32 x) {
  if (x != x) return 0;
  return x >= 2147483648.f ? 0x7fffffff : x <= -2147483648.f ? -0x80000000ll : (i64)(i32)x;
}
DEV i64 map_to_int(f32 x) {
  if (x != x) return 0;
  if (x >= 9223372036854775808.f) return 0x7fffffffffffffffll;
  if (x <= -9223372036854775808.f) return (i64)0x8000000000000000ull;
  return (i64)x;
}
// shape: rank, 6 dimensions, 6 strides for each of 8 operands. code: inputs, steps, type of the result, types of 8 operands,
// then two words a step: operation and up to three registers, and a constant's bits.
DEV void map_body(const u8* x0, const u8* x1, const u8* x2, const u8* x3, const u8* x4, const u8* x5, const u8* x6, const u8* x7,
                  u8* y, u32 n, i64 b0, i64 b1, i64 b2, i64 b3, i64 b4, i64 b5, i64 b6, i64 b7, i64 by, const Words<55> shape,
                  const Words<75> code) {
  u32 i = block_x() * 256 + thread_id();
  if (i >= n) return;
  const u8* x[8] = {x0, x1, x2, x3, x4, x5, x6, x7};
  i64 r[40];
  u32 inputs = code.w[0], steps = code.w[1];
  i64 at[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  u32 rest = i;
  for (u32 d = shape.w[0]; d-- > 0;) {
    u32 where = rest % shape.w[1 + d];
    rest /= shape.w[1 + d];
    for (u32 j = 0; j < inputs; j++) at[j] += (i64)where * (i32)shape.w[7 + j * 6 + d];
  }
  for (u32 j = 0; j < inputs; j++) r[j] = map_load(x[j], code.w[3 + j], at[j]);
  for (u32 s = 0; s < steps; s++) {
    u32 word = code.w[11 + 2 * s], op = word & 255;
    i64 a = r[(word >> 8) & 255], b = r[(word >> 16) & 255], c = r[word >> 24], v;
    f32 fa = f32_of((u32)a), fb = f32_of((u32)b);
    if (op == CONST_F) v = code.w[12 + 2 * s];
    else if (op == CONST_I) v = (i32)code.w[12 + 2 * s];
    else if (op == IS_NAN) v = fa != fa;
    else if (op == IS_INF) v = abs_(fa) == infinity();
    else if (op == SELECT) v = a ? b : c;
    else if (op == F_TO_I) v = map_to_int(fa);
    else if (op == F_TO_I32) v = map_to_i32(fa);
    else if (op == I_TO_F) v = bits_of((f32)a);
    else if (op == F_TO_B) v = fa != 0.f;
    else if (op >= ADD_F && op <= MOD_F) v = bits_of(map_binary(op, fa, fb));
    else if (op >= EQ_F && op <= GE_F) v = map_compare(op, fa, fb);
    else if (op <= ROUND) v = bits_of(map_unary(op, fa));
    else v = map_int(op, a, b);
    r[inputs + s] = v;
  }
  map_store(y, code.w[2], i, r[inputs + steps - 1]);
}
KERNELS_map
