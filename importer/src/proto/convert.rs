//! Joins the two decoded halves of a model, `pb` and `supplement`, into the plain structures. Everything is moved.
//!
//! Depth is bounded by the skeleton's and the decoder's limit, so the recursion here is too.

use bytes::Bytes;

use super::error::ProtoError;
use super::model::{
    AttrValue, Attribute, DimParam, External, Function, Graph, Model, Node, Producer, SparseTensor, Tensor, TensorData,
    Type, ValueInfo,
};
use super::pb;
use super::pb::attribute_proto::AttributeType;
use super::schema::Message;
use super::skeleton::Skeleton;
use super::supplement as rest;

pub(super) fn model(file: Bytes) -> Result<Model, ProtoError> {
    let skeleton = skeleton(file, Message::Model)?;
    let decoded: pb::ModelProto = decode(&skeleton.bytes, "model")?;
    let rest: rest::Model = decode(&skeleton.bytes, "model")?;
    let (Some(graph), Some(rest_graph)) = (decoded.graph, rest.graph) else {
        return Err(ProtoError::NotOnnx { what: "model", why: "it has no graph".to_owned() });
    };
    let join = Join { skeleton: &skeleton };
    Ok(Model {
        ir_version: decoded.ir_version,
        opset_imports: opset_imports(decoded.opset_import),
        graph: join.graph(graph, rest_graph)?,
        functions: pairs(decoded.functions, rest.functions)
            .map(|(function, rest)| join.function(function, rest))
            .collect::<Result<_, _>>()?,
        metadata: decoded.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect(),
        producer: Producer { name: decoded.producer_name, version: decoded.producer_version },
    })
}

/// The skeleton of a file; bytes that are no message at all are something else.
pub(super) fn skeleton(file: Bytes, root: Message) -> Result<Skeleton, ProtoError> {
    let what = root.name();
    Skeleton::of(file, root).map_err(|error| match error {
        ProtoError::Malformed { field, at, why } if field == what => {
            let why = format!("there is no message at byte {at}: {why}");
            ProtoError::NotOnnx { what, why }
        }
        other => other,
    })
}

/// Decodes the skeleton's bytes as one of the messages that describe it.
pub(super) fn decode<M: prost::Message + Default>(bytes: &Bytes, what: &'static str) -> Result<M, ProtoError> {
    M::decode(bytes.clone()).map_err(|error| {
        let words = error.to_string();
        let why = words.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&words).to_owned();
        ProtoError::Undecodable { what, why }
    })
}

/// Both halves of a list, which were decoded from the same bytes.
fn pairs<A, B>(decoded: Vec<A>, rest: Vec<B>) -> impl Iterator<Item = (A, B)> {
    assert_eq!(decoded.len(), rest.len(), "both halves of a list come from the same bytes");
    decoded.into_iter().zip(rest)
}

fn invalid(place: String, why: impl Into<String>) -> ProtoError {
    ProtoError::Invalid { place, why: why.into() }
}

/// Joins messages whose weights lie in one file.
pub(super) struct Join<'a> {
    pub skeleton: &'a Skeleton,
}

