//! Shared test data and servers. Development only: no shipped crate depends on it.
//!
//! In: nothing (the data lies in this crate's `fixtures/` and `catalogue/`, each with a README that says where it comes from).
//! Out: [`python()`], where other people's clients are tried against ours; [`real_tokenizers`]; paths to tiny models in both formats, reference logits as plain vectors, full-size configurations without weights, and
//! [`hub::HubServer`], a Hugging Face hub on loopback that can misbehave.
//! Neighbours: every crate's tests.

mod fixtures;
pub mod hub;
mod python;
mod tokenizers;

pub use fixtures::{
    CATALOGUE, FixtureModel, GENERATED, GeneratedModel, ReferenceSequence, catalogue, fixture, fixtures, mlc_fixture,
    reference_logits, tiny_assistant,
};
pub use python::{python, python_that_has};
pub use tokenizers::real_tokenizers;
