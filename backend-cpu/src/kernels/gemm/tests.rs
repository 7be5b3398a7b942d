//! Each product against a plain f64 loop, on each instruction set of the machine.

use half::{bf16, f16};
use proptest::prelude::*;

use super::super::pack::{Layout, pack_panels};
use super::*;

/// Pseudo-random values in -1..1 that all element types hold exactly.
pub(crate) fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as i32 % 128) as f32 / 128.0
    };
    (0..len).map(next).collect()
}

/// Checks `y` against `sum_p a(i, p) b(p, j)` with an error bound of 1e-6 of the sum of absolute products, then
/// `finish`.
fn check(
    [m, n, k]: [usize; 3],
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
    finish: impl Fn(usize, usize, f64) -> f64,
    y: impl Fn(usize, usize) -> f32,
) {
    for i in 0..m {
        for j in 0..n {
            let terms = (0..k).map(|p| f64::from(a(i, p)) * f64::from(b(p, j)));
            let sum: f64 = terms.clone().sum();
            let size: f64 = terms.map(f64::abs).sum();
            let (want, got) = (finish(i, j, sum), f64::from(y(i, j)));
            let error = (want - got).abs();
            assert!(
                error <= 1e-6 * (size + want.abs() + 1.0) || (want.is_nan() && got.is_nan()),
                "({i}, {j}) of {m} x {n} x {k}: {got}, not {want}"
            );
        }
    }
}

fn pools() -> Vec<Pool> {
    Isa::available().flat_map(|isa| [1, 3].map(|threads| Pool::with_isa(threads, isa))).collect()
}

