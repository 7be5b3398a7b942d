//! Parameters that a graph gives back changed: what a session keeps from one run to the next.
//!
//! A state is a parameter like any other, and its next version an output of the same name, so a graph still has value
//! semantics; that both are one piece of memory is the plan's business.
//!
//! ```text
//! graph @step(%x: f32[4], state %sum: f32[4]) {
//!   %next = add(%sum, %x) : f32[4]
//!   return %next as "sum"
//! }
//! ```

use super::{Graph, NodeId, Output, Value};
use crate::types::ValueType;

impl Graph {
    /// Adds a parameter whose next version the graph returns: see [`Graph::next_state`]. States come after all parameters.
    pub fn state(&mut self, name: &str, ty: impl Into<ValueType>) -> Value {
        let v = self.input(name, ty);
        self.states.push(v.node);
        v
    }

    /// Returns `value` as the next version of a state. States are returned in order, after all other results.
    pub fn next_state(&mut self, state: Value, value: Value) {
        let name = self.name(state).clone();
        self.outputs.push(Output { name, value });
    }

    /// The states, in order.
    pub fn states(&self) -> &[NodeId] {
        &self.states
    }

    /// Whether a parameter is a state.
    pub fn is_state(&self, input: NodeId) -> bool {
        self.states.contains(&input)
    }

    /// Parameters that are no states.
    pub fn plain_inputs(&self) -> &[NodeId] {
        &self.inputs[..self.inputs.len().saturating_sub(self.states.len())]
    }

    /// Results that are no next versions of states.
    pub fn plain_outputs(&self) -> &[Output] {
        &self.outputs[..self.outputs.len().saturating_sub(self.states.len())]
    }

    /// What is returned as the next version of each state, in order.
    pub fn next_states(&self) -> &[Output] {
        &self.outputs[self.plain_outputs().len()..]
    }

    /// What is wrong with the states: they must be the last parameters, and their next versions, of the same type, the last
    /// results in the same order.
    pub(crate) fn check_states(&self) -> Result<(), (NodeId, String)> {
        let first = self.plain_inputs().len();
        for (i, state) in self.states.iter().enumerate() {
            let v = Value::from(*state);
            if self.inputs.get(first + i) != Some(state) {
                return Err((*state, "states come after all other parameters".into()));
            }
            match self.next_states().get(i) {
                Some(next) if next.name != *self.name(v) => {
                    return Err((
                        *state,
                        format!("its next version is to be result {}", self.plain_outputs().len() + i),
                    ));
                }
                Some(next) if self.ty(next.value) != self.ty(v) => {
                    let (is, found) = (self.ty(v), self.ty(next.value));
                    return Err((*state, format!("its next version is {found}, not {is}")));
                }
                Some(_) => {}
                None => return Err((*state, "its next version is not returned".into())),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::text::parse;

    const SUM: &str = "graph @step(%x: f32[4], state %sum: f32[4]) {\n  %next = add(%sum, %x) : f32[4]\n  return %x, %next as \"sum\"\n}\n";

    #[test]
    fn states_round_trip_through_text() {
        let g = parse(SUM).unwrap();
        assert_eq!(g.to_string(), SUM);
        assert_eq!((g.plain_inputs().len(), g.plain_outputs().len(), g.states().len()), (1, 1, 1));
        crate::verify(&g).unwrap();
    }

    #[test]
    fn a_state_without_a_next_version_of_its_type_is_refused() {
        for (from, to) in
            [("as \"sum\"", "as \"total\""), ("%next as \"sum\"", "%n as \"sum\""), (", %next as \"sum\"", "")]
        {
            let text = SUM.replace("  return", "  %n = cast(%next) {to = f16} : f16[4]\n  return").replace(from, to);
            let g = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert!(crate::verify(&g).is_err(), "{text}");
        }
    }
}
