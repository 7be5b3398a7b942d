//! The operator table. Adding an operator is one file in `ops/` (or `ops/host/`) and one line here.
//!
//! [`CoreOp`] is the closed set that passes and backends match exhaustively. [`HostOp`] holds what only ever runs on the
//! host (strings, trees, sequences, results of data-dependent size ...): typing and reference evaluation are enough.

use crate::attr::{AttrError, Attrs};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::Graph;
use crate::tensor::{Datum, Tensor, TensorError};
use crate::types::{Shape, TensorType, ValueType};
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

/// Why operands do not fit an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    /// Too few or too many operands.
    #[error("expected {expected} operands, found {found}")]
    Arity {
        /// How many are allowed, in words.
        expected: String,
        /// How many there are.
        found: usize,
    },
    /// One operand is wrong.
    #[error("operand {operand}: {reason}")]
    Operand {
        /// Its position.
        operand: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Attributes and operands together make no sense.
    #[error("{0}")]
    Invalid(String),
}

/// Why an operator could not compute its results from these values.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// The values break the operator's contract: an index out of range, lengths that do not match.
    #[error("{0}")]
    Invalid(String),
    /// A tensor could not be made or read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A dimension could not be computed.
    #[error(transparent)]
    Dim(#[from] crate::dim::DimError),
}

/// What is known of a value while the graph is built.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Its type.
    pub ty: ValueType,
    /// The elements of a small i64, i32 or bool tensor (at most [`Fact::MAX_ELEMENTS`]), as expressions over the symbols;
    /// truth values are the constants 0 and 1.
    pub elements: Option<Arc<[Dim]>>,
    /// Its data, when it is a constant.
    pub constant: Option<Tensor>,
}

impl Fact {
    /// Longer tensors are data, not shapes.
    pub const MAX_ELEMENTS: usize = 64;

    /// Only a type.
    pub fn of(ty: ValueType) -> Fact {
        Fact { ty, elements: None, constant: None }
    }

    /// A constant; small integer and bool tensors also give their elements.
    pub fn constant(t: Tensor) -> Fact {
        let ty = TensorType::new(t.dtype(), t.dims().iter().copied()).into();
        let small = t.len() <= Fact::MAX_ELEMENTS && matches!(t.dtype(), DType::I64 | DType::I32 | DType::Bool);
        let elements = small.then(|| t.to_i64().ok()).flatten();
        let elements = elements.map(|e| e.into_iter().map(Dim::constant).collect());
        Fact { ty, elements, constant: Some(t) }
    }
}

/// Something typing had to take for granted; a plan checks it when symbols are bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Constraint {
    /// One side of the equation.
    pub left: Dim,
    /// The other side.
    pub right: Dim,
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.left, self.right)
    }
}

/// The operands that an operator is typed with.
pub struct Operands<'a> {
    facts: &'a [&'a Fact],
    assumed: RefCell<Vec<Constraint>>,
    next_late: &'a Cell<u32>,
}

impl<'a> Operands<'a> {
    /// Operands with their facts; `next_late` numbers the symbols that results introduce.
    pub fn new(facts: &'a [&'a Fact], next_late: &'a Cell<u32>) -> Operands<'a> {
        Operands { facts, assumed: RefCell::default(), next_late }
    }

    /// How many operands there are, absent ones included.
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// Whether there is no operand.
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// Fails unless the number of operands is within `least..=most`.
    pub fn arity(&self, least: usize, most: usize) -> Result<(), TypeError> {
        if (least..=most).contains(&self.len()) {
            return Ok(());
        }
        let expected = match (least, most) {
            (a, b) if a == b => a.to_string(),
            (a, usize::MAX) => format!("at least {a}"),
            (a, b) => format!("{a} to {b}"),
        };
        Err(TypeError::Arity { expected, found: self.len() })
    }

    /// Whether operand `i` is there and not left out.
    pub fn has(&self, i: usize) -> bool {
        self.facts.get(i).is_some_and(|f| f.ty != ValueType::Absent)
    }

