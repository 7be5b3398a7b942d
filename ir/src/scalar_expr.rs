//! A small functional expression over scalars: what one element of a fused elementwise operator is.
//!
//! ```text
//! mul(x0, sigmoid(mul(x0, f32(1.702))))
//! t0 = exp(x0); div(t0, add(t0, x1))
//! ```
//! `x0`, `x1` ... are the operands, functions have the names of [`crate::scalar`], `select(c, a, b)` chooses, `f32(0.5)` is a
//! constant and `f16(exp(x0))` a conversion. A part that is used twice has a name before the `;`. Parts are kept in the order
//! in which they are first needed, each once, so equal expressions are equal values and print the same.

use crate::attr::{Attr, AttrValue};
use crate::dtype::{Class, DType};
use crate::ops::{EvalError, TypeError};
use crate::scalar::{BinaryFn, CompareFn, UnaryFn};
use crate::tensor::Tensor;
use smallvec::{SmallVec, smallvec};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// What a step computes with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Arg {
    /// An operand of the operator.
    Input(usize),
    /// The result of an earlier step.
    Step(usize),
}

/// One scalar computation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Step {
    /// A number of an element type; integers up to 2^53.
    Constant(DType, f64),
    /// A function of one number.
    Unary(UnaryFn, Arg),
    /// A function of two numbers of one type.
    Binary(BinaryFn, Arg, Arg),
    /// A comparison of two numbers of one type: bool.
    Compare(CompareFn, Arg, Arg),
    /// The second where the first, a bool, is true, else the third.
    Select(Arg, Arg, Arg),
    /// A conversion, as the operator `cast` does it.
    Cast(DType, Arg),
}

/// An expression; its value is the last step.
#[derive(Clone, PartialEq, Debug)]
pub struct ScalarExpr {
    steps: Vec<Step>,
}

/// Text that is not an expression, or steps that are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a scalar expression: {0}")]
pub struct ExprError(String);

impl Step {
    /// What it reads.
    pub fn args(&self) -> SmallVec<[Arg; 3]> {
        match *self {
            Step::Constant(..) => smallvec![],
            Step::Unary(_, a) | Step::Cast(_, a) => smallvec![a],
            Step::Binary(_, a, b) | Step::Compare(_, a, b) => smallvec![a, b],
            Step::Select(c, a, b) => smallvec![c, a, b],
        }
    }

    /// The same step reading something else.
    pub fn map(self, f: &mut dyn FnMut(Arg) -> Arg) -> Step {
        match self {
            Step::Constant(..) => self,
            Step::Unary(g, a) => Step::Unary(g, f(a)),
            Step::Cast(to, a) => Step::Cast(to, f(a)),
            Step::Binary(g, a, b) => Step::Binary(g, f(a), f(b)),
            Step::Compare(g, a, b) => Step::Compare(g, f(a), f(b)),
            Step::Select(c, a, b) => Step::Select(f(c), f(a), f(b)),
        }
    }

    /// Bits instead of floats, so that NaN and -0 are themselves.
    fn key(&self) -> (String, SmallVec<[Arg; 3]>) {
        let word = match self {
            Step::Constant(dtype, v) => format!("{dtype} {:x}", v.to_bits()),
            Step::Unary(f, _) => f.name().to_string(),
            Step::Binary(f, ..) => f.name().to_string(),
            Step::Compare(f, ..) => f.name().to_string(),
            Step::Select(..) => "select".to_string(),
            Step::Cast(to, _) => to.name().to_string(),
        };
        (word, self.args())
    }
}

impl ScalarExpr {
    /// No expression has more steps.
    pub const MAX_STEPS: usize = 256;
    /// No expression has more operands.
    pub const MAX_INPUTS: usize = 16;

    /// The expression whose value is the last step; steps it does not need are left out. Each step reads earlier ones only.
    pub fn new(steps: &[Step]) -> Result<ScalarExpr, ExprError> {
        for (i, step) in steps.iter().enumerate() {
            for arg in step.args() {
                match arg {
                    Arg::Step(s) if s >= i => return Err(ExprError(format!("step {i} reads step {s}"))),
                    Arg::Input(n) if n >= Self::MAX_INPUTS => {
                        return Err(ExprError(format!("there is no operand x{n}")));
                    }
                    _ => {}
                }
            }
        }
        if steps.is_empty() || steps.len() > Self::MAX_STEPS {
            return Err(ExprError(format!("{} steps; between 1 and {} are possible", steps.len(), Self::MAX_STEPS)));
        }
        let mut order = Order { steps, made: vec![], place: vec![None; steps.len()], known: HashMap::new() };
        order.visit(steps.len() - 1);
        let mut steps = order.made;
        // Deduplication may have found the last step earlier; then what followed it is not needed.
        let root = order.place[order.place.len() - 1].expect("the root was visited");
        steps.truncate(root + 1);
        Ok(ScalarExpr { steps })
    }

