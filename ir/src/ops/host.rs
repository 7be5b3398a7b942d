//! Operators that run on the host: they need typing and reference evaluation only.

use super::{
    AttrError, Attrs, Datum, Dim, DType, EvalError, Graph, Op, OpAttrs, OpInfo, OpSpec, Operands,
    SmallVec, Tolerance, TypeError, ValueType,
};

super::op_table! {
    /// The operators that run on the host.
    HostOp, true, HOST_TABLE:
    mod max_pool_indices: MaxPoolIndices;
    mod bit_cast: BitCast;
    mod compress: Compress;
    mod det: Det;
    mod expand_to: ExpandTo;
    mod eye_like: EyeLike;
    mod fill_by: FillBy;
    mod non_max_suppression: NonMaxSuppression;
    mod nonzero: Nonzero;
    mod one_hot_by: OneHotBy;
    mod pad_by: PadBy;
    mod range_of: RangeOf;
    mod reshape_to: ReshapeTo;
    mod resize_by: ResizeBy;
    mod reverse_sequence: ReverseSequence;
    mod slice_by: SliceBy;
    mod split_by: SplitBy;
    mod squeeze_by: SqueezeBy;
    mod tile_by: TileBy;
    mod top_k_by: TopKBy;
    mod trilu_by: TriluBy;
    mod unique: Unique;
    mod unsqueeze_by: UnsqueezeBy;
}
pub use resize_by::AspectRatio;
