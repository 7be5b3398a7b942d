// Matrices with zeros below or above a diagonal. A thread per element.
#include "prelude.h"
template <class T> DEV void trilu_body(const T* x, T* y, u32 n, u32 rows, u32 columns, i64 diagonal, u32 upper) {
  u32 i = block_x() * 256 + thread_id();
  if (i >= n) return;
  i64 right = (i64)(i % columns) - (i64)(i / columns % rows) - diagonal;
  y[i] = (upper ? right >= 0 : right <= 0) ? x[i] : (T)0;
}
KERNELS_trilu
