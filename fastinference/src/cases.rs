//! ONNX test cases: a folder with `model.onnx`, numbered data sets of `input_K.pb` and `output_K.pb`, and how exact the
//! results must be.
//!
//! ```text
//! CASE/model.onnx
//! CASE/case.json                      {"rtol": 1e-3, "atol": 1e-3, "equal_nan": true, "expect_error": [1]}; may be missing
//! CASE/test_data_set_0/input_0.pb     in the order of the graph's inputs
//! CASE/test_data_set_0/output_0.pb    in the order of its outputs
//! ```
//!
//! A .pb file does not say what it holds (tensor, sequence, optional or map); the type of the graph's input or output does.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use importer::datum::datum;
use importer::proto::{ProtoError, ValueKind, decode_value, map_file};
use ir::tensor::{Datum, Tensor};
use ir::types::ValueType;

/// Why a case or one of its values cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// A file or folder cannot be read.
    #[error("{path:?} cannot be read: {source}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// case.json is malformed.
    #[error("{path:?} is malformed: {reason}")]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A .pb file does not hold a value of the expected kind.
    #[error("{path:?}: {source}")]
    Proto {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ProtoError,
    },
    /// The value in a .pb file cannot be used.
    #[error("{path:?}: {reason}")]
    Value {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// How far a result may be from the expected one: `|found - expected| <= atol + rtol * |expected|`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowed {
    /// Relative part.
    pub rtol: f64,
    /// Absolute part.
    pub atol: f64,
    /// Whether NaN where NaN is expected is right.
    pub equal_nan: bool,
}

impl Default for Allowed {
    fn default() -> Allowed {
        Allowed { rtol: 1e-3, atol: 1e-3, equal_nan: true }
    }
}

/// A test case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The folder's name.
    pub name: String,
    /// The model.
    pub model: PathBuf,
    /// How exact results must be.
    pub allowed: Allowed,
    /// Numbers of the data sets that must fail with an error.
    pub expect_error: Vec<usize>,
    /// The data sets, in number order.
    pub sets: Vec<DataSet>,
}

/// Inputs and the results expected for them.
#[derive(Clone, Debug)]
pub struct DataSet {
    /// Its number.
    pub index: usize,
    /// Its folder.
    pub folder: PathBuf,
}

/// Whether a folder looks like a case: it has a model.onnx and a data set.
pub fn is_case(folder: &Path) -> bool {
    folder.join("model.onnx").is_file() && folder.join("test_data_set_0").is_dir()
}

/// All cases below a folder, itself included, in name order; folders inside a case are not searched.
pub fn find(folder: &Path) -> Result<Vec<PathBuf>, CaseError> {
    if is_case(folder) {
        return Ok(vec![folder.to_owned()]);
    }
    let mut found = vec![];
    for path in entries(folder)? {
        // Links are followed by `is_case`, but not searched: they may lead in circles.
        if is_case(&path) {
            found.push(path);
        } else if path.is_dir() && !path.is_symlink() {
            found.extend(find(&path)?);
        }
    }
    Ok(found)
}

