//! What kernels do with packed codes, written from the numbers of a [`Grouping`]: one set of functions for each in use.
//!
//! A product with one token leaves codes where they are in their word. A mask takes two of them at once, one from each half of
//! the word; the higher a code lies, the larger it reads, and the input that it meets is as much smaller. What a code of the
//! value zero adds is the same for every code, so the sum of the inputs takes it away once for each step. Inputs are staged for
//! that once: scaled so that no sum of a step leaves half precision, in the order in which the masks take the codes.

use knapsack_tensor::Grouping;
use std::fmt::Write as _;

/// Largest number that sums of a step may reach: half of what half precision holds.
const LARGEST_SUM: u32 = 1 << 15;

/// Vectors of four that a word's codes fill, shifted one by one; the last may be partly empty.
const fn fours(grouping: Grouping) -> u32 {
    grouping.codes_per_word().div_ceil(4)
}

/// Codes of one half of a word.
const fn per_half(grouping: Grouping) -> u32 {
    grouping.codes_per_word() / 2
}

/// Vectors of four staged inputs that meet a step.
pub(super) const fn inputs(grouping: Grouping) -> u32 {
    grouping.step() / 4
}

/// The largest magnitude of staged inputs, a power of two: all codes at their largest give at most [`LARGEST_SUM`].
pub(super) const fn peak(grouping: Grouping) -> u32 {
    let most = ((1 << grouping.bits) - 1) * grouping.step();
    1 << (LARGEST_SUM / most).ilog2()
}

/// Where element `e` of a step is among its staged inputs: behind the other code of its mask.
const fn staged_at(grouping: Grouping, e: u32) -> u32 {
    let (word, code) = (e / grouping.codes_per_word(), e % grouping.codes_per_word());
    2 * (word * per_half(grouping) + code % per_half(grouping)) + code / per_half(grouping)
}

/// `word`, shifted so that its code `index` comes first.
fn from(grouping: Grouping, index: u32) -> String {
    match index {
        0 => "word".to_owned(),
        _ => format!("word >> {}", grouping.bits * index),
    }
}

/// Functions and macros for codes of this grouping: staging the inputs of a step, its product, and the weights of a word into
/// a tile.
pub(super) fn functions(grouping: Grouping) -> String {
    let mut text = format!("\n// ---- codes of {} bits in groups of {} ----\n", grouping.bits, grouping.group);
    text += &stage(grouping);
    text += &step_dot(grouping);
    text += &fill(grouping);
    text
}

/// `stage_q(tile, all, v, factor)`: the inputs `v` of a step, times `factor`, to their places, a vector every `all` vectors.
fn stage(grouping: Grouping) -> String {
    let Grouping { bits, .. } = grouping;
    let mut text = format!(
        "FUNCTION void stage_q{bits}(LOCAL real4* tile, uint all, const THREAD_PRIVATE float4* v, float factor) {{\n"
    );
    for place in 1..per_half(grouping) {
        let smaller = 1u64 << (bits * place);
        let _ = writeln!(text, "    const float factor_{place} = factor * (1.0f / {smaller}.0f);");
    }
    let mut places = vec![String::new(); grouping.step() as usize];
    for e in 0..grouping.step() {
        let factor = match e % grouping.codes_per_word() % per_half(grouping) {
            0 => "factor".to_owned(),
            place => format!("factor_{place}"),
        };
        let element = ["x", "y", "z", "w"][e as usize % 4];
        places[staged_at(grouping, e) as usize] = format!("v[{}].{element} * {factor}", e / 4);
    }
    for (i, four) in places.chunks(4).enumerate() {
        let _ = writeln!(text, "    tile[{i} * all] = TO_REAL4(FLOAT4({}));", four.join(", "));
    }
    text + "}\n"
}

/// `step_dot_q(words, x)`: the sum over a step of codes times inputs.
fn step_dot(grouping: Grouping) -> String {
    let Grouping { bits, .. } = grouping;
    let (half, mask) = (per_half(grouping), (1u64 << bits) - 1);
    // In 30 bits of a word the second half of the codes begins below the middle.
    let halves = |word: &str| match half * bits {
        16 => format!("words.{word}"),
        low => format!(
            "(words.{word} & {}u) | ((words.{word} << {}) & {}u)",
            (1 << low) - 1,
            16 - low,
            ((1u64 << low) - 1) << 16
        ),
    };
    let mut text = format!("FUNCTION float step_dot_q{bits}(uint4 words, const THREAD_PRIVATE real4* inputs) {{\n");
    for word in ["x", "y", "z", "w"] {
        let _ = writeln!(text, "    const uint {word} = {};", halves(word));
    }
    let pair = |index: u32| {
        let (word, place) = (["x", "y", "z", "w"][(index / half) as usize], index % half);
        format!("{word} & {}u", (mask | mask << 16) << (bits * place))
    };
    for four in 0..inputs(grouping) {
        let codes = format!("TO_REAL4(AS_USHORT4(UINT2({}, {})))", pair(2 * four), pair(2 * four + 1));
        let begin = if four == 0 { "real4 sum =" } else { "sum +=" };
        let _ = writeln!(text, "    {begin} {codes} * inputs[{four}];");
    }
    text + "    return (float)(HSUM_4(sum));\n}\n"
}

/// `FILL_WORD_Q(tile, k, at, word, s)`: the weights of a word, for the products of many tokens.
fn fill(grouping: Grouping) -> String {
    let Grouping { bits, .. } = grouping;
    let per_word = grouping.codes_per_word();
    let codes = [0, 1, 2, 3].map(|index| from(grouping, index)).join(", ");
    let fill: Vec<String> = (0..fours(grouping))
        .map(|i| {
            // The last vector of a word may have only two codes.
            let store = if 4 * i + 4 <= per_word { "STORE_TILE4" } else { "STORE_TILE2" };
            let shifted = from(grouping, 4 * i).replace("word", "(word)");
            format!(
                "{{ const real4 w = codes4_q{bits}({shifted}) * (s); {store}(tile, ROWS, (k) + {}, at, w) }}",
                4 * i
            )
        })
        .collect();
    format!(
        "FUNCTION real4 codes4_q{bits}(uint word) {{\n    return TO_REAL4(UINT4({codes}) & {mask}u) - (real){zero};\n}}\n\
         #define FILL_WORD_Q{bits}(tile, k, at, word, s) {{ {} }}\n",
        fill.join(" "),
        mask = (1u64 << bits) - 1,
        zero = grouping.max_int(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use knapsack_tensor::GROUPINGS;

    #[test]
    fn every_element_of_a_step_has_its_place() {
        for &grouping in GROUPINGS {
            let mut places: Vec<u32> = (0..grouping.step()).map(|e| staged_at(grouping, e)).collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(0..grouping.step()), "{grouping:?}");
            // No sum overflows half precision, and the smallest factor leaves the larger inputs normal numbers.
            let largest = ((1 << grouping.bits) - 1) * grouping.step() * peak(grouping);
            assert!(largest < 65504, "{grouping:?}: {largest}");
            let smallest = f64::from(peak(grouping)) / 2f64.powi((grouping.bits * (per_half(grouping) - 1)) as i32);
            assert!(smallest / 64.0 > 6.1e-5, "{grouping:?}: {smallest}");
        }
    }
}
