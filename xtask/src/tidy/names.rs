//! Names kept to their files: a wrapped crate is named in one source file, `unsafe` in the files that need it.

use std::collections::BTreeMap;

use super::{File, source};

/// Crates that one file wraps, so that they can be replaced there. Tests may name them.
const WRAPPED: [&str; 4] = ["petgraph", "tract_onnx", "serde_yaml", "hip_sys"];

/// The files, and folders if they end in `/`, that may hold `unsafe`: instructions of one CPU, memory shared between threads or with a driver,
/// files mapped to memory.
const UNSAFE: [&str; 8] = [
    "backend-cpu/src/arena.rs",
    "backend-cpu/src/kernels/gemm/avx2.rs",
    "backend-cpu/src/kernels/gemm/avx512.rs",
    "backend-cpu/src/kernels/pool.rs",
    "backend-cpu/src/kernels/vectorise.rs",
    "backend-hip/src/device/",
    "ir/src/mmap.rs",
    "tests/src/counting_allocator.rs",
];

/// Findings for wrapped crates named in several files and for `unsafe` elsewhere.
pub fn check(files: &[File]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut homes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let Some(text) = file.text() else {
            findings.push(format!("{}: is not UTF-8", file.path));
            continue;
        };
        if let Some(line) = first_unsafe(text).filter(|_| !may_be_unsafe(&file.path)) {
            findings.push(format!(
                "{}:{line}: `unsafe` is not allowed here (the files are in xtask/src/tidy/names.rs)",
                file.path
            ));
        }
        if source::is_test(&file.path) {
            continue;
        }
        let code = source::code_of(source::without_tests(text));
        for name in WRAPPED {
            if let Some((line, _)) = source::words(&code).find(|(_, word)| *word == name) {
                let place = format!("{}:{line}", file.path);
                homes.entry(name).or_default().push(place);
            }
        }
    }
    for (name, places) in homes.into_iter().filter(|(_, places)| places.len() > 1) {
        let list = places.join(", ");
        findings.push(format!("{}: `{name}` is named in {} files ({list}); keep it to one", places[0], places.len()));
    }
    findings
}

fn may_be_unsafe(path: &str) -> bool {
    UNSAFE.iter().any(|allowed| match allowed.ends_with('/') {
        true => path.starts_with(allowed),
        false => path == *allowed,
    })
}

fn first_unsafe(text: &str) -> Option<usize> {
    let code = source::code_of(text);
    let found = source::words(&code).find(|(_, word)| *word == "unsafe");
    found.map(|(line, _)| line)
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn a_wrapped_crate_in_a_second_file_is_found() {
        let one = file("ir/src/graph.rs", "use petgraph::Graph;");
        let two = file("ir/src/order.rs", "fn f() {}\nuse petgraph::algo;");
        assert!(check(&[one]).is_empty());
        let one = file("ir/src/graph.rs", "use petgraph::Graph;");
        let findings = check(&[one, two]);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].contains("ir/src/order.rs:2"), "{findings:?}");
    }

    #[test]
    fn tests_and_comments_may_name_a_wrapped_crate() {
        let files = [
            file("ir/src/graph.rs", "use petgraph::Graph;"),
            file("ir/src/order.rs", "// as petgraph does\n#[cfg(test)]\nmod tests {\n    use petgraph::algo;\n}\n"),
            file("tests/tests/oracle.rs", "use petgraph::algo;"),
        ];
        assert_eq!(check(&files), [""; 0]);
    }

    #[test]
    fn unsafe_outside_its_files_is_found_in_tests_too() {
        let text = "fn f() {\n    unsafe { g() }\n}";
        assert!(check(&[file("ir/src/mmap.rs", text)]).is_empty());
        assert!(check(&[file("backend-hip/src/device/queue.rs", text)]).is_empty());
        assert_eq!(check(&[file("ir/src/graph.rs", text)])[0].split(": ").next(), Some("ir/src/graph.rs:2"));
        assert_eq!(check(&[file("tests/tests/x.rs", text)]).len(), 1);
        assert!(check(&[file("ir/src/graph.rs", "#![deny(unsafe_code)] // unsafe\n")]).is_empty());
    }
}
