//! What kernels do with packed codes, written from the numbers of a [`Grouping`]: one set of functions for each in use.

use knapsack_tensor::Grouping;
use std::fmt::Write as _;

/// Vectors of four that a word's codes fill; the last may be partly empty.
const fn fours(grouping: Grouping) -> u32 {
    grouping.codes_per_word().div_ceil(4)
}

/// Vectors of four inputs that meet a step.
pub(super) const fn inputs(grouping: Grouping) -> u32 {
    Grouping::STEP_WORDS * fours(grouping)
}

/// Whether inputs can be read in fours: no word ends inside of one.
pub(super) const fn reads_fours(grouping: Grouping) -> bool {
    grouping.codes_per_word().is_multiple_of(4)
}

/// `word`, shifted so that its code `index` comes first.
fn from(grouping: Grouping, index: u32) -> String {
    match index {
        0 => "word".to_owned(),
        _ => format!("word >> {}", grouping.bits * index),
    }
}

/// Functions and macros for codes of this grouping: weights of four codes, products of words and steps with their inputs, the
/// inputs of a step into registers, the weights of a word into a tile.
pub(super) fn functions(grouping: Grouping) -> String {
    let Grouping { bits, .. } = grouping;
    let (fours, per_word) = (fours(grouping), grouping.codes_per_word());
    let codes = [0, 1, 2, 3].map(|index| from(grouping, index)).join(", ");
    let parts = |part: &dyn Fn(u32) -> String, join: &str| (0..fours).map(part).collect::<Vec<_>>().join(join);
    let word_dot = parts(&|i| format!("codes4_q{bits}({}) * s * x[{i}]", from(grouping, 4 * i)), " + ");
    let step_dot = ["x", "y", "z", "w"]
        .iter()
        .zip((0..).step_by(fours as usize))
        .map(|(word, at)| format!("word_dot_q{bits}(words.{word}, s, x + {at})"))
        .collect::<Vec<_>>()
        .join(" + ");
    // The last vector of a word may have only two codes.
    let whole = |i: u32| 4 * i + 4 <= per_word;
    let load = parts(
        &|i| {
            let read = if whole(i) { "INPUT4" } else { "INPUT2" };
            format!("x[{fours} * i + {i}] = TO_REAL4({read}(0, (start) + {per_word} * i + {}));", 4 * i)
        },
        " ",
    );
    let fill = parts(
        &|i| {
            let store = if whole(i) { "STORE_TILE4" } else { "STORE_TILE2" };
            let shifted = from(grouping, 4 * i).replace("word", "(word)");
            format!(
                "{{ const real4 w = codes4_q{bits}({shifted}) * (s); {store}(tile, ROWS, (k) + {}, at, w) }}",
                4 * i
            )
        },
        " ",
    );
    let mut text = format!("\n// ---- codes of {bits} bits in groups of {} ----\n", grouping.group);
    let _ = write!(
        text,
        "FUNCTION real4 codes4_q{bits}(uint word) {{\n    return TO_REAL4(UINT4({codes}) & {mask}u) - (real){zero};\n}}\n\
         FUNCTION real4 word_dot_q{bits}(uint word, real s, const THREAD_PRIVATE real4* x) {{\n    return {word_dot};\n}}\n\
         FUNCTION real4 step_dot_q{bits}(uint4 words, real s, const THREAD_PRIVATE real4* x) {{\n    return {step_dot};\n}}\n\
         #define LOAD_X_Q{bits}(x, start) UNROLL for (uint i = 0; i < 4; i++) {{ {load} }}\n\
         #define FILL_WORD_Q{bits}(tile, k, at, word, s) {{ {fill} }}\n",
        mask = (1u64 << bits) - 1,
        zero = grouping.max_int(),
    );
    text
}