    /// The steps; the last one is the value.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// One more than the highest operand read.
    pub fn inputs(&self) -> usize {
        let args = self.steps.iter().flat_map(Step::args);
        args.filter_map(|a| if let Arg::Input(n) = a { Some(n + 1) } else { None }).max().unwrap_or(0)
    }

    /// The element type of every step, given those of the operands.
    pub fn types(&self, inputs: &[DType]) -> Result<Vec<DType>, TypeError> {
        let mut types: Vec<DType> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let of = |a: &Arg| match *a {
                Arg::Input(n) => inputs
                    .get(n)
                    .copied()
                    .ok_or_else(|| TypeError::Invalid(format!("the expression reads operand x{n}"))),
                Arg::Step(s) => Ok(types[s]),
            };
            let args = step.args().iter().map(of).collect::<Result<SmallVec<[DType; 3]>, _>>()?;
            types.push(result_type(step, &args)?);
        }
        Ok(types)
    }

    /// Every element of the result: floats in f64 without rounding, integers wrapped to their type at each step.
    ///
    /// `inputs` have been broadcast: operand `x0` of element `i` is element `at[0][i]` of `inputs[0]`.
    pub fn eval(&self, inputs: &[&Tensor], at: &[Vec<usize>], dims: &[usize]) -> Result<Tensor, EvalError> {
        let dtypes: Vec<DType> = inputs.iter().map(|t| t.dtype()).collect();
        let types = self.types(&dtypes).map_err(|e| EvalError::Invalid(e.to_string()))?;
        let n = dims.iter().product();
        let loaded: Vec<Lane> = inputs.iter().zip(at).map(|(t, at)| Lane::load(t, at)).collect::<Result<_, _>>()?;
        let mut lanes: Vec<Lane> = Vec::with_capacity(self.steps.len());
        for (step, dtype) in self.steps.iter().zip(&types) {
            let of = |a: &Arg| match *a {
                Arg::Input(i) => &loaded[i],
                Arg::Step(s) => &lanes[s],
            };
            let args: SmallVec<[&Lane; 3]> = step.args().iter().map(of).collect();
            let lane = run_step(step, &args, *dtype, n)?;
            drop(args);
            lanes.push(lane);
        }
        let dtype = *types.last().expect("an expression has a step");
        match lanes.pop().expect("an expression has a step") {
            Lane::Float(v) => Ok(Tensor::from_f64(dtype, dims, &v)?),
            Lane::Int(v) => Ok(Tensor::from_ints(dtype, dims, &v)?),
        }
    }
}

/// Puts steps in the order of their first use, each once.
struct Order<'a> {
    steps: &'a [Step],
    made: Vec<Step>,
    place: Vec<Option<usize>>,
    known: HashMap<(String, SmallVec<[Arg; 3]>), usize>,
}

impl Order<'_> {
    fn visit(&mut self, at: usize) -> usize {
        if let Some(place) = self.place[at] {
            return place;
        }
        let step = self.steps[at].map(&mut |a| match a {
            Arg::Step(s) => Arg::Step(self.visit(s)),
            input => input,
        });
        let next = self.made.len();
        let place = *self.known.entry(step.key()).or_insert(next);
        if place == next {
            self.made.push(step);
        }
        self.place[at] = Some(place);
        place
    }
}

