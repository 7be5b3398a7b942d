//! Plans operators for the CPU: views where bytes need not move, packed weights for linear layers, else one launch.

use crate::kernel::Types;
use crate::lower;
use ir::graph::Kind;
use ir::ops::Linear;
use ir::{CoreOp, DType, Graph, NodeId, Op, TensorType, Value, Verified};
use plan::{LaunchOptions, Layout, LowerError, PlanBuilder, Target};
use smallvec::SmallVec;

/// The CPU backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

impl Target for Cpu {
    fn name(&self) -> &str {
        "cpu"
    }

    fn lower(&self, verified: Verified<'_>, node: NodeId, plan: &mut PlanBuilder<'_>) -> Result<(), LowerError> {
        let graph = verified.graph();
        let op = graph.op(node).ok_or_else(|| LowerError::new(graph, node, "it is not an operator"))?;
        if plan.view(node) {
            return Ok(());
        }
        let operands = graph.operands(node);
        let mut layouts = vec![Layout::RowMajor; operands.len()];
        for (at, layout) in packed(op, graph, &operands) {
            layouts[at] = layout;
            plan.weight_layout(operands[at], layout);
        }
        let ins: Vec<Option<&TensorType>> = operands.iter().map(|v| graph.tensor_ty(*v)).collect();
        let outs: Option<Vec<&TensorType>> = graph.results(node).map(|v| graph.tensor_ty(v)).collect();
        let constants: Vec<bool> = operands.iter().map(|v| is_weight(graph, *v)).collect();
        let kernel = outs.and_then(|outs| {
            let types = Types { ins: &ins, outs: &outs, layouts: &layouts, constants: &constants };
            lower::choose(op, &types)
        });
        let name = match (&kernel, op.has_body()) {
            (Some(kernel), _) => kernel.name(),
            (None, true) => "body",
            (None, false) => "reference",
        };
        plan.launch(node, name, LaunchOptions::default())
    }
}

/// The operands that are better packed, and how: weights of linear layers and experts, and the table of a gather that a
/// linear layer reads too, as a tied embedding.
fn packed(op: &Op, graph: &Graph, operands: &[Value]) -> SmallVec<[(usize, Layout); 2]> {
    match op {
        Op::CoreOp(CoreOp::MoeGemm(experts)) if lower::gate(experts).is_some() => {
            let layout = if experts.kn { Layout::Panel16Kn } else { Layout::Panel16 };
            let weights = [3, 5].into_iter().filter(|i| operands.get(*i).is_some_and(|w| panels_apply(graph, *w, 3)));
            weights.map(|i| (i, layout)).collect()
        }
        _ => packed_matrix(op, graph, operands).into_iter().collect(),
    }
}

fn packed_matrix(op: &Op, graph: &Graph, operands: &[Value]) -> Option<(usize, Layout)> {
    match op {
        Op::CoreOp(CoreOp::Linear(linear)) => Some((1, panels(linear, graph, operands)?)),
        Op::CoreOp(CoreOp::MatMulInteger(_)) => {
            let ty = graph.tensor_ty(operands[1])?;
            let matrix = ty.dims().is_some_and(|d| d.len() == 2) && ty.shape.as_const().is_some();
            let row = graph.tensor_ty(operands[0]).and_then(|t| t.dims()).is_some_and(|d| !d.is_empty());
            let inline = graph.constant_of(operands[1]).is_some_and(ir::text::is_inline);
            (matrix && row && is_weight(graph, operands[1]) && !inline).then_some((1, Layout::PanelI8Kn))
        }
        Op::CoreOp(CoreOp::MatMulNBits(nbits)) => {
            let given = |i: usize| operands.get(i).is_some_and(|v| graph.tensor_ty(*v).is_some());
            let constant = (1..4).all(|i| !given(i) || is_weight(graph, operands[i]));
            let inline = graph.constant_of(operands[1]).is_some_and(ir::text::is_inline);
            let fits = nbits.bits == 4 && lower::nibbles(nbits, given(4)).is_some() && constant && !inline;
            let lies = Layout::Nibbles16.matrix(DType::U8, &graph.tensor_ty(operands[1])?.shape.as_const()?).is_some();
            (fits && lies).then_some((1, Layout::Nibbles16))
        }
        Op::CoreOp(CoreOp::Gather(gather)) if gather.axis == 0 => {
            let wish = |(reader, _): (NodeId, u16)| match graph.op(reader)? {
                Op::CoreOp(CoreOp::Linear(linear)) => panels(linear, graph, &graph.operands(reader)),
                _ => None,
            };
            let layout = graph.readers(operands[0]).into_iter().find_map(wish)?;
            // The same constant may also be something else of the linear layer.
            panels_apply(graph, operands[0], 2).then_some((0, layout))
        }
        _ => None,
    }
}

/// The layout that a linear layer wants for its weight.
fn panels(linear: &Linear, graph: &Graph, operands: &[Value]) -> Option<Layout> {
    let float = |v: Value| matches!(graph.tensor_ty(v).map(|t| t.dtype), Some(DType::F32 | DType::F16 | DType::BF16));
    let layout = if linear.kn { Layout::Panel16Kn } else { Layout::Panel16 };
    (panels_apply(graph, *operands.get(1)?, 2) && float(operands[0])).then_some(layout)
}

fn panels_apply(graph: &Graph, weight: Value, rank: usize) -> bool {
    let Some(ty) = graph.tensor_ty(weight) else { return false };
    let float = matches!(ty.dtype, DType::F32 | DType::F16 | DType::BF16);
    let matrix = ty.dims().is_some_and(|d| d.len() == rank);
    float && matrix && is_weight(graph, weight) && !graph.constant_of(weight).is_some_and(ir::text::is_inline)
}

fn is_weight(graph: &Graph, v: Value) -> bool {
    matches!(graph.node(v.node).kind, Kind::Weight(_))
}
