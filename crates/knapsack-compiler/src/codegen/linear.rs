//! Kernels of [`Linear`]: matrix times vector for one token, tiled matrix product for many.

use super::grouped;
use super::module::{Specialization, Template, fixed, per_tokens};
use super::rows::check_indexable;
use super::{Tokens, parameter};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::plan::{Epilogue, Linear, Weight};
use knapsack_tensor::{Activation, GroupFormat, Layout};

/// Rows of a weight matrix that a lane of `matvec_rows` keeps in flight.
const MATVEC_ROWS: u32 = 4;
/// Threads of a work group of `matvec_rows`.
const MATVEC_THREADS: u32 = 64;
/// Threads of `matvec_columns` that stand side by side, each with four columns.
const COLUMN_QUADS: u32 = 8;
/// Tokens of a tile of `gemm`: weights are read once for as many.
pub(super) const TILE_TOKENS: u32 = 32;
/// Weight rows of a tile of `gemm`.
const TILE_ROWS: u32 = 64;
/// Threads of a work group of `gemm`: 4 x 4 outputs each.
const TILE_THREADS: u32 = TILE_TOKENS * TILE_ROWS / 16;

/// What the kernels need to know of a linear launch.
struct Shape<'a> {
    library: &'a ModelLibrary,
    op: &'a Linear,
    /// in_features.
    k: u32,
    /// out_features.
    n: u32,
    /// Columns of the output: `n`, or half of it with a gated epilogue.
    columns: u32,
    gated: bool,
    format: Option<GroupFormat>,
    /// Bytes of a weight row with its scales and bias.
    row_bytes: u64,
}

pub(super) fn linear(library: &ModelLibrary, op: &Linear, tokens: Tokens) -> Result<Specialization, String> {
    let shape = Shape::new(library, op)?;
    let mut kernel = match (tokens, shape.format.map(|f| f.layout)) {
        (Tokens::Many, _) => gemm(&shape),
        (Tokens::One, Some(Layout::Kn)) => matvec_columns(&shape),
        (Tokens::One, _) => matvec_rows(&shape),
    };
    shape.finish(&mut kernel)?;
    Ok(kernel)
}

impl<'a> Shape<'a> {
    fn new(library: &'a ModelLibrary, op: &'a Linear) -> Result<Self, String> {
        let (k, n, columns) = (op.input.columns, op.out_features, op.output.columns);
        let gated = matches!(op.epilogue, Epilogue::Gated(_));
        if k == 0 || n == 0 || u64::from(columns) * (1 + u64::from(gated)) != u64::from(n) {
            return Err(format!("{n} x {k} weights for {columns} output columns"));
        }
        check_indexable("the weight", u64::from(n) * u64::from(k))?;
        let rows = u64::from(library.model.prefill_chunk_size);
        check_indexable("the input", rows * u64::from(k))?;
        check_indexable("the output", rows * u64::from(columns))?;
        if let Epilogue::ActivationTimes { other, .. } = &op.epilogue {
            check_indexable("the other factor", rows * u64::from(other.columns))?;
        }
        let bias = op.bias.map_or(Ok(0), |id| parameter(library, id).map(|p| p.dtype.size()))?;
        let (format, row_bytes) = match op.weight {
            Weight::Dense(id) => (None, u64::from(k) * parameter(library, id)?.dtype.size()),
            Weight::Grouped { scales, format, .. } => {
                if !format.is_executable() {
                    return Err(format!("{} bits in groups of {}", format.bits, format.group));
                }
                let (words, groups) = (format.words(u64::from(k)), format.groups(u64::from(k)));
                (Some(format), 4 * words + groups * parameter(library, scales)?.dtype.size())
            }
        };
        Ok(Shape { library, op, k, n, columns, gated, format, row_bytes: row_bytes + bias })
    }

    /// Elements of a step: 16 bytes of weights, or 8 dense ones.
    fn step(&self) -> u32 {
        self.format.map_or(8, |f| f.grouping().step())
    }

    /// Steps of a row.
    fn steps(&self) -> u32 {
        self.format.map_or(self.k.div_ceil(8), |f| f.grouping().steps(u64::from(self.k)) as u32)
    }

