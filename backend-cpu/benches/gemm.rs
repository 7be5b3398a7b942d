//! Speed of the matrix kernels on shapes of real models, beside what memory and the multipliers allow.
//!
//! `cargo bench -p fastinference-backend-cpu --bench gemm -- [FILTER [THREADS]]` prints the best of several rounds for each
//! shape whose label contains the filter.

use std::hint::black_box;
use std::time::{Duration, Instant};

use backend_cpu::kernels::gemm::{
    Element, Epilogue, Isa, Panels, Rows, Strided, linear, linear_scratch, matmul, matmul_scratch,
};
use backend_cpu::kernels::int4::{Compute, Int4Panels, Int4Shape, int4_scratch, linear_int4};
use backend_cpu::kernels::int8::{Int8Panels, Int8Rows, int8_panel_elems, int8_scratch, linear_int8};
use backend_cpu::kernels::pack::panel_elems;
use backend_cpu::kernels::pool::{MatMut, Pool};
use half::{bf16, f16};

/// (k, n): SmolLM2 projections and head, BERT projections, ResNet 1x1 convolutions; the first stays in the L1 cache.
const WEIGHTS: [(usize, usize); 10] = [
    (128, 32),
    (576, 576),
    (576, 1536),
    (1536, 576),
    (576, 49152),
    (768, 768),
    (768, 3072),
    (3072, 768),
    (64, 256),
    (256, 64),
];
const ROWS: [usize; 7] = [1, 2, 8, 12, 32, 128, 3136];
/// Bytes of weights to cycle through, so that they come from memory as those of a whole model do.
const WORKING_SET: usize = 160_000_000;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let filter = args.next().unwrap_or_default();
    let threads = args.next().and_then(|arg| arg.parse().ok());
    let pool = threads.map_or_else(Pool::for_machine, Pool::new);
    println!("{} threads, {:?}", pool.threads(), pool.isa());
    let time = best(|| {
        pool.run(pool.threads(), |_| {
            (0..200).for_each(|i| {
                black_box(i);
            })
        })
    });
    println!("dispatch and some 100 ns of work: {:.2} us", time.as_secs_f64() * 1e6);
    for isa in Isa::available() {
        let name = format!("{isa:?}");
        let name = name.split('(').next().unwrap_or_default();
        let bench = Bench { pool: Pool::with_isa(pool.threads(), isa), filter: format!("{filter} "), name };
        for (k, n) in WEIGHTS {
            for m in ROWS.into_iter().filter(|m| m * n * k < 10_000_000_000) {
                bench.packed("f32", 1f32, [m, n, k]);
                bench.packed("f16", f16::ONE, [m, n, k]);
                bench.packed("bf16", bf16::ONE, [m, n, k]);
                bench.row_major([m, n, k]);
                bench.int8([m, n, k]);
                bench.int4("int4", Compute::F32, [m, n, k]);
                bench.int4("int4xint8", Compute::Int8, [m, n, k]);
            }
        }
        for (heads, m, context) in [(9, 1, 128), (9, 1, 2048), (12, 128, 128), (9, 512, 512)] {
            bench.attention(heads, [m, context, 64]);
        }
    }
}

/// One pool, and which lines are wanted.
struct Bench<'a> {
    pool: Pool,
    filter: String,
    name: &'a str,
}