    /// The type of operand `i`.
    pub fn ty(&self, i: usize) -> Result<&'a ValueType, TypeError> {
        match self.facts.get(i) {
            Some(f) if f.ty != ValueType::Absent => Ok(&f.ty),
            _ => Err(TypeError::Operand { operand: i, reason: "it is missing".into() }),
        }
    }

    /// The tensor type of operand `i`.
    pub fn tensor(&self, i: usize) -> Result<&'a TensorType, TypeError> {
        let ty = self.ty(i)?;
        ty.as_tensor().ok_or_else(|| self.wrong(i, format!("{ty} is not a tensor")))
    }

    /// Element type of operand `i`.
    pub fn dtype(&self, i: usize) -> Result<DType, TypeError> {
        Ok(self.tensor(i)?.dtype)
    }

    /// Dimensions of operand `i`; `None` when its rank is unknown.
    pub fn dims(&self, i: usize) -> Result<Option<&'a [Dim]>, TypeError> {
        Ok(self.tensor(i)?.dims())
    }

    /// Symbolic elements of operand `i`, when it is a small integer or bool tensor whose content is known.
    pub fn elements(&self, i: usize) -> Option<&'a [Dim]> {
        self.facts.get(i)?.elements.as_deref()
    }

    /// Data of operand `i`, when it is a constant.
    pub fn constant(&self, i: usize) -> Option<&'a Tensor> {
        self.facts.get(i)?.constant.as_ref()
    }

    /// A new symbol, bound when the result exists.
    pub fn late_dim(&self) -> Dim {
        let n = self.next_late.get();
        self.next_late.set(n + 1);
        Dim::sym(&format!("?{n}"))
    }

    /// Takes two dimensions for equal. Fails when they cannot be; records a constraint when they might not be.
    pub fn assume_same(&self, left: &Dim, right: &Dim) -> Result<(), TypeError> {
        match left.same(right) {
            crate::dim::Truth::Yes => Ok(()),
            crate::dim::Truth::No => Err(TypeError::Invalid(format!("dimension {left} does not equal {right}"))),
            crate::dim::Truth::Unknown => {
                let c = Constraint { left: left.clone(), right: right.clone() };
                let mut assumed = self.assumed.borrow_mut();
                if !assumed.contains(&c) {
                    assumed.push(c);
                }
                Ok(())
            }
        }
    }

    /// Shape after numpy broadcasting of all the given shapes.
    ///
    /// A symbol against a number other than 1 gives the number; an expression of at most 1 is taken for 1, two different ones for equal.
    pub fn broadcast(&self, shapes: &[&Shape]) -> Result<Shape, TypeError> {
        let Some(all) = shapes.iter().map(|s| s.dims()).collect::<Option<Vec<_>>>() else {
            return Ok(Shape::Unranked);
        };
        let rank = all.iter().map(|d| d.len()).max().unwrap_or(0);
        let one = Dim::constant(1);
        let mut result = vec![one.clone(); rank];
        for dims in all {
            for (at, d) in dims.iter().enumerate() {
                let r = &mut result[rank - dims.len() + at];
                if d.as_const() == Some(1) || *r == *d {
                    continue;
                }
                if r.as_const() == Some(1) {
                    *r = d.clone();
                } else if r.as_const().is_some() && d.as_const().is_none() {
                    // d is the number or 1; either way the result is the number.
                } else if d.as_const().is_some() && r.as_const().is_none() {
                    *r = d.clone();
                } else if d.bounds().1 == Some(1) {
                    // At most 1: min(1, S) of an exporter is 1 unless there is nothing to compute.
                    self.assume_same(d, &one)?;
                } else if r.bounds().1 == Some(1) {
                    self.assume_same(r, &one)?;
                    *r = d.clone();
                } else {
                    self.assume_same(r, d)?;
                    // A symbol known from the start is worth more than one known later.
                    if r.is_late() && !d.is_late() {
                        *r = d.clone();
                    }
                }
            }
        }
        Ok(Shape::Ranked(result))
    }

    /// The error for operand `i`.
    pub fn wrong(&self, i: usize, reason: impl Into<String>) -> TypeError {
        TypeError::Operand { operand: i, reason: reason.into() }
    }

    /// Types that another operator gives for some of these operands.
    pub fn infer_with(&self, op: &Op, which: &[usize]) -> Result<Vec<ValueType>, TypeError> {
        let facts: Vec<&Fact> = which.iter().map(|i| self.facts[*i]).collect();
        let operands = Operands::new(&facts, self.next_late);
        let types = op.infer(&operands)?;
        let mut assumed = self.assumed.borrow_mut();
        for constraint in operands.into_assumed() {
            if !assumed.contains(&constraint) {
                assumed.push(constraint);
            }
        }
        Ok(types)
    }

    /// Elements that another operator gives for some of these operands.
    pub fn elements_with(&self, (op, which): (Op, SmallVec<[usize; 4]>)) -> Option<Vec<Dim>> {
        let facts: Vec<&Fact> = which.iter().map(|i| self.facts[*i]).collect();
        op.elements(&Operands::new(&facts, self.next_late))
    }

    /// What typing took for granted.
    pub fn into_assumed(self) -> Vec<Constraint> {
        self.assumed.into_inner()
    }
}

