//! Mixtures of experts: `moe_route`, `expert_index` and `moe_gemm`, whose products lie in scratch memory, in f32, until they are
//! gated, weighted and summed.

use super::linear::activation;
use super::{Call, Chosen, Lowering, Memory, Of, Sizes, Types, call, input, output, scratch};
use ir::Dim;
use ir::ops::{ExpertIndex, Gating, MoeGemm, MoeRoute, MoeRouteIndex, RouterScore};
use kernels::{Element, table};
use plan::Layout;

/// Bytes of a product.
const F32: i64 = 4;

struct Route {
    op: MoeRoute,
    element: Element,
    has_bias: bool,
}

pub(super) fn moe_route(op: &MoeRoute, types: &Types<'_>) -> Chosen {
    Ok(Box::new(route(op.clone(), types)?.0))
}

/// The router, and how many experts it has.
fn route(op: MoeRoute, types: &Types<'_>) -> Result<(Route, i64), &'static str> {
    let element = types.element(0)?;
    let float = matches!(element, Element::F32 | Element::F16 | Element::BF16);
    let has_bias = types.input(1).is_some();
    if !float || has_bias && types.element(1)? != element {
        return Err("its element types differ, or are not f32, f16 or bf16");
    }
    let [_, experts] = types.dims(0)? else { return Err("its logits are not [rows, experts]") };
    match experts.as_const() {
        Some(n) if n <= 1024 && op.k <= 64 => Ok((Route { op, element, has_bias }, n)),
        _ => Err("it has more than 1024 experts or chooses more than 64"),
    }
}

impl Lowering for Route {
    fn name(&self) -> &'static str {
        "moe_route"
    }

    fn files(&self) -> &'static [&'static str] {
        &["moe"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (rows, experts) = (sizes.ins[0][0] as i64, sizes.ins[0][1] as i64);
        if rows == 0 {
            return Ok(vec![]);
        }
        let score = score(self.op.score);
        let bias = if self.has_bias { input(1) } else { input(0) };
        let (renormalise, has_bias) = (i64::from(self.op.renormalise), i64::from(self.has_bias));
        let (k, eps, scale) = (self.op.k, self.op.eps, self.op.scale);
        let (ids, weights) = (output(0), output(1));
        let made = table::moe_route(
            self.element,
            input(0),
            bias,
            ids,
            weights,
            rows,
            experts,
            k,
            score,
            renormalise,
            has_bias,
            eps,
            scale,
        );
        Ok(vec![call(made)])
    }
}

/// The router and the index of what it chooses.
struct RouteIndex {
    route: Route,
    experts: i64,
}

/// Pairs, and experts, that one block routes and sorts.
const FEW: [i64; 2] = [1024, 256];

pub(super) fn moe_route_index(op: &MoeRouteIndex, types: &Types<'_>) -> Chosen {
    let (route, experts) = route(op.route(), types)?;
    Ok(Box::new(RouteIndex { route, experts }))
}

impl Lowering for RouteIndex {
    fn name(&self) -> &'static str {
        "moe_route_index"
    }

    fn files(&self) -> &'static [&'static str] {
        &["moe"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let Route { op, element, has_bias } = &self.route;
        let rows = sizes.ins[0][0] as i64;
        let pairs = rows * op.k;
        if rows == 0 || pairs > FEW[0] || self.experts > FEW[1] {
            let mut calls = self.route.calls(sizes)?;
            let (ids, rows, offsets) = (output(0), output(2), output(3));
            calls.push(call(table::expert_index(Element::I32, ids, rows, offsets, pairs, self.experts)));
            return Ok(calls);
        }
        let bias = if *has_bias { input(1) } else { input(0) };
        let (renormalise, has_bias) = (i64::from(op.renormalise), i64::from(*has_bias));
        Ok(vec![call(table::moe_route_index(
            *element,
            input(0),
            bias,
            output(0),
            output(1),
            output(2),
            output(3),
            rows,
            self.experts,
            op.k,
            score(op.score),
            renormalise,
            has_bias,
            op.eps,
            op.scale,
        ))])
    }
}

/// The kernels' number of a score.
fn score(score: RouterScore) -> i64 {
    match score {
        RouterScore::Softmax => 0,
        RouterScore::Sigmoid => 1,
        RouterScore::Chosen => 2,
    }
}

