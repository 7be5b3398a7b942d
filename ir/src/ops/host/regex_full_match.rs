use super::{DType, Datum, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{invalid, moves_data, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;
use regex::Regex;

op! {
    /// `regex_full_match(x) {pattern}`: whether each text as a whole matches a regular expression (RE2's syntax).
    pub struct RegexFullMatch { pattern: String }
}

impl RegexFullMatch {
    fn regex(&self) -> Result<Regex, String> {
        let wrong = |e: regex::Error| format!("the pattern is no regular expression: {e}");
        // On its own first: the anchors must not complete a pattern that is none.
        Regex::new(&self.pattern).map_err(wrong)?;
        Regex::new(&format!("\\A(?:{})\\z", self.pattern)).map_err(wrong)
    }
}

impl OpSpec for RegexFullMatch {
    const NAME: &'static str = "regex_full_match";
    const SAMPLES: &'static [&'static str] =
        &["graph @g(%x: string[N, 3]) { %y = regex_full_match(%x) {pattern = \"s|s[1-3]+\"} return %y }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        if x.dtype != DType::Str {
            return Err(operands.wrong(0, format!("expected text, found {}", x.dtype)));
        }
        self.regex().map_err(TypeError::Invalid)?;
        Ok(vec![TensorType { dtype: DType::Bool, shape: x.shape.clone() }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, regex) = (tensor(operands, 0)?, self.regex().map_err(invalid)?);
        let matches: Vec<bool> = x.strings()?.iter().map(|s| regex.is_match(s)).collect();
        Ok(vec![Tensor::from_bools(x.dims(), &matches)?.into()])
    }

    moves_data! {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        let x = Tensor::from_strings(&[1], vec![text.into()]).unwrap().into();
        let y = RegexFullMatch { pattern: pattern.into() }.eval(&[&x]).unwrap();
        y[0].as_tensor().unwrap().to_bools().unwrap()[0]
    }

    #[test]
    fn alternatives_match_as_a_whole() {
        assert!(matches("a|ab", "ab"));
        assert!(!matches("a|ab", "abc"));
        assert!(!matches("a", "a\n"));
    }

    #[test]
    fn a_pattern_that_only_the_anchors_complete_is_refused() {
        assert!(RegexFullMatch { pattern: "a)|(b".into() }.regex().is_err());
    }
}
