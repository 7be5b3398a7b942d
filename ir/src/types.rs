//! Types of values: tensors with symbolic shapes, sequences, optionals and maps.
//!
//! Text form: `f32[B, 2*S]`, `f32[..]` (rank unknown), `seq<f32[..]>`, `optional<i64[]>`, `map<i64, f32[]>`, `none`.

use crate::dim::{Dim, Truth};
use crate::dtype::DType;
use std::fmt;
use std::str::FromStr;

/// The dimensions of a tensor, or the admission that even their number is unknown.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Shape {
    /// Known rank, each dimension an expression over symbols.
    Ranked(Vec<Dim>),
    /// Rank only known when the value exists.
    Unranked,
}

impl Shape {
    /// The dimensions when the rank is known.
    pub fn dims(&self) -> Option<&[Dim]> {
        match self {
            Shape::Ranked(dims) => Some(dims),
            Shape::Unranked => None,
        }
    }

    /// All dimensions as numbers, when they are.
    pub fn as_const(&self) -> Option<Vec<usize>> {
        let dims = self.dims()?;
        dims.iter().map(|d| usize::try_from(d.as_const()?).ok()).collect()
    }

    /// Whether a dimension, or the rank, is only known when the value exists.
    pub fn is_late(&self) -> bool {
        self.dims().is_none_or(|dims| dims.iter().any(Dim::is_late))
    }

    /// The number of elements, when the rank is known.
    pub fn elements(&self) -> Option<Dim> {
        Some(self.dims()?.iter().cloned().product())
    }

    /// Whether two shapes are equal for every binding of the symbols.
    pub fn same(&self, other: &Shape) -> Truth {
        let (Some(a), Some(b)) = (self.dims(), other.dims()) else {
            return Truth::Unknown;
        };
        if a.len() != b.len() {
            return Truth::No;
        }
        let mut all = Truth::Yes;
        for (a, b) in a.iter().zip(b) {
            match a.same(b) {
                Truth::No => return Truth::No,
                Truth::Unknown => all = Truth::Unknown,
                Truth::Yes => {}
            }
        }
        all
    }
}

/// Element type and shape of a tensor.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Shape,
}

impl TensorType {
    /// A tensor type of known rank.
    pub fn new(dtype: DType, dims: impl IntoIterator<Item = impl Into<Dim>>) -> TensorType {
        let dims = dims.into_iter().map(Into::into).collect();
        TensorType { dtype, shape: Shape::Ranked(dims) }
    }

    /// A tensor type of unknown rank.
    pub fn unranked(dtype: DType) -> TensorType {
        TensorType { dtype, shape: Shape::Unranked }
    }

    /// The dimensions when the rank is known.
    pub fn dims(&self) -> Option<&[Dim]> {
        self.shape.dims()
    }

    /// Bytes of such a tensor as an expression; `None` for text or an unknown rank.
    pub fn bytes(&self) -> Option<Dim> {
        let elements = self.shape.elements()?;
        match self.dtype.bits() {
            0 => None,
            bits if bits >= 8 => Some(elements * Dim::constant(bits as i64 / 8)),
            bits => Some((elements * Dim::constant(bits as i64)).ceil_div(&Dim::constant(8))),
        }
    }
}

/// The type of any value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ValueType {
    /// A tensor.
    Tensor(TensorType),
    /// A list of values of one type.
    Sequence(Box<ValueType>),
    /// A value or nothing.
    Optional(Box<ValueType>),
    /// A map from an integer or text key; only `ai.onnx.ml` makes them.
    Map {
        /// Type of the keys: `I64` or `Str`.
        key: DType,
        /// Type of the values.
        value: Box<ValueType>,
    },
    /// An operand that was left out.
    Absent,
}

