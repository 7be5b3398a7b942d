//! A loaded plan and the sessions it opens.

use crate::kernels::pool::Pool;
use crate::program::Program;
use crate::session::{Frame, Symbols};
use crate::target::Cpu;
use ir::Datum;
use plan::{CheckedPlan, Port, Target, Weights};
use runtime::{Backend, LoadError, Loaded, RunError, Session, StepKernel, StepTime};
use std::num::NonZeroUsize;
use std::sync::Arc;

impl Backend for Cpu {
    fn load(&self, plan: Arc<CheckedPlan>, weights: Weights) -> Result<Box<dyn Loaded>, LoadError> {
        if plan.target != self.name() {
            let (expected, found) = (self.name().to_string(), plan.target.clone());
            return Err(LoadError::Target { expected, found });
        }
        for (name, info) in &plan.weights {
            let fail = |reason: String| LoadError::Weight { name: name.clone(), reason };
            let weight = weights.get(name).ok_or_else(|| fail("it is not among the weights given".into()))?;
            let needed = info.layout.bytes(info.dtype, &info.dims);
            if info.dtype != ir::DType::Str && needed != Some(weight.bytes().len()) {
                return Err(fail(format!("it has {} bytes, its type needs {needed:?}", weight.bytes().len())));
            }
        }
        let program = Program::new(&plan, &plan.entries[0], &weights)?;
        Ok(Box::new(LoadedCpu { plan, program: Arc::new(program) }))
    }
}

struct LoadedCpu {
    plan: Arc<CheckedPlan>,
    program: Arc<Program>,
}

impl Loaded for LoadedCpu {
    fn plan(&self) -> &CheckedPlan {
        &self.plan
    }

    fn session(&self, threads: usize) -> Box<dyn Session> {
        let all = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let pool = Pool::new(if threads == 0 { all() } else { threads });
        Box::new(CpuSession { frame: Frame::new(&self.program), program: self.program.clone(), pool })
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

    fn set_profiling(&mut self, on: bool) {
        self.frame.set_profiling(on);
    }

    fn profile(&self) -> Vec<StepTime> {
        let mut times = vec![];
        self.frame.profile(&self.program, &mut times);
        times
    }

    fn memory_bytes(&self) -> usize {
        self.frame.memory_bytes()
    }
}
