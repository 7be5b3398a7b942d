//! Mixtures of experts in every form that models have them: each becomes one router, one index and two products, which
//! compute what the form did, in the reference evaluation and on the CPU.
//!
//! `tests/golden/moe/` holds each form before and after.

use backend_cpu::Cpu;
use ir::graph::{Kind, Value};
use ir::{DType, Datum, Graph, Tensor, eval, text};
use passes::audit::Audit;
use passes::{Driver, Stage, canonicalize, fuse_moe_gemm, pipeline};
use plan::{GraphWeights, Weights};
use runtime::Backend;
use std::fmt::Write;
use std::sync::Arc;

/// Sizes of a layer.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    hidden: usize,
    inner: usize,
    experts: usize,
    k: usize,
}

/// How the router scores.
#[derive(Clone, Copy, Debug)]
enum Router {
    Renormalised,
    Plain,
    Chosen,
    SigmoidBias,
    Unknown,
}

const ROUTERS: [Router; 5] =
    [Router::Renormalised, Router::Plain, Router::Chosen, Router::SigmoidBias, Router::Unknown];

/// A form of the experts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    LoopIndexed,
    LoopNd,
    LoopEqual,
    Masked,
    MaskedColumns,
    Dense,
    DenseSwiglu,
    Gathered,
    GatheredSwiglu,
    GatheredFlat,
    Sorted,
    GatheredPacked,
    GatheredPackedFlat,
    GatheredDequantised,
}

const FORMS: [Form; 14] = [
    Form::LoopIndexed,
    Form::LoopNd,
    Form::LoopEqual,
    Form::Masked,
    Form::MaskedColumns,
    Form::Dense,
    Form::DenseSwiglu,
    Form::Gathered,
    Form::GatheredSwiglu,
    Form::GatheredFlat,
    Form::Sorted,
    Form::GatheredPacked,
    Form::GatheredPackedFlat,
    Form::GatheredDequantised,
];

impl Form {
    /// Whether every token passes through every expert, so that an infinite row of one that was not chosen shows as NaN.
    fn is_dense(self) -> bool {
        matches!(self, Form::Masked | Form::MaskedColumns | Form::Dense | Form::DenseSwiglu)
    }

    /// Whether weights are codes with scales.
    fn is_packed(self) -> bool {
        matches!(self, Form::GatheredPacked | Form::GatheredPackedFlat | Form::GatheredDequantised)
    }

    /// The passes that recognise it. Small weights that are dequantised whole would be folded first.
    fn stages(self) -> Vec<Stage> {
        match self {
            Form::GatheredDequantised => [canonicalize::PASS, fuse_moe_gemm::PASS].map(Stage::Once).to_vec(),
            _ => pipeline::standard(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Form::LoopIndexed => "loop_indexed",
            Form::LoopNd => "loop_nd",
            Form::LoopEqual => "loop_equal",
            Form::Masked => "masked",
            Form::MaskedColumns => "masked_columns",
            Form::Dense => "dense",
            Form::DenseSwiglu => "dense_swiglu",
            Form::Gathered => "gathered",
            Form::GatheredSwiglu => "gathered_swiglu",
            Form::GatheredFlat => "gathered_flat",
            Form::Sorted => "sorted",
            Form::GatheredPacked => "gathered_packed",
            Form::GatheredPackedFlat => "gathered_packed_flat",
            Form::GatheredDequantised => "gathered_dequantised",
        }
    }
}

/// A layer as text: `%x: f32[T, hidden]` to `%y`.
struct Layer {
    text: String,
    s: Sizes,
}

impl Layer {
    fn add(&mut self, line: impl AsRef<str>) {
        let _ = writeln!(self.text, "  {}", line.as_ref());
    }

    fn ints(&mut self, name: &str, values: &[i64], scalar: bool) {
        let list: Vec<_> = values.iter().map(ToString::to_string).collect();
        let dims = if scalar { String::new() } else { values.len().to_string() };
        self.add(format!("%{name} = const [{}] : i64[{dims}]", list.join(", ")));
    }

    fn number(&mut self, name: &str, value: f32) {
        self.add(format!("%{name} = const [{value:?}] : f32[]"));
    }

    fn route(&mut self, router: Router) {
        let Sizes { hidden, experts, k, .. } = self.s;
        self.add(format!("%wr = weight : f32[{hidden}, {experts}]"));
        self.add("%logits = matmul(%x, %wr)");
        let top = format!("{{k = {k}, axis = -1, largest = true, sorted = true}}");
        match router {
            Router::Renormalised => {
                self.add("%scores = softmax(%logits) {axis = -1}");
                self.add(format!("%v, %ids = top_k(%scores) {top}"));
                self.add("%sum = reduce(%v) {f = sum, axes = [-1], keep = true}");
                self.add("%weights = div(%v, %sum)");
            }
            Router::Plain => {
                self.add("%scores = softmax(%logits) {axis = 1}");
                self.add(format!("%weights, %ids = top_k(%scores) {top}"));
            }
            Router::Chosen => {
                self.add(format!("%v, %ids = top_k(%logits) {top}"));
                self.add("%weights = softmax(%v) {axis = -1}");
            }
            Router::SigmoidBias => {
                self.add(format!("%rb = weight : f32[{experts}]"));
                self.add("%scores = sigmoid(%logits)");
                self.add("%keys = add(%scores, %rb)");
                self.add(format!("%v, %ids = top_k(%keys) {top}"));
                self.add("%chosen = gather_elements(%scores, %ids) {axis = 1}");
                self.add("%sum = reduce(%chosen) {f = sum, axes = [-1], keep = true}");
                self.number("eps", 1e-9);
                self.add("%total = add(%sum, %eps)");
                self.add("%share = div(%chosen, %total)");
                self.number("factor", 2.5);
                self.add("%weights = mul(%share, %factor)");
            }
            // Nobody's router: the weights are tanh of the logits.
            Router::Unknown => {
                self.add(format!("%v, %ids = top_k(%logits) {top}"));
                self.add("%weights = tanh(%v)");
            }
        }
    }