/// Reads the case in a folder; `allowed` holds where its case.json is missing or silent.
pub fn read(folder: &Path, allowed: Allowed) -> Result<Case, CaseError> {
    let mut case = Case {
        name: folder.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()),
        model: folder.join("model.onnx"),
        allowed,
        expect_error: vec![],
        sets: vec![],
    };
    settings(&folder.join("case.json"), &mut case)?;
    for path in entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let index = name.strip_prefix("test_data_set_").and_then(|n| n.parse().ok());
        if let Some(index) = index.filter(|_| path.is_dir()) {
            case.sets.push(DataSet { index, folder: path });
        }
    }
    case.sets.sort_by_key(|set| set.index);
    Ok(case)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, CaseError> {
    let failed = |source| CaseError::Read { path: folder.to_owned(), source };
    let entries = fs::read_dir(folder).map_err(failed)?.map(|entry| entry.map(|e| e.path()));
    let mut paths: Vec<PathBuf> = entries.collect::<Result<_, _>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

fn settings(path: &Path, case: &mut Case) -> Result<(), CaseError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(CaseError::Read { path: path.to_owned(), source }),
    };
    let malformed = |reason: String| CaseError::Settings { path: path.to_owned(), reason };
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
    let object = json.as_object().ok_or_else(|| malformed("it is not an object".into()))?;
    for (key, value) in object {
        let wrong = || malformed(format!("`{key}` is {value}"));
        match key.as_str() {
            "rtol" => case.allowed.rtol = value.as_f64().ok_or_else(wrong)?,
            "atol" => case.allowed.atol = value.as_f64().ok_or_else(wrong)?,
            "equal_nan" => case.allowed.equal_nan = value.as_bool().ok_or_else(wrong)?,
            "expect_error" => {
                let numbers = value.as_array().ok_or_else(wrong)?.iter().map(|n| n.as_u64().map(|n| n as usize));
                case.expect_error = numbers.collect::<Option<_>>().ok_or_else(wrong)?;
            }
            _ => {}
        }
    }
    Ok(())
}

impl DataSet {
    /// The inputs for a graph whose inputs have these types.
    pub fn inputs(&self, types: &[&ValueType]) -> Result<Vec<Datum>, CaseError> {
        self.values("input", types)
    }

    /// The expected results of a graph whose outputs have these types.
    pub fn outputs(&self, types: &[&ValueType]) -> Result<Vec<Datum>, CaseError> {
        self.values("output", types)
    }

    fn values(&self, word: &str, types: &[&ValueType]) -> Result<Vec<Datum>, CaseError> {
        let paths = (0..types.len()).map(|i| self.folder.join(format!("{word}_{i}.pb")));
        let value = |(path, ty): (PathBuf, &&ValueType)| match ty {
            ValueType::Optional(_) if !path.exists() => Ok(Datum::Optional(None)),
            ty => read_value(&path, ty),
        };
        paths.zip(types).map(value).collect()
    }
}

/// Reads the value of the given type from a .pb file.
pub fn read_value(path: &Path, ty: &ValueType) -> Result<Datum, CaseError> {
    // Files for optional values often hold the value itself, which may happen to read as an optional of another kind.
    if let ValueType::Optional(of) = ty {
        return match read_kind(path, ValueKind::Optional) {
            Ok(Datum::Optional(Some(inner))) if is_kind(&inner, of) => Ok(Datum::Optional(Some(inner))),
            Ok(Datum::Optional(None)) => Ok(Datum::Optional(None)),
            _ => read_value(path, of).map(|d| Datum::Optional(Some(Box::new(d)))),
        };
    }
    read_kind(path, kind(ty))
}

fn read_kind(path: &Path, kind: ValueKind) -> Result<Datum, CaseError> {
    let file = map_file(path).map_err(|source| CaseError::Read { path: path.to_owned(), source })?;
    let value = decode_value(file, kind).map_err(|source| CaseError::Proto { path: path.to_owned(), source })?;
    datum(&value).map_err(|reason| CaseError::Value { path: path.to_owned(), reason })
}

fn is_kind(datum: &Datum, ty: &ValueType) -> bool {
    match ty {
        ValueType::Tensor(_) => matches!(datum, Datum::Tensor(_)),
        ValueType::Sequence(_) => matches!(datum, Datum::Sequence(_)),
        ValueType::Optional(_) | ValueType::Absent => matches!(datum, Datum::Optional(_) | Datum::Absent),
        ValueType::Map { .. } => matches!(datum, Datum::Map(_)),
    }
}

