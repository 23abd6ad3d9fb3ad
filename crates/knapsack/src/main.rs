//! The `knapsack` command line.
fn main() {}
