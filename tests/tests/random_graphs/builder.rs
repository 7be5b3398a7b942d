//! An ONNX model under construction, and the choices that it is made from.

use prost::Message as _;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    self, AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};

/// Numbers that proptest shrinks; when they are used up every choice is the first.
pub struct Choices {
    numbers: std::vec::IntoIter<u32>,
}

impl Choices {
    pub fn new(numbers: Vec<u32>) -> Choices {
        Choices { numbers: numbers.into_iter() }
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.numbers.next().map_or(0, |c| c as usize % n.max(1))
    }

    pub fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    pub fn is_over(&self) -> bool {
        self.numbers.len() == 0
    }
}

/// Element types of the values.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    Float = 1,
    Int = 7,
    Bool = 9,
}

/// A value of the graph.
#[derive(Clone, Debug)]
pub struct Value {
    pub name: String,
    pub dims: Vec<usize>,
    pub kind: Kind,
    /// No element is larger, but for infinities that come in.
    pub bound: f64,
}

impl Value {
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }
}

/// What the numbers of a graph are.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Numbers {
    /// Small integers and operators that keep them exact: results must be equal.
    Exact,
    /// The same with NaN, infinities, -0 among the inputs.
    Nasty,
    /// Fractions and operators without jumps: results must be near.
    Smooth,
}

/// The graph.
pub struct Builder {
    pub choices: Choices,
    pub numbers: Numbers,
    pub values: Vec<Value>,
    pub inputs: Vec<Value>,
    pub nodes: Vec<NodeProto>,
    /// Whether tract is known to differ: remainders take the sign of the dividend there, not of the divisor; a LogSoftmax of
    /// numbers far apart is -inf there.
    pub apart: bool,
    weights: Vec<TensorProto>,
    symbolic: bool,
}

impl Builder {
    pub fn new(numbers: Numbers, choices: Vec<u32>) -> Builder {
        let mut choices = Choices::new(choices);
        let symbolic = choices.below(2) == 1;
        let (values, inputs, nodes, weights) = (vec![], vec![], vec![], vec![]);
        let mut builder = Builder { choices, numbers, values, inputs, nodes, apart: false, weights, symbolic };
        for i in 0..1 + builder.choices.below(2) {
            let dims = builder.dims();
            let value = Value { name: format!("x{i}"), dims, kind: Kind::Float, bound: 4.0 };
            builder.values.push(value.clone());
            builder.inputs.push(value);
        }
        builder
    }

    /// Up to four dimensions, now and then of 0 or 1.
    fn dims(&mut self) -> Vec<usize> {
        let rank = self.choices.of(&[2, 1, 3, 4, 2, 3, 4, 0]);
        (0..rank).map(|_| self.choices.of(&[3, 1, 2, 4, 5, 7, 3, 2, 4, 5, 1, 0])).collect()
    }

    /// A value of this kind that fits, the newest first.
    pub fn pick(&mut self, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        let all: Vec<usize> = (0..self.values.len()).rev().filter(|i| fits(&self.values[*i])).collect();
        let at = self.choices.below(all.len().min(4));
        all.get(at).map(|i| self.values[*i].clone())
    }

    /// A value of floats.
    pub fn float(&mut self) -> Option<Value> {
        self.pick(|v| v.kind == Kind::Float)
    }

    /// A number for a weight or an input.
    pub fn number(&mut self) -> f32 {
        let whole = self.choices.below(7) as f32 - 3.0;
        if self.numbers == Numbers::Smooth { whole + self.choices.below(1000) as f32 / 1000.0 } else { whole }
    }

    /// A constant of floats; long ones repeat their first 16 numbers with other signs.
    pub fn weight(&mut self, dims: &[usize]) -> Value {
        let n: usize = dims.iter().product();
        let some: Vec<f32> = (0..n.min(16)).map(|_| self.number()).collect();
        let data = (0..n).map(|i| if i / 16 % 2 == 0 { some[i % 16] } else { -some[i % 16] }).collect();
        let name = format!("w{}", self.weights.len());
        let dims_i = dims.iter().map(|d| *d as i64).collect();
        let t = TensorProto { name: name.clone(), dims: dims_i, data_type: 1, float_data: data, ..Default::default() };
        self.weights.push(t);
        Value { name, dims: dims.to_vec(), kind: Kind::Float, bound: 4.0 }
    }

