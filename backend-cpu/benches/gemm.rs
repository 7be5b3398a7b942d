//! Speed of the matrix kernels on shapes of real models, beside what memory and the multipliers allow.
//!
//! `cargo bench -p fastinference-backend-cpu --bench gemm -- [FILTER [THREADS]]` prints the best of several rounds for each shape.

use std::hint::black_box;
use std::time::{Duration, Instant};

use backend_cpu::kernels::gemm::{Element, Epilogue, Isa, Panels, Rows, linear, linear_scratch};
use backend_cpu::kernels::pack::panel_elems;
use backend_cpu::kernels::pool::{MatMut, Pool};
use half::f16;

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

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let filter = args.next().unwrap_or_default();
    let threads = args.next().and_then(|arg| arg.parse().ok());
    let pool = threads.map_or_else(Pool::for_machine, Pool::new);
    println!("{} threads, {:?}", pool.threads(), pool.isa());
    dispatch(&pool);
    for isa in Isa::available() {
        let pool = Pool::with_isa(pool.threads(), isa);
        let name = format!("{isa:?}");
        let name = name.split('(').next().unwrap_or_default();
        products(&pool, 1f32, &format!("f32 {name}"), &filter);
    }
    products(&pool, f16::ONE, "f16", &filter);
}

/// The cost of an empty parallel loop.
fn dispatch(pool: &Pool) {
    let time = best(|| {
        pool.run(pool.threads(), |task| {
            black_box(task);
        })
    });
    println!("dispatch {:.2} us", time.as_secs_f64() * 1e6);
}

fn products<E: Element>(pool: &Pool, one: E, name: &str, filter: &str) {
    for (k, n) in WEIGHTS {
        for m in ROWS {
            let label = format!("{name} m={m} k={k} n={n}");
            if !label.contains(filter) || m * n * k > 10_000_000_000 {
                continue;
            }
            // Enough copies that the weights come from memory, as those of a whole model do.
            let bytes = panel_elems(n, k) * size_of::<E>();
            let copies = if m >= 128 { 1 } else { (160_000_000 / bytes).clamp(1, 200) };
            let weights = vec![one; panel_elems(n, k) * copies];
            let x = vec![0.5f32; m * k];
            let mut y = vec![0f32; m * n];
            let mut scratch = vec![0f32; linear_scratch(pool, m, n, k)];
            let mut turn = 0;
            let time = best(|| {
                let w = &weights[turn % copies * panel_elems(n, k)..][..panel_elems(n, k)];
                turn += 1;
                let out = MatMut::new(&mut y, m, n, n);
                linear(pool, Rows::new(&x, m, k, k), Panels::new(w, n, k), &Epilogue::NONE, out, &mut scratch);
            });
            report(&label, time, bytes, 2 * m * n * k);
        }
    }
}

fn report(label: &str, time: Duration, bytes: usize, flops: usize) {
    let seconds = time.as_secs_f64();
    let (gb, gflop) = (bytes as f64 / seconds / 1e9, flops as f64 / seconds / 1e9);
    println!("{label:40} {:10.1} us {gb:7.1} GB/s {gflop:7.1} GFLOP/s", seconds * 1e6);
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
