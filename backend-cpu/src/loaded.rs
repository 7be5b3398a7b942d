//! A loaded plan and the sessions it opens.

use crate::kernels::pool::Pool;
use crate::program::Program;
use crate::session::{Frame, Symbols};
use crate::step::Stepper;
use crate::target::Cpu;
use ir::Datum;
use ir::tensor::Aligned;
use plan::{CheckedPlan, Port, Target, Weights};
use runtime::backend::fits;
use runtime::{
    Backend, Batch, LoadError, Loaded, RunError, Session, SlotOptions, Slots, StepError, StepKernel, StepModel,
    StepTime,
};
use std::num::NonZeroUsize;
use std::sync::Arc;

impl Backend for Cpu {
    fn load(&self, plan: Arc<CheckedPlan>, weights: Weights) -> Result<Box<dyn Loaded>, LoadError> {
        fits(self.name(), &plan, &weights)?;
        let program = |entry: &plan::Entry| Program::new(&plan, entry, &weights).map(Arc::new);
        let main = program(&plan.entries[0])?;
        let step = StepModel::of(&plan).map(|model| Ok((program(&plan.entries[model.entry])?, model)));
        let step = step.transpose()?;
        Ok(Box::new(LoadedCpu { plan, program: main, step }))
    }
}

struct LoadedCpu {
    plan: Arc<CheckedPlan>,
    program: Arc<Program>,
    step: Option<(Arc<Program>, StepModel)>,
}

impl Loaded for LoadedCpu {
    fn plan(&self) -> &CheckedPlan {
        &self.plan
    }

    fn session(&self, threads: usize) -> Box<dyn Session> {
        let all = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let pool = Pool::new(if threads == 0 { all() } else { threads });
        let (program, step) = (self.program.clone(), self.step.clone());
        Box::new(CpuSession { frame: Frame::new(&program), program, step, stepper: None, profiling: false, pool })
    }

    fn kernels(&self) -> Vec<StepKernel> {
        let mut steps = vec![];
        self.program.kernels(&mut steps);
        steps
    }
}

struct CpuSession {
    program: Arc<Program>,
    frame: Frame,
    step: Option<(Arc<Program>, StepModel)>,
    stepper: Option<Stepper>,
    profiling: bool,
    pool: Pool,
}

impl Session for CpuSession {
    fn inputs(&self) -> &[Port] {
        &self.program.entry.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.program.entry.outputs
    }

    fn run(&mut self, inputs: &[Datum]) -> Result<&[Datum], RunError> {
        self.frame.run(&self.program, &self.pool, inputs, &Symbols::default())
    }

    fn open_slots(&mut self, options: SlotOptions) -> Result<(), StepError> {
        let (program, model) = self.step.as_ref().ok_or(StepError::NoStep)?;
        // The memory of those that there were goes first.
        self.stepper = None;
        let stepper = self.stepper.insert(Stepper::open(program, model, options)?);
        stepper.frame.set_profiling(self.profiling);
        Ok(())
    }

    fn slots(&self) -> Option<&Slots> {
        self.stepper.as_ref().map(|s| &s.slots)
    }

    fn step(&mut self, batch: &Batch) -> Result<&Datum, StepError> {
        self.stepper.as_mut().ok_or(StepError::NotOpen)?.step(&self.pool, batch)
    }

    fn truncate(&mut self, slot: u32, len: usize) -> Result<(), StepError> {
        self.stepper.as_mut().ok_or(StepError::NotOpen)?.slots.truncate(slot, len)
    }

    fn bind_output(&mut self, output: usize, memory: Aligned) -> Result<(), RunError> {
        self.frame.bind_output(&self.program, output, memory)
    }

    fn take_output(&mut self, output: usize) -> Result<Aligned, RunError> {
        self.frame.take_output(&self.program, output)
    }

    fn set_profiling(&mut self, on: bool) {
        self.profiling = on;
        self.frame.set_profiling(on);
        self.stepper.iter_mut().for_each(|s| s.frame.set_profiling(on));
    }

    fn profile(&self) -> Vec<StepTime> {
        let mut times = vec![];
        self.frame.profile(&self.program, &mut times);
        if let (Some(stepper), Some((program, _))) = (&self.stepper, &self.step) {
            stepper.frame.profile(program, &mut times);
        }
        times
    }

    fn memory_bytes(&self) -> usize {
        self.frame.memory_bytes() + self.stepper.as_ref().map_or(0, |s| s.frame.memory_bytes())
    }
}