    fn summary(&self, how: &str) -> String {
        let weights = match (self.format, self.op.weight) {
            (Some(f), _) => format!("{}-bit {:?}", f.bits, f.layout).to_uppercase(),
            (None, Weight::Dense(id)) => {
                parameter(self.library, id).map(|p| p.dtype.name().to_owned()).unwrap_or_default()
            }
            (None, Weight::Grouped { .. }) => String::new(),
        };
        let gated = if self.gated { ", gated" } else { "" };
        format!("linear, {how}, {} -> {} ({weights}{gated})", self.k, self.columns)
    }

    /// Everything that does not depend on how the product is computed: arguments, epilogue, weight access.
    fn finish(&self, kernel: &mut Specialization) -> Result<(), String> {
        kernel.define("COLUMNS", format!("{}u", self.k));
        kernel.define("OUT_FEATURES", format!("{}u", self.n));
        kernel.define("OUT_COLUMNS", format!("{}u", self.columns));
        kernel.flag("GATED", self.gated);
        kernel.flag("GROUPED", self.format.is_some());
        kernel.input("input", "float");
        match self.op.weight {
            Weight::Dense(id) => {
                let suffix = kernel.parameter(self.library, id, "weights", "LOAD_WEIGHT")?;
                self.define_weight8(kernel, suffix);
            }
            Weight::Grouped { scales, .. } => {
                kernel.input("codes", "uint");
                let suffix = kernel.parameter(self.library, scales, "scales", "LOAD_SCALE")?;
                self.define_column_access(kernel, suffix);
            }
        }
        match self.op.bias {
            Some(bias) => {
                kernel.parameter(self.library, bias, "bias", "LOAD_BIAS")?;
                kernel.define("BIAS(i)", "LOAD_BIAS(bias, i)");
            }
            None => kernel.define("BIAS(i)", "0.0f"),
        }
        self.define_epilogue(kernel);
        kernel.output("output", "float");
        Ok(())
    }

    fn define_epilogue(&self, kernel: &mut Specialization) {
        let mut activation = |f: Activation| kernel.define("ACTIVATION(v)", format!("{}(v)", activation_function(f)));
        match self.op.epilogue {
            Epilogue::None => kernel.define("FINISH(v, at)", "(v)"),
            Epilogue::Activation(f) => {
                activation(f);
                kernel.define("FINISH(v, at)", "ACTIVATION(v)");
            }
            Epilogue::Gated(f) => {
                activation(f);
                kernel.define("FINISH(v, at)", "(v)");
            }
            Epilogue::ActivationTimes { function, other, start } => {
                activation(function);
                kernel.input("other", "float");
                let column = format!("(at) / OUT_COLUMNS * {}u + {start}u + (at) % OUT_COLUMNS", other.columns);
                kernel.define("FINISH(v, at)", format!("(ACTIVATION(v) * LOAD_F32(other, {column}))"));
            }
            Epilogue::Add(_) => {
                kernel.input("residual", "float");
                kernel.define("FINISH(v, at)", "((v) + LOAD_F32(residual, at))");
            }
            Epilogue::SoftCap(cap) => {
                kernel.define_float("CAP", cap);
                kernel.define("FINISH(v, at)", "(CAP * bounded_tanh((v) / CAP))");
            }
            Epilogue::Scale(factor) => {
                kernel.define_float("FACTOR", factor);
                kernel.define("FINISH(v, at)", "(FACTOR * (v))");
            }
        }
    }

    /// `WEIGHT8(p, i, end)`: eight elements of a dense row from `i` on, zeros from `end` on.
    fn define_weight8(&self, kernel: &mut Specialization, suffix: &str) {
        let depth = if kernel.template == Template::Gemm { 32 } else { 8 };
        let text = if self.k.is_multiple_of(depth) {
            format!("LOAD8_{suffix}(p, i)")
        } else if self.k.is_multiple_of(8) {
            format!("((i) < (end) ? LOAD8_{suffix}(p, i) : NOTHING8)")
        } else {
            format!("GUARDED8(LOAD_{suffix}, p, i, end)")
        };
        kernel.define("WEIGHT8(p, i, end)", text);
    }