/// Resolves an axis that may count from the end; `rank` is the number of dimensions it may name.
pub fn axis(axis: i64, rank: usize) -> Result<usize, TypeError> {
    let rank_i = rank as i64;
    if (-rank_i..rank_i).contains(&axis) {
        return Ok(axis.rem_euclid(rank_i) as usize);
    }
    Err(TypeError::Invalid(format!("axis {axis} is outside a tensor of rank {rank}")))
}

/// What evaluating an operator once takes at least: the basis of the roofline report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Bytes read from memory.
    pub read: Dim,
    /// Bytes written to memory.
    pub written: Dim,
    /// Floating-point or integer operations; a multiply-add counts as two.
    pub flops: Dim,
}

/// How far a kernel may be from the reference, for one element type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Relative part.
    pub relative: f64,
    /// Absolute part, in units of the largest magnitude that entered the sum.
    pub absolute: f64,
}

impl Tolerance {
    /// Only the same bits.
    pub const EXACT: Tolerance = Tolerance { relative: 0.0, absolute: 0.0 };

    /// A few roundings of `dtype`.
    pub fn roundings(dtype: DType, n: f64) -> Tolerance {
        let unit = match dtype {
            DType::F64 => f64::EPSILON,
            DType::F32 => f32::EPSILON as f64,
            DType::F16 => 2f64.powi(-10),
            DType::BF16 => 2f64.powi(-7),
            d if d.is_float() => 0.25,
            _ => 0.0,
        };
        Tolerance { relative: n * unit, absolute: n * unit }
    }
}

/// Typed attributes; implemented by the [`op!`](crate::op) macro.
pub trait OpAttrs: Sized {
    /// Attribute names.
    const ATTRS: &'static [&'static str];
    /// The operator's documentation, line by line.
    const DOC: &'static [&'static str];
    /// Attributes for the text form.
    fn attrs(&self) -> Attrs;
    /// Attributes from the text form.
    fn from_attrs(attrs: &Attrs) -> Result<Self, AttrError>;
    /// Rewrites the dimension expressions among the attributes.
    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim);
}

/// Runs the body that an attribute holds.
pub type RunBody<'a> = &'a mut dyn FnMut(&str, &[Datum]) -> Result<Vec<Datum>, EvalError>;

/// Everything there is to know about an operator.
pub trait OpSpec: OpAttrs {
    /// The name in the text form. Families (`unary`, `binary` ...) print their member instead: see [`OpSpec::name`].
    const NAME: &'static str;

