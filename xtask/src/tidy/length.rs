//! A Rust file has at most 500 lines, its test module not counted: beyond that it is two files.

use super::{File, source};

const MOST_LINES: usize = 500;

/// One finding per file that is too long.
pub fn check(files: &[File]) -> Vec<String> {
    let code = files.iter().filter(|file| file.is_rust() && !source::is_test(&file.path));
    code.filter_map(|file| {
        let lines = source::without_tests(file.text()?).lines().count();
        (lines > MOST_LINES)
            .then(|| format!("{}: {lines} lines without tests; split it (at most {MOST_LINES})", file.path))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn lines_of_tests_do_not_count() {
        let long = "fn f() {}\n".repeat(MOST_LINES);
        let tests = format!("{long}#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(check(&[file("ir/src/a.rs", &tests), file("ir/src/dim/tests.rs", &tests)]), [""; 0]);
        assert_eq!(check(&[file("ir/src/a.rs", &(long + "\n"))]).len(), 1);
    }
}
