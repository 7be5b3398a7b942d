//! A target that knows every operator, and models to plan.
#![allow(dead_code, reason = "each test uses a part")]

use ir::ops::CoreOp;
use ir::{Graph, NodeId, Op, Verified};
use plan::{LaunchOptions, Layout, LowerError, Plan, PlanBuilder, Target};
use std::fmt::Write;

/// Every node is one launch, but for views; linear layers ask for panels and scratch, additions work in place.
pub struct Everything;

impl Target for Everything {
    fn name(&self) -> &str {
        "test"
    }

    fn lower(&self, graph: Verified<'_>, node: NodeId, plan: &mut PlanBuilder<'_>) -> Result<(), LowerError> {
        let graph = graph.graph();
        if plan.view(node) {
            return Ok(());
        }
        let op = graph.op(node).expect("targets are asked for operators");
        let options = match op {
            Op::CoreOp(CoreOp::Linear(linear)) => {
                let layout = if linear.kn { Layout::Panel16Kn } else { Layout::Panel16 };
                plan.weight_layout(graph.operands(node)[1], layout);
                LaunchOptions::scratch(4096)
            }
            Op::CoreOp(CoreOp::Binary(_)) => LaunchOptions { in_place: Some(0), ..LaunchOptions::default() },
            _ => LaunchOptions::default(),
        };
        plan.launch(node, op.name(), options)
    }
}

/// A transformer of some layers with a tail whose sizes depend on data.
pub fn transformer(layers: usize) -> String {
    let mut t = String::from("graph @net(%ids: i64[B, S], %shape: i64[2], %past: f32[B, 2, P, 16]) {\n");
    let mut line = |text: String| writeln!(t, "  {text}").unwrap();
    line("%scale = const [0.25] : f32[]".into());
    line("%table = weight : f32[100, 32]".into());
    line("%x0 = gather(%table, %ids) {axis = 0}".into());
    for l in 0..layers {
        for w in ["q", "k", "v", "o", "up"] {
            line(format!("%w{w}{l} = weight : f32[32, 32]"));
        }
        for w in ["q", "k", "v"] {
            line(format!("%{w}{l} = linear(%x{l}, %w{w}{l})"));
            line(format!("%{w}r{l} = reshape(%{w}{l}) {{shape = [B, S, 2, 16]}}"));
            line(format!("%{w}t{l} = transpose(%{w}r{l}) {{perm = [0, 2, 1, 3]}}"));
        }
        line(format!("%kc{l} = concat(%past, %kt{l}) {{axis = 2}}"));
        line(format!("%vc{l} = concat(%past, %vt{l}) {{axis = 2}}"));
        line(format!("%kx{l} = transpose(%kc{l}) {{perm = [0, 1, 3, 2]}}"));
        line(format!("%s{l} = matmul(%qt{l}, %kx{l})"));
        line(format!("%sc{l} = mul(%s{l}, %scale)"));
        line(format!("%p{l} = softmax(%sc{l}) {{axis = -1}}"));
        line(format!("%a{l} = matmul(%p{l}, %vc{l})"));
        line(format!("%at{l} = transpose(%a{l}) {{perm = [0, 2, 1, 3]}}"));
        line(format!("%ar{l} = reshape(%at{l}) {{shape = [B, S, 32]}}"));
        line(format!("%o{l} = linear(%ar{l}, %wo{l})"));
        line(format!("%h{l} = add(%o{l}, %x{l})"));
        line(format!("%u{l} = linear(%h{l}, %wup{l})"));
        line(format!("%x{} = add(%u{l}, %h{l})", l + 1));
    }
    line(format!("%logits = linear(%x{layers}, %table)"));
    line(format!("%flat = reshape(%x{layers}) {{shape = [B*S, 32]}}"));
    line("%late = reshape_to(%flat, %shape)".into());
    line("%le = exp(%late)".into());
    line("%ln = neg(%le)".into());
    line("%lt = add(%ln, %late)".into());
    line(format!("return %logits, %kc0 as \"present\", %flat, %lt, %ids as \"same ids\", %x{layers} as \"hidden\""));
    t + "}\n"
}

pub fn graph(text: &str) -> Graph {
    ir::text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

pub fn plan_of(graph: &Graph) -> Plan {
    let verified = ir::verify(graph).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    plan::build(verified, &Everything, "none").unwrap()
}
