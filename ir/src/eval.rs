//! The reference evaluator: the oracle that every backend and every rewrite is compared with.
//!
//! Each operator computes floats in f64 and rounds once per result; inside the definition of a fused operator nothing is
//! rounded, so a fused kernel that rounds less is not punished.

use crate::dim::{Dim, DimError, Truth};
use crate::graph::{Graph, Kind, NodeId, Origin, Value};
use crate::ops::{EvalError, Fact, OpSpec, Operands, TypeError};
use crate::tensor::{Datum, Tensor};
use crate::types::{Shape, TensorType, ValueType};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

/// Values of the symbols.
pub type Symbols = HashMap<Arc<str>, i64>;

/// Why a graph could not be evaluated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// A wrong number of inputs.
    #[error("the graph has {expected} inputs, {found} were given")]
    Inputs {
        /// Inputs of the graph.
        expected: usize,
        /// Inputs given.
        found: usize,
    },
    /// An input is not of the declared type.
    #[error("input `{name}` is declared {expected}, found {found}")]
    Input {
        /// The input.
        name: Arc<str>,
        /// Its declared type.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A dimension could not be computed.
    #[error(transparent)]
    Dim(#[from] DimError),
    /// The inputs break what typing had to assume.
    #[error("these inputs break an assumption of the graph: {constraint} (here {left} = {right}){}", broadcast(*left, *right))]
    Constraint {
        /// The assumption.
        constraint: String,
        /// Left side under this binding.
        left: i64,
        /// Right side under this binding.
        right: i64,
    },
    /// A weight has no data.
    #[error("weight `{0}` has no data")]
    NoData(Arc<str>),
    /// An operator failed.
    #[error("`{name}` ({op}{}): {source}", from(origin))]
    Node {
        /// First result of the node.
        name: Arc<str>,
        /// The operator.
        op: &'static str,
        /// ONNX nodes.
        origin: Origin,
        /// What went wrong.
        source: EvalError,
    },
}

/// What to do about dimensions that were taken for equal, where one is 1 and the other not.
fn broadcast(left: i64, right: i64) -> &'static str {
    match (left, right) {
        (1, _) | (_, 1) => {
            "; where the one of 1 element is to be repeated, fix it when the model is compiled (`--dim NAME=1`)"
        }
        _ => "",
    }
}

fn from(origin: &Origin) -> String {
    match &origin[..] {
        [] => String::new(),
        names => format!(", from {}", names.join(" + ")),
    }
}

/// The type of an existing value; empty sequences and optionals have unknown contents.
pub fn type_of(datum: &Datum) -> Option<ValueType> {
    match datum {
        Datum::Tensor(t) => Some(TensorType::new(t.dtype(), t.dims().iter().copied()).into()),
        _ => None,
    }
}

/// Binds the symbols of a declared type to an existing value. False when the value is not of that type.
pub fn bind(ty: &ValueType, datum: &Datum, symbols: &mut Symbols) -> bool {
    match (ty, datum) {
        (ValueType::Tensor(ty), Datum::Tensor(t)) => {
            ty.dtype == t.dtype()
                && ty.dims().is_none_or(|dims| {
                    dims.len() == t.rank() && dims.iter().zip(t.dims()).all(|(d, n)| bind_dim(d, *n as i64, symbols))
                })
        }
        (ValueType::Sequence(_), Datum::Sequence(_)) => true,
        (ValueType::Optional(_), _) => !matches!(datum, Datum::Absent),
        (ValueType::Map { .. }, Datum::Map(_)) => true,
        (ValueType::Absent, Datum::Absent) => true,
        _ => false,
    }
}

fn bind_dim(d: &Dim, n: i64, symbols: &mut Symbols) -> bool {
    if let Some(s) = d.as_sym() {
        return *symbols.entry(s.into()).or_insert(n) == n;
    }
    // An expression over symbols that are not bound yet is checked when they are.
    d.eval(&|s| symbols.get(s).copied()).map_or(true, |v| v == n)
}

/// Evaluates a graph.
pub fn run(graph: &Graph, inputs: &[Datum]) -> Result<Vec<Datum>, GraphError> {
    run_observed(graph, inputs, &mut |_, _| {})
}