    /// `gate`, `up` and `down` of expert `e` as constants of their own.
    fn own_weights(&mut self, e: usize) {
        let Sizes { hidden, inner, .. } = self.s;
        self.add(format!("%g{e} = weight : f32[{inner}, {hidden}]"));
        self.add(format!("%u{e} = weight : f32[{inner}, {hidden}]"));
        self.add(format!("%d{e} = weight : f32[{hidden}, {inner}]"));
    }

    fn mlp(&mut self, e: usize, x: &str) -> String {
        self.own_weights(e);
        self.add(format!("%gx{e} = linear(%{x}, %g{e})"));
        self.add(format!("%ux{e} = linear(%{x}, %u{e})"));
        self.add(format!("%a{e} = silu(%gx{e})"));
        self.add(format!("%h{e} = mul(%a{e}, %ux{e})"));
        self.add(format!("%o{e} = linear(%h{e}, %d{e})"));
        format!("o{e}")
    }

    fn loop_over_experts(&mut self, form: Form) {
        let Sizes { hidden, experts, k, .. } = self.s;
        self.number("zero", 0.0);
        self.add(format!("%none = expand(%zero) {{shape = [T, {hidden}]}}"));
        if form != Form::LoopEqual {
            self.ints("offon", &[0, 1], false);
            self.add(format!("%hot = one_hot(%ids, %offon) {{axis = -1, depth = {experts}}}"));
            self.add("%mask = transpose(%hot) {perm = [2, 1, 0]}");
        }
        self.ints("row0", &[0], true);
        self.ints("row1", &[1], true);
        self.ints("width", &[k as i64], true);
        self.add(format!("%flat = reshape(%weights) {{shape = [{k}*T]}}"));
        let mut total = "none".to_string();
        for e in 0..experts {
            self.ints(&format!("e{e}"), &[e as i64], true);
            let (token, slot) = if form == Form::LoopEqual {
                self.add(format!("%sel{e} = eq(%ids, %e{e})"));
                ("row0", "row1")
            } else {
                self.add(format!("%sel{e} = gather(%mask, %e{e}) {{axis = 0}}"));
                ("row1", "row0")
            };
            self.add(format!("%nz{e} = nonzero(%sel{e}) : i64[2, ?{e}]"));
            self.add(format!("%t{e} = gather(%nz{e}, %{token}) {{axis = 0}}"));
            self.add(format!("%s{e} = gather(%nz{e}, %{slot}) {{axis = 0}}"));
            self.add(format!("%tc{e} = reshape(%t{e}) {{shape = [?{e}, 1]}}"));
            match form {
                Form::LoopNd => {
                    self.add(format!("%x3{e} = reshape(%x) {{shape = [T, 1, {hidden}]}}"));
                    self.add(format!("%r3{e} = gather_nd(%x3{e}, %tc{e}) {{batch_dims = 0}}"));
                    self.add(format!("%r{e} = reshape(%r3{e}) {{shape = [?{e}, {hidden}]}}"));
                    self.add(format!("%sc{e} = reshape(%s{e}) {{shape = [?{e}, 1]}}"));
                    self.add(format!("%ts{e} = concat(%tc{e}, %sc{e}) {{axis = 1}}"));
                    self.add(format!("%w1{e} = gather_nd(%weights, %ts{e}) {{batch_dims = 0}}"));
                }
                _ => {
                    self.add(format!("%r{e} = gather(%x, %t{e}) {{axis = 0}}"));
                    self.add(format!("%tk{e} = mul(%t{e}, %width)"));
                    self.add(format!("%p{e} = add(%s{e}, %tk{e})"));
                    self.add(format!("%w1{e} = gather(%flat, %p{e}) {{axis = 0}}"));
                }
            }
            self.add(format!("%w{e} = reshape(%w1{e}) {{shape = [?{e}, 1]}}"));
            let y = self.mlp(e, &format!("r{e}"));
            self.add(format!("%m{e} = mul(%{y}, %w{e})"));
            match form {
                Form::LoopNd => {
                    self.add(format!("%acc{e} = scatter_nd(%{total}, %tc{e}, %m{e}) {{reduction = add}}"));
                }
                _ => {
                    self.add(format!("%i{e} = expand(%tc{e}) {{shape = [?{e}, {hidden}]}}"));
                    self.add(format!("%sca{e} = scatter_elements(%none, %i{e}, %m{e}) {{axis = 0, reduction = none}}"));
                    self.add(format!("%acc{e} = add(%{total}, %sca{e})"));
                }
            }
            total = format!("acc{e}");
        }
        self.add(format!("%y = neg(%{total})"));
    }

