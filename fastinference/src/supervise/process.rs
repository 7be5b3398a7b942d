//! A worker process: started, asked with a time limit, and ended.

use super::Supervise;
use super::wire::{self, Message};
use crate::{CodeEvent, DeviceOptions};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Why a worker is gone, and which node it was at.
pub(super) struct Gone {
    pub(super) reason: String,
    pub(super) node: Option<String>,
}

/// A worker with its plan loaded. Dropping it ends the process.
pub(super) struct Process {
    child: Child,
    to: Option<BufWriter<ChildStdin>>,
    from: Receiver<io::Result<Option<Message>>>,
    /// Where the worker writes the name of each node before it gives it to the device.
    record: PathBuf,
    limit: Duration,
}

impl Process {
    /// Starts a worker and lets it load a plan.
    pub(super) fn start(supervise: &Supervise, plan: &Path, on: &DeviceOptions, open: Value) -> Result<Process, Gone> {
        let gone = |reason: String| Gone { reason, node: None };
        let folder = on.code_objects.as_ref().ok_or_else(|| gone("it needs a folder for code objects".into()))?;
        fs::create_dir_all(folder).map_err(|e| gone(format!("{}: {e}", folder.display())))?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let record = folder.join(format!("worker.{}.{number}", std::process::id()));
        let mut command = Command::new(&supervise.program);
        command.args(&supervise.arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn().map_err(|e| gone(format!("{}: {e}", supervise.program.display())))?;
        let mut process =
            Process { child, to: None, from: channel().1, record, limit: supervise.load_limit.max(supervise.limit) };
        process.connect();
        let mut words = open;
        words["do"] = json!("open");
        words["plan"] = json!(plan);
        words["device"] = json!(on.device.to_string());
        words["sync_every"] = json!(on.sync_every.map(|every| every.to_string()));
        words["code"] = json!(folder);
        words["record"] = json!(process.record);
        let answer = process.ask(words, &[])?;
        if answer.text("is") != "ready" {
            return Err(gone(answer.text("reason").to_string()));
        }
        if on.sync_every.is_some() && !answer.text("instead").is_empty() {
            let why = answer.text("instead");
            let note = format!("the processor runs this, which has no queue to wait for every so many steps ({why})");
            on.watch.tell(CodeEvent::Note(note));
        }
        process.limit = supervise.limit;
        Ok(process)
    }

    /// Takes the pipes; a thread reads what the worker says, so that waiting for it can end.
    fn connect(&mut self) {
        let (to, from) = (self.child.stdin.take(), self.child.stdout.take());
        self.to = to.map(BufWriter::new);
        let (say, hear) = channel();
        self.from = hear;
        let Some(from) = from else { return };
        thread::spawn(move || {
            let mut from = BufReader::with_capacity(1 << 16, from);
            loop {
                let message = wire::read(&mut from);
                let goes_on = matches!(message, Ok(Some(_)));
                if say.send(message).is_err() || !goes_on {
                    break;
                }
            }
        });
    }

    /// Asks and waits for the answer. After an error the worker is no more.
    pub(super) fn ask(&mut self, words: Value, values: &[ir::Datum]) -> Result<Message, Gone> {
        let to = self.to.as_mut().expect("it was connected");
        let written = wire::write(to, words, values);
        // A worker that died while it was written to is explained by its end, not by the broken pipe.
        let answer = self.from.recv_timeout(self.limit);
        match (written, answer) {
            (Ok(()), Ok(Ok(Some(answer)))) => Ok(answer),
            (_, Err(RecvTimeoutError::Timeout)) => {
                let limit = self.limit.as_secs_f64();
                Err(self.end(Some(format!("it did not answer within {limit} s and was ended (see --time-limit)"))))
            }
            (_, Ok(Err(e))) if e.kind() == io::ErrorKind::InvalidData => Err(self.end(Some(e.to_string()))),
            _ => Err(self.end(None)),
        }
    }

    /// Ends the process; without a reason, how it ended by itself is the reason.
    fn end(&mut self, reason: Option<String>) -> Gone {
        if reason.is_some() {
            let _ = self.child.kill();
        }
        self.to = None;
        let status = self.child.wait();
        let reason = reason.unwrap_or_else(|| match status {
            Ok(status) => died(status),
            Err(e) => e.to_string(),
        });
        let node = fs::read_to_string(&self.record).ok().and_then(|t| Some(t.split_once('\n')?.0.to_string()));
        Gone { reason, node: node.filter(|n| !n.is_empty()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that waits for its next task would end by itself, one that hangs would not.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.record);
    }
}

#[cfg(unix)]
fn died(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    let names = [(4, "SIGILL"), (6, "SIGABRT"), (7, "SIGBUS"), (8, "SIGFPE"), (9, "SIGKILL"), (11, "SIGSEGV")];
    match status.signal() {
        Some(signal) => {
            let name = names.iter().find(|(n, _)| *n == signal).map_or("", |(_, name)| name);
            format!("it died of signal {signal} {name}").trim_end().to_string()
        }
        None => format!("it ended with {status}"),
    }
}

#[cfg(not(unix))]
fn died(status: ExitStatus) -> String {
    format!("it ended with {status}")
}
