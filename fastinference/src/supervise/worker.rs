//! The worker: a process that opens a device, loads a plan and does what it is told over its standard input and output.

use super::wire::{self, Message};
use crate::device::DeviceOptions;
use crate::{Device, Error, Model};
use backend_hip::{Fault, Faults, StepWatch};
use ir::Datum;
use plan::Pacing;
use runtime::{Batch, Part, RunError, Session, SlotOptions, StepError};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Mutex;

/// Serves until the other side closes its end. Nothing else may write to `to`.
pub fn serve(from: impl Read, to: impl Write) -> io::Result<()> {
    let (mut from, mut to) = (BufReader::with_capacity(1 << 16, from), BufWriter::with_capacity(1 << 16, to));
    let (mut model, mut session): (Option<Model>, Option<Box<dyn Session>>) = (None, None);
    while let Some(message) = wire::read(&mut from)? {
        let (words, values) = match (message.text("do"), &mut session) {
            ("open", _) => match open(&message) {
                Ok((opened, instead)) => {
                    (model, session) = (Some(opened), None);
                    (json!({"is": "ready", "instead": instead}), vec![])
                }
                Err(reason) => (json!({"is": "failed", "reason": reason, "device": true}), vec![]),
            },
            ("session", _) if model.is_some() => {
                let threads = message.number("threads") as usize;
                session = model.as_ref().map(|model| model.session(threads));
                (json!({"is": "done"}), vec![])
            }
            (what, Some(session)) => answer(what, &message, &mut **session),
            _ => (json!({"is": "failed", "reason": "nothing is open"}), vec![]),
        };
        wire::write(&mut to, words, &values)?;
    }
    Ok(())
}

/// The model; and where the processor runs it because no device could, why.
fn open(message: &Message) -> Result<(Model, Option<String>), String> {
    let faults = message.words["faults"].as_array().map(Vec::as_slice).unwrap_or_default();
    let faults = faults.iter().map(|f| f.as_str().unwrap_or_default().parse::<Fault>());
    let faults = faults.collect::<Result<Vec<_>, _>>()?;
    let device: Device = message.text("device").parse()?;
    let sync_every = match message.text("sync_every") {
        "" => None,
        every => Some(every.parse::<Pacing>()?),
    };
    let on = DeviceOptions {
        device,
        sync_every,
        code_objects: Some(PathBuf::from(message.text("code"))),
        steps: record(message.text("record"))?,
        faults: (!faults.is_empty()).then(|| Faults::new(faults)),
        ..DeviceOptions::default()
    };
    let plan = PathBuf::from(message.text("plan"));
    let model = match device {
        Device::Auto => {
            let gpu = DeviceOptions { device: Device::Gpu(0), ..on };
            Model::load_on(&plan, &gpu)
                .map(|model| (model, None))
                .or_else(|why| Ok((Model::load(&plan)?, Some(why.to_string()))))
        }
        Device::Cpu | Device::Gpu(_) | Device::Simulator => Model::load_on(&plan, &on).map(|model| (model, None)),
    };
    model.map_err(|e: Error| e.to_string())
}

/// Writes the name of each node to a file before it is given to the device; the file outlives this process.
fn record(path: &str) -> Result<StepWatch, String> {
    let file = File::create(path).map_err(|e| format!("{path}: {e}"))?;
    let file = Mutex::new((file, Vec::<u8>::new()));
    Ok(StepWatch::new(move |node| {
        let (file, line) = &mut *file.lock().unwrap_or_else(|e| e.into_inner());
        line.clear();
        line.extend_from_slice(node.as_bytes());
        line.push(b'\n');
        // A name that cannot be written only makes a later message poorer.
        let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(line));
    }))
}

fn answer(what: &str, message: &Message, session: &mut dyn Session) -> (Value, Vec<Datum>) {
    let done = match what {
        "run" => match session.run(&message.values) {
            Ok(results) => Ok(results.to_vec()),
            Err(e) => return (failed(&e), vec![]),
        },
        "slots" => {
            let (slots, max_len) = (message.number("slots") as usize, message.number("max_len") as usize);
            let max_bytes = message.number("max_bytes");
            session.open_slots(SlotOptions { slots, max_len, max_bytes }).map(|()| vec![])
        }
        "step" => {
            let parts = message.numbers("slots").into_iter().zip(message.numbers("counts"));
            let parts = parts.map(|(slot, count)| Part { slot, count }).collect();
            session.step(&Batch { tokens: message.numbers("tokens"), parts }).map(|logits| vec![logits.clone()])
        }
        "truncate" => session.truncate(message.number("slot") as u32, message.number("len") as usize).map(|()| vec![]),
        other => Err(StepError::Batch(format!("`{other}` is nothing that a worker does"))),
    };
    match done {
        Ok(values) => (json!({"is": "done", "memory": session.memory_bytes()}), values),
        Err(StepError::Run(e)) => (failed(&e), vec![]),
        Err(e) => {
            let no_step = e == StepError::NoStep;
            (json!({"is": "failed", "reason": e.to_string(), "device": false, "no_step": no_step}), vec![])
        }
    }
}

fn failed(e: &RunError) -> Value {
    let device = matches!(e, RunError::Device { .. } | RunError::Memory(_));
    json!({"is": "failed", "reason": e.to_string(), "device": device})
}
