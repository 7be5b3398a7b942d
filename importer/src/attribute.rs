//! Typed access to the attributes of a node.

use ir::dtype::DType;
use ir::tensor::Tensor;
use ir::types::ValueType;

use crate::node::{NodeCx, NodeError};
use crate::proto::{AttrValue, Graph, SparseTensor};
use crate::scope::Place;
use crate::{proto, tensor, types};

/// The value of a node's attribute, which inside a function may be the caller's.
pub(crate) fn attribute<'a>(place: &Place<'a>, node: &'a proto::Node, name: &str) -> Option<&'a AttrValue> {
    let found = node.attributes.iter().find(|a| a.name == name)?;
    let value = match found.ref_attr_name.is_empty() {
        true => &found.value,
        false => place.attributes.get(&*found.ref_attr_name).copied()?,
    };
    (*value != AttrValue::None).then_some(value)
}

macro_rules! attributes {
    ($($opt:ident, $get:ident: $T:ty, $default:ty, $what:literal, $value:pat => $read:expr;)+) => { $(
        #[doc = concat!("The attribute as ", $what, "; `None` where the node does not have it.")]
        #[allow(dead_code, reason = "one accessor per kind and form")]
        pub fn $opt(&self, name: &str) -> Result<Option<$T>, NodeError> {
            match self.attr(name) {
                None => Ok(None),
                Some($value) => Ok(Some($read)),
                Some(other) => Err(self.mistyped(name, $what, other)),
            }
        }

        #[doc = concat!("The attribute as ", $what, ", or the default.")]
        #[allow(dead_code, reason = "one accessor per kind and form")]
        pub fn $get(&self, name: &str, default: $default) -> Result<$T, NodeError> {
            Ok(self.$opt(name)?.unwrap_or_else(|| default.to_owned()))
        }
    )+ };
}

impl<'a> NodeCx<'a> {
    /// The attribute's value.
    pub fn attr(&self, name: &str) -> Option<&'a AttrValue> {
        attribute(self.place, self.node, name)
    }

    attributes! {
        opt_i64, attr_i64: i64, i64, "an integer", AttrValue::Int(v) => *v;
        opt_f32, attr_f32: f32, f32, "a number", AttrValue::Float(v) => *v;
        opt_str, attr_str: String, &str, "a text", AttrValue::String(v) => String::from_utf8_lossy(v).into_owned();
        opt_ints, attr_ints: Vec<i64>, &[i64], "integers", AttrValue::Ints(v) => v.clone();
        opt_floats, attr_floats: Vec<f32>, &[f32], "numbers", AttrValue::Floats(v) => v.clone();
        opt_strs, attr_strs: Vec<String>, &[String], "texts",
            AttrValue::Strings(v) => v.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect();
    }

    /// The attribute as a flag.
    pub fn attr_bool(&self, name: &str, default: bool) -> Result<bool, NodeError> {
        Ok(self.attr_i64(name, i64::from(default))? != 0)
    }

    /// The attribute as an element type.
    pub fn opt_dtype(&self, name: &str) -> Result<Option<DType>, NodeError> {
        let number = self.opt_i64(name)?;
        let dtype = number.map(|n| types::dtype(i32::try_from(n).unwrap_or(-1)));
        dtype.transpose().map_err(|why| NodeError::Unsupported(format!("attribute `{name}`: {why}")))
    }

    /// The attribute as a tensor.
    pub fn opt_tensor(&self, name: &str) -> Result<Option<Tensor>, NodeError> {
        let wrong = |why| NodeError::Wrong(format!("attribute `{name}`: {why}"));
        match self.attr(name) {
            None => Ok(None),
            Some(AttrValue::Tensor(t)) => tensor::tensor(t, self.place.folder).map(Some).map_err(wrong),
            Some(other) => Err(self.mistyped(name, "a tensor", other)),
        }
    }

    /// The attribute as a sparse tensor, written out.
    pub fn opt_sparse(&self, name: &str) -> Result<Option<Tensor>, NodeError> {
        let wrong = |why| NodeError::Wrong(format!("attribute `{name}`: {why}"));
        let dense = |t: &SparseTensor| tensor::dense(t, self.place.folder).map(Some).map_err(wrong);
        match self.attr(name) {
            None => Ok(None),
            Some(AttrValue::SparseTensor(t)) => dense(t),
            Some(other) => Err(self.mistyped(name, "a sparse tensor", other)),
        }
    }

    /// The attribute as a body.
    pub fn attr_graph(&self, name: &str) -> Result<&'a Graph, NodeError> {
        match self.attr(name) {
            None => Err(NodeError::Wrong(format!("attribute `{name}` is missing"))),
            Some(AttrValue::Graph(graph)) => Ok(graph),
            Some(other) => Err(self.mistyped(name, "a graph", other)),
        }
    }

    /// The attribute as a type; its unnamed dimensions are bound when the value exists.
    pub fn opt_type(&mut self, name: &str) -> Result<Option<ValueType>, NodeError> {
        match self.attr(name) {
            None => Ok(None),
            Some(AttrValue::Type(ty)) => self.late_type(ty).map(Some).map_err(NodeError::Wrong),
            Some(other) => Err(self.mistyped(name, "a type", other)),
        }
    }

    /// A declared type. Only numbers are believed; every other dimension is bound when the value exists.
    pub(crate) fn late_type(&mut self, ty: &proto::Type) -> Result<ValueType, String> {
        let graph = &mut *self.graph;
        types::value_type(ty, &mut |_, dim| match types::named_dim(dim).filter(|d| d.as_const().is_some()) {
            Some(number) => number,
            None => graph.fresh_late_dim(),
        })
    }

    fn mistyped(&self, name: &str, expected: &str, found: &AttrValue) -> NodeError {
        let found = match found {
            AttrValue::None => "nothing",
            AttrValue::Float(_) => "a number",
            AttrValue::Int(_) => "an integer",
            AttrValue::String(_) => "a text",
            AttrValue::Tensor(_) => "a tensor",
            AttrValue::Graph(_) => "a graph",
            AttrValue::SparseTensor(_) => "a sparse tensor",
            AttrValue::Type(_) => "a type",
            AttrValue::Floats(_) => "numbers",
            AttrValue::Ints(_) => "integers",
            AttrValue::Strings(_) => "texts",
            AttrValue::Tensors(_) => "tensors",
            AttrValue::Graphs(_) => "graphs",
            AttrValue::SparseTensors(_) => "sparse tensors",
            AttrValue::Types(_) => "types",
        };
        NodeError::Wrong(format!("attribute `{name}` is {found}, not {expected}"))
    }
}
