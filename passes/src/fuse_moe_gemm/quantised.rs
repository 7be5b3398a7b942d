//! Experts whose weights are codes: gathered for each pair of token and expert with their scales and zero points, then dequantised, or
//! dequantised whole, then gathered. They stay codes: `moe_gemm_nbits` reads those of the chosen experts in place.
//!
//! Here codes, scales and zero points lie as the operator takes them; see [`super::packed`] where they do not.
//!
//! ```ir before
//! graph @moe(%x: f32[T, 32], %logits: f32[T, 8]) {
//!   %up = weight : u8[8, 48, 32]
//!   %up_scales = weight : f32[8, 48, 2]
//!   %up_zeros = weight : u8[8, 48, 2]
//!   %down = weight : u8[8, 32, 48]
//!   %down_scales = weight : f32[8, 32, 3]
//!   %down_zeros = weight : u8[8, 32, 3]
//!   %scores = softmax(%logits) {axis = -1} : f32[T, 8]
//!   %v, %ids = top_k(%scores) {axis = -1, k = 2, largest = true, sorted = true} : f32[T, 2], i64[T, 2]
//!   %c1 = gather(%up, %ids) {axis = 0} : u8[T, 2, 48, 32]
//!   %s1 = gather(%up_scales, %ids) {axis = 0} : f32[T, 2, 48, 2]
//!   %z1 = gather(%up_zeros, %ids) {axis = 0} : u8[T, 2, 48, 2]
//!   %w1 = dequantize_linear(%c1, %s1, %z1) {axis = 3, block = 16, to = f32} : f32[T, 2, 48, 32]
//!   %column = reshape(%x) {shape = [T, 1, 32, 1]} : f32[T, 1, 32, 1]
//!   %h = matmul(%w1, %column) : f32[T, 2, 48, 1]
//!   %act = silu(%h) : f32[T, 2, 48, 1]
//!   %dequantised = dequantize_linear(%down, %down_scales, %down_zeros) {axis = 2, block = 16, to = f32} : f32[8, 32, 48]
//!   %w2 = gather(%dequantised, %ids) {axis = 0} : f32[T, 2, 32, 48]
//!   %out = matmul(%w2, %act) : f32[T, 2, 32, 1]
//!   %rows = reshape(%out) {shape = [T, 2, 32]} : f32[T, 2, 32]
//!   %weights = reshape(%v) {shape = [T, 2, 1]} : f32[T, 2, 1]
//!   %weighted = mul(%rows, %weights) : f32[T, 2, 32]
//!   %y = reduce(%weighted) {axes = [1], f = sum} : f32[T, 32]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @moe(%x: f32[T, 32], %logits: f32[T, 8]) {
//!   %up = weight : u8[8, 48, 32]
//!   %up_scales = weight : f32[8, 48, 2]
//!   %up_zeros = weight : u8[8, 48, 2]
//!   %down = weight : u8[8, 32, 48]
//!   %down_scales = weight : f32[8, 32, 3]
//!   %down_zeros = weight : u8[8, 32, 3]
//!   %y.1, %y.1.1 = moe_route(%logits) {eps = 0.0, k = 2, scale = 1.0, score = softmax} : i32[T, 2], f32[T, 2]
//!   %y.2, %y.1.2 = expert_index(%y.1) {experts = 8} : i32[2*T], i32[9]
//!   %y.3 = moe_gemm_nbits(%x, %y.2, %y.1.2, %up, %up_scales, %up_zeros) {act = silu, bits = [8], gating = none, repeat = 2} : f32[2*T, 48]
//!   %y = moe_gemm_nbits(%y.3, %y.2, %y.1.2, %down, %down_scales, %down_zeros, _, _, _, _, _, %y.1.1) {bits = [8], gating = none, repeat = 1} : f32[T, 32]
//!   return %y
//! }
//! ```

use super::gathered::{Gathered, lookup};
use super::look::{core, dims, is_weight, name, operand, peel, product, scalar, size};
use crate::pass::Miss;
use ir::DType;
use ir::graph::{Graph, Value};
use ir::ops::{CoreOp, DequantizeLinear, axis, granularity};

