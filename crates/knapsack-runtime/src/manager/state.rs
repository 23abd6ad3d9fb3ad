//! What the manager knows, and every decision it takes. All of it runs under the lock and touches nothing else, so that it can be
//! tested step by step.

use super::error::{Holder, ManagerError, Use};
use super::{ModelStatus, Pressure};
use crate::sync::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::sync::{Arc, OnceLock};

/// The outcome of one load, for those that wait for it.
#[derive(Clone, Default)]
pub(super) struct Ticket(Arc<OnceLock<Arc<dyn Error + Send + Sync>>>);

impl Ticket {
    pub(super) fn fail(&self, error: Arc<dyn Error + Send + Sync>) {
        let _ = self.0.set(error);
    }

    pub(super) fn failure(&self) -> Option<Arc<dyn Error + Send + Sync>> {
        self.0.get().cloned()
    }
}

pub(super) enum Phase<M> {
    Loading { ticket: Ticket },
    Loaded(Arc<Mutex<M>>),
}

struct Entry<M> {
    bytes: u64,
    phase: Phase<M>,
    handles: usize,
    last_used: u64,
}

/// A model that was taken out to be freed.
pub(super) struct Victim<M> {
    pub(super) model_id: String,
    pub(super) bytes: u64,
    pub(super) model: Arc<Mutex<M>>,
}

pub(super) struct State<M> {
    budget: u64,
    entries: BTreeMap<String, Entry<M>>,
    pinned: BTreeSet<String>,
    /// Bytes of models that are out of `entries` but not freed yet, beyond what a new entry has taken over.
    draining: u64,
    clock: u64,
    /// Calls that wait for room, the longest first.
    waiting: VecDeque<Place>,
    places: u64,
}

/// A place in the line of calls that wait for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u64);

impl<M> State<M> {
    pub(super) const fn new(budget: u64) -> Self {
        Self {
            budget,
            entries: BTreeMap::new(),
            pinned: BTreeSet::new(),
            draining: 0,
            clock: 0,
            waiting: VecDeque::new(),
            places: 0,
        }
    }

    pub(super) const fn budget(&self) -> u64 {
        self.budget
    }

    pub(super) fn used(&self) -> u64 {
        self.entries.values().map(|entry| entry.bytes).sum::<u64>() + self.draining
    }

    pub(super) fn phase(&self, model_id: &str) -> Option<&Phase<M>> {
        Some(&self.entries.get(model_id)?.phase)
    }

    pub(super) fn held(&self, model_id: &str) -> Option<Use> {
        let entry = self.entries.get(model_id)?;
        Some(match entry.phase {
            Phase::Loading { .. } => Use::Loading,
            Phase::Loaded(_) if entry.handles > 0 => Use::InUse(entry.handles),
            Phase::Loaded(_) if self.pinned.contains(model_id) => Use::Pinned,
            Phase::Loaded(_) => Use::Idle,
        })
    }

    pub(super) fn statuses(&self) -> Vec<ModelStatus> {
        let status = |(model_id, entry): (&String, &Entry<M>)| {
            Some(ModelStatus { model_id: model_id.clone(), bytes: entry.bytes, used: self.held(model_id)? })
        };
        self.entries.iter().filter_map(status).collect()
    }

    /// Takes a handle to a loaded model.
    pub(super) fn enter(&mut self, model_id: &str) -> Arc<Mutex<M>> {
        let entry = self.entries.get_mut(model_id).expect("the caller saw it");
        let Phase::Loaded(model) = &entry.phase else { unreachable!("the caller saw it loaded") };
        entry.handles += 1;
        model.clone()
    }

    /// Gives a handle back.
    pub(super) fn leave(&mut self, model_id: &str) {
        self.clock += 1;
        let entry = self.entries.get_mut(model_id).expect("a model in use is never evicted");
        entry.handles -= 1;
        entry.last_used = self.clock;
    }

    /// Idle models, least recently used first.
    fn idle(&self) -> Vec<(String, u64)> {
        let mut idle: Vec<(u64, String, u64)> = self
            .entries
            .iter()
            .filter(|(model_id, _)| self.held(model_id) == Some(Use::Idle))
            .map(|(model_id, entry)| (entry.last_used, model_id.clone(), entry.bytes))
            .collect();
        idle.sort();
        idle.into_iter().map(|(_, model_id, bytes)| (model_id, bytes)).collect()
    }

    /// Takes out the models that must go so that `bytes` fit; `None`, and nothing taken, when even all idle ones would not do.
    pub(super) fn make_room(&mut self, bytes: u64) -> Option<Vec<Victim<M>>> {
        let mut used = self.used();
        let mut go = Vec::new();
        let mut idle = self.idle().into_iter();
        while used.checked_add(bytes)? > self.budget {
            let (model_id, freed) = idle.next()?;
            used -= freed;
            go.push(model_id);
        }
        Some(go.iter().flat_map(|model_id| self.take(model_id)).collect())
    }

