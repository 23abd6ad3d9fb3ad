//! A line, word by word.

use crate::{ParameterId, ValueId};
use std::str::FromStr;

/// Largest number of a value: more than any real model has, and few enough for tables indexed by it.
const MAX_VALUE: u32 = 1 << 20;

/// The words of a line, or the parts of a word.
pub(super) struct Words<'a> {
    words: std::vec::IntoIter<&'a str>,
}

impl<'a> Words<'a> {
    pub(super) fn of(line: &'a str) -> Self {
        Words { words: line.split_whitespace().collect::<Vec<_>>().into_iter() }
    }

    pub(super) fn split(word: &'a str, separator: char) -> Self {
        Words { words: word.split(separator).collect::<Vec<_>>().into_iter() }
    }

    pub(super) fn next(&mut self) -> Result<&'a str, String> {
        self.words.next().ok_or_else(|| "the line ends too early".to_owned())
    }

    pub(super) fn end(&mut self) -> Result<(), String> {
        self.words.next().map_or(Ok(()), |word| Err(format!("`{word}` is too much")))
    }

    /// The next word's parts between colons.
    pub(super) fn parts(&mut self) -> Result<Words<'a>, String> {
        Ok(Words::split(self.next()?, ':'))
    }

    pub(super) fn plain<T: FromStr>(word: &str) -> Result<T, String> {
        word.parse().map_err(|_| format!("`{word}` is not what is expected here"))
    }

    pub(super) fn plain_value(word: &str) -> Result<ValueId, String> {
        let number = word.strip_prefix('%').and_then(|n| n.parse().ok()).filter(|&n| n < MAX_VALUE);
        number.map(ValueId).ok_or_else(|| format!("`{word}` is not a value"))
    }

    pub(super) fn plain_parameter(word: &str) -> Result<ParameterId, String> {
        let number = word.strip_prefix('@').and_then(|n| n.parse().ok());
        number.map(ParameterId).ok_or_else(|| format!("`{word}` is not a parameter"))
    }

    pub(super) fn value(&mut self) -> Result<ValueId, String> {
        Words::plain_value(self.next()?)
    }

    pub(super) fn parameter(&mut self) -> Result<ParameterId, String> {
        Words::plain_parameter(self.next()?)
    }

    pub(super) fn optional_parameter(&mut self) -> Result<Option<ParameterId>, String> {
        match self.next()? {
            "-" => Ok(None),
            word => Words::plain_parameter(word).map(Some),
        }
    }

    pub(super) fn number<T: FromStr>(&mut self) -> Result<T, String> {
        Words::plain(self.next()?)
    }

    /// The text behind `key=`.
    pub(super) fn key(&mut self, key: &str) -> Result<&'a str, String> {
        let word = self.next()?;
        let rest = word.strip_prefix(key).and_then(|rest| rest.strip_prefix('='));
        rest.ok_or_else(|| format!("`{key}=` is expected instead of `{word}`"))
    }

    pub(super) fn keyed<T: FromStr>(&mut self, key: &str) -> Result<T, String> {
        Words::plain(self.key(key)?)
    }

    /// What `read` makes of the text behind `key=`, unless it is `-`.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        match self.key(key)? {
            "-" => Ok(None),
            text => read(text).map(Some),
        }
    }
}
