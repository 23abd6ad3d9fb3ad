//! "Did you mean …": the nearest of a few known names.

/// The known name that `given` is most likely meant to be: equal up to case and punctuation, few edits away, or what it is the
/// beginning of.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Names longer than this are no misspelling of anything, and comparing costs the product of the lengths.
    const LONGEST: usize = 64;
    if given.len() > LONGEST {
        return None;
    }
    let plain = |name: &str| name.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let wanted = plain(given);
    let known = known.into_iter().filter(|name| name.len() <= LONGEST);
    let scored = known.filter_map(|name| Some((likely_edits(&wanted, &plain(name))?, name)));
    scored.min_by_key(|(edits, _)| *edits).map(|(_, name)| name)
}

/// The edits between two names without punctuation, when one is likely to be meant by the other: an edit for every four letters at
/// most (one in a short name), or what is only begun.
fn likely_edits(wanted: &str, candidate: &str) -> Option<usize> {
    let (short, long) = (wanted.chars().count(), candidate.chars().count());
    let difference = short.abs_diff(long);
    if short >= 4 && candidate.starts_with(wanted) {
        return Some(difference);
    }
    let most = (short.max(long) / 4).max(1);
    // Lengths that differ by more take more edits: counting them, which costs the product of the lengths, is not needed.
    if short < 2 || difference > most {
        return None;
    }
    Some(strsim::damerau_levenshtein(wanted, candidate)).filter(|edits| *edits <= most)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    const KEYS: [&str; 4] = ["context_window_size", "sliding_window_size", "model", "model_id"];
    const TOP: [&str; 3] = ["device", "model_list", "model_lib_path_for_prepare_libs"];

    #[test]
    fn finds_what_was_meant() {
        assert_eq!(nearest("contextWindowSize", KEYS), Some("context_window_size"));
        assert_eq!(nearest("context_windw_size", KEYS), Some("context_window_size"));
        assert_eq!(nearest("context_window", KEYS), Some("context_window_size"));
        assert_eq!(nearest("modelid", KEYS), Some("model_id"));
        assert_eq!(nearest("mdoel", KEYS), Some("model"));
        assert_eq!(nearest("model_lib_path", TOP), Some("model_lib_path_for_prepare_libs"));
        assert_eq!(nearest("modle_list", TOP), Some("model_list"));
    }

    #[test]
    fn stays_silent_when_nothing_is_near() {
        assert_eq!(nearest("temperature", KEYS), None);
        for other in ["model_type", "model_url", "name", "group", "bytes", "mode_of_use"] {
            assert_eq!(nearest(other, KEYS), None, "{other}");
        }
        assert_eq!(nearest("olmo", ["phi", "llama"]), None);
        assert_eq!(nearest("", KEYS), None);
        assert_eq!(nearest(&"m".repeat(1000), KEYS), None);
    }
}
