//! Where the work of a device's plan is done: the share of the flops on the device, and what the host does beside it, with reasons.

use super::facts::NodeFacts;
use serde::Serialize;

/// Nodes of one operator that run on the host for one reason.
#[derive(Debug, Serialize)]
pub struct Exception {
    /// The operator.
    pub op: String,
    /// Why the device does not run it.
    pub reason: &'static str,
    /// How many there are.
    pub nodes: usize,
    /// Bytes that they read and write.
    pub bytes: u64,
    /// Their arithmetic operations.
    pub flops: u64,
    /// How many of them have operations that are only known when they run.
    pub unknown: usize,
}

/// How much of a device's plan runs on the device.
#[derive(Debug, Serialize)]
pub struct Placement {
    /// The device's architecture.
    pub target: String,
    /// Arithmetic operations of all nodes whose number is known.
    pub flops: u64,
    /// Those that the device does.
    pub device_flops: u64,
    /// Their share, from 0 to 1; missing when there are none at all.
    pub share: Option<f64>,
    /// Everything that the host does, most operations first.
    pub exceptions: Vec<Exception>,
}

impl Placement {
    /// The placement of these nodes.
    pub fn of(target: &str, nodes: &[NodeFacts]) -> Placement {
        let mut found = Placement { target: target.into(), flops: 0, device_flops: 0, share: None, exceptions: vec![] };
        for node in nodes {
            let flops = node.flops.number.unwrap_or(0);
            found.flops = found.flops.saturating_add(flops);
            let Some(reason) = node.on_host else {
                found.device_flops = found.device_flops.saturating_add(flops);
                continue;
            };
            let known = found.exceptions.iter().position(|e| e.op == node.op && e.reason == reason);
            let at = known.unwrap_or(found.exceptions.len());
            if known.is_none() {
                let op = node.op.clone();
                found.exceptions.push(Exception { op, reason, nodes: 0, bytes: 0, flops: 0, unknown: 0 });
            }
            let sum = &mut found.exceptions[at];
            sum.nodes += 1;
            sum.unknown += usize::from(node.flops.number.is_none());
            sum.bytes = sum.bytes.saturating_add(node.bytes.number.unwrap_or(0));
            sum.flops = sum.flops.saturating_add(flops);
        }
        found.exceptions.sort_by(|a, b| (b.flops, &a.op, a.reason).cmp(&(a.flops, &b.op, b.reason)));
        found.share = (found.flops > 0).then(|| found.device_flops as f64 / found.flops as f64);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::inspect::facts::Amount;

    fn node(op: &str, flops: Option<u64>, on_host: Option<&'static str>) -> NodeFacts {
        let amount = |number| Amount { number, formula: String::new() };
        let (entry, name, kernel) = (String::new(), String::new(), String::new());
        let (operands, types, origins) = (vec![], vec![], vec![]);
        let (bytes, flops) = (amount(Some(8)), amount(flops));
        NodeFacts { entry, name, op: op.into(), kernel, operands, types, bytes, flops, origins, on_host }
    }

    #[test]
    fn exceptions_are_by_operator_and_reason_the_heaviest_first() {
        let nodes = [
            node("a", Some(60), None),
            node("b", Some(10), Some("small")),
            node("b", Some(10), Some("small")),
            node("b", None, Some("late")),
            node("c", Some(20), Some("wide")),
        ];
        let found = Placement::of("sim", &nodes);
        assert_eq!((found.flops, found.device_flops, found.share), (100, 60, Some(0.6)));
        let shown = |e: &Exception| (e.op.clone(), e.reason, e.nodes, e.bytes, e.flops, e.unknown);
        let shown: Vec<_> = found.exceptions.iter().map(shown).collect();
        let b = || "b".to_string();
        assert_eq!(shown, [(b(), "small", 2, 16, 20, 0), ("c".into(), "wide", 1, 8, 20, 0), (b(), "late", 1, 8, 0, 1)]);
    }
}
