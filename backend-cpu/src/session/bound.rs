//! Outputs that are written to memory of the caller's.

use super::Frame;
use crate::program::{Program, Source};
use ir::tensor::Aligned;
use runtime::RunError;

impl Frame {
    pub(crate) fn bind_output(&mut self, program: &Program, output: usize, memory: Aligned) -> Result<(), RunError> {
        let region = region(program, output)?;
        self.results.clear();
        self.regions.bind(1 + region, memory);
        Ok(())
    }

    pub(crate) fn take_output(&mut self, program: &Program, output: usize) -> Result<Aligned, RunError> {
        let region = region(program, output)?;
        self.results.clear();
        self.regions.unbind(1 + region).ok_or_else(|| {
            let name = program.entry.outputs[output].name.clone();
            RunError::Output { name, reason: "no memory is bound to it, or a result in it is still in use".into() }
        })
    }
}

/// The region that an output is written to.
fn region(program: &Program, output: usize) -> Result<usize, RunError> {
    let fail = |name: &str, reason: &str| RunError::Output { name: name.into(), reason: reason.into() };
    let Some(operand) = program.outputs.get(output) else {
        return Err(fail(&output.to_string(), "the plan has no output of this number"));
    };
    match operand.source {
        Source::Output(region) => Ok(region),
        _ => {
            Err(fail(&program.entry.outputs[output].name, "its size depends on data, so no memory can be bound to it"))
        }
    }
}
