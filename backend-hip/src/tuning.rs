//! What is known of each architecture: how fast it is, and from which sizes on one kernel is better than another.
//!
//! A plan names the architecture that it was made for, so a node is lowered alike when the plan is made and when it is loaded.
//! Numbers of parts that nobody of us has measured are computed from their data sheets.

/// One architecture.
#[derive(Debug)]
pub(crate) struct Tuning {
    /// Bytes a second from its memory, as copies reach them.
    pub(crate) bandwidth: f64,
    /// Operations a second in f32, which no matrix instructions take: half of the peak of parts that can issue two at once, for compilers
    /// seldom pair them.
    pub(crate) f32_flops: f64,
    /// Operations a second in products by matrix instructions, as good libraries reach them.
    pub(crate) flops: f64,
    /// Up to so many rows, products by matrix instructions stream the weights, once for every 64 rows. Beyond, tiles in shared
    /// memory read less.
    pub(crate) streamed_rows: i64,
    /// Up to so many rows, products in f32 take 16 outputs at a time ([`kernels::table::linear_columns`]); beyond, tiles of 64 x 64.
    pub(crate) column_rows: i64,
    /// Tiles of 128 x 128 are for products of at least so many of them, about one for every processor: fewer would leave some without work.
    pub(crate) large_tiles: i64,
    /// So many blocks keep the whole device busy; a convolution of fewer splits its sums.
    pub(crate) busy_blocks: i64,
}

/// Strix Halo: 20 processors of two compute units each. 256-bit LPDDR5X-8000, of which 213 GB/s are reached; 59 TFLOP/s of f16, of which libraries
/// reach 30; 40 units of 64 lanes at 2.9 GHz.
const GFX1151: Tuning = Tuning {
    bandwidth: 213e9,
    f32_flops: 14.8e12,
    flops: 30e12,
    streamed_rows: 64,
    column_rows: 128,
    large_tiles: 20,
    busy_blocks: 80,
};

/// Strix Point: 8 processors, 128-bit LPDDR5X-7500.
const GFX1150: Tuning =
    Tuning { bandwidth: 100e9, f32_flops: 5.9e12, flops: 12e12, large_tiles: 8, busy_blocks: 32, ..GFX1151 };

/// Navi 31: 48 processors, 384-bit GDDR6; 123 TFLOP/s of f16.
const GFX1100: Tuning =
    Tuning { bandwidth: 850e9, f32_flops: 30e12, flops: 80e12, large_tiles: 48, busy_blocks: 192, ..GFX1151 };

/// H100: 132 processors, 2.98 TB/s as copied, 732 TFLOP/s of bf16 in libraries. All of this was measured, but for f32: its data
/// sheet says 67 TFLOP/s, of which we take three quarters.
const SM_90: Tuning = Tuning {
    bandwidth: 2980e9,
    f32_flops: 50e12,
    flops: 700e12,
    streamed_rows: 64,
    column_rows: 128,
    large_tiles: 128,
    busy_blocks: 256,
};

/// The table's entry for an architecture; what has none of its own is taken for the first target.
pub(crate) fn of(arch: &str) -> &'static Tuning {
    match arch {
        "gfx1150" => &GFX1150,
        "gfx1100" | "gfx1101" | "gfx1102" => &GFX1100,
        nvidia if nvidia.starts_with("sm_") => &SM_90,
        _ => &GFX1151,
    }
}
