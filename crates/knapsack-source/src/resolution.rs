//! What models are asked for, what each turned out to be, and the lockfile that says so.

use std::collections::BTreeSet;

use knapsack_config::lockfile::{LockedModel, Lockfile, ModelCard};

use crate::change::LockChange;
use crate::error::{Error, Result};
use crate::local::LocalModel;
use crate::location::Location;

/// A model of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRequest {
    /// The manifest's `model_id`.
    pub model_id: String,
    /// Where it is.
    pub location: Location,
    /// Whether its weights are needed here: `bundle_weight`, and always for a checkpoint.
    pub weights: bool,
}

/// Which models are asked for anew although the lockfile has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Update {
    /// None: the lockfile decides.
    #[default]
    Nothing,
    /// All.
    Everything,
    /// These `model_id`s.
    Models(BTreeSet<String>),
}

/// How the lockfile is treated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockPolicy {
    /// Fail instead of changing it.
    pub locked: bool,
    /// What to ask for anew.
    pub update: Update,
}

/// What every model of a manifest is, to the byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The models, in the order of the requests.
    pub models: Vec<ResolvedModel>,
    /// The lockfile that says the same.
    pub lock: Lockfile,
    /// How it differs from the one before; empty when it does not.
    pub changes: Vec<LockChange>,
}

/// One resolved model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModel {
    /// What was asked for.
    pub request: ModelRequest,
    /// What was found.
    pub pinned: Pinned,
}

/// What stands behind a location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pinned {
    /// A folder of this machine.
    Local(LocalModel),
    /// A repository at one commit.
    Hub(LockedModel),
}

impl ResolvedModel {
    /// What the model's card says.
    pub fn card(&self) -> &ModelCard {
        match &self.pinned {
            Pinned::Local(local) => &local.card,
            Pinned::Hub(locked) => &locked.card,
        }
    }
}

impl Update {
    pub(crate) fn covers(&self, model_id: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Models(models) => models.contains(model_id),
        }
    }
}

impl LockPolicy {
    /// Whether `old` may serve `requests`, as far as that can be told without asking the hub.
    pub(crate) fn check(&self, requests: &[ModelRequest], old: &Lockfile) -> Result<()> {
        let changes = if self.locked { stale(requests, old, self) } else { Vec::new() };
        refuse(changes)
    }
}

impl Resolution {
    /// Puts resolved models together, and tells how that differs from the lockfile before.
    ///
    /// # Errors
    /// A difference, when the policy allows none.
    pub fn new(models: Vec<ResolvedModel>, old: Option<&Lockfile>, policy: &LockPolicy) -> Result<Self> {
        let locked = models.iter().filter_map(|model| match &model.pinned {
            Pinned::Local(_) => None,
            Pinned::Hub(locked) => Some(locked.clone()),
        });
        let mut lock = Lockfile { models: locked.collect() };
        lock.models.sort_by(|a, b| a.model_id.cmp(&b.model_id));
        let changes = differences(old.unwrap_or(&Lockfile::default()), &lock);
        if policy.locked {
            refuse(changes.clone())?;
        }
        Ok(Self { models, lock, changes })
    }
}

fn refuse(changes: Vec<LockChange>) -> Result<()> {
    if changes.is_empty() { Ok(()) } else { Err(Error::LockOutOfDate { changes }) }
}

/// Why a lockfile would change, as far as that can be told without asking the hub.
fn stale(requests: &[ModelRequest], old: &Lockfile, policy: &LockPolicy) -> Vec<LockChange> {
    let mut changes = Vec::new();
    let mut named = BTreeSet::new();
    for request in requests {
        let Location::Hub(location) = &request.location else { continue };
        named.insert(request.model_id.as_str());
        let (model_id, now) = (request.model_id.clone(), location.to_string());
        match old.model(&request.model_id) {
            None => changes.push(LockChange::Added { model_id, model: now }),
            Some(locked) if locked.model != now => {
                changes.push(LockChange::Source { model_id, from: locked.model.clone(), to: now });
            }
            Some(locked) if policy.update.covers(&model_id) => {
                let from = locked.commit.clone();
                changes.push(LockChange::Moved { model_id, from, to: "its newest commit".to_owned() });
            }
            Some(_) => {}
        }
    }
    let gone = old.models.iter().filter(|locked| !named.contains(locked.model_id.as_str()));
    changes.extend(gone.map(|locked| LockChange::Removed { model_id: locked.model_id.clone() }));
    changes
}

fn differences(old: &Lockfile, new: &Lockfile) -> Vec<LockChange> {
    let mut changes = Vec::new();
    for current in &new.models {
        let model_id = current.model_id.clone();
        match old.model(&current.model_id) {
            None => changes.push(LockChange::Added { model_id, model: current.model.clone() }),
            Some(before) if before.model != current.model => {
                changes.push(LockChange::Source { model_id, from: before.model.clone(), to: current.model.clone() });
            }
            // What a card says is no other model.
            Some(before) if (&before.commit, &before.files) != (&current.commit, &current.files) => {
                changes.push(LockChange::Moved { model_id, from: before.commit.clone(), to: current.commit.clone() });
            }
            Some(_) => {}
        }
    }
    let gone = old.models.iter().filter(|before| new.model(&before.model_id).is_none());
    changes.extend(gone.map(|before| LockChange::Removed { model_id: before.model_id.clone() }));
    changes
}
