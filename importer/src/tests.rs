//! Tiny models built from the messages themselves, imported.

use bytes::Bytes;
use ir::eval;
use ir::tensor::{Datum, Tensor};
use prost::Message as _;

use crate::proto::data_type;
use crate::proto::pb::attribute_proto::AttributeType;
use crate::proto::pb::tensor_shape_proto::{Dimension, dimension};
use crate::proto::pb::{self, AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use crate::{ImportError, Imported, Options, import_bytes};

fn node(op_type: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let names = |list: &[&str]| list.iter().map(|n| n.to_string()).collect();
    NodeProto { op_type: op_type.into(), input: names(inputs), output: names(outputs), attribute, ..Default::default() }
}

fn named(name: &str, node: NodeProto) -> NodeProto {
    NodeProto { name: name.into(), ..node }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i, ..Default::default() }
}

fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Graph as i32, g: Some(graph), ..Default::default() }
}

/// An f32 value; a dimension is a number, a name, or nothing.
fn value(name: &str, dims: &[&str]) -> ValueInfoProto {
    value_of(name, data_type::FLOAT, dims)
}

fn value_of(name: &str, elem_type: i32, dims: &[&str]) -> ValueInfoProto {
    let dim = |text: &&str| {
        let value = match text.parse() {
            Ok(n) => Some(dimension::Value::DimValue(n)),
            Err(_) if text.is_empty() => None,
            Err(_) => Some(dimension::Value::DimParam(text.to_string())),
        };
        Dimension { value, ..Default::default() }
    };
    let shape = Some(pb::TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = pb::type_proto::Tensor { elem_type, shape };
    let value = Some(pb::type_proto::Value::TensorType(tensor));
    let r#type = Some(pb::TypeProto { value, ..Default::default() });
    ValueInfoProto { name: name.into(), r#type, ..Default::default() }
}

fn floats(name: &str, values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: data_type::FLOAT,
        float_data: values.to_vec(),
        ..Default::default()
    }
}

fn graph(node: Vec<NodeProto>, input: Vec<ValueInfoProto>, outputs: &[&str]) -> GraphProto {
    let output = outputs.iter().map(|o| ValueInfoProto { name: o.to_string(), ..Default::default() }).collect();
    GraphProto { name: "g".into(), node, input, output, ..Default::default() }
}

fn model(graph: GraphProto) -> ModelProto {
    let opset_import = vec![pb::OperatorSetIdProto { domain: String::new(), version: 17 }];
    ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() }
}

fn try_import(model: &ModelProto) -> Result<Imported, ImportError> {
    import_bytes(Bytes::from(model.encode_to_vec()), None, &Options::default())
}

fn text(model: &ModelProto) -> String {
    try_import(model).unwrap().graph.to_string()
}

fn error(model: &ModelProto) -> String {
    try_import(model).unwrap_err().to_string()
}

fn run(model: &ModelProto, inputs: &[&[f32]]) -> Vec<Vec<f64>> {
    let imported = try_import(model).unwrap();
    ir::verify(&imported.graph).unwrap();
    let inputs: Vec<Datum> = inputs.iter().map(|v| Tensor::from_slice(&[v.len()], v).unwrap().into()).collect();
    let results = eval::run(&imported.graph, &inputs).unwrap();
    results.iter().map(|d| d.as_tensor().unwrap().to_f64().unwrap()).collect()
}

#[test]
fn nodes_keep_their_onnx_names() {
    let add = named("layer/add", node("Add", &["x", "x"], &["y"], vec![]));
    let relu = node("Relu", &["y"], &["z"], vec![]);
    let g = try_import(&model(graph(vec![add, relu], vec![value("x", &["N"])], &["z"]))).unwrap().graph;
    let z = g.outputs[0].value;
    let y = g.operands(z.node)[0];
    assert_eq!((&**g.name(z), &**g.name(y)), ("z", "y"));
    assert_eq!(&*g.node(y.node).origin[0], "layer/add");
    assert_eq!(&*g.node(z.node).origin[0], "Relu#1");
}

