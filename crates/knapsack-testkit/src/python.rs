use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

/// A Python that can import `module`: the one that `KNAPSACK_TEST_PYTHON` names, else `python3`. `None`, said aloud, where there is
/// none.
///
/// # Panics
/// When there is none and `KNAPSACK_REQUIRE_PYTHON=1`, as in CI.
pub fn python(module: &str) -> Option<PathBuf> {
    python_that_has(module, "KNAPSACK_REQUIRE_PYTHON")
}

/// The same for modules that another variable requires.
///
/// # Panics
/// When there is none and that variable is 1.
pub fn python_that_has(module: &str, required_by: &str) -> Option<PathBuf> {
    let python = std::env::var_os("KNAPSACK_TEST_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let outcome = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    let problem = match outcome {
        Ok(output) if output.status.success() => return Some(python),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or_default().to_owned(),
        Err(error) => error.to_string(),
    };
    let problem = format!("{} cannot import {module}: {problem}", python.display());
    let required = std::env::var_os(required_by).is_some_and(|value| value == "1");
    assert!(!required, "{required_by}=1, but {problem}");
    // Not by `eprintln!`, which the test harness holds back.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {problem}; set KNAPSACK_TEST_PYTHON to one that can");
    None
}
