//! Models built from the messages themselves, read back; and bytes that are no model.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

use super::pb::attribute_proto::AttributeType;
use super::pb::tensor_proto::DataLocation;
use super::pb::tensor_shape_proto::{Dimension, dimension};
use super::{supplement as rest, *};
use crate::encode::{encode_optional, encode_sequence, encode_tensor, encode_value};

/// The two halves of a message as one: protobuf joins messages by joining their bytes, as long as each field is in one.
fn joined(decoded: &impl prost::Message, rest: &impl prost::Message) -> Vec<u8> {
    [decoded.encode_to_vec(), rest.encode_to_vec()].concat()
}

fn field(number: u32, contents: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut bytes);
    prost::encoding::encode_varint(contents.len() as u64, &mut bytes);
    bytes.extend_from_slice(contents);
    bytes
}

fn weight(name: &str, values: &[f32]) -> pb::TensorProto {
    pb::TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: data_type::FLOAT,
        raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ..Default::default()
    }
}

fn attribute(name: &str, kind: AttributeType) -> pb::AttributeProto {
    pb::AttributeProto { name: name.into(), r#type: kind as i32, ..Default::default() }
}

fn int(name: &str, i: i64) -> pb::AttributeProto {
    pb::AttributeProto { i, ..attribute(name, AttributeType::Int) }
}

fn node(op_type: &str, attribute: Vec<pb::AttributeProto>) -> pb::NodeProto {
    pb::NodeProto {
        name: format!("{op_type}_1"),
        op_type: op_type.into(),
        input: vec!["x".into(), String::new()],
        output: vec!["y".into()],
        attribute,
        doc_string: "dropped".into(),
        ..Default::default()
    }
}

fn value_info(name: &str, dims: Vec<Option<dimension::Value>>) -> pb::ValueInfoProto {
    let dim = |value| Dimension { value, ..Default::default() };
    let shape = Some(pb::TensorShapeProto { dim: dims.into_iter().map(dim).collect() });
    let tensor = pb::type_proto::Tensor { elem_type: data_type::FLOAT, shape };
    let value = Some(pb::type_proto::Value::TensorType(tensor));
    let r#type = Some(pb::TypeProto { value, ..Default::default() });
    pb::ValueInfoProto { name: name.into(), r#type, ..Default::default() }
}

fn model_of(graph: pb::GraphProto) -> pb::ModelProto {
    pb::ModelProto {
        ir_version: 10,
        producer_name: "test".into(),
        opset_import: vec![pb::OperatorSetIdProto { domain: String::new(), version: 21 }],
        graph: Some(graph),
        ..Default::default()
    }
}

fn small_model() -> pb::ModelProto {
    let body = pb::GraphProto {
        node: vec![node("Identity", vec![])],
        initializer: vec![weight("inner", &[3.0])],
        ..Default::default()
    };
    let branch = pb::AttributeProto { g: Some(body), ..attribute("then_branch", AttributeType::Graph) };
    let mut model = model_of(pb::GraphProto {
        name: "main".into(),
        node: vec![node("Softmax", vec![int("axis", -1)]), node("If", vec![branch])],
        initializer: vec![weight("w", &[1.0, 2.0])],
        input: vec![value_info("x", vec![Some(dimension::Value::DimParam("N".into())), None])],
        output: vec![value_info("y", vec![Some(dimension::Value::DimValue(4)), Some(dimension::Value::DimValue(-1))])],
        ..Default::default()
    });
    model.metadata_props = vec![pb::StringStringEntryProto { key: "k".into(), value: "v".into() }];
    model
}

fn decode(file: Vec<u8>) -> Result<Model, ProtoError> {
    decode_model(Bytes::from(file))
}

fn error(file: Vec<u8>) -> String {
    decode(file).unwrap_err().to_string()
}

/// The only attribute of the only node of a model that has this one.
fn attribute_of(attribute: Vec<u8>) -> Result<Attribute, ProtoError> {
    let node = [node("Op", vec![]).encode_to_vec(), field(5, &attribute)].concat();
    let mut model = decode(field(7, &field(1, &node)))?;
    Ok(model.graph.nodes.remove(0).attributes.remove(0))
}

#[test]
fn a_small_model_is_read_whole() {
    let model = decode(small_model().encode_to_vec()).unwrap();
    assert_eq!((model.ir_version, model.producer.name.as_str()), (10, "test"));
    assert_eq!(model.opset_imports, [(String::new(), 21)]);
    assert_eq!(model.metadata, [("k".to_owned(), "v".to_owned())]);
    let graph = &model.graph;
    assert_eq!(graph.name, "main");
    let raw = [1.0_f32, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    assert_eq!(graph.initializers[0].data, TensorData::Raw(raw.into()));
    let shape = Some(vec![DimParam::Param("N".into()), DimParam::Unknown]);
    assert_eq!(graph.inputs[0].r#type, Type::Tensor { elem: data_type::FLOAT, shape });
    let shape = Some(vec![DimParam::Value(4), DimParam::Unknown]);
    assert_eq!(graph.outputs[0].r#type, Type::Tensor { elem: data_type::FLOAT, shape });
    assert_eq!(graph.nodes[0].inputs, ["x", ""]);
    assert_eq!(graph.nodes[0].attributes[0].value, AttrValue::Int(-1));
    let AttrValue::Graph(body) = &graph.nodes[1].attributes[0].value else { panic!("a subgraph") };
    assert_eq!(body.initializers[0].name, "inner");
    assert_eq!(body.initializers[0].data, TensorData::Raw(3.0_f32.to_le_bytes().to_vec().into()));
}

#[test]
fn weights_are_not_copied() {
    let file = Bytes::from(small_model().encode_to_vec());
    let model = decode_model(file.clone()).unwrap();
    let TensorData::Raw(raw) = &model.graph.initializers[0].data else { panic!("raw data") };
    assert!(file.as_ptr_range().contains(&raw.as_ptr()));
}

#[test]
fn sequence_optional_and_map_types_are_read() {
    let tensor = rest::TypeValue::Tensor(pb::type_proto::Tensor { elem_type: data_type::INT2, shape: None });
    let boxed = |value| Some(Box::new(rest::Type { value: Some(value) }));
    let sequence = rest::TypeValue::Sequence(Box::new(rest::Element { elem_type: boxed(tensor) }));
    let optional = rest::TypeValue::Optional(Box::new(rest::Element { elem_type: boxed(sequence) }));
    let map = rest::MapType { key_type: data_type::STRING, value_type: boxed(optional) };
    let r#type = Some(rest::Type { value: Some(rest::TypeValue::Map(Box::new(map))) });
    let input = rest::ValueInfo { name: "x".into(), r#type };
    let graph = rest::Graph { input: vec![input], ..Default::default() };
    let model = decode(rest::Model { graph: Some(graph), ..Default::default() }.encode_to_vec()).unwrap();
    let tensor = Type::Tensor { elem: data_type::INT2, shape: None };
    let value = Box::new(Type::Optional(Box::new(Type::Sequence(Box::new(tensor)))));
    assert_eq!(model.graph.inputs[0].r#type, Type::Map { key: data_type::STRING, value });
}

#[test]
fn overloads_and_function_defaults_are_read() {
    let half = pb::FunctionProto { name: Some("f".into()), attribute: vec!["must".into()], ..Default::default() };
    let tensor = pb::AttributeProto { t: Some(weight("t", &[5.0])), ..attribute("value", AttributeType::Tensor) };
    let defaults = vec![int("alpha", 2).encode_to_vec().into(), tensor.encode_to_vec().into()];
    let info = rest::ValueInfo { name: "inside".into(), r#type: None };
    let other = rest::Function {
        attribute_proto: defaults,
        overload: "v2".into(),
        value_info: vec![info],
        ..Default::default()
    };
    let node = joined(&node("f", vec![]), &rest::Node { overload: "v2".into(), ..Default::default() });
    let model = decode([field(7, &field(1, &node)), field(25, &joined(&half, &other))].concat()).unwrap();
    assert_eq!(model.graph.nodes[0].overload, "v2");
    let function = &model.functions[0];
    assert_eq!((function.name.as_str(), function.overload.as_str()), ("f", "v2"));
    assert_eq!(function.attributes, ["must"]);
    assert_eq!(function.attribute_defaults[0].value, AttrValue::Int(2));
    let AttrValue::Tensor(tensor) = &function.attribute_defaults[1].value else { panic!("a tensor") };
    assert_eq!(tensor.data, TensorData::Raw(5.0_f32.to_le_bytes().to_vec().into()));
    assert_eq!(function.value_infos[0].name, "inside");
}

#[test]
fn type_attributes_are_read() {
    let sequence = rest::Type { value: Some(rest::TypeValue::Sequence(Box::default())) };
    let tp = rest::Attribute { tp: Some(sequence), ..Default::default() };
    let attribute = attribute_of(joined(&attribute("type", AttributeType::TypeProto), &tp)).unwrap();
    assert_eq!(attribute.value, AttrValue::Type(Type::Sequence(Box::new(Type::Unset))));
}

#[test]
fn an_attribute_that_does_not_say_its_kind_has_the_kind_of_its_field() {
    let undeclared = pb::AttributeProto { name: "axes".into(), ints: vec![0, 1], ..Default::default() };
    assert_eq!(attribute_of(undeclared.encode_to_vec()).unwrap().value, AttrValue::Ints(vec![0, 1]));
    let zero = rest::Attribute { i: Some(0), ..Default::default() };
    assert_eq!(attribute_of(zero.encode_to_vec()).unwrap().value, AttrValue::Int(0));
}

#[test]
fn an_attribute_reference_has_no_value() {
    let reference = pb::AttributeProto { ref_attr_name: "alpha".into(), ..attribute("axis", AttributeType::Int) };
    let attribute = attribute_of(reference.encode_to_vec()).unwrap();
    assert_eq!((attribute.ref_attr_name.as_str(), attribute.value), ("alpha", AttrValue::None));
}

#[test]
fn an_attribute_without_its_value_is_named() {
    let error = attribute_of(attribute("value", AttributeType::Tensor).encode_to_vec()).unwrap_err();
    assert_eq!(error.to_string(), "node `Op_1` (Op), attribute `value`: the tensor is missing");
    let odd = pb::AttributeProto { name: "odd".into(), r#type: 99, ..Default::default() };
    let error = attribute_of(odd.encode_to_vec()).unwrap_err();
    assert_eq!(error.to_string(), "node `Op_1` (Op), attribute `odd`: attribute type 99 is not one of ONNX's");
}

#[test]
fn external_data_is_described() {
    let entry = |key: &str, value: &str| pb::StringStringEntryProto { key: key.into(), value: value.into() };
    let mut tensor = pb::TensorProto {
        name: "w".into(),
        data_location: Some(DataLocation::External as i32),
        external_data: vec![entry("location", "w.bin"), entry("offset", "4096"), entry("length", "16")],
        ..Default::default()
    };
    let decoded = decode_value(tensor.encode_to_vec().into(), ValueKind::Tensor).unwrap();
    let external = External { location: "w.bin".into(), offset: 4096, length: Some(16), checksum: None };
    let Value::Tensor(decoded) = decoded else { panic!("a tensor") };
    assert_eq!(decoded.data, TensorData::External(external));
    assert_eq!(encode_tensor(&decoded), tensor.encode_to_vec());

    tensor.external_data[1].value = "-1".into();
    let error = decode_value(tensor.encode_to_vec().into(), ValueKind::Tensor).unwrap_err();
    assert_eq!(error.to_string(), "tensor `w`: the offset of its external data is `-1`");
    tensor.external_data.clear();
    let error = decode_value(tensor.encode_to_vec().into(), ValueKind::Tensor).unwrap_err();
    assert_eq!(error.to_string(), "tensor `w`: its data is external, but the file's location is missing");
}

#[test]
fn a_tensor_with_two_kinds_of_data_is_refused() {
    let tensor = pb::TensorProto { int64_data: vec![1], ..weight("w", &[1.0]) };
    let error = decode_value(tensor.encode_to_vec().into(), ValueKind::Tensor).unwrap_err();
    assert_eq!(error.to_string(), "tensor `w`: it has data in more than one field");
}

fn tensors() -> Vec<Tensor> {
    let data = [
        TensorData::Raw(Bytes::from_static(&[1, 2, 3])),
        TensorData::Floats(vec![1.5, -0.0]),
        TensorData::Int32s(vec![-1, 7]),
        TensorData::Int64s(vec![i64::MIN]),
        TensorData::Doubles(vec![0.1]),
        TensorData::Uint64s(vec![u64::MAX]),
        TensorData::Strings(vec![b"to be".to_vec(), vec![0xff], vec![]]),
        TensorData::default(),
    ];
    let tensor = |data| Tensor { name: "t".into(), data_type: data_type::FLOAT8E8M0, dims: vec![2, 0], data };
    data.into_iter().map(tensor).collect()
}

#[test]
fn tensors_round_trip() {
    for tensor in tensors() {
        let file = encode_tensor(&tensor).into();
        assert_eq!(decode_value(file, ValueKind::Tensor), Ok(Value::Tensor(tensor)));
    }
}

#[test]
fn sequences_optionals_and_maps_round_trip() {
    let items: Vec<Value> = tensors().into_iter().map(Value::Tensor).collect();
    let sequence = Sequence { name: "s".into(), element: Element::Tensor, items };
    let keys = MapKeys::Ints((0..sequence.items.len() as i64).collect());
    let map = Map { name: "m".into(), key_type: data_type::INT64, keys, values: sequence.clone() };
    let maps = vec![Value::Map(map)];
    let maps = Sequence { name: String::new(), element: Element::Map, items: maps };
    let some = Some(Box::new(Value::Sequence(sequence.clone())));
    let optional = Optional { name: "o".into(), element: Element::Sequence, value: some };
    let nested = Some(Box::new(Value::Optional(optional.clone())));
    let nested = Optional { name: "n".into(), element: Element::Optional, value: nested };
    let sparse = SparseTensor { values: tensors().remove(1), indices: tensors().remove(3), dims: vec![9] };
    for sequence in [sequence, maps, Sequence::default()] {
        let file = encode_sequence(&sequence).into();
        assert_eq!(decode_value(file, ValueKind::Sequence), Ok(Value::Sequence(sequence)));
    }
    for optional in [optional, nested, Optional::default()] {
        let file = encode_optional(&optional).into();
        assert_eq!(decode_value(file, ValueKind::Optional), Ok(Value::Optional(optional)));
    }
    let sparse = Value::SparseTensor(sparse);
    assert_eq!(decode_value(encode_value(&sparse).into(), ValueKind::SparseTensor), Ok(sparse));
}

#[test]
fn a_map_needs_as_many_keys_as_values() {
    let map = rest::Map { name: "m".into(), keys: vec![1], ..Default::default() };
    let error = decode_value(map.encode_to_vec().into(), ValueKind::Map).unwrap_err();
    assert_eq!(error.to_string(), "map `m`: it does not have as many keys as values");
}

#[test]
fn other_files_are_named() {
    assert_eq!(error(vec![]), "this is not an ONNX model: the file is empty");
    let text = error(b"hello world".to_vec());
    assert!(text.starts_with("this is not an ONNX model: "), "{text}");
    let pointer = error(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n".to_vec());
    assert!(pointer.contains("Git LFS pointer"), "{pointer}");
    let tensor = error(weight("w", &[1.0]).encode_to_vec());
    assert!(tensor.starts_with("this is not an ONNX model: ") || tensor.contains("wrong type"), "{tensor}");
    assert_eq!(error(vec![0x08, 0x0a]), "this is not an ONNX model: it has no graph");
}

#[test]
fn a_cut_off_file_says_where() {
    let file = small_model().encode_to_vec();
    let words = error(file[..file.len() - 20].to_vec());
    assert!(words.starts_with("the file is truncated: `graph` at byte 8 needs "), "{words}");
}

#[test]
fn a_length_beyond_its_message_is_malformed() {
    let words = error([field(7, &field(1, &[0x22, 100, b'A'])), vec![0x08, 0x0a]].concat());
    assert_eq!(words, "`graph.node[0]` at byte 4 is malformed: field 4 claims 100 bytes, its message has 1 left");
}

#[test]
fn a_field_of_the_wrong_type_is_named() {
    let words = error(field(7, &field(5, &[0x48, 1])));
    assert_eq!(words, "`graph.initializer[0].raw_data` at byte 4 has the wrong type: an integer where bytes belongs");
    let words = error(field(7, &field(1, &field(1, &[0xff]))));
    assert!(words.contains("input") && words.contains("UTF-8"), "{words}");
}

#[test]
fn deep_nesting_is_refused() {
    let graphs = |levels: usize| {
        (0..levels).fold(Vec::new(), |inner, _| {
            let branch = [attribute("g", AttributeType::Graph).encode_to_vec(), field(6, &inner)].concat();
            field(1, &field(5, &branch))
        })
    };
    assert!(decode(field(7, &graphs(30))).is_ok());
    assert!(error(field(7, &graphs(40))).contains("nested too deeply"));
    assert!(error(field(7, &graphs(10_000))).contains("nested too deeply"));

    let types = (0..20_000).fold(Vec::new(), |inner, _| field(4, &field(1, &inner)));
    let words = error(field(7, &field(11, &field(2, &types))));
    assert!(words.contains("recursion limit"), "{words}");

    let optionals = (0..10_000).fold(Vec::new(), |inner, _| field(7, &inner));
    let error = decode_value(optionals.into(), ValueKind::Optional).unwrap_err().to_string();
    assert!(error.contains("nested too deeply"), "{error}");
}

/// A model in which every kind of field occurs.
fn rich_model() -> Vec<u8> {
    let sequence = rest::Type { value: Some(rest::TypeValue::Sequence(Box::default())) };
    let info = rest::ValueInfo { name: "s".into(), r#type: Some(sequence.clone()) };
    let tp = rest::Attribute { tp: Some(sequence), ..Default::default() };
    let tp = joined(&attribute("type", AttributeType::TypeProto), &tp);
    let node = [node("Op", vec![int("axis", 1)]).encode_to_vec(), field(5, &tp)].concat();
    let function = rest::Function {
        attribute_proto: vec![int("alpha", 2).encode_to_vec().into()],
        value_info: vec![info.clone()],
        overload: "v2".into(),
        ..Default::default()
    };
    let function = [function.encode_to_vec(), field(7, &node)].concat();
    let graph = [field(11, &info.encode_to_vec()), field(1, &node)].concat();
    [small_model().encode_to_vec(), field(7, &graph), field(25, &function)].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn cut_off_models_never_panic(at in 0..rich_model().len()) {
        let _ = decode(rich_model()[..at].to_vec());
    }

    #[test]
    fn mutated_models_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut file = rich_model();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let _ = decode(file);
    }

    #[test]
    fn random_bytes_never_panic(file in prop::collection::vec(any::<u8>(), 0..200)) {
        for kind in [ValueKind::Tensor, ValueKind::SparseTensor, ValueKind::Sequence, ValueKind::Map, ValueKind::Optional] {
            let _ = decode_value(file.clone().into(), kind);
        }
        let _ = decode(file);
    }
}
