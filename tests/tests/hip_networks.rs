//! Whole networks of vision, audio and text on the simulator of the HIP backend, small in width but with every layer of the real
//! ones: a ResNet at 64 x 64, a BERT of 2 layers at length 32, a Whisper encoder of 2 layers. Nothing is left to the host.

mod common;

use common::{Random, compare_in, load, on_host, simulator, tensor};
use ir::graph::Kind;
use ir::{DType, Datum, Graph, eval, text};
use passes::{Driver, pipeline};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Text of a graph under construction.
struct Net {
    text: String,
    weights: usize,
}

impl Net {
    fn new(header: &str) -> Net {
        Net { text: format!("graph @net({header}) {{\n"), weights: 0 }
    }

    fn line(&mut self, line: String) {
        writeln!(self.text, "  {line}").unwrap();
    }

    /// A new weight: its name.
    fn weight(&mut self, dims: &str) -> String {
        self.weights += 1;
        let name = format!("w{}", self.weights);
        self.line(format!("%{name} = weight : f32[{dims}]"));
        name
    }

    fn conv(&mut self, y: &str, x: &str, (from, to): (usize, usize), kernel: usize, stride: usize, more: [&str; 2]) {
        let w = self.weight(&format!("{to}, {from}, {kernel}, {kernel}"));
        let b = self.weight(&to.to_string());
        let pad = kernel / 2;
        let [residual, act] = more;
        self.line(format!(
            "%{y} = conv(%{x}, %{w}, %{b}{residual}) {{strides = [{stride}, {stride}], pads = [{pad}, {pad}, {pad}, {pad}], dilations = [1, 1], group = 1{act}}}"
        ));
    }

    fn linear(&mut self, y: &str, x: &str, from: usize, to: usize) {
        let (w, b) = (self.weight(&format!("{to}, {from}")), self.weight(&to.to_string()));
        self.line(format!("%{y} = linear(%{x}, %{w}, %{b})"));
    }

    fn norm(&mut self, y: &str, x: &str, n: usize) {
        let (w, b) = (self.weight(&n.to_string()), self.weight(&n.to_string()));
        self.line(format!("%{y} = layer_norm(%{x}, %{w}, %{b}) {{axis = -1, eps = 1e-5}}"));
    }

    /// Attention and a feed-forward network around residuals; `first` normalises before them, else behind.
    fn layer(&mut self, l: usize, n: usize, heads: usize, first: bool, mask: &str) {
        let x = format!("x{l}");
        let h = if first { format!("h{l}") } else { x.clone() };
        if first {
            self.norm(&h, &x, n);
        }
        for p in ["q", "k", "v"] {
            self.linear(&format!("{p}{l}"), &h, n, n);
        }
        self.line(format!("%a{l} = attention(%q{l}, %k{l}, %v{l}{mask}) {{q_heads = {heads}, kv_heads = {heads}}}"));
        self.linear(&format!("o{l}"), &format!("a{l}"), n, n);
        self.line(format!("%r{l} = add(%o{l}, %{x})"));
        self.norm(&format!("g{l}"), &format!("r{l}"), n);
        self.linear(&format!("u{l}"), &format!("g{l}"), n, 4 * n);
        self.line(format!("%e{l} = gelu(%u{l})"));
        self.linear(&format!("d{l}"), &format!("e{l}"), 4 * n, n);
        let next = format!("x{}", l + 1);
        match first {
            true => self.line(format!("%{next} = add(%d{l}, %r{l})")),
            false => {
                self.line(format!("%s{l} = add(%d{l}, %g{l})"));
                self.norm(&next, &format!("s{l}"), n);
            }
        }
    }

    fn finish(mut self, result: &str, random: &mut Random) -> Graph {
        self.line(format!("return %{result}"));
        let mut g = text::parse(&(self.text + "}\n")).unwrap_or_else(|e| panic!("{e}"));
        for id in g.order() {
            if matches!(g.node(id).kind, Kind::Weight(None)) {
                let t = tensor(&g, id.into(), &BTreeMap::new(), random, false);
                // As small as trained ones, so that values keep their size from layer to layer.
                let n = t.dims().iter().skip(1).product::<usize>().max(4);
                let small: Vec<f64> = t.to_f64().unwrap().iter().map(|v| v / (n as f64).sqrt()).collect();
                let t = ir::Tensor::from_f64(t.dtype(), t.dims(), &small).unwrap();
                g.attach(id, t).expect("the type is the declared one");
            }
        }
        g
    }
}

/// Runs a network on the device alone, for every binding of its symbols, and on the reference: as it is, and in both narrow types.
fn agrees(test: &str, make: impl Fn(&mut Random) -> Graph, sizes: &[&[(&str, i64)]]) {
    let Some(hip) = simulator(test) else { return };
    let mut random = Random(21);
    let g = make(&mut random);
    let narrow = |to| {
        let mut g = g.clone();
        Driver::new(pipeline::narrowed(pipeline::finish_for_device(), to)).run(&mut g).unwrap();
        g
    };
    let graphs = [(DType::F32, g.clone()), (DType::F16, narrow(DType::F16)), (DType::BF16, narrow(DType::BF16))];
    for (dtype, narrow) in graphs {
        let loaded = load(hip, &narrow);
        assert_eq!(on_host(loaded.plan()), [""; 0], "{test} in {dtype}");
        let mut session = loaded.session(1);
        for sizes in sizes {
            let symbols = sizes.iter().map(|(s, n)| ((*s).into(), *n)).collect();
            let inputs = g.inputs.iter().map(|n| tensor(&g, (*n).into(), &symbols, &mut random, false).into());
            let inputs: Vec<Datum> = inputs.collect();
            let want = eval::run(&narrow, &inputs).unwrap();
            let got = session.run(&inputs).unwrap_or_else(|e| panic!("{e}"));
            compare_in(dtype, &format!("{test} in {dtype} {sizes:?}"), &narrow, &got[0], &want[0]);
            let (found, allowed) = (distance(&eval::run(&g, &inputs).unwrap()[0], &got[0]), rounding(dtype, &narrow));
            assert!(found <= allowed, "{test} {sizes:?}: {found:.1e} of {allowed:.1e} from f32 in {dtype}");
        }
    }
}

