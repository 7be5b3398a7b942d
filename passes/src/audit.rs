//! Compares what a graph computes before and after a pass, on small random and adversarial inputs.

mod omit;

use ir::dtype::DType;
use ir::eval::{self, GraphError, Symbols};
use ir::graph::{Graph, NodeId};
use ir::ops::Tolerance;
use ir::types::TensorType;
use ir::{Datum, Tensor, Value, ValueType};
use omit::Which;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// Inputs to compare graphs with.
#[derive(Clone, Default)]
pub struct Audit {
    cases: Vec<Vec<Datum>>,
}

/// The first value that two graphs do not agree on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("`{name}` {what}")]
pub struct Difference {
    /// First value by evaluation order of the graph before.
    pub name: Arc<str>,
    /// What differs, with one element as an example.
    pub what: String,
}

/// What to fill inputs with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fill {
    Random,
    Zeros,
    Ones,
    /// Large numbers, both zeros and numbers near them.
    Extreme,
    /// Infinities and NaN among ordinary numbers.
    NonFinite,
}

impl Audit {
    /// Inputs that `graph` can be evaluated with: several sizes, random and adversarial values.
    pub fn of(graph: &Graph) -> Audit {
        const FILLS: [Fill; 6] = [Fill::Random, Fill::Random, Fill::Zeros, Fill::Ones, Fill::Extreme, Fill::NonFinite];
        let cases = FILLS.iter().enumerate().filter_map(|(seed, fill)| case(graph, seed, *fill));
        Audit { cases: cases.collect() }
    }

    /// Inputs from a test of the model.
    pub fn with_inputs(cases: Vec<Vec<Datum>>) -> Audit {
        Audit { cases }
    }

    /// The sets of inputs.
    pub fn cases(&self) -> &[Vec<Datum>] {
        &self.cases
    }

    /// How many sets of inputs there are; none when no binding of the symbols was found.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether nothing can be compared.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Evaluates both graphs; inputs that the first one cannot be evaluated with say nothing.
    ///
    /// Where the graph after has more operators that leave out what has no weight, a result may also be what the graph before
    /// gives when 0 times anything is 0, in all its products or in those with probabilities: an infinite value that a mask hides
    /// is `0 * inf` in a product of matrices and nothing in an `attention`, and so is an expert that was not chosen in a
    /// `moe_gemm`. That is the one difference that rewrites are meant to make; a NaN or an infinity of any other cause stays one.
    pub fn compare(&self, before: &Graph, after: &Graph) -> Result<(), Difference> {
        let may_omit = omitting(after) > omitting(before);
        for inputs in &self.cases {
            let Ok(expected) = eval::run(before, inputs) else { continue };
            let found = eval::run(after, inputs).ok().filter(|found| found.len() == expected.len());
            let agrees = |omitted: Option<&[Datum]>| {
                found.as_ref().is_some_and(|found| {
                    let other = |i: usize| omitted.and_then(|o| o.get(i));
                    let mut pairs = expected.iter().zip(found).enumerate();
                    pairs.all(|(i, (e, f))| difference(e, f, other(i)).is_none())
                })
            };
            if agrees(None) {
                continue;
            }
            let ways: &[Which] = if may_omit { &[Which::Weighted, Which::All] } else { &[] };
            let omitted: Vec<Graph> = ways.iter().filter_map(|w| omit::products_of_zero(before, *w)).collect();
            if !omitted.iter().any(|g| eval::run(g, inputs).is_ok_and(|results| agrees(Some(&results)))) {
                return Err(first_difference(before, omitted.last(), after, inputs));
            }
        }
        Ok(())
    }
}

/// How many operators do not read values whose weight is 0.
fn omitting(graph: &Graph) -> usize {
    const NAMES: [&str; 3] = ["attention", "moe_gemm", "moe_gemm_nbits"];
    graph.order().into_iter().filter(|id| graph.op(*id).is_some_and(|op| NAMES.contains(&op.name()))).count()
}