#[test]
fn nodes_in_any_order_are_imported() {
    let nodes = vec![node("Neg", &["b"], &["c"], vec![]), node("Exp", &["a"], &["b"], vec![])];
    assert_eq!(run(&model(graph(nodes, vec![value("a", &["N"])], &["c"])), &[&[0.0]]), [[-1.0]]);
}

#[test]
fn a_cycle_names_its_nodes() {
    let a = named("first", node("Add", &["x", "b"], &["a"], vec![]));
    let b = named("second", node("Neg", &["a"], &["b"], vec![]));
    let after = named("third", node("Neg", &["b"], &["c"], vec![]));
    let message = error(&model(graph(vec![after, a, b], vec![value("x", &[])], &["b"])));
    assert!(message.contains("`first`") && message.contains("`second`") && !message.contains("third"), "{message}");
}

#[test]
fn every_unsupported_node_is_reported_at_once() {
    let nodes = vec![
        named("a", node("NoSuchOp", &["x"], &["a"], vec![])),
        named("b", node("NoSuchOp", &["a"], &["b"], vec![])),
        named("c", node("Exp", &["b"], &["c"], vec![])),
        named("d", NodeProto { domain: "my.domain".into(), ..node("Other", &["c"], &["d"], vec![]) }),
    ];
    let message = error(&model(graph(nodes, vec![value("x", &[])], &["d"])));
    assert_eq!(
        message,
        "3 nodes are not supported:\n  NoSuchOp (2 nodes): the operator is not known: `a`, `b`\n  \
         my.domain.Other: the operator is not known: `d`"
    );
}

#[test]
fn an_operand_that_does_not_fit_is_named_with_its_type() {
    let nodes = vec![named("sum", node("Add", &["x", "y"], &["z"], vec![]))];
    let inputs = vec![value("x", &["N"]), value_of("y", data_type::INT64, &["N"])];
    let message = error(&model(graph(nodes, inputs, &["z"])));
    assert!(message.contains("`sum` (Add)") && message.contains("`y`: i64[N]"), "{message}");
}

#[test]
fn names_that_nothing_gives_are_errors() {
    let nodes = vec![named("n", node("Neg", &["gone"], &["y"], vec![]))];
    assert_eq!(
        error(&model(graph(nodes, vec![], &["y"]))),
        "node `n` (Neg) reads `gone`, which no node, input or constant gives"
    );
    let message = error(&model(graph(vec![], vec![value("x", &[])], &["y"])));
    assert!(message.contains("reads `y`"), "{message}");
}

#[test]
fn names_given_twice_are_errors() {
    let nodes = vec![node("Neg", &["x"], &["y"], vec![]), node("Exp", &["x"], &["y"], vec![])];
    assert!(error(&model(graph(nodes, vec![value("x", &[])], &["y"]))).contains("`y` is given twice"));
    let nodes = vec![node("Neg", &["x"], &["w"], vec![])];
    let mut g = graph(nodes, vec![value("x", &[])], &["w"]);
    g.initializer = vec![floats("w", &[1.0])];
    assert!(error(&model(g)).contains("`w` is given twice"));
}

#[test]
fn dimensions_are_numbers_symbols_and_expressions() {
    let inputs =
        vec![value("a", &["batch", "3", "", "s0 + s1", "-1"]), value("b", &["s0", "s1", "u + 1", "two words", "?"])];
    let nodes = vec![node("Neg", &["a"], &["y"], vec![])];
    let g = try_import(&model(graph(nodes, inputs, &["y"]))).unwrap().graph;
    let types: Vec<String> = g.inputs.iter().map(|n| g.ty((*n).into()).to_string()).collect();
    assert_eq!(types[0], "f32[batch, 3, a_2, s0 + s1, a_4]");
    assert_eq!(types[1], "f32[s0, s1, \"u + 1\", \"two words\", b_4]");
}

#[test]
fn inputs_with_a_default_are_constants() {
    let mut g =
        graph(vec![node("Add", &["x", "w"], &["y"], vec![])], vec![value("x", &["N"]), value("w", &["1"])], &["y"]);
    g.initializer = vec![floats("w", &[2.0])];
    let imported = try_import(&model(g)).unwrap();
    assert_eq!(imported.graph.inputs.len(), 1);
}

