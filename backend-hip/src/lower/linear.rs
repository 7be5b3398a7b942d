//! `linear` and `linears`: few rows by kernels that stream the weights, many rows by tiles; up to three layers in one launch, but for
//! tiles in f32. 16-bit factors go through matrix instructions.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, output, scratch};
use crate::tuning::Tuning;
use ir::Dim;
use ir::ops::{ActivationFn, Linear, Linears};
use kernels::{Element, table};
use plan::Layout;

/// From so many rows on, tiles are faster than streaming weights of another type than f32 once for every 8 rows.
const MANY_ROWS: i64 = 32;
/// Rows that stream the weights once where nothing is shared between threads.
const FEW_ROWS: i64 = 8;
/// Layers that one launch takes.
const TOGETHER: usize = 3;

/// A layer: operands of the node.
struct Layer {
    w: usize,
    bias: Option<usize>,
    /// Whether the weight lies as `[k, n]`.
    lies_kn: bool,
}

struct Layers {
    x: Element,
    w: Element,
    layers: Vec<Layer>,
    residual: Option<usize>,
    /// What gates the second product, as the kernels number it.
    gate: Option<i64>,
    /// Whether weights are declared `[k, n]`.
    kn: bool,
    /// Bytes of both products where they are gated afterwards.
    scratch: Option<Dim>,
    tuning: &'static Tuning,
}

pub(super) fn linear(op: &Linear, types: &Types<'_>) -> Chosen {
    let bias = types.input(2).map(|_| 2);
    layers(types, &[(1, bias)], None, op.kn, None)
}

pub(super) fn linears(op: &Linears, types: &Types<'_>) -> Chosen {
    let weights = (Linears::FIRST..types.ins.len()).step_by(2);
    let weights: Vec<_> = weights.map(|w| (w, types.input(w + 1).map(|_| w + 1))).collect();
    let residual = types.input(1).map(|_| 1);
    let gate = op.gate.map(activation).transpose()?;
    if weights.len() > TOGETHER {
        return Err("it has more than three layers");
    }
    layers(types, &weights, residual, op.kn, gate)
}

/// The kernels' number of an activation with its default parameters.
pub(super) fn activation(act: ActivationFn) -> Result<i64, &'static str> {
    Ok(match act {
        ActivationFn::Silu => 1,
        ActivationFn::Gelu => 2,
        ActivationFn::Relu => 3,
        ActivationFn::GeluTanh => 4,
        ActivationFn::Sigmoid => 5,
        _ => return Err("the kernel does not have its activation"),
    })
}

fn layers(
    types: &Types<'_>,
    weights: &[(usize, Option<usize>)],
    residual: Option<usize>,
    kn: bool,
    gate: Option<i64>,
) -> Chosen {
    let (x, w) = (types.element(0)?, types.element(weights[0].0)?);
    let float = |e: Element| matches!(e, Element::F32 | Element::F16 | Element::BF16);
    if !float(x) || !float(w) {
        return Err("the kernel takes f32, f16 and bf16 only");
    }
    let alike = |i: &usize| types.input(*i).is_some_and(|t| element(t.dtype) == Ok(x));
    if !weights.iter().filter_map(|(_, bias)| bias.as_ref()).chain(residual.as_ref()).all(alike) {
        return Err("its bias is of another element type");
    }
    if !weights.iter().all(|(i, _)| types.element(*i) == Ok(w)) {
        return Err("its weights differ in element type");
    }
    types.dims(0)?;
    let layer = |(w, bias): &(usize, Option<usize>)| {
        let lies_kn = kn && types.layout(*w) != Layout::Transposed;
        Layer { w: *w, bias: *bias, lies_kn }
    };
    let result = types.outs[0].dims().ok_or("its rank is not known")?;
    let scratch = gate.map(|_| result.iter().cloned().product::<Dim>() * (2 * x.bytes()));
    Ok(Box::new(Layers {
        x,
        w,
        layers: weights.iter().map(layer).collect(),
        residual,
        gate,
        kn,
        scratch,
        tuning: types.tuning,
    }))
}

/// Sizes of a node: rows, inputs, and outputs of each layer.
struct Shape {
    rows: i64,
    k: i64,
    n: Vec<i64>,
}

impl Layers {
    fn shape(&self, sizes: &Sizes<'_>) -> Shape {
        let x = &sizes.ins[0];
        let of = |l: &Layer| if self.kn { sizes.ins[l.w][1] } else { sizes.ins[l.w][0] };
        let rows = x[..x.len() - 1].iter().product::<usize>() as i64;
        let n = self.layers.iter().map(|l| of(l) as i64).collect();
        Shape { rows, k: *x.last().expect("it has rows") as i64, n }
    }

    /// Whether matrix instructions take the weights.
    fn matrices(&self, k: i64) -> bool {
        let rows = self.layers.iter().all(|l| !l.lies_kn);
        rows && self.x == self.w && self.x != Element::F32 && k % 32 == 0
    }

    /// Whether a block takes some outputs of dozens of rows in f32.
    fn columns(&self, s: &Shape) -> bool {
        self.x == Element::F32 && self.w == Element::F32 && (FEW_ROWS + 1..=self.tuning.column_rows).contains(&s.rows)
    }

    /// Whether there is a tile of 128 for every processor.
    fn large(&self, s: &Shape) -> bool {
        let across: i64 = s.n.iter().map(|n| (n + 127) / 128).sum();
        (s.rows + 127) / 128 * across >= self.tuning.large_tiles
    }