    /// A constant of integers.
    pub fn ints(&mut self, dims: &[usize], data: &[i64]) -> String {
        let name = format!("w{}", self.weights.len());
        let dims = dims.iter().map(|d| *d as i64).collect();
        let int64_data = data.to_vec();
        self.weights.push(TensorProto { name: name.clone(), dims, data_type: 7, int64_data, ..Default::default() });
        name
    }

    /// A vector of integers.
    pub fn list(&mut self, data: &[i64]) -> String {
        self.ints(&[data.len()], data)
    }

    /// Adds a node with results of these dimensions, kinds and bounds.
    pub fn node(
        &mut self,
        op: &str,
        inputs: &[&str],
        attribute: Vec<AttributeProto>,
        results: Vec<(Vec<usize>, Kind, f64)>,
    ) -> Option<()> {
        let limit = if self.numbers == Numbers::Smooth { 1e3 } else { f64::from(1 << 20) };
        let fits =
            |(dims, _, bound): &(Vec<usize>, Kind, f64)| dims.iter().product::<usize>() <= 2000 && *bound <= limit;
        if !results.iter().all(fits) {
            return None;
        }
        let at = self.values.len();
        let output: Vec<String> = (0..results.len()).map(|i| format!("v{}", at + i)).collect();
        for (name, (dims, kind, bound)) in output.iter().zip(results) {
            self.values.push(Value { name: name.clone(), dims, kind, bound });
        }
        let input = inputs.iter().map(|s| s.to_string()).collect();
        let name = format!("n{}", self.nodes.len());
        self.nodes.push(NodeProto { name, op_type: op.into(), input, output, attribute, ..Default::default() });
        Some(())
    }

    /// The model: every value that no node reads is a result, and some others. Twice: as drawn, perhaps with symbols for
    /// dimensions of inputs, and with numbers for all.
    pub fn model(mut self) -> (Vec<u8>, Vec<u8>, Vec<Value>, Vec<Value>) {
        let read = |name: &String| self.nodes.iter().any(|n| n.input.contains(name));
        let mut outputs: Vec<Value> = self.values.iter().filter(|v| !read(&v.name)).cloned().collect();
        if let Some(more) = self.values.get(self.choices.below(self.values.len()))
            && !outputs.iter().any(|o| o.name == more.name)
        {
            outputs.push(more.clone());
        }
        // A graph whose input is its output says nothing.
        outputs.retain(|o| o.name.starts_with('v'));
        let info = |v: &Value, symbolic: bool| {
            let dim = |d: &usize| {
                let value = match symbolic && *d > 1 {
                    true => dimension::Value::DimParam(format!("s{d}")),
                    false => dimension::Value::DimValue(*d as i64),
                };
                Dimension { value: Some(value), ..Default::default() }
            };
            let shape = Some(pb::TensorShapeProto { dim: v.dims.iter().map(dim).collect() });
            let tensor = pb::type_proto::Tensor { elem_type: v.kind as i32, shape };
            let value = Some(pb::type_proto::Value::TensorType(tensor));
            let r#type = Some(pb::TypeProto { value, ..Default::default() });
            ValueInfoProto { name: v.name.clone(), r#type, ..Default::default() }
        };
        let encode = |symbolic: bool| {
            let graph = GraphProto {
                name: "random".into(),
                node: self.nodes.clone(),
                initializer: self.weights.clone(),
                input: self.inputs.iter().map(|v| info(v, symbolic)).collect(),
                output: outputs.iter().map(|v| info(v, false)).collect(),
                ..Default::default()
            };
            let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 17 }];
            ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() }.encode_to_vec()
        };
        let (drawn, fixed) = (encode(self.symbolic), encode(false));
        (drawn, fixed, self.inputs, outputs)
    }
}

pub fn int(name: &str, i: usize) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i: i as i64, ..Default::default() }
}

pub fn ints(name: &str, ints: &[usize]) -> AttributeProto {
    let ints = ints.iter().map(|i| *i as i64).collect();
    AttributeProto { name: name.into(), r#type: AttributeType::Ints as i32, ints, ..Default::default() }
}

pub fn number(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Float as i32, f, ..Default::default() }
}

pub fn text(name: &str, s: &str) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::String as i32,
        s: s.as_bytes().to_vec(),
        ..Default::default()
    }
}
