//! The answer as it grows: ids in, text to show out, until a stop rule says so.

use crate::text::{StopReason, StopRules, StopStrings, TextError, TextStream, Tokenizer};

/// The text side of one generation: joins [`TextStream`] and [`StopRules`].
pub struct Output<'t> {
    stream: TextStream<'t>,
    strings: StopStrings,
    rules: StopRules,
    prompt_tokens: usize,
    new_tokens: usize,
    stopped: Option<StopReason>,
}

impl<'t> Output<'t> {
    /// An empty answer to a prompt of `prompt_tokens`; fails if the prompt fills the context or a stop string is empty.
    pub fn new(tokenizer: &'t Tokenizer, rules: StopRules, prompt_tokens: usize) -> Result<Self, TextError> {
        if let Some(context) = rules.context.filter(|&context| prompt_tokens >= context) {
            return Err(TextError::PromptTooLong { prompt: prompt_tokens, context });
        }
        Ok(Self {
            stream: TextStream::new(tokenizer),
            strings: StopStrings::new(rules.strings.clone())?,
            stopped: rules.limit_reached(prompt_tokens, 0),
            rules,
            prompt_tokens,
            new_tokens: 0,
        })
    }

    /// Why the answer is complete; `None` while another token is wanted.
    pub fn stopped(&self) -> Option<&StopReason> {
        self.stopped.as_ref()
    }

    /// Adds a generated id; returns the text to show now. The last call before a stop returns all that was held back;
    /// after a stop nothing is added.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        if self.stopped.is_some() {
            return Ok(String::new());
        }
        self.new_tokens += 1;
        if self.rules.eos_token_ids.contains(&id) {
            self.stopped = Some(StopReason::EndToken(id));
            return self.flush();
        }
        let piece = self.stream.push(id)?;
        let mut text = self.watch(&piece);
        if self.stopped.is_none() {
            self.stopped = self.rules.limit_reached(self.prompt_tokens, self.new_tokens);
            if self.stopped.is_some() {
                text += &self.flush()?;
            }
        }
        Ok(text)
    }

    /// Ends the answer from outside (an interrupt): returns the text that was held back.
    pub fn finish(mut self) -> Result<String, TextError> {
        match self.stopped {
            Some(_) => Ok(String::new()),
            None => self.flush(),
        }
    }

    fn flush(&mut self) -> Result<String, TextError> {
        let tail = self.stream.finish()?;
        let text = self.watch(&tail);
        Ok(text + &self.strings.finish())
    }

    /// Passes a piece through the stop strings; one that is complete here overrides any other reason.
    fn watch(&mut self, piece: &str) -> String {
        let (text, stop) = self.strings.push(piece);
        if let Some(stop) = stop {
            self.stopped = Some(StopReason::StopString(stop));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::samples;

    fn answer(rules: StopRules, prompt: usize, ids: &[u32]) -> (String, Option<StopReason>, usize) {
        let tokenizer = samples::byte_level();
        let mut output = Output::new(&tokenizer, rules, prompt).unwrap();
        let mut text = String::new();
        let mut used = 0;
        for &id in ids {
            if output.stopped().is_some() {
                break;
            }
            used += 1;
            text += &output.push(id).unwrap();
        }
        let stop = output.stopped().cloned();
        (text + &output.finish().unwrap(), stop, used)
    }

    fn ids(text: &str) -> Vec<u32> {
        samples::byte_level().encode(text).unwrap()
    }

    #[test]
    fn an_end_token_stops_and_shows_nothing() {
        let end = samples::byte_level().id_of("<|end|>").unwrap();
        let rules = StopRules { eos_token_ids: vec![3, end], ..StopRules::default() };
        let (text, stop, _) = answer(rules, 1, &ids("the cat<|end|> the"));
        assert_eq!((text.as_str(), stop), ("the cat", Some(StopReason::EndToken(end))));
    }

    #[test]
    fn a_stop_string_that_ends_inside_a_token_cuts_it() {
        let rules = StopRules::default().with_strings(vec!["cat, th".into()]);
        let (text, stop, _) = answer(rules, 1, &ids("the cat, the hat"));
        assert_eq!(text, "the ");
        assert_eq!(stop, Some(StopReason::StopString("cat, th".into())));
    }

    #[test]
    fn held_text_is_shown_when_the_limit_comes_first() {
        let all = ids("the cat");
        let rules = StopRules::default().with_strings(vec!["cat, th".into()]).with_max_new_tokens(all.len());
        let (text, stop, used) = answer(rules, 1, &[&all[..], &all[..]].concat());
        assert_eq!((text.as_str(), stop, used), ("the cat", Some(StopReason::MaxTokens), all.len()));
    }

    #[test]
    fn a_full_context_stops_and_a_prompt_that_fills_it_is_refused() {
        let rules = StopRules { context: Some(5), ..StopRules::default() };
        let (_, stop, used) = answer(rules.clone(), 3, &ids("the cat"));
        assert_eq!((stop, used), (Some(StopReason::ContextFull), 2));
        let tokenizer = samples::byte_level();
        let message = Output::new(&tokenizer, rules, 5).err().unwrap().to_string();
        assert!(message.contains("shorten the prompt to at most 4"), "{message}");
    }

    #[test]
    fn no_tokens_wanted_is_stopped_from_the_start() {
        let rules = StopRules::default().with_max_new_tokens(0);
        assert_eq!(answer(rules, 1, &ids("the")), (String::new(), Some(StopReason::MaxTokens), 0));
    }

    #[test]
    fn half_a_character_at_the_end_becomes_the_replacement_character() {
        let smile = ids("😀");
        let rules = StopRules::default().with_max_new_tokens(1);
        assert_eq!(answer(rules, 1, &smile).0, "\u{FFFD}");
    }
}