impl Bench<'_> {
    /// Times `call(copy)` over copies of the weights and prints what it moved and computed.
    fn report(&self, kind: &str, [m, n, k]: [usize; 3], bytes: usize, mut call: impl FnMut(usize)) {
        let copies = copies(bytes);
        let mut turn = 0;
        let time = best(|| {
            call(turn % copies);
            turn += 1;
        });
        let seconds = time.as_secs_f64();
        let (gb, gflop) = (bytes as f64 / seconds / 1e9, (2 * m * n * k) as f64 / seconds / 1e9);
        let label = format!("{kind} {} m={m} k={k} n={n}", self.name);
        println!("{label:40} {:10.1} us {gb:7.1} GB/s {gflop:7.1} GFLOP/s", seconds * 1e6);
    }

    fn wants(&self, kind: &str, [m, n, k]: [usize; 3]) -> bool {
        let label = format!("{kind} {} m={m} k={k} n={n} ", self.name);
        self.filter.split_whitespace().all(|word| label.contains(&format!("{word} ")))
    }

    fn packed<E: Element>(&self, kind: &str, one: E, shape: [usize; 3]) {
        if !self.wants(kind, shape) {
            return;
        }
        let [m, n, k] = shape;
        let elems = panel_elems(n, k);
        let weights = vec![one; elems * copies(elems * size_of::<E>())];
        let (x, mut y) = (vec![0.5f32; m * k], vec![0f32; m * n]);
        let mut scratch = vec![0f32; linear_scratch(&self.pool, m, n, k)];
        self.report(kind, shape, elems * size_of::<E>(), |copy| {
            let w = Panels::new(&weights[copy * elems..][..elems], n, k);
            let out = MatMut::new(&mut y, m, n, n);
            linear(&self.pool, Rows::new(&x, m, k, k), w, &Epilogue::NONE, out, &mut scratch);
        });
    }

    /// Weights `[n, k]` as they come, without packing.
    fn row_major(&self, shape: [usize; 3]) {
        let kind = "rows";
        if !self.wants(kind, shape) {
            return;
        }
        let [m, n, k] = shape;
        let weights = vec![1f32; n * k * copies(n * k * 4)];
        let (x, mut y) = (vec![0.5f32; m * k], vec![0f32; m * n]);
        let mut scratch = vec![0f32; matmul_scratch(&self.pool, m, n, k)];
        self.report(kind, shape, n * k * 4, |copy| {
            let w = Strided::matrix(&weights[copy * n * k..][..n * k], k).transposed();
            let out = MatMut::new(&mut y, m, n, n);
            matmul(&self.pool, k, Strided::matrix(&x, k), w, &Epilogue::NONE, out, &mut scratch);
        });
    }

    fn int8(&self, shape: [usize; 3]) {
        let kind = "int8";
        if !self.wants(kind, shape) {
            return;
        }
        let [m, n, k] = shape;
        let bytes = int8_panel_elems(n, k);
        let (weights, sums) = (vec![1i8; bytes * copies(bytes)], vec![k as i32; n]);
        let (x, mut y) = (vec![3u8; m * k], vec![0i32; m * n]);
        let mut scratch = vec![0f32; int8_scratch(&self.pool, m, n, k)];
        self.report(kind, shape, bytes, |copy| {
            let w = Int8Panels::new(&weights[copy * bytes..][..bytes], &sums, &[0], false, n, k);
            let rows = Int8Rows { data: &x, signed: false, zero_points: &[7], row_stride: k };
            linear_int8(&self.pool, rows, w, MatMut::new(&mut y, m, n, n), &mut scratch);
        });
    }

    fn int4(&self, kind: &str, compute: Compute, shape: [usize; 3]) {
        if !self.wants(kind, shape) {
            return;
        }
        let [m, n, k] = shape;
        let weight = Int4Shape { n, k, block: 32 };
        let (nibbles, plane) = (weight.nibble_bytes(), weight.plane_elems());
        let bytes = nibbles + 2 * plane;
        let weights = vec![0x96u8; nibbles * copies(bytes)];
        let scales = vec![f16::ONE; plane * copies(bytes)];
        let (x, mut y) = (vec![0.5f32; m * k], vec![0f32; m * n]);
        let mut scratch = vec![0f32; int4_scratch(&self.pool, m, weight)];
        self.report(kind, shape, bytes, |copy| {
            let nibbles = &weights[copy * nibbles..][..nibbles];
            let w = Int4Panels::new(nibbles, &scales[copy * plane..][..plane], None, weight);
            let out = MatMut::new(&mut y, m, n, n);
            linear_int4(&self.pool, Rows::new(&x, m, k, k), w, compute, &Epilogue::NONE, out, &mut scratch);
        });
    }

    /// Scores (`q k^T`) and mix (`p v`) over heads that lie side by side in each position.
    fn attention(&self, heads: usize, [m, context, dim]: [usize; 3]) {
        let row = heads * dim;
        let (q, keys) = (vec![0.5f32; m * row], vec![0.5f32; context * row]);
        let (mut scores, mut y) = (vec![0f32; heads * m * context], vec![0f32; m * row]);
        let mut scratch = vec![0f32; matmul_scratch(&self.pool, m, context.max(dim), context.max(dim))];
        let side_by_side = |data| Strided { data, batch_strides: [0, dim], strides: [row, 1] };
        let shape = [heads * m, context, dim];
        if self.wants("scores", shape) {
            self.report("scores", shape, context * row * 4, |_| {
                let out = MatMut::batched(&mut scores, [1, heads], [0, m * context], m, context, context);
                let keys = side_by_side(&keys).transposed();
                matmul(&self.pool, dim, side_by_side(&q), keys, &Epilogue::NONE, out, &mut scratch);
            });
        }
        if self.wants("mix", shape) {
            self.report("mix", shape, context * row * 4, |_| {
                let out = MatMut::batched(&mut y, [1, heads], [0, dim], m, dim, row);
                let p = Strided { data: &scores[..], batch_strides: [0, m * context], strides: [context, 1] };
                matmul(&self.pool, context, p, side_by_side(&keys), &Epilogue::NONE, out, &mut scratch);
            });
        }
    }
}

fn copies(bytes: usize) -> usize {
    (WORKING_SET / bytes).clamp(1, 200)
}

/// The best of many short rounds: on a shared machine the disturbed ones fall out.
fn best(mut call: impl FnMut()) -> Duration {
    let start = Instant::now();
    call();
    let once = start.elapsed().max(Duration::from_nanos(50));
    let calls = (Duration::from_millis(2).as_nanos() / once.as_nanos()).clamp(1, 100_000) as u32;
    let rounds = (Duration::from_millis(300).as_nanos() / (once * calls).as_nanos()).clamp(5, 60);
    (0..rounds)
        .map(|_| {
            let start = Instant::now();
            (0..calls).for_each(|_| call());
            start.elapsed() / calls
        })
        .min()
        .expect("there are rounds")
}
