//! A merged decoder as optimum writes it: one If on `use_cache_branch`, whose branches compute the model with and without a past.

use prost::Message as _;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    self, AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};

pub const VOCABULARY: usize = 40;
const HEADS: usize = 2;
const WIDTH: usize = 8;

fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
    let name = format!("{}_{op}", outputs[0]);
    NodeProto {
        op_type: op.into(),
        name,
        input: names(inputs),
        output: names(outputs),
        attribute,
        ..Default::default()
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i, ..Default::default() }
}

fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Graph as i32, g: Some(graph), ..Default::default() }
}

fn value(name: &str, of: DataType, dims: &[&str]) -> ValueInfoProto {
    let dim = |text: &&str| {
        let value = match text.parse() {
            Ok(n) => dimension::Value::DimValue(n),
            Err(_) => dimension::Value::DimParam(text.to_string()),
        };
        Dimension { value: Some(value), ..Default::default() }
    };
    let shape = Some(pb::TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = pb::type_proto::Tensor { elem_type: of as i32, shape };
    let value = Some(pb::type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: name.into(),
        r#type: Some(pb::TypeProto { value, ..Default::default() }),
        ..Default::default()
    }
}

fn weight(name: &str, dims: &[usize], salt: usize) -> TensorProto {
    let n: usize = dims.iter().product();
    let float_data = (0..n).map(|i| ((i * 37 + salt * 11) % 41) as f32 / 41.0 - 0.5).collect();
    let dims = dims.iter().map(|d| *d as i64).collect();
    TensorProto { name: name.into(), dims, data_type: DataType::Float as i32, float_data, ..Default::default() }
}

/// The model, with its past or without.
fn branch(past: bool) -> GraphProto {
    let own = |name: &str| format!("{}.{name}", if past { "later" } else { "first" });
    let [x, q, k, v, y, z, logits, key, value_] =
        ["x", "q", "k", "v", "y", "z", "logits", "present.0.key", "present.0.value"].map(own);
    let pasts = if past { ["past_key_values.0.key", "past_key_values.0.value"] } else { ["", ""] };
    let attention = [int("is_causal", 1), int("q_num_heads", HEADS as i64), int("kv_num_heads", HEADS as i64)];
    let product = |x: &str, w: &str, y: &str| node("MatMul", &[x, w], &[y], vec![]);
    let nodes = vec![
        node("Gather", &["embedding", "input_ids"], &[&x], vec![]),
        product(&x, "wq", &q),
        product(&x, "wk", &k),
        product(&x, "wv", &v),
        node("Attention", &[&q, &k, &v, "", pasts[0], pasts[1]], &[&y, &key, &value_], attention.to_vec()),
        node("Add", &[&x, &y], &[&z], vec![]),
        product(&z, "head", &logits),
    ];
    let output = [
        value(&logits, DataType::Float, &["batch", "sequence", "40"]),
        value(&key, DataType::Float, &["batch", "2", "total", "8"]),
        value(&value_, DataType::Float, &["batch", "2", "total", "8"]),
    ];
    GraphProto { name: own("branch"), node: nodes, output: output.to_vec(), ..Default::default() }
}

/// The file's bytes.
pub fn model() -> Vec<u8> {
    let inner = HEADS * WIDTH;
    let results = ["logits", "present.0.key", "present.0.value"];
    let branches = vec![body("then_branch", branch(true)), body("else_branch", branch(false))];
    let cache = |name: &str, rows: &str| value(name, DataType::Float, &["batch", "2", rows, "8"]);
    let graph = GraphProto {
        name: "merged".into(),
        node: vec![node("If", &["use_cache_branch"], &results, branches)],
        initializer: vec![
            weight("embedding", &[VOCABULARY, inner], 1),
            weight("wq", &[inner, inner], 2),
            weight("wk", &[inner, inner], 3),
            weight("wv", &[inner, inner], 4),
            weight("head", &[inner, VOCABULARY], 5),
        ],
        input: vec![
            value("input_ids", DataType::Int64, &["batch", "sequence"]),
            cache("past_key_values.0.key", "past"),
            cache("past_key_values.0.value", "past"),
            value("use_cache_branch", DataType::Bool, &["1"]),
        ],
        output: vec![
            value("logits", DataType::Float, &["batch", "sequence", "40"]),
            cache("present.0.key", "total"),
            cache("present.0.value", "total"),
        ],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 23 }];
    ModelProto { ir_version: 10, opset_import, graph: Some(graph), ..Default::default() }.encode_to_vec()
}
