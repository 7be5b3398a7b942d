//! Products with packed weights on the device: every code of 2, 4 and 8 bits, zero points of every form, few rows and many.

mod common;

use common::{Random, compare, load, on_host, simulator};
use ir::{DType, Datum, Tensor, eval, text};

/// Bytes of any value.
fn bytes(dims: &[usize], random: &mut Random) -> Datum {
    let n = dims.iter().product();
    let v: Vec<u8> = (0..n).map(|_| (random.next() % 256) as u8).collect();
    Tensor::from_slice(dims, &v).unwrap().into()
}

/// Floats of a type, some of them not finite where they may be `nasty`.
fn floats(dtype: &str, dims: &[usize], random: &mut Random, nasty: bool) -> Datum {
    let n: usize = dims.iter().product();
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e-30];
    let mut one = || match random.next() {
        r if nasty && r % 400 == 0 => odd[random.next() as usize % odd.len()],
        r => (r % 4001) as f64 / 1000.0 - 2.0,
    };
    let v: Vec<f64> = (0..n).map(|_| one()).collect();
    let dtype = match dtype {
        "f32" => DType::F32,
        "f16" => DType::F16,
        _ => DType::BF16,
    };
    Tensor::from_f64(dtype, dims, &v).unwrap().into()
}

/// How zero points are given.
#[derive(Clone, Copy, Debug)]
enum Zeros {
    Middle,
    Packed,
    Floats,
}

/// A packed product: types of rows and scales, bits, block, outputs, inputs.
struct Form(&'static str, &'static str, usize, usize, usize, usize, Zeros, bool);

fn agrees(test: &str, forms: &[Form], rows: &[usize]) {
    let Some(hip) = simulator(test) else { return };
    let mut random = Random(11);
    for Form(x, s, bits, block, n, k, zeros, biased) in forms {
        let (blocks, width) = (k.div_ceil(*block), block * bits / 8);
        let zero_row = (blocks * bits).div_ceil(8);
        let zero_type = match zeros {
            Zeros::Middle => String::new(),
            Zeros::Packed => format!(", %z: u8[{n}, {zero_row}]"),
            Zeros::Floats => format!(", %z: {s}[{n}, {blocks}]"),
        };
        let bias = if *biased { format!(", %b: {x}[{n}]") } else { String::new() };
        let z = if matches!(zeros, Zeros::Middle) { "_" } else { "%z" };
        let b = if *biased { "%b" } else { "_" };
        let t = format!(
            "graph @g(%x: {x}[R, {k}], %w: u8[{n}, {blocks}, {width}], %s: {s}[{n}, {blocks}]{zero_type}{bias}) {{ %y = matmul_nbits(%x, %w, %s, {z}, _, {b}) {{bits = {bits}, block = {block}, n = {n}, k = {k}}} return %y }}"
        );
        let g = text::parse(&t).unwrap_or_else(|e| panic!("{e}\n{t}"));
        let loaded = load(hip, &g);
        assert_eq!(on_host(loaded.plan()), [""; 0], "{t}");
        let mut session = loaded.session(1);
        for (round, rows) in rows.iter().enumerate() {
            let nasty = round % 2 == 1;
            let mut inputs = vec![
                floats(x, &[*rows, *k], &mut random, nasty),
                bytes(&[*n, blocks, width], &mut random),
                floats(s, &[*n, blocks], &mut random, false),
            ];
            match zeros {
                Zeros::Middle => {}
                Zeros::Packed => inputs.push(bytes(&[*n, zero_row], &mut random)),
                Zeros::Floats => inputs.push(floats(s, &[*n, blocks], &mut random, false)),
            }
            if *biased {
                inputs.push(floats(x, &[*n], &mut random, nasty));
            }
            let got = session.run(&inputs).unwrap().to_vec();
            let want = eval::run(&g, &inputs).unwrap();
            compare(&format!("{rows} rows, {zeros:?}: {t}"), &g, &got[0], &want[0]);
        }
    }
}

const FEW: [usize; 6] = [1, 2, 3, 5, 0, 9];

