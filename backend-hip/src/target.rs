//! Plans operators for a device beside the host: kernels of the device where there are some, else the host.

use crate::lower::{Chosen, Types, choose, transposed};
use crate::pace;
use crate::tuning::{self, Tuning};
use ir::graph::Kind;
use ir::{CoreOp, Graph, NodeId, Op, TensorType, Value, Verified};
use plan::{Entry, LaunchOptions, Layout, LowerError, Memory, Pacing, PlanBuilder, Stream, Target};
use std::num::NonZeroU32;

/// Kernels and copies of the device happen in this order.
pub(crate) const COMPUTE: Stream = Stream(1);
/// The kernel name of a node that runs on the host.
pub const HOST_KERNEL: &str = "host";

/// Plans for one architecture.
#[derive(Clone, Debug)]
pub struct Planner {
    arch: String,
    tuning: &'static Tuning,
    pacing: Pacing,
}

impl Planner {
    /// For `gfx1151`, `sm_90`, `sim`.
    pub fn new(arch: &str) -> Planner {
        Planner { arch: arch.to_string(), tuning: tuning::of(arch), pacing: Pacing::Auto }
    }

    /// Lets the host wait so often; otherwise as the plan's cost suggests.
    pub fn paced(self, pacing: Pacing) -> Planner {
        Planner { pacing, ..self }
    }
}

impl Target for Planner {
    fn name(&self) -> &str {
        &self.arch
    }

    fn copies_on(&self) -> Stream {
        COMPUTE
    }

    fn states_in(&self) -> Memory {
        Memory::DEVICE
    }

    fn places_syncs(&self) -> bool {
        false
    }

    fn pace(&self, entry: &Entry) -> Option<NonZeroU32> {
        self.pacing.steps(|| pace::of_cost(entry, self.tuning))
    }

    fn lower(&self, verified: Verified<'_>, node: NodeId, plan: &mut PlanBuilder<'_>) -> Result<(), LowerError> {
        let graph = verified.graph();
        let op = graph.op(node).ok_or_else(|| LowerError::new(graph, node, "it is not an operator"))?;
        if plan.view(node) {
            return Ok(());
        }
        // A body runs as a whole on the host.
        let wished: Vec<Layout> = wishes(graph, node, op);
        let chosen =
            if plan.in_body() { Err("it is in a body") } else { lowering(graph, node, op, &wished, self.tuning) };
        let (kernel, options) = match &chosen {
            Ok(lowering) => {
                let (stream, memory) = (Some(COMPUTE), Memory::DEVICE);
                let (scratch, in_place) = (lowering.scratch(), lowering.in_place());
                for (value, layout) in graph.operands(node).iter().zip(&wished) {
                    plan.weight_layout(*value, *layout);
                }
                (lowering.name(), LaunchOptions { stream, scratch, in_place, memory })
            }
            Err(_) => (HOST_KERNEL, LaunchOptions::default()),
        };
        graph.operands(node).iter().for_each(|v| plan.bring(*v, options.memory));
        plan.launch(node, kernel, options)
    }
}

/// Why a node runs on the host; `None` when it does not.
pub fn why_on_host(graph: &Graph, node: NodeId) -> Option<&'static str> {
    // Which kernel is best does not decide whether there is one.
    lowering(graph, node, graph.op(node)?, &[], tuning::of("")).err()
}

/// How a node would have its operands lie. It is granted when all readers wish the same.
fn wishes(graph: &Graph, node: NodeId, op: &Op) -> Vec<Layout> {
    let layout = |(i, value): (usize, &Value)| {
        let matrix = graph.tensor_ty(*value).and_then(|t| Layout::Transposed.bytes(t.dtype, &t.shape.as_const()?));
        let weight = matches!(graph.node(value.node).kind, Kind::Weight(_));
        let inline = graph.constant_of(*value).is_some_and(ir::text::is_inline);
        let wished = transposed(op).contains(&i) && matrix.is_some() && weight && !inline;
        if wished { Layout::Transposed } else { Layout::RowMajor }
    };
    graph.operands(node).iter().enumerate().map(layout).collect()
}

/// How a node runs on the device: a pure function of its types, of how its operands lie, and of what is known of the device.
pub(crate) fn lowering(graph: &Graph, node: NodeId, op: &Op, layouts: &[Layout], tuning: &'static Tuning) -> Chosen {
    let operands = graph.operands(node);
    let known = |v: &Value| graph.ty(*v).is_plannable() || *graph.ty(*v) == ir::ValueType::Absent;
    let results: Vec<Value> = graph.results(node).collect();
    if !operands.iter().chain(&results).all(known) {
        return Err("its sizes are not known before it runs");
    }
    let ins: Vec<Option<&TensorType>> = operands.iter().map(|v| graph.tensor_ty(*v)).collect();
    let outs: Option<Vec<&TensorType>> = results.iter().map(|v| graph.tensor_ty(*v)).collect();
    let outs = outs.ok_or("its results are not tensors")?;
    let caches = match op {
        Op::CoreOp(CoreOp::KvWrite(_)) => results.len(),
        Op::CoreOp(CoreOp::RopeKvWrite(_)) => 2,
        _ => 0,
    };
    if !(0..caches).all(|i| graph.is_state(operands[3 + 2 * i].node)) {
        return Err("its caches are no states, which are written in place");
    }
    let chosen = choose(op, &Types { ins: &ins, outs: &outs, layouts, tuning })?;
    match chosen.numbers().iter().any(ir::Dim::is_late) {
        true => Err("its sizes are not known before it runs"),
        false => Ok(chosen),
    }
}
