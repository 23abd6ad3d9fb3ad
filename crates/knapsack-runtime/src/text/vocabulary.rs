//! The tokenizer library with a model of our own where that is enough: [`Bpe`] for plain byte-pair encoding, which nearly every
//! model uses, the library's own for the rest.

use super::bpe::{Bpe, Bytes};
use super::{TextError, tokenizer_limits};
use knapsack_artifact::{TokenTables, token_tables};
use serde::{Deserialize, Deserializer};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tokenizers::models::TrainerWrapper;
use tokenizers::{
    AddedToken, DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Token, TokenizerImpl,
};

/// A tokenizer whose model is a [`Vocabulary`].
pub(super) type Inner =
    TokenizerImpl<Vocabulary, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// What turns words into tokens.
pub(super) enum Vocabulary {
    Pairs(Bpe),
    Library(Box<ModelWrapper>),
}

impl Vocabulary {
    /// What it reads, where that is tables.
    pub(super) fn tables(&self) -> Option<&TokenTables<Bytes>> {
        match self {
            Vocabulary::Pairs(pairs) => Some(pairs.tables()),
            Vocabulary::Library(_) => None,
        }
    }
}

/// Builds a tokenizer from the text of a `tokenizer.json`, and says how many bytes its longest token has.
///
/// # Errors
/// When it is not one.
pub(super) fn read(json: &[u8]) -> Result<(Inner, usize), TextError> {
    match token_tables::compile(json) {
        Ok(made) => {
            let tables = TokenTables::new(Bytes::Made(made));
            of_tables(tables.map_err(|error| TextError::Tokenizer(error.to_string()))?)
        }
        Err(problem) => {
            log::debug!("{problem}");
            let longest = tokenizer_limits::check(json)?;
            let inner = guarded(|| Ok(serde_json::from_slice(json)?)).map_err(TextError::Tokenizer)?;
            Ok((inner, longest))
        }
    }
}

/// What a `tokenizer.json` has beside its model.
#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
}

/// The same of tables.
///
/// # Errors
/// Settings that the library does not read.
pub(super) fn of_tables(tables: TokenTables<Bytes>) -> Result<(Inner, usize), TextError> {
    let longest = tokenizer_limits::check_settings(tables.settings(), tables.tokens(), tables.longest())?;
    let build = || -> tokenizers::Result<Inner> {
        let settings: Settings = serde_json::from_slice(tables.settings())?;
        let mut inner = Inner::new(Vocabulary::Pairs(Bpe::new(tables)));
        inner.with_normalizer(settings.normalizer)?;
        inner.with_pre_tokenizer(settings.pre_tokenizer);
        inner.with_post_processor(settings.post_processor);
        inner.with_decoder(settings.decoder);
        // With everything else in place, as the library does it: their ids are the vocabulary's, or follow it.
        inner.add_tokens(settings.added_tokens)?;
        Ok(inner)
    };
    let inner = guarded(build).map_err(TextError::Tokenizer)?;
    Ok((inner, longest))
}

/// Calls into the tokenizer library; a panic in it (it indexes by numbers from the file) becomes an error.
pub(super) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the tokenizer contradicts itself".to_owned()),
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vocabulary::Library(Box::new(ModelWrapper::deserialize(deserializer)?)))
    }
}

/// Hands a call on.
macro_rules! either {
    ($self:ident, $model:ident => $call:expr) => {
        match $self {
            Vocabulary::Pairs($model) => $call,
            Vocabulary::Library($model) => $call,
        }
    };
}

impl Model for Vocabulary {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, word: &str) -> tokenizers::Result<Vec<Token>> {
        either!(self, model => model.tokenize(word))
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        either!(self, model => model.token_to_id(token))
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        either!(self, model => model.id_to_token(id))
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        either!(self, model => model.get_vocab())
    }

    fn get_vocab_size(&self) -> usize {
        either!(self, model => model.get_vocab_size())
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        either!(self, model => model.save(folder, prefix))
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            Vocabulary::Pairs(model) => model.get_trainer().into(),
            Vocabulary::Library(model) => model.get_trainer(),
        }
    }
}

#[cfg(test)]
mod tests;
