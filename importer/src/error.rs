//! Why a model cannot be imported.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::external::ExternalError;
use crate::proto::ProtoError;

/// Why a model cannot be imported. [`ImportError::code`] is stable, [`ImportError::help`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be opened.
    #[error("{path:?} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The bytes are not a model.
    #[error(transparent)]
    Proto(#[from] ProtoError),
    /// The model's folder cannot be used.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// A constant cannot be read.
    #[error("tensor `{tensor}`: {reason}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// An input is of no usable type.
    #[error("input `{input}`: {reason}")]
    Input {
        /// The input.
        input: String,
        /// What is wrong.
        reason: String,
    },
    /// A symbol to be fixed that no input has.
    #[error("no input of the model has the symbol `{name}`; they have {}", list(known, 20))]
    Symbol {
        /// The name given.
        name: String,
        /// The symbols of the inputs.
        known: Vec<String>,
    },
    /// Nodes need each other's results.
    #[error("these nodes need each other's results: {}", list(nodes, 8))]
    Cycle {
        /// Nodes of the cycle, in its order.
        nodes: Vec<String>,
    },
    /// A name that nothing defines.
    #[error("{reader} reads `{value}`, which no node, input or constant gives")]
    Undefined {
        /// The node or graph.
        reader: String,
        /// The name.
        value: String,
    },
    /// A name that is defined twice.
    #[error("`{value}` is given twice: by {first} and by {second}")]
    Twice {
        /// The name.
        value: String,
        /// Who gives it.
        first: String,
        /// Who gives it again.
        second: String,
    },
    /// Functions that call themselves, or too deep nesting.
    #[error("node `{node}`: {reason}")]
    Nesting {
        /// The calling node.
        node: String,
        /// What is wrong.
        reason: String,
    },
    /// Expanding functions or bodies gives more nodes than any real model has.
    #[error("the model has more than {limit} nodes once its functions are expanded")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// Nodes that are not supported or contradict their operands.
    #[error("{0}")]
    Nodes(Box<Failures>),
}

impl ImportError {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            ImportError::Read { .. } => "import::read",
            ImportError::Proto(_) => "import::format",
            ImportError::External(_) => "import::external",
            ImportError::Tensor { .. } => "import::tensor",
            ImportError::Input { .. } => "import::input",
            ImportError::Symbol { .. } => "import::symbol",
            ImportError::Cycle { .. } => "import::cycle",
            ImportError::Undefined { .. } => "import::undefined",
            ImportError::Twice { .. } => "import::twice",
            ImportError::Nesting { .. } => "import::nesting",
            ImportError::TooLarge { .. } => "import::too_large",
            ImportError::Nodes(f) if f.wrong.is_empty() => "import::unsupported",
            ImportError::Nodes(_) => "import::node",
        }
    }

    /// What the user can do.
    pub fn help(&self) -> &'static str {
        match self {
            ImportError::Read { .. } => "give the path of an .onnx file that you may read",
            ImportError::Proto(_) => {
                "download or export the model again; git-lfs pointers and HTML pages are common mistakes"
            }
            ImportError::External(_) => {
                "keep the model's data files beside the .onnx file, under the names it was saved with"
            }
            ImportError::Tensor { .. } => {
                "the file is damaged or its data files are missing or of another version: export or download it again"
            }
            ImportError::Input { .. } => {
                "export the model with tensor, sequence or optional inputs of known element types"
            }
            ImportError::Symbol { .. } => "give a name that `inspect` shows among the inputs' dimensions",
            ImportError::Cycle { .. } | ImportError::Undefined { .. } | ImportError::Twice { .. } => {
                "the file is not a valid ONNX graph: `onnx.checker.check_model` shows more"
            }
            ImportError::Nesting { .. } | ImportError::TooLarge { .. } => {
                "inline the model's functions when exporting it, or split the model"
            }
            ImportError::Nodes(f) if f.wrong.is_empty() => {
                "the model needs operators that are not supported yet; please report them with the model's name"
            }
            ImportError::Nodes(_) => {
                "the nodes named above do not fit their operands; `onnx.checker.check_model(full_check=True)` may show more"
            }
        }
    }
}

/// One node that could not be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The ONNX node's name, or `OpType#index`.
    pub node: String,
    /// Its operator, with the domain unless it is ONNX's own.
    pub op: String,
    /// Why.
    pub reason: String,
}

/// Every node that could not be imported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Nodes whose operator, or use of it, is not supported.
    pub unsupported: Vec<Failure>,
    /// Nodes that contradict their operands or attributes.
    pub wrong: Vec<Failure>,
}

impl Failures {
    /// Groups and nodes shown at most; the rest are counted.
    const SHOWN_GROUPS: usize = 40;
    const SHOWN_NODES: usize = 4;

    pub(crate) fn is_empty(&self) -> bool {
        self.unsupported.is_empty() && self.wrong.is_empty()
    }

    /// Unsupported nodes by (operator, reason), in name order.
    pub fn groups(&self) -> BTreeMap<(&str, &str), Vec<&str>> {
        let mut groups: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for f in &self.unsupported {
            groups.entry((&f.op, &f.reason)).or_default().push(&f.node);
        }
        groups
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![];
        let groups = self.groups();
        if !groups.is_empty() {
            lines.push(format!("{} nodes are not supported:", self.unsupported.len()));
        }
        for ((op, reason), nodes) in groups.iter().take(Self::SHOWN_GROUPS) {
            let count = if nodes.len() > 1 { format!(" ({} nodes)", nodes.len()) } else { String::new() };
            lines.push(format!("  {op}{count}: {}: {}", short(reason), list(nodes, Self::SHOWN_NODES)));
        }
        if groups.len() > Self::SHOWN_GROUPS {
            lines.push(format!("  and {} more kinds", groups.len() - Self::SHOWN_GROUPS));
        }
        if !self.wrong.is_empty() {
            lines.push(format!("{} nodes do not fit their operands:", self.wrong.len()));
        }
        for w in self.wrong.iter().take(Self::SHOWN_GROUPS) {
            lines.push(format!("  `{}` ({}): {}", short(&w.node), w.op, short(&w.reason)));
        }
        if self.wrong.len() > Self::SHOWN_GROUPS {
            lines.push(format!("  and {} more", self.wrong.len() - Self::SHOWN_GROUPS));
        }
        f.write_str(&lines.join("\n"))
    }
}

fn list(nodes: &[impl AsRef<str>], shown: usize) -> String {
    if nodes.is_empty() {
        return "none".into();
    }
    let names: Vec<String> = nodes.iter().take(shown).map(|n| format!("`{}`", short(n.as_ref()))).collect();
    let more = if nodes.len() > shown { format!(" and {} more", nodes.len() - shown) } else { String::new() };
    format!("{}{more}", names.join(", "))
}

/// At most 400 characters: names in hostile files have no limit.
fn short(text: &str) -> String {
    match text.char_indices().nth(400) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_string(),
    }
}