/// The message that a .pb file of a value of this type holds.
pub fn kind(ty: &ValueType) -> ValueKind {
    match ty {
        ValueType::Tensor(_) => ValueKind::Tensor,
        ValueType::Sequence(_) => ValueKind::Sequence,
        ValueType::Optional(_) | ValueType::Absent => ValueKind::Optional,
        ValueType::Map { .. } => ValueKind::Map,
    }
}

/// Where a result is not the expected one.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The place inside a sequence or map, such as `[2]`; empty for the value itself.
    pub place: String,
    /// What differs.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.is_empty() {
            true => f.write_str(&self.what),
            false => write!(f, "at {}: {}", self.place, self.what),
        }
    }
}

/// Compares a result with the expected one: element types, dimensions and texts must be equal, numbers near.
pub fn compare(found: &Datum, expected: &Datum, allowed: Allowed) -> Result<(), Difference> {
    let differ = |what: String| Err(Difference { place: String::new(), what });
    match (found, expected) {
        (Datum::Tensor(f), Datum::Tensor(e)) => compare_tensors(f, e, allowed).or_else(differ),
        (Datum::Sequence(f), Datum::Sequence(e)) => {
            if f.len() != e.len() {
                return differ(format!("found a sequence of {}, expected {}", f.len(), e.len()));
            }
            let mut pairs = f.iter().zip(e).enumerate();
            pairs.try_for_each(|(i, (f, e))| within(&format!("[{i}]"), compare(f, e, allowed)))
        }
        (Datum::Map(f), Datum::Map(e)) => {
            if f.len() != e.len() {
                return differ(format!("found a map of {} keys, expected {}", f.len(), e.len()));
            }
            for (key, e) in e {
                let Some((_, f)) = f.iter().find(|(k, _)| k == key) else {
                    return differ(format!("the key {key:?} is missing"));
                };
                within(&format!("[{key:?}]"), compare(f, e, allowed))?;
            }
            Ok(())
        }
        (Datum::Optional(None) | Datum::Absent, Datum::Optional(None) | Datum::Absent) => Ok(()),
        (Datum::Optional(Some(f)), Datum::Optional(Some(e))) => compare(f, e, allowed),
        (Datum::Optional(Some(f)), e) => compare(f, e, allowed),
        (f, Datum::Optional(Some(e))) => compare(f, e, allowed),
        (f, e) => differ(format!("found {}, expected {}", word(f), word(e))),
    }
}

/// Whether a result has the kinds, element types and dimensions of the expected one, whatever its elements are.
pub fn same_shape(found: &Datum, expected: &Datum) -> bool {
    match (found, expected) {
        (Datum::Tensor(f), Datum::Tensor(e)) => f.dtype() == e.dtype() && f.dims() == e.dims(),
        (Datum::Sequence(f), Datum::Sequence(e)) => {
            f.len() == e.len() && f.iter().zip(e).all(|(f, e)| same_shape(f, e))
        }
        (Datum::Optional(Some(f)), e) => same_shape(f, e),
        (f, Datum::Optional(Some(e))) => same_shape(f, e),
        (f, e) => word(f) == word(e),
    }
}

fn within(place: &str, result: Result<(), Difference>) -> Result<(), Difference> {
    result.map_err(|d| Difference { place: format!("{place}{}", d.place), what: d.what })
}

fn word(d: &Datum) -> &'static str {
    match d {
        Datum::Tensor(_) => "a tensor",
        Datum::Sequence(_) => "a sequence",
        Datum::Optional(_) => "an optional",
        Datum::Map(_) => "a map",
        Datum::Absent => "nothing",
    }
}

