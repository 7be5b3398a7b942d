//! Flags that several commands take.

use crate::commands::doctor;
use crate::failure::Failure;
use crate::models;
use clap::Args;
use fastinference::{Device, DeviceOptions, Pacing, Supervise};
use std::collections::BTreeMap;
use std::env;
use std::time::Duration;

/// Where and how wide to run.
#[derive(Args, Clone, Debug)]
pub struct RunFlags {
    /// Where to run: `auto`, `cpu`, a GPU such as `hip:0`, or `hip:sim`, the simulator of one
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: Device,
    /// Threads to run on; 0 takes every core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// The host waits for a device at the latest after so many steps: a number, `auto` (by cost) or `never`; 1 tells which step a fault
    /// is in [default: as the plan has it, or auto]
    #[arg(long, value_name = "STEPS")]
    pub sync_every: Option<Pacing>,
    /// Runs the device in a process of its own: its death, a hang or an error fails one request, and the next gets a new one
    #[arg(long)]
    pub supervise: bool,
    /// With --supervise: seconds that a run may take before its process is ended
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, requires = "supervise", value_parser = seconds)]
    pub time_limit: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| *n > 0.0 && Duration::try_from_secs_f64(*n).is_ok());
    number.ok_or_else(|| "expected a number of seconds above 0".into())
}

impl RunFlags {
    /// The device, with the folder for its code objects.
    pub fn on(&self) -> Result<DeviceOptions, Failure> {
        let mut on = models::on(self.device);
        on.sync_every = self.sync_every;
        if self.supervise {
            let program = env::current_exe().map_err(|e| Failure::work(format!("this program is not found: {e}")))?;
            on.supervise = Some(Supervise {
                limit: Duration::from_secs_f64(self.time_limit),
                fall_back: self.device == Device::Auto,
                ..Supervise::new(program, &["worker"])
            });
        }
        if on.may_use_device() {
            return Ok(on);
        }
        if on.sync_every.is_some() {
            return Err(Failure::usage(
                "this runs on the processor, which has no queue to wait for: --sync-every is for --device hip:0 and the like",
            ));
        }
        if let Some(arch) = doctor::gpu().filter(|_| self.device == Device::Auto) {
            eprintln!(
                "note: this runs on the processor; the GPU here ({arch}) is used with --device hip:0 (or --device cpu for no note)"
            );
        }
        Ok(on)
    }
}

/// Sequences at a time, and how long.
#[derive(Args, Clone, Debug)]
pub struct SlotFlags {
    /// Sequences that are generated at a time; each has a slot in the caches
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub slots: u32,
    /// The most tokens of a sequence, prompt included [default: what the model was made for]
    #[arg(long, value_name = "N")]
    pub max_len: Option<usize>,
}

/// Numbers for a model's symbols.
#[derive(Args, Clone, Debug, Default)]
pub struct DimFlags {
    /// Fixes a symbolic dimension, for example `--dim batch=1`; may be repeated
    #[arg(long = "dim", value_name = "NAME=N", value_parser = dim)]
    dims: Vec<(String, i64)>,
}

impl DimFlags {
    /// The numbers by symbol; of a symbol given twice, the last counts.
    pub fn to_map(&self) -> BTreeMap<String, i64> {
        self.dims.iter().cloned().collect()
    }
}

fn dim(text: &str) -> Result<(String, i64), String> {
    let (name, number) = pair(text)?;
    let number = number.parse::<i64>().ok().filter(|n| *n >= 0);
    Ok((name, number.ok_or("a dimension is a whole number of at least 0")?))
}

/// `NAME=VALUE`; names may hold `=`-free text only.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_string(), value.to_string())),
        _ => Err("expected NAME=VALUE".into()),
    }
}
