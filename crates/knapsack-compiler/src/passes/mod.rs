//! The passes, in order. Each takes a valid graph and leaves a valid one that computes the same.
//!
//! Families are written in fine-grained operations; after all passes only those are left that one launch can execute. What
//! each does is shown by a file test in `tests/files/`.

mod attention;
mod conv;
mod editor;
mod linear;
mod norm;

use editor::Editor;
use knapsack_ir::{Graph, Op};

/// One rewriting of the graph.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Its name, also of its file test.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub about: &'static str,
    run: fn(&mut Editor<'_>),
}

/// Every pass, in the order in which they run.
pub const PASSES: [Pass; 13] = [
    Pass { name: "remove-dead", about: "Drops what the logits do not depend on.", run: sweep },
    Pass { name: "fuse-embed", about: "dequantize + embed + scale.", run: linear::embed },
    Pass { name: "fuse-dequantize", about: "dequantize + matmul + bias.", run: linear::dequantize },
    Pass {
        name: "fuse-activation",
        about: "Gate·up activation, or a plain one, into its product.",
        run: linear::activation,
    },
    Pass { name: "fuse-soft-cap", about: "Logit soft-capping into the final product.", run: linear::soft_cap },
    Pass { name: "fuse-scale", about: "Scaled logits into the final product.", run: linear::scale },
    Pass {
        name: "fuse-residual",
        about: "Residual additions into the product that gives a summand.",
        run: linear::residual,
    },
    Pass {
        name: "fuse-add-norm",
        about: "The other residual additions with the norms around them.",
        run: norm::add_norm,
    },
    Pass { name: "fuse-conv", about: "A convolution with its gates and activation.", run: conv::gates },
    Pass { name: "fuse-gate", about: "Gates of attention's result into attention.", run: attention::gate },
    Pass {
        name: "fuse-rope-append",
        about: "q, k, v split + head norms + rotation + append.",
        run: attention::rope_append,
    },
    Pass { name: "fuse-rope-query", about: "The other queries' head norms + rotation.", run: attention::rope_query },
    Pass { name: "fuse-select-norm", about: "Row selection + the final norm.", run: norm::selected },
];

fn sweep(editor: &mut Editor<'_>) {
    editor.sweep();
}

impl Pass {
    /// Rewrites `graph`, which must be valid.
    pub fn run(&self, graph: &mut Graph) {
        let mut editor = Editor::new(graph);
        (self.run)(&mut editor);
        editor.finish();
    }
}

/// Runs every pass.
pub fn run_all(graph: &mut Graph) {
    for pass in &PASSES {
        pass.run(graph);
    }
}

/// Replaces each node for which `fuse` finds a better operation.
fn each(editor: &mut Editor<'_>, fuse: impl Fn(&Editor<'_>, &Op) -> Option<Op>) {
    for index in 0..editor.len() {
        if let Some(op) = editor.op(index).and_then(|op| fuse(editor, op)) {
            editor.replace(index, op, &[]);
        }
    }
}