    /// All products in one launch.
    fn together(&self, s: &Shape, to: &[Memory], residual: Option<usize>) -> Call<Memory> {
        let layer = |i: usize| self.layers.get(i);
        let w = |i: usize| input(layer(i).map_or(self.layers[0].w, |l| l.w));
        let bias = |i: usize| input(layer(i).and_then(|l| l.bias).unwrap_or(0));
        let y = |i: usize| to.get(i).copied().unwrap_or(to[0]);
        let n = |i: usize| s.n.get(i).copied().unwrap_or(0);
        let biased = (0..TOGETHER).filter(|i| layer(*i).is_some_and(|l| l.bias.is_some())).map(|i| 1 << i).sum();
        let (r, has_residual) = (input(residual.unwrap_or(0)), i64::from(residual.is_some()));
        let (w0, w1, w2, b0, b1, b2) = (w(0), w(1), w(2), bias(0), bias(1), bias(2));
        let (y0, y1, y2, n0, n1, n2) = (y(0), y(1), y(2), n(0), n(1), n(2));
        let (x, rows, k) = (input(0), s.rows, s.k);
        let e = self.x;
        let call_of = match () {
            () if self.matrices(k) && rows <= self.tuning.streamed_rows => table::linear_tiles,
            () if self.matrices(k) && self.large(s) => table::linear_block,
            () if self.matrices(k) => table::linear_block64,
            () if self.columns(s) => table::linear_columns,
            () => {
                return call(table::linear_rows(
                    e,
                    self.w,
                    x,
                    w0,
                    w1,
                    w2,
                    b0,
                    b1,
                    b2,
                    r,
                    y0,
                    y1,
                    y2,
                    rows,
                    n0,
                    n1,
                    n2,
                    k,
                    biased,
                    has_residual,
                ));
            }
        };
        call(call_of(e, x, w0, w1, w2, b0, b1, b2, r, y0, y1, y2, rows, n0, n1, n2, k, biased, has_residual))
    }

    /// The product of one layer, whichever way its weight lies.
    fn alone(&self, i: usize, s: &Shape, y: Memory, residual: Option<usize>) -> Call<Memory> {
        let (l, n) = (&self.layers[i], s.n[i]);
        let (bias, has_bias) = (input(l.bias.unwrap_or(0)), i64::from(l.bias.is_some()));
        let (r, has_residual) = (input(residual.unwrap_or(0)), i64::from(residual.is_some()));
        let (x, w, rows, k) = (input(0), input(l.w), s.rows, s.k);
        let (b_row, b_col) = if l.lies_kn { (n, 1) } else { (1, k) };
        let (a_count, b_count, shape) = (rows * k, n * k, [0; 13]);
        call(table::matmul(
            self.x,
            self.w,
            x,
            w,
            bias,
            r,
            y,
            rows,
            n,
            k,
            1,
            k,
            1,
            b_row,
            b_col,
            a_count,
            b_count,
            has_bias,
            has_residual,
            shape,
        ))
    }

    /// Every product to where it belongs.
    fn products(&self, s: &Shape, to: &[Memory], residual: Option<usize>) -> Vec<Call<Memory>> {
        let rows = self.layers.iter().all(|l| !l.lies_kn);
        if rows && (self.matrices(s.k) || s.rows < MANY_ROWS || self.columns(s)) {
            return vec![self.together(s, to, residual)];
        }
        (0..self.layers.len()).filter(|i| s.n[*i] > 0).map(|i| self.alone(i, s, to[i], residual)).collect()
    }
}

impl Lowering for Layers {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn files(&self) -> &'static [&'static str] {
        &["linear", "matmul"]
    }

    fn scratch(&self) -> Option<Dim> {
        self.scratch.clone()
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let s = self.shape(sizes);
        if s.rows == 0 || s.n.iter().all(|n| *n == 0) {
            return Ok(vec![]);
        }
        let Some(act) = self.gate else {
            let to: Vec<Memory> = (0..self.layers.len()).map(output).collect();
            return Ok(self.products(&s, &to, self.residual));
        };
        let (r, has_residual) = (input(self.residual.unwrap_or(0)), i64::from(self.residual.is_some()));
        if self.matrices(s.k) && s.rows <= self.tuning.streamed_rows {
            let [g, u] = &self.layers[..] else { return Err("a gate has two layers".into()) };
            let bias = |l: &Layer| input(l.bias.unwrap_or(0));
            let biased = i64::from(g.bias.is_some()) + 2 * i64::from(u.bias.is_some());
            let (x, w, v, w_bias, v_bias, y) = (input(0), input(g.w), input(u.w), bias(g), bias(u), output(0));
            let (rows, n, k) = (s.rows, s.n[0], s.k);
            return Ok(vec![call(table::linear_gate(
                self.x,
                x,
                w,
                v,
                w_bias,
                v_bias,
                r,
                y,
                rows,
                n,
                k,
                biased,
                has_residual,
                act,
                1.0,
            ))]);
        }
        let elements = s.rows * s.n[0];
        let (g, u) = (scratch(0), scratch(elements * self.x.bytes()));
        let mut calls = self.products(&s, &[g, u], None);
        calls.push(call(table::gate(self.x, g, u, r, output(0), elements, has_residual, act, 1.0)));
        Ok(calls)
    }
}
