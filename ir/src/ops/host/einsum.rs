use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, invalid, tensor};
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType};
use std::collections::BTreeMap;
use std::fmt;

op! {
    /// `einsum(operands...) {equation}`: Einstein summation: dimensions of one letter run together, letters that the result
    /// does not name are summed over, `...` stands for dimensions that broadcast. Without `->` the result names the letters
    /// that occur once, in alphabetical order.
    pub struct Einsum { equation: String }
}

/// A dimension: a letter, or a place (from the end) in the ellipsis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Broadcast(usize),
    Letter(char),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Label::Broadcast(place) => write!(f, "dimension {place} from the end of the ellipsis"),
            Label::Letter(c) => write!(f, "the letter `{c}`"),
        }
    }
}

/// The size of a letter that stands for two dimensions: they are equal, or one of them is 1. The evaluation checks what cannot be
/// told here.
fn together(operands: &Operands<'_>, a: &Dim, b: &Dim) -> Result<Dim, TypeError> {
    Ok(match (a.as_const(), b.as_const()) {
        (Some(1), _) => b.clone(),
        (_, Some(1)) => a.clone(),
        (Some(_), Some(_)) => {
            operands.assume_same(a, b)?;
            a.clone()
        }
        (Some(_), None) => a.clone(),
        (None, Some(_)) => b.clone(),
        (None, None) if a == b => a.clone(),
        (None, None) => a.max(b),
    })
}

struct Terms {
    operands: Vec<Vec<Label>>,
    result: Vec<Label>,
}

impl Einsum {
    fn terms(&self, ranks: &[usize]) -> Result<Terms, TypeError> {
        let wrong = |why: &str| TypeError::Invalid(format!("the equation `{}` {why}", self.equation));
        let text: String = self.equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (&*text, None),
        };
        let parts: Vec<&str> = left.split(',').collect();
        if parts.len() != ranks.len() {
            return Err(wrong(&format!("has {} terms for {} operands", parts.len(), ranks.len())));
        }
        let letters = |term: &str, hidden: usize| {
            let mut labels = vec![];
            for (i, part) in term.split("...").enumerate() {
                if i > 1 {
                    return Err(wrong("has two ellipses in one term"));
                }
                if i == 1 {
                    labels.extend((0..hidden).rev().map(Label::Broadcast));
                }
                for c in part.chars() {
                    if !c.is_alphabetic() {
                        return Err(wrong(&format!("has `{c}` in it")));
                    }
                    labels.push(Label::Letter(c));
                }
            }
            Ok(labels)
        };
        let mut widest = 0;
        let mut operands = vec![];
        for (part, rank) in parts.iter().zip(ranks) {
            let plain = letters(part, 0)?.len();
            let hidden = if part.contains("...") { rank.checked_sub(plain) } else { Some(0) };
            let hidden = hidden.filter(|hidden| plain + hidden == *rank);
            let hidden = hidden.ok_or_else(|| wrong(&format!("does not fit an operand of rank {rank}")))?;
            widest = widest.max(hidden);
            operands.push(letters(part, hidden)?);
        }
        let mut count: BTreeMap<Label, usize> = BTreeMap::new();
        operands.iter().flatten().for_each(|l| *count.entry(*l).or_default() += 1);
        let result = match right {
            Some(right) => letters(right, widest)?,
            None => {
                let once = count.iter().filter(|(l, n)| **n == 1 && matches!(l, Label::Letter(_))).map(|(l, _)| *l);
                (0..widest).rev().map(Label::Broadcast).chain(once).collect()
            }
        };
        match result.iter().find(|l| !count.contains_key(l)) {
            Some(_) => Err(wrong("names a result dimension that no operand has")),
            None => Ok(Terms { operands, result }),
        }
    }
}