/// Binds input symbols and checks inputs and constraints.
pub fn bind_inputs(graph: &Graph, inputs: &[Datum]) -> Result<Symbols, GraphError> {
    if inputs.len() != graph.inputs.len() {
        return Err(GraphError::Inputs { expected: graph.inputs.len(), found: inputs.len() });
    }
    let mut symbols = Symbols::new();
    // Twice, so that expressions are checked against symbols that a later input binds.
    for _ in 0..2 {
        for (id, datum) in graph.inputs.iter().zip(inputs) {
            let v = Value::from(*id);
            if !bind(graph.ty(v), datum, &mut symbols) {
                let found = type_of(datum).map_or_else(|| format!("{datum:?}"), |t| t.to_string());
                let (name, expected) = (graph.name(v).clone(), graph.ty(v).to_string());
                return Err(GraphError::Input { name, expected, found });
            }
        }
    }
    check_constraints(graph, &symbols)?;
    Ok(symbols)
}

/// Checks the assumptions whose symbols are all bound.
pub fn check_constraints(graph: &Graph, symbols: &Symbols) -> Result<(), GraphError> {
    let lookup = |s: &str| symbols.get(s).copied();
    for c in &graph.constraints {
        if let (Ok(left), Ok(right)) = (c.left.eval(&lookup), c.right.eval(&lookup))
            && left != right
        {
            return Err(GraphError::Constraint { constraint: c.to_string(), left, right });
        }
    }
    Ok(())
}

/// [`run`], showing every node's results to `observe`.
pub fn run_observed(
    graph: &Graph,
    inputs: &[Datum],
    observe: &mut dyn FnMut(NodeId, &[Datum]),
) -> Result<Vec<Datum>, GraphError> {
    let mut symbols = bind_inputs(graph, inputs)?;
    let order = graph.order();
    let mut left: HashMap<Value, usize> = HashMap::new();
    let mut values: HashMap<Value, Datum> = HashMap::new();
    for (id, datum) in graph.inputs.iter().zip(inputs) {
        values.insert((*id).into(), datum.clone());
    }
    for id in &order {
        graph.results(*id).for_each(|v| {
            left.insert(v, graph.use_count(v));
        });
    }
    for id in order {
        let node = graph.node(id);
        let op = match &node.kind {
            Kind::Input => continue,
            Kind::Absent => {
                values.insert(id.into(), Datum::Absent);
                continue;
            }
            Kind::Weight(t) => {
                let t = t.clone().ok_or_else(|| GraphError::NoData(node.names[0].clone()))?;
                values.insert(id.into(), t.into());
                continue;
            }
            Kind::Op(op) => op,
        };
        let fail = |source: EvalError| GraphError::Node {
            name: node.names[0].clone(),
            op: op.name(),
            origin: node.origin.clone(),
            source,
        };
        let operands = graph.operands(id);
        let bound = op.bind(&|s| symbols.get(s).copied()).map_err(|e| fail(e.into()))?;
        let data: Vec<&Datum> = operands.iter().map(|v| &values[v]).collect();
        let results = bound.eval(&data).map_err(fail)?;
        for (v, datum) in graph.results(id).zip(&results) {
            if !bind(graph.ty(v), datum, &mut symbols) {
                let found = type_of(datum).map_or_else(|| format!("{datum:?}"), |t| t.to_string());
                return Err(fail(EvalError::Invalid(format!("result {} is not {}", found, graph.ty(v)))));
            }
        }
        check_constraints(graph, &symbols)?;
        observe(id, &results);
        graph.results(id).zip(results).for_each(|(v, datum)| {
            values.insert(v, datum);
        });
        for v in operands {
            let count = left.get_mut(&v).expect("operands were counted");
            *count -= 1;
            if *count == 0 {
                values.remove(&v);
            }
        }
    }
    Ok(graph.outputs.iter().map(|o| values[&o.value].clone()).collect())
}

/// Evaluates a fused operator by its definition, floats widened to f64 and rounded at the end.
pub fn definition<O: OpSpec>(op: &O, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
    let invalid = |e: String| EvalError::Invalid(format!("{}: {e}", op.name()));
    let facts: Vec<Fact> = operands.iter().map(|d| Fact::of(type_of(d).unwrap_or(ValueType::Absent))).collect();
    let facts: Vec<&Fact> = facts.iter().collect();
    let next_late = Cell::new(0);
    let types = op.infer(&Operands::new(&facts, &next_late)).map_err(|e| invalid(e.to_string()))?;
    let wide: Result<Vec<Datum>, EvalError> = operands.iter().map(|d| widen(d)).collect();
    let wide = wide?;
    let wide_types: Vec<ValueType> = wide.iter().map(|d| type_of(d).unwrap_or(ValueType::Absent)).collect();
    let graph = op.definition(&wide_types).ok_or_else(|| invalid("there is no reference evaluation".into()))?;
    let present: Vec<Datum> = wide.into_iter().filter(|d| !matches!(d, Datum::Absent)).collect();
    let results = run(&graph, &present).map_err(|e| invalid(e.to_string()))?;
    results.into_iter().zip(types).map(|(d, ty)| round_to(d, &ty)).collect()
}