fn compare_tensors(found: &Tensor, expected: &Tensor, allowed: Allowed) -> Result<(), String> {
    if found.dtype() != expected.dtype() || found.dims() != expected.dims() {
        let show = |t: &Tensor| format!("{}{:?}", t.dtype(), t.dims());
        return Err(format!("found {}, expected {}", show(found), show(expected)));
    }
    if let (Ok(f), Ok(e)) = (found.strings(), expected.strings()) {
        return match f.iter().zip(e).position(|(f, e)| f != e) {
            Some(at) => Err(format!("element {}: found {:?}, expected {:?}", place(at, found.dims()), f[at], e[at])),
            None => Ok(()),
        };
    }
    if !found.dtype().is_float() && found.bytes() == expected.bytes() {
        return Ok(());
    }
    let (f, e) = (numbers(found)?, numbers(expected)?);
    let near = |f: f64, e: f64| match (f.is_nan(), e.is_nan()) {
        (true, true) => allowed.equal_nan,
        (false, false) => f == e || (f - e).abs() <= allowed.atol + allowed.rtol * e.abs() && e.is_finite(),
        _ => false,
    };
    let wrong: Vec<usize> = (0..e.len()).filter(|i| !near(f[*i], e[*i])).collect();
    let Some(first) = wrong.first() else { return Ok(()) };
    let size = |i: usize| (f[i] - e[i]).abs();
    let worst = wrong.iter().copied().max_by(|a, b| size(*a).total_cmp(&size(*b))).unwrap_or(*first);
    let (at, n, all) = (place(worst, found.dims()), wrong.len(), e.len());
    Err(format!("element {at}: found {}, expected {}; {n} of {all} elements differ", f[worst], e[worst]))
}

fn numbers(t: &Tensor) -> Result<Vec<f64>, String> {
    t.to_f64().map_err(|e| e.to_string())
}

/// The coordinates of element `at`.
fn place(mut at: usize, dims: &[usize]) -> String {
    let mut coordinates = vec![];
    for n in dims.iter().rev() {
        coordinates.push((at % n).to_string());
        at /= n;
    }
    coordinates.reverse();
    format!("[{}]", coordinates.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(values: &[f32]) -> Datum {
        Tensor::from_slice(&[values.len()], values).unwrap().into()
    }

    const ALLOWED: Allowed = Allowed { rtol: 0.1, atol: 0.0, equal_nan: true };

    #[test]
    fn near_numbers_pass_and_the_worst_element_is_named() {
        assert_eq!(compare(&f32s(&[1.05, 0.0]), &f32s(&[1.0, 0.0]), ALLOWED), Ok(()));
        let error = compare(&f32s(&[1.2, 3.0, 1.0]), &f32s(&[1.0, 1.0, 1.0]), ALLOWED).unwrap_err();
        assert_eq!(error.to_string(), "element [1]: found 3, expected 1; 2 of 3 elements differ");
    }

    #[test]
    fn nan_and_infinity_must_be_where_they_are_expected() {
        let odd = [f32::NAN, f32::INFINITY];
        assert_eq!(compare(&f32s(&odd), &f32s(&odd), ALLOWED), Ok(()));
        assert!(compare(&f32s(&odd), &f32s(&odd), Allowed { equal_nan: false, ..ALLOWED }).is_err());
        assert!(compare(&f32s(&[1.0]), &f32s(&[f32::INFINITY]), ALLOWED).is_err());
        assert!(compare(&f32s(&[f32::INFINITY]), &f32s(&[1.0]), ALLOWED).is_err());
    }

    #[test]
    fn types_and_shapes_must_be_equal() {
        let i = Tensor::vector_i64(&[1]).into();
        let error = compare(&f32s(&[1.0]), &i, ALLOWED).unwrap_err();
        assert_eq!(error.to_string(), "found f32[1], expected i64[1]");
    }

    #[test]
    fn differences_inside_sequences_name_the_item() {
        let (a, b) =
            (Datum::Sequence(vec![f32s(&[1.0]), f32s(&[1.0])]), Datum::Sequence(vec![f32s(&[1.0]), f32s(&[2.0])]));
        let error = compare(&a, &b, ALLOWED).unwrap_err();
        assert_eq!(error.to_string(), "at [1]: element [0]: found 1, expected 2; 1 of 1 elements differ");
    }
}
