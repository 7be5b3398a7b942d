//! Values in files: .npy, .npz and .pb.

use crate::failure::Failure;
use crate::npy;
use fastinference::cases;
use fastinference::importer::{datum::value, encode};
use fastinference::{Datum, Tensor, ValueType};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use zip::ZipArchive;

/// Reads the value of an input. From an .npz archive it takes the member of the input's name, or the only one.
pub fn read(path: &Path, name: &str, ty: &ValueType) -> Result<Datum, Failure> {
    match extension(path).as_str() {
        "pb" => Ok(cases::read_value(path, ty)?),
        "npy" => {
            let file = fs::read(path).map_err(|e| Failure::file(path, e))?;
            decode_npy(path, &file, ty)
        }
        "npz" => {
            let mut archive = Npz::open(path)?;
            let member = match archive.names() {
                names if names.iter().any(|n| n == name) => name.to_string(),
                names if names.len() == 1 => names[0].clone(),
                names => {
                    let message = format!("{} has no array `{name}`; it has {}", path.display(), names.join(", "));
                    return Err(Failure::work(message));
                }
            };
            archive.read(&member, ty)
        }
        _ => Err(Failure::usage(format!("{}: the kind of file is not known", path.display()))
            .with_help("give a .npy, .npz or .pb file")),
    }
}

/// Lower-case extension of a path.
pub fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

fn decode_npy(path: &Path, file: &[u8], ty: &ValueType) -> Result<Datum, Failure> {
    let declared = ty.as_tensor().map(|t| t.dtype);
    match npy::decode(file, declared) {
        Ok(tensor) => Ok(tensor.into()),
        Err(reason) => Err(Failure::work(format!("{}: {reason}", path.display()))),
    }
}

/// An archive of .npy files.
pub struct Npz {
    path: PathBuf,
    archive: ZipArchive<File>,
    names: Vec<String>,
}

impl Npz {
    /// Opens an archive.
    pub fn open(path: &Path) -> Result<Npz, Failure> {
        let file = File::open(path).map_err(|e| Failure::file(path, e))?;
        let archive = ZipArchive::new(file);
        let archive = archive.map_err(|e| Failure::work(format!("{} is not an .npz archive: {e}", path.display())))?;
        let names = archive.file_names().filter_map(|n| Some(n.strip_suffix(".npy")?.to_string()));
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(Npz { path: path.to_owned(), archive, names })
    }

    /// Names of the arrays.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Reads an array.
    pub fn read(&mut self, name: &str, ty: &ValueType) -> Result<Datum, Failure> {
        let failed = |path: &Path, e: String| Failure::work(format!("{}: array `{name}`: {e}", path.display()));
        let member = self.archive.by_name(&format!("{name}.npy"));
        let mut member = member.map_err(|e| failed(&self.path, e.to_string()))?;
        let mut file = vec![];
        member.read_to_end(&mut file).map_err(|e| failed(&self.path, e.to_string()))?;
        drop(member);
        decode_npy(&self.path, &file, ty)
    }
}

/// Writes a result as `STEM.npy`, or as `STEM.pb` when it is text or no tensor; returns the file's name.
pub fn write(folder: &Path, stem: &str, name: &str, datum: &Datum) -> Result<String, Failure> {
    let npy = datum.as_tensor().and_then(npy::encode);
    let (file, bytes) = match npy {
        Some(bytes) => (format!("{stem}.npy"), bytes),
        None => (format!("{stem}.pb"), encode::encode_value(&value(name, datum))),
    };
    write_file(&folder.join(&file), &bytes)?;
    Ok(file)
}

/// Writes a file under another name first, so that a reader never finds half of it.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = File::create(&part).and_then(|mut f| f.write_all(bytes)).and_then(|()| fs::rename(&part, path));
    written.map_err(|e| {
        // What is left of it is of no use; the error that matters is the first.
        let _ = fs::remove_file(&part);
        Failure::file(path, e)
    })
}

/// `f32[1, 4]`, `seq of 3`: what a value is, for people.
pub fn describe(datum: &Datum) -> String {
    match datum {
        Datum::Tensor(t) => format!("{}{:?}", t.dtype(), t.dims()),
        Datum::Sequence(items) => format!("sequence of {}", items.len()),
        Datum::Optional(Some(d)) => format!("optional {}", describe(d)),
        Datum::Optional(None) | Datum::Absent => "nothing".into(),
        Datum::Map(pairs) => format!("map of {}", pairs.len()),
    }
}

/// The first elements of a tensor, or its range when there are many.
pub fn preview(datum: &Datum) -> String {
    let Datum::Tensor(t) = datum else { return String::new() };
    if let Ok(texts) = t.strings() {
        let shown: Vec<String> = texts.iter().take(4).map(|s| format!("{s:?}")).collect();
        return shown.join(" ") + if texts.len() > 4 { " ..." } else { "" };
    }
    preview_numbers(t).unwrap_or_default()
}

fn preview_numbers(t: &Tensor) -> Option<String> {
    let values = t.to_f64().ok()?;
    let show = |v: f64| if t.dtype().is_float() { format!("{v:.5}") } else { format!("{v}") };
    if values.len() <= 6 {
        return Some(values.iter().map(|v| show(*v)).collect::<Vec<_>>().join(" "));
    }
    let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    let odd = values.len() - finite.len();
    let (low, high) = finite.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    let mean = finite.iter().sum::<f64>() / finite.len().max(1) as f64;
    let range =
        if finite.is_empty() { String::new() } else { format!("{} to {}, mean {mean:.5}", show(low), show(high)) };
    Some(range + &if odd > 0 { format!(" ({odd} not finite)") } else { String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zip::write::SimpleFileOptions;

    #[test]
    fn an_archive_gives_its_arrays_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, value) in [("a.npy", 1i64), ("b.npy", 2)] {
            zip.start_file(name, SimpleFileOptions::default()).unwrap();
            zip.write_all(&npy::encode(&Tensor::vector_i64(&[value])).unwrap()).unwrap();
        }
        zip.finish().unwrap();
        let ty: ValueType = "i64[N]".parse().unwrap();
        assert_eq!(read(&path, "b", &ty).unwrap(), Tensor::vector_i64(&[2]).into());
        assert!(read(&path, "c", &ty).unwrap_err().to_string().contains("it has a, b"));
    }

    #[test]
    fn an_unknown_kind_of_file_is_wrong_usage() {
        let ty: ValueType = "i64[N]".parse().unwrap();
        assert_eq!(read(Path::new("x.txt"), "x", &ty).unwrap_err().exit_code(), 2);
    }
}