    fn masked(&mut self, form: Form) {
        let Sizes { experts, .. } = self.s;
        if form == Form::MaskedColumns {
            self.scores();
        }
        let mut total = String::new();
        for e in 0..experts {
            if form == Form::MaskedColumns {
                self.add(format!("%w{e} = slice(%s) {{axes = [1], starts = [{e}], ends = [{}], steps = [1]}}", e + 1));
            } else {
                self.ints(&format!("e{e}"), &[e as i64], true);
                self.add(format!("%hit{e} = eq(%ids, %e{e})"));
                self.add(format!("%on{e} = cast(%hit{e}) {{to = f32}}"));
                self.add(format!("%part{e} = mul(%on{e}, %weights)"));
                self.add(format!("%w{e} = reduce(%part{e}) {{f = sum, axes = [-1], keep = true}}"));
            }
            let y = self.mlp(e, "x");
            self.add(format!("%m{e} = mul(%{y}, %w{e})"));
            if e > 0 {
                self.add(format!("%acc{e} = add(%{total}, %m{e})"));
            }
            total = if e > 0 { format!("acc{e}") } else { "m0".into() };
        }
        self.add(format!("%y = neg(%{total})"));
    }

    fn scores(&mut self) {
        self.number("zero", 0.0);
        self.add(format!("%none = expand(%zero) {{shape = [T, {}]}}", self.s.experts));
        self.add("%s = scatter_elements(%none, %ids, %weights) {axis = 1, reduction = none}");
    }

    fn dense(&mut self, swiglu: bool) {
        let Sizes { hidden, inner, experts, .. } = self.s;
        self.scores();
        self.add("%st = transpose(%s) {perm = [1, 0]}");
        self.add(format!("%sc = reshape(%st) {{shape = [{experts}, T, 1]}}"));
        self.add(format!("%copies = tile(%x) {{repeats = [{experts}, 1]}}"));
        self.add(format!("%xs = reshape(%copies) {{shape = [{experts}, T, {hidden}]}}"));
        if swiglu {
            self.add(format!("%gu = weight : f32[{experts}, {hidden}, {}]", 2 * inner));
            self.add(format!("%gub = weight : f32[{experts}, 1, {}]", 2 * inner));
            self.add("%both0 = matmul(%xs, %gu)");
            self.add("%both = add(%both0, %gub)");
            self.add("%g0 = slice(%both) {axes = [-1], starts = [0], ends = [9223372036854775807], steps = [2]}");
            self.add("%u0 = slice(%both) {axes = [-1], starts = [1], ends = [9223372036854775807], steps = [2]}");
            self.number("limit", 1.25);
            self.number("low", -1.25);
            self.number("alpha", 1.702);
            self.number("one", 1.0);
            self.add("%g = min(%g0, %limit)");
            self.add("%u1 = max(%u0, %low)");
            self.add("%u = min(%u1, %limit)");
            self.add("%ga = mul(%g, %alpha)");
            self.add("%sig = sigmoid(%ga)");
            self.add("%act = mul(%g, %sig)");
            self.add("%ub = add(%u, %one)");
            self.add("%h = mul(%ub, %act)");
            self.add(format!("%dn = weight : f32[{experts}, {inner}, {hidden}]"));
            self.add(format!("%db = weight : f32[{experts}, 1, {hidden}]"));
            self.add("%o0 = matmul(%h, %dn)");
            self.add("%o = add(%o0, %db)");
        } else {
            self.add(format!("%gt = weight : f32[{experts}, {hidden}, {inner}]"));
            self.add(format!("%up = weight : f32[{experts}, {hidden}, {inner}]"));
            self.add(format!("%dn = weight : f32[{experts}, {inner}, {hidden}]"));
            self.add("%g = matmul(%xs, %gt)");
            self.add("%u = matmul(%xs, %up)");
            self.add("%act = gelu(%g)");
            self.add("%h = mul(%act, %u)");
            self.add("%o = matmul(%h, %dn)");
        }
        self.add("%m = mul(%o, %sc)");
        self.add("%y = reduce(%m) {f = sum, axes = [0]}");
    }

