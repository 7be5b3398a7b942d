//! What a command ends with when it does not succeed, and how a person sees it.
//!
//! ```text
//! error: node `/lm_head/MatMul` (MatMul): the inner dimensions are 64 and 65
//!   help: `onnx.checker.check_model(full_check=True)` may show more
//!   code: import::node
//! ```

use fastinference::Error;
use fastinference::cases::CaseError;
use miette::{Diagnostic, ReportHandler};
use std::fmt;
use std::io;
use std::path::Path;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The library refused or failed.
    #[error(transparent)]
    Library(Box<Error>),
    /// A test case or value file is unreadable.
    #[error(transparent)]
    Case(Box<CaseError>),
    /// The work was done, and its result is "no".
    #[error("{message}")]
    Work {
        /// What is wrong.
        message: String,
        /// What to do.
        help: Option<String>,
    },
    /// The command was called the wrong way.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        help: Option<String>,
    },
    /// Whoever read standard output has stopped reading.
    #[error("standard output was closed")]
    ReaderLeft,
}

impl Failure {
    /// Failed work.
    pub fn work(message: impl Into<String>) -> Failure {
        Failure::Work { message: message.into(), help: None }
    }

    /// Wrong usage.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::Usage { message: message.into(), help: None }
    }

    /// A file that cannot be read or written.
    pub fn file(path: &Path, error: io::Error) -> Failure {
        Failure::work(format!("{}: {error}", path.display()))
    }

    /// Says what to do about it.
    pub fn with_help(self, text: impl Into<String>) -> Failure {
        let help = Some(text.into());
        match self {
            Failure::Work { message, .. } => Failure::Work { message, help },
            Failure::Usage { message, .. } => Failure::Usage { message, help },
            other => other,
        }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage { .. } => 2,
            Failure::ReaderLeft => 0,
            Failure::Library(_) | Failure::Case(_) | Failure::Work { .. } => 1,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Library(Box::new(error))
    }
}

impl From<CaseError> for Failure {
    fn from(error: CaseError) -> Failure {
        Failure::Case(Box::new(error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ReaderLeft,
            _ => Failure::work(format!("standard output: {error}")),
        }
    }
}

impl Diagnostic for Failure {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        match self {
            Failure::Library(error) => match &**error {
                Error::Import(e) => Some(Box::new(e.code())),
                _ => None,
            },
            _ => None,
        }
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        match self {
            Failure::Library(error) => match &**error {
                Error::Import(e) => Some(Box::new(e.help())),
                _ => None,
            },
            Failure::Work { help, .. } | Failure::Usage { help, .. } => {
                help.as_ref().map(|h| Box::new(h) as Box<dyn fmt::Display + 'a>)
            }
            _ => None,
        }
    }
}

/// Prints a failure on standard error.
pub fn show(failure: Failure) {
    // The hook can only be set once; a second call keeps the first, which is the same.
    let _ = miette::set_hook(Box::new(|_| Box::new(Plain)));
    eprintln!("{:?}", miette::Report::new(failure));
}

/// Renders errors as plain lines, for terminals, logs and screen readers alike.
struct Plain;

impl ReportHandler for Plain {
    fn debug(&self, error: &dyn Diagnostic, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {error}")?;
        let mut last = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Most errors already end with their cause.
            if !last.contains(&text) {
                write!(f, "\n  because: {text}")?;
            }
            last = text;
            source = cause.source();
        }
        if let Some(help) = error.help() {
            write!(f, "\n  help: {help}")?;
        }
        if let Some(code) = error.code() {
            write!(f, "\n  code: {code}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do_on_their_own_line() {
        let failure = Failure::work("x.plan exists").with_help("use --force to replace it");
        let _ = miette::set_hook(Box::new(|_| Box::new(Plain)));
        let shown = format!("{:?}", miette::Report::new(failure));
        assert_eq!(shown, "error: x.plan exists\n  help: use --force to replace it");
    }
}
