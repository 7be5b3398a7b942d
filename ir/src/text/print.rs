//! Graph to text.

use crate::attr::Attr;
use crate::graph::{Graph, Kind, NodeId, Value};
use crate::tensor::Tensor;
use std::fmt::{self, Write};

/// Constants up to this many elements are written into the text.
const INLINE_ELEMENTS: usize = 16;

/// Whether the text form holds this constant's data.
pub fn is_inline(t: &Tensor) -> bool {
    t.len() <= INLINE_ELEMENTS
}

fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_./:-$#".contains(c)
}

/// The name as the text form shows it after `%` or `@`.
pub fn quoted_name(name: &str) -> String {
    // `//` would start a comment.
    if !name.is_empty() && name.chars().all(is_bare) && !name.contains("//") {
        return name.to_string();
    }
    format!("{name:?}")
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params = self.inputs.iter().map(|n| {
            let v = Value::from(*n);
            let kind = if self.is_state(*n) { "state " } else { "" };
            format!("{kind}%{}: {}", quoted_name(self.name(v)), self.ty(v))
        });
        let params: Vec<_> = params.collect();
        writeln!(f, "graph @{}({}) {{", quoted_name(&self.name), params.join(", "))?;
        for c in &self.constraints {
            writeln!(f, "  assume {c}")?;
        }
        for id in self.order() {
            if let Some(line) = node_line(self, id) {
                writeln!(f, "  {line}")?;
            }
        }
        let outputs = self.outputs.iter().map(|o| {
            let name = self.name(o.value);
            match *name == o.name {
                true => format!("%{}", quoted_name(name)),
                false => format!("%{} as {:?}", quoted_name(name), &*o.name),
            }
        });
        writeln!(f, "  return {}", outputs.collect::<Vec<_>>().join(", "))?;
        f.write_str("}\n")
    }
}

/// A node's statement; inputs and the absent operand have none.
pub fn node_line(g: &Graph, id: NodeId) -> Option<String> {
    let node = g.node(id);
    let name = quoted_name(&node.names[0]);
    let op = match &node.kind {
        Kind::Input | Kind::Absent => return None,
        Kind::Weight(Some(t)) if is_inline(t) => {
            return Some(format!("%{name} = const {} : {}", Elements(t), node.facts[0].ty));
        }
        Kind::Weight(_) => return Some(format!("%{name} = weight : {}", node.facts[0].ty)),
        Kind::Op(op) => op,
    };
    let results: Vec<_> = node.names.iter().map(|n| format!("%{}", quoted_name(n))).collect();
    let operands: Vec<_> = g.operands(id).into_iter().map(|v| operand(g, v)).collect();
    let types: Vec<_> = node.facts.iter().map(|f| f.ty.to_string()).collect();
    let attrs = op.attrs();
    let attrs = attrs.iter().map(|(k, v)| format!("{k} = {}", Indented(v)));
    let attrs = attrs.collect::<Vec<_>>().join(", ");
    let mut line = format!("{} = {}({})", results.join(", "), op.name(), operands.join(", "));
    if !attrs.is_empty() {
        let _ = write!(line, " {{{attrs}}}");
    }
    let _ = write!(line, " : {}", types.join(", "));
    Some(line)
}

fn operand(g: &Graph, v: Value) -> String {
    match g.node(v.node).kind {
        Kind::Absent => "_".to_string(),
        _ => format!("%{}", quoted_name(g.name(v))),
    }
}

/// An attribute; graphs inside are indented one level deeper.
struct Indented<'a>(&'a Attr);

impl fmt::Display for Indented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Attr::Graph(g) => f.write_str(g.to_string().trim_end().replace('\n', "\n  ").as_str()),
            other => other.fmt(f),
        }
    }
}

impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attr::Int(n) => write!(f, "{n}"),
            Attr::Float(v) => write!(f, "{v:?}"),
            Attr::Word(w) => f.write_str(w),
            Attr::Str(s) => write!(f, "{s:?}"),
            Attr::List(items) => {
                let items: Vec<_> = items.iter().map(|i| Indented(i).to_string()).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Attr::Tensor(t) => {
                let dims: Vec<_> = t.dims().iter().map(ToString::to_string).collect();
                write!(f, "tensor({}[{}], {})", t.dtype(), dims.join(", "), Elements(t))
            }
            Attr::Graph(g) => write!(f, "{g}"),
        }
    }
}

/// All elements in a flat list; floats so that they read back to the same bits.
struct Elements<'a>(&'a Tensor);

impl fmt::Display for Elements<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.0;
        let parts: Vec<String> = if let Ok(strings) = t.strings() {
            strings.iter().map(|s| format!("{s:?}")).collect()
        } else if let Ok(ints) = t.to_ints() {
            ints.iter().map(ToString::to_string).collect()
        } else {
            let numbers = t.to_f64().expect("not text");
            numbers.iter().map(|v| format!("{v:?}")).collect()
        };
        write!(f, "[{}]", parts.join(", "))
    }
}
