//! Attributes of operators: typed in Rust, words and lists in the text form.
//!
//! [`ops!`-style structs](crate::ops) declare typed fields; [`AttrValue`] converts each to and from [`Attr`].

use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::ValueType;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An attribute as the text form shows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// `4`
    Int(i64),
    /// `1e-5`
    Float(f64),
    /// A bare word: truth value, element type, choice, type, or dimension expression.
    Word(String),
    /// `"quoted"`
    Str(String),
    /// `[1, 2]`
    List(Vec<Attr>),
    /// `tensor(i64[2], [1, 2])`
    Tensor(Tensor),
    /// `graph @body(...) { ... }`
    Graph(Arc<Graph>),
}

/// Attributes by name; printed in this order.
pub type Attrs = BTreeMap<String, Attr>;

/// Why attributes do not make an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttrError {
    /// A required attribute is absent.
    #[error("attribute `{0}` is missing")]
    Missing(String),
    /// An attribute that this operator does not have.
    #[error("there is no attribute `{0}` here")]
    Unknown(String),
    /// The value is not of the attribute's type.
    #[error("attribute `{name}` is not {expected}")]
    Kind {
        /// The attribute.
        name: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// No operator has this name.
    #[error("there is no operator `{0}`")]
    Operator(String),
}

/// A Rust type that can be an attribute.
pub trait AttrValue: Sized {
    /// For messages: "an integer".
    const EXPECTED: &'static str;
    /// Whether an absent attribute is this value (then it is not printed).
    fn absent() -> Option<Self> {
        None
    }
    /// As text form; `None` when it is what [`AttrValue::absent`] gives.
    fn to_attr(&self) -> Option<Attr>;
    /// From the text form.
    fn from_attr(attr: &Attr) -> Option<Self>;
    /// Rewrites the dimension expressions inside.
    fn map_dims(&mut self, _f: &mut dyn FnMut(&Dim) -> Dim) {}
}

impl AttrValue for i64 {
    const EXPECTED: &'static str = "an integer";
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::Int(*self))
    }
    fn from_attr(attr: &Attr) -> Option<i64> {
        if let Attr::Int(n) = attr { Some(*n) } else { None }
    }
}

impl AttrValue for f64 {
    const EXPECTED: &'static str = "a number";
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::Float(*self))
    }
    fn from_attr(attr: &Attr) -> Option<f64> {
        match attr {
            Attr::Float(v) => Some(*v),
            Attr::Int(n) => Some(*n as f64),
            _ => None,
        }
    }
}

/// ONNX float attributes are binary32; printing the shortest text that reads back keeps files readable.
impl AttrValue for f32 {
    const EXPECTED: &'static str = "a number";
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::Float(self.to_string().parse().unwrap_or(*self as f64)))
    }
    fn from_attr(attr: &Attr) -> Option<f32> {
        f64::from_attr(attr).map(|v| v as f32)
    }
}

/// False is not printed.
impl AttrValue for bool {
    const EXPECTED: &'static str = "true or false";
    fn absent() -> Option<bool> {
        Some(false)
    }
    fn to_attr(&self) -> Option<Attr> {
        self.then(|| Attr::Word("true".into()))
    }
    fn from_attr(attr: &Attr) -> Option<bool> {
        let Attr::Word(w) = attr else { return None };
        w.parse().ok()
    }
}

impl AttrValue for String {
    const EXPECTED: &'static str = "a quoted text";
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::Str(self.clone()))
    }
    fn from_attr(attr: &Attr) -> Option<String> {
        if let Attr::Str(s) = attr { Some(s.clone()) } else { None }
    }
}

impl AttrValue for DType {
    const EXPECTED: &'static str = "an element type";
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::Word(self.name().into()))
    }
    fn from_attr(attr: &Attr) -> Option<DType> {
        if let Attr::Word(w) = attr { w.parse().ok() } else { None }
    }
}

impl AttrValue for ValueType {
    const EXPECTED: &'static str = "a type";
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::Word(self.to_string()))
    }
    fn from_attr(attr: &Attr) -> Option<ValueType> {
        if let Attr::Word(w) = attr { w.parse().ok() } else { None }
    }
    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        let f = std::cell::RefCell::new(f);
        *self = ValueType::map_dims(self, &|d| f.borrow_mut()(d));
    }
}

impl AttrValue for Dim {
    const EXPECTED: &'static str = "a dimension";
    fn to_attr(&self) -> Option<Attr> {
        Some(self.as_const().map_or_else(|| Attr::Word(self.to_string()), Attr::Int))
    }
    fn from_attr(attr: &Attr) -> Option<Dim> {
        match attr {
            Attr::Int(n) => Some(Dim::constant(*n)),
            Attr::Word(w) => w.parse().ok(),
            // A symbol that is not an identifier prints quoted.
            Attr::Str(s) => Some(Dim::sym(s)),
            _ => None,
        }
    }
    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        *self = f(self);
    }
}

impl AttrValue for Tensor {
    const EXPECTED: &'static str = "a tensor";
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::Tensor(self.clone()))
    }
    fn from_attr(attr: &Attr) -> Option<Tensor> {
        if let Attr::Tensor(t) = attr { Some(t.clone()) } else { None }
    }
}