/// The distance of two tensors as a share of the norm of the first.
fn distance(a: &Datum, b: &Datum) -> f64 {
    let [a, b] = [a, b].map(|d| d.as_tensor().unwrap().to_f64().unwrap());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(&b).map(|(x, y)| x - y)) / norm(&mut a.iter().copied())
}

/// What roundings of every node and of its weights come to, which are independent of each other; four times that for operators
/// that make an error larger.
fn rounding(dtype: DType, g: &Graph) -> f64 {
    let unit = match dtype {
        DType::F16 => 2f64.powi(-11),
        DType::BF16 => 2f64.powi(-8),
        _ => 2f64.powi(-24),
    };
    4.0 * unit * (2.0 * g.node_count() as f64).sqrt()
}

#[test]
fn hip_runs_a_resnet_on_the_device_alone() {
    let resnet = |random: &mut Random| {
        let mut net = Net::new("%image: f32[N, 3, 64, 64]");
        net.conv("stem", "image", (3, 8), 7, 2, ["", ", act = relu"]);
        net.line(
            "%x0 = pool(%stem) {f = max, kernel = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], dilations = [1, 1]}"
                .into(),
        );
        let mut from = 8;
        // Bottlenecks: narrower by 4 inside, the residual joined in the last convolution.
        for (b, (inside, stride)) in [(8, 1), (8, 1), (16, 2), (16, 1), (32, 2), (64, 2)].into_iter().enumerate() {
            let (x, to) = (format!("x{b}"), 4 * inside);
            net.conv(&format!("a{b}"), &x, (from, inside), 1, 1, ["", ", act = relu"]);
            net.conv(&format!("b{b}"), &format!("a{b}"), (inside, inside), 3, stride, ["", ", act = relu"]);
            let shortcut = if from == to && stride == 1 { x.clone() } else { format!("s{b}") };
            if shortcut != x {
                net.conv(&shortcut, &x, (from, to), 1, stride, ["", ""]);
            }
            let (next, residual) = (format!("x{}", b + 1), format!(", %{shortcut}"));
            net.conv(&next, &format!("b{b}"), (inside, to), 1, 1, [&residual, ", act = relu"]);
            from = to;
        }
        net.line("%pooled = reduce(%x6) {f = mean, axes = [2, 3]}".into());
        net.linear("logits", "pooled", from, 10);
        net.finish("logits", random)
    };
    agrees("hip_runs_a_resnet_on_the_device_alone", resnet, &[&[("N", 1)], &[("N", 2)]]);
}

#[test]
fn hip_runs_a_bert_on_the_device_alone() {
    let bert = |random: &mut Random| {
        let mut net = Net::new("%ids: i64[B, 32], %types: i64[B, 32], %mask: f32[B, 1, 1, 32]");
        for (table, rows) in [("words", 50), ("kinds", 3)] {
            let w = net.weight(&format!("{rows}, 48"));
            let ids = if table == "words" { "ids" } else { "types" };
            net.line(format!("%{table} = gather(%{w}, %{ids}) {{axis = 0}}"));
        }
        let places = net.weight("32, 48");
        net.line(format!("%sum = map(%words, %kinds, %{places}) {{expr = \"add(add(x0, x1), x2)\"}}"));
        net.norm("x0", "sum", 48);
        (0..2).for_each(|l| net.layer(l, 48, 4, false, ", %mask"));
        net.finish("x2", random)
    };
    agrees("hip_runs_a_bert_on_the_device_alone", bert, &[&[("B", 1)], &[("B", 3)]]);
}

#[test]
fn hip_runs_a_whisper_encoder_on_the_device_alone() {
    let whisper = |random: &mut Random| {
        let mut net = Net::new("%mel: f32[B, 16, T]");
        let convs = [("c1", "mel", 16, 1), ("c2", "c1", 48, 2)];
        for (y, x, from, stride) in convs {
            let (w, b) = (net.weight(&format!("48, {from}, 3")), net.weight("48"));
            net.line(format!("%{y} = conv(%{x}, %{w}, %{b}) {{strides = [{stride}], pads = [1, 1], dilations = [1], group = 1, act = gelu}}"));
        }
        net.line("%x0 = transpose(%c2) {perm = [0, 2, 1]}".into());
        (0..2).for_each(|l| net.layer(l, 48, 4, true, ""));
        net.norm("y", "x2", 48);
        net.finish("y", random)
    };
    let sizes: [&[_]; 2] = [&[("B", 1), ("T", 100)], &[("B", 2), ("T", 31)]];
    agrees("hip_runs_a_whisper_encoder_on_the_device_alone", whisper, &sizes);
}
