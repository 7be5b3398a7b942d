//! Checks the rules of the tree that the compiler doesn't know, and reports every breach as `file:line: what to do`.
//!
//! One file per rule: [`arrows`] between crates, [`names`] of crates and `unsafe` kept to their files, [`code_map`] of
//! ARCHITECTURE.md, [`length`] of files, [`machine_paths`] left behind by a build. A rule is a function from the
//! files to its findings, so that its tests need no disk.

use std::path::Path;

mod arrows;
mod code_map;
mod length;
mod machine_paths;
mod names;
mod source;

/// A tracked or new file of the tree: its path with `/` from the root, and its bytes.
pub struct File {
    path: String,
    bytes: Vec<u8>,
}

impl File {
    /// The text of a text file.
    fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes).ok()
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// Runs every check on the tree at `root`; fails if one has a finding.
pub fn run(root: &Path) -> Result<(), String> {
    let files = source::files(root)?;
    let mut findings = arrows::check(&arrows::of_workspace(root)?);
    findings.extend(names::check(&files));
    findings.extend(code_map::check(&files));
    findings.extend(length::check(&files));
    findings.extend(machine_paths::check(&files));
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {} files in order", files.len());
            Ok(())
        }
        count => Err(format!("tidy: {count} findings")),
    }
}

#[cfg(test)]
fn file(path: &str, text: &str) -> File {
    File { path: path.into(), bytes: text.into() }
}