    fn gathered(&mut self, form: Form) {
        let Sizes { hidden, inner, experts, k } = self.s;
        if form == Form::GatheredFlat {
            return self.gathered_flat(|layer, w, n, k| {
                layer.add(format!("%{w} = weight : f32[{experts}, {k}, {n}]"));
                layer.add(format!("%w{w} = gather(%{w}, %flat) {{axis = 0}}"));
            });
        }
        self.add(format!("%xc = reshape(%x) {{shape = [T, 1, {hidden}, 1]}}"));
        if form == Form::GatheredSwiglu {
            self.add(format!("%gu = weight : f32[{experts}, {}, {hidden}]", 2 * inner));
            self.add(format!("%gub = weight : f32[{experts}, {}]", 2 * inner));
            self.add(format!("%db = weight : f32[{experts}, {hidden}]"));
            self.add("%wgu = gather(%gu, %ids) {axis = 0}");
            self.add("%bgu = gather(%gub, %ids) {axis = 0}");
            self.add("%bd = gather(%db, %ids) {axis = 0}");
            self.add("%both0 = matmul(%wgu, %xc)");
            self.add(format!("%both1 = reshape(%both0) {{shape = [T, {k}, {}]}}", 2 * inner));
            self.add("%both = add(%both1, %bgu)");
            self.add(format!("%g = slice(%both) {{axes = [2], starts = [0], ends = [{inner}], steps = [1]}}"));
            self.add(format!(
                "%u = slice(%both) {{axes = [2], starts = [{inner}], ends = [{}], steps = [1]}}",
                2 * inner
            ));
        } else {
            for w in ["gt", "up"] {
                self.add(format!("%{w} = weight : f32[{experts}, {inner}, {hidden}]"));
                self.add(format!("%w{w} = gather(%{w}, %ids) {{axis = 0}}"));
                self.add(format!("%c{w} = matmul(%w{w}, %xc)"));
                self.add(format!("%r{w} = reshape(%c{w}) {{shape = [T, {k}, {inner}]}}"));
            }
            self.add(
                "%g = neg(%rgt)".replace("neg(%rgt)", "reshape(%rgt) {shape = [T, ") + &format!("{k}, {inner}]}}"),
            );
            self.add(format!("%u = reshape(%rup) {{shape = [T, {k}, {inner}]}}"));
        }
        self.add("%act = silu(%g)");
        self.add("%h = mul(%act, %u)");
        self.add(format!("%dn = weight : f32[{experts}, {hidden}, {inner}]"));
        self.add("%wd = gather(%dn, %ids) {axis = 0}");
        self.add(format!("%hc = reshape(%h) {{shape = [T, {k}, {inner}, 1]}}"));
        self.add("%oc = matmul(%wd, %hc)");
        self.add(format!("%o0 = reshape(%oc) {{shape = [T, {k}, {hidden}]}}"));
        let o = if form == Form::GatheredSwiglu {
            self.add("%o1 = add(%o0, %bd)");
            "o1"
        } else {
            "o0"
        };
        self.add(format!("%wc = reshape(%weights) {{shape = [T, {k}, 1]}}"));
        self.add(format!("%m = mul(%{o}, %wc)"));
        self.add("%y = reduce(%m) {f = sum, axes = [1]}");
    }

    /// Gate, linear part and second layer over weights that `weight` names `%wgt`, `%wup` and `%wdn`: `[.., n, k]` for each pair.
    fn columns(&mut self, weight: impl Fn(&mut Layer, &str, usize, usize)) {
        let Sizes { hidden, inner, k, .. } = self.s;
        self.add(format!("%xc = reshape(%x) {{shape = [T, 1, {hidden}, 1]}}"));
        for w in ["gt", "up"] {
            weight(self, w, inner, hidden);
            self.add(format!("%c{w} = matmul(%w{w}, %xc)"));
        }
        self.add("%act = gelu(%cgt)");
        self.add("%h = mul(%act, %cup)");
        weight(self, "dn", hidden, inner);
        self.add("%oc = matmul(%wdn, %h)");
        self.add(format!("%o = reshape(%oc) {{shape = [T, {k}, {hidden}]}}"));
        self.add(format!("%wc = reshape(%weights) {{shape = [T, {k}, 1]}}"));
        self.add("%m = mul(%o, %wc)");
        self.add("%y = reduce(%m) {f = sum, axes = [1]}");
    }

    /// Weights as codes with scales, and zero points where their type has no sign. The scales of the second layer are `%dn`.
    fn packed(&mut self, form: Form) {
        let experts = self.s.experts;
        let scales = |w: &str| if w == "dn" { "dn".to_string() } else { format!("{w}scales") };
        match form {
            // 4 bits without sign, in blocks.
            Form::GatheredPacked => self.columns(|layer, w, n, k| {
                let (s, blocks) = (scales(w), k / block(k));
                layer.add(format!("%{w}codes = weight : u4[{experts}, {n}, {k}]"));
                layer.add(format!("%{s} = weight : f32[{experts}, {n}, {blocks}]"));
                layer.add(format!("%{w}zeros = weight : u4[{experts}, {n}, {blocks}]"));
                layer.add(format!("%{w}c = gather(%{w}codes, %ids) {{axis = 0}}"));
                layer.add(format!("%{w}s = gather(%{s}, %ids) {{axis = 0}}"));
                layer.add(format!("%{w}z = gather(%{w}zeros, %ids) {{axis = 0}}"));
                layer.add(format!(
                    "%w{w} = dequantize_linear(%{w}c, %{w}s, %{w}z) {{axis = 3, block = {}, to = f32}}",
                    block(k)
                ));
            }),
            // 8 bits with a sign, `[k, n]`, one scale for an expert.
            Form::GatheredPackedFlat => self.gathered_flat(|layer, w, n, k| {
                let s = scales(w);
                layer.add(format!("%{w}codes = weight : i8[{experts}, {k}, {n}]"));
                layer.add(format!("%{s} = weight : f32[{experts}]"));
                layer.add(format!("%{w}c = gather(%{w}codes, %flat) {{axis = 0}}"));
                layer.add(format!("%{w}s = gather(%{s}, %flat) {{axis = 0}}"));
                layer.add(format!("%w{w} = dequantize_linear(%{w}c, %{w}s) {{axis = 0, block = 0, to = f32}}"));
            }),
            // 4 bits with a sign, one scale for an output, dequantised before they are gathered.
            _ => self.columns(|layer, w, n, k| {
                let s = scales(w);
                layer.add(format!("%{w}codes = weight : i4[{experts}, {n}, {k}]"));
                layer.add(format!("%{s} = weight : f32[{experts}, {n}, 1]"));
                layer.add(format!("%{w}d = dequantize_linear(%{w}codes, %{s}) {{axis = 2, block = {k}, to = f32}}"));
                layer.add(format!("%w{w} = gather(%{w}d, %ids) {{axis = 0}}"));
            }),
        }
    }

