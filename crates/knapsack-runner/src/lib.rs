//! What a model of a package does where it runs: how fast it is ([`mod@bench`]) and what it computes ([`logits`]).
//!
//! `knapsack bench` and `knapsack logits` call this on their own machine. For a phone on a cable there is the program of this crate: `knapsack sdk
//! build --target android` makes it, `--adb` brings it to the phone. It takes the words of the two verbs, for models of a package only: it
//! has no compiler, no downloads and no network.

pub mod bench;
pub mod logits;