impl Join<'_> {
    fn graph(&self, decoded: pb::GraphProto, rest: rest::Graph) -> Result<Graph, ProtoError> {
        Ok(Graph {
            name: decoded.name,
            nodes: self.nodes(decoded.node, rest.node)?,
            initializers: self.tensors(decoded.initializer)?,
            sparse_initializers: self.sparse_tensors(decoded.sparse_initializer)?,
            inputs: rest.input.into_iter().map(value_info).collect(),
            outputs: rest.output.into_iter().map(value_info).collect(),
            value_infos: rest.value_info.into_iter().map(value_info).collect(),
        })
    }

    fn nodes(&self, decoded: Vec<pb::NodeProto>, rest: Vec<rest::Node>) -> Result<Vec<Node>, ProtoError> {
        pairs(decoded, rest).map(|(node, rest)| self.node(node, rest)).collect()
    }

    fn node(&self, decoded: pb::NodeProto, rest: rest::Node) -> Result<Node, ProtoError> {
        let attributes = pairs(decoded.attribute, rest.attribute)
            .map(|(attribute, rest)| self.attribute(attribute, rest))
            .collect::<Result<_, _>>()
            .map_err(|error| in_node(error, &decoded.name, &decoded.op_type))?;
        Ok(Node {
            name: decoded.name,
            op_type: decoded.op_type,
            domain: decoded.domain,
            overload: rest.overload,
            inputs: decoded.input,
            outputs: decoded.output,
            attributes,
        })
    }

    fn function(&self, decoded: pb::FunctionProto, rest: rest::Function) -> Result<Function, ProtoError> {
        let attribute_defaults = rest
            .attribute_proto
            .iter()
            .map(|bytes| self.attribute(decode(bytes, "model")?, decode(bytes, "model")?))
            .collect::<Result<_, _>>()?;
        Ok(Function {
            name: decoded.name.unwrap_or_default(),
            domain: decoded.domain.unwrap_or_default(),
            overload: rest.overload,
            inputs: decoded.input,
            outputs: decoded.output,
            attributes: decoded.attribute,
            attribute_defaults,
            nodes: self.nodes(decoded.node, rest.node)?,
            opset_imports: opset_imports(decoded.opset_import),
            value_infos: rest.value_info.into_iter().map(value_info).collect(),
        })
    }

    fn attribute(&self, decoded: pb::AttributeProto, rest: rest::Attribute) -> Result<Attribute, ProtoError> {
        if !decoded.ref_attr_name.is_empty() {
            let value = AttrValue::None;
            return Ok(Attribute { name: decoded.name, ref_attr_name: decoded.ref_attr_name, value });
        }
        let Ok(declared) = AttributeType::try_from(decoded.r#type) else {
            let why = format!("attribute type {} is not one of ONNX's", decoded.r#type);
            return Err(invalid(format!("attribute `{}`", decoded.name), why));
        };
        let kind = if declared == AttributeType::Undefined { present_kind(&decoded, &rest) } else { declared };
        let missing =
            || invalid(format!("attribute `{}`", decoded.name), format!("the {} is missing", kind_name(kind)));
        let value = match kind {
            AttributeType::Undefined => AttrValue::None,
            AttributeType::Float => AttrValue::Float(decoded.f),
            AttributeType::Int => AttrValue::Int(decoded.i),
            AttributeType::String => AttrValue::String(decoded.s),
            AttributeType::Tensor => AttrValue::Tensor(Box::new(self.tensor(decoded.t.ok_or_else(missing)?)?)),
            AttributeType::Graph => {
                let (graph, rest) = decoded.g.zip(rest.g).ok_or_else(missing)?;
                AttrValue::Graph(Box::new(self.graph(graph, rest)?))
            }
            AttributeType::SparseTensor => {
                let sparse = decoded.sparse_tensor.ok_or_else(missing)?;
                AttrValue::SparseTensor(Box::new(self.sparse_tensor(sparse)?))
            }
            AttributeType::TypeProto => AttrValue::Type(r#type(rest.tp.ok_or_else(missing)?)),
            AttributeType::Floats => AttrValue::Floats(decoded.floats),
            AttributeType::Ints => AttrValue::Ints(decoded.ints),
            AttributeType::Strings => AttrValue::Strings(decoded.strings),
            AttributeType::Tensors => AttrValue::Tensors(self.tensors(decoded.tensors)?),
            AttributeType::Graphs => {
                let graphs = pairs(decoded.graphs, rest.graphs).map(|(graph, rest)| self.graph(graph, rest));
                AttrValue::Graphs(graphs.collect::<Result<_, _>>()?)
            }
            AttributeType::SparseTensors => AttrValue::SparseTensors(self.sparse_tensors(decoded.sparse_tensors)?),
            AttributeType::TypeProtos => AttrValue::Types(rest.type_protos.into_iter().map(r#type).collect()),
        };
        Ok(Attribute { name: decoded.name, ref_attr_name: String::new(), value })
    }

    fn tensors(&self, decoded: Vec<pb::TensorProto>) -> Result<Vec<Tensor>, ProtoError> {
        decoded.into_iter().map(|tensor| self.tensor(tensor)).collect()
    }

    pub fn tensor(&self, mut decoded: pb::TensorProto) -> Result<Tensor, ProtoError> {
        let place = |name: &str| format!("tensor `{name}`");
        if decoded.segment.is_some() {
            return Err(invalid(place(&decoded.name), "it is stored in segments, which is not supported"));
        }
        let data = if decoded.data_location == Some(pb::tensor_proto::DataLocation::External as i32) {
            let entries = std::mem::take(&mut decoded.external_data);
            TensorData::External(external(entries).map_err(|why| invalid(place(&decoded.name), why))?)
        } else {
            let raw = self.skeleton.weights(&decoded.raw_data);
            let mut filled = [
                (!raw.is_empty()).then_some(TensorData::Raw(raw)),
                some_if_filled(decoded.float_data, TensorData::Floats),
                some_if_filled(decoded.int32_data, TensorData::Int32s),
                some_if_filled(decoded.int64_data, TensorData::Int64s),
                some_if_filled(decoded.double_data, TensorData::Doubles),
                some_if_filled(decoded.uint64_data, TensorData::Uint64s),
                some_if_filled(decoded.string_data, TensorData::Strings),
            ]
            .into_iter()
            .flatten();
            let data = filled.next().unwrap_or_default();
            if filled.next().is_some() {
                return Err(invalid(place(&decoded.name), "it has data in more than one field"));
            }
            data
        };
        Ok(Tensor { name: decoded.name, data_type: decoded.data_type, dims: decoded.dims, data })
    }

    fn sparse_tensors(&self, decoded: Vec<pb::SparseTensorProto>) -> Result<Vec<SparseTensor>, ProtoError> {
        decoded.into_iter().map(|sparse| self.sparse_tensor(sparse)).collect()
    }

    pub fn sparse_tensor(&self, decoded: pb::SparseTensorProto) -> Result<SparseTensor, ProtoError> {
        let (Some(values), Some(indices)) = (decoded.values, decoded.indices) else {
            return Err(invalid("a sparse tensor".to_owned(), "it has no values or no indices"));
        };
        Ok(SparseTensor { values: self.tensor(values)?, indices: self.tensor(indices)?, dims: decoded.dims })
    }
}

/// Prefixes the node to an error inside one of its attributes; the innermost node is kept.
fn in_node(error: ProtoError, name: &str, op_type: &str) -> ProtoError {
    match error {
        ProtoError::Invalid { place, why } if !place.starts_with("node ") => {
            ProtoError::Invalid { place: format!("node `{name}` ({op_type}), {place}"), why }
        }
        other => other,
    }
}

/// The kind of an attribute that does not say it (files from before format version 2): that of the field it has.
fn present_kind(decoded: &pb::AttributeProto, rest: &rest::Attribute) -> AttributeType {
    let present = [
        (rest.f.is_some(), AttributeType::Float),
        (rest.i.is_some(), AttributeType::Int),
        (rest.s.is_some(), AttributeType::String),
        (decoded.t.is_some(), AttributeType::Tensor),
        (decoded.g.is_some(), AttributeType::Graph),
        (decoded.sparse_tensor.is_some(), AttributeType::SparseTensor),
        (rest.tp.is_some(), AttributeType::TypeProto),
        (!decoded.floats.is_empty(), AttributeType::Floats),
        (!decoded.ints.is_empty(), AttributeType::Ints),
        (!decoded.strings.is_empty(), AttributeType::Strings),
        (!decoded.tensors.is_empty(), AttributeType::Tensors),
        (!decoded.graphs.is_empty(), AttributeType::Graphs),
        (!decoded.sparse_tensors.is_empty(), AttributeType::SparseTensors),
        (!rest.type_protos.is_empty(), AttributeType::TypeProtos),
    ];
    present.into_iter().find(|(is, _)| *is).map_or(AttributeType::Undefined, |(_, kind)| kind)
}

fn kind_name(kind: AttributeType) -> String {
    kind.as_str_name().to_lowercase().replace('_', " ")
}

fn some_if_filled<T>(list: Vec<T>, data: fn(Vec<T>) -> TensorData) -> Option<TensorData> {
    (!list.is_empty()).then(|| data(list))
}

fn external(entries: Vec<pb::StringStringEntryProto>) -> Result<External, String> {
    let mut external = External::default();
    for pb::StringStringEntryProto { key, value } in entries {
        let number = || value.parse::<u64>().map_err(|_| format!("the {key} of its external data is `{value}`"));
        match key.as_str() {
            "location" => external.location = value,
            "offset" => external.offset = number()?,
            "length" => external.length = Some(number()?),
            "checksum" => external.checksum = Some(value),
            _ => {}
        }
    }
    match external.location.is_empty() {
        true => Err("its data is external, but the file's location is missing".to_owned()),
        false => Ok(external),
    }
}

fn opset_imports(decoded: Vec<pb::OperatorSetIdProto>) -> Vec<(String, i64)> {
    decoded.into_iter().map(|import| (import.domain, import.version)).collect()
}

fn value_info(decoded: rest::ValueInfo) -> ValueInfo {
    ValueInfo { name: decoded.name, r#type: decoded.r#type.map_or(Type::Unset, r#type) }
}

fn r#type(decoded: rest::Type) -> Type {
    let inner = |element: Option<Box<rest::Type>>| Box::new(element.map_or(Type::Unset, |element| r#type(*element)));
    match decoded.value {
        None => Type::Unset,
        Some(rest::TypeValue::Tensor(tensor)) => {
            Type::Tensor { elem: tensor.elem_type, shape: tensor.shape.map(shape) }
        }
        Some(rest::TypeValue::Sequence(element)) => Type::Sequence(inner(element.elem_type)),
        Some(rest::TypeValue::Optional(element)) => Type::Optional(inner(element.elem_type)),
        Some(rest::TypeValue::Map(map)) => Type::Map { key: map.key_type, value: inner(map.value_type) },
        Some(rest::TypeValue::SparseTensor(tensor)) => {
            Type::SparseTensor { elem: tensor.elem_type, shape: tensor.shape.map(shape) }
        }
        Some(rest::TypeValue::Opaque(opaque)) => Type::Opaque { domain: opaque.domain, name: opaque.name },
    }
}

fn shape(decoded: pb::TensorShapeProto) -> Vec<DimParam> {
    use pb::tensor_shape_proto::dimension::Value;
    let dim = |dim: pb::tensor_shape_proto::Dimension| match dim.value {
        Some(Value::DimValue(value)) if value >= 0 => DimParam::Value(value),
        Some(Value::DimParam(name)) if !name.is_empty() => DimParam::Param(name),
        Some(Value::DimValue(_) | Value::DimParam(_)) | None => DimParam::Unknown,
    };
    decoded.dim.into_iter().map(dim).collect()
}
