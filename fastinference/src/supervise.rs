//! A device in a process of its own: on AMD an illegal address often aborts the process and a hang may never be reported, so that a
//! new process is the only recovery.
//!
//! ```text
//! this process                                   worker
//! loads the plan for its ports                   opens the device, loads the plan
//! run: inputs over a pipe                   ->   writes each node's name to a file, runs
//! results, or an error with the last node   <-   answers, dies, or hangs
//! next run: a new worker
//! ```
//!
//! A request whose worker dies, does not answer in time, or reports that the device failed is lost; the next one is served.
//! What slots held is lost with the worker, and a step that needs it is refused until the slot is cleared.

mod process;
mod wire;
pub mod worker;

use crate::device::DeviceOptions;
use crate::{CodeEvent, Error, Model};
use backend_hip::Fault;
use ir::Datum;
use plan::{CheckedPlan, Port};
use process::{Gone, Process};
use runtime::{Batch, Loaded, RunError, Session, SlotOptions, Slots, StepError, StepKernel, StepModel, StepTime};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wire::Message;

/// How a device is supervised.
#[derive(Clone, Debug)]
pub struct Supervise {
    /// The program that becomes the worker.
    pub program: PathBuf,
    /// Its arguments: those with which it calls [`worker::serve`] on its standard input and output.
    pub arguments: Vec<String>,
    /// How long a run or a step may take.
    pub limit: Duration,
    /// How long loading may take, kernels compiled included; at least `limit`.
    pub load_limit: Duration,
    /// Whether a run whose device fails is done by the processor instead.
    pub fall_back: bool,
    /// What goes wrong with the simulator of the first worker, for tests.
    pub faults: Vec<Fault>,
}

impl Supervise {
    /// A program that becomes a worker by these arguments; 60 seconds for a run, 10 minutes for loading.
    pub fn new(program: impl Into<PathBuf>, arguments: &[&str]) -> Supervise {
        Supervise {
            program: program.into(),
            arguments: arguments.iter().map(|a| a.to_string()).collect(),
            limit: Duration::from_secs(60),
            load_limit: Duration::from_secs(600),
            fall_back: false,
            faults: vec![],
        }
    }
}

/// A plan that workers load.
pub(crate) struct Supervised {
    plan: Arc<CheckedPlan>,
    shared: Arc<Shared>,
    /// The worker that showed that the plan loads; the first session takes it over.
    first: Mutex<Option<Process>>,
}

struct Shared {
    folder: PathBuf,
    on: DeviceOptions,
    how: Supervise,
}

impl Supervised {
    /// Starts the first worker, which loads the plan in `folder`.
    pub(crate) fn open(
        folder: &Path,
        plan: CheckedPlan,
        on: &DeviceOptions,
        how: &Supervise,
    ) -> Result<Supervised, Error> {
        let shared = Arc::new(Shared { folder: folder.to_owned(), on: on.clone(), how: how.clone() });
        let faults: Vec<String> = how.faults.iter().map(ToString::to_string).collect();
        let failed = |gone: Gone| Error::Device { device: on.device, reason: told(&gone) };
        let first = shared.start(json!({ "faults": faults })).map_err(failed)?;
        Ok(Supervised { plan: Arc::new(plan), shared, first: Mutex::new(Some(first)) })
    }
}

impl Shared {
    fn start(&self, open: Value) -> Result<Process, Gone> {
        Process::start(&self.how, &self.folder, &self.on, open)
    }
}

fn told(gone: &Gone) -> String {
    format!("the worker that runs it failed: {}", gone.reason)
}

impl Loaded for Supervised {
    fn plan(&self) -> &CheckedPlan {
        &self.plan
    }

    fn session(&self, threads: usize) -> Box<dyn Session> {
        let started = self.first.lock().unwrap_or_else(|e| e.into_inner()).take();
        Box::new(SupervisedSession {
            plan: self.plan.clone(),
            shared: self.shared.clone(),
            threads,
            started,
            process: None,
            results: vec![],
            slots: None,
            instead: None,
            memory: 0,
        })
    }

    /// Kernels are the worker's; it does not tell them.
    fn kernels(&self) -> Vec<StepKernel> {
        vec![]
    }
}

struct SupervisedSession {
    plan: Arc<CheckedPlan>,
    shared: Arc<Shared>,
    threads: usize,
    /// A worker that has loaded the plan and has no session yet.
    started: Option<Process>,
    process: Option<Process>,
    results: Vec<Datum>,
    slots: Option<OpenSlots>,
    /// On the processor, once it was needed.
    instead: Option<Box<dyn Session>>,
    memory: usize,
}

/// Slots of the worker, and what is known of them here.
struct OpenSlots {
    options: SlotOptions,
    slots: Slots,
    /// Sequences that died with a worker.
    lost: Vec<bool>,
}

/// Why a request failed, and whether the device is to blame.
struct Refused {
    error: Box<RunError>,
    device: bool,
    /// The device's plan has no entry `step`.
    no_step: bool,
}