    /// Access to neighbouring columns of transposed weights, one load where they are aligned.
    fn define_column_access(&self, kernel: &mut Specialization, suffix: &str) {
        if self.format.is_none_or(|f| f.layout != Layout::Kn) {
            return;
        }
        let inside = |c: u32| format!("min((uint)(column) + {c}u, OUT_FEATURES - 1u)");
        let aligned = self.n.is_multiple_of(4) && self.columns.is_multiple_of(4);
        let word = |c: u32| format!("codes[(row) * OUT_FEATURES + {}]", inside(c));
        let scale = |c: u32| format!("LOAD_SCALE(scales, (group) * OUT_FEATURES + {})", inside(c));
        if aligned {
            let at = "OUT_FEATURES + min((uint)(column), OUT_FEATURES - 4u)";
            kernel.define("WORDS4(row, column)", format!("(((GLOBAL const uint4*)codes)[((row) * {at}) / 4])"));
            kernel.define("SCALES4(group, column)", format!("LOAD4_{suffix}(scales, (group) * {at})"));
        } else {
            let four = |f: &dyn Fn(u32) -> String| [0, 1, 2, 3].map(f).join(", ");
            kernel.define("WORDS4(row, column)", format!("UINT4({})", four(&word)));
            kernel.define("SCALES4(group, column)", format!("FLOAT4({})", four(&scale)));
        }
    }

    /// `INPUT4(row, k)`: four inputs from inner index `k` on of the row that starts at `row`; zeros past its end. `k` goes up to
    /// a multiple of `depth`, in fours when `fours`.
    fn define_input(&self, kernel: &mut Specialization, depth: u32, fours: bool) {
        let vectors = fours && self.k.is_multiple_of(4);
        let load = if vectors {
            "(((GLOBAL const float4*)input)[((row) + (k)) / 4])"
        } else {
            "LOAD4_F32(input, (row) + (k))"
        };
        let guarded = |n: u32| format!("GUARDED{n}(LOAD_F32, input, (row) + (k), (row) + COLUMNS)");
        let text = if self.k.is_multiple_of(depth) {
            load.to_owned()
        } else if vectors {
            format!("((k) < COLUMNS ? {load} : FLOAT4(0.0f, 0.0f, 0.0f, 0.0f))")
        } else {
            guarded(4)
        };
        kernel.define("INPUT4(row, k)", text);
        if !fours {
            kernel.define("INPUT2(row, k)", guarded(2));
        }
    }

    fn define_group_access(&self, kernel: &mut Specialization) {
        let grouping = self.format.map(|f| f.grouping());
        kernel.define("X4", format!("{}u", grouping.map_or(2, grouped::inputs)));
        match grouping {
            Some(grouping) => {
                kernel.define("LOAD_X(x, start)", format!("LOAD_X_Q{}(x, start)", grouping.bits));
                kernel.define_grouping(grouping);
                self.define_input(kernel, grouping.group, grouped::reads_fours(grouping));
            }
            None => {
                kernel.define("LOAD_X(x, start)", "LOAD_X_8(x, start)");
                self.define_input(kernel, self.step(), true);
            }
        }
    }
}

pub(super) fn activation_function(f: Activation) -> &'static str {
    match f {
        Activation::Silu => "activation_silu",
        Activation::Gelu => "activation_gelu",
        Activation::GeluTanh => "activation_gelu_tanh",
        Activation::Relu => "activation_relu",
    }
}

/// Lanes that share a row of `steps` steps: as many as possible, as long as at most an eighth of them would idle.
fn lanes(steps: u32) -> u32 {
    let idles = |lanes: u32| steps.next_multiple_of(lanes) - steps;
    let mut lanes = MATVEC_THREADS;
    while lanes > 8 && idles(lanes) * 8 > steps {
        lanes /= 2;
    }
    while lanes > steps {
        lanes /= 2;
    }
    lanes
}

