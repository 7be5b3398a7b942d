use super::{DType, Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::ops::broadcast;
use crate::ops::reading::{invalid, moves_data, tensor};
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType};
use crate::{attr_enum, op};

op! {
    /// `string_concat(a, b)`: texts joined element by element, broadcasting.
    pub struct StringConcat {}
}

op! {
    /// `string_split(x) {delimiter, most}`: every text cut at the delimiter (at runs of spaces when it is empty), at most
    /// `most` times: the pieces, padded with empty texts to the longest, and how many there are.
    pub struct StringSplit { delimiter: String, most: Option<i64> }
}

attr_enum! {
    /// What happens to upper and lower case.
    pub enum CaseChange { None = "none", Lower = "lower", Upper = "upper" }
}

op! {
    /// `string_normalizer(x) {change, case_sensitive, stopwords}`: the texts of a vector (or of one row) without stop words,
    /// case changed. If none is left the result is one empty text.
    pub struct StringNormalizer { change: CaseChange, case_sensitive: bool, stopwords: Vec<String> }
}

fn takes_text(operands: &Operands<'_>, i: usize) -> Result<(), TypeError> {
    match operands.dtype(i)? {
        DType::Str => Ok(()),
        other => Err(operands.wrong(i, format!("expected text, found {other}"))),
    }
}

impl OpSpec for StringConcat {
    const NAME: &'static str = "string_concat";
    const SAMPLES: &'static [&'static str] =
        &["graph @g(%a: string[N, 2], %b: string[2]) { %y = string_concat(%a, %b) return %y }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        takes_text(operands, 0)?;
        takes_text(operands, 1)?;
        let shape = operands.broadcast(&[&operands.tensor(0)?.shape, &operands.tensor(1)?.shape])?;
        Ok(vec![TensorType { dtype: DType::Str, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (a, b) = (tensor(operands, 0)?, tensor(operands, 1)?);
        let dims = broadcast::shape(&[a.dims(), b.dims()])?;
        let (i, j) = (broadcast::indices(a.dims(), &dims), broadcast::indices(b.dims(), &dims));
        let (a, b) = (a.strings()?, b.strings()?);
        let joined = i.iter().zip(&j).map(|(i, j)| format!("{}{}", a[*i], b[*j])).collect();
        Ok(vec![Tensor::from_strings(&dims, joined)?.into()])
    }

    moves_data! {}
}

impl OpSpec for StringSplit {
    const NAME: &'static str = "string_split";
    const SAMPLES: &'static [&'static str] =
        &["graph @g(%x: string[N]) { %y, %n = string_split(%x) {delimiter = \"s\"} return %y, %n }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        takes_text(operands, 0)?;
        let x = operands.tensor(0)?;
        let pieces = match x.dims() {
            Some(dims) => Shape::Ranked([dims, &[operands.late_dim()]].concat()),
            None => Shape::Unranked,
        };
        let counts = TensorType { dtype: DType::I64, shape: x.shape.clone() };
        Ok(vec![TensorType { dtype: DType::Str, shape: pieces }.into(), counts.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let most = self.most.map_or(usize::MAX, |m| usize::try_from(m).unwrap_or(usize::MAX));
        let split = |s: &String| pieces(s, &self.delimiter, most);
        let rows: Vec<Vec<String>> = x.strings()?.iter().map(split).collect();
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        let counts: Vec<i64> = rows.iter().map(|r| r.len() as i64).collect();
        let padded = rows.into_iter().flat_map(|mut row| {
            row.resize(longest, String::new());
            row
        });
        let dims = [x.dims(), &[longest]].concat();
        Ok(vec![Tensor::from_strings(&dims, padded.collect())?.into(), Tensor::from_slice(x.dims(), &counts)?.into()])
    }

    moves_data! {}
}

fn pieces(text: &str, delimiter: &str, most: usize) -> Vec<String> {
    if !delimiter.is_empty() {
        if text.is_empty() {
            return vec![];
        }
        return text.splitn(most.saturating_add(1), delimiter).map(str::to_string).collect();
    }
    let (mut rest, mut found) = (text.trim(), vec![]);
    while !rest.is_empty() {
        if found.len() == most {
            found.push(rest.to_string());
            break;
        }
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        found.push(word.to_string());
        rest = after.trim_start();
    }
    found
}

impl OpSpec for StringNormalizer {
    const NAME: &'static str = "string_normalizer";
    const SAMPLES: &'static [&'static str] =
        &["graph @g(%x: string[N]) { %y = string_normalizer(%x) {change = upper, stopwords = [\"S1\"]} return %y }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        takes_text(operands, 0)?;
        let shape = match operands.dims(0)? {
            Some([_]) => Shape::Ranked(vec![operands.late_dim()]),
            Some([one, _]) => Shape::Ranked(vec![one.clone(), operands.late_dim()]),
            Some(_) => return Err(operands.wrong(0, "expected a vector or one row")),
            None => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: DType::Str, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        if x.rank() == 2 && x.dims()[0] != 1 {
            return Err(invalid(format!("expected a vector or one row, found {:?}", x.dims())));
        }
        let fold = |s: &str| if self.case_sensitive { s.to_string() } else { s.to_lowercase() };
        let stop: Vec<String> = self.stopwords.iter().map(|s| fold(s)).collect();
        let change = |s: &String| match self.change {
            CaseChange::None => s.clone(),
            CaseChange::Lower => s.to_lowercase(),
            CaseChange::Upper => s.to_uppercase(),
        };
        let kept = x.strings()?.iter().filter(|s| !stop.contains(&fold(s)));
        let mut kept: Vec<String> = kept.map(change).collect();
        if kept.is_empty() {
            kept.push(String::new());
        }
        let dims: &[usize] = if x.rank() == 2 { &[1, kept.len()] } else { &[kept.len()] };
        Ok(vec![Tensor::from_strings(dims, kept)?.into()])
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}
