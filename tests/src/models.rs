//! Small ONNX models of every kind the importer knows, written field by field.

use crate::message::{Content, Field, write};

/// A model and the files that lie beside it.
pub struct Sample {
    /// What it shows.
    pub name: &'static str,
    /// The .onnx file.
    pub model: Vec<u8>,
    /// Files in its folder.
    pub files: Vec<(&'static str, Vec<u8>)>,
}

type Message = Vec<Field>;

fn text(number: u64, text: &str) -> Field {
    Field { number, value: Content::Bytes(text.as_bytes().to_vec()) }
}
fn raw(number: u64, bytes: Vec<u8>) -> Field {
    Field { number, value: Content::Bytes(bytes) }
}
fn int(number: u64, n: i64) -> Field {
    Field { number, value: Content::Varint(n as u64) }
}
fn part(number: u64, message: Message) -> Field {
    Field { number, value: Content::Message(message) }
}
fn parts(number: u64, messages: Vec<Message>) -> impl Iterator<Item = Field> {
    messages.into_iter().map(move |m| part(number, m))
}

const F32: i64 = 1;
const U8: i64 = 2;
const I8: i64 = 3;
const I64: i64 = 7;
const STRING: i64 = 8;
const BOOL: i64 = 9;

fn tensor(name: &str, dtype: i64, dims: &[i64], data: Vec<u8>) -> Message {
    let mut fields: Message = dims.iter().map(|d| int(1, *d)).collect();
    fields.extend([int(2, dtype), text(8, name), raw(9, data)]);
    fields
}

fn floats(name: &str, dims: &[i64]) -> Message {
    let count: i64 = dims.iter().product();
    let data = (0..count).flat_map(|i| (((i * 7) % 11) as f32 / 8.0 - 0.5).to_le_bytes()).collect();
    tensor(name, F32, dims, data)
}

fn ints(name: &str, dims: &[i64], values: &[i64]) -> Message {
    tensor(name, I64, dims, values.iter().flat_map(|n| n.to_le_bytes()).collect())
}

fn ty(dtype: i64, dims: &[&str]) -> Message {
    let dim = |d: &&str| part(1, vec![d.parse().map_or_else(|_| text(2, d), |n| int(1, n))]);
    vec![part(1, vec![int(1, dtype), part(2, dims.iter().map(dim).collect())])]
}

fn port(name: &str, dtype: i64, dims: &[&str]) -> Message {
    vec![text(1, name), part(2, ty(dtype, dims))]
}

fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<Message>) -> Message {
    let mut fields: Message = inputs.iter().map(|i| text(1, i)).collect();
    fields.extend(outputs.iter().map(|o| text(2, o)));
    let (domain, op) = op.split_once(':').unwrap_or(("", op));
    fields.extend([text(3, &format!("{op}_{}", outputs[0])), text(4, op), text(7, domain)]);
    fields.extend(parts(5, attributes));
    fields
}

fn attr_int(name: &str, n: i64) -> Message {
    vec![text(1, name), int(3, n), int(20, 2)]
}
fn attr_ints(name: &str, list: &[i64]) -> Message {
    let mut fields = vec![text(1, name), int(20, 7)];
    fields.extend(list.iter().map(|n| int(8, *n)));
    fields
}
fn attr_strings(name: &str, list: &[&str]) -> Message {
    let mut fields = vec![text(1, name), int(20, 8)];
    fields.extend(list.iter().map(|s| text(9, s)));
    fields
}
fn attr_graph(name: &str, graph: Message) -> Message {
    vec![text(1, name), part(6, graph), int(20, 5)]
}
fn attr_tensor(name: &str, tensor: Message) -> Message {
    vec![text(1, name), part(5, tensor), int(20, 4)]
}

fn graph(nodes: Vec<Message>, weights: Vec<Message>, inputs: Vec<Message>, outputs: Vec<Message>) -> Message {
    let mut fields: Message = parts(1, nodes).collect();
    fields.push(text(2, "g"));
    fields.extend(parts(5, weights).chain(parts(11, inputs)).chain(parts(12, outputs)));
    fields
}

fn opset(domain: &str, version: i64) -> Message {
    vec![text(1, domain), int(2, version)]
}

fn model_with(graph: Message, functions: Vec<Message>) -> Vec<u8> {
    let mut fields = vec![int(1, 10), part(7, graph)];
    fields.extend(parts(25, functions));
    let domains = [opset("", 21), opset("com.microsoft", 1), opset("ai.onnx.ml", 3), opset("local", 1)];
    fields.extend(domains.into_iter().map(|d| part(8, d)));
    write(&fields)
}

