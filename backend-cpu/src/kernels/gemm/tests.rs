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
    Isa::available()
        .flat_map(|isa| [1, 3].map(|threads| Pool::with_isa(threads, isa)))
        .collect()
}

fn linear_case<E: Element + Default>(
    pool: &Pool,
    [m, n, k]: [usize; 3],
    seed: u64,
    from: fn(f32) -> E,
) {
    let stride = k + 3;
    let x = values(seed, m * stride);
    let w = values(seed + 1, n * k);
    let (bias, residual) = (values(seed + 2, n), values(seed + 3, m * n));
    let narrow: Vec<E> = w.iter().map(|&w| from(w)).collect();
    let mut panels = vec![E::default(); panel_elems(n, k)];
    pack_panels(&narrow, n, k, Layout::Nk, &mut panels);
    let epilogues = [
        Epilogue::NONE,
        Epilogue {
            bias: Some(&bias),
            activation: Activation::Relu,
            ..Epilogue::NONE
        },
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
        linear(
            pool,
            Rows::new(&x, m, k, stride),
            Panels::new(&panels, n, k),
            &epilogue,
            out,
            &mut scratch,
        );
        let finish = |i: usize, j: usize, sum: f64| {
            let sum = sum * f64::from(epilogue.scale)
                + epilogue.bias.map_or(0.0, |bias| f64::from(bias[j]))
                + epilogue
                    .residual
                    .map_or(0.0, |_| f64::from(residual[i * n + j]));
            match epilogue.activation {
                Activation::None => sum,
                Activation::Relu => sum.max(0.0),
                Activation::Clip(low, high) => sum.max(low.into()).min(high.into()),
            }
        };
        check(
            [m, n, k],
            |i, p| x[i * stride + p],
            |p, j| w[j * k + p],
            finish,
            |i, j| y[i * (n + 5) + j],
        );
        assert!(
            (0..m).all(|i| y[i * (n + 5) + n..][..5].iter().all(|y| y.is_nan())),
            "wrote outside the matrix"
        );
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
        for shape in [
            [1, 100, 1500],
            [5, 33, 1025],
            [25, 200, 600],
            [300, 40, 70],
            [500, 20, 3000],
        ] {
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
    let epilogue = Epilogue {
        activation: Activation::Relu,
        ..Epilogue::NONE
    };
    for pool in pools() {
        let mut y = vec![0.0; m * n];
        let mut scratch = vec![0.0; linear_scratch(&pool, m, n, k)];
        let out = MatMut::new(&mut y, m, n, n);
        linear(
            &pool,
            Rows::new(&x, m, k, k),
            Panels::new(&panels, n, k),
            &epilogue,
            out,
            &mut scratch,
        );
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