    /// Tokens of pairs from a range; rows of x gathered, and added back by token.
    fn gathered_flat(&mut self, weight: impl Fn(&mut Layer, &str, usize, usize)) {
        let Sizes { hidden, inner, k, .. } = self.s;
        self.add(format!("%flat = reshape(%ids) {{shape = [{k}*T]}}"));
        self.add("%tokens = range() {start = 0, step = 1, length = T}");
        self.add("%tokenc = reshape(%tokens) {shape = [T, 1]}");
        self.add(format!("%tokenk = expand(%tokenc) {{shape = [T, {k}]}}"));
        self.add(format!("%token = reshape(%tokenk) {{shape = [{k}*T]}}"));
        self.add("%rows = gather(%x, %token) {axis = 0}");
        self.add(format!("%xr = reshape(%rows) {{shape = [{k}*T, 1, {hidden}]}}"));
        for w in ["gt", "up"] {
            weight(self, w, inner, hidden);
            self.add(format!("%c{w} = matmul(%xr, %w{w})"));
        }
        self.add("%act = silu(%cgt)");
        self.add("%h = mul(%act, %cup)");
        weight(self, "dn", hidden, inner);
        self.add("%oc = matmul(%h, %wdn)");
        self.add(format!("%o = reshape(%oc) {{shape = [{k}*T, {hidden}]}}"));
        self.add(format!("%wc = reshape(%weights) {{shape = [{k}*T, 1]}}"));
        self.add("%m = mul(%o, %wc)");
        self.number("zero", 0.0);
        self.add(format!("%none = expand(%zero) {{shape = [T, {hidden}]}}"));
        self.add(format!("%places = reshape(%token) {{shape = [{k}*T, 1]}}"));
        self.add("%y = scatter_nd(%none, %places, %m) {reduction = add}");
    }

    fn sorted(&mut self) {
        let Sizes { hidden, inner, experts, k } = self.s;
        let pairs = format!("{k}*T");
        self.add(format!("%flat = reshape(%ids) {{shape = [{pairs}]}}"));
        self.add(format!("%fw = reshape(%weights) {{shape = [{pairs}]}}"));
        self.add(format!("%sid, %order = top_k(%flat) {{k = {pairs}, axis = -1, sorted = true}}"));
        self.ints("width", &[k as i64], true);
        self.add("%token = div(%order, %width)");
        self.add("%xs = gather(%x, %token) {axis = 0}");
        self.add("%ws = gather(%fw, %order) {axis = 0}");
        self.number("zero", 0.0);
        self.number("one", 1.0);
        self.add(format!("%empty = expand(%zero) {{shape = [{experts}]}}"));
        self.add(format!("%ones = expand(%one) {{shape = [{pairs}]}}"));
        self.add("%counts = scatter_elements(%empty, %sid, %ones) {axis = 0, reduction = add}");
        self.add("%counti = cast(%counts) {to = i64}");
        self.add("%ends = cum_sum(%counti) {axis = 0}");
        self.ints("c0", &[0], false);
        for e in 0..experts {
            self.add(format!("%end{e} = slice(%ends) {{axes = [0], starts = [{e}], ends = [{}], steps = [1]}}", e + 1));
        }
        let group = |layer: &mut Self, of: &str, x: &str, n: usize, from: usize| {
            for e in 0..experts {
                let start = if e == 0 { "c0".to_string() } else { format!("end{}", e - 1) };
                let late = from + e;
                let width = if of == "d" { inner } else { hidden };
                layer.add(format!("%{of}in{e} = slice_by(%{x}, %{start}, %end{e}, %c0, _) : f32[?{late}, {width}]"));
                layer.add(format!("%{of}w{e} = weight : f32[{width}, {n}]"));
                layer.add(format!("%{of}out{e} = linear(%{of}in{e}, %{of}w{e}) {{kn = true}}"));
            }
            let parts: Vec<_> = (0..experts).map(|e| format!("%{of}out{e}")).collect();
            layer.add(format!("%{of}all = concat({}) {{axis = 0}}", parts.join(", ")));
        };
        group(self, "g", "xs", inner, 0);
        self.add("%h = gelu(%gall)");
        self.add(format!("%hp = expand(%one) {{shape = [{pairs}, 1]}}"));
        self.add("%hh = mul(%h, %hp)");
        group(self, "d", "h", hidden, experts);
        self.add(format!("%wc = reshape(%ws) {{shape = [{pairs}, 1]}}"));
        self.add("%m = mul(%dall, %wc)");
        self.add(format!("%count = range() {{start = 0, step = 1, length = {pairs}}}"));
        self.ints("z", &[0], true);
        self.add(format!("%blank = expand(%z) {{shape = [{pairs}]}}"));
        self.add(format!("%orderc = reshape(%order) {{shape = [{pairs}, 1]}}"));
        self.add("%inverse = scatter_nd(%blank, %orderc, %count) {reduction = none}");
        self.add("%back = gather(%m, %inverse) {axis = 0}");
        self.add(format!("%tokens = reshape(%back) {{shape = [T, {k}, {hidden}]}}"));
        self.add("%y = reduce(%tokens) {f = sum, axes = [1]}");
    }
}

fn layer_text(form: Form, router: Router, s: Sizes) -> String {
    let mut layer = Layer { text: format!("graph @{}(%x: f32[T, {}]) {{\n", form.name(), s.hidden), s };
    layer.route(router);
    match form {
        Form::LoopIndexed | Form::LoopNd | Form::LoopEqual => layer.loop_over_experts(form),
        Form::Masked | Form::MaskedColumns => layer.masked(form),
        Form::Dense => layer.dense(false),
        Form::DenseSwiglu => layer.dense(true),
        Form::Gathered | Form::GatheredSwiglu | Form::GatheredFlat => layer.gathered(form),
        Form::GatheredPacked | Form::GatheredPackedFlat | Form::GatheredDequantised => layer.packed(form),
        Form::Sorted => layer.sorted(),
    }
    layer.add("return %y");
    layer.text + "}\n"
}

/// How many of `k` inputs share a scale.
fn block(k: usize) -> usize {
    (2..=16).rev().find(|n| k.is_multiple_of(*n) && k > *n).unwrap_or(k)
}

/// A small generator, so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn float(&mut self) -> f64 {
        (self.next() % 4001) as f64 / 2000.0 - 1.0
    }
}