impl ValueType {
    /// The tensor type, when this is one.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            ValueType::Tensor(t) => Some(t),
            _ => None,
        }
    }

    /// Whether the plan can give this value a buffer of computed size before it exists.
    pub fn is_plannable(&self) -> bool {
        self.as_tensor().is_some_and(|t| !t.shape.is_late() && t.dtype != DType::Str)
    }

    /// The same type with every dimension rewritten.
    pub fn map_dims(&self, f: &dyn Fn(&Dim) -> Dim) -> ValueType {
        match self {
            ValueType::Tensor(TensorType { dtype, shape }) => {
                let shape = match shape {
                    Shape::Ranked(dims) => Shape::Ranked(dims.iter().map(f).collect()),
                    Shape::Unranked => Shape::Unranked,
                };
                ValueType::Tensor(TensorType { dtype: *dtype, shape })
            }
            ValueType::Sequence(of) => ValueType::Sequence(Box::new(of.map_dims(f))),
            ValueType::Optional(of) => ValueType::Optional(Box::new(of.map_dims(f))),
            ValueType::Map { key, value } => ValueType::Map { key: *key, value: Box::new(value.map_dims(f)) },
            ValueType::Absent => ValueType::Absent,
        }
    }

    /// Whether a value can have both types: equal but for dimensions that may turn out equal.
    pub fn compatible(&self, other: &ValueType) -> bool {
        match (self, other) {
            (ValueType::Tensor(a), ValueType::Tensor(b)) => a.dtype == b.dtype && a.shape.same(&b.shape) != Truth::No,
            (ValueType::Sequence(a), ValueType::Sequence(b)) => a.compatible(b),
            (ValueType::Optional(a), ValueType::Optional(b)) => a.compatible(b),
            (ValueType::Map { key: k, value: v }, ValueType::Map { key: l, value: w }) => k == l && v.compatible(w),
            (ValueType::Absent, ValueType::Absent) => true,
            _ => false,
        }
    }
}

impl From<TensorType> for ValueType {
    fn from(t: TensorType) -> ValueType {
        ValueType::Tensor(t)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Ranked(dims) => {
                let dims: Vec<_> = dims.iter().map(Dim::to_string).collect();
                write!(f, "[{}]", dims.join(", "))
            }
            Shape::Unranked => f.write_str("[..]"),
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueType::Tensor(t) => t.fmt(f),
            ValueType::Sequence(of) => write!(f, "seq<{of}>"),
            ValueType::Optional(of) => write!(f, "optional<{of}>"),
            ValueType::Map { key, value } => write!(f, "map<{key}, {value}>"),
            ValueType::Absent => f.write_str("none"),
        }
    }
}

/// Text that is not a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a type: {reason}")]
pub struct TypeSyntaxError {
    text: String,
    reason: String,
}

/// Sequences, optionals and maps may hold each other this deep.
const MAX_NESTING: usize = 64;

impl FromStr for ValueType {
    type Err = TypeSyntaxError;

    fn from_str(s: &str) -> Result<ValueType, TypeSyntaxError> {
        let text = s.trim();
        let fail = |reason: String| TypeSyntaxError { text: text.to_string(), reason };
        if text.matches('<').count() > MAX_NESTING {
            return Err(fail("it is nested too deeply".into()));
        }
        if text == "none" {
            return Ok(ValueType::Absent);
        }
        if let Some(of) = text.strip_prefix("seq<").and_then(|t| t.strip_suffix('>')) {
            return Ok(ValueType::Sequence(Box::new(of.parse()?)));
        }
        if let Some(of) = text.strip_prefix("optional<").and_then(|t| t.strip_suffix('>')) {
            return Ok(ValueType::Optional(Box::new(of.parse()?)));
        }
        if let Some(of) = text.strip_prefix("map<").and_then(|t| t.strip_suffix('>')) {
            let (key, value) = of.split_once(',').ok_or_else(|| fail("a map has a key and a value".into()))?;
            let key = key.trim().parse().map_err(|e| fail(format!("{e}")))?;
            return Ok(ValueType::Map { key, value: Box::new(value.parse()?) });
        }
        let (dtype, dims) = text.split_once('[').ok_or_else(|| fail("no `[` after the element type".into()))?;
        let dtype = dtype.parse().map_err(|e| fail(format!("{e}")))?;
        let dims = dims.strip_suffix(']').ok_or_else(|| fail("no closing `]`".into()))?.trim();
        if dims == ".." {
            return Ok(TensorType::unranked(dtype).into());
        }
        let dims: Result<Vec<Dim>, _> = split_top(dims).map(|d| d.trim().parse()).collect();
        let dims = dims.map_err(|e| fail(format!("{e}")))?;
        Ok(TensorType::new(dtype, dims).into())
    }
}

/// Splits at commas that are not inside brackets or quotes; an empty text has no parts.
pub(crate) fn split_top(text: &str) -> impl Iterator<Item = &str> {
    let (mut depth, mut quoted, mut escaped) = (0i32, false, false);
    let parts = text.split(move |c: char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '[' | '{' | '<' if !quoted => depth += 1,
            ')' | ']' | '}' | '>' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => return true,
            _ => {}
        }
        false
    });
    parts.filter(move |p| !p.trim().is_empty())
}
