//! Words for people.

/// Bytes as people read them, in decimal units: `695.2 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// The first ten names, and how many more there are.
pub(crate) fn listed(names: &[impl AsRef<str>]) -> String {
    const MOST: usize = 10;
    let text: Vec<&str> = names.iter().take(MOST).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(MOST) {
        0 => text.join(", "),
        more => format!("{} and {more} more", text.join(", ")),
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent error repeats its cause.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let expected = [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (695_246_848, "695.2 MB"), (999_999, "1.0 MB")];
        for (count, text) in expected {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "18446.7 PB");
    }
}