fn graph(text: &str, random: &mut Random) -> Graph {
    let mut g = text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    for id in g.order() {
        if let Kind::Weight(None) = g.node(id).kind {
            let ty = g.tensor_ty(Value::from(id)).unwrap();
            let (dtype, dims) = (ty.dtype, ty.shape.as_const().unwrap());
            let codes = dtype.int_range().map(|(low, high)| (low as f64, (high - low + 1) as u64));
            // Codes of experts are scaled to numbers below 1.
            let scale =
                text.contains("codes =") && (g.name(id.into()).ends_with("scales") || &**g.name(id.into()) == "dn");
            let value = |_| match codes {
                Some((low, count)) => low + (random.next() % count) as f64,
                None if scale => (random.float() + 1.5) / 100.0,
                None => random.float(),
            };
            let values: Vec<f64> = (0..dims.iter().product()).map(value).collect();
            g.attach(id, Tensor::from_f64(dtype, &dims, &values).unwrap()).unwrap();
        }
    }
    g
}

/// Inputs: random rows, equal rows (all tokens on the same experts), zeros (every score tied), large ones, and some that are not
/// finite.
fn rows(tokens: usize, hidden: usize, fill: usize, random: &mut Random) -> Tensor {
    let one: Vec<f64> = (0..hidden).map(|_| random.float()).collect();
    let mut value = |i: usize| match fill {
        0 => random.float(),
        1 => one[i % hidden],
        2 => 0.0,
        3 => random.float() * 50.0,
        _ if random.next().is_multiple_of(40) => {
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][random.next() as usize % 3]
        }
        _ => random.float(),
    };
    let values: Vec<f64> = (0..tokens * hidden).map(&mut value).collect();
    Tensor::from_f64(DType::F32, &[tokens, hidden], &values).unwrap()
}

fn compare(what: &str, got: &Datum, want: &Datum, dense: bool) {
    let (got, want) = (got.as_tensor().unwrap(), want.as_tensor().unwrap());
    assert_eq!((got.dims(), got.dtype()), (want.dims(), want.dtype()), "{what}");
    let (g, w) = (got.to_f64().unwrap(), want.to_f64().unwrap());
    let scale = w.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
    for (i, (a, b)) in g.iter().zip(&w).enumerate() {
        // An expert that was not chosen no longer turns a row into NaN: the one intended difference.
        let freed = dense && !b.is_finite() && (a.is_finite() || a.is_nan());
        let same = a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 2e-4 * scale;
        assert!(same || freed, "{what}: element {i} is {a}, was {b}");
    }
}

fn optimised(form: Form, g: &Graph) -> Graph {
    let mut after = g.clone();
    Driver::new(form.stages()).run(&mut after).unwrap_or_else(|e| panic!("{e}\n{g}"));
    after
}

fn count(g: &Graph, op: &str) -> usize {
    g.order().into_iter().filter(|id| g.op(*id).is_some_and(|o| o.name() == op)).count()
}