    /// Small graphs in text form that conformance tests run on every backend with random inputs.
    const SAMPLES: &'static [&'static str] = &[];

    /// The printed name.
    fn name(&self) -> &'static str {
        Self::NAME
    }

    /// The printed attributes; families leave out the one that the name says.
    fn text_attrs(&self) -> Attrs {
        self.attrs()
    }

    /// Reads the operator called `name`; `None` when it is not this one.
    fn parse(name: &str, attrs: &Attrs) -> Option<Result<Self, AttrError>> {
        (name == Self::NAME).then(|| Self::from_attrs(attrs))
    }

    /// Result types from operand types: the only statement of the typing rule.
    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError>;

    /// Elements of the only result when it is a small integer or bool tensor computed from known elements.
    fn elements(&self, _operands: &Operands<'_>) -> Option<Vec<Dim>> {
        None
    }

    /// The same computation without operands whose elements are known: the core twin of a host operator (`reshape_to` ->
    /// `reshape`), and the positions of the operands that it keeps, in its order. `None` when too little is known.
    fn fold_shape(&self, _operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        None
    }

    /// A fused operator in smaller ones; `operands` are tensor types, all floats already widened to f64.
    fn definition(&self, _operands: &[ValueType]) -> Option<Graph> {
        None
    }

    /// Reference results: floats are computed in f64 and rounded once per result. By default, runs the definition.
    ///
    /// Dimension expressions among the attributes have been replaced by numbers.
    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        crate::eval::definition(self, operands)
    }

    /// [`OpSpec::eval`] with bodies run by `run`, which gets the attribute's name and the body's inputs: how a backend
    /// evaluates control flow without saying again what it means.
    fn eval_with(&self, operands: &[&Datum], _run: RunBody<'_>) -> Result<Vec<Datum>, EvalError> {
        self.eval(operands)
    }

    /// Operations of one evaluation; reading operands and writing results once is counted elsewhere.
    fn flops(&self, _operands: &[&ValueType], results: &[ValueType]) -> Dim {
        results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum()
    }

    /// How exact kernels must be.
    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 4.0)
    }
}

/// Facts about an operator that do not depend on its attributes.
#[derive(Clone, Copy, Debug)]
pub struct OpInfo {
    /// Name in the text form.
    pub name: &'static str,
    /// Documentation, line by line.
    pub doc: &'static [&'static str],
    /// Sample graphs.
    pub samples: &'static [&'static str],
    /// Whether it belongs to [`HostOp`].
    pub host: bool,
}

macro_rules! op_table {
    ($(#[$doc:meta])* $Enum:ident, $host:literal, $TABLE:ident: $(mod $module:ident : $($Op:ident),+;)+) => {
        $(mod $module;)+
        $($(pub use $module::$Op;)+)+

        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "each variant is documented at its struct")]
        pub enum $Enum { $($($Op($Op),)+)+ }

        /// The table of these operators, in name order of their files.
        pub const $TABLE: &[OpInfo] = &[$($(OpInfo { name: $Op::NAME, doc: $Op::DOC, samples: $Op::SAMPLES, host: $host },)+)+];

        impl $Enum {
            /// The printed name.
            pub fn name(&self) -> &'static str { match self { $($($Enum::$Op(op) => op.name(),)+)+ } }
            /// Attributes for the text form.
            pub fn attrs(&self) -> Attrs { match self { $($($Enum::$Op(op) => op.text_attrs(),)+)+ } }
            /// Result types from operand types.
            pub fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
                match self { $($($Enum::$Op(op) => op.infer(operands),)+)+ }
            }
            /// See [`OpSpec::elements`].
            pub fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
                match self { $($($Enum::$Op(op) => op.elements(operands),)+)+ }
            }
            /// See [`OpSpec::fold_shape`].
            pub fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
                match self { $($($Enum::$Op(op) => op.fold_shape(operands),)+)+ }
            }
            /// See [`OpSpec::definition`].
            pub fn definition(&self, operands: &[ValueType]) -> Option<Graph> {
                match self { $($($Enum::$Op(op) => op.definition(operands),)+)+ }
            }
            /// Reference results.
            pub fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
                match self { $($($Enum::$Op(op) => op.eval(operands),)+)+ }
            }
            /// See [`OpSpec::eval_with`].
            pub fn eval_with(&self, operands: &[&Datum], run: RunBody<'_>) -> Result<Vec<Datum>, EvalError> {
                match self { $($($Enum::$Op(op) => op.eval_with(operands, run),)+)+ }
            }
            /// See [`OpSpec::flops`].
            pub fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
                match self { $($($Enum::$Op(op) => op.flops(operands, results),)+)+ }
            }
            /// How exact kernels must be.
            pub fn tolerance(&self, dtype: DType) -> Tolerance {
                match self { $($($Enum::$Op(op) => op.tolerance(dtype),)+)+ }
            }
            /// Rewrites the dimension expressions among the attributes.
            pub fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
                match self { $($($Enum::$Op(op) => op.map_dims(f),)+)+ }
            }
            pub(crate) fn parse(name: &str, attrs: &Attrs) -> Option<Result<$Enum, AttrError>> {
                $($(if let Some(op) = $Op::parse(name, attrs) { return Some(op.map($Enum::$Op)); })+)+
                None
            }
        }
        $($(impl From<$Op> for Op { fn from(op: $Op) -> Op { Op::from($Enum::$Op(op)) } })+)+
        impl From<$Enum> for Op { fn from(op: $Enum) -> Op { Op::$Enum(op) } }
    };
}
pub(crate) use op_table;