    /// Joins the end of the line.
    pub(super) fn join_line(&mut self) -> Place {
        self.places += 1;
        let place = Place(self.places);
        self.waiting.push_back(place);
        place
    }

    /// Leaves the line, if it is in it.
    pub(super) fn leave_line(&mut self, place: Place) {
        self.waiting.retain(|waiting| *waiting != place);
    }

    /// Whether nobody has waited for longer.
    pub(super) fn is_first(&self, place: Option<Place>) -> bool {
        self.waiting.front().is_none_or(|first| Some(*first) == place)
    }

    /// Whether it would fit if nothing were in use, loading or draining.
    pub(super) fn could_ever_fit(&self, bytes: u64) -> bool {
        let pinned = |(id, _): &(&String, &Entry<M>)| self.pinned.contains(*id);
        let held: u64 = self.entries.iter().filter(pinned).map(|(_, entry)| entry.bytes).sum();
        held.checked_add(bytes).is_some_and(|needed| needed <= self.budget)
    }

    pub(super) fn no_room(&self, model_id: &str, needed: u64) -> ManagerError {
        let holders: Vec<Holder> = self
            .statuses()
            .into_iter()
            .filter(|status| status.used != Use::Idle)
            .map(|ModelStatus { model_id, bytes, used }| Holder { model_id, bytes, used })
            .collect();
        let held: u64 = holders.iter().map(|holder| holder.bytes).sum();
        ManagerError::NoRoom {
            model_id: model_id.to_owned(),
            needed,
            available: self.budget.saturating_sub(held + self.draining),
            budget: self.budget,
            holders,
        }
    }

    /// Reserves the bytes of a model that is about to be loaded in the place of `victims`.
    pub(super) fn begin(&mut self, model_id: &str, bytes: u64, victims: &[Victim<M>]) -> Ticket {
        let freed: u64 = victims.iter().map(|victim| victim.bytes).sum();
        self.draining += freed.saturating_sub(bytes);
        let ticket = Ticket::default();
        let phase = Phase::Loading { ticket: ticket.clone() };
        self.entries.insert(model_id.to_owned(), Entry { bytes, phase, handles: 0, last_used: 0 });
        ticket
    }

    /// The load succeeded: the model is there, with one handle.
    pub(super) fn finish(&mut self, model_id: &str, model: M) -> Arc<Mutex<M>> {
        let entry = self.entries.get_mut(model_id).expect("a loading entry stays");
        entry.phase = Phase::Loaded(Arc::new(Mutex::new(model)));
        self.enter(model_id)
    }

    /// The load failed: its reservation goes.
    pub(super) fn abandon(&mut self, model_id: &str) {
        self.entries.remove(model_id);
    }

    /// Takes a loaded model out, if it is there; at most one.
    pub(super) fn take(&mut self, model_id: &str) -> Vec<Victim<M>> {
        match self.entries.remove(model_id) {
            Some(Entry { bytes, phase: Phase::Loaded(model), handles, .. }) => {
                debug_assert_eq!(handles, 0, "{model_id} is in use");
                vec![Victim { model_id: model_id.to_owned(), bytes, model }]
            }
            Some(loading) => {
                self.entries.insert(model_id.to_owned(), loading);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    pub(super) fn under_pressure(&mut self, level: Pressure) -> Vec<Victim<M>> {
        let go: Vec<String> = match level {
            Pressure::Moderate => {
                let mut idle = self.idle();
                let last = self.entries.values().map(|entry| entry.last_used).max();
                // The most recently used model of all stays, when it is idle.
                if idle.last().is_some_and(|(id, _)| Some(self.entries[id].last_used) == last) {
                    idle.pop();
                }
                idle.into_iter().map(|(model_id, _)| model_id).collect()
            }
            Pressure::Critical => {
                let free = |id: &&String| matches!(self.held(id), Some(Use::Idle | Use::Pinned));
                self.entries.keys().filter(free).cloned().collect()
            }
        };
        go.iter().flat_map(|model_id| self.take(model_id)).collect()
    }

    pub(super) fn set_budget(&mut self, budget: u64) -> Vec<Victim<M>> {
        self.budget = budget;
        let mut victims = Vec::new();
        for (model_id, _) in self.idle() {
            if self.used() <= budget {
                break;
            }
            victims.extend(self.take(&model_id));
        }
        victims
    }

    /// Counts victims until they are freed; returns their bytes.
    pub(super) fn drain(&mut self, victims: &[Victim<M>]) -> u64 {
        let bytes = victims.iter().map(|victim| victim.bytes).sum();
        self.draining += bytes;
        bytes
    }

    pub(super) fn drained(&mut self, bytes: u64) {
        self.draining -= bytes;
    }

    pub(super) fn pin(&mut self, model_id: &str, pinned: bool) {
        if pinned {
            self.pinned.insert(model_id.to_owned());
        } else {
            self.pinned.remove(model_id);
        }
    }
}
