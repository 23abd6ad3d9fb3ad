//! The runtime as an app links it: one blocking core, and two thin faces over it: a C ABI for Swift (`include/knapsack.h`)
//! and JNI for Kotlin (feature `jni`).
//!
//! Neighbours: `knapsack-runtime` below does the work; the Swift package and the Kotlin library above give it the form that
//! each language expects. Every failure, a panic included, is an error with a stable number.

#![allow(unsafe_code, reason = "pointers cross here; every block states why it holds")]

pub mod c;
pub mod core;
#[cfg(feature = "jni")]
mod java;
