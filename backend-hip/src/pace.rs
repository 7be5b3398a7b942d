//! How often the host waits for a device, where nobody says so: by what the steps of an entry cost.
//!
//! A queue should hold no more than a tenth of a second of work when many rows run at once, so that everyone else who uses the
//! device (on an APU that is the desktop) gets their turn and an error is known soon. Then a step of decoding, which
//! takes a few hundredths of a second, hardly ever waits.
//!
//! ```text
//! 22 layers of 8 launches, 2,048 rows of 1.1 billion weights: 0.15 s at 30 TFLOP/s    every 118 launches
//! ```

use crate::tuning::Tuning;
use ir::{DType, Dim, Graph, NodeId, ValueType};
use plan::{Entry, Step};
use std::collections::HashSet;
use std::num::NonZeroU32;

/// Seconds of work between two waits.
const MOST_SECONDS: f64 = 0.1;
/// Rows that run at once, in an entry that takes any number of them.
const MANY_ROWS: f64 = 2048.0;

/// After how many steps, launches and copies, the host should wait; `None` where it need not. Copies count as steps and take no time.
pub(crate) fn of_cost(entry: &Entry, tuning: &Tuning) -> Option<NonZeroU32> {
    let queued: Vec<&Step> = entry.steps.iter().filter(|step| step.queued_on().is_some()).collect();
    let node = |step: &&Step| match step {
        Step::Launch(launch) => Some(launch.node.clone()),
        Step::Copy(_) | Step::Sync(_) => None,
    };
    let launched: HashSet<_> = queued.iter().filter_map(node).collect();
    let graph = &entry.graph;
    let nodes = graph.order().into_iter().filter(|id| launched.contains(&graph.node(*id).names[0]));
    let waits = nodes.map(|node| seconds(graph, node, tuning)).sum::<f64>() / MOST_SECONDS;
    let every = (queued.len() as f64 / waits).ceil() as u32;
    NonZeroU32::new(every).filter(|_| waits > 1.0)
}

/// How long a node takes. Every symbol counts as 1 and the work grows with rows, as that of products does; what attention adds over
/// long caches is left out.
fn seconds(graph: &Graph, node: NodeId, tuning: &Tuning) -> f64 {
    let Some(op) = graph.op(node) else { return 0.0 };
    let operands: Vec<&ValueType> = graph.operands(node).iter().map(|v| graph.ty(*v)).collect();
    let results: Vec<ValueType> = graph.results(node).map(|v| graph.ty(v).clone()).collect();
    let symbolic =
        |ty: &ValueType| ty.as_tensor().and_then(|t| t.dims()).is_none_or(|d| d.iter().any(|d| d.as_const().is_none()));
    let rows = if results.iter().any(symbolic) { MANY_ROWS } else { 1.0 };
    let number = |dim: &Dim| dim.eval(&|_| Some(1)).map_or(0.0, |n| n.max(0) as f64);
    let cost = op.cost(&operands, &results);
    let bytes = number(&cost.read) + number(&cost.written);
    // Matrix instructions do not take f32.
    let f32s = results.first().and_then(|ty| ty.as_tensor()).is_some_and(|t| t.dtype == DType::F32);
    let rate = if f32s { tuning.f32_flops } else { tuning.flops };
    (bytes / tuning.bandwidth).max(rows * number(&cost.flops) / rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Planner;

    fn every(text: &str) -> Option<u32> {
        let graph = ir::text::parse(text).unwrap();
        let plan = plan::build(ir::verify(&graph).unwrap(), &Planner::new("gfx1151"), "").unwrap();
        plan.entries[0].pace.map(NonZeroU32::get)
    }

    #[test]
    fn small_models_never_wait_and_large_ones_do() {
        let layers = |n: usize, width: usize, ty: &str| {
            let layer =
                |i: usize| format!("%w{i} = weight : {ty}[{width}, {width}] %x{} = linear(%x{i}, %w{i}) ", i + 1);
            let body: String = (0..n).map(layer).collect();
            format!("graph @g(%x0: {ty}[N, {width}]) {{ {body} return %x{n} }}")
        };
        assert_eq!(every(&layers(4, 256, "f16")), None);
        // 64 products of 2 * 2048 * 4096^2 operations: 0.147 s; 0.297 s in f32, without matrix instructions. Two copies beside them.
        assert_eq!(every(&layers(64, 4096, "f16")), Some(46));
        assert_eq!(every(&layers(64, 4096, "f32")), Some(23));
    }
}