#[test]
fn left_out_operands_and_results_are_allowed() {
    let clip = node("Clip", &["x", "", "high"], &["y"], vec![]);
    let dropout = node("Dropout", &["y"], &["z", ""], vec![]);
    let mut g = graph(vec![clip, dropout], vec![value("x", &["N"])], &["z"]);
    g.initializer = vec![TensorProto { dims: vec![], ..floats("high", &[1.5]) }];
    assert_eq!(run(&model(g), &[&[-3.0, 2.0]]), [[-3.0, 1.5]]);
}

#[test]
fn typed_data_of_small_types_is_read() {
    let tensor = |data_type, int32_data: Vec<i32>, dims: Vec<i64>| crate::proto::Tensor {
        data_type,
        dims,
        data: crate::proto::TensorData::Int32s(int32_data),
        ..Default::default()
    };
    let read = |t: crate::proto::Tensor| crate::tensor::tensor(&t, None).unwrap().to_f64().unwrap();
    assert_eq!(read(tensor(data_type::INT8, vec![-1, 2], vec![2])), [-1.0, 2.0]);
    assert_eq!(read(tensor(data_type::FLOAT16, vec![0x3c00, 0xc000], vec![2])), [1.0, -2.0]);
    assert_eq!(read(tensor(data_type::BOOL, vec![0, 7], vec![2])), [0.0, 1.0]);
    assert_eq!(read(tensor(data_type::INT4, vec![0xf1, 0x02], vec![3])), [1.0, -1.0, 2.0]);
    let error = crate::tensor::tensor(&tensor(data_type::FLOAT, vec![1], vec![1]), None).unwrap_err();
    assert_eq!(error, "elements of type f32 do not belong in `int32_data`");
}

#[test]
fn sparse_constants_are_written_out() {
    let indices = |dims: Vec<i64>, int64_data: Vec<i64>| TensorProto {
        dims,
        data_type: data_type::INT64,
        int64_data,
        ..Default::default()
    };
    for indices in [indices(vec![2], vec![1, 5]), indices(vec![2, 2], vec![0, 1, 1, 2])] {
        let mut g = graph(vec![node("Identity", &["w"], &["y"], vec![])], vec![], &["y"]);
        let values = Some(floats("w", &[7.0, 8.0]));
        g.sparse_initializer = vec![pb::SparseTensorProto { values, indices: Some(indices), dims: vec![2, 3] }];
        assert_eq!(run(&model(g), &[]), [[0.0, 7.0, 0.0, 0.0, 0.0, 8.0]]);
    }
}

#[test]
fn shapes_without_data_are_errors() {
    let mut g = graph(vec![node("Neg", &["w"], &["y"], vec![])], vec![], &["y"]);
    g.initializer = vec![TensorProto { dims: vec![1 << 20, 1 << 20], ..floats("w", &[]) }];
    assert!(error(&model(g.clone())).starts_with("tensor `w`: "));
    g.initializer = vec![TensorProto { dims: vec![i64::MAX, i64::MAX], ..floats("w", &[]) }];
    assert!(error(&model(g.clone())).starts_with("tensor `w`: "));
    let indices = TensorProto { dims: vec![0], data_type: data_type::INT64, ..Default::default() };
    let values = Some(floats("w", &[]));
    g.initializer.clear();
    g.sparse_initializer = vec![pb::SparseTensorProto { values, indices: Some(indices), dims: vec![1 << 40] }];
    assert!(error(&model(g)).starts_with("tensor `w`: "));
}

fn function(name: &str, inputs: &[&str], outputs: &[&str], node: Vec<NodeProto>) -> pb::FunctionProto {
    let names = |list: &[&str]| list.iter().map(|n| n.to_string()).collect();
    pb::FunctionProto {
        name: Some(name.into()),
        domain: Some("local".into()),
        input: names(inputs),
        output: names(outputs),
        node,
        opset_import: vec![pb::OperatorSetIdProto { domain: String::new(), version: 17 }],
        ..Default::default()
    }
}

fn call(name: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto { domain: "local".into(), ..node(name, inputs, outputs, attributes) }
}

