//! Kernels that find the most likely tokens among the logits of `head`.

use super::module::{Specialization, Template, fixed};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::MOST_TOP;

/// What is asked for: the most likely token, and as many as most samplers draw from.
pub(super) const COUNTS: [u32; 2] = [1, MOST_TOP];
/// Threads of a work group.
const THREADS: u32 = 128;
/// Least logits of a work group: four for each thread.
const LEAST: u32 = 4 * THREADS;

/// The kernels that find `count` tokens: of each part of the logits, and of what was found in the parts.
pub(super) fn top(library: &ModelLibrary, count: u32) -> Specialization {
    let vocabulary = library.model.vocab_size;
    let parts = vocabulary.div_ceil(LEAST).clamp(1, MOST_TOP);
    let mut first = kernel(format!("the {count} most likely of {vocabulary} tokens, in {parts} parts"), count, parts);
    first.define("ELEMENTS", format!("{vocabulary}u"));
    first.define("PART", format!("{}u", vocabulary.div_ceil(parts)));
    first.define("FOUND_AT", "(COUNT + GROUP_X * COUNT)");
    first.define("PLACE(i)", "(i)");
    first.define("KEY(i)", "key_of(logits[i])");
    let mut second = kernel(format!("the {count} most likely tokens of {parts} parts"), count, 1);
    second.define("ELEMENTS", format!("{}u", parts * count));
    second.define("PART", "ELEMENTS");
    second.define("FOUND_AT", "0u");
    second.define("PLACE(i)", "found[2 * (COUNT + (i))]");
    second.define("KEY(i)", "(PLACE(i) == NO_TOKEN ? 0u : key_of(found[2 * (COUNT + (i)) + 1]))");
    first.then = Some(Box::new(second));
    first
}

fn kernel(summary: String, count: u32, groups: u32) -> Specialization {
    let mut kernel = Specialization::new(Template::Top, summary, THREADS, [fixed(groups), fixed(1), fixed(1)]);
    kernel.define("COUNT", format!("{count}u"));
    kernel.input("logits", "uint");
    kernel.output("found", "uint");
    kernel
}
