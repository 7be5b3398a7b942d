//! Which room may depend on which. A new arrow needs a note in docs/decisions and a line here.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Room, and the rooms it may name in its Cargo.toml, for any kind of dependency.
const ALLOWED: [(&str, &[&str]); 10] = [
    ("ir", &[]),
    ("importer", &["ir"]),
    ("passes", &["ir"]),
    ("plan", &["ir"]),
    ("runtime", &["plan", "ir"]),
    ("kernels", &[]),
    ("backend-cpu", &["runtime", "plan", "ir"]),
    ("backend-hip", &["runtime", "plan", "ir", "kernels"]),
    ("fastinference", &["ir", "importer", "passes", "plan", "runtime", "backend-cpu", "backend-hip"]),
    ("cli", &["fastinference"]),
];

/// Rooms that may depend on anything; nothing may depend on them.
const FREE: [&str; 3] = ["tests", "xtask", "fuzz"];

/// A room names another in its Cargo.toml.
pub struct Arrow {
    from: String,
    to: String,
}

/// The arrows of the workspace, as cargo reads its manifests.
pub fn of_workspace(root: &Path) -> Result<Vec<Arrow>, String> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .map_err(|e| format!("cannot start cargo: {e}"))?;
    if !output.status.success() {
        return Err("cargo metadata failed".into());
    }
    let metadata: Value =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata is not JSON: {e}"))?;
    let mut arrows = Vec::new();
    for package in list(&metadata["packages"]) {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let from = manifest.parent().map(room).unwrap_or_default();
        for dependency in list(&package["dependencies"]) {
            if let Some(path) = dependency["path"].as_str() {
                arrows.push(Arrow { from: from.clone(), to: room(Path::new(path)) });
            }
        }
    }
    Ok(arrows)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn room(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// One finding per arrow that the design doesn't have.
pub fn check(arrows: &[Arrow]) -> Vec<String> {
    let forbidden = arrows.iter().filter(|arrow| !allowed(arrow));
    forbidden
        .map(|Arrow { from, to }| {
            format!("{from}/Cargo.toml: `{from}` may not depend on `{to}` (the arrows are in xtask/src/tidy/arrows.rs)")
        })
        .collect()
}

fn allowed(arrow: &Arrow) -> bool {
    if FREE.contains(&arrow.from.as_str()) {
        return true;
    }
    let targets = ALLOWED.iter().find(|(room, _)| *room == arrow.from);
    targets.is_some_and(|(_, targets)| targets.contains(&arrow.to.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(from: &str, to: &str) -> bool {
        let arrow = Arrow { from: from.into(), to: to.into() };
        !check(&[arrow]).is_empty()
    }

    #[test]
    fn arrows_of_the_design_pass_and_others_are_found() {
        assert!(!found("importer", "ir"));
        assert!(!found("cli", "fastinference"));
        assert!(found("importer", "plan"));
        assert!(found("plan", "backend-cpu"));
        assert!(found("cli", "ir"));
    }

    #[test]
    fn tests_may_see_everything_and_nothing_may_see_them() {
        assert!(!found("tests", "backend-cpu"));
        assert!(found("ir", "tests"));
    }

    #[test]
    fn a_room_that_the_table_lacks_is_found() {
        assert!(found("new-room", "ir"));
    }

    #[test]
    fn the_table_has_no_cycle() {
        let mut done: Vec<&str> = Vec::new();
        while done.len() < ALLOWED.len() {
            let ready = |(room, targets): &&(&str, &[&str])| {
                !done.contains(room) && targets.iter().all(|target| done.contains(target))
            };
            let next = ALLOWED.iter().find(ready).expect("a room without open arrows");
            done.push(next.0);
        }
    }
}