fn sample(
    name: &'static str,
    nodes: Vec<Message>,
    weights: Vec<Message>,
    inputs: Vec<Message>,
    outputs: Vec<Message>,
) -> Sample {
    Sample { name, model: model_with(graph(nodes, weights, inputs, outputs), vec![]), files: vec![] }
}

fn perceptron() -> Sample {
    let nodes = vec![
        node("MatMul", &["x", "w"], &["h"], vec![]),
        node("Add", &["h", "b"], &["a"], vec![]),
        node("Relu", &["a"], &["r"], vec![]),
        node("Gemm", &["r", "v", ""], &["y"], vec![attr_int("transB", 1)]),
    ];
    let weights = vec![floats("w", &[4, 16]), floats("b", &[16]), floats("v", &[3, 16])];
    sample("perceptron", nodes, weights, vec![port("x", F32, &["N", "4"])], vec![port("y", F32, &["N", "3"])])
}

fn convolution() -> Sample {
    let nodes = vec![
        node("Conv", &["x", "w", "b"], &["c"], vec![attr_ints("pads", &[1, 1, 1, 1]), attr_ints("strides", &[2, 2])]),
        node("BatchNormalization", &["c", "b", "b", "b", "one"], &["n"], vec![]),
        node("MaxPool", &["n"], &["p"], vec![attr_ints("kernel_shape", &[2, 2])]),
        node("GlobalAveragePool", &["p"], &["g"], vec![]),
        node("Flatten", &["g"], &["y"], vec![attr_int("axis", 1)]),
    ];
    let one = tensor("one", F32, &[4], [1f32; 4].iter().flat_map(|v| v.to_le_bytes()).collect());
    let weights = vec![floats("w", &[4, 3, 3, 3]), floats("b", &[4]), one];
    let inputs = vec![port("x", F32, &["N", "3", "H", "12"])];
    sample("convolution", nodes, weights, inputs, vec![port("y", F32, &["N", "4"])])
}

fn attention() -> Sample {
    let nodes = vec![
        node("Gather", &["table", "ids"], &["e"], vec![]),
        node("LayerNormalization", &["e", "one", "one"], &["n"], vec![]),
        node("Shape", &["ids"], &["shape"], vec![]),
        node("Concat", &["shape", "split"], &["to"], vec![attr_int("axis", 0)]),
        node("MatMul", &["n", "w"], &["q"], vec![]),
        node("Reshape", &["q", "to"], &["qs"], vec![]),
        node("Transpose", &["qs"], &["qt"], vec![attr_ints("perm", &[0, 2, 1, 3])]),
        node("Transpose", &["qs"], &["kt"], vec![attr_ints("perm", &[0, 2, 3, 1])]),
        node("MatMul", &["qt", "kt"], &["s"], vec![]),
        node("Mul", &["s", "half"], &["m"], vec![]),
        node("Softmax", &["m"], &["p"], vec![attr_int("axis", -1)]),
        node("MatMul", &["p", "qt"], &["o"], vec![]),
        node("Transpose", &["o"], &["ot"], vec![attr_ints("perm", &[0, 2, 1, 3])]),
        node("Reshape", &["ot", "back"], &["y"], vec![]),
    ];
    let weights = vec![
        floats("table", &[10, 8]),
        floats("one", &[8]),
        ints("split", &[2], &[2, 4]),
        floats("w", &[8, 8]),
        floats("half", &[]),
        ints("back", &[3], &[0, 0, 8]),
    ];
    let outputs = vec![port("y", F32, &["B", "S", "8"])];
    sample("attention", nodes, weights, vec![port("ids", I64, &["B", "S"])], outputs)
}

fn branches() -> Sample {
    let branch = |op: &str| graph(vec![node(op, &["x"], &["r"], vec![])], vec![], vec![], vec![port("r", F32, &["N"])]);
    let attributes = vec![attr_graph("then_branch", branch("Relu")), attr_graph("else_branch", branch("Neg"))];
    let nodes = vec![node("If", &["c"], &["z"], attributes), node("Tanh", &["z"], &["y"], vec![])];
    let inputs = vec![port("c", BOOL, &[]), port("x", F32, &["N"])];
    sample("branches", nodes, vec![], inputs, vec![port("y", F32, &["N"])])
}