pub mod activation;
pub mod broadcast;
pub mod host;
pub(crate) mod operand;
pub(crate) mod reading;
pub mod recurrent;
mod scatter;
pub mod window;
pub use host::{HOST_TABLE, HostOp};

op_table! {
    /// The operators that every backend knows.
    CoreOp, false, CORE_TABLE:
    mod arg_reduce: ArgReduce;
    mod attention: Attention;
    mod binary: Binary;
    mod cast: Cast;
    mod compare: Compare;
    mod concat: Concat;
    mod conv: Conv;
    mod conv_integer: ConvInteger;
    mod conv_transpose: ConvTranspose;
    mod cumulate: Cumulate;
    mod dequantize_linear: DequantizeLinear;
    mod dims: Dims;
    mod dynamic_quantize_linear: DynamicQuantizeLinear;
    mod dynamic_quantize_lstm: DynamicQuantizeLstm;
    mod expand: Expand;
    mod fill: Fill;
    mod gather: Gather;
    mod gather_elements: GatherElements;
    mod gather_nd: GatherNd;
    mod group_norm: GroupNorm;
    mod group_query_attention: GroupQueryAttention;
    mod gru: Gru;
    mod layer_norm: LayerNorm;
    mod map: Map;
    mod linear: Linear;
    mod lrn: Lrn;
    mod lstm: Lstm;
    mod matmul: MatMul;
    mod matmul_integer: MatMulInteger;
    mod matmul_nbits: MatMulNBits;
    mod moe: Moe;
    mod one_hot: OneHot;
    mod pad: Pad;
    mod pool: Pool;
    mod quantize_linear: QuantizeLinear;
    mod range: Range;
    mod reduce: Reduce;
    mod reshape: Reshape;
    mod resize: Resize;
    mod rms_norm: RmsNorm;
    mod rnn: Rnn;
    mod rope: Rope;
    mod scatter_elements: ScatterElements;
    mod scatter_nd: ScatterNd;
    mod select: Select;
    mod shape_of: ShapeOf;
    mod slice: Slice;
    mod softmax: Softmax;
    mod tensor_scatter: TensorScatter;
    mod tile: Tile;
    mod top_k: TopK;
    mod transpose: Transpose;
    mod trilu: Trilu;
    mod unary: Unary;
}
pub use activation::ActivationFn;
pub use arg_reduce::ArgFn;
pub use attention::Scores;
pub use cumulate::CumulateFn;
pub use moe::Gating;
pub use pad::PadMode;
pub use pool::PoolFn;
pub use recurrent::Direction;
pub use reduce::ReduceFn;
pub use resize::{Coordinates, ResizeMode, Rounding};
pub use scatter::Reduction;

/// An operator.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// One that every backend knows.
    CoreOp(CoreOp),
    /// One that runs on the host.
    HostOp(HostOp),
}

macro_rules! forward {
    ($self:ident, $op:ident => $e:expr) => {
        match $self {
            Op::CoreOp($op) => $e,
            Op::HostOp($op) => $e,
        }
    };
}