#[test]
fn functions_are_expanded_with_the_attributes_of_the_call() {
    let axis = AttributeProto { name: "axis".into(), ref_attr_name: "along".into(), ..int("axis", 0) };
    let inner = function("Inner", &["a", "b"], &["c"], vec![node("Concat", &["a", "b"], &["c"], vec![axis])]);
    let along = AttributeProto { name: "along".into(), ref_attr_name: "outer".into(), ..int("along", 0) };
    let nodes = vec![call("Inner", &["x", "x"], &["y"], vec![along]), node("Neg", &["y"], &["z"], vec![])];
    let outer = function("Outer", &["x"], &["z"], nodes);
    let mut m = model(graph(
        vec![named("n", call("Outer", &["x"], &["y"], vec![int("outer", 0)]))],
        vec![value("x", &["N"])],
        &["y"],
    ));
    m.functions = vec![inner, outer];
    assert_eq!(run(&m, &[&[1.0, 2.0]]), [[-1.0, -2.0, -1.0, -2.0]]);
    assert!(text(&m).contains("concat"), "{}", text(&m));
}

#[test]
fn functions_that_call_themselves_are_errors() {
    let a = function("A", &["x"], &["y"], vec![call("B", &["x"], &["y"], vec![])]);
    let b = function("B", &["x"], &["y"], vec![call("A", &["x"], &["y"], vec![])]);
    let mut m = model(graph(vec![call("A", &["x"], &["y"], vec![])], vec![value("x", &[])], &["y"]));
    m.functions = vec![a, b];
    assert!(error(&m).contains("the function `A` calls itself"));
}

#[test]
fn functions_that_multiply_are_errors() {
    let mut functions = vec![function("F0", &["x"], &["y"], vec![node("Neg", &["x"], &["y"], vec![])])];
    for i in 1..40 {
        let (inner, name) = (format!("F{}", i - 1), format!("F{i}"));
        let nodes = vec![call(&inner, &["x"], &["a"], vec![]), call(&inner, &["a"], &["y"], vec![])];
        functions.push(function(&name, &["x"], &["y"], nodes));
    }
    let mut m = model(graph(vec![call("F39", &["x"], &["y"], vec![])], vec![value("x", &[])], &["y"]));
    m.functions = functions;
    assert!(error(&m).contains("more than"));
}

/// `If` over two bodies.
fn branches(then: GraphProto, otherwise: GraphProto) -> NodeProto {
    let attributes = vec![graph_attribute("then_branch", then), graph_attribute("else_branch", otherwise)];
    named("if", node("If", &["c"], &["y"], attributes))
}

#[test]
fn bodies_see_names_around_them_and_own_no_weights() {
    let mut then = graph(vec![node("Mul", &["x", "w"], &["t"], vec![])], vec![], &["t"]);
    then.initializer = vec![floats("w", &[2.0; 20])];
    let inner = branches(
        graph(vec![node("Identity", &["x"], &["i"], vec![])], vec![], &["i"]),
        graph(vec![node("Neg", &["x"], &["i"], vec![])], vec![], &["i"]),
    );
    let otherwise = graph(vec![inner], vec![], &["y"]);
    let inputs = vec![value_of("c", data_type::BOOL, &[]), value("x", &["20"])];
    let g = try_import(&model(graph(vec![branches(then, otherwise)], inputs, &["y"]))).unwrap().graph;
    ir::verify(&g).unwrap();
    let weights = g.order().into_iter().filter(|n| g.constant_of((*n).into()).is_some()).count();
    assert_eq!(weights, 1, "{g}");
    for (c, expected) in [(true, 2.0), (false, -1.0)] {
        let c = Tensor::from_bools(&[], &[c]).unwrap();
        let x = Tensor::from_slice(&[20], &[1.0f32; 20]).unwrap();
        let y = eval::run(&g, &[c.into(), x.into()]).unwrap();
        assert_eq!(y[0].as_tensor().unwrap().to_f64().unwrap(), [expected; 20]);
    }
}

