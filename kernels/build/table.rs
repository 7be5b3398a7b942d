//! The Rust side: a `Kernel` for every instance, and for each entry a function that makes a call of the right one.

use crate::manifest::{Arg, Entry};
use std::collections::BTreeSet;
use std::fmt::Write;

pub fn write(entries: &[Entry]) -> String {
    let mut text = String::from("// Generated from manifest.yaml.\n");
    let mut all = vec![];
    for entry in entries {
        for (suffix, types) in entry.instances() {
            let name = format!("{}{suffix}", entry.name);
            all.push(name.to_uppercase());
            kernel(&mut text, entry, &name, &types);
        }
        call(&mut text, entry);
    }
    let _ = writeln!(text, "/// Every kernel.\npub static ALL: &[&Kernel] = &[{}];", list(&all, "&"));
    let files: BTreeSet<&String> = entries.iter().map(|e| &e.file).collect();
    let _ =
        writeln!(text, "/// Every source file with its text, without `.hip`.\npub static FILES: &[(&str, &str)] = &[");
    for file in files {
        let path = format!("concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/hip/{file}.hip\")");
        let _ = writeln!(text, "    ({file:?}, include_str!({path})),");
    }
    text.push_str("];\n");
    text
}

fn list(names: &[String], before: &str) -> String {
    names.iter().map(|n| format!("{before}{n}")).collect::<Vec<_>>().join(", ")
}

fn kernel(text: &mut String, entry: &Entry, name: &str, types: &[(&str, &str)]) {
    let resolve = |ty: &str| types.iter().find(|(p, _)| *p == ty).map_or(ty.to_string(), |(_, t)| t.to_string());
    let numbers = numbers(entry);
    let used = |expressions: &[&str]| {
        let mut lets = String::new();
        for (i, n) in numbers.iter().enumerate() {
            if expressions.iter().any(|e| words(e).any(|w| w == *n)) {
                let _ = write!(lets, "let {n} = numbers[{i}]; ");
            }
        }
        lets
    };
    let _ = writeln!(text, "/// {} of `{}`.", entry.about, entry.file);
    let _ = writeln!(text, "pub static {}: Kernel = Kernel {{", name.to_uppercase());
    let _ = writeln!(text, "    name: {name:?}, entry: {:?}, op: {:?}, file: {:?},", entry.name, entry.op, entry.file);
    let _ = writeln!(text, "    about: {:?}, matrix: {},", entry.about, entry.matrix);
    let _ = writeln!(text, "    block: {}, lds: {},", entry.block, entry.lds);
    let parameters = entry.args.iter().map(|arg| match arg {
        Arg::Memory { write, name, ty, .. } => {
            let element = resolve(ty).to_uppercase();
            format!(
                "Param {{ name: {name:?}, kind: ParamKind::Memory {{ write: {write}, element: Element::{element} }} }}"
            )
        }
        Arg::Int { name, ty } => format!("Param {{ name: {name:?}, kind: ParamKind::{} }}", ty.to_uppercase()),
        Arg::Float { name } => format!("Param {{ name: {name:?}, kind: ParamKind::F32 }}"),
        Arg::Words { name, count } => format!("Param {{ name: {name:?}, kind: ParamKind::Words({count}) }}"),
        Arg::Error { name } => format!("Param {{ name: {name:?}, kind: ParamKind::Report }}"),
    });
    let parameters: Vec<String> = parameters.collect();
    let _ = writeln!(text, "    params: &[{}],", parameters.join(", "));
    let grid: Vec<&str> = entry.grid.iter().map(String::as_str).collect();
    let _ = writeln!(text, "    grid: |numbers| {{ let _ = numbers; {}[{}] }},", used(&grid), grid.join(", "));
    let extents: Vec<&str> = entry.args.iter().filter_map(extent).collect();
    let _ =
        writeln!(text, "    extents: |numbers| {{ let _ = numbers; {}vec![{}] }},", used(&extents), extents.join(", "));
    let requires: Vec<&str> = entry.requires.iter().map(String::as_str).collect();
    let _ = write!(text, "    broken: |numbers| {{ let _ = numbers; {}", used(&requires));
    for r in &requires {
        let _ = write!(text, "if !({r}) {{ return Some({r:?}); }} ");
    }
    let _ = writeln!(text, "None }},\n}};");
}

fn extent(arg: &Arg) -> Option<&str> {
    match arg {
        Arg::Memory { extent, .. } => Some(extent),
        _ => None,
    }
}

/// Names of the integer arguments, in order: what expressions are over.
fn numbers(entry: &Entry) -> Vec<&str> {
    entry.args.iter().filter(|a| matches!(a, Arg::Int { .. })).map(Arg::name).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

fn call(text: &mut String, entry: &Entry) {
    let mut parameters: Vec<String> =
        entry.types.iter().map(|(p, _)| format!("{}_type: Element", p.to_lowercase())).collect();
    let mut values = vec![];
    for arg in &entry.args {
        let name = arg.name();
        let (ty, value) = match arg {
            Arg::Memory { write: true, .. } => ("M".to_string(), format!("Arg::Memory({name})")),
            Arg::Memory { write: false, .. } => ("M".to_string(), format!("Arg::Memory({name})")),
            Arg::Int { .. } => ("i64".to_string(), format!("Arg::Int({name})")),
            Arg::Float { .. } => ("f32".to_string(), format!("Arg::Float({name})")),
            Arg::Words { count, .. } => (format!("[u32; {count}]"), format!("Arg::Words({name}.to_vec())")),
            Arg::Error { .. } => {
                values.push("Arg::Report".to_string());
                continue;
            }
        };
        parameters.push(format!("{name}: {ty}"));
        values.push(value);
    }
    let _ = writeln!(text, "/// {}. `None` for element types that it does not take.", entry.about);
    let _ = writeln!(text, "#[allow(clippy::too_many_arguments, reason = \"they are the kernel's\")]");
    let _ = writeln!(text, "pub fn {}<M>({}) -> Option<Call<M>> {{", entry.name, parameters.join(", "));
    let types: Vec<String> = entry.types.iter().map(|(p, _)| format!("{}_type", p.to_lowercase())).collect();
    let _ = writeln!(
        text,
        "    let kernel: &'static Kernel = match ({}) {{",
        types.iter().map(|t| format!("{t},")).collect::<String>()
    );
    for (suffix, chosen) in entry.instances() {
        let pattern: String = chosen.iter().map(|(_, ty)| format!("Element::{},", ty.to_uppercase())).collect();
        let _ = writeln!(text, "        ({pattern}) => &{}{},", entry.name.to_uppercase(), suffix.to_uppercase());
    }
    if !entry.types.is_empty() {
        let _ = writeln!(text, "        _ => return None,");
    }
    let _ = writeln!(text, "    }};\n    Some(Call {{ kernel, args: vec![{}] }})\n}}", values.join(", "));
}