/// A quantised weight of every expert: `(code - zero) * scale`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Quantised {
    /// Integers of 2, 4 or 8 bits: for each expert the elements of its matrix.
    pub codes: Value,
    pub dtype: DType,
    pub experts: usize,
    /// The dimensions of an expert's matrix.
    pub matrix: [usize; 2],
    pub scales: Parameters,
    pub zeros: Zeros,
    /// The dimensions of one matrix where it is dequantised, with ones before them.
    view: Vec<usize>,
    axis: usize,
    block: i64,
}

/// Scales or zero points.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parameters {
    pub value: Value,
    /// How many each expert has of its own; none where all experts share them.
    pub own: Option<usize>,
    /// The dimensions of those of one expert, as `dequantize_linear` takes them.
    shape: Vec<usize>,
}

/// The zero points of a quantised weight.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Zeros {
    /// The same everywhere.
    All(i64),
    /// One beside each scale.
    Each(Parameters),
}

impl Quantised {
    /// For each element of an expert's matrix the place of its scale among those of an expert.
    pub(super) fn scale_of(&self) -> Result<Vec<usize>, Miss> {
        granularity(&self.view, &self.scales.shape, self.axis as i64, self.block).map_err(|_| FOREIGN)
    }
}

const FOREIGN: Miss = Miss::Refused(
    "scales or zero points of the quantised weights are not gathered with them, or are cut along the experts",
);

/// The quantised weight that a value is for each pair; `None` where it is something else.
pub(super) fn read(graph: &Graph, v: Value, space: &Gathered) -> Option<Result<Quantised, Miss>> {
    let mut types = vec![];
    let at = through_views(graph, v, &mut types);
    let (dequantised, found) = match core(graph, at)? {
        CoreOp::DequantizeLinear(_) => (at, lookup(graph, peel(graph, operand(graph, at, 0), &["reshape"]))?),
        _ => {
            let found = lookup(graph, at)?;
            (through_views(graph, found.table, &mut types), found)
        }
    };
    let Some(CoreOp::DequantizeLinear(op)) = core(graph, dequantised) else { return None };
    let whole = dequantised != at;
    let codes = if whole { operand(graph, dequantised, 0) } else { found.table };
    let shape = dims(graph, codes)?;
    let per_expert = shape.len() > 2 && size(&shape[0]) == Some(found.experts);
    if !is_weight(graph, codes) || !per_expert || !space.takes(&found) {
        return None;
    }
    let place = Place { graph, space, op, dequantised, whole, codes, experts: found.experts };
    Some(exact(&types).and_then(|()| place.weight(v)))
}

/// What a value shows through reshapes and casts; the types on the way.
fn through_views(graph: &Graph, mut v: Value, types: &mut Vec<DType>) -> Value {
    loop {
        types.extend(graph.tensor_ty(v).map(|t| t.dtype));
        match name(graph, v) {
            "reshape" | "cast" => v = operand(graph, v, 0),
            _ => return v,
        }
    }
}

/// Whether weights that pass through these types, the first one last, are what `(code - zero) * scale` is in the last.
fn exact(types: &[DType]) -> Result<(), Miss> {
    let last = types.first().copied();
    let known = matches!(last, Some(DType::F32 | DType::F16 | DType::BF16));
    let kept = types.iter().all(|t| Some(*t) == last || *t == DType::F32);
    match known && kept {
        true => Ok(()),
        false => Err(Miss::Refused("the dequantised weights are rounded to another type than that of their product")),
    }
}

/// Where a weight of known codes is dequantised.
struct Place<'a> {
    graph: &'a Graph,
    space: &'a Gathered,
    op: &'a DequantizeLinear,
    dequantised: Value,
    /// Whether all experts are dequantised before some are gathered.
    whole: bool,
    codes: Value,
    experts: usize,
}

