//! The inputs of a run: read from files, and made up where none were given.

use crate::failure::Failure;
use crate::flags::{self, DimFlags};
use crate::tensor_file::{self, Npz};
use clap::Args;
use fastinference::{Datum, Model, Port, RandomInputs, ValueType};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where inputs come from.
#[derive(Args, Clone, Debug)]
pub struct InputFlags {
    /// An input from a .npy, .npz or .pb file, or FILE.npz alone for all the arrays in it; may be repeated
    #[arg(long, value_name = "NAME=FILE", value_parser = source)]
    input: Vec<Source>,
    /// A folder of input_0.npy or input_0.pb and so on, in the order of the model's inputs
    #[arg(long, value_name = "DIR", conflicts_with = "input")]
    input_dir: Option<PathBuf>,
    /// Seed of the inputs that are made up
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    dims: DimFlags,
}

#[derive(Clone, Debug)]
enum Source {
    One { name: String, path: PathBuf },
    Archive(PathBuf),
}

fn source(text: &str) -> Result<Source, String> {
    match flags::pair(text) {
        Ok((name, path)) => Ok(Source::One { name, path: path.into() }),
        Err(_) if text.ends_with(".npz") => Ok(Source::Archive(text.into())),
        Err(_) => Err("expected NAME=FILE, or the path of an .npz archive".into()),
    }
}

/// The inputs of a run.
pub struct Inputs {
    /// One per input of the model.
    pub data: Vec<Datum>,
    /// Names of those that were made up.
    pub made_up: Vec<String>,
}

/// Reads what the flags name and makes up the rest.
pub fn gather(model: &Model, flags: &InputFlags) -> Result<Inputs, Failure> {
    let ports = model.inputs();
    let given = match &flags.input_dir {
        Some(folder) => from_folder(folder, ports)?,
        None => named(&flags.input, ports)?,
    };
    let made_up = ports.iter().map(|p| p.name.to_string()).filter(|name| !given.contains_key(name)).collect();
    let wanted = RandomInputs { seed: flags.seed, dims: flags.dims.to_map(), given };
    Ok(Inputs { data: model.random_inputs(&wanted)?, made_up })
}

fn named(sources: &[Source], ports: &[Port]) -> Result<BTreeMap<String, Datum>, Failure> {
    let mut given = BTreeMap::new();
    for source in sources {
        match source {
            Source::One { name, path } => {
                let port = find(ports, name)?;
                if given.insert(name.clone(), tensor_file::read(path, name, &port.ty)?).is_some() {
                    return Err(Failure::usage(format!("the input `{name}` is given twice")));
                }
            }
            Source::Archive(path) => {
                let mut archive = Npz::open(path)?;
                for name in archive.names().to_vec() {
                    let port = find(ports, &name)?;
                    given.insert(name.clone(), archive.read(&name, &port.ty)?);
                }
            }
        }
    }
    Ok(given)
}

fn find<'p>(ports: &'p [Port], name: &str) -> Result<&'p Port, Failure> {
    ports.iter().find(|p| *p.name == *name).ok_or_else(|| {
        let known: Vec<String> = ports.iter().map(|p| format!("{} {}", p.name, p.ty)).collect();
        let known =
            if known.is_empty() { "it has none".to_string() } else { format!("its inputs are: {}", known.join("; ")) };
        Failure::work(format!("the model has no input `{name}`")).with_help(known)
    })
}

fn from_folder(folder: &Path, ports: &[Port]) -> Result<BTreeMap<String, Datum>, Failure> {
    let mut given = BTreeMap::new();
    for (i, port) in ports.iter().enumerate() {
        let value = numbered(folder, "input", i, &port.name, &port.ty)?;
        given.insert(port.name.to_string(), value);
    }
    Ok(given)
}

/// Reads `WORD_I.npy` or `WORD_I.pb` of a folder. An optional value may be missing.
pub fn numbered(folder: &Path, word: &str, i: usize, name: &str, ty: &ValueType) -> Result<Datum, Failure> {
    let candidates = [format!("{word}_{i}.npy"), format!("{word}_{i}.pb")].map(|f| folder.join(f));
    match candidates.iter().find(|p| p.exists()) {
        Some(path) => tensor_file::read(path, name, ty),
        None if matches!(ty, ValueType::Optional(_)) => Ok(Datum::Optional(None)),
        None => {
            let message = format!("{}: there is no {word}_{i}.npy or {word}_{i}.pb", folder.display());
            Err(Failure::work(message).with_help(format!("it holds the {word} `{name}` ({ty})")))
        }
    }
}