fn matvec_rows(shape: &Shape<'_>) -> Specialization {
    let outputs = if shape.gated { MATVEC_ROWS / 2 } else { MATVEC_ROWS };
    let lanes = lanes(shape.steps());
    let per_group = outputs * (MATVEC_THREADS / lanes);
    let groups = [fixed(shape.columns.div_ceil(per_group)), fixed(1), fixed(1)];
    let mut kernel = Specialization::new(Template::MatvecRows, shape.summary("one token"), MATVEC_THREADS, groups);
    kernel.define("ROWS", format!("{MATVEC_ROWS}u"));
    kernel.define("OUTPUTS", format!("{outputs}u"));
    kernel.define("LANES", format!("{lanes}u"));
    kernel.define("STEP", format!("{}u", shape.step()));
    kernel.define("STEPS", format!("{}u", shape.steps()));
    let row = if shape.gated { "((first) + (r) % OUTPUTS + (r) / OUTPUTS * OUT_COLUMNS)" } else { "((first) + (r))" };
    kernel.define("WEIGHT_ROW(first, r)", row);
    shape.define_group_access(&mut kernel);
    let slots = MATVEC_THREADS / lanes;
    kernel.reads.weights = u64::from(MATVEC_ROWS * slots) * shape.row_bytes;
    kernel.reads.inputs = u64::from(slots) * 4 * u64::from(shape.k);
    kernel
}

fn matvec_columns(shape: &Shape<'_>) -> Specialization {
    let slices = shape.steps().next_power_of_two().clamp(4, 16);
    let threads = COLUMN_QUADS * slices;
    let groups = [fixed(shape.columns.div_ceil(COLUMN_QUADS * 4)), fixed(1), fixed(1)];
    let mut kernel = Specialization::new(Template::MatvecColumns, shape.summary("one token"), threads, groups);
    let sets = if shape.gated { 2 } else { 1 };
    kernel.define("QUADS", format!("{COLUMN_QUADS}u"));
    kernel.define("SLICES", format!("{slices}u"));
    kernel.define("SETS", format!("{sets}u"));
    kernel.define("STEP", format!("{}u", shape.step()));
    kernel.define("STEPS", format!("{}u", shape.steps()));
    shape.define_group_access(&mut kernel);
    kernel.reads.weights = u64::from(COLUMN_QUADS * 4 * sets) * shape.row_bytes;
    kernel.reads.inputs = u64::from(COLUMN_QUADS) * 4 * u64::from(shape.k);
    kernel
}

fn gemm(shape: &Shape<'_>) -> Specialization {
    let depth = shape.format.map_or(32, |f| f.grouping().step());
    let steps = shape.format.map_or(shape.k.div_ceil(depth), |_| shape.steps());
    let per_group = if shape.gated { TILE_ROWS / 2 } else { TILE_ROWS };
    let groups = [fixed(shape.columns.div_ceil(per_group)), per_tokens(TILE_TOKENS), fixed(1)];
    let how = format!("tiles of {TILE_TOKENS} tokens");
    let mut kernel = Specialization::new(Template::Gemm, shape.summary(&how), TILE_THREADS, groups);
    kernel.define("TOKENS", format!("{TILE_TOKENS}u"));
    kernel.define("ROWS", format!("{TILE_ROWS}u"));
    kernel.define("DEPTH", format!("{depth}u"));
    kernel.define("STEPS", format!("{steps}u"));
    // The weight row of a tile's row, and the tile's row for which neighbouring `i` are neighbouring weight rows.
    let (row, tile_row) = if shape.gated {
        let row = "((group) * (ROWS / 2) + (r) / 4 * 2 + (r) % 2 + (r) / 2 % 2 * OUT_COLUMNS)";
        (row, "((i) % (ROWS / 2) / 2 * 4 + (i) % 2 + (i) / (ROWS / 2) * 2)")
    } else {
        ("((group) * ROWS + (r))", "(i)")
    };
    kernel.define("WEIGHT_ROW(group, r)", row);
    kernel.define("TILE_ROW(i)", tile_row);
    let layout = shape.format.map(|f| f.layout);
    kernel.flag("WEIGHTS_BY_ROWS", layout == Some(Layout::Nk));
    kernel.flag("WEIGHTS_BY_COLUMNS", layout == Some(Layout::Kn));
    if let Some(format) = shape.format {
        kernel.define("PER_WORD", format!("{}u", format.codes_per_word()));
        kernel.define("FILL_WORD(tile, k, at, word, s)", format!("FILL_WORD_Q{}(tile, k, at, word, s)", format.bits));
        kernel.define_grouping(format.grouping());
    }
    shape.define_input(&mut kernel, shape.format.map_or(depth, |f| f.group), true);
    kernel.reads.weights = u64::from(TILE_ROWS) * shape.row_bytes;
    kernel.reads.inputs = u64::from(TILE_TOKENS) * 4 * u64::from(shape.k);
    kernel
}