impl Place<'_> {
    /// The weight whose matrices `v` holds.
    fn weight(&self, v: Value) -> Result<Quantised, Miss> {
        let unknown = Miss::Refused("the shapes of the experts are not known");
        let shape = |v: Value| dims(self.graph, v).ok_or(unknown);
        let dtype = self.graph.tensor_ty(self.codes).ok_or(unknown)?.dtype;
        if !matches!(dtype, DType::U8 | DType::I8 | DType::U4 | DType::I4 | DType::U2 | DType::I2) {
            return Err(Miss::Refused(
                "the gathered weights are quantised to other codes than integers of 2, 4 or 8 bits",
            ));
        }
        let [.., rows, columns] = shape(v)? else { return Err(unknown) };
        let matrix = [size(rows).ok_or(unknown)?, size(columns).ok_or(unknown)?];
        let elements = matrix[0] * matrix[1];
        let each = product(&shape(self.codes)?[1..]).as_const();
        if self.experts * elements == 0 || each != Some(elements as i64) {
            return Err(unknown);
        }
        // The last dimensions, as many as hold one matrix.
        let x = shape(operand(self.graph, self.dequantised, 0))?;
        let lead = (0..x.len()).rev().find(|l| product(&x[*l..]).as_const() == each).ok_or(unknown)?;
        let view: Vec<usize> = vec![1; lead].into_iter().chain(x[lead..].iter().filter_map(size)).collect();
        let axis = axis(self.op.axis, x.len()).map_err(|_| unknown)?;
        let scales = self.parameters(1, lead, axis).ok_or(FOREIGN)?;
        let zeros = self.zeros(dtype, &scales, lead, axis)?;
        let (codes, experts, block) = (self.codes, self.experts, self.op.block);
        Ok(Quantised { codes, dtype, experts, matrix, scales, zeros, view, axis, block })
    }

    /// Zero points for codes of a type, as many as there are scales.
    fn zeros(&self, dtype: DType, scales: &Parameters, lead: usize, axis: usize) -> Result<Zeros, Miss> {
        let given = self.graph.operands(self.dequantised.node).get(2).copied();
        let Some((v, ty)) = given.and_then(|v| Some((v, self.graph.tensor_ty(v)?))) else { return Ok(Zeros::All(0)) };
        if ty.dtype != dtype {
            return Err(Miss::Refused("codes and zero points of the quantised weights have different types"));
        }
        match scalar(self.graph, v) {
            Some(zero) => Ok(Zeros::All(zero as i64)),
            None => {
                let zeros = self.parameters(2, lead, axis).filter(|zeros| zeros.shape == scales.shape);
                zeros.map(Zeros::Each).ok_or(FOREIGN)
            }
        }
    }

    /// What operand `i` holds for one expert, whose matrix begins at dimension `lead` of what is dequantised.
    fn parameters(&self, i: usize, lead: usize, axis: usize) -> Option<Parameters> {
        let v = operand(self.graph, self.dequantised, i);
        let shape = dims(self.graph, v)?;
        let sizes: Option<Vec<usize>> = shape.iter().map(size).collect();
        let (single, vector) = (product(shape).as_const() == Some(1), self.op.block <= 0);
        if is_weight(self.graph, v) && (single || vector && axis >= lead) {
            return Some(Parameters { value: v, own: None, shape: sizes? });
        }
        let table = self.table(v)?;
        let own = size(&product(&dims(self.graph, table)?[1..]))?;
        let shape = match (vector, axis < lead) {
            // One for each matrix.
            (true, true) => vec![1],
            (false, false) => {
                let inside: Option<Vec<usize>> = shape.get(lead..)?.iter().map(size).collect();
                [vec![1; lead], inside?].concat()
            }
            _ => return None,
        };
        (shape.iter().product::<usize>() == own).then_some(Parameters { value: table, own: Some(own), shape })
    }

    /// The constant with an entry for each expert that scales or zero points are, or were gathered from.
    fn table(&self, v: Value) -> Option<Value> {
        let table = if self.whole {
            v
        } else {
            let found =
                lookup(self.graph, peel(self.graph, v, &["reshape"])).filter(|found| self.space.takes(found))?;
            found.table
        };
        let per_expert = dims(self.graph, table)?.first().and_then(size) == Some(self.experts);
        (per_expert && is_weight(self.graph, table)).then_some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::super::PASS;
    use crate::pass::{Context, Miss};
    use crate::testing::{check_doc_example, check_unchanged, rewritten};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("quantised.rs"));
    }

    /// Numbers in brackets that `f` makes of 0, 1 ..
    fn list(n: usize, f: impl Fn(usize) -> String) -> String {
        let all: Vec<String> = (0..n).map(f).collect();
        format!("[{}]", all.join(", "))
    }

    /// A constant with numbers that differ.
    fn constant(name: &str, ty: &str) -> String {
        let (dtype, dims) = ty.split_once('[').unwrap();
        let n = dims.trim_end_matches(']').split(", ").map(|d| d.parse().unwrap_or(1)).product::<usize>();
        let (low, codes) = match dtype {
            "i8" => (-128, 256),
            "i4" => (-8, 16),
            "u4" => (0, 16),
            "i2" => (-2, 4),
            "u2" => (0, 4),
            _ => (0, 256),
        };
        let values = match dtype {
            "f32" | "f16" => list(n, |i| format!("{:?}", 0.25 + 0.125 * (i * 5 % 7) as f32)),
            _ => list(n, |i| (low + (i * i * 7 + i * 3) as i64 % codes).to_string()),
        };
        format!("%{name} = const {values} : {ty}")
    }

    /// Rows times what `weight` makes of `%ids: i64[T]`: `%w`.
    fn product(weight: &str) -> String {
        format!("graph @g(%x: f32[T, 1, 16], %ids: i64[T]) {{ {weight} %y = matmul(%x, %w) return %y }}")
    }

    /// Codes, scales and, unless empty, zero points gathered by `%ids`, then dequantised.
    fn gathered(codes: &str, scales: &str, zeros: &str, attrs: &str) -> String {
        let mut text = String::new();
        let given: Vec<_> =
            [("c", codes), ("s", scales), ("z", zeros)].into_iter().filter(|(_, ty)| !ty.is_empty()).collect();
        for (name, ty) in &given {
            text += &format!("{} %g{name} = gather(%{name}, %ids) {{axis = 0}} ", constant(name, ty));
        }
        let operands: Vec<_> = given.iter().map(|(name, _)| format!("%g{name}")).collect();
        text + &format!("%w = dequantize_linear({}) {{{attrs}, to = f32}}", operands.join(", "))
    }

    /// The same, dequantised before it is gathered.
    fn whole(codes: &str, scales: &str, zeros: &str, attrs: &str) -> String {
        let mut text = String::new();
        let given: Vec<_> =
            [("c", codes), ("s", scales), ("z", zeros)].into_iter().filter(|(_, ty)| !ty.is_empty()).collect();
        for (name, ty) in &given {
            text += &format!("{} ", constant(name, ty));
        }
        let operands: Vec<_> = given.iter().map(|(name, _)| format!("%{name}")).collect();
        text + &format!(
            "%d = dequantize_linear({}) {{{attrs}, to = f32}} %w = gather(%d, %ids) {{axis = 0}}",
            operands.join(", ")
        )
    }

    fn check_packed(weight: &str, bits: usize, zeros: bool) {
        let made = rewritten(&PASS, &product(weight));
        assert!(made.contains("moe_gemm_nbits(") && made.contains(&format!("bits = [{bits}]")), "{weight}\n{made}");
        assert!(!made.contains("dequantize_linear(") && !made.contains("= gather("), "{weight}\n{made}");
        let operands = made.split("moe_gemm_nbits(").nth(1).unwrap().split(')').next().unwrap();
        assert_eq!(operands.split(", ").count(), if zeros { 6 } else { 5 }, "{weight}\n{made}");
    }

    #[test]
    fn codes_of_all_widths_and_signs_stay_packed() {
        for (ty, bits) in [("u8", 8), ("i8", 8), ("u4", 4), ("i4", 4), ("u2", 2), ("i2", 2)] {
            let codes = format!("{ty}[3, 16, 4]");
            let zeros = format!("{ty}[3, 2, 4]");
            check_packed(&gathered(&codes, "f32[3, 2, 4]", &zeros, "axis = 1, block = 8"), bits, true);
            check_packed(&whole(&codes, "f32[3, 2, 4]", &zeros, "axis = 1, block = 8"), bits, true);
            check_packed(&gathered(&codes, "f32[3, 2, 4]", "", "axis = 1, block = 8"), bits, ty.starts_with('u'));
            check_packed(&whole(&codes, "f32[3, 1, 4]", "", "axis = -2, block = 16"), bits, ty.starts_with('u'));
        }
    }

    #[test]
    fn half_floats_stay_so() {
        let half = |weight: String| product(&weight).replace("to = f32", "to = f16").replace("%x: f32", "%x: f16");
        for weight in [
            gathered("u4[3, 16, 4]", "f16[3, 2, 4]", "u4[3, 2, 4]", "axis = 1, block = 8"),
            whole("i8[3, 16, 4]", "f16[3, 2, 4]", "", "axis = 1, block = 8"),
        ] {
            let made = rewritten(&PASS, &half(weight));
            assert!(made.contains("moe_gemm_nbits(") && !made.contains("cast("), "{made}");
        }
        // Scales of f16 for weights of f32 are f32 afterwards.
        let text = product(&gathered("i4[3, 16, 4]", "f16[3, 2, 4]", "", "axis = 1, block = 8"));
        let mut graph = ir::text::parse(&text).unwrap();
        PASS.run(&mut graph, &mut Context::default());
        assert!(!graph.to_string().contains("f16"), "{graph}");
        check_packed(&gathered("i4[3, 16, 4]", "f16[3, 2, 4]", "", "axis = 1, block = 8"), 4, false);
    }

    #[test]
    fn a_scale_per_expert_or_per_output_is_taken() {
        for (scales, attrs) in [("f32[3]", "axis = 0, block = 0"), ("f32[3, 1, 4]", "axis = 1, block = 16")] {
            check_packed(&gathered("i4[3, 16, 4]", scales, "", attrs), 4, false);
            check_packed(&whole("i4[3, 16, 4]", scales, "", attrs), 4, false);
        }
        // Shared by all experts.
        for (scales, attrs) in [("f32[]", "axis = 0, block = 0"), ("f32[4]", "axis = 2, block = 0")] {
            let gather = format!(
                "{} %g = gather(%c, %ids) {{axis = 0}} {}",
                constant("c", "i4[3, 16, 4]"),
                constant("s", scales)
            );
            check_packed(&format!("{gather} %w = dequantize_linear(%g, %s) {{{attrs}, to = f32}}"), 4, false);
            check_packed(&whole("i4[3, 16, 4]", scales, "", attrs), 4, false);
        }
        // Per output, given a dimension behind its own.
        let text = gathered("i4[3, 16, 4]", "f32[3, 4]", "", "axis = 1, block = 16")
            .replace("%w =", "%sr = reshape(%gs) {shape = [T, 1, 4]} %w =")
            .replace("%gs)", "%sr)")
            .replace("reshape(%sr)", "reshape(%gs)");
        check_packed(&text, 4, false);
    }

    #[test]
    fn a_block_that_does_not_divide_the_inputs_becomes_smaller_ones() {
        let made = rewritten(&PASS, &product(&gathered("i8[3, 16, 4]", "f32[3, 2, 4]", "", "axis = 1, block = 12")));
        assert!(made.contains("moe_gemm_nbits("), "{made}");
    }

    #[test]
    fn rows_that_end_inside_a_byte_take_wider_codes() {
        for (ty, bits, zeros) in [("i4", 8, false), ("u4", 8, true), ("i2", 8, false)] {
            let weight = gathered(&format!("{ty}[3, 15, 4]"), "f32[3, 3, 4]", "", "axis = 1, block = 5");
            let made = rewritten(&PASS, &product(&weight).replace("1, 16]", "1, 15]"));
            assert!(made.contains(&format!("bits = [{bits}]")), "{made}");
            let operands = made.split("moe_gemm_nbits(").nth(1).unwrap().split(')').next().unwrap();
            assert_eq!(operands.split(", ").count(), if zeros { 6 } else { 5 }, "{made}");
        }
    }

    #[test]
    fn matrices_that_are_dequantised_in_other_dimensions_are_taken() {
        // Blocks are a dimension of their own.
        let weight = gathered("u4[3, 4, 2, 8]", "f32[3, 4, 2, 1]", "u4[3, 4, 2, 1]", "axis = 3, block = 8");
        let rows = weight.replace("%w =", "%b =")
            + " %m = reshape(%b) {shape = [T, 4, 16]} %w = transpose(%m) {perm = [0, 2, 1]}";
        check_packed(&rows, 4, true);
    }

    #[test]
    fn zero_points_that_are_one_number_are_taken() {
        for (zero, zeros) in [(8, false), (3, true)] {
            let weight =
                gathered("u4[3, 16, 4]", "f32[3, 2, 4]", "", "axis = 1, block = 8").replace("%gc, %gs", "%gc, %gs, %z");
            let middle = format!("%m = const [{zero}] : u4[] %z = expand(%m) {{shape = [T, 2, 4]}} ");
            check_packed(&(middle + &weight), 4, zeros);
        }
    }

    /// The first reason that the pass gives, with the data of the constants.
    fn refusal(text: &str) -> Option<Miss> {
        let mut graph = ir::text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let mut cx = Context::default();
        PASS.run(&mut graph, &mut cx);
        cx.log.first().and_then(|entry| entry.outcome.err())
    }

    fn check_kept(text: &str, why: &'static str) {
        assert_eq!(refusal(text), Some(Miss::Refused(why)), "{text}");
        let canonical = ir::text::parse(text).unwrap().to_string();
        let mut graph = ir::text::parse(text).unwrap();
        PASS.run(&mut graph, &mut Context::default());
        assert_eq!(graph.to_string(), canonical);
    }

    #[test]
    fn keeps_codes_of_other_types() {
        let why = "the gathered weights are quantised to other codes than integers of 2, 4 or 8 bits";
        check_kept(&product(&gathered("i16[3, 16, 4]", "f32[3, 2, 4]", "", "axis = 1, block = 8")), why);
    }

    #[test]
    fn keeps_scales_that_are_not_gathered_with_their_codes() {
        let why =
            "scales or zero points of the quantised weights are not gathered with them, or are cut along the experts";
        let weight = gathered("i8[3, 16, 4]", "f32[3, 2, 4]", "", "axis = 1, block = 8");
        let other = product(&weight.replace("gather(%s, %ids)", "gather(%s, %other)"))
            .replace("%ids: i64[T])", "%ids: i64[T], %other: i64[T])");
        check_kept(&other, why);
        check_kept(&product(&whole("i8[3, 16, 4]", "f32[2, 16, 4]", "", "axis = 0, block = 2")), why);
        // Others of an operand.
        let scales = constant("s", "f32[3, 2, 4]");
        let given = product(&weight.replace(&scales, "").replace("gather(%s, %ids) {axis = 0}", "abs(%given)"));
        check_kept(&given.replace("%ids: i64[T])", "%ids: i64[T], %given: f32[T, 2, 4])"), why);
    }

    #[test]
    fn keeps_inputs_that_have_scales_of_their_own() {
        let why = "the inputs of quantised experts do not share scales in blocks of one size";
        // Along the outputs, and blocks that only begin together at every input.
        check_kept(&product(&gathered("i8[3, 16, 4]", "f32[3, 16, 2]", "", "axis = 2, block = 2")), why);
        check_kept(&product(&gathered("i8[3, 16, 4]", "f32[3, 4, 4]", "", "axis = 1, block = 5")), why);
        check_kept(&product(&whole("i8[3, 16, 4]", "f32[16]", "", "axis = 1, block = 0")), why);
    }

    #[test]
    fn keeps_weights_that_are_rounded_before_their_product() {
        let why = "the dequantised weights are rounded to another type than that of their product";
        let weight = gathered("i8[3, 16, 4]", "f32[3, 2, 4]", "", "axis = 1, block = 8");
        let half = weight.replace("%w =", "%h =").replace("to = f32", "to = f16") + " %w = cast(%h) {to = f32}";
        check_kept(&product(&half), why);
    }

    #[test]
    fn keeps_weights_that_are_too_large() {
        let why = "dequantised weights may be too large for the type of their product";
        let weight = gathered("i8[3, 16, 4]", "f32[3, 2, 4]", "", "axis = 1, block = 8").replace("[0.25,", "[2.0e38,");
        check_kept(&product(&weight), why);
    }

    #[test]
    fn keeps_codes_that_are_not_constants() {
        let text = "graph @g(%x: f32[T, 1, 16], %c: i8[3, 16, 4], %s: f32[3, 2, 4], %ids: i64[T]) { \
                    %gc = gather(%c, %ids) {axis = 0} %gs = gather(%s, %ids) {axis = 0} \
                    %w = dequantize_linear(%gc, %gs) {axis = 1, block = 8, to = f32} %y = matmul(%x, %w) return %y }";
        check_unchanged(&PASS, &ir::text::parse(text).unwrap().to_string());
    }

    /// A layer with a gate and a linear part, whose weights these are.
    fn layer(gate: &str, up: &str, down: &str) -> String {
        let weight = |name: &str, of: &str| {
            let mut text = of.replace("%w =", &format!("%w{name} ="));
            for inner in ["c", "s", "z", "gc", "gs", "gz", "d"] {
                for end in [" ", ",", ")"] {
                    text = text.replace(&format!("%{inner}{end}"), &format!("%{inner}{name}{end}"));
                }
            }
            text
        };
        format!(
            "graph @g(%x: f32[T, 16], %ids: i64[T, 2], %v: f32[T, 2]) {{ %xr = reshape(%x) {{shape = [T, 1, 1, 16]}} \
             {} {} {} %a = matmul(%xr, %wa) %b = matmul(%xr, %wb) %act = silu(%a) %h = mul(%act, %b) %o = matmul(%h, %wo) \
             %rows = reshape(%o) {{shape = [T, 2, 16]}} %vc = reshape(%v) {{shape = [T, 2, 1]}} %m = mul(%rows, %vc) \
             %y = reduce(%m) {{f = sum, axes = [1]}} return %y }}",
            weight("a", gate),
            weight("b", up),
            weight("o", down)
        )
    }

    #[test]
    fn a_gate_and_a_linear_part_of_other_widths_share_an_operator() {
        let gate = gathered("i4[3, 16, 8]", "f32[3, 2, 8]", "", "axis = 2, block = 8");
        let up = whole("u8[3, 16, 8]", "f32[3, 4, 8]", "u8[3, 4, 8]", "axis = 1, block = 4");
        let down = gathered("i8[3, 8, 16]", "f32[3, 1, 16]", "", "axis = 2, block = 8");
        let made = rewritten(&PASS, &layer(&gate, &up, &down));
        assert!(made.matches("moe_gemm_nbits(").count() == 2 && made.contains("bits = [4, 8]"), "{made}");
        // Only one of the layers.
        let dense = |ty: &str| format!("{} %w = gather(%c, %ids) {{axis = 0}}", constant("c", ty));
        let made = rewritten(&PASS, &layer(&gate, &up, &dense("f32[3, 8, 16]")));
        assert!(made.matches("moe_gemm_nbits(").count() == 1 && made.contains("moe_gemm("), "{made}");
    }

    #[test]
    fn keeps_a_gate_that_alone_is_quantised() {
        let gate = gathered("i4[3, 16, 8]", "f32[3, 2, 8]", "", "axis = 2, block = 8");
        let dense = |ty: &str| format!("{} %w = gather(%c, %ids) {{axis = 0}}", constant("c", ty));
        let text = layer(&gate, &dense("f32[3, 16, 8]"), &dense("f32[3, 8, 16]"));
        assert_eq!(refusal(&text), Some(Miss::Refused("only one of gate and linear part is quantised")));
    }
}
