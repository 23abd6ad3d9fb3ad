//! The `knapsack` command line; everything is in the library `knapsack_cli`.

fn main() -> std::process::ExitCode {
    knapsack_cli::main(std::env::args_os())
}