impl Op {
    /// The printed name.
    pub fn name(&self) -> &'static str {
        forward!(self, op => op.name())
    }
    /// Attributes for the text form.
    pub fn attrs(&self) -> Attrs {
        forward!(self, op => op.attrs())
    }
    /// Result types from operand types.
    pub fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        forward!(self, op => op.infer(operands))
    }
    /// See [`OpSpec::elements`].
    pub fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        forward!(self, op => op.elements(operands))
    }
    /// See [`OpSpec::fold_shape`].
    pub fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        forward!(self, op => op.fold_shape(operands))
    }
    /// See [`OpSpec::definition`].
    pub fn definition(&self, operands: &[ValueType]) -> Option<Graph> {
        forward!(self, op => op.definition(operands))
    }
    /// Reference results; dimension expressions among the attributes must be numbers: see [`Op::bind`].
    pub fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        forward!(self, op => op.eval(operands))
    }
    /// See [`OpSpec::eval_with`].
    pub fn eval_with(&self, operands: &[&Datum], run: RunBody<'_>) -> Result<Vec<Datum>, EvalError> {
        forward!(self, op => op.eval_with(operands, run))
    }
    /// How exact kernels must be.
    pub fn tolerance(&self, dtype: DType) -> Tolerance {
        forward!(self, op => op.tolerance(dtype))
    }
    /// Rewrites the dimension expressions among the attributes.
    pub fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        forward!(self, op => op.map_dims(f))
    }

    /// The operator with every dimension expression replaced by its number. Bodies of `if`, `loop` and `scan` too.
    pub fn bind(&self, symbols: &dyn Fn(&str) -> Option<i64>) -> Result<Op, crate::dim::DimError> {
        let mut failed = None;
        let mut bound = self.clone();
        let is_body = self.has_body();
        bound.map_dims(&mut |d| match d.eval(symbols) {
            Ok(n) => Dim::constant(n),
            // Symbols that a body binds itself stay.
            Err(_) if is_body => d.substitute(&|s| symbols(s).map(Dim::constant)),
            Err(e) => {
                failed.get_or_insert(e);
                d.clone()
            }
        });
        failed.map_or(Ok(bound), Err)
    }

    /// Whether graphs are among the attributes.
    pub fn has_body(&self) -> bool {
        self.attrs().values().any(|a| matches!(a, crate::attr::Attr::Graph(_)))
    }

    /// Bytes and operations of one evaluation.
    pub fn cost(&self, operands: &[&ValueType], results: &[ValueType]) -> Cost {
        let bytes = |t: &ValueType| t.as_tensor().and_then(TensorType::bytes);
        Cost {
            read: operands.iter().filter_map(|t| bytes(t)).sum(),
            written: results.iter().filter_map(bytes).sum(),
            flops: forward!(self, op => op.flops(operands, results)),
        }
    }

    /// Reads the operator called `name` in the text form.
    pub fn parse(name: &str, attrs: &Attrs) -> Result<Op, AttrError> {
        if let Some(op) = CoreOp::parse(name, attrs) {
            return op.map(Op::CoreOp);
        }
        if let Some(op) = HostOp::parse(name, attrs) {
            return op.map(Op::HostOp);
        }
        Err(AttrError::Operator(name.to_string()))
    }
}

/// The error for values that typing should have kept out.
pub(crate) fn not_tensors(op: &str) -> EvalError {
    EvalError::Invalid(format!("`{op}` was given values of the wrong kind"))
}

/// Expressions that have been bound to numbers.
pub(crate) fn numbers(dims: &[Dim]) -> Result<Vec<i64>, EvalError> {
    dims.iter().map(|d| Ok(d.eval(&|_| None)?)).collect()
}

/// Expressions that have been bound to numbers of elements.
pub(crate) fn sizes(dims: &[Dim]) -> Result<Vec<usize>, EvalError> {
    let negative = |n: i64| EvalError::Invalid(format!("a dimension of {n}"));
    numbers(dims)?.into_iter().map(|n| usize::try_from(n).map_err(|_| negative(n))).collect()
}

/// Row-major strides in elements.
pub(crate) fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i] * dims[i];
    }
    strides
}

/// Index of the first element of every line along dimension `at`.
pub(crate) fn lanes(dims: &[usize], at: usize) -> Vec<usize> {
    let (n, inner) = (dims[at], dims[at + 1..].iter().product::<usize>());
    let outer: usize = dims[..at].iter().product();
    if n == 0 {
        return vec![];
    }
    (0..outer).flat_map(|o| (0..inner).map(move |i| o * n * inner + i)).collect()
}

/// Indices into `n` elements, negative ones counted from the end; out of range is an error.
pub(crate) fn indices(t: &Tensor, n: usize) -> Result<Vec<usize>, EvalError> {
    let resolve = |i: i64| {
        let at = if i < 0 { i.checked_add(n as i64) } else { Some(i) };
        at.filter(|i| (0..n as i64).contains(i))
            .map(|i| i as usize)
            .ok_or_else(|| EvalError::Invalid(format!("index {i} is outside a dimension of {n}")))
    };
    t.to_i64()?.into_iter().map(resolve).collect()
}