fn looping() -> Sample {
    let body = graph(
        vec![
            node("Add", &["s", "x"], &["t"], vec![]),
            node("Identity", &["go"], &["on"], vec![]),
            node("ReduceSum", &["t"], &["sum"], vec![attr_int("keepdims", 0)]),
        ],
        vec![],
        vec![port("i", I64, &[]), port("go", BOOL, &[]), port("s", F32, &["N"])],
        vec![port("on", BOOL, &[]), port("t", F32, &["N"]), port("sum", F32, &[])],
    );
    let nodes = vec![node("Loop", &["trips", "", "x"], &["last", "sums"], vec![attr_graph("body", body)])];
    let outputs = vec![port("last", F32, &["N"]), port("sums", F32, &["T"])];
    sample("looping", nodes, vec![ints("trips", &[], &[3])], vec![port("x", F32, &["N"])], outputs)
}

fn scanning() -> Sample {
    let body = graph(
        vec![node("Mul", &["s", "e"], &["n"], vec![]), node("Identity", &["n"], &["o"], vec![])],
        vec![],
        vec![port("s", F32, &["2"]), port("e", F32, &["2"])],
        vec![port("n", F32, &["2"]), port("o", F32, &["2"])],
    );
    let attributes = vec![attr_graph("body", body), attr_int("num_scan_inputs", 1)];
    let nodes = vec![node("Scan", &["init", "x"], &["last", "all"], attributes)];
    let outputs = vec![port("last", F32, &["2"]), port("all", F32, &["T", "2"])];
    sample("scanning", nodes, vec![floats("init", &[2])], vec![port("x", F32, &["T", "2"])], outputs)
}

fn sequences() -> Sample {
    let nodes = vec![
        node("SplitToSequence", &["x", "two"], &["s"], vec![attr_int("axis", 0)]),
        node("SequenceLength", &["s"], &["n"], vec![]),
        node("SequenceAt", &["s", "zero"], &["a"], vec![]),
        node("SequenceInsert", &["s", "a"], &["longer"], vec![]),
        node("ConcatFromSequence", &["longer"], &["y"], vec![attr_int("axis", 0)]),
    ];
    let weights = vec![ints("two", &[], &[2]), ints("zero", &[], &[0])];
    let outputs = vec![port("y", F32, &["M", "3"]), port("n", I64, &[])];
    sample("sequences", nodes, weights, vec![port("x", F32, &["6", "3"])], outputs)
}

fn quantised() -> Sample {
    let nodes = vec![
        node("DequantizeLinear", &["w", "scale", "zero"], &["wf"], vec![attr_int("axis", 1)]),
        node("MatMul", &["x", "wf"], &["h"], vec![]),
        node(
            "com.microsoft:MatMulNBits",
            &["h", "nibbles", "scales"],
            &["y"],
            vec![attr_int("K", 32), attr_int("N", 4), attr_int("bits", 4), attr_int("block_size", 32)],
        ),
        node("DynamicQuantizeLinear", &["y"], &["q", "qs", "qz"], vec![]),
    ];
    let weights = vec![
        tensor("w", I8, &[8, 32], (0..=255).collect()),
        floats("scale", &[32]),
        tensor("zero", I8, &[32], vec![3; 32]),
        tensor("nibbles", U8, &[4, 1, 16], (0..64u8).map(|i| i.wrapping_mul(37)).collect()),
        floats("scales", &[4]),
    ];
    let outputs = vec![port("y", F32, &["N", "4"]), port("q", U8, &["N", "4"])];
    sample("quantised", nodes, weights, vec![port("x", F32, &["N", "8"])], outputs)
}

fn late() -> Sample {
    let nodes = vec![
        node("NonZero", &["x"], &["nz"], vec![]),
        node("Transpose", &["nz"], &["at"], vec![]),
        node("GatherND", &["x", "at"], &["found"], vec![]),
        node("Unique", &["found"], &["u"], vec![attr_int("sorted", 1)]),
        node("TopK", &["x", "k"], &["top", "which"], vec![attr_int("axis", 1)]),
        node("Slice", &["top", "from", "to"], &["y"], vec![]),
    ];
    let weights = vec![ints("k", &[1], &[2]), ints("from", &[1], &[0]), ints("to", &[1], &[i64::MAX])];
    let outputs = vec![port("u", F32, &["U"]), port("y", F32, &["N", "2"]), port("which", I64, &["N", "2"])];
    sample("late", nodes, weights, vec![port("x", F32, &["N", "5"])], outputs)
}

