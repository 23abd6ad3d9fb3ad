//! Kernels of [`Linear`]: matrix times vector for one token, tiled matrix product for many.

use super::grouped;
use super::module::{Specialization, Template, fixed, per_tokens};
use super::rows::check_indexable;
use super::{Tokens, parameter};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::plan::{Epilogue, Linear, Weight};
use knapsack_tensor::{Activation, GroupFormat, Layout};

/// Rows of a weight matrix that a lane of `matvec_rows` keeps in flight.
const MATVEC_ROWS: u32 = 8;
/// Lanes that share a row of `matvec_rows` or the steps of a column of `matvec_columns`, and how many such teams stand side by
/// side: together whole subgroups of 32 and at least 64 threads, but for the small one for matrices that no other divides.
const TEAMS: [(u32, u32); 9] = [(16, 8), (12, 8), (8, 8), (6, 16), (4, 16), (3, 32), (2, 32), (1, 64), (6, 8)];
/// Sets of four columns that a thread of `matvec_columns` takes.
const COLUMN_SETS: u32 = 2;
/// Inputs that are in local memory at once: as many steps of packed codes at most, or of dense weights.
const TILE_STEPS: u32 = 64;
const DENSE_TILE_STEPS: u32 = 256;
/// Tokens and weight rows of a tile of `gemm`, and its threads: weights are read once for as many tokens.
pub(super) const TILE: u32 = 64;
/// Elements between two inner indices of its tile of inputs: a few more than there are tokens, so that neighbours do not meet in
/// one bank of local memory.
const TILE_STRIDE: u32 = TILE + 4;

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
                let words = self.reads_words_alone(kernel);
                kernel.arguments.last_mut().expect("the codes").words = words;
                let suffix = kernel.parameter(self.library, scales, "scales", "LOAD_SCALE")?;
                if kernel.template != Template::MatvecRows {
                    self.define_outputs4(kernel, suffix);
                }
                if kernel.template == Template::MatvecColumns {
                    self.define_column_sets(kernel, suffix);
                }
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

    /// Whether four outputs that begin at a multiple of four lie in the matrix, and in transposed weights 16 bytes of them.
    fn in_fours(&self) -> bool {
        self.n.is_multiple_of(4) && self.columns.is_multiple_of(4)
    }

    /// Whether a kernel reads the packed codes 16 bytes at once and no other way, so that they can come through an image.
    fn reads_words_alone(&self, kernel: &Specialization) -> bool {
        let layout = self.format.map(|f| f.layout);
        kernel.template == Template::Gemm
            && (layout == Some(Layout::Nk) || layout == Some(Layout::Kn) && self.in_fours())
    }

    /// Access to the packed codes and scales of four neighbouring outputs from `column` on, one load where they are aligned.
    fn define_outputs4(&self, kernel: &mut Specialization, suffix: &str) {
        let Some(layout) = self.format.map(|f| f.layout) else { return };
        let aligned = self.in_fours();
        let one = |c: u32| match aligned {
            true => format!("((column) + {c}u)"),
            false => format!("min((uint)(column) + {c}u, OUT_FEATURES - 1u)"),
        };
        let four = |f: &dyn Fn(u32) -> String| [0, 1, 2, 3].map(f).join(", ");
        let place = if aligned { "min((uint)(column), OUT_FEATURES - 4u)" } else { "((uint)(column))" };
        kernel.define("PLACE4(column)", place);
        kernel.define("WORDS_AT(i)", "WORDS_OF(codes, i)");
        let (words, scales) = match layout {
            Layout::Kn if aligned => (
                "WORDS_AT((((step) * 4 + (word)) * OUT_FEATURES + (column)) / 4)".to_owned(),
                format!("LOAD4_{suffix}(scales, SCALE_OF(step) * OUT_FEATURES + (column))"),
            ),
            Layout::Kn => (
                format!("UINT4({})", four(&|c| format!("codes[((step) * 4 + (word)) * OUT_FEATURES + {}]", one(c)))),
                format!(
                    "FLOAT4({})",
                    four(&|c| format!("LOAD_SCALE(scales, SCALE_OF(step) * OUT_FEATURES + {})", one(c)))
                ),
            ),
            Layout::Nk => (
                format!("UINT4({})", four(&|c| format!("codes[({} * STEPS + (step)) * 4 + (word)]", one(c)))),
                format!("FLOAT4({})", four(&|c| format!("LOAD_SCALE(scales, SCALE_OF({} * STEPS + (step)))", one(c)))),
            ),
        };
        kernel.define("WORDS4(step, word, column)", words);
        kernel.define("SCALES4(step, column)", scales);
    }

    /// Access to a thread's columns of transposed weights.
    fn define_column_sets(&self, kernel: &mut Specialization, suffix: &str) {
        let (place, words, scales) = if self.in_fours() {
            let words =
                |quarter: u32| format!("((GLOBAL const uint4*)codes)[first_word + {quarter} * (OUT_FEATURES / 4)]");
            let start = "const uint first_word = (step) * OUT_FEATURES + place[set] / 4;";
            let scales = format!("LOAD4_{suffix}(scales, SCALE_OF(step) * OUT_FEATURES + place[set])");
            (
                "min((uint)SET_COLUMN(set), (uint)(OUT_FEATURES - 4))",
                (start.to_owned(), [0, 1, 2, 3].map(words)),
                scales,
            )
        } else {
            let words = [0, 1, 2, 3].map(|row| format!("WORDS4(step, {row}, place[set])"));
            ("SET_COLUMN(set)", (String::new(), words), "SCALES4(step, place[set])".to_owned())
        };
        let (start, [a, b, c, d]) = words;
        let places = format!("uint place[SETS]; UNROLL for (uint set = 0; set < SETS; set++) place[set] = {place};");
        kernel.define("COLUMN_PLACES", places);
        kernel.define(
            "COLUMN_STEP(set, step)",
            format!(
                "{start} const uint4 a = {a}; const uint4 b = {b}; const uint4 c = {c}; const uint4 d = {d}; \
                 const float4 scales4 = {scales};"
            ),
        );
    }

    /// `INPUT4(row, k)`: four inputs from inner index `k` on of the row that starts at `row`; zeros past its end. `k` is a multiple
    /// of four and goes up to a multiple of `depth`.
    fn define_input(&self, kernel: &mut Specialization, depth: u32) {
        let load = "(((GLOBAL const float4*)input)[((row) + (k)) / 4])";
        let text = if !self.k.is_multiple_of(4) {
            "GUARDED4(LOAD_F32, input, (row) + (k), (row) + COLUMNS)".to_owned()
        } else if self.k.is_multiple_of(depth) {
            load.to_owned()
        } else {
            format!("((k) < COLUMNS ? {load} : FLOAT4(0.0f, 0.0f, 0.0f, 0.0f))")
        };
        kernel.define("INPUT4(row, k)", text);
    }

    /// `INPUT2(row, k)`: two inputs, as [`Self::define_input`] says of four; `k` is even.
    fn define_input2(&self, kernel: &mut Specialization, depth: u32) {
        let load = "(((GLOBAL const float2*)input)[((row) + (k)) / 2])";
        let text = if !self.k.is_multiple_of(2) {
            "GUARDED2(LOAD_F32, input, (row) + (k), (row) + COLUMNS)".to_owned()
        } else if self.k.is_multiple_of(depth) {
            load.to_owned()
        } else {
            format!("((k) < COLUMNS ? {load} : FLOAT2(0.0f, 0.0f))")
        };
        kernel.define("INPUT2(row, k)", text);
    }

    /// How the input of one token gets into local memory, and what the products do with it.
    fn define_staging(&self, kernel: &mut Specialization, lanes: u32) {
        let grouping = self.format.map(|f| f.grouping());
        kernel.define("STEP", format!("{}u", self.step()));
        kernel.define("STEPS", format!("{}u", self.steps()));
        kernel.define("X4", format!("{}u", grouping.map_or(2, grouped::inputs)));
        match grouping {
            Some(grouping) => {
                // Whole rounds of the lanes, so that none idles but in the last tile.
                kernel.define("TILE_STEPS", format!("{}u", TILE_STEPS / lanes * lanes));
                kernel.define("STAGE(tile, about, first, step)", "STAGE_CODES(tile, about, first, step)");
                kernel.define(
                    "STAGE_STEP(tile, all, v, factor)",
                    format!("stage_q{}(tile, all, v, factor)", grouping.bits),
                );
                kernel.define("PEAK", format!("{}.0f", grouped::peak(grouping)));
                kernel.define("ZERO", format!("{}.0f", grouping.max_int()));
                kernel.define_grouping(grouping);
                self.define_input(kernel, grouping.group);
            }
            None => {
                kernel.define("TILE_STEPS", format!("{DENSE_TILE_STEPS}u"));
                kernel.define("STAGE(tile, about, first, step)", "STAGE_DENSE(tile, first, step)");
                self.define_input(kernel, self.step());
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

/// The first of [`TEAMS`] of which few lanes would idle, for `steps` steps and `columns` columns of which a team takes `each`:
/// at most a fourteenth for want of steps, and a fiftieth for want of columns. Where there is none, the one of which the fewest do.
fn team(steps: u32, columns: u32, each: u32) -> (u32, u32) {
    let idle = |count: u32, by: u32| f64::from(count.next_multiple_of(by) - count) / f64::from(count);
    let idles = |&(lanes, teams): &(u32, u32)| (idle(steps, lanes), idle(columns, teams * each));
    let fits =
        |team: &(u32, u32)| matches!(idles(team), (steps, columns) if steps <= 1.0 / 14.0 && columns <= 1.0 / 50.0);
    let waste = |team: &(u32, u32)| (1.0 + idles(team).0) * (1.0 + idles(team).1);
    let least = || TEAMS.into_iter().min_by(|a, b| waste(a).total_cmp(&waste(b))).expect("there are teams");
    TEAMS.into_iter().find(fits).unwrap_or_else(least)
}

fn matvec_rows(shape: &Shape<'_>) -> Specialization {
    let outputs = if shape.gated { MATVEC_ROWS / 2 } else { MATVEC_ROWS };
    let (lanes, slots) = team(shape.steps(), shape.columns, outputs);
    let groups = [fixed(shape.columns.div_ceil(outputs * slots)), fixed(1), fixed(1)];
    let mut kernel = Specialization::new(Template::MatvecRows, shape.summary("one token"), lanes * slots, groups);
    kernel.define("ROWS", format!("{MATVEC_ROWS}u"));
    kernel.define("OUTPUTS", format!("{outputs}u"));
    kernel.define("LANES", format!("{lanes}u"));
    let row = if shape.gated { "((first) + (r) % OUTPUTS + (r) / OUTPUTS * OUT_COLUMNS)" } else { "((first) + (r))" };
    kernel.define("WEIGHT_ROW(first, r)", row);
    kernel.define("ROW_STRIDE", if shape.format.is_some() { "STEPS" } else { "COLUMNS" });
    shape.define_staging(&mut kernel, lanes);
    kernel.reads.weights = u64::from(MATVEC_ROWS * slots) * shape.row_bytes;
    kernel.reads.inputs = 4 * u64::from(shape.k);
    kernel
}

fn matvec_columns(shape: &Shape<'_>) -> Specialization {
    let sets = if shape.gated { COLUMN_SETS / 2 } else { COLUMN_SETS };
    let (slices, quads) = team(shape.steps(), shape.columns, 4 * sets);
    let groups = [fixed(shape.columns.div_ceil(quads * 4 * sets)), fixed(1), fixed(1)];
    let mut kernel = Specialization::new(Template::MatvecColumns, shape.summary("one token"), quads * slices, groups);
    kernel.define("QUADS", format!("{quads}u"));
    kernel.define("SLICES", format!("{slices}u"));
    kernel.define("SETS", format!("{COLUMN_SETS}u"));
    kernel.define("OUTPUT_SETS", format!("{sets}u"));
    // Where the sets of the output begin, and where those of the matrix do.
    let output = "(MATRIX_GROUP * (QUADS * 4 * OUTPUT_SETS) + (set) * (QUADS * 4) + (i))";
    kernel.define("OUTPUT_COLUMN(set, i)", output);
    let set =
        if shape.gated { "OUTPUT_COLUMN(0, quad * 4) + (set) * OUT_COLUMNS" } else { "OUTPUT_COLUMN(set, quad * 4)" };
    kernel.define("SET_COLUMN(set)", format!("({set})"));
    shape.define_staging(&mut kernel, slices);
    kernel.reads.weights = u64::from(quads * 4 * COLUMN_SETS) * shape.row_bytes;
    kernel.reads.inputs = 4 * u64::from(shape.k);
    kernel
}

fn gemm(shape: &Shape<'_>) -> Specialization {
    let depth = shape.format.map_or(32, |f| f.grouping().step());
    let steps = shape.format.map_or(shape.k.div_ceil(depth), |_| shape.steps());
    let outputs = if shape.gated { TILE / 2 } else { TILE };
    let groups = [fixed(shape.columns.div_ceil(outputs)), per_tokens(TILE), fixed(1)];
    let how = format!("tiles of {TILE} tokens");
    let mut kernel = Specialization::new(Template::Gemm, shape.summary(&how), TILE, groups);
    kernel.define("TOKENS", format!("{TILE}u"));
    kernel.define("ROWS", format!("{TILE}u"));
    kernel.define("OUTPUTS", format!("{outputs}u"));
    kernel.define("STRIDE", format!("{TILE_STRIDE}u"));
    kernel.define("DEPTH", format!("{depth}u"));
    kernel.define("STEPS", format!("{steps}u"));
    // The weight row of a tile's row; neighbouring fours are neighbours.
    let row = match shape.gated {
        true => "((group) * OUTPUTS + (r) / 8 * 4 + (r) % 4 + (r) / 4 % 2 * OUT_COLUMNS)",
        false => "((group) * OUTPUTS + (r))",
    };
    kernel.define("WEIGHT_ROW(group, r)", row);
    let layout = shape.format.map(|f| f.layout);
    kernel.flag("WEIGHTS_BY_ROWS", layout == Some(Layout::Nk));
    kernel.flag("WEIGHTS_BY_COLUMNS", layout == Some(Layout::Kn));
    if let Some(format) = shape.format {
        let at_once = if format.codes_per_word().is_multiple_of(4) { 4 } else { 2 };
        kernel.define("PER_WORD", format!("{}u", format.codes_per_word()));
        kernel.define("AT_ONCE", format!("{at_once}u"));
        kernel.define("BITS", format!("{}u", format.bits));
        kernel.define("MASK", format!("{}u", (1u64 << format.bits) - 1));
        kernel.define("ZERO", format.max_int());
        kernel.define("TOKENS4(x, from)", format!("TOKENS4_BY_{at_once}(x, from)"));
        if at_once == 2 {
            shape.define_input2(&mut kernel, format.group);
        }
        kernel.define("FILL_WORD(tile, k, at, word, s)", format!("FILL_WORD_Q{}(tile, k, at, word, s)", format.bits));
        kernel.define_grouping(format.grouping());
    }
    shape.define_input(&mut kernel, shape.format.map_or(depth, |f| f.group));
    kernel.reads.weights = u64::from(TILE) * shape.row_bytes;
    kernel.reads.inputs = u64::from(TILE) * 4 * u64::from(shape.k);
    kernel
}