impl SupervisedSession {
    /// Asks the worker, which is started if there is none.
    fn ask(&mut self, words: Value, values: &[Datum]) -> Result<Message, Refused> {
        let asked = match self.worker() {
            Ok(process) => process.ask(words, values),
            Err(gone) => Err(gone),
        };
        match asked {
            Ok(answer) if answer.text("is") == "done" => {
                self.memory = answer.number("memory") as usize;
                Ok(answer)
            }
            Ok(answer) => {
                let device = answer.words["device"] == true;
                if device {
                    // What the device does after an error of its own nobody knows.
                    self.forget();
                }
                let error = RunError::Reported(answer.text("reason").to_string()).into();
                Err(Refused { error, device, no_step: answer.words["no_step"] == true })
            }
            Err(Gone { reason, node }) => {
                self.forget();
                let error = RunError::Worker { node: node.map(Into::into), reason }.into();
                Err(Refused { error, device: true, no_step: false })
            }
        }
    }

    fn worker(&mut self) -> Result<&mut Process, Gone> {
        if self.process.is_none() {
            let mut process = match self.started.take() {
                Some(process) => process,
                None => self.shared.start(json!({}))?,
            };
            let slots = self.slots.as_ref().map(|open| slot_words(&open.options));
            for words in [json!({"do": "session", "threads": self.threads})].into_iter().chain(slots) {
                let answer = process.ask(words, &[])?;
                if answer.text("is") != "done" {
                    return Err(Gone { reason: answer.text("reason").to_string(), node: None });
                }
            }
            self.process = Some(process);
        }
        Ok(self.process.as_mut().expect("it was just started"))
    }

    /// Ends the worker; the sequences that it held are lost.
    fn forget(&mut self) {
        self.process = None;
        if let Some(open) = &mut self.slots {
            for (slot, len) in open.slots.lengths().to_vec().into_iter().enumerate() {
                open.lost[slot] |= len > 0;
                let _ = open.slots.truncate(slot as u32, 0);
            }
            open.slots.grown(runtime::slots::LEAST_CAPACITY);
        }
    }

    /// Does a run that the device failed on the processor.
    fn run_instead(&mut self, inputs: &[Datum], why: &RunError) -> Result<(), RunError> {
        self.shared.on.watch.tell(CodeEvent::Note(format!("{why}; this request is done by the processor")));
        if self.instead.is_none() {
            let model = Model::load(&self.shared.folder).map_err(|e| RunError::Reported(e.to_string()))?;
            self.instead = Some(model.session(self.threads));
        }
        let session = self.instead.as_mut().expect("it was just opened");
        self.results = session.run(inputs)?.to_vec();
        Ok(())
    }
}

fn slot_words(options: &SlotOptions) -> Value {
    let SlotOptions { slots, max_len, max_bytes } = options;
    json!({"do": "slots", "slots": slots, "max_len": max_len, "max_bytes": max_bytes})
}

impl Session for SupervisedSession {
    fn inputs(&self) -> &[Port] {
        &self.plan.entries[0].inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.plan.entries[0].outputs
    }

    fn run(&mut self, inputs: &[Datum]) -> Result<&[Datum], RunError> {
        self.results.clear();
        match self.ask(json!({"do": "run"}), inputs) {
            Ok(answer) => self.results = answer.values,
            Err(refused) if refused.device && self.shared.how.fall_back => self.run_instead(inputs, &refused.error)?,
            Err(refused) => return Err(*refused.error),
        }
        Ok(&self.results)
    }

    fn open_slots(&mut self, options: SlotOptions) -> Result<(), StepError> {
        let model = StepModel::of(&self.plan).ok_or(StepError::NoStep)?;
        let slots = Slots::new(&model, options)?;
        self.slots = None;
        self.ask(slot_words(&options), &[]).map_err(|refused| match refused.no_step {
            true => StepError::NoStep,
            false => StepError::Run(*refused.error),
        })?;
        self.slots = Some(OpenSlots { options, lost: vec![false; slots.count()], slots });
        Ok(())
    }

    fn slots(&self) -> Option<&Slots> {
        self.slots.as_ref().map(|open| &open.slots)
    }

    fn step(&mut self, batch: &Batch) -> Result<&Datum, StepError> {
        let open = self.slots.as_ref().ok_or(StepError::NotOpen)?;
        if let Some(part) = batch.parts.iter().find(|p| open.lost.get(p.slot as usize) == Some(&true)) {
            let reason = format!("the sequence in slot {} was lost with its worker: clear the slot", part.slot);
            return Err(RunError::Reported(reason).into());
        }
        let capacity = open.slots.admit(batch)?;
        let (slots, counts): (Vec<u32>, Vec<u32>) = batch.parts.iter().map(|p| (p.slot, p.count)).unzip();
        let words = json!({"do": "step", "tokens": batch.tokens, "slots": slots, "counts": counts});
        let answer = self.ask(words, &[]).map_err(|refused| *refused.error)?;
        let open = self.slots.as_mut().expect("they were open");
        open.slots.grown(capacity);
        open.slots.advance(batch);
        self.results = answer.values;
        self.results.first().ok_or_else(|| RunError::Reported("the worker gave no logits".into()).into())
    }

    fn truncate(&mut self, slot: u32, len: usize) -> Result<(), StepError> {
        let open = self.slots.as_mut().ok_or(StepError::NotOpen)?;
        open.slots.truncate(slot, len)?;
        if len == 0 {
            open.lost[slot as usize] = false;
        }
        if self.process.is_some() {
            let words = json!({"do": "truncate", "slot": slot, "len": len});
            self.ask(words, &[]).map_err(|refused| *refused.error)?;
        }
        Ok(())
    }

    /// Steps are not timed in a worker.
    fn set_profiling(&mut self, _on: bool) {}

    fn profile(&self) -> Vec<StepTime> {
        vec![]
    }

    fn memory_bytes(&self) -> usize {
        self.memory
    }
}