fn recurrent() -> Sample {
    let nodes = vec![node("LSTM", &["x", "w", "r", "b"], &["all", "y"], vec![attr_int("hidden_size", 2)])];
    let weights = vec![floats("w", &[1, 8, 3]), floats("r", &[1, 8, 2]), floats("b", &[1, 16])];
    let outputs = vec![port("all", F32, &["T", "1", "B", "2"]), port("y", F32, &["1", "B", "2"])];
    sample("recurrent", nodes, weights, vec![port("x", F32, &["T", "B", "3"])], outputs)
}

fn texts() -> Sample {
    let encode = vec![attr_strings("keys_strings", &["a", "b"]), attr_ints("values_int64s", &[1, 2])];
    let nodes = vec![
        node("StringConcat", &["x", "x"], &["xx"], vec![]),
        node("ai.onnx.ml:LabelEncoder", &["x"], &["y"], encode),
    ];
    let outputs = vec![port("xx", STRING, &["N"]), port("y", I64, &["N"])];
    sample("texts", nodes, vec![], vec![port("x", STRING, &["N"])], outputs)
}

fn functions() -> Sample {
    let scaled = {
        let referred = vec![text(1, "value_float"), int(20, 1), text(21, "by")];
        let nodes = vec![
            node("Constant", &[], &["c"], vec![referred]),
            node("Mul", &["a", "c"], &["m"], vec![]),
            node("Sigmoid", &["m"], &["b"], vec![]),
        ];
        let mut fields = vec![text(1, "Scaled"), text(4, "a"), text(5, "b"), text(6, "by")];
        fields.extend(parts(7, nodes));
        fields.extend([part(9, opset("", 21)), text(10, "local")]);
        fields
    };
    let by = vec![text(1, "by"), Field { number: 2, value: Content::Four(2.5f32.to_le_bytes()) }, int(20, 1)];
    let nodes =
        vec![node("local:Scaled", &["x"], &["h"], vec![by.clone()]), node("local:Scaled", &["h"], &["y"], vec![by])];
    let g = graph(nodes, vec![], vec![port("x", F32, &["N"])], vec![port("y", F32, &["N"])]);
    Sample { name: "functions", model: model_with(g, vec![scaled]), files: vec![] }
}

fn shapes() -> Sample {
    let nodes = vec![
        node("Shape", &["x"], &["s"], vec![]),
        node("ConstantOfShape", &["s"], &["z"], vec![attr_tensor("value", floats("one", &[1]))]),
        node("Size", &["x"], &["n"], vec![]),
        node("Range", &["zero", "n", "step"], &["r"], vec![]),
        node("Reshape", &["r", "s"], &["rs"], vec![]),
        node("Cast", &["rs"], &["rf"], vec![attr_int("to", F32)]),
        node("Sum", &["x", "z", "rf"], &["t"], vec![]),
        node("Expand", &["t", "wide"], &["e"], vec![]),
        node("Pad", &["e", "pads"], &["p"], vec![]),
        node("Resize", &["p", "", "", "sizes"], &["y"], vec![]),
    ];
    let weights = vec![
        ints("zero", &[], &[0]),
        ints("step", &[], &[1]),
        ints("wide", &[3], &[2, 1, 1]),
        ints("pads", &[6], &[0, 1, 0, 0, 1, 1]),
        ints("sizes", &[3], &[2, 4, 6]),
    ];
    sample("shapes", nodes, weights, vec![port("x", F32, &["A", "B"])], vec![port("y", F32, &["2", "4", "6"])])
}

fn external() -> Sample {
    let entry = |key: &str, value: &str| part(13, vec![text(1, key), text(2, value)]);
    let mut weight = vec![int(1, 4), int(1, 4), int(2, F32), text(8, "w")];
    weight.extend([entry("location", "weights.bin"), entry("offset", "64"), entry("length", "64"), int(14, 1)]);
    let nodes = vec![node("MatMul", &["x", "w"], &["h"], vec![]), node("Erf", &["h"], &["y"], vec![])];
    let files = vec![("weights.bin", (0..160u8).collect())];
    let (inputs, outputs) = (vec![port("x", F32, &["N", "4"])], vec![port("y", F32, &["N", "4"])]);
    Sample { files, ..sample("external", nodes, vec![weight], inputs, outputs) }
}

/// All of them.
pub fn samples() -> Vec<Sample> {
    vec![
        perceptron(),
        convolution(),
        attention(),
        branches(),
        looping(),
        scanning(),
        sequences(),
        quantised(),
        late(),
        recurrent(),
        texts(),
        functions(),
        shapes(),
        external(),
    ]
}