/// Where codes become factors of matrix instructions in registers.
#[test]
fn hip_packed_weights_agree_in_registers() {
    agrees(
        "hip_packed_weights_agree_in_registers",
        &[
            Form("f16", "f16", 4, 32, 37, 128, Zeros::Middle, true),
            Form("f16", "f16", 4, 32, 16, 1280, Zeros::Packed, false),
            Form("f16", "f16", 4, 64, 50, 2176, Zeros::Packed, true),
            Form("f16", "f16", 4, 256, 19, 128, Zeros::Packed, false),
            Form("f16", "f16", 4, 128, 1, 384, Zeros::Middle, false),
        ],
        &[1, 8, 9, 16, 2, 17, 0, 33, 64],
    );
    let wide = Form("f16", "f16", 4, 32, 2570, 128, Zeros::Packed, true);
    agrees("hip_packed_weights_agree_in_registers", &[wide], &[16, 17, 40]);
}

#[test]
fn hip_packed_weights_agree_for_few_rows() {
    agrees(
        "hip_packed_weights_agree_for_few_rows",
        &[
            Form("f32", "f32", 4, 32, 37, 576, Zeros::Middle, false),
            Form("f32", "f32", 4, 32, 37, 96, Zeros::Packed, true),
            Form("f32", "f32", 4, 16, 5, 2080, Zeros::Floats, true),
            Form("f32", "f16", 8, 64, 18, 128, Zeros::Packed, false),
            Form("f32", "bf16", 2, 16, 18, 160, Zeros::Packed, true),
            Form("f32", "f32", 2, 128, 3, 1280, Zeros::Floats, false),
            Form("f16", "f16", 4, 32, 37, 160, Zeros::Packed, true),
            Form("f16", "f32", 4, 128, 33, 1152, Zeros::Packed, false),
            Form("f16", "f16", 8, 16, 17, 96, Zeros::Floats, false),
            Form("bf16", "bf16", 4, 256, 40, 1056, Zeros::Middle, true),
            Form("bf16", "f32", 2, 32, 16, 608, Zeros::Packed, false),
        ],
        &FEW,
    );
}

/// Tiles of either size, and those in f32.
#[test]
fn hip_packed_weights_agree_for_many_rows() {
    let test = "hip_packed_weights_agree_for_many_rows";
    agrees(
        test,
        &[
            Form("f32", "f32", 4, 32, 70, 72, Zeros::Packed, true),
            Form("f16", "f32", 2, 64, 5, 128, Zeros::Floats, false),
            Form("bf16", "bf16", 8, 32, 67, 33, Zeros::Middle, false),
            Form("f16", "f16", 4, 16, 70, 96, Zeros::Packed, true),
            Form("bf16", "f32", 8, 128, 66, 160, Zeros::Floats, false),
            Form("f16", "f16", 2, 32, 20, 64, Zeros::Middle, false),
        ],
        &[65, 130, 20, 70],
    );
    for (x, bits, zeros) in [("f16", 4, Zeros::Packed), ("bf16", 8, Zeros::Middle), ("f16", 2, Zeros::Floats)] {
        agrees(test, &[Form(x, x, bits, 32, 4100, 64, zeros, true)], &[385]);
    }
}

/// Inputs that do not fill a block, rows that do not begin at 16 bytes, one block for a whole row.
#[test]
fn hip_packed_weights_agree_for_odd_sizes() {
    agrees(
        "hip_packed_weights_agree_for_odd_sizes",
        &[
            Form("f32", "f32", 4, 16, 7, 40, Zeros::Packed, false),
            Form("f16", "f16", 4, 16, 1, 33, Zeros::Middle, false),
            Form("bf16", "bf16", 8, 32, 9, 75, Zeros::Packed, true),
            Form("f32", "f32", 2, 32, 9, 70, Zeros::Packed, true),
            Form("f32", "f32", 4, 256, 9, 200, Zeros::Packed, false),
            Form("f16", "f16", 4, 48, 9, 40, Zeros::Packed, false),
            Form("f16", "f16", 8, 16, 19, 80, Zeros::Middle, false),
            Form("f16", "f16", 2, 16, 19, 96, Zeros::Middle, false),
        ],
        &FEW,
    );
}