fn result_type(step: &Step, args: &[DType]) -> Result<DType, TypeError> {
    let wrong = |name: &str| {
        let types: Vec<_> = args.iter().map(ToString::to_string).collect();
        TypeError::Invalid(format!("`{name}` does not take {} in an expression", types.join(", ")))
    };
    let alike = args.windows(2).all(|w| w[0] == w[1]);
    match step {
        Step::Constant(dtype, _) | Step::Cast(dtype, _) if *dtype == DType::Str => Err(wrong("string")),
        Step::Constant(dtype, _) | Step::Cast(dtype, _) => Ok(*dtype),
        Step::Unary(f, _) if f.is_predicate() && args[0].is_float() => Ok(DType::Bool),
        Step::Unary(f, _) => match args[0].class() {
            Class::Float if !matches!(f, UnaryFn::Not | UnaryFn::BitNot) => Ok(args[0]),
            Class::Signed | Class::Unsigned | Class::Bool if f.int(0).is_some() => Ok(args[0]),
            _ => Err(wrong(f.name())),
        },
        Step::Binary(f, ..) if alike && f.takes(args[0].class()) => Ok(args[0]),
        Step::Binary(f, ..) => Err(wrong(f.name())),
        Step::Compare(..) if alike && args[0] != DType::Str => Ok(DType::Bool),
        Step::Compare(f, ..) => Err(wrong(f.name())),
        Step::Select(..) if args[0] == DType::Bool && args[1] == args[2] && args[1] != DType::Str => Ok(args[1]),
        Step::Select(..) => Err(wrong("select")),
    }
}

/// All elements of one step.
#[derive(Clone)]
enum Lane {
    Float(Vec<f64>),
    Int(Vec<i128>),
}

impl Lane {
    fn load(t: &Tensor, at: &[usize]) -> Result<Lane, EvalError> {
        Ok(match t.dtype().is_float() {
            true => {
                let v = t.to_f64()?;
                Lane::Float(at.iter().map(|i| v[*i]).collect())
            }
            false => {
                let v = t.to_ints()?;
                Lane::Int(at.iter().map(|i| v[*i]).collect())
            }
        })
    }
}

fn run_step(step: &Step, args: &[&Lane], dtype: DType, n: usize) -> Result<Lane, EvalError> {
    let untyped = || EvalError::Invalid("an expression was evaluated with other types than it was typed with".into());
    let by_zero = |f: BinaryFn| EvalError::Invalid(format!("integer `{}` by zero", f.name()));
    let truth = |v: Vec<bool>| Lane::Int(v.into_iter().map(i128::from).collect());
    let wrapped = |v: Vec<i128>| v.into_iter().map(|v| wrap(dtype, v)).collect::<Vec<_>>();
    Ok(match (step, args) {
        (Step::Constant(_, v), _) if dtype.is_float() => Lane::Float(vec![*v; n]),
        (Step::Constant(_, v), _) => Lane::Int(vec![*v as i128; n]),
        (Step::Unary(f, _), [Lane::Float(x)]) if f.is_predicate() => {
            truth(x.iter().map(|x| f.float(*x) != 0.0).collect())
        }
        (Step::Unary(f, _), [Lane::Float(x)]) => Lane::Float(x.iter().map(|x| f.float(*x)).collect()),
        (Step::Unary(f, _), [Lane::Int(x)]) => {
            let y: Option<Vec<i128>> = x.iter().map(|x| f.int(*x)).collect();
            Lane::Int(wrapped(y.ok_or_else(untyped)?))
        }
        (Step::Binary(f, ..), [Lane::Float(a), Lane::Float(b)]) => {
            Lane::Float(a.iter().zip(b).map(|(a, b)| f.float(*a, *b)).collect())
        }
        (Step::Binary(f, ..), [Lane::Int(a), Lane::Int(b)]) => {
            let y: Option<Vec<i128>> = a.iter().zip(b).map(|(a, b)| f.int(*a, *b, dtype.bits() as u32)).collect();
            Lane::Int(wrapped(y.ok_or_else(|| by_zero(*f))?))
        }
        (Step::Compare(f, ..), [Lane::Float(a), Lane::Float(b)]) => {
            truth(a.iter().zip(b).map(|(a, b)| f.holds(a, b)).collect())
        }
        (Step::Compare(f, ..), [Lane::Int(a), Lane::Int(b)]) => {
            truth(a.iter().zip(b).map(|(a, b)| f.holds(a, b)).collect())
        }
        (Step::Select(..), [Lane::Int(c), Lane::Float(a), Lane::Float(b)]) => {
            Lane::Float((0..n).map(|i| if c[i] != 0 { a[i] } else { b[i] }).collect())
        }
        (Step::Select(..), [Lane::Int(c), Lane::Int(a), Lane::Int(b)]) => {
            Lane::Int((0..n).map(|i| if c[i] != 0 { a[i] } else { b[i] }).collect())
        }
        (Step::Cast(to, _), [Lane::Float(x)]) => match (to.is_float(), to.int_range()) {
            (true, _) => Lane::Float(x.clone()),
            (_, Some((low, high))) => Lane::Int(x.iter().map(|x| (*x as i128).clamp(low, high)).collect()),
            _ => truth(x.iter().map(|x| *x != 0.0).collect()),
        },
        (Step::Cast(to, _), [Lane::Int(x)]) if to.is_float() => Lane::Float(x.iter().map(|x| *x as f64).collect()),
        (Step::Cast(to, _), [Lane::Int(x)]) => Lane::Int(x.iter().map(|x| wrap(*to, *x)).collect()),
        _ => return Err(untyped()),
    })
}