/// What `compile --verify` would say of experts of which one has an infinite weight: where it was not chosen, `0 * inf` is NaN
/// before, if every token passes through every expert, and nothing after. Whether there was such a row.
fn audited(form: Form, before: &Graph, what: &str, x: Tensor) -> bool {
    let mut before = before.clone();
    for id in before.order() {
        let Some(tensor) = before.constant_of(id.into()).filter(|_| matches!(&**before.name(id.into()), "d0" | "dn"))
        else {
            continue;
        };
        let mut values = tensor.to_f64().unwrap();
        values[0] = f64::INFINITY;
        let tensor = Tensor::from_f64(tensor.dtype(), tensor.dims(), &values).unwrap();
        let new = before.constant("infinite", tensor);
        before.replace(id.into(), new);
    }
    before.remove_dead();
    let after = optimised(form, &before);
    let inputs = vec![Datum::from(x)];
    let nans = |g: &Graph| {
        let y = eval::run(g, &inputs).unwrap()[0].as_tensor().unwrap().to_f64().unwrap();
        y.iter().filter(|v| v.is_nan()).count()
    };
    let agrees = Audit::with_inputs(vec![inputs.clone()]).compare(&before, &after);
    agrees.unwrap_or_else(|e| panic!("{what}: {e}\n{after}"));
    nans(&before) > nans(&after)
}

/// Compares; whether a NaN of an expert that was not chosen is gone.
fn check(form: Form, router: Router, s: Sizes, seed: u64) -> bool {
    let what = format!("{form:?}, {router:?}, {s:?}");
    let random = &mut Random(seed);
    let text = layer_text(form, router, s);
    let before = graph(&text, random);
    let after = optimised(form, &before);
    let known = usize::from(!matches!(router, Router::Unknown));
    let lost = audited(form, &before, &what, rows(9, s.hidden, 0, random));
    assert!(!lost || form.is_dense(), "{what}: a NaN is gone");
    let gemms = if form.is_packed() {
        [("moe_gemm", 0), ("moe_gemm_nbits", 2)]
    } else {
        [("moe_gemm", 2), ("moe_gemm_nbits", 0)]
    };
    let wanted = [("moe_route", known), ("top_k", 1 - known), ("expert_index", 1), ("dequantize_linear", 0)];
    for (op, n) in wanted.into_iter().chain(gemms) {
        assert_eq!(count(&after, op), n, "{op} in {what}\n{after}");
    }
    for op in ["nonzero", "one_hot", "scatter_nd", "scatter_elements", "gather", "gather_nd", "matmul", "slice_by"] {
        assert_eq!(count(&after, op), 0, "{op} is left in {what}\n{after}");
    }
    let plan = plan::build(ir::verify(&after).unwrap(), &Cpu, "").unwrap();
    let plan = Arc::new(plan::check(plan).unwrap());
    let weights = Weights::from_source(&plan, &GraphWeights::new(&plan)).unwrap();
    let loaded = Cpu.load(plan, weights).unwrap();
    let mut session = loaded.session(2);
    for (tokens, fill) in [(5, 0), (1, 0), (9, 1), (3, 2), (6, 3), (8, 4), (0, 0)] {
        let inputs = [Datum::from(rows(tokens, s.hidden, fill, random))];
        let what = format!("{what}, {tokens} tokens, fill {fill}");
        let found = eval::run(&after, &inputs).unwrap_or_else(|e| panic!("{what}: {e}"));
        match eval::run(&before, &inputs) {
            Ok(want) => compare(&what, &found[0], &want[0], form.is_dense()),
            Err(e) => panic!("{what}: {e}"),
        }
        let run = session.run(&inputs).unwrap_or_else(|e| panic!("{what}: {e}"));
        compare(&format!("{what}, on the CPU"), &run[0], &found[0], false);
    }
    lost
}

const SMALL: Sizes = Sizes { hidden: 20, inner: 12, experts: 4, k: 2 };

#[test]
fn every_form_behind_every_router_becomes_the_same_operators() {
    for (i, form) in FORMS.into_iter().enumerate() {
        let lost = ROUTERS.into_iter().enumerate().map(|(j, router)| check(form, router, SMALL, (10 * i + j) as u64));
        assert_eq!(lost.filter(|lost| *lost).count() > 0, form.is_dense(), "{form:?}");
    }
}

#[test]
fn sizes_that_fill_no_panel_and_routers_that_choose_all_or_one() {
    let sizes = [
        Sizes { hidden: 17, inner: 33, experts: 5, k: 1 },
        Sizes { hidden: 32, inner: 16, experts: 3, k: 3 },
        Sizes { hidden: 9, inner: 40, experts: 7, k: 4 },
    ];
    let random = &mut Random(99);
    for (i, s) in sizes.into_iter().enumerate() {
        for form in FORMS {
            let router = ROUTERS[random.next() as usize % 4];
            check(form, router, s, 1000 + i as u64);
        }
    }
}

