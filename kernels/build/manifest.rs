//! The manifest as data. It is YAML of the plainest kind: a list of maps whose values are words, `[lists, of, words]` or
//! lists of lines; that much is read here, so that building the kernels needs no other crate.

/// One entry: a kernel for every combination of its element types.
#[derive(Default, Debug)]
pub struct Entry {
    pub line: usize,
    pub name: String,
    /// What it does, for docs/kernels.md.
    pub about: String,
    /// The operators it serves.
    pub op: String,
    /// The source file below hip/, without `.hip`: what is compiled together.
    pub file: String,
    /// Template parameters: (name, element types).
    pub types: Vec<(String, Vec<String>)>,
    pub args: Vec<Arg>,
    /// Threads of a block.
    pub block: String,
    /// Blocks along x, y, z.
    pub grid: Vec<String>,
    /// Bytes of shared memory that it may take.
    pub lds: String,
    /// What must hold of the numbers.
    pub requires: Vec<String>,
    /// Threads that neither meet nor exchange values: the simulator runs them as a plain loop.
    pub independent: bool,
    /// Whether matrix instructions must be in its code.
    pub matrix: bool,
}

#[derive(Debug)]
pub enum Arg {
    /// Memory that is read (or written): name, element type, elements that may be touched.
    Memory {
        write: bool,
        name: String,
        ty: String,
        extent: String,
    },
    /// A number passed by value: name, type.
    Int {
        name: String,
        ty: String,
    },
    Float {
        name: String,
    },
    /// A block of words passed by value: name, how many.
    Words {
        name: String,
        count: usize,
    },
    /// Where a kernel reports an index that is out of range.
    Error {
        name: String,
    },
}

impl Arg {
    pub fn name(&self) -> &str {
        match self {
            Arg::Memory { name, .. } | Arg::Int { name, .. } | Arg::Float { name } => name,
            Arg::Words { name, .. } | Arg::Error { name } => name,
        }
    }
}

pub fn read(text: &str) -> Result<Vec<Entry>, String> {
    let mut entries: Vec<Entry> = vec![];
    let mut list = String::new();
    for (at, line) in text.lines().enumerate() {
        let fail = |reason: &str| format!("line {}: {reason}", at + 1);
        let line = line.split(" #").next().unwrap_or_default().trim_end();
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(item) = line.strip_prefix("    - ") {
            let entry = entries.last_mut().ok_or_else(|| fail("a list without an entry"))?;
            match list.as_str() {
                "args" => entry.args.push(arg(item).ok_or_else(|| fail("not an argument"))?),
                "requires" => entry.requires.push(item.to_string()),
                _ => return Err(fail("a list where none is expected")),
            }
            continue;
        }
        let pair = match line.strip_prefix("- ") {
            Some(first) => {
                entries.push(Entry { line: at + 1, lds: "0".into(), ..Entry::default() });
                first
            }
            None => line.strip_prefix("  ").ok_or_else(|| fail("indentation"))?,
        };
        let (key, value) = pair.split_once(':').ok_or_else(|| fail("`key: value` is expected"))?;
        let (key, value) = (key.trim(), value.trim());
        let entry = entries.last_mut().ok_or_else(|| fail("a key without an entry"))?;
        list = key.to_string();
        match key {
            "name" => entry.name = value.into(),
            "about" => entry.about = value.into(),
            "op" => entry.op = value.into(),
            "file" => entry.file = value.into(),
            "block" => entry.block = value.into(),
            "lds" => entry.lds = value.into(),
            "grid" => entry.grid = words(value).ok_or_else(|| fail("a grid is [x, y, z]"))?,
            "independent" => entry.independent = value == "true",
            "matrix" => entry.matrix = value == "true",
            "args" | "requires" if value.is_empty() => {}
            name if name.len() == 1 || name.starts_with("type ") => {
                let types = words(value).ok_or_else(|| fail("element types are a [list]"))?;
                entry.types.push((name.trim_start_matches("type ").to_string(), types));
            }
            _ => return Err(fail("a key that manifests do not have")),
        }
    }
    entries.iter().try_for_each(complete)?;
    Ok(entries)
}

fn complete(entry: &Entry) -> Result<(), String> {
    let lacks = entry.name.is_empty() || entry.file.is_empty() || entry.grid.len() != 3 || entry.block.is_empty();
    match lacks || entry.args.is_empty() {
        true => Err(format!("line {}: an entry needs name, file, args, block and grid", entry.line)),
        false => Ok(()),
    }
}

fn words(value: &str) -> Option<Vec<String>> {
    let inner = value.strip_prefix('[')?.strip_suffix(']')?;
    let mut depth = 0;
    let outside = |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    };
    Some(inner.split(outside).map(|w| w.trim().to_string()).collect())
}

/// `read x T [rows * n]`, `u32 rows`, `f32 eps`, `words shape 20`, `error report`.
fn arg(line: &str) -> Option<Arg> {
    let (kind, rest) = line.split_once(' ')?;
    Some(match kind {
        "read" | "write" => {
            let (head, extent) = rest.split_once('[')?;
            let (name, ty) = head.trim().split_once(' ')?;
            let extent = extent.strip_suffix(']')?.to_string();
            Arg::Memory { write: kind == "write", name: name.into(), ty: ty.trim().into(), extent }
        }
        "u32" | "i32" | "i64" => Arg::Int { name: rest.into(), ty: kind.into() },
        "f32" => Arg::Float { name: rest.into() },
        "words" => {
            let (name, count) = rest.split_once(' ')?;
            Arg::Words { name: name.into(), count: count.parse().ok()? }
        }
        "error" => Arg::Error { name: rest.into() },
        _ => return None,
    })
}

impl Entry {
    /// Every combination of element types: the suffix of its name, and the types by parameter.
    pub fn instances(&self) -> Vec<(String, Vec<(&str, &str)>)> {
        let mut all = vec![(String::new(), vec![])];
        for (parameter, types) in &self.types {
            let mut next = vec![];
            for (suffix, chosen) in &all {
                for ty in types {
                    let mut chosen: Vec<(&str, &str)> = chosen.clone();
                    chosen.push((parameter, ty));
                    next.push((format!("{suffix}_{ty}"), chosen));
                }
            }
            all = next;
        }
        all
    }
}