struct Index {
    experts: i64,
    element: Element,
}

pub(super) fn expert_index(op: &ExpertIndex, types: &Types<'_>) -> Chosen {
    match types.element(0)? {
        element @ (Element::I64 | Element::I32) if op.experts <= 1024 => {
            types.dims(0)?;
            Ok(Box::new(Index { experts: op.experts, element }))
        }
        _ => Err("its ids are of another type, or it has more than 1024 experts"),
    }
}

impl Lowering for Index {
    fn name(&self) -> &'static str {
        "expert_index"
    }

    fn files(&self) -> &'static [&'static str] {
        &["moe"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let pairs = sizes.ins[0].iter().product::<usize>() as i64;
        let made = table::expert_index(self.element, input(0), output(0), output(1), pairs, self.experts);
        Ok(vec![call(made)])
    }
}

struct Gemm {
    op: MoeGemm,
    /// Whether w and v lie as `[experts, k, n]`.
    kn: [bool; 2],
    x: Element,
    w: Element,
    v: Option<Element>,
    /// Whether there are biases of w and of v, and weights.
    has: [bool; 3],
    act: i64,
    /// Bytes of the products of w, and of all.
    bytes: Dim,
}

/// One product of experts with the rows of their pairs, `[pairs, outputs]` in f32.
pub(super) struct Product {
    pub(super) x: Element,
    pub(super) w_type: Element,
    /// Whether the weight lies as `[experts, k, n]`.
    pub(super) kn: bool,
    /// Operands.
    pub(super) w: usize,
    pub(super) bias: Option<usize>,
    /// Where in scratch memory it goes.
    pub(super) to: i64,
}

/// Sizes of a product of experts.
pub(super) struct Counts {
    pub(super) pairs: i64,
    pub(super) tokens: i64,
    pub(super) repeat: i64,
    pub(super) experts: i64,
    pub(super) outputs: i64,
    pub(super) k: i64,
}

impl Product {
    /// The call, by matrix instructions or without.
    pub(super) fn call(&self, counts: &Counts, matrices: bool) -> Call<Memory> {
        let Counts { pairs, tokens, repeat, experts, outputs, k } = *counts;
        let slots = experts.min(pairs);
        let (x, rows, offsets, w) = (input(0), input(1), input(2), input(self.w));
        let (bias, has_bias) = (input(self.bias.unwrap_or(0)), i64::from(self.bias.is_some()));
        let y = scratch(self.to);
        call(if matrices {
            table::moe_tiles(
                self.x, x, rows, offsets, w, bias, y, pairs, tokens, repeat, experts, slots, outputs, k, has_bias,
            )
        } else {
            let kn = i64::from(self.kn);
            table::moe_rows(
                self.x,
                self.w_type,
                x,
                rows,
                offsets,
                w,
                bias,
                y,
                pairs,
                tokens,
                repeat,
                experts,
                slots,
                outputs,
                k,
                kn,
                has_bias,
            )
        })
    }
}

pub(super) fn moe_gemm(op: &MoeGemm, types: &Types<'_>) -> Chosen {
    let (x, w) = (types.element(0)?, types.element(3)?);
    let float = |e: Element| matches!(e, Element::F32 | Element::F16 | Element::BF16);
    let v = types.input(5).map(|_| types.element(5)).transpose()?;
    let has = [types.input(4), types.input(6), types.input(7)].map(|t| t.is_some());
    let sides = [4, 6, 7].iter().filter(|i| types.input(**i).is_some());
    let alike = sides.map(|i| types.element(*i)).all(|e| e == Ok(x));
    let index = |i: usize| types.element(i) == Ok(Element::I32);
    if !float(x) || !float(w) || v.is_some_and(|v| !float(v)) || !alike || !index(1) || !index(2) {
        return Err("its element types differ, or are not f32, f16 or bf16");
    }
    let act = op.act.map_or(Ok(0), activation)?;
    let ([pairs], [_, a, b]) = (types.dims(1)?, types.dims(3)?) else { return Err("its operands are not matrices") };
    let outputs = if op.kn { b } else { a };
    let second = if v.is_some() { 2 } else { 1 };
    let bytes = pairs * outputs * F32 * second;
    let kn = [3, 5].map(|i| op.kn && types.layout(i) != Layout::Transposed);
    Ok(Box::new(Gemm { op: op.clone(), kn, x, w, v, has, act, bytes }))
}

