//! The C++ side: for each entry a macro that defines its kernels by calling the template `NAME` with their parameters.

use crate::manifest::{Arg, Entry};
use std::fmt::Write;

pub fn write(entries: &[Entry]) -> String {
    let mut text = String::from("// Generated from manifest.yaml: the parameters of every kernel.\n#pragma once\n");
    for entry in entries {
        let _ = write!(text, "#define KERNELS_{}", entry.name);
        for (suffix, types) in entry.instances() {
            let define = if entry.independent { "KERNEL_OF_ITEMS" } else { "KERNEL" };
            let parameters: Vec<String> = entry.args.iter().map(|a| parameter(a, &types)).collect();
            let names: Vec<&str> = entry.args.iter().map(Arg::name).collect();
            let chosen: Vec<&str> = types.iter().map(|(_, ty)| *ty).collect();
            let template = if chosen.is_empty() { String::new() } else { format!("<{}>", chosen.join(", ")) };
            let _ = write!(
                text,
                " \\\n  {define}({}{suffix}, {}, ({}), {}_body{template}({}))",
                entry.name,
                entry.block,
                parameters.join(", "),
                entry.name,
                names.join(", ")
            );
        }
        text.push('\n');
    }
    text
}

fn parameter(arg: &Arg, types: &[(&str, &str)]) -> String {
    let resolve = |ty: &str| types.iter().find(|(p, _)| *p == ty).map_or(ty.to_string(), |(_, t)| t.to_string());
    match arg {
        Arg::Memory { write: false, name, ty, .. } => format!("const {}* {name}", resolve(ty)),
        Arg::Memory { write: true, name, ty, .. } => format!("{}* {name}", resolve(ty)),
        Arg::Int { name, ty } => format!("{ty} {name}"),
        Arg::Float { name } => format!("f32 {name}"),
        Arg::Words { name, count } => format!("const Words<{count}> {name}"),
        Arg::Error { name } => format!("Report* {name}"),
    }
}