#[test]
fn unsupported_nodes_in_bodies_are_reported_once() {
    let then = graph(vec![named("deep", node("NoSuchOp", &["x"], &["t"], vec![]))], vec![], &["t"]);
    let otherwise = graph(vec![node("Neg", &["x"], &["t"], vec![])], vec![], &["t"]);
    let inputs = vec![value_of("c", data_type::BOOL, &[]), value("x", &[])];
    let message = error(&model(graph(vec![branches(then, otherwise)], inputs, &["y"])));
    assert_eq!(message, "1 nodes are not supported:\n  NoSuchOp: the operator is not known: `if/then_branch/deep`");
}

#[test]
fn names_may_hold_any_characters() {
    let odd = "a b\"c\n%{}é";
    let nodes = vec![node("Neg", &[odd], &["y\t"], vec![])];
    let m = model(graph(nodes, vec![value(odd, &["N"])], &["y\t"]));
    let g = try_import(&m).unwrap().graph;
    assert_eq!(ir::text::parse(&g.to_string()).unwrap(), g);
}

#[test]
fn a_wrong_declared_output_is_only_a_warning() {
    let mut g = graph(vec![node("Neg", &["x"], &["y"], vec![])], vec![value("x", &["3"])], &["y"]);
    g.output = vec![value("y", &["4"])];
    let imported = try_import(&model(g)).unwrap();
    assert_eq!(imported.warnings.len(), 1);
}

#[test]
fn old_operators_broadcast_along_their_axis() {
    let add = node("Add", &["x", "b"], &["y"], vec![int("broadcast", 1), int("axis", 0)]);
    let reshape = node("Reshape", &["v", "s"], &["x"], vec![]);
    let mut g = graph(vec![reshape, add], vec![value("v", &["4"])], &["y"]);
    let shape = TensorProto {
        name: "s".into(),
        dims: vec![2],
        data_type: data_type::INT64,
        int64_data: vec![2, 2],
        ..Default::default()
    };
    g.initializer = vec![floats("b", &[10.0, 20.0]), shape];
    let mut m = model(g);
    m.opset_import[0].version = 6;
    assert_eq!(run(&m, &[&[1.0, 2.0, 3.0, 4.0]]), [[11.0, 12.0, 23.0, 24.0]]);
}

#[test]
fn paged_attention_says_what_to_export_instead() {
    let paged =
        NodeProto { domain: "com.microsoft".into(), ..node("PagedAttention", &["x", "x", "x"], &["y"], vec![]) };
    let message = error(&model(graph(vec![named("attend", paged)], vec![value("x", &["N"])], &["y"])));
    assert!(message.contains("com.microsoft.PagedAttention") && message.contains("`attend`"), "{message}");
    assert!(message.contains("export the model with a cache of its own for each layer"), "{message}");
}

#[test]
fn an_einsum_that_is_a_product_of_matrices_becomes_one() {
    let einsum = |equation: &str, a: &[&str], b: &[&str]| {
        let s = equation.as_bytes().to_vec();
        let attribute =
            AttributeProto { name: "equation".into(), r#type: AttributeType::String as i32, s, ..Default::default() };
        let node = node("Einsum", &["a", "b"], &["y"], vec![attribute]);
        text(&model(graph(vec![node], vec![value("a", a), value("b", b)], &["y"])))
    };
    let scores = einsum("bct, bcs -> bts", &["B", "8", "T"], &["B", "8", "S"]);
    assert!(scores.contains("matmul") && scores.contains("f32[B, T, S]") && !scores.contains("einsum"), "{scores}");
    let swapped = einsum("bts,bcs->bct", &["B", "T", "S"], &["B", "8", "S"]);
    assert!(swapped.contains("matmul") && swapped.matches("= transpose(").count() == 1, "{swapped}");
    // A letter that stands for 1 here and 9 there, dimensions of one operand that are summed over, no summed letter.
    for (equation, a, b) in [
        ("ij,jk->ik", ["M", "1"], ["9", "N"]),
        ("ij,jk->i", ["M", "9"], ["9", "N"]),
        ("ij,ij->ij", ["M", "9"], ["M", "9"]),
    ] {
        assert!(einsum(equation, &a, &b).contains("einsum"), "{equation}");
    }
}
