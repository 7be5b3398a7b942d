//! Plans operators for the CPU: views where bytes need not move, packed weights for linear layers, else one launch.

use crate::kernel::Types;
use crate::lower;
use ir::graph::Kind;
use ir::{CoreOp, DType, NodeId, Op, TensorType, Value, Verified};
use plan::{LaunchOptions, Layout, LowerError, PlanBuilder, Target};

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
        if let Some((at, layout)) = packed(op, graph, &operands) {
            layouts[at] = layout;
            plan.weight_layout(operands[at], layout);
        }
        let ins: Vec<Option<&TensorType>> = operands.iter().map(|v| graph.tensor_ty(*v)).collect();
        let outs: Option<Vec<&TensorType>> = graph.results(node).map(|v| graph.tensor_ty(v)).collect();
        let kernel = outs.and_then(|outs| lower::choose(op, &Types { ins: &ins, outs: &outs, layouts: &layouts }));
        let name = match (&kernel, op.has_body()) {
            (Some(kernel), _) => kernel.name(),
            (None, true) => "body",
            (None, false) => "reference",
        };
        plan.launch(node, name, LaunchOptions::default())
    }
}

/// The operand of a linear layer that is better packed, and how.
fn packed(op: &Op, graph: &ir::Graph, operands: &[Value]) -> Option<(usize, Layout)> {
    let Op::CoreOp(CoreOp::Linear(linear)) = op else { return None };
    let weight = *operands.get(1)?;
    let is_weight = matches!(graph.node(weight.node).kind, Kind::Weight(_));
    let float = matches!(graph.tensor_ty(weight)?.dtype, DType::F32 | DType::F16 | DType::BF16);
    let inline = graph.constant_of(weight).is_some_and(ir::text::is_inline);
    let f32_rows = graph.tensor_ty(operands[0])?.dtype == DType::F32;
    let layout = if linear.kn { Layout::Panel16Kn } else { Layout::Panel16 };
    (is_weight && float && !inline && f32_rows).then_some((1, layout))
}
