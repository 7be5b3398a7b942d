//! Operators that run on the host: they need typing and reference evaluation only.

use super::{
    AttrError, Attrs, DType, Datum, Dim, EvalError, Graph, Op, OpAttrs, OpInfo, OpSpec, Operands, RunBody, SmallVec,
    Tolerance, TypeError, ValueType,
};

mod bodies;
pub use bodies::merge_types;
pub use choose_label::Scores;
pub use grid_sample::{SampleMode, SamplePadding};
pub use image_decoder::PixelFormat;
pub use post_transform::Transform;
pub use random::Distribution;
pub use spectral_window::WindowFn;
pub use string_ops::CaseChange;
pub use svm_kernel::SvmFn;
pub use tf_idf::TfIdfMode;
pub use tree_ensemble::Aggregate;

super::op_table! {
    /// The operators that run on the host.
    HostOp, true, HOST_TABLE:
    mod affine_grid: AffineGrid;
    mod bit_cast: BitCast;
    mod cast_map: CastMap;
    mod center_crop_pad: CenterCropPad;
    mod choose_label: ChooseLabel;
    mod col2im: Col2Im;
    mod compress: Compress;
    mod cumulate_by: CumulateBy;
    mod deform_conv: DeformConv;
    mod det: Det;
    mod dict_vectorizer: DictVectorizer;
    mod dft: Dft;
    mod dropout: Dropout;
    mod einsum: Einsum;
    mod expand_to: ExpandTo;
    mod eye_like: EyeLike;
    mod fill_by: FillBy;
    mod grid_sample: GridSample;
    mod if_else: If;
    mod image_decoder: ImageDecoder;
    mod label_encoder: LabelEncoder;
    mod linear_attention: LinearAttention;
    mod loop_body: Loop;
    mod max_pool_indices: MaxPoolIndices;
    mod max_roi_pool: MaxRoiPool;
    mod max_unpool: MaxUnpool;
    mod mel_weight_matrix: MelWeightMatrix;
    mod non_max_suppression: NonMaxSuppression;
    mod nonzero: Nonzero;
    mod one_hot_by: OneHotBy;
    mod optional: Optional, OptionalGet, OptionalHas;
    mod pad_by: PadBy;
    mod pair_votes: PairVotes, PairProbabilities;
    mod post_transform: PostTransform;
    mod random: Random, Multinomial;
    mod range_of: RangeOf;
    mod reduce_by: ReduceBy;
    mod regex_full_match: RegexFullMatch;
    mod reshape_to: ReshapeTo;
    mod resize_by: ResizeBy;
    mod reverse_sequence: ReverseSequence;
    mod roi_align: RoiAlign;
    mod scan: Scan;
    mod sequence: SequenceConstruct, SequenceAt, SequenceInsert, SequenceErase, SequenceLength, ConcatFromSequence, SplitToSequence;
    mod sequence_map: SequenceMap;
    mod slice_by: SliceBy;
    mod spectral_window: SpectralWindow;
    mod split_by: SplitBy;
    mod squeeze_by: SqueezeBy;
    mod stft: Stft;
    mod string_ops: StringConcat, StringSplit, StringNormalizer;
    mod svm_kernel: SvmKernel;
    mod tf_idf: TfIdf;
    mod tile_by: TileBy;
    mod top_k_by: TopKBy;
    mod tree_ensemble: TreeEnsemble;
    mod trilu_by: TriluBy;
    mod unique: Unique;
    mod unsqueeze_by: UnsqueezeBy;
    mod zip_map: ZipMap;
}
pub use resize_by::AspectRatio;
