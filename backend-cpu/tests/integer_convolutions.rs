//! `conv_integer` by constant weights of the whole range of bytes, wide enough for several limbs, equals the reference.

use backend_cpu::Cpu;
use ir::{DType, Datum, Tensor, eval, text};
use plan::{GraphWeights, Weights};
use runtime::Backend;
use std::sync::Arc;

fn bytes(dtype: DType, dims: &[usize], seed: u64) -> Tensor {
    let mut state = seed;
    let low = if dtype == DType::I8 { -128 } else { 0 };
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Ends of the range come often, so that sums are large.
        let byte = [0, 255, 255, state >> 40 & 255][(state >> 33) as usize % 4];
        byte as i128 + low
    };
    let values: Vec<i128> = (0..dims.iter().product()).map(|_| next()).collect();
    Tensor::from_ints(dtype, dims, &values).unwrap()
}

#[test]
fn every_sum_is_exact() {
    for (round, (x, w, channels)) in [
        (DType::U8, DType::I8, 3),
        (DType::I8, DType::U8, 40),
        (DType::U8, DType::U8, 700),
        (DType::I8, DType::I8, 1100),
    ]
    .into_iter()
    .enumerate()
    {
        let text = format!(
            "graph @g(%x: {x}[N, {channels}, 6, 5], %z: {x}[]) {{ %w = weight : {w}[3, {channels}, 3, 3] %v = const [1, 0, 127] : {w}[3] \
             %y = conv_integer(%x, %w, %z, %v) {{strides = [1, 2], pads = [1, 1, 1, 0], dilations = [1, 1], group = 1}} return %y }}"
        );
        let mut g = text::parse(&text).unwrap();
        let node = g.order().into_iter().find(|n| &*g.node(*n).names[0] == "w").unwrap();
        g.attach(node, bytes(w, &[3, channels, 3, 3], round as u64)).unwrap();
        let plan = plan::build(ir::verify(&g).unwrap(), &Cpu, "").unwrap();
        let plan = Arc::new(plan::check(plan).unwrap());
        let weights = Weights::from_source(&plan, &GraphWeights::new(&plan)).unwrap();
        let loaded = Cpu.load(plan, weights).unwrap();
        for n in [1, 2] {
            let zero = Tensor::from_ints(x, &[], &[if n == 1 { 0 } else { 100 }]).unwrap();
            let inputs: Vec<Datum> = vec![bytes(x, &[n, channels, 6, 5], 9).into(), zero.into()];
            let mut session = loaded.session(2);
            let got = session.run(&inputs).unwrap();
            assert_eq!(got, eval::run(&g, &inputs).unwrap(), "{x} by {w}, {channels} channels");
        }
    }
}
