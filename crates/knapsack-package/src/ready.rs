//! Stage 5: weights on the disk for every model that is bundled; addresses and hashes for those that the app downloads.

use crate::text::chain;
use crate::{Built, Error, Outcome, Packager, converted};
use knapsack_artifact::Delivery;
use knapsack_artifact::app_config::AppFile;
use knapsack_bundle::WeightSupply;
use knapsack_bundle::cache::CacheEntry;
use knapsack_config::{Diagnostic, ModelForm, codes};
use knapsack_source::ModelFolder;

/// A model that can go into a package.
#[derive(Debug)]
pub struct Ready {
    /// With its library.
    pub built: Built,
    /// Where its weights are, or come from.
    pub weights: WeightSupply,
    /// Keeps a cached conversion from being removed while it is packaged.
    _converted: Option<CacheEntry>,
}

impl Packager<'_> {
    /// Stage 5: fetches weights that are bundled, and converts those of checkpoints.
    ///
    /// # Errors
    /// What is of no entry: the disk, the cache. What is wrong with a model, or keeps it from being had, is a finding.
    pub fn make_ready(&self, models: Vec<Built>) -> Result<Outcome<Vec<Ready>>, Error> {
        let found: Vec<_> = models.iter().map(|built| &built.planned.found).collect();
        let Outcome { product, mut findings } = self.fetch_weights(&found)?;
        let Some(sources) = product else { return Ok(Outcome { product: None, findings }) };
        let mut ready = Vec::with_capacity(models.len());
        for (built, source) in models.into_iter().zip(sources) {
            let (entry, model) = (&built.planned.found.entry, &built.planned.model);
            let mut held = None;
            let supply = |folder| match entry.delivery.value {
                Delivery::Bundled | Delivery::Download => WeightSupply::Bundled { folder },
                delivery => WeightSupply::Packed { folder, delivery },
            };
            let weights = match (entry.ships_weights(), model.kind) {
                (true, ModelForm::Mlc) => Ok(supply(source.path.clone())),
                (true, ModelForm::Checkpoint) => {
                    let (cache, observer) = (&self.cache, self.observer);
                    let template = built.planned.found.template_choice();
                    let format = model.quantization;
                    match converted(cache, built.id(), &source.path, &source.files, format, &template, observer) {
                        Ok(found) => {
                            let folder = found.content().to_owned();
                            held = Some(found);
                            Ok(supply(folder))
                        }
                        Err(error) if error.is_wrong_input() => Err((codes::WEIGHTS_MISMATCH, chain(&error))),
                        Err(error) => return Err(error),
                    }
                }
                (false, _) => download(&source).map_err(|problem| (codes::NO_URL, problem)),
            };
            match weights {
                Ok(weights) => ready.push(Ready { built, weights, _converted: held }),
                Err((code, problem)) => {
                    let message = format!("{}: {problem}", built.id());
                    findings.push(Diagnostic::error(code, entry.source.span, message));
                }
            }
        }
        Ok(Outcome::of(ready, findings))
    }
}

/// What the app downloads at first launch.
///
/// # Errors
/// What keeps it from doing that.
fn download(source: &ModelFolder) -> Result<WeightSupply, String> {
    let url = source.origin.url().ok_or("a local model cannot be downloaded by the app")?;
    let files = source.files.iter().map(|file| {
        let sha256 = file.sha256.clone().ok_or_else(|| format!("the hash of {} is not known", file.path))?;
        Ok(AppFile { path: file.path.clone(), size: file.size, sha256 })
    });
    Ok(WeightSupply::Download { url, files: files.collect::<Result<_, String>>()? })
}
