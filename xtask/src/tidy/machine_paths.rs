//! No file names a place on the machine it was made on: such paths are wrong everywhere else, and tell what nobody asked.
//!
//! Models and other binary files are searched too; exporters like to write stack traces into them.

use super::File;

/// First folders of absolute paths that differ from machine to machine.
const ROOTS: [&str; 4] = ["home", "root", "work", "Users"];

/// One finding per file, at its first such path.
pub fn check(files: &[File]) -> Vec<String> {
    files.iter().filter_map(first_path).collect()
}

fn first_path(file: &File) -> Option<String> {
    let places = ROOTS.iter().filter_map(|root| {
        ["/", "\\"].iter().filter_map(|slash| find(&file.bytes, format!("{slash}{root}{slash}").as_bytes())).min()
    });
    let at = places.min()?;
    let line = file.bytes[..at].iter().filter(|&&b| b == b'\n').count() + 1;
    let shown: Vec<u8> = file.bytes[at..].iter().copied().take_while(u8::is_ascii_graphic).take(60).collect();
    let shown = String::from_utf8_lossy(&shown);
    Some(format!("{}:{line}: names a place on one machine: {shown}", file.path))
}

/// The first place of `path` where it begins an absolute path, not the middle of a longer one or of an address.
fn find(bytes: &[u8], path: &[u8]) -> Option<usize> {
    let inside = |b: &u8| b.is_ascii_alphanumeric() || b"_-.~/}\\".contains(b);
    let places = bytes.windows(path.len()).enumerate();
    places.filter(|(_, window)| *window == path).map(|(at, _)| at).find(|&at| at == 0 || !inside(&bytes[at - 1]))
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    /// Written in parts, so that this file passes its own check.
    fn place(root: &str) -> String {
        format!("/{root}/me/model.onnx")
    }

    #[test]
    fn absolute_paths_of_a_machine_are_found_with_their_line() {
        for root in ROOTS {
            let found = check(&[file("docs/a.md", &format!("one\nsee {}", place(root)))]);
            assert_eq!(found, [format!("docs/a.md:2: names a place on one machine: {}", place(root))]);
        }
        let windows = format!("C:{}", place("Users").replace('/', "\\"));
        assert_eq!(check(&[file("a.md", &windows)]).len(), 1);
    }

    #[test]
    fn binary_files_are_searched() {
        let mut model = file("m.onnx", "");
        model.bytes = [b"\xff\x00", place("home").as_bytes(), b"\xff"].concat();
        assert_eq!(check(&[model]).len(), 1);
    }

    #[test]
    fn relative_paths_and_addresses_pass() {
        let text =
            ["docs", "~", "https://x.org", "{folder}"].map(|before| before.to_string() + &place("work")).join(" ");
        assert_eq!(check(&[file("a.md", &text)]), [""; 0]);
    }
}