/// Two's complement at the width of the type; bool is `!= 0`.
fn wrap(dtype: DType, v: i128) -> i128 {
    let bits = dtype.bits() as u32;
    match dtype.class() {
        Class::Bool => i128::from(v != 0),
        Class::Signed => v << (128 - bits) >> (128 - bits),
        _ => v & ((1i128 << bits) - 1),
    }
}

impl fmt::Display for ScalarExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut uses = vec![0usize; self.steps.len()];
        for arg in self.steps.iter().flat_map(Step::args) {
            if let Arg::Step(s) = arg {
                uses[s] += 1;
            }
        }
        let mut texts: Vec<String> = Vec::with_capacity(self.steps.len());
        let mut named = 0;
        for (i, step) in self.steps.iter().enumerate() {
            let args = step.args();
            let args = args.iter().map(|a| match *a {
                Arg::Input(n) => format!("x{n}"),
                Arg::Step(s) => texts[s].clone(),
            });
            let args = args.collect::<Vec<_>>().join(", ");
            let text = match step {
                Step::Constant(dtype, v) => format!("{dtype}({})", number(*dtype, *v)),
                Step::Unary(f, _) => format!("{}({args})", f.name()),
                Step::Binary(f, ..) => format!("{}({args})", f.name()),
                Step::Compare(f, ..) => format!("{}({args})", f.name()),
                Step::Select(..) => format!("select({args})"),
                Step::Cast(to, _) => format!("{to}({args})"),
            };
            if uses[i] > 1 && !matches!(step, Step::Constant(..)) {
                write!(f, "t{named} = {text}; ")?;
                texts.push(format!("t{named}"));
                named += 1;
            } else {
                texts.push(text);
            }
        }
        f.write_str(texts.last().expect("an expression has a step"))
    }
}

/// The shortest text that reads back to the same number of the type.
fn number(dtype: DType, v: f64) -> String {
    match dtype {
        DType::F64 => format!("{v:?}"),
        d if d.is_float() => format!("{:?}", v as f32),
        _ => format!("{}", v as i64),
    }
}

impl FromStr for ScalarExpr {
    type Err = ExprError;

