//! The list of known gaps.
//!
//! ```text
//! # Sums that the expected results round
//! node/test_attention_4d_causal_bf16: partial sums are not rounded here
//! test_dft_inverse: the expected zeros are noise
//! ```

use crate::failure::Failure;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Reasons by the name of a case, or its last part.
#[derive(Default)]
pub struct Known(BTreeMap<String, String>);

impl Known {
    /// Reads lists.
    pub fn read(paths: &[PathBuf]) -> Result<Known, Failure> {
        let mut all = Known::default();
        for path in paths {
            let text = fs::read_to_string(path).map_err(|e| Failure::file(path, e))?;
            let known = Known::parse(&text).map_err(|e| Failure::work(format!("{}: {e}", path.display())))?;
            all.0.extend(known.0);
        }
        Ok(all)
    }

    fn parse(text: &str) -> Result<Known, String> {
        let mut known = BTreeMap::new();
        for (i, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, reason) = line.split_once(':').unwrap_or((line, ""));
            if reason.trim().is_empty() {
                return Err(format!("line {}: `{name}` has no reason; write `NAME: REASON`", i + 1));
            }
            known.insert(name.trim().to_string(), reason.trim().to_string());
        }
        Ok(Known(known))
    }

    /// Why the case is known not to pass.
    pub fn reason(&self, name: &str) -> Option<&str> {
        let last = name.rsplit('/').next().unwrap_or(name);
        self.0.get(name).or_else(|| self.0.get(last)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_found_by_path_or_by_name() {
        let known = Known::parse("# gaps\nnode/test_a: slow\ntest_b: odd: very\n").unwrap();
        assert_eq!(known.reason("node/test_a"), Some("slow"));
        assert_eq!(known.reason("other/test_a"), None);
        assert_eq!(known.reason("node/test_b"), Some("odd: very"));
    }

    #[test]
    fn a_gap_needs_a_reason() {
        assert!(Known::parse("test_a").err().unwrap().contains("line 1"));
    }
}
