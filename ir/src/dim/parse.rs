//! Reading the text form, and the expressions that exporters write into `dim_param`.
//!
//! `s0//2`, `floor(x/2)`, `Max(1, s0)` are accepted beside our own form. `/` means a fraction inside `floor` and
//! `ceil` and belongs to a name elsewhere (`/model/len`), if a letter follows it.

use std::str::FromStr;

use super::{Dim, DimError};

/// Nesting beyond this is an error: a thread's stack must hold it. What [`super::MAX_NESTING`] allows to print is below it.
const MAX_DEPTH: u32 = 160;

impl FromStr for Dim {
    type Err = DimError;

    fn from_str(text: &str) -> Result<Dim, DimError> {
        let mut parser = Parser { text, at: 0, depth: 0, fractions: false };
        let dim = parser.whole_sum()?;
        parser.skip_space();
        if parser.at < text.len() {
            return Err(parser.expected("an operator or the end"));
        }
        Ok(dim)
    }
}

/// Whether a symbol is printed without quotes.
pub(super) fn is_plain(name: &str) -> bool {
    let mut parser = Parser { text: name, at: 0, depth: 0, fractions: false };
    parser.name().is_some_and(|read| read == name)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
    /// Whether `/` is division.
    fractions: bool,
}

/// A number over a divisor; the divisor is 1 except inside `floor` and `ceil`.
struct Fraction {
    number: Dim,
    by: Dim,
}

impl Fraction {
    fn whole(number: Dim) -> Fraction {
        Fraction { number, by: Dim::constant(1) }
    }

    fn plus(self, other: Fraction) -> Fraction {
        if self.by == other.by {
            return Fraction { number: self.number + other.number, by: self.by };
        }
        let number = &self.number * &other.by + &other.number * &self.by;
        Fraction { number, by: self.by * other.by }
    }

    fn negated(self) -> Fraction {
        Fraction { number: -self.number, by: self.by }
    }

    fn times(self, other: Fraction) -> Fraction {
        Fraction { number: self.number * other.number, by: self.by * other.by }
    }

    fn over(self, other: Fraction) -> Fraction {
        Fraction { number: self.number * other.by, by: self.by * other.number }
    }
}

impl<'a> Parser<'a> {
    fn expected(&self, expected: &'static str) -> DimError {
        DimError::Syntax { text: self.text.to_string(), at: self.at, expected }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn want(&mut self, token: &'static str) -> Result<(), DimError> {
        if self.eat(token) { Ok(()) } else { Err(self.expected(token)) }
    }

    /// A sum in which `/` is not division.
    fn whole_sum(&mut self) -> Result<Dim, DimError> {
        let outer = std::mem::replace(&mut self.fractions, false);
        let sum = self.sum()?;
        self.fractions = outer;
        Ok(sum.number)
    }

    fn fraction(&mut self) -> Result<Fraction, DimError> {
        let outer = std::mem::replace(&mut self.fractions, true);
        let sum = self.sum()?;
        self.fractions = outer;
        Ok(sum)
    }

    fn sum(&mut self) -> Result<Fraction, DimError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.expected("less nesting"));
        }
        let mut sum = self.product()?;
        loop {
            if self.eat("+") {
                sum = sum.plus(self.product()?);
            } else if self.eat("-") {
                sum = sum.plus(self.product()?.negated());
            } else {
                self.depth -= 1;
                return Ok(sum);
            }
        }
    }

    fn product(&mut self) -> Result<Fraction, DimError> {
        let mut product = self.factor()?;
        loop {
            if self.eat("*") {
                product = product.times(self.factor()?);
            } else if self.eat("//") {
                let quotient = product.over(self.factor()?);
                product = Fraction::whole(quotient.number.floor_div(&quotient.by));
            } else if self.fractions && self.eat("/") {
                product = product.over(self.factor()?);
            } else {
                return Ok(product);
            }
        }
    }

    fn factor(&mut self) -> Result<Fraction, DimError> {
        let mut negative = false;
        while self.eat("-") {
            negative = !negative;
        }
        self.skip_space();
        if self.rest().starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(Fraction::whole(self.number(negative)));
        }
        let factor = self.primary()?;
        Ok(if negative { factor.negated() } else { factor })
    }

    fn number(&mut self, negative: bool) -> Dim {
        let rest = self.rest();
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        self.at += digits;
        let end = if negative { i64::MIN } else { i64::MAX };
        let sign = if negative { "-" } else { "" };
        Dim::constant(format!("{sign}{}", &rest[..digits]).parse().unwrap_or(end))
    }

    fn primary(&mut self) -> Result<Fraction, DimError> {
        if self.eat("(") {
            let inner = self.sum()?;
            self.want(")")?;
            return Ok(inner);
        }
        if self.rest().starts_with('"') {
            return self.quoted().map(|name| Fraction::whole(Dim::sym(&name)));
        }
        let start = self.at;
        let Some(name) = self.name() else {
            return Err(self.expected("a number, a symbol, a function or `(`"));
        };
        if !self.eat("(") {
            return Ok(Fraction::whole(Dim::sym(name)));
        }
        let dim = self.call(name, start)?;
        self.want(")")?;
        Ok(Fraction::whole(dim))
    }

    fn call(&mut self, function: &str, start: usize) -> Result<Dim, DimError> {
        match function.to_ascii_lowercase().as_str() {
            "floor" => self.fraction().map(|value| value.number.floor_div(&value.by)),
            "ceil" | "ceiling" => self.fraction().map(|value| value.number.ceil_div(&value.by)),
            "floordiv" => self.pair().map(|(number, by)| number.floor_div(&by)),
            "ceildiv" => self.pair().map(|(number, by)| number.ceil_div(&by)),
            "min" => self.list().map(Dim::min_of),
            "max" => self.list().map(Dim::max_of),
            _ => {
                self.at = start;
                Err(self.expected("one of floor, ceil, floordiv, ceildiv, min, max before `(`"))
            }
        }
    }

    fn pair(&mut self) -> Result<(Dim, Dim), DimError> {
        let number = self.whole_sum()?;
        self.want(",")?;
        Ok((number, self.whole_sum()?))
    }

    fn list(&mut self) -> Result<Vec<Dim>, DimError> {
        let mut dims = vec![self.whole_sum()?];
        while self.eat(",") {
            dims.push(self.whole_sum()?);
        }
        Ok(dims)
    }

    /// A symbol's name without quotes, from here.
    fn name(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let mut end = 0;
        for (at, c) in rest.char_indices() {
            let belongs = match c {
                '0'..='9' => at > 0,
                '/' => {
                    !self.fractions
                        && rest[at + 1..].starts_with(|next: char| next.is_ascii_alphabetic() || next == '_')
                }
                c => c.is_ascii_alphabetic() || "_.?:$#".contains(c),
            };
            if !belongs {
                break;
            }
            end = at + c.len_utf8();
        }
        self.at += end;
        (end > 0).then_some(&rest[..end])
    }

    fn quoted(&mut self) -> Result<String, DimError> {
        let start = self.at;
        let mut name = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            let c = match c {
                '"' => {
                    self.at = start + at + 1;
                    return Ok(name);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, 'r')) => '\r',
                    Some((_, 't')) => '\t',
                    Some((_, c @ ('"' | '\\'))) => c,
                    _ => {
                        return Err(self.expected("an escape of \\n \\r \\t \\\" \\\\ in the quoted symbol"));
                    }
                },
                c => c,
            };
            name.push(c);
        }
        Err(self.expected("a closing quote for the symbol"))
    }
}
