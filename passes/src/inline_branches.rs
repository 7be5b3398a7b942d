//! Replaces an `if` whose condition is known by the branch it takes.
//!
//! Exporters ask for ranks and sizes ("if the input has two dimensions, add one"); once shapes are folded the answer is known,
//! and what the branch computes can be fused with its surroundings. Sizes that only the `if` did not know become the branch's.
//!
//! ```ir before
//! graph @g(%x: f32[B, 4]) {
//!   %c = const [1] : bool[]
//!   %y = if(%c, %x, %x) {else_branch = graph @no(%b: f32[B, 4]) {
//!     %n = neg(%b) : f32[B, 4]
//!     return %n
//!   }, then_branch = graph @yes(%a: f32[B, 4]) {
//!     %e = exp(%a) : f32[B, 4]
//!     return %e
//!   }} : f32[B, 4]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @g(%x: f32[B, 4]) {
//!   %y = exp(%x) : f32[B, 4]
//!   return %y
//! }
//! ```

use crate::pass::{Body, Context, Miss, Pass};
use ir::attr::Attr;
use ir::dim::Dim;
use ir::graph::{Graph, Kind, NodeId, Value};
use ir::ops::TypeError;
use std::collections::HashMap;
use std::sync::Arc;

/// See the module.
pub const PASS: Pass = Pass { name: "inline-branches", body: Body::Whole(inline_known) };

fn inline_known(graph: &mut Graph, cx: &mut Context) {
    let mut found: HashMap<Arc<str>, Dim> = HashMap::new();
    for id in graph.order() {
        let Some((branch, captures)) = taken_branch(graph, id) else { continue };
        let Ok(results) = inline(graph, id, &branch, &captures) else {
            cx.note(
                "known-condition",
                graph,
                id.into(),
                Err(Miss::Refused("the branch does not fit its surroundings")),
            );
            continue;
        };
        for (old, new) in graph.results(id).zip(results) {
            for (symbol, d) in late_dims(graph, old, new) {
                let d = d.substitute(&|s| found.get(s).cloned());
                found.insert(symbol, d);
            }
            if !captures.contains(&new) {
                graph.take_name(old, new);
            }
            graph.replace(old, new);
            cx.note("known-condition", graph, new, Ok(()));
        }
    }
    if !found.is_empty() {
        graph.map_dims(&mut |d| d.substitute(&|s| found.get(s).cloned()));
    }
}

/// The branch that a known condition takes, and the values that it captures.
fn taken_branch(graph: &Graph, id: NodeId) -> Option<(Arc<Graph>, Vec<Value>)> {
    let op = graph.op(id).filter(|op| op.name() == "if")?;
    let operands = graph.operands(id);
    let elements = graph.fact(operands[0]).elements.as_ref()?;
    let holds = elements.first()?.as_const()? != 0;
    let attrs = op.attrs();
    let (Some(Attr::Graph(yes)), Some(Attr::Graph(no))) = (attrs.get("then_branch"), attrs.get("else_branch")) else {
        return None;
    };
    let split = 1 + yes.inputs.len();
    Some(match holds {
        true => (yes.clone(), operands[1..split].to_vec()),
        false => (no.clone(), operands[split..].to_vec()),
    })
}

/// Adds the nodes of `body`, reading `args` as its inputs; returns what its outputs became.
fn inline(graph: &mut Graph, at: NodeId, body: &Graph, args: &[Value]) -> Result<Vec<Value>, TypeError> {
    graph.adopt_numbering(body);
    let mut map: HashMap<Value, Value> =
        body.inputs.iter().map(|n| Value::from(*n)).zip(args.iter().copied()).collect();
    let outer = graph.node(at).origin.clone();
    for id in body.order() {
        let node = body.node(id);
        let names: Vec<&str> = node.names.iter().map(|n| &**n).collect();
        let new = match &node.kind {
            Kind::Input => continue,
            Kind::Absent => graph.absent().node,
            Kind::Weight(Some(t)) => graph.constant(names[0], t.clone()).node,
            Kind::Weight(None) => {
                let ty = body.tensor_ty(id.into()).cloned().expect("a weight is a tensor");
                graph.weight(names[0], ty).node
            }
            Kind::Op(op) => {
                let operands: Vec<Value> = body.operands(id).iter().map(|v| map[v]).collect();
                let types: Vec<_> = node.facts.iter().map(|f| f.ty.clone()).collect();
                let new = graph.push_as(op.clone(), &operands, &names, node.origin.clone(), Some(&types))?;
                graph.extend_origin(new, &outer);
                new
            }
        };
        map.extend(body.results(id).zip(graph.results(new)));
    }
    graph.constraints.extend(body.constraints.iter().cloned());
    Ok(body.outputs.iter().map(|o| map[&o.value]).collect())
}

/// Late symbols of the `if`'s result that the branch's result says.
fn late_dims(graph: &Graph, old: Value, new: Value) -> Vec<(Arc<str>, Dim)> {
    let dims = |v: Value| graph.tensor_ty(v).and_then(|t| t.dims()).map(<[Dim]>::to_vec).unwrap_or_default();
    let pairs = dims(old).into_iter().zip(dims(new)).filter(|(o, n)| o.is_late() && o != n);
    pairs.filter_map(|(o, n)| Some((o.as_sym()?.into(), n))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_unchanged};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("inline_branches.rs"));
    }

    #[test]
    fn keeps_a_branch_that_data_decides() {
        check_unchanged(
            &PASS,
            "
graph @g(%c: bool[], %x: f32[B, 4]) {
  %y = if(%c, %x, %x) {else_branch = graph @no(%b: f32[B, 4]) {
    %n = neg(%b) : f32[B, 4]
    return %n
  }, then_branch = graph @yes(%a: f32[B, 4]) {
    %e = exp(%a) : f32[B, 4]
    return %e
  }} : f32[B, 4]
  return %y
}",
        );
    }
}
