//! When to stop generating: an end token, a stop string, the number of tokens asked for, or a full context.
//!
//! A stop string may span tokens, so text that could still grow into one is held back:
//!
//! ```text
//! stop strings: ["\nROMEO"]
//! push("Adieu.\nRO") -> "Adieu."
//! push("SALINE")     -> "\nROSALINE"
//! push(" no\nROMEO") -> " no", stopped
//! ```

use crate::text::{ModelConfig, TextError};

/// Why a generation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// The model chose an end token.
    EndToken(u32),
    /// The text came to a stop string, which is not part of the answer.
    StopString(String),
    /// As many tokens as asked for were generated.
    MaxTokens,
    /// Prompt and answer fill the model's context.
    ContextFull,
}

/// The conditions under which a generation ends; [`StopRules::default`] has none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StopRules {
    /// End tokens; they are not part of the text.
    pub eos_token_ids: Vec<u32>,
    /// Texts to stop before.
    pub strings: Vec<String>,
    /// New tokens at most.
    pub max_new_tokens: Option<usize>,
    /// Tokens of prompt and answer together at most.
    pub context: Option<usize>,
}

impl StopRules {
    /// The model's own rules: its end tokens and its context.
    pub fn of_model(config: &ModelConfig) -> Self {
        Self { eos_token_ids: config.eos_token_ids.clone(), context: config.max_position_embeddings, ..Self::default() }
    }

    /// The same rules with a limit on new tokens.
    pub fn with_max_new_tokens(mut self, count: usize) -> Self {
        self.max_new_tokens = Some(count);
        self
    }

    /// The same rules with strings to stop before.
    pub fn with_strings(mut self, strings: Vec<String>) -> Self {
        self.strings = strings;
        self
    }

    /// The limit reached after `new_tokens` tokens that follow a prompt of `prompt_tokens`, if any.
    pub fn limit_reached(&self, prompt_tokens: usize, new_tokens: usize) -> Option<StopReason> {
        if self.max_new_tokens.is_some_and(|max| new_tokens >= max) {
            return Some(StopReason::MaxTokens);
        }
        if self.context.is_some_and(|context| prompt_tokens + new_tokens >= context) {
            return Some(StopReason::ContextFull);
        }
        None
    }
}

/// Watches a text that arrives in pieces for the first stop string to be complete.
///
/// How the text is cut into pieces makes no difference. Of two stop strings completed by the same character the one
/// that begins first wins.
#[derive(Debug)]
pub struct StopStrings {
    strings: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Fails if one of the strings is empty.
    pub fn new(strings: Vec<String>) -> Result<Self, TextError> {
        match strings.iter().position(String::is_empty) {
            Some(index) => Err(TextError::EmptyStop { index }),
            None => Ok(Self { strings, held: String::new() }),
        }
    }

    /// Adds a piece; returns the text that no stop string can begin in any more, and the stop string if one is
    /// complete: the text then ends before it, and what follows it is dropped.
    pub fn push(&mut self, piece: &str) -> (String, Option<String>) {
        for letter in piece.chars() {
            self.held.push(letter);
            if let Some(stop) = self.completed() {
                let keep = self.held.len() - stop.len();
                self.held.truncate(keep);
                return (std::mem::take(&mut self.held), Some(stop));
            }
        }
        let certain = self.certain_bytes();
        (self.held.drain(..certain).collect(), None)
    }

    /// Ends the text: returns what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    fn completed(&self) -> Option<String> {
        let ending = self.strings.iter().filter(|stop| self.held.ends_with(stop.as_str()));
        ending.max_by_key(|stop| stop.len()).cloned()
    }

    /// Length of the held text before the first place where the rest could grow into a stop string.
    fn certain_bytes(&self) -> usize {
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0);
        let first = self.held.len().saturating_sub(longest);
        (first..self.held.len())
            .filter(|&start| self.held.is_char_boundary(start))
            .find(|&start| self.strings.iter().any(|stop| stop.starts_with(&self.held[start..])))
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn watcher(strings: &[&str]) -> StopStrings {
        StopStrings::new(strings.iter().map(|s| s.to_string()).collect()).unwrap()
    }

    /// The text shown before the stop or the end, and the stop.
    fn shown(strings: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut watcher = watcher(strings);
        let mut text = String::new();
        for piece in pieces {
            let (more, stop) = watcher.push(piece);
            text += &more;
            if stop.is_some() {
                return (text, stop);
            }
        }
        (text + &watcher.finish(), None)
    }

    #[test]
    fn holds_back_only_what_may_still_become_a_stop_string() {
        let mut watcher = watcher(&["\nROMEO"]);
        assert_eq!(watcher.push("Adieu.\nRO"), ("Adieu.".into(), None));
        assert_eq!(watcher.push("SALINE"), ("\nROSALINE".into(), None));
        assert_eq!(watcher.push(" no\nROMEO: x"), (" no".into(), Some("\nROMEO".into())));
    }

    #[test]
    fn finish_returns_the_held_text() {
        assert_eq!(shown(&["END"], &["the E", "N"]), ("the EN".into(), None));
    }

    #[test]
    fn a_false_start_inside_a_stop_string_is_found() {
        assert_eq!(shown(&["aab"], &["a", "a", "a", "b"]), ("a".into(), Some("aab".into())));
    }

    #[test]
    fn the_first_to_be_complete_wins_and_then_the_longest() {
        assert_eq!(shown(&["abcd", "bc"], &["abcd"]), ("a".into(), Some("bc".into())));
        assert_eq!(shown(&["c", "bc"], &["abcd"]), ("a".into(), Some("bc".into())));
    }

    #[test]
    fn characters_of_many_bytes_are_not_split() {
        assert_eq!(shown(&["né"], &["né", "n"]), (String::new(), Some("né".into())));
        assert_eq!(shown(&["éé"], &["né", "è"]), ("néè".into(), None));
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = StopStrings::new(vec!["a".into(), String::new()]).unwrap_err();
        assert!(error.to_string().starts_with("stop string 1 is empty"));
    }

    #[test]
    fn limits_count_prompt_and_answer() {
        let rules = StopRules { context: Some(10), ..StopRules::default().with_max_new_tokens(4) };
        assert_eq!(rules.limit_reached(2, 3), None);
        assert_eq!(rules.limit_reached(2, 4), Some(StopReason::MaxTokens));
        assert_eq!(rules.limit_reached(7, 3), Some(StopReason::ContextFull));
    }

    proptest! {
        #[test]
        fn the_cut_into_pieces_makes_no_difference(
            pieces in prop::collection::vec("[abé]{0,4}", 0..12),
            strings in prop::collection::vec("[abé]{1,4}", 1..4),
        ) {
            let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            prop_assert_eq!(shown(&strings, &pieces), shown(&strings, &[&whole]));
            let (text, _) = shown(&strings, &pieces);
            prop_assert!(strings.iter().all(|stop| !text.contains(stop)));
        }
    }
}
