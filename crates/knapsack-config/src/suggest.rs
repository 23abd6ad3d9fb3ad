//! "Did you mean …": the nearest of a few known names.

/// The known name that `given` is most likely meant to be: equal up to case and punctuation, or few edits away.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Names longer than this are no misspelling of anything, and comparing costs the product of the lengths.
    const LONGEST: usize = 64;
    if given.len() > LONGEST {
        return None;
    }
    let plain = |name: &str| name.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let wanted = plain(given);
    let scored = known.into_iter().filter_map(|name| {
        let candidate = plain(name);
        let edits = strsim::damerau_levenshtein(&wanted, &candidate);
        let related = wanted.len() >= 4 && (candidate.starts_with(&wanted) || wanted.starts_with(&candidate));
        let allowed = (candidate.chars().count().max(wanted.chars().count()) / 3).max(1);
        (edits <= allowed || related).then_some((edits, name))
    });
    scored.min_by_key(|(edits, _)| *edits).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    const KEYS: [&str; 4] = ["context_window_size", "sliding_window_size", "model", "model_id"];

    #[test]
    fn finds_what_was_meant() {
        assert_eq!(nearest("contextWindowSize", KEYS), Some("context_window_size"));
        assert_eq!(nearest("context_windw_size", KEYS), Some("context_window_size"));
        assert_eq!(nearest("context_window", KEYS), Some("context_window_size"));
        assert_eq!(nearest("modelid", KEYS), Some("model_id"));
        assert_eq!(nearest("mdoel", KEYS), Some("model"));
    }

    #[test]
    fn stays_silent_when_nothing_is_near() {
        assert_eq!(nearest("temperature", KEYS), None);
        assert_eq!(nearest("", KEYS), None);
        assert_eq!(nearest(&"m".repeat(1000), KEYS), None);
    }
}
