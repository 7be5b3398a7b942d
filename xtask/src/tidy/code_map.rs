//! ARCHITECTURE.md's code map: every path it names exists, and it names every room.
//!
//! A path is a span in backticks with a `/` that ends in `/` or in a file extension: `ir/src/graph.rs`, `docs/decisions/`.

use std::collections::BTreeSet;

use super::File;

const MAP: &str = "ARCHITECTURE.md";

/// Findings for named paths that don't exist and for rooms that aren't named.
pub fn check(files: &[File]) -> Vec<String> {
    let Some(map) = files.iter().find(|file| file.path == MAP) else {
        return vec![format!("{MAP}: is missing")];
    };
    let text = map.text().unwrap_or_default();
    let mut findings = Vec::new();
    let mut named = BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        for path in paths(line) {
            if !exists(files, path) {
                findings.push(format!("{MAP}:{}: `{path}` does not exist", index + 1));
            }
            named.extend(path.split('/').next());
        }
    }
    for room in rooms(files).difference(&named) {
        findings.push(format!("{MAP}: the room `{room}/` is not mentioned"));
    }
    findings
}

fn paths(line: &str) -> impl Iterator<Item = &str> {
    let spans = line.split('`').skip(1).step_by(2);
    spans.filter(|span| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
        let name = span.rsplit('/').next().unwrap_or_default();
        span.contains('/') && span.chars().all(plain) && (name.is_empty() || name.contains('.'))
    })
}

fn exists(files: &[File], path: &str) -> bool {
    files.iter().any(|file| match path.ends_with('/') {
        true => file.path.starts_with(path),
        false => file.path == path,
    })
}

/// Top-level folders that hold a crate.
fn rooms(files: &[File]) -> BTreeSet<&str> {
    let manifest = |file: &'_ File| file.path.matches('/').count() == 1 && file.path.ends_with("/Cargo.toml");
    let manifests = files.iter().filter(|file| manifest(file));
    manifests.filter_map(|file| file.path.split('/').next()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    fn findings(map: &str) -> Vec<String> {
        check(&[
            file("ARCHITECTURE.md", map),
            file("ir/Cargo.toml", ""),
            file("ir/src/graph.rs", ""),
            file("docs/one.md", ""),
        ])
    }

    #[test]
    fn a_true_map_passes() {
        assert_eq!(findings("`ir/src/graph.rs` holds the graph, `docs/` the rest"), [""; 0]);
    }

    #[test]
    fn a_path_that_does_not_exist_is_found_with_its_line() {
        assert_eq!(findings("`ir/`\n`ir/src/gone.rs`"), ["ARCHITECTURE.md:2: `ir/src/gone.rs` does not exist"]);
    }

    #[test]
    fn a_room_that_is_not_mentioned_is_found() {
        assert_eq!(findings("`docs/`"), ["ARCHITECTURE.md: the room `ir/` is not mentioned"]);
    }

    #[test]
    fn code_and_patterns_are_not_paths() {
        assert_eq!(findings("`ir/` `a / b` `f(x)/2.0` `ir/src/ops/NAME` `and/or`"), [""; 0]);
    }

    #[test]
    fn a_missing_map_is_found() {
        assert_eq!(check(&[]).len(), 1);
    }
}