impl AttrValue for Arc<Graph> {
    const EXPECTED: &'static str = "a graph";
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::Graph(self.clone()))
    }
    fn from_attr(attr: &Attr) -> Option<Arc<Graph>> {
        if let Attr::Graph(g) = attr { Some(g.clone()) } else { None }
    }
    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        Arc::make_mut(self).map_dims(f);
    }
}

impl<T: AttrValue> AttrValue for Vec<T> {
    const EXPECTED: &'static str = "a list";
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::List(self.iter().filter_map(T::to_attr).collect()))
    }
    fn from_attr(attr: &Attr) -> Option<Vec<T>> {
        let Attr::List(items) = attr else { return None };
        items.iter().map(T::from_attr).collect()
    }
    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.iter_mut().for_each(|v| v.map_dims(f));
    }
}

/// Absent when `None`.
impl<T: AttrValue> AttrValue for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn absent() -> Option<Option<T>> {
        Some(None)
    }
    fn to_attr(&self) -> Option<Attr> {
        self.as_ref()?.to_attr()
    }
    fn from_attr(attr: &Attr) -> Option<Option<T>> {
        T::from_attr(attr).map(Some)
    }
    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        if let Some(v) = self {
            v.map_dims(f);
        }
    }
}

/// Reads one typed attribute out of `attrs`.
pub fn read<T: AttrValue>(attrs: &Attrs, name: &str) -> Result<T, AttrError> {
    match attrs.get(name) {
        Some(attr) => T::from_attr(attr).ok_or_else(|| AttrError::Kind { name: name.into(), expected: T::EXPECTED }),
        None => T::absent().ok_or_else(|| AttrError::Missing(name.into())),
    }
}

/// Declares an operator's struct with typed attributes.
///
/// ```text
/// op! {
///     /// `softmax(x)`: exponentials over `axis`, normalised to sum 1.
///     pub struct Softmax { axis: i64, log: bool }
/// }
/// ```
/// implements [`crate::ops::OpAttrs`]; the operator's file implements [`crate::ops::OpSpec`].
#[macro_export]
macro_rules! op {
    ($(#[doc = $doc:literal])* pub struct $Op:ident { $($(#[doc = $fdoc:literal])* $field:ident : $T:ty),* $(,)? }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Op { $($(#[doc = $fdoc])* #[allow(missing_docs, reason = "attributes are explained by the operator's own text")] pub $field: $T,)* }

        impl $crate::ops::OpAttrs for $Op {
            const ATTRS: &'static [&'static str] = &[$(stringify!($field)),*];
            const DOC: &'static [&'static str] = &[$($doc),*];
            #[allow(unused_mut, reason = "operators without attributes")]
            fn attrs(&self) -> $crate::attr::Attrs {
                let mut attrs = $crate::attr::Attrs::new();
                $(if let Some(a) = $crate::attr::AttrValue::to_attr(&self.$field) { attrs.insert(stringify!($field).to_string(), a); })*
                attrs
            }
            #[allow(unused_variables, reason = "operators without attributes")]
            fn from_attrs(attrs: &$crate::attr::Attrs) -> Result<Self, $crate::attr::AttrError> {
                if let Some(k) = attrs.keys().find(|k| !Self::ATTRS.contains(&k.as_str())) {
                    return Err($crate::attr::AttrError::Unknown(k.clone()));
                }
                Ok($Op { $($field: $crate::attr::read(attrs, stringify!($field))?,)* })
            }
            #[allow(unused_variables, reason = "operators without attributes")]
            fn map_dims(&mut self, f: &mut dyn FnMut(&$crate::dim::Dim) -> $crate::dim::Dim) {
                $($crate::attr::AttrValue::map_dims(&mut self.$field, f);)*
            }
        }
    };
}

/// Declares a choice that prints as a word: `attr_enum! { /// doc pub enum Mode { Sum = "sum", Mean = "mean" } }`.
#[macro_export]
macro_rules! attr_enum {
    ($(#[$doc:meta])* pub enum $E:ident { $($(#[$vdoc:meta])* $V:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $E { $($(#[$vdoc])* #[allow(missing_docs, reason = "the word says it")] $V,)+ }

        impl $E {
            /// Every choice.
            pub const ALL: &'static [$E] = &[$($E::$V,)+];
            /// The word in the text form.
            pub fn name(self) -> &'static str { match self { $($E::$V => $text,)+ } }
            /// The choice a word stands for.
            pub fn from_name(word: &str) -> Option<$E> { match word { $($text => Some($E::$V),)+ _ => None } }
        }
        impl $crate::attr::AttrValue for $E {
            const EXPECTED: &'static str = concat!("one of ", $($text, " ",)+);
            fn to_attr(&self) -> Option<$crate::attr::Attr> { Some($crate::attr::Attr::Word(self.name().into())) }
            fn from_attr(attr: &$crate::attr::Attr) -> Option<$E> {
                match attr { $crate::attr::Attr::Word(w) => $E::from_name(w), _ => None }
            }
        }
    };
}