impl OpSpec for Einsum {
    const NAME: &'static str = "einsum";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%a: f32[N, 3, K], %b: f32[N, K, 2]) { %y = einsum(%a, %b) {equation = \"bij, bjk -> bik\"} return %y }",
        "graph @g(%a: f32[N, 4, 4], %b: f32[4]) { %y = einsum(%a) {equation = \"...ii->...i\"} %z = einsum(%y, %b) {equation = \"ni,i\"} return %y, %z }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, usize::MAX)?;
        let dtype = operands.dtype(0)?;
        let mut shapes = vec![];
        for i in 0..operands.len() {
            reading::same_dtype(operands, 0, i)?;
            match operands.dims(i)? {
                Some(dims) => shapes.push(dims),
                None => return Ok(vec![TensorType::unranked(dtype).into()]),
            }
        }
        if matches!(dtype, DType::Str | DType::Bool) {
            return Err(operands.wrong(0, format!("einsum does not add {dtype}")));
        }
        let terms = self.terms(&shapes.iter().map(|s| s.len()).collect::<Vec<_>>())?;
        let mut size: BTreeMap<Label, Dim> = BTreeMap::new();
        for (labels, dims) in terms.operands.iter().zip(&shapes) {
            for (label, d) in labels.iter().zip(*dims) {
                let known = match size.get(label) {
                    Some(old) => together(operands, old, d)?,
                    None => d.clone(),
                };
                size.insert(*label, known);
            }
        }
        let shape = Shape::Ranked(terms.result.iter().map(|l| size[l].clone()).collect());
        Ok(vec![TensorType { dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let tensors: Vec<&Tensor> = (0..operands.len()).map(|i| tensor(operands, i)).collect::<Result<_, _>>()?;
        let terms = self.terms(&tensors.iter().map(|t| t.rank()).collect::<Vec<_>>()).map_err(invalid)?;
        let mut size: BTreeMap<Label, usize> = BTreeMap::new();
        for (labels, t) in terms.operands.iter().zip(&tensors) {
            for (label, n) in labels.iter().zip(t.dims()) {
                let old = size.entry(*label).or_insert(*n);
                match (*old, *n) {
                    (old, n) if old == n || n == 1 => {}
                    (1, n) => *old = n,
                    (old, n) => return Err(invalid(format!("{label} stands for {old} and {n} elements"))),
                }
            }
        }
        // Result dimensions first, then those that are summed over.
        let mut order = terms.result.clone();
        order.extend(size.keys().filter(|l| !terms.result.contains(l)));
        let all: Vec<usize> = order.iter().map(|l| size[l]).collect();
        let kept: usize = all[..terms.result.len()].iter().product();
        let summed: usize = all[terms.result.len()..].iter().product();
        crate::tensor::count(&all)?;
        let mut walks = vec![];
        for (labels, t) in terms.operands.iter().zip(&tensors) {
            let mut steps = vec![0usize; order.len()];
            for ((label, n), stride) in labels.iter().zip(t.dims()).zip(crate::ops::strides(t.dims())) {
                let at = order.iter().position(|l| l == label).expect("every letter is in the order");
                steps[at] += if *n == 1 { 0 } else { stride };
            }
            let split = terms.result.len();
            walks.push((
                reading::offsets(&all[..split], &steps[..split]),
                reading::offsets(&all[split..], &steps[split..]),
            ));
        }
        let dims = &all[..terms.result.len()];
        if tensors[0].dtype().is_float() {
            let data: Vec<Vec<f64>> = tensors.iter().map(|t| t.to_f64()).collect::<Result<_, _>>()?;
            let element = |o: usize| -> f64 {
                let product = |s: usize| -> f64 { data.iter().zip(&walks).map(|(v, (a, b))| v[a[o] + b[s]]).product() };
                (0..summed).map(product).sum()
            };
            let y: Vec<f64> = (0..kept).map(element).collect();
            return Ok(vec![Tensor::from_f64(tensors[0].dtype(), dims, &y)?.into()]);
        }
        let data: Vec<Vec<i128>> = tensors.iter().map(|t| t.to_ints()).collect::<Result<_, _>>()?;
        let element = |o: usize| -> i128 {
            let product =
                |s: usize| data.iter().zip(&walks).fold(1i128, |p, (v, (a, b))| p.wrapping_mul(v[a[o] + b[s]]));
            (0..summed).map(product).fold(0, i128::wrapping_add)
        };
        let y: Vec<i128> = (0..kept).map(element).collect();
        Ok(vec![Tensor::from_ints(tensors[0].dtype(), dims, &y)?.into()])
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 64.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::tensor::{Datum, Tensor};
    use crate::{eval, text};

    fn run(equation: &str, dims: [&[usize]; 2]) -> Result<Vec<usize>, String> {
        let named = |prefix: &str, dims: &[usize]| {
            (0..dims.len()).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>().join(", ")
        };
        let text = format!(
            "graph @g(%a: f32[{}], %b: f32[{}]) {{ %y = einsum(%a, %b) {{equation = \"{equation}\"}} return %y }}",
            named("A", dims[0]),
            named("B", dims[1])
        );
        let graph = text::parse(&text).map_err(|e| e.to_string())?;
        let ones = |dims: &[usize]| Tensor::from_f64(crate::DType::F32, dims, &vec![1.0; dims.iter().product()]);
        let inputs: Vec<Datum> = dims.iter().map(|d| ones(d).unwrap().into()).collect();
        let y = eval::run(&graph, &inputs).map_err(|e| e.to_string())?;
        let y = y[0].as_tensor().unwrap();
        Ok(y.dims().to_vec())
    }

    #[test]
    fn a_dimension_of_one_broadcasts_whatever_the_model_calls_it() {
        assert_eq!(run("bi,bi->bi", [&[1, 5], &[3, 5]]), Ok(vec![3, 5]));
        assert_eq!(run("bi,bi->bi", [&[3, 1], &[3, 5]]), Ok(vec![3, 5]));
        assert_eq!(run("bi,bi->b", [&[3, 5], &[1, 1]]), Ok(vec![3]));
        assert_eq!(run("bij,bjk->bik", [&[2, 3, 1], &[1, 4, 5]]), Ok(vec![2, 3, 5]));
        assert_eq!(run("...i,...i", [&[4, 2, 3], &[1, 3]]), Ok(vec![4, 2]));
    }

    #[test]
    fn others_that_differ_are_refused_by_letter() {
        let why = run("bi,bi->b", [&[3, 5], &[3, 4]]).unwrap_err();
        assert!(why.contains("the letter `i` stands for 5 and 4 elements"), "{why}");
    }
}