/// A product with gathered weights of any quantisation: codes of a type, in either order, with scales of any shape. Whether the pass
/// must take it.
fn random_product(random: &mut Random) -> (String, usize, bool) {
    let mut pick = |n: usize| random.next() as usize % n;
    let (experts, n, k) = (1 + pick(5), 1 + pick(9), 1 + pick(40));
    let (dtype, zeros, whole, kn) =
        (["i8", "u8", "i4", "u4", "i2", "u2"][pick(6)], pick(2) == 0, pick(2) == 0, pick(2) == 0);
    let (a, b) = if kn { (k, n) } else { (n, k) };
    let block = 1 + pick(k.max(n) + 2);
    // Dimension of the matrix along which scales are cut, for each pair.
    let (inputs, outputs) = if kn { (1, 2) } else { (2, 1) };
    let divided = |n: usize| n.div_ceil(block);
    // The dimensions of the scales, the axis, the block, and whether experts share them.
    let (dims, axis, block, shared, shares) = match pick(6) {
        0 => (String::new(), 0, 0, true, k),
        1 => (experts.to_string(), 0, 0, false, k),
        2 => (n.to_string(), outputs, 0, true, k),
        3 => (k.to_string(), inputs, 0, true, 1),
        4 if kn => (format!("{experts}, {}, {n}", divided(k)), inputs, block, false, block),
        4 => (format!("{experts}, {n}, {}", divided(k)), inputs, block, false, block),
        _ if kn => (
            format!("{experts}, {k}, {}", divided(n)),
            outputs,
            block,
            false,
            if divided(n) == 1 && k == 1 { k } else { 1 },
        ),
        _ => (format!("{experts}, {}, {k}", divided(n)), outputs, block, false, 1),
    };
    let common =
        |a: usize, b: usize| (1..=a.min(b)).rev().find(|d| a.is_multiple_of(*d) && b.is_multiple_of(*d)).unwrap_or(1);
    let known = k == 1 || shares >= k || common(shares, k) > 1;
    let mut text =
        format!("graph @g(%x: f32[T, 1, {k}], %ids: i64[T]) {{\n %c = weight : {dtype}[{experts}, {a}, {b}]\n");
    let _ = writeln!(text, " %scales = weight : f32[{dims}]");
    if zeros {
        let _ = writeln!(text, " %z = weight : {dtype}[{dims}]");
    }
    let attrs = format!("{{axis = {axis}, block = {block}, to = f32}}");
    if whole {
        let _ = writeln!(text, " %d = dequantize_linear(%c, %scales{}) {attrs}", if zeros { ", %z" } else { "" });
        text += " %w = gather(%d, %ids) {axis = 0}\n";
    } else {
        let mut operands = vec!["%gc".to_string()];
        text += " %gc = gather(%c, %ids) {axis = 0}\n";
        for name in [Some("scales"), zeros.then_some("z")].into_iter().flatten() {
            if shared {
                operands.push(format!("%{name}"));
                continue;
            }
            let _ = writeln!(text, " %g{name} = gather(%{name}, %ids) {{axis = 0}}");
            operands.push(format!("%g{name}"));
        }
        let _ = writeln!(text, " %w = dequantize_linear({}) {attrs}", operands.join(", "));
    }
    let turned = if kn { "w" } else { "t" };
    if !kn {
        text += " %t = transpose(%w) {perm = [0, 2, 1]}\n";
    }
    let _ = writeln!(text, " %y = matmul(%x, %{turned})\n return %y\n}}");
    (text, experts, known)
}

#[test]
fn products_with_gathered_codes_compute_the_same_whatever_their_quantisation() {
    let random = &mut Random(7);
    let (mut taken, mut kept) = (0, 0);
    for number in 0..600 {
        let (text, experts, known) = random_product(random);
        let before = graph(&text, random);
        let k = before.tensor_ty(before.inputs[0].into()).unwrap().dims().unwrap()[2].as_const().unwrap() as usize;
        let mut after = before.clone();
        Driver::new(vec![Stage::Once(fuse_moe_gemm::PASS)]).run(&mut after).unwrap_or_else(|e| panic!("{e}\n{before}"));
        let packed = count(&after, "moe_gemm_nbits");
        assert_eq!(packed, usize::from(known), "{number}: {text}\n{after}");
        if !known {
            assert_eq!(after.to_string(), before.to_string(), "{number}");
            kept += 1;
            continue;
        }
        taken += 1;
        assert_eq!(count(&after, "dequantize_linear") + count(&after, "gather"), 0, "{number}: {after}");
        for (tokens, fill) in [(5, 0), (1, 2), (3, 4), (0, 0)] {
            let ids: Vec<i64> = (0..tokens).map(|_| (random.next() as usize % experts) as i64).collect();
            let x = rows(tokens, k, fill, random).reshaped(&[tokens, 1, k]).unwrap();
            let inputs = [Datum::from(x), Datum::from(Tensor::vector_i64(&ids))];
            let want = eval::run(&before, &inputs).unwrap_or_else(|e| panic!("{number}: {e}\n{text}"));
            let found = eval::run(&after, &inputs).unwrap_or_else(|e| panic!("{number}: {e}\n{after}"));
            compare(&format!("{number}: {text}"), &found[0], &want[0], false);
        }
    }
    assert!(taken > 200 && kept > 100, "{taken} were taken and {kept} were kept");
}

/// Each form before and after, for the eye; `cargo xtask bless` rewrites them.
#[test]
fn goldens_show_each_form_before_and_after() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/moe");
    let s = Sizes { hidden: 64, inner: 48, experts: 2, k: 2 };
    for (form, router) in FORMS.into_iter().zip(ROUTERS.into_iter().cycle()) {
        let before = graph(&layer_text(form, router, s), &mut Random(1));
        let found = format!("// before\n{before}\n// after\n{}", optimised(form, &before));
        let path = folder.join(format!("{}.ir", form.name()));
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &found).unwrap();
        }
        let wanted = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(found.trim(), wanted.trim(), "{}: `just bless` and read the diff", path.display());
    }
}
