//! Times kernels at the shapes of real models: `cargo bench -p fastinference-backend-cpu --bench kernels -- [PART] [THREADS]`.
//!
//! Convolutions print milliseconds and GFLOP/s, elementwise kernels GB/s of memory touched. Times are the best of many, as on a
//! machine that does other work too. Threads: all of the machine unless given.

use std::hint::black_box;
use std::time::{Duration, Instant};

use backend_cpu::kernels::conv::{Conv, ConvEpilogue};
use backend_cpu::kernels::element::Element;
use backend_cpu::kernels::elementwise::{BinaryFn, Constant, Instr, Operand, Program, Slot, UnaryFn};
use backend_cpu::kernels::norm;
use backend_cpu::kernels::pool::Pool;
use backend_cpu::kernels::softmax::{SoftmaxKind, softmax_rows};
use backend_cpu::kernels::transpose::View;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let part = words.iter().find(|w| w.parse::<usize>().is_err()).cloned().unwrap_or_default();
    let threads = words.iter().find_map(|w| w.parse().ok());
    let pool = threads.map_or_else(Pool::for_machine, Pool::new);
    for (name, run) in [
        ("resnet50", resnet50 as fn(&Pool)),
        ("mobilenet", mobilenet),
        ("elementwise", elementwise),
        ("rows", rows),
        ("transpose", transposes),
    ] {
        if name.contains(&part) {
            println!("## {name}");
            run(&pool);
        }
    }
}

/// The shortest time of a call, over at least 9 calls and 0.15 s.
fn time(mut call: impl FnMut()) -> Duration {
    call();
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < 9 || start.elapsed() < Duration::from_millis(150) {
        let start = Instant::now();
        call();
        times.push(start.elapsed());
    }
    times.into_iter().min().expect("at least one call")
}

#[allow(clippy::too_many_arguments, reason = "a convolution has this many sizes")]
fn conv(
    pool: &Pool,
    name: &str,
    count: usize,
    conv: &Conv,
    channels: [usize; 2],
    groups: usize,
    side: usize,
    kernel: usize,
) -> f64 {
    let x: Vec<f32> = (0..channels[0] * side * side).map(|i| (i % 17) as f32 - 8.0).collect();
    let weights: Vec<f32> =
        (0..channels[1] * channels[0] / groups * kernel * kernel).map(|i| (i % 13) as f32 - 6.0).collect();
    let bias = vec![0.1; channels[1]];
    let mut packed = vec![0.0; conv.packed_elems()];
    conv.pack(&weights, &mut packed);
    let mut y = vec![0.0; conv.output_elems()];
    let mut scratch = vec![0.0; conv.scratch_elems(pool)];
    let epilogue = ConvEpilogue { bias: Some(&bias), residual: None, activation: Some(UnaryFn::Relu) };
    let took = time(|| conv.run(pool, &x, &packed, &epilogue, black_box(&mut y), &mut scratch));
    let flops = 2.0 * y.len() as f64 * (channels[0] / groups * kernel * kernel) as f64;
    let seconds = took.as_secs_f64();
    println!("{name:32} x{count}  {:8.3} ms  {:7.1} GFLOP/s", seconds * 1e3, flops / seconds / 1e9);
    seconds * count as f64
}

fn square(
    pool: &Pool,
    count: usize,
    channels: [usize; 2],
    groups: usize,
    side: usize,
    kernel: usize,
    stride: usize,
) -> f64 {
    let pad = kernel / 2;
    let shape = Conv::new(1, groups, channels, &[side; 2], &[kernel; 2])
        .strides(&[stride; 2])
        .pads(&[pad; 2], &[pad; 2])
        .build()
        .expect("a valid convolution");
    let name = format!("{}->{} {side}x{side} k{kernel} s{stride} g{groups}", channels[0], channels[1]);
    conv(pool, &name, count, &shape, channels, groups, side, kernel)
}

/// Every convolution of ResNet-50 at batch 1.
fn resnet50(pool: &Pool) {
    let mut total = square(pool, 1, [3, 64], 1, 224, 7, 2);
    let mut input = 64;
    for (blocks, width, side) in [(3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)] {
        let first = if width == 64 { side } else { side * 2 };
        let stride = first / side;
        total += square(pool, 1, [input, width], 1, first, 1, 1);
        total += square(pool, 1, [width, width], 1, first, 3, stride);
        total += square(pool, blocks, [width, width * 4], 1, side, 1, 1);
        total += square(pool, 1, [input, width * 4], 1, first, 1, stride);
        total += square(pool, blocks - 1, [width * 4, width], 1, side, 1, 1);
        total += square(pool, blocks - 1, [width, width], 1, side, 3, 1);
        input = width * 4;
    }
    println!("all convolutions of ResNet-50: {:.1} ms", total * 1e3);
}