/// Evaluates again, this time looking at every value that both graphs have.
fn first_difference(before: &Graph, omitted: Option<&Graph>, after: &Graph, inputs: &[Datum]) -> Difference {
    let names_of = |g: &Graph, id: NodeId| -> Vec<Arc<str>> { g.results(id).map(|v| g.name(v).clone()).collect() };
    let shared: HashSet<Arc<str>> = after.order().into_iter().flat_map(|id| names_of(after, id)).collect();
    let mut expected: Vec<(Arc<str>, Datum)> = vec![];
    let _ = eval::run_observed(before, inputs, &mut |id, results| {
        let named = names_of(before, id).into_iter().zip(results);
        expected.extend(named.filter(|(n, _)| shared.contains(n)).map(|(n, d)| (n, d.clone())));
    });
    let observed = |g: &Graph| {
        let mut found: HashMap<Arc<str>, Datum> = HashMap::new();
        let outcome = eval::run_observed(g, inputs, &mut |id, results| {
            found.extend(names_of(g, id).into_iter().zip(results.iter().cloned()));
        });
        (found, outcome)
    };
    let (found, outcome) = observed(after);
    let other = omitted.map(|g| observed(g).0).unwrap_or_default();
    for (name, e) in &expected {
        if let Some(what) = found.get(name).and_then(|f| difference(e, f, other.get(name))) {
            return Difference { name: name.clone(), what };
        }
    }
    match outcome {
        Err(GraphError::Node { name, source, .. }) => Difference { name, what: format!("fails: {source}") },
        Err(e) => Difference { name: after.name.as_str().into(), what: format!("fails: {e}") },
        Ok(_) => Difference { name: after.name.as_str().into(), what: "gives other outputs".into() },
    }
}

/// How a value differs beyond what rounding explains, from what it was and from what it may be, too.
fn difference(expected: &Datum, found: &Datum, other: Option<&Datum>) -> Option<String> {
    match (expected, found) {
        (Datum::Tensor(e), Datum::Tensor(f)) => tensor_difference(e, f, other.and_then(|o| o.as_tensor())),
        (Datum::Sequence(e), Datum::Sequence(f)) if e.len() == f.len() => {
            e.iter().zip(f).find_map(|(e, f)| difference(e, f, None))
        }
        (Datum::Optional(Some(e)), Datum::Optional(Some(f))) => difference(e, f, None),
        (e, f) if e == f => None,
        (e, f) => Some(format!("was {e:?}, is now {f:?}")),
    }
}

fn tensor_difference(e: &Tensor, f: &Tensor, other: Option<&Tensor>) -> Option<String> {
    if e.dtype() != f.dtype() || e.dims() != f.dims() {
        return Some(format!("was {}{:?}, is now {}{:?}", e.dtype(), e.dims(), f.dtype(), f.dims()));
    }
    if e == f {
        return None;
    }
    let (Ok(a), Ok(b)) = (e.to_f64(), f.to_f64()) else { return Some("holds another text".into()) };
    let other = other.filter(|o| o.dims() == e.dims()).and_then(|o| o.to_f64().ok());
    // Fewer roundings in a chain of operations may move a result by some units of what went into it.
    let allowed = match e.dtype() {
        DType::F16 | DType::BF16 => Tolerance::roundings(e.dtype(), 16.0),
        d => Tolerance::roundings(d, 1024.0),
    };
    let largest = |v: &[f64]| v.iter().copied().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
    // An infinity is no number that rounding would move: what was infinite or NaN must be the same.
    let close = |a: f64, b: f64, largest: f64| {
        let near = a.is_finite() && (a - b).abs() <= allowed.relative * a.abs() + allowed.absolute * largest;
        a == b || a.is_nan() && b.is_nan() || near
    };
    let (most, most_other) = (largest(&a), other.as_deref().map_or(0.0, largest));
    let may_be = |i: usize| other.as_ref().is_some_and(|o| close(o[i], b[i], most_other));
    let at = (0..a.len()).find(|i| !close(a[*i], b[*i], most) && !may_be(*i))?;
    Some(format!("was {} at element {at}, is now {}", Number(a[at]), Number(b[at])))
}

struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Bindings of the symbols to try. Real models relate symbols without saying so (the mask is as long as past and present
/// together), so after a few regular ones come random ones.
const BINDINGS: usize = 64;

/// Inputs for the first binding that the graph can be evaluated with, else for the first that its assumptions allow.
fn case(graph: &Graph, seed: usize, fill: Fill) -> Option<Vec<Datum>> {
    let mut sizes = Random(seed as u64 + 1);
    let mut fallback = None;
    for attempt in 0..BINDINGS {
        let mut size = |i: usize| match attempt {
            0 => [2, 3, 4, 5, 1][(i + seed) % 5],
            1 => i as i64 + 2,
            2 => 2,
            3 => 1,
            _ => sizes.next(6) as i64 + 1,
        };
        let symbols: Symbols = graph.input_symbols().into_iter().enumerate().map(|(i, s)| (s, size(i))).collect();
        let mut random = Random(seed as u64 * 7919 + 1);
        let inputs = graph.inputs.iter().map(|n| input(graph.ty(Value::from(*n)), &symbols, fill, &mut random));
        let Some(inputs) = inputs.collect::<Option<Vec<Datum>>>() else { continue };
        if eval::bind_inputs(graph, &inputs).is_err() {
            continue;
        }
        if eval::run(graph, &inputs).is_ok() {
            return Some(inputs);
        }
        fallback.get_or_insert(inputs);
        if symbols.is_empty() {
            break;
        }
    }
    fallback
}

fn input(ty: &ValueType, symbols: &Symbols, fill: Fill, random: &mut Random) -> Option<Datum> {
    match ty {
        ValueType::Tensor(ty) => tensor(ty, symbols, fill, random).map(Datum::from),
        ValueType::Sequence(_) => Some(Datum::Sequence(vec![])),
        ValueType::Optional(of) => Some(Datum::Optional(input(of, symbols, fill, random).map(Box::new))),
        ValueType::Map { .. } => None,
        ValueType::Absent => Some(Datum::Absent),
    }
}

fn tensor(ty: &TensorType, symbols: &Symbols, fill: Fill, random: &mut Random) -> Option<Tensor> {
    let dims = ty.dims().map_or_else(
        || Some(vec![2, 3]),
        |dims| dims.iter().map(|d| usize::try_from(d.eval(&|s| symbols.get(s).copied()).ok()?).ok()).collect(),
    )?;
    let n = ir::tensor::count(&dims).ok().filter(|n| *n <= 1 << 20)?;
    if ty.dtype == DType::Str {
        return Tensor::from_strings(&dims, (0..n).map(|i| format!("s{}", i % 3)).collect()).ok();
    }
    let values: Vec<f64> = (0..n).map(|_| random.value(ty.dtype, fill)).collect();
    Tensor::from_f64(ty.dtype, &dims, &values).ok()
}

/// A linear congruential generator (Knuth's MMIX constants): the same cases on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % below
    }

    fn value(&mut self, dtype: DType, fill: Fill) -> f64 {
        const EXTREME: [f64; 8] = [0.0, -0.0, 1e-3, -1e-3, 10.0, -10.0, 1.0, -1.0];
        const NON_FINITE: [f64; 6] = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.0, 1.0, -2.0];
        match (fill, dtype.is_float()) {
            (Fill::Zeros, _) => 0.0,
            (Fill::Ones, _) => 1.0,
            (_, false) => self.next(2) as f64,
            (Fill::Random, true) => self.next(4001) as f64 / 1000.0 - 2.0,
            (Fill::Extreme, true) => EXTREME[self.next(8) as usize],
            (Fill::NonFinite, true) => NON_FINITE[self.next(6) as usize],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audited(before: &str, after: &str, inputs: &[(&[usize], &[f32])]) -> Result<(), Difference> {
        let parse = |text: &str| ir::text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let case = inputs.iter().map(|(dims, values)| Tensor::from_slice(dims, values).unwrap().into());
        Audit::with_inputs(vec![case.collect()]).compare(&parse(before), &parse(after))
    }

    const INF: f32 = f32::INFINITY;

    /// `softmax(q k^T + mask) v` of one head, one row and two keys of width 1.
    fn attention(after: &str, mask: [f32; 2], values: [f32; 2]) -> Result<(), Difference> {
        let inputs =
            "%q: f32[1, 1, 1, 1], %k: f32[1, 1, 1, 2], %kt: f32[1, 1, 2, 1], %v: f32[1, 1, 2, 1], %m: f32[1, 2]";
        let before = format!(
            "graph @g({inputs}) {{ %s = matmul(%q, %k) %t = add(%s, %m) %w = softmax(%t) {{axis = -1}} %y = matmul(%w, %v) return %y }}"
        );
        let after = format!("graph @g({inputs}) {{ {after} return %y }}");
        let (one, two): (&[usize], &[usize]) = (&[1, 1, 1, 1], &[1, 1, 2, 1]);
        let k = [0.5, 0.5];
        audited(&before, &after, &[(one, &[1.0]), (&[1, 1, 1, 2], &k), (two, &k), (two, &values), (&[1, 2], &mask)])
    }

    const FUSED: &str = "%y = attention(%q, %kt, %v, %m) {scale = 1.0, unseen = nan}";

    #[test]
    fn a_hidden_infinity_may_vanish() {
        assert_eq!(attention(FUSED, [0.0, -INF], [3.0, INF]), Ok(()));
        assert_eq!(attention(FUSED, [-INF, -INF], [3.0, 4.0]), Ok(()));
    }

    /// Before, the row is NaN in each of these; a wrong attention shows nevertheless.
    #[test]
    fn what_is_left_without_it_must_be_right() {
        let other = "%y = attention(%q, %kt, %v, %m) {scale = 1.0, unseen = zero}";
        assert!(attention(other, [-INF, -INF], [3.0, 4.0]).is_err());
        let twice = "%a = attention(%q, %kt, %v, %m) {scale = 1.0} %y = add(%a, %a)";
        assert!(attention(twice, [0.0, -INF], [3.0, INF]).is_err());
        let seen = "%zero = const [0.0] : f32[] %a = attention(%q, %kt, %v, %m) {scale = 1.0} %y = mul(%a, %zero)";
        assert!(attention(seen, [0.0, 0.0], [3.0, INF]).is_err());
    }

    #[test]
    fn an_infinity_stays_what_it_is() {
        let text = |op: &str| format!("graph @g(%x: f32[2]) {{ %y = {op}(%x) return %y }}");
        let against = |op: &str| audited(&text("abs"), &text(op), &[(&[2], &[INF, 1.0])]);
        assert_eq!(against("relu"), Ok(()));
        assert!(against("sign").is_err(), "1 is not infinite");
        assert!(
            audited(&text("neg"), &text("abs"), &[(&[2], &[INF, 0.0])]).is_err(),
            "nor is the other infinity the same"
        );
    }

    #[test]
    fn without_an_operator_that_omits_a_nan_stays() {
        let before = "graph @g(%x: f32[2], %w: f32[2]) { %y = mul(%x, %w) return %y }";
        let after = "graph @g(%x: f32[2], %w: f32[2]) { %y = add(%w, %w) return %y }";
        assert!(audited(before, after, &[(&[2], &[INF, 0.0]), (&[2], &[0.0, 0.0])]).is_err());
    }
}
