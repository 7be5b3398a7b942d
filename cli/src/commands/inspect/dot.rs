//! The main graph for Graphviz: `fastinference inspect model.onnx --dot | dot -Tsvg > model.svg`.

use fastinference::CheckedPlan;
use std::io::{self, Write};

/// Prints the graph of the main entry. Constants are left out: they would hide everything else.
pub fn print(out: &mut dyn Write, plan: &CheckedPlan) -> io::Result<()> {
    let graph = &plan.entries[0].graph;
    writeln!(out, "digraph {} {{", quoted(&graph.name))?;
    writeln!(out, "  node [shape=box, fontname=\"sans-serif\", fontsize=10];")?;
    let is_shown = |id| graph.inputs.contains(&id) || graph.op(id).is_some();
    for id in graph.order().into_iter().filter(|id| is_shown(*id)) {
        let node = graph.node(id);
        let ty = node.facts.iter().map(|f| f.ty.to_string()).collect::<Vec<_>>().join(", ");
        match node.op() {
            Some(op) => {
                let label = format!("{}\n%{}\n{ty}", op.name(), node.names[0]);
                let origin = quoted(&node.origin.join(" + "));
                writeln!(out, "  n{} [label={}, tooltip={origin}];", id.index(), quoted(&label))?;
            }
            None => {
                let label = format!("%{}\n{ty}", node.names[0]);
                writeln!(out, "  n{} [label={}, shape=ellipse];", id.index(), quoted(&label))?;
            }
        }
        for operand in graph.operands(id).iter().filter(|v| is_shown(v.node)) {
            writeln!(out, "  n{} -> n{};", operand.node.index(), id.index())?;
        }
    }
    for (i, output) in graph.outputs.iter().enumerate() {
        writeln!(out, "  out{i} [label={}, shape=ellipse];", quoted(&output.name))?;
        if is_shown(output.value.node) {
            writeln!(out, "  n{} -> out{i};", output.value.node.index())?;
        }
    }
    writeln!(out, "}}")
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_end_the_label() {
        assert_eq!(quoted("a\"b\\c\nd"), r#""a\"b\\c\nd""#);
    }
}
