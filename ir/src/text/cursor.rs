//! A position in a text, with the few moves that the parser needs.

/// Where reading stands.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Cursor<'a> {
        Cursor { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// The line number of the position, from 1.
    pub(super) fn line(&self) -> usize {
        self.text[..self.at].matches('\n').count() + 1
    }

    /// Skips white space and comments.
    pub(super) fn skip(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    pub(super) fn at_end(&mut self) -> bool {
        self.skip();
        self.rest().is_empty()
    }

    /// Whether the next characters, after space, are `token`.
    pub(super) fn peek(&mut self, token: &str) -> bool {
        self.skip();
        self.rest().starts_with(token)
    }

    /// Takes `token` if it comes next.
    pub(super) fn take(&mut self, token: &str) -> bool {
        let found = self.peek(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Takes the word `token` if it comes next and no letter follows.
    pub(super) fn take_word(&mut self, token: &str) -> bool {
        let follows = |c: char| c.is_alphanumeric() || c == '_';
        if !self.peek(token) || self.rest()[token.len()..].starts_with(follows) {
            return false;
        }
        self.at += token.len();
        true
    }

    /// A run of characters that `f` accepts.
    pub(super) fn run(&mut self, f: impl Fn(char) -> bool) -> &'a str {
        self.skip();
        let rest = self.rest();
        let end = rest.find(|c| !f(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// A name: bare, or quoted with Rust's escapes.
    pub(super) fn name(&mut self) -> Option<String> {
        if self.peek("\"") {
            return self.quoted();
        }
        let rest = self.rest();
        let mut end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_./:-$#".contains(c))).unwrap_or(rest.len());
        if let Some(comment) = rest[..end].find("//") {
            end = comment;
        }
        // A colon or dash at the end belongs to what follows: `%x: f32[]`.
        while end > 0 && rest[..end].ends_with([':', '-']) {
            end -= 1;
        }
        self.at += end;
        (end > 0).then(|| rest[..end].to_string())
    }

    /// A text in quotes.
    pub(super) fn quoted(&mut self) -> Option<String> {
        if !self.take("\"") {
            return None;
        }
        let mut out = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Some(out);
                }
                '\\' => match chars.next()?.1 {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    '0' => out.push('\0'),
                    'u' => {
                        chars.next().filter(|(_, c)| *c == '{')?;
                        let mut code = 0u32;
                        loop {
                            match chars.next()?.1 {
                                '}' => break,
                                d => code = code.checked_mul(16)?.checked_add(d.to_digit(16)?)?,
                            }
                        }
                        out.push(char::from_u32(code)?);
                    }
                    other => out.push(other),
                },
                other => out.push(other),
            }
        }
        None
    }

    /// Text up to one of `ends` outside brackets and quotes, trimmed; the end itself stays.
    pub(super) fn until(&mut self, ends: &[char]) -> &'a str {
        self.skip();
        let rest = self.rest();
        let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
        let mut end = rest.len();
        for (i, c) in rest.char_indices() {
            if escaped {
                escaped = false;
                continue;
            }
            if quoted {
                match c {
                    '\\' => escaped = true,
                    '"' => quoted = false,
                    _ => {}
                }
                continue;
            }
            if depth == 0 && ends.contains(&c) {
                end = i;
                break;
            }
            match c {
                '"' => quoted = true,
                '(' | '[' | '{' | '<' => depth += 1,
                ')' | ']' | '}' | '>' if depth > 0 => depth -= 1,
                _ => {}
            }
        }
        self.at += end;
        rest[..end].trim()
    }

    /// A word and the bracketed group that follows it, if one does: `f32[B, S]`, `seq<f32[..]>`, `none`.
    pub(super) fn type_text(&mut self) -> &'a str {
        self.skip();
        let rest = self.rest();
        let word = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let mut end = word;
        if rest[word..].starts_with(['[', '<']) {
            let inside = Cursor { text: self.text, at: self.at + word + 1 }.until(&[']', '>']);
            let after = &rest[word + 1..];
            let skipped = after.len() - after.trim_start().len();
            end = (word + 1 + skipped + inside.len()).min(rest.len());
            end += rest[end..].find([']', '>']).map_or(0, |i| i + 1);
        }
        self.at += end;
        &rest[..end]
    }
}