fn linear_case<E: Element + Default>(pool: &Pool, [m, n, k]: [usize; 3], seed: u64, from: fn(f32) -> E) {
    let stride = k + 3;
    let x = values(seed, m * stride);
    let w = values(seed + 1, n * k);
    let (bias, residual) = (values(seed + 2, n), values(seed + 3, m * n));
    let narrow: Vec<E> = w.iter().map(|&w| from(w)).collect();
    let mut panels = vec![E::default(); panel_elems(n, k)];
    pack_panels(&narrow, n, k, Layout::Nk, &mut panels);
    let epilogues = [
        Epilogue::NONE,
        Epilogue { bias: Some(&bias), activation: Activation::Relu, ..Epilogue::NONE },
        Epilogue {
            scale: 0.5,
            bias: Some(&bias),
            residual: Some(Rows::new(&residual, m, n, n)),
            activation: Activation::Clip(-0.75, 1.5),
        },
    ];
    for epilogue in epilogues {
        let mut y = vec![f32::NAN; m * (n + 5)];
        let mut scratch = vec![f32::NAN; linear_scratch(pool, m, n, k)];
        let out = MatMut::new(&mut y, m, n, n + 5);
        linear(pool, Rows::new(&x, m, k, stride), Panels::new(&panels, n, k), &epilogue, out, &mut scratch);
        let finish = |i: usize, j: usize, sum: f64| {
            let sum = sum * f64::from(epilogue.scale)
                + epilogue.bias.map_or(0.0, |bias| f64::from(bias[j]))
                + epilogue.residual.map_or(0.0, |_| f64::from(residual[i * n + j]));
            match epilogue.activation {
                Activation::None => sum,
                Activation::Relu => sum.max(0.0),
                Activation::Clip(low, high) => sum.max(low.into()).min(high.into()),
            }
        };
        check([m, n, k], |i, p| x[i * stride + p], |p, j| w[j * k + p], finish, |i, j| y[i * (n + 5) + j]);
        assert!((0..m).all(|i| y[i * (n + 5) + n..][..5].iter().all(|y| y.is_nan())), "wrote outside the matrix");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn linear_is_the_sum_of_products(m in 0usize..=70, n in 0usize..=70, k in 0usize..=70, seed in any::<u32>()) {
        for pool in pools() {
            linear_case(&pool, [m, n, k], seed.into(), |w| w);
            linear_case(&pool, [m, n, k], seed.into(), f16::from_f32);
            linear_case(&pool, [m, n, k], seed.into(), bf16::from_f32);
        }
    }
}

#[test]
fn linear_with_several_blocks_of_inputs_rows_and_columns() {
    for pool in pools() {
        for shape in [[1, 100, 1500], [5, 33, 1025], [25, 200, 600], [300, 40, 70], [500, 20, 3000]] {
            linear_case(&pool, shape, 7, |w| w);
        }
        linear_case(&pool, [130, 70, 1100], 8, f16::from_f32);
    }
}

#[test]
fn values_that_are_not_numbers_stay_in_their_rows() {
    let [m, n, k] = [14, 21, 19];
    let mut x = values(1, m * k);
    x[3 * k + 5] = f32::NAN;
    x[7 * k + 2] = f32::INFINITY;
    let mut panels = vec![0.0; panel_elems(n, k)];
    pack_panels(&vec![1.0; n * k], n, k, Layout::Nk, &mut panels);
    let epilogue = Epilogue { activation: Activation::Relu, ..Epilogue::NONE };
    for pool in pools() {
        let mut y = vec![0.0; m * n];
        let mut scratch = vec![0.0; linear_scratch(&pool, m, n, k)];
        let out = MatMut::new(&mut y, m, n, n);
        linear(&pool, Rows::new(&x, m, k, k), Panels::new(&panels, n, k), &epilogue, out, &mut scratch);
        for (i, row) in y.chunks(n).enumerate() {
            let right = |y: &f32| match i {
                3 => y.is_nan(),
                7 => *y == f32::INFINITY,
                _ => y.is_finite(),
            };
            assert!(row.iter().all(right), "row {i}: {row:?}");
        }
    }
}

/// How an operand lies: row-major, column-major, or with gaps in both directions.
fn lay(order: u8, rows: usize, cols: usize) -> [usize; 2] {
    match order {
        0 => [cols + 1, 1],
        1 => [1, rows + 2],
        _ => [2, 2 * rows + 1],
    }
}

fn matmul_case<E: Element>(
    pool: &Pool,
    [m, n, k]: [usize; 3],
    orders: [u8; 2],
    batch: [usize; 2],
    seed: u64,
    from: fn(f32) -> E,
) {
    let (a_strides, b_strides) = (lay(orders[0], m, k), lay(orders[1], k, n));
    // The second operand is shared along the second batch axis.
    let a_size = m * a_strides[0] + k * a_strides[1] + 1;
    let b_size = k * b_strides[0] + n * b_strides[1] + 1;
    let a = values(seed, a_size * batch[0] * batch[1]);
    let b = values(seed + 1, b_size * batch[0]);
    let narrow: Vec<E> = b.iter().map(|&b| from(b)).collect();
    let (row, epilogue) = (n * batch[1], Epilogue { scale: 0.25, ..Epilogue::NONE });
    let mut y = vec![f32::NAN; batch[0] * m * row];
    let mut scratch = vec![f32::NAN; matmul_scratch(pool, m, n, k)];
    let out = MatMut::batched(&mut y, batch, [m * row, n], m, n, row);
    let a_batch = [batch[1] * a_size, a_size];
    matmul(
        pool,
        k,
        Strided { data: &a, batch_strides: a_batch, strides: a_strides },
        Strided { data: &narrow, batch_strides: [b_size, 0], strides: b_strides },
        &epilogue,
        out,
        &mut scratch,
    );
    for (outer, inner) in (0..batch[0]).flat_map(|outer| (0..batch[1]).map(move |inner| (outer, inner))) {
        let a = &a[outer * a_batch[0] + inner * a_batch[1]..];
        let b = &b[outer * b_size..];
        check(
            [m, n, k],
            |i, p| a[i * a_strides[0] + p * a_strides[1]],
            |p, j| b[p * b_strides[0] + j * b_strides[1]],
            |_, _, sum| sum * 0.25,
            |i, j| y[outer * m * row + i * row + inner * n + j],
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn matmul_is_the_sum_of_products(
        m in 0usize..=40, n in 0usize..=70, k in 0usize..=70, a in 0u8..3, b in 0u8..3, outer in 0usize..3,
        inner in 1usize..3, seed in any::<u32>()
    ) {
        for pool in pools() {
            matmul_case(&pool, [m, n, k], [a, b], [outer, inner], seed.into(), |w| w);
            matmul_case(&pool, [m, n, k], [a, b], [outer, inner], seed.into(), f16::from_f32);
        }
    }
}

#[test]
fn matmul_with_several_blocks() {
    for pool in pools() {
        for orders in [[0, 0], [0, 1], [1, 0], [2, 2]] {
            matmul_case(&pool, [100, 150, 1100], orders, [1, 1], 3, |w| w);
            matmul_case(&pool, [530, 70, 90], orders, [1, 2], 4, |w| w);
        }
    }
}

#[test]
fn sixteen_vectors_are_transposed() {
    struct Transpose<'a>(&'a [f32], &'a mut [f32]);
    impl Kernel for Transpose<'_> {
        type Output = ();
        #[inline(always)]
        fn call<S: Simd>(self, simd: S) {
            pack_rows(simd, 16, 16, |row| &self.0[row * 16..][..16], self.1);
        }
    }
    let from: Vec<f32> = (0..256u16).map(f32::from).collect();
    for isa in Isa::available() {
        let mut to = vec![0.0; 256];
        isa.run(Transpose(&from, &mut to));
        assert!((0..256).all(|i| to[i] == from[i % 16 * 16 + i / 16]), "{isa:?}");
    }
}
