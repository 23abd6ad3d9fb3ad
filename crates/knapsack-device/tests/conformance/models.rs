//! Whole models: every family and quantization, a prompt in chunks and then an answer token by token, against the reference's
//! logits.

use super::Instance;
use super::support::{Calls, every_model};
use knapsack_artifact::library::Target;

pub(crate) fn suite(instance: &Instance<'_>) {
    let mut worst = (0.0, String::new());
    every_model(|model| {
        if !instance.models.is_empty() && !instance.models.iter().any(|start| model.name.starts_with(start)) {
            return;
        }
        let library = (instance.prepare)(&model.library(Target::Host, |_| {}));
        let error = model.error_on(instance.device, &library, Calls::PromptAndAnswer);
        let grouped = !model.name.contains(" q0");
        let bound = if grouped { instance.bounds.model } else { instance.bounds.dense_model };
        assert!(error <= bound, "{}: {}: {error:.4} of the root mean square", instance.name, model.name);
        if error > worst.0 {
            worst = (error, model.name.clone());
        }
    });
    eprintln!("{}: worst error of a whole model {:.4} % ({})", instance.name, 100.0 * worst.0, worst.1);
}
