//! The operator table. Adding an operator is one file in `ops/` (or `ops/host/`) and one line here.
//!
//! [`CoreOp`] is the closed set that passes and backends match exhaustively. [`HostOp`] holds what only ever runs on the
//! host (strings, trees, sequences, results of data-dependent size ...): typing and reference evaluation are enough.

use crate::attr::{AttrError, Attrs};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::Graph;
use crate::tensor::{Datum, Tensor};
use crate::types::{TensorType, ValueType};
use smallvec::SmallVec;

mod error;
mod fact;
mod operands;
mod room;
mod tolerance;
pub use error::{EvalError, TypeError};
pub use fact::{Constraint, Fact};
pub use operands::{Operands, axis};
pub use tolerance::Tolerance;

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
    mod cached_attention: CachedAttention;
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
    mod expert_index: ExpertIndex;
    mod fill: Fill;
    mod gather: Gather;
    mod gather_elements: GatherElements;
    mod gather_nd: GatherNd;
    mod group_norm: GroupNorm;
    mod group_query_attention: GroupQueryAttention;
    mod gru: Gru;
    mod kv_write: KvWrite;
    mod layer_norm: LayerNorm;
    mod map: Map;
    mod linear: Linear;
    mod linears: Linears;
    mod linears_nbits: LinearsNBits;
    mod lrn: Lrn;
    mod lstm: Lstm;
    mod matmul: MatMul;
    mod matmul_integer: MatMulInteger;
    mod matmul_nbits: MatMulNBits;
    mod moe: Moe;
    mod moe_gemm: MoeGemm;
    mod moe_gemm_nbits: MoeGemmNBits;
    mod moe_join: MoeJoin;
    mod moe_nbits: MoeNBits;
    mod moe_route: MoeRoute;
    mod moe_route_index: MoeRouteIndex;
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
    mod rope_kv_write: RopeKvWrite;
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
pub use attention::{Scores, Unseen};
pub use cumulate::CumulateFn;
pub use kv_write::SequencePlace;
pub use moe::Gating;
pub use moe_route::RouterScore;
pub use pad::PadMode;
pub use pool::PoolFn;
pub use quantize_linear::granularity;
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
        room::ensure(self, operands)?;
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
