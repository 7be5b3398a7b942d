// What every platform has: names of types, and the width of a wave. The platform's header follows (amd.h, nvidia.h or
// simulator.h), then common.h, math.h and the signatures that are generated from manifest.yaml.
#pragma once
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;
typedef float f32;
typedef double f64;
#define WAVE 32
// A block of words passed by value: shapes and strides.
template <int N> struct Words { u32 w[N]; };
// An index out of range, reported by the step that met it.
struct Report { u32 set; u32 spare; i64 index; };