/// Layers of the same rows: with and without zero points, biases, residual and gate, in registers and not.
#[test]
fn hip_packed_layers_share_launches() {
    let Some(hip) = simulator("hip_packed_layers_share_launches") else { return };
    let mut random = Random(13);
    for t in [
        "graph @g(%x: f16[N, 256], %w: u8[40, 8, 16], %s: f16[320], %b: f16[40], %wk: u8[17, 8, 16], %sk: f16[136], %wv: u8[5, 8, 16], %sv: f16[40], %c: f16[5]) { %q, %k, %v = linears_nbits(%x, _, %w, %s, _, %b, %wk, %sk, _, _, %wv, %sv, _, %c) {bits = 4, block = 32, k = 256, n = [40, 17, 5]} return %q, %k, %v }",
        "graph @g(%x: f16[3, N, 128], %w: u8[2600, 1, 64], %s: f16[2600], %z: u8[2600, 1], %wk: u8[33, 1, 64], %sk: f16[33], %zk: u8[33, 1]) { %q, %k = linears_nbits(%x, _, %w, %s, %z, _, %wk, %sk, %zk) {bits = 4, block = 128, k = 128, n = [2600, 33]} return %q, %k }",
        "graph @g(%x: f16[N, 1152], %r: f16[N, 21], %w: u8[21, 36, 16], %s: f16[756], %z: u8[21, 18]) { %y = linears_nbits(%x, %r, %w, %s, %z, _) {bits = 4, block = 32, k = 1152, n = [21]} return %y }",
        "graph @g(%x: f16[N, 256], %r: f16[N, 40], %w: u8[40, 4, 32], %s: f16[160], %z: u8[40, 2], %b: f16[40], %wu: u8[40, 4, 32], %su: f16[160], %zu: u8[40, 2], %bu: f16[40]) { %y = linears_nbits(%x, %r, %w, %s, %z, %b, %wu, %su, %zu, %bu) {bits = 4, block = 64, k = 256, n = [40, 40], gate = silu} return %y }",
        "graph @g(%x: f16[N, 128], %w: u8[19, 4, 16], %s: f16[76], %wu: u8[19, 4, 16], %su: f16[76]) { %y = linears_nbits(%x, _, %w, %s, _, _, %wu, %su) {bits = 4, block = 32, k = 128, n = [19, 19], gate = gelu_tanh} return %y }",
        "graph @g(%x: f16[N, 96], %r: f16[N, 18], %w: u8[18, 6, 8], %s: f16[108], %wu: u8[18, 6, 8], %su: f16[108]) { %y = linears_nbits(%x, %r, %w, %s, _, _, %wu, %su) {bits = 4, block = 16, k = 96, n = [18, 18], gate = relu} return %y }",
        "graph @g(%x: bf16[N, 128], %r: bf16[N, 66], %w: u8[66, 4, 32], %s: bf16[264], %b: bf16[66]) { %y = linears_nbits(%x, %r, %w, %s, _, %b) {bits = 8, block = 32, k = 128, n = [66]} return %y }",
        "graph @g(%x: f32[N, 72], %w: u8[9, 5, 8], %s: f32[45], %z: f32[45], %wk: u8[7, 5, 8], %sk: f32[35], %zk: f32[35]) { %q, %k = linears_nbits(%x, _, %w, %s, %z, _, %wk, %sk, %zk) {bits = 4, block = 16, k = 72, n = [9, 7]} return %q, %k }",
        "graph @g(%x: f16[N, 128], %v: f16[257], %w: u8[20, 4, 16], %s: f16[80], %wu: u8[20, 4, 16], %su: f16[80]) { %r = relu(%v) %p = slice(%r) {axes = [0], starts = [1], ends = [257], steps = [1]} %e = reshape(%p) {shape = [2, 128]} %y = linears_nbits(%e, _, %w, %s, _, _, %wu, %su) {bits = 4, block = 32, k = 128, n = [20, 20], gate = silu} %q, %u = linears_nbits(%e, _, %w, %s, _, _, %wu, %su) {bits = 4, block = 32, k = 128, n = [20, 20]} return %y, %q, %u }",
    ] {
        let g = text::parse(t).unwrap_or_else(|e| panic!("{e}\n{t}"));
        let loaded = load(hip, &g);
        assert_eq!(on_host(loaded.plan()), [""; 0], "{t}");
        let mut session = loaded.session(1);
        for rows in [1usize, 8, 9, 17, 0, 30, 70] {
            let mut input = |v: &ir::graph::Value| -> Datum {
                let ty = g.tensor_ty(*v).unwrap();
                let dims: Vec<usize> =
                    ty.dims().unwrap().iter().map(|d| d.eval(&|_| Some(rows as i64)).unwrap() as usize).collect();
                match ty.dtype {
                    DType::U8 => bytes(&dims, &mut random),
                    DType::F16 => floats("f16", &dims, &mut random, rows == 9 && **g.name(*v) == *"x"),
                    DType::BF16 => floats("bf16", &dims, &mut random, false),
                    _ => floats("f32", &dims, &mut random, false),
                }
            };
            let inputs: Vec<Datum> = g.inputs.iter().map(|n| input(&(*n).into())).collect();
            let got = session.run(&inputs).unwrap().to_vec();
            let want = eval::run(&g, &inputs).unwrap();
            for (got, want) in got.iter().zip(&want) {
                compare(&format!("{rows} rows: {t}"), &g, got, want);
            }
        }
    }
}