    fn from_str(text: &str) -> Result<ScalarExpr, ExprError> {
        let mut parser = Parser { rest: text, steps: vec![], names: HashMap::new(), depth: 0 };
        let root = parser.statements()?;
        match root {
            Arg::Step(s) if s + 1 == parser.steps.len() => ScalarExpr::new(&parser.steps),
            // A named part alone: everything after it is not needed.
            Arg::Step(s) => ScalarExpr::new(&parser.steps[..=s]),
            Arg::Input(_) => Err(ExprError("an operand alone computes nothing".into())),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    steps: Vec<Step>,
    names: HashMap<&'a str, Arg>,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn fail<T>(&self, expected: &str) -> Result<T, ExprError> {
        let near: String = self.rest.chars().take(20).collect();
        Err(ExprError(format!("expected {expected} at `{near}`")))
    }

    fn take(&mut self, token: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        let end =
            self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_.+-".contains(c))).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn statements(&mut self) -> Result<Arg, ExprError> {
        loop {
            let start = self.rest;
            let name = self.word();
            if !self.take('=') {
                self.rest = start;
                let root = self.expr()?;
                self.rest = self.rest.trim_start();
                return if self.rest.is_empty() { Ok(root) } else { self.fail("the end") };
            }
            let value = self.expr()?;
            self.names.insert(name, value);
            if !self.take(';') {
                return self.fail("`;`");
            }
        }
    }

    fn expr(&mut self) -> Result<Arg, ExprError> {
        self.depth += 1;
        if self.depth > ScalarExpr::MAX_STEPS || self.steps.len() > 4 * ScalarExpr::MAX_STEPS {
            return Err(ExprError("it is too large".into()));
        }
        let arg = self.part();
        self.depth -= 1;
        arg
    }

    fn part(&mut self) -> Result<Arg, ExprError> {
        let word = self.word();
        if !self.take('(') {
            if let Some(value) = self.names.get(word) {
                return Ok(*value);
            }
            let input = word.strip_prefix('x').and_then(|n| n.parse().ok());
            return input.map_or_else(|| self.fail("an operand such as `x0`"), |n| Ok(Arg::Input(n)));
        }
        let dtype = word.parse::<DType>().ok();
        if let Some(constant) = dtype.and_then(|d| self.constant(d)) {
            self.steps.push(constant);
            return Ok(Arg::Step(self.steps.len() - 1));
        }
        let mut args: Vec<Arg> = vec![];
        while !self.take(')') {
            args.push(self.expr()?);
            self.take(',');
        }
        let step = match (&args[..], dtype) {
            ([a], Some(to)) => Some(Step::Cast(to, *a)),
            ([a], _) => UnaryFn::from_name(word).map(|f| Step::Unary(f, *a)),
            ([a, b], _) => {
                let compare = || CompareFn::from_name(word).map(|f| Step::Compare(f, *a, *b));
                BinaryFn::from_name(word).map(|f| Step::Binary(f, *a, *b)).or_else(compare)
            }
            ([c, a, b], _) if word == "select" => Some(Step::Select(*c, *a, *b)),
            _ => None,
        };
        let step = step.ok_or_else(|| ExprError(format!("`{word}` of {} operands is not a function", args.len())))?;
        self.steps.push(step);
        Ok(Arg::Step(self.steps.len() - 1))
    }

    /// A number and the closing bracket, if that is what comes next.
    fn constant(&mut self, dtype: DType) -> Option<Step> {
        let start = self.rest;
        let word = self.word();
        let value = match dtype {
            DType::F64 => word.parse::<f64>().ok(),
            d if d.is_float() => word.parse::<f32>().ok().map(f64::from),
            _ => word.parse::<i64>().ok().map(|v| v as f64),
        };
        match value {
            Some(v) if self.take(')') => Some(Step::Constant(dtype, v)),
            _ => {
                self.rest = start;
                None
            }
        }
    }
}

impl AttrValue for ScalarExpr {
    const EXPECTED: &'static str = "a scalar expression in quotes";
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::Str(self.to_string()))
    }
    fn from_attr(attr: &Attr) -> Option<ScalarExpr> {
        if let Attr::Str(s) = attr { s.parse().ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trips(text: &str) {
        assert_eq!(text.parse::<ScalarExpr>().unwrap().to_string(), text);
    }

    #[test]
    fn text_round_trips() {
        round_trips("mul(x0, sigmoid(mul(x0, f32(1.702))))");
        round_trips("t0 = exp(x1); add(neg(x0), mul(t0, t0))");
        round_trips("select(lt(x0, f32(0.0)), mul(x0, f32(0.01)), x0)");
        round_trips("f16(add(f32(x0), f32(-inf)))");
        round_trips("t0 = exp(x0); t1 = add(t0, x1); div(t1, mul(t1, t0))");
        round_trips("bit_and(x0, i64(-7))");
    }

    #[test]
    fn equal_parts_are_computed_once() {
        let e: ScalarExpr = "add(exp(x0), exp(x0))".parse().unwrap();
        assert_eq!(e.to_string(), "t0 = exp(x0); add(t0, t0)");
        assert_eq!(e.steps().len(), 2);
    }

    #[test]
    fn bad_text_is_an_error() {
        for text in
            ["", "x0", "exp(", "exp(x0", "exp(x0) y", "exp(x99)", "nothing(x0)", "add(x0)", "exp(t0)", "t0 = x0;"]
        {
            assert!(text.parse::<ScalarExpr>().is_err(), "{text}");
        }
        assert!("neg(".repeat(100_000).parse::<ScalarExpr>().is_err());
    }

    #[test]
    fn integers_wrap_at_every_step() {
        let e: ScalarExpr = "add(mul(x0, x0), x0)".parse().unwrap();
        let x = Tensor::from_slice(&[1], &[100i8]).unwrap();
        let y = e.eval(&[&x], &[vec![0]], &[1]).unwrap();
        assert_eq!(y.to_ints().unwrap(), [i128::from(100i8.wrapping_mul(100).wrapping_add(100))]);
    }
}
