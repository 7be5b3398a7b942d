//! Operators that run on the host: they need typing and reference evaluation only.

use super::{
    AttrError, Attrs, Datum, Dim, DType, EvalError, Graph, Op, OpAttrs, OpInfo, OpSpec, Operands,
    SmallVec, Tolerance, TypeError, ValueType,
};

super::op_table! {
    /// The operators that run on the host.
    HostOp, true, HOST_TABLE:
    mod max_pool_indices: MaxPoolIndices;
    mod reshape_to: ReshapeTo;
}