fn widen(d: &Datum) -> Result<Datum, EvalError> {
    match d {
        Datum::Tensor(t) if t.dtype().is_float() => {
            Ok(Tensor::from_f64(crate::dtype::DType::F64, t.dims(), &t.to_f64()?)?.into())
        }
        other => Ok(other.clone()),
    }
}

fn round_to(d: Datum, ty: &ValueType) -> Result<Datum, EvalError> {
    match (d, ty.as_tensor()) {
        (Datum::Tensor(t), Some(ty)) if t.dtype().is_float() && ty.dtype != t.dtype() => {
            Ok(Tensor::from_f64(ty.dtype, t.dims(), &t.to_f64()?)?.into())
        }
        (d, _) => Ok(d),
    }
}

/// The graph typed anew for inputs of other types: symbols that stand alone in an old input type take the new dimension.
///
/// Used where shapes are only known at run time, and to specialise a model.
pub fn retype(graph: &Graph, inputs: &[ValueType]) -> Result<Graph, TypeError> {
    let mut known: HashMap<Arc<str>, Dim> = HashMap::new();
    for (id, new) in graph.inputs.iter().zip(inputs) {
        let old = graph.tensor_ty((*id).into()).and_then(TensorType::dims);
        let new = new.as_tensor().and_then(TensorType::dims);
        for (old, new) in old.into_iter().flatten().zip(new.into_iter().flatten()) {
            if let Some(s) = old.as_sym() {
                known.entry(s.into()).or_insert_with(|| new.clone());
            } else if old.same(new) == Truth::No {
                return Err(TypeError::Invalid(format!("dimension {old} cannot be {new}")));
            }
        }
    }
    let mut out = graph.child(graph.name.clone());
    let mut map: HashMap<Value, Value> = HashMap::new();
    for (id, ty) in graph.inputs.iter().zip(inputs) {
        let name = graph.name((*id).into());
        let v = if graph.is_state(*id) { out.state(name, ty.clone()) } else { out.input(name, ty.clone()) };
        map.insert((*id).into(), v);
    }
    for id in graph.order() {
        let node = graph.node(id);
        let names: Vec<&str> = node.names.iter().map(|n| &**n).collect();
        match &node.kind {
            Kind::Input => {}
            Kind::Absent => {
                let v = out.absent();
                map.insert(id.into(), v);
            }
            Kind::Weight(Some(t)) => {
                let v = out.constant(names[0], t.clone());
                map.insert(id.into(), v);
            }
            Kind::Weight(None) => {
                let ty = graph.tensor_ty(id.into()).expect("a weight is a tensor");
                let v = out.weight(names[0], ty.clone());
                map.insert(id.into(), v);
            }
            Kind::Op(op) => {
                let mut op = op.clone();
                op.map_dims(&mut |d| d.substitute(&|s| known.get(s).cloned()));
                let operands: Vec<Value> = graph.operands(id).iter().map(|v| map[v]).collect();
                let new = out.push(op, &operands, &names, node.origin.clone())?;
                for (old, new) in graph.results(id).zip(out.results(new).collect::<Vec<_>>()) {
                    // A late symbol that became a number is that number wherever attributes mention it.
                    let olds = graph.tensor_ty(old).map(|t| t.shape.clone());
                    let news = out.tensor_ty(new).map(|t| t.shape.clone());
                    if let (Some(Shape::Ranked(o)), Some(Shape::Ranked(n))) = (olds, news) {
                        o.iter().zip(n).for_each(|(o, n)| {
                            if let Some(s) = o.as_sym() {
                                known.entry(s.into()).or_insert(n);
                            }
                        });
                    }
                    map.insert(old, new);
                }
            }
        }
    }
    for o in &graph.outputs {
        out.output(&o.name, map[&o.value]);
    }
    Ok(out)
}