/// Every convolution of MobileNetV2 at batch 1.
fn mobilenet(pool: &Pool) {
    let mut total = square(pool, 1, [3, 32], 1, 224, 3, 2);
    let (mut input, mut side) = (32, 112);
    for (expand, output, repeats, stride) in
        [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    {
        for i in 0..repeats {
            let stride = if i == 0 { stride } else { 1 };
            let hidden = input * expand;
            if expand > 1 {
                total += square(pool, 1, [input, hidden], 1, side, 1, 1);
            }
            total += square(pool, 1, [hidden, hidden], hidden, side, 3, stride);
            side /= stride;
            total += square(pool, 1, [hidden, output], 1, side, 1, 1);
            input = output;
        }
    }
    total += square(pool, 1, [320, 1280], 1, 7, 1, 1);
    println!("all convolutions of MobileNetV2: {:.1} ms", total * 1e3);
}

/// Fused programs over 4 Mi elements, on one thread and in a cache-sized piece.
fn elementwise(_: &Pool) {
    let add =
        Program::new(&[Element::F32; 2], &[Instr::Binary(BinaryFn::Add, Slot(0), Slot(1))], Slot(2), Element::F32);
    let gelu = Program::new(&[Element::F32; 2], &[Instr::Unary(UnaryFn::Gelu, Slot(0))], Slot(2), Element::F32);
    let exp = Program::new(&[Element::F32; 2], &[Instr::Unary(UnaryFn::Exp, Slot(0))], Slot(2), Element::F32);
    let tanh = Program::new(&[Element::F32; 2], &[Instr::Unary(UnaryFn::Tanh, Slot(0))], Slot(2), Element::F32);
    let sin = Program::new(&[Element::F32; 2], &[Instr::Unary(UnaryFn::Sin, Slot(0))], Slot(2), Element::F32);
    let chain = Program::new(
        &[Element::F32; 2],
        &[
            Instr::Const(Constant::F32(1.702)),
            Instr::Binary(BinaryFn::Mul, Slot(0), Slot(2)),
            Instr::Unary(UnaryFn::Sigmoid, Slot(3)),
            Instr::Binary(BinaryFn::Mul, Slot(0), Slot(4)),
            Instr::Binary(BinaryFn::Add, Slot(5), Slot(1)),
        ],
        Slot(6),
        Element::F32,
    );
    for n in [16 << 10, 4 << 20] {
        for (name, program, arrays) in [
            ("a + b", &add, 3),
            ("gelu", &gelu, 2),
            ("exp", &exp, 2),
            ("tanh", &tanh, 2),
            ("sin", &sin, 2),
            ("x * sigmoid(1.702 x) + r", &chain, 3),
        ] {
            let program = program.as_ref().expect("a well-typed program");
            let (a, b) = (vec![1.5f32; n], vec![-0.5f32; n]);
            let mut y = vec![0f32; n];
            let operands = [&a, &b].map(|x| Operand::new(bytemuck::cast_slice(x), &[1]));
            let mut scratch = vec![0; program.scratch_words()];
            let took =
                time(|| program.run(&[n], &operands, black_box(bytemuck::cast_slice_mut(&mut y)), 0, &mut scratch));
            let bytes = (arrays * n * 4) as f64;
            println!(
                "{name:26} {n:8}  {:7.1} GB/s  {:6.2} ns/element",
                bytes / took.as_secs_f64() / 1e9,
                took.as_secs_f64() * 1e9 / n as f64
            );
        }
    }
}

/// Softmax and normalisation of rows, on one thread.
fn rows(_: &Pool) {
    for cols in [64, 768, 4096] {
        let n = (1 << 16) / cols * cols;
        let x: Vec<f32> = (0..n).map(|i| (i % 31) as f32 * 0.1).collect();
        let (scale, mut y) = (vec![1.1f32; cols], vec![0f32; n]);
        for (name, took) in [
            ("softmax", time(|| softmax_rows(SoftmaxKind::Softmax, cols, &x, black_box(&mut y)))),
            ("layer_norm", time(|| norm::layer_norm(cols, &scale, &scale, 1e-5, &x, black_box(&mut y)))),
            ("rms_norm", time(|| norm::rms_norm(cols, &scale, 1e-5, &x, black_box(&mut y)))),
        ] {
            println!("{name:12} {cols:5}  {:6.2} ns/element", took.as_secs_f64() * 1e9 / n as f64);
        }
    }
}

/// Transposes of attention and of images.
fn transposes(_: &Pool) {
    for (dims, permutation) in [
        (vec![1, 128, 12, 64], vec![0, 2, 1, 3]),
        (vec![1, 12, 128, 64], vec![0, 1, 3, 2]),
        (vec![1, 224, 224, 3], vec![0, 3, 1, 2]),
        (vec![1, 64, 56, 56], vec![0, 2, 3, 1]),
        (vec![1024, 1024], vec![1, 0]),
    ] {
        let n: usize = dims.iter().product();
        let (x, mut y) = (vec![1f32; n], vec![0f32; n]);
        let view = View::transposed(&dims, &permutation);
        let took = time(|| view.copy(4, bytemuck::cast_slice(&x), black_box(bytemuck::cast_slice_mut(&mut y)), 0));
        println!("{dims:?} by {permutation:?}  {:6.2} GB/s", (8 * n) as f64 / took.as_secs_f64() / 1e9);
    }
}