/// Experts: operands with their types, their names, attributes, how many experts, pairs of a token, inputs.
struct Experts(&'static str, &'static str, &'static str, usize, usize, usize);

/// Pairs for fewer experts than there are, for each about one, and for each many; weights of one and of two layers.
#[test]
fn hip_packed_experts_agree_for_few_pairs_and_many() {
    let Some(hip) = simulator("hip_packed_experts_agree_for_few_pairs_and_many") else { return };
    let forms = [
        Experts(
            "%w: u8[5, 20, 32], %ws: f32[5, 20, 2]",
            "%w, %ws",
            "bits = [4], repeat = 2, gating = halves, act = silu",
            5,
            2,
            64,
        ),
        Experts(
            "%w: u8[4, 12, 24], %ws: f16[4, 12, 3], %wz: u8[4, 12, 2], %b: f16[4, 12]",
            "%w, %ws, %wz, %b",
            "bits = [4], repeat = 3, gating = interleaved, act = silu, alpha = 1.702, beta = 1.0, limit = 1.5",
            4,
            3,
            48,
        ),
        Experts(
            "%w: u8[3, 18, 24], %ws: bf16[3, 18, 3], %wz: u8[3, 18, 1], %v: u8[3, 18, 96], %vs: bf16[3, 18, 1], %vz: bf16[3, 18, 1]",
            "%w, %ws, %wz, _, %v, %vs, %vz",
            "bits = [2, 8], repeat = 2, gating = none, act = gelu",
            3,
            2,
            96,
        ),
        Experts(
            "%w: u8[2, 37, 64], %ws: f16[2, 37, 2], %wz: f16[2, 37, 2], %b: f16[2, 37], %p: f16[T, 2]",
            "%w, %ws, %wz, %b, _, _, _, _, %p",
            "bits = [8], repeat = 1, gating = none",
            2,
            2,
            64,
        ),
        Experts(
            "%w: u8[7, 37, 64], %ws: f16[7, 37, 4], %b: f16[7, 37], %v: u8[7, 37, 64], %vs: f16[7, 37, 4]",
            "%w, %ws, _, %b, %v, %vs",
            "bits = [4, 4], repeat = 2, gating = none, act = silu",
            7,
            2,
            128,
        ),
        Experts(
            "%w: u8[3, 20, 640], %ws: f16[3, 20, 20], %wz: u8[3, 20, 10], %p: f16[T, 2]",
            "%w, %ws, %wz, _, _, _, _, _, %p",
            "bits = [4], repeat = 1, gating = none",
            3,
            2,
            1280,
        ),
        Experts("%w: u8[9, 3, 10], %ws: f32[9, 3, 1]", "%w, %ws", "bits = [4], repeat = 2, gating = none", 9, 2, 20),
    ];
    let mut random = Random(12);
    for Experts(operands, names, attributes, experts, each, k) in forms {
        let x = if operands.contains("bf16") {
            "bf16"
        } else if operands.contains("f16") {
            "f16"
        } else {
            "f32"
        };
        let rows = if attributes.contains("repeat = 1") { "2*T" } else { "T" };
        let t = format!(
            "graph @g(%x: {x}[{rows}, {k}], %i: i32[T, {each}], {operands}) {{ %r, %o = expert_index(%i) {{experts = {experts}}} %y = moe_gemm_nbits(%x, %r, %o, {names}) {{{attributes}}} return %y }}"
        );
        let g = text::parse(&t).unwrap_or_else(|e| panic!("{e}\n{t}"));
        let loaded = load(hip, &g);
        assert_eq!(on_host(loaded.plan()), [""; 0], "{t}");
        let mut session = loaded.session(1);
        for tokens in [1usize, 3, 7, 0, 50] {
            let mut input = |v: &ir::graph::Value| -> Datum {
                let ty = g.tensor_ty(*v).unwrap();
                let dims: Vec<usize> =
                    ty.dims().unwrap().iter().map(|d| d.eval(&|_| Some(tokens as i64)).unwrap() as usize).collect();
                match ty.dtype {
                    DType::U8 => bytes(&dims, &mut random),
                    DType::I32 => {
                        let ids = (0..dims.iter().product()).map(|_| (random.next() % experts as u64) as i32);
                        Tensor::from_slice(&dims, &ids.collect::<Vec<_>>()).unwrap().into()
                    }
                    _ => floats(x, &dims, &mut random, tokens == 7 && **g.name(*v) == *"x"),
                }
            };
            let inputs: Vec<Datum> = g.inputs.iter().map(|n| input(&(*n).into())).collect();
            let got = session.run(&inputs).unwrap().to_vec();
            let want = eval::run(&g, &inputs).unwrap();
            compare(&format!("{tokens} tokens: {t}"), &g, &got[0], &want[0]);
        }
    }
}

/// What no kernel takes has its reason, and runs on the host.
#[test]
fn hip_packed_weights_without_a_kernel_run_on_the_host() {
    let test = "hip_packed_weights_without_a_kernel_run_on_the_host";
    let Some(hip) = simulator(test) else { return };
    for (t, reason) in [
        (
            "graph @g(%x: f32[B, 32], %w: u8[5, 4, 4], %s: f32[20]) { %y = matmul_nbits(%x, %w, %s) {bits = 4, block = 8, n = 5, k = 32} return %y }",
            "the inputs that share a scale are no power of two from 16 on",
        ),
        (
            "graph @g(%x: f32[B, 32], %w: u8[5, 2, 8], %s: f32[10], %i: i32[32]) { %y = matmul_nbits(%x, %w, %s, _, %i) {bits = 4, block = 16, n = 5, k = 32} return %y }",
            "its columns name their blocks",
        ),
        (
            "graph @g(%x: f16[B, 32], %w: u8[5, 2, 8], %s: f16[10], %b: f32[5]) { %y = matmul_nbits(%x, %w, %s, _, _, %b) {bits = 4, block = 16, n = 5, k = 32} return %y }",
            "its bias is of another element type",
        ),
        (
            "graph @g(%x: f16[B, 32], %w: u8[5, 2, 8], %s: f16[10], %z: f32[10]) { %y = matmul_nbits(%x, %w, %s, %z) {bits = 4, block = 16, n = 5, k = 32} return %y }",
            "its zero points are neither packed nor of the type of its scales",
        ),
        (
            "graph @g(%x: f32[T, 12], %r: i32[2*T], %o: i32[4], %w: u8[3, 8, 12], %s: f32[3, 8, 3]) { %y = moe_gemm_nbits(%x, %r, %o, %w, %s) {bits = [8], repeat = 2, gating = none} return %y }",
            "the inputs that share a scale are no power of two from 16 on",
        ),
    ] {
        let g = text::parse(t).unwrap();
        let node = g.order().into_iter().find(|n| g.op(*n).is_some()).unwrap();
        assert_eq!(backend_hip::why_on_host(&g, node), Some(reason), "{t}");
        // Pairs must be those of an index, which the samples of operators have.
        if !t.contains("moe") {
            common::run_both(hip, t, &g, &mut Random(3));
        }
    }
}
