//! The files of the tree, and the code of a Rust file: without comments, strings and tests.

use std::path::Path;
use std::process::Command;

use super::File;

/// Every file that git tracks or would track, in order of its path.
pub fn files(root: &Path) -> Result<Vec<File>, String> {
    let listing = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .map_err(|e| format!("cannot start git: {e}"))?;
    if !listing.status.success() {
        return Err("git ls-files failed: tidy runs in a git checkout".into());
    }
    let listing = String::from_utf8_lossy(&listing.stdout);
    let mut paths: Vec<&str> = listing.split_terminator('\0').collect();
    paths.sort_unstable();
    paths.dedup();
    let mut files = Vec::new();
    for path in paths {
        let on_disk = root.join(path);
        if on_disk.is_file() {
            let bytes = std::fs::read(on_disk).map_err(|e| format!("cannot read {path}: {e}"))?;
            files.push(File { path: path.into(), bytes });
        }
    }
    Ok(files)
}

/// Whether the whole file is test code: a `tests` or `benches` folder, or a `tests.rs`.
pub fn is_test(path: &str) -> bool {
    let mut parts: Vec<&str> = path.split('/').collect();
    let name = parts.pop().unwrap_or_default();
    let folder = |part: &&str| matches!(*part, "tests" | "benches" | "fuzz");
    parts.iter().any(folder) || name == "tests.rs"
}

/// The text up to the test module at its end.
pub fn without_tests(text: &str) -> &str {
    let test_module = text.match_indices("#[cfg(test)]\n").find(|(at, marker)| {
        let next = text[at + marker.len()..].lines();
        let mut item = next.skip_while(|line| line.starts_with("#["));
        item.next().is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
    });
    test_module.map_or(text, |(at, _)| &text[..at])
}

/// The code with comments and the contents of strings and characters left out; lines stay where they are.
pub fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let skipped = skipped_bytes(rest, code.chars().next_back());
        if skipped == 0 {
            code.push(letter);
            rest = &rest[letter.len_utf8()..];
            continue;
        }
        code.push(' ');
        code.extend(rest[..skipped].chars().filter(|&c| c == '\n'));
        rest = &rest[skipped..];
    }
    code
}

/// Length of the comment or literal that `rest` begins with; 0 if it begins with code.
fn skipped_bytes(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with('r') && (!in_word || before == Some('b')) {
        let hashes = rest[1..].bytes().take_while(|&b| b == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = 2 + hashes;
            let end = rest[open..].find(&close);
            return end.map_or(rest.len(), |end| open + end + close.len());
        }
    }
    if rest.starts_with('"') {
        return quoted(rest, '"').unwrap_or(rest.len());
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    0
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let bytes = rest.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => depth += 1,
            [b'*', b'/', ..] => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Length of a literal in quotes, escapes respected.
fn quoted(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Length of a character literal; 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut letters = rest[1..].chars();
    let first = letters.next();
    if first == Some('\\') || letters.next() == Some('\'') {
        return quoted(rest, '\'').unwrap_or(0);
    }
    0
}

/// The identifiers and keywords of some code, each with its line, counted from 1.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(index, line)| {
        let words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        words.filter(|word| !word.is_empty()).map(move |word| (index + 1, word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_of(text: &str) -> Vec<String> {
        let code = code_of(text);
        words(&code).map(|(_, word)| word.to_string()).collect()
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        assert_eq!(words_of("a // unsafe\nb /* unsafe /* x */ unsafe */ c"), ["a", "b", "c"]);
        assert_eq!(words_of(r#"a("un\"safe", b"unsafe") c"#), ["a", "b", "c"]);
        assert_eq!(words_of("a r#\"un\"safe\"# br\"unsafe\" c"), ["a", "b", "c"]);
    }

    #[test]
    fn lifetimes_and_characters_are_told_apart() {
        assert_eq!(words_of("f<'a>('\"', '\\'', 'x') unsafe"), ["f", "a", "unsafe"]);
    }

    #[test]
    fn lines_keep_their_numbers() {
        let code = code_of("/* one\ntwo */ a\n\"x\ny\" b");
        assert_eq!(words(&code).collect::<Vec<_>>(), [(2, "a"), (4, "b")]);
    }

    #[test]
    fn the_test_module_at_the_end_is_cut_off() {
        let text = "fn a() {}\n#[cfg(test)]\nfn helper() {}\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(without_tests(text), "fn a() {}\n#[cfg(test)]\nfn helper() {}\n");
        assert_eq!(without_tests("#[cfg(test)]\nmod tests;\nfn a() {}\n").lines().count(), 3);
    }
}
