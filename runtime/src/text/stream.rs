//! Streaming decoder: push ids, get the text that is complete so far.
//!
//! A token may end in the middle of a character, and the text of a token may depend on the one before it (a
//! SentencePiece decoder strips the first space of a text only). So a short window of ids is decoded as a whole; what
//! it adds to the text already given is new, and U+FFFD at its end is held back, since later bytes may complete it:
//!
//! ```text
//! push("caf")   -> "caf"
//! push(0xC3)    -> ""          half a character
//! push(0xA9)    -> "é"
//! finish()      -> ""
//! ```
//!
//! The pieces put together are the decoded text of all ids. One exception has no remedy: with byte-fallback tokens a
//! stray byte turns the whole run of byte tokens before it into U+FFFD, and what was given is not taken back.

use crate::text::{TextError, Tokenizer};

/// Undecided ids at which the start of the window is settled even though its end is not.
const MAX_UNDECIDED: usize = 32;

/// Turns a stream of ids into pieces of text; see the module's comment.
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    /// Context (already given, kept because the next text depends on it), then undecided ids.
    window: Vec<u32>,
    /// How many ids of the window are context.
    context: usize,
    /// The text of the window that was already given.
    given: String,
}

impl<'t> TextStream<'t> {
    /// A stream at the beginning of a text.
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, window: Vec::new(), context: 0, given: String::new() }
    }

    /// Adds one id; returns the text that is now certain, often one token's, possibly none.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window)?;
        let certain = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        let full = self.window.len() - self.context >= MAX_UNDECIDED;
        if certain.len() < text.len() {
            let piece = match certain.strip_prefix(self.given.as_str()) {
                Some(new) => new.to_string(),
                None => String::new(),
            };
            self.given.push_str(&piece);
            let settled = if full { self.settle_start(&text)? } else { String::new() };
            return Ok(piece + &settled);
        }
        let piece = self.not_given(&text)?;
        if !piece.is_empty() {
            self.window.drain(..self.context);
            self.context = self.window.len();
            self.given = self.tokenizer.decode(&self.window)?;
        } else if full {
            self.window.truncate(self.context);
        }
        Ok(piece)
    }

    /// Ends the text: returns what was held back, with U+FFFD for characters that were never completed.
    pub fn finish(&mut self) -> Result<String, TextError> {
        let text = self.tokenizer.decode(&self.window)?;
        let piece = self.not_given(&text)?;
        self.window.clear();
        self.context = 0;
        self.given.clear();
        Ok(piece)
    }

    /// The part of the window's `text` after what was given; where it contradicts that, the undecided ids' own text.
    fn not_given(&self, text: &str) -> Result<String, TextError> {
        match text.strip_prefix(self.given.as_str()) {
            Some(new) => Ok(new.to_string()),
            None => self.tokenizer.decode(&self.window[self.context..]),
        }
    }

    /// Bounds the window under an endless run of stray bytes: cuts it at the last place where both sides decode to
    /// the same `text` apart as together, and gives the first side.
    fn settle_start(&mut self, text: &str) -> Result<String, TextError> {
        for cut in (1..self.window.len()).rev() {
            let start = self.tokenizer.decode(&self.window[..cut])?;
            let rest = self.tokenizer.decode(&self.window[cut..])?;
            let Some(piece) = start.strip_prefix(self.given.as_str()) else {
                continue;
            };
            if rest.is_empty() || format!("{start}{rest}") != text {
                continue;
            }
            let piece = piece.to_string();
            self.window.drain(..cut);
            self.context = 0;
            self.given.clear();
            return Ok(piece);
        }
        Ok(String::new())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::samples;

    fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut stream = TextStream::new(tokenizer);
        let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        pieces
    }

    #[test]
    fn holds_half_a_character_back() {
        let tokenizer = samples::byte_level();
        let smile: Vec<u32> = "😀".bytes().map(|byte| tokenizer.id_of(&byte_token(byte)).unwrap()).collect();
        assert_eq!(pieces(&tokenizer, &smile), ["", "", "", "😀", ""]);
        assert_eq!(pieces(&tokenizer, &smile[..3]), ["", "", "", "\u{FFFD}"]);
    }

    #[test]
    fn gives_a_plain_token_at_once() {
        let tokenizer = samples::byte_level();
        let ids = tokenizer.encode("the cat").unwrap();
        let pieces = pieces(&tokenizer, &ids);
        assert_eq!(pieces.concat(), "the cat");
        assert!(pieces[..ids.len()].iter().all(|piece| !piece.is_empty()));
    }

    #[test]
    fn keeps_the_spaces_that_whole_text_decoding_keeps() {
        let tokenizer = samples::byte_fallback();
        let ids = tokenizer.encode("a a  b é 😀 c").unwrap();
        assert_eq!(pieces(&tokenizer, &ids).concat(), "a a  b é 😀 c");
        assert_eq!(pieces(&tokenizer, &ids)[..2], ["a", " a"]);
    }

    #[test]
    fn an_endless_run_of_stray_bytes_keeps_the_window_short() {
        let tokenizer = samples::byte_level();
        let stray = tokenizer.id_of(&byte_token(0xE2)).unwrap();
        let mut stream = TextStream::new(&tokenizer);
        let mut text = String::new();
        for _ in 0..500 {
            text += &stream.push(stray).unwrap();
            assert!(stream.window.len() <= MAX_UNDECIDED);
        }
        text += &stream.finish().unwrap();
        assert_eq!(text, "\u{FFFD}".repeat(500));
    }

    #[test]
    fn a_stray_byte_after_a_given_character_does_not_stall_the_stream() {
        let tokenizer = samples::byte_fallback();
        let stray = [0xC3u32, 0xA9, 0xFF, tokenizer.id_of("a").unwrap()];
        assert_eq!(pieces(&tokenizer, &stray), ["", "é", "", "\u{FFFD}a", ""]);
    }

    #[test]
    fn special_tokens_and_ids_outside_the_vocabulary_give_nothing() {
        let tokenizer = samples::byte_level();
        let end = tokenizer.id_of("<|end|>").unwrap();
        let the = tokenizer.id_of("the").unwrap();
        assert_eq!(pieces(&tokenizer, &[end, the, end, 70_000, the]), ["", "the", "", "", "the", ""]);
    }

    proptest! {
        #[test]
        fn pieces_of_random_ids_make_the_whole_text(ids in prop::collection::vec(0u32..270, 0..120)) {
            let tokenizer = samples::byte_level();
            prop_assert_eq!(pieces(&tokenizer, &ids).concat(), tokenizer.decode(&ids).unwrap());
        }

        #[test]
        fn pieces_of_random_high_bytes_make_the_whole_text(
            ids in prop::collection::vec(prop::sample::select(vec![0xE2u8, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0xC3, 0xEF, 0xBF, 0xBD, 0xFF, 0x41]), 0..200)
        ) {
            let tokenizer = samples::byte_level();
            let ids: Vec<u32> = ids.into_iter().map(|b| tokenizer.id_of(&byte_token(b)).unwrap()).collect();
            prop_assert_eq!(pieces(&tokenizer, &ids).concat(), tokenizer.decode(&ids).unwrap());
        }

        #[test]
        fn pieces_of_random_text_with_byte_fallback_make_the_whole_text(text in "[abc é😀ü]{0,40}") {
            let tokenizer = samples::byte_fallback();
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(pieces(&tokenizer, &ids).concat(), tokenizer.decode(&ids).unwrap());
        }
    }

    fn byte_token(byte: u8) -> String {
        samples::byte_char(byte).into()
    }
}