impl Lowering for Gemm {
    fn name(&self) -> &'static str {
        "moe_gemm"
    }

    fn files(&self) -> &'static [&'static str] {
        &["moe"]
    }

    fn scratch(&self) -> Option<Dim> {
        Some(self.bytes.clone())
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (x, w) = (&sizes.ins[0], &sizes.ins[3]);
        let pairs = sizes.ins[1][0] as i64;
        let (outputs, k) = if self.op.kn { (w[2], w[1]) } else { (w[1], w[2]) };
        let (experts, outputs, k) = (w[0] as i64, outputs as i64, k as i64);
        let tokens = x[..x.len() - 1].iter().product::<usize>() as i64;
        let y = &sizes.outs[0];
        if y.contains(&0) || pairs == 0 {
            return Ok(vec![]);
        }
        let slots = experts.min(pairs);
        let gating = match (self.op.gating, self.v) {
            (Gating::None, None) => 0,
            (Gating::Interleaved, _) => 1,
            (Gating::Halves, _) => 2,
            (Gating::None, Some(_)) => 3,
        };
        let matrices = self.x != Element::F32 && self.w == self.x && self.v.is_none_or(|v| v == self.x);
        let matrices = matrices && self.kn == [false; 2] && k % 32 == 0;
        // In halves an expert's second rows begin n rows on, interleaved one row on.
        let (n, skip) = (y[1] as i64, [0, 1, y[1] as i64, 0][gating as usize]);
        let bias_alike = gating != 3 || self.has[0] == self.has[1];
        if matrices && gating != 0 && !self.has[2] && bias_alike {
            let (w, v) = (3, if self.v.is_some() { 5 } else { 3 });
            let (w_bias, v_bias) = if self.has[0] { (4, if self.v.is_some() { 6 } else { 4 }) } else { (0, 0) };
            let element = self.x.bytes();
            let later = |i: usize, rows: i64| Memory { of: Of::In(i), offset: rows * element };
            return Ok(vec![call(table::moe_gate(
                self.x,
                input(0),
                input(1),
                input(2),
                input(w),
                later(v, skip * k),
                input(w_bias),
                later(v_bias, if self.has[0] { skip } else { 0 }),
                output(0),
                pairs,
                tokens,
                self.op.repeat.max(1),
                experts,
                slots,
                n,
                k,
                outputs,
                if skip == 1 { 2 } else { 1 },
                skip,
                i64::from(self.has[0]),
                self.act,
                self.op.alpha.unwrap_or(1.0),
                self.op.beta.unwrap_or(0.0),
                self.op.limit.unwrap_or(f32::INFINITY),
            ))]);
        }
        let rows = |w_type: Element, w: usize, bias: usize, has_bias: bool, to: i64| {
            let (kn, bias) = (self.kn[usize::from(w == 5)], has_bias.then_some(bias));
            let product = Product { x: self.x, w_type, kn, w, bias, to };
            product.call(&Counts { pairs, tokens, repeat: self.op.repeat.max(1), experts, outputs, k }, matrices)
        };
        let mut calls = vec![rows(self.w, 3, 4, self.has[0], 0)];
        let second = pairs * outputs * F32;
        if let Some(v) = self.v {
            calls.push(rows(v, 5, 6, self.has[1], second));
        }
        let results = y[0] as i64;
        let has_weights = self.has[2];
        let weights = if has_weights { input(7) } else { input(0) };
        calls.push(call(table::moe_finish(
            self.x,
            scratch(0),
            scratch(if self.v.is_some() { second } else { 0 }),
            weights,
            output(0),
            results,
            pairs / results,
            n,
            gating,
            self.act,
            outputs,
            i64::from(gating == 3),
            i64::from(has_weights),
            self.op.alpha.unwrap_or(1.0),
            self.op.beta.unwrap_or(0.0),
            self.op.limit.unwrap_or(f32::INFINITY),
        )));
        Ok(calls)
    }
}
